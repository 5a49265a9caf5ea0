"""The caller's side of the peer protocol: the `PeerNetwork` of a daemon over gRPC."""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import grpc

from hivenode.config import split_address
from hivenode.consensus import Message
from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import NodeId, SignedNodeRecord, open_record
from hivenode.encoding.records import decode_record, encode_record
from hivenode.errors import Code, HiveError
from hivenode.identity import verify_signature
from hivenode.pb import hive_pb2
from hivenode.pool.records import BlobRef, NodeRights
from hivenode.runtime.digests import DigestReport, Verdict
from hivenode.runtime.ports import (
    NO_CLAIM,
    AttemptKey,
    ClusterAnswer,
    ClusterOrder,
    Introduction,
    JoinClaim,
    JoinOffer,
    MembersTold,
    PeerAddress,
    PendingNode,
    WorkerEvent,
    WorkerLink,
    WorkerOrder,
)
from hivenode.runtime.stores import SnapshotRef
from hivenode.transport.bounds import STREAM_ID_BYTES
from hivenode.transport.channels import CHUNK_BYTES
from hivenode.transport.codec import decode_worker_order, encode_worker_event
from hivenode.transport.message_stream import MessageStream
from hivenode.transport.metadata import HOPS
from hivenode.transport.parsing import parse_answer
from hivenode.transport.peer_link import (
    ADDRESSES_MAX,
    GOODBYE,
    SERVICE,
    Connection,
    PeerLink,
    Self,
    closed_under_it,
    meet,
)
from hivenode.transport.statuses import error_of
from hivenode.transport.tls import Certificates
from hivenode.transport.uploads import Upload

PEERS_MAX: Final = 4_096
"""Links kept; beyond it the one made first is given up. Hives have hundreds of nodes."""
CONNECT_TIMEOUT_S: Final = 3.0
BLOB_STALL_S: Final = 60.0
"""A piece of a blob that takes longer than this will not come."""
HELLO_TIMEOUT_S: Final = 20.0
"""The leader waits for its read barrier, and an election may come between."""
REPORT_TIMEOUT_S: Final = 30.0
"""The leader takes one more while too many are being agreed on as soon as one of them is, perhaps after an election. Who was not
answered by then says hello again, and repeats what is not closed."""
REPORT_PAUSE_S: Final = 0.2
"""Before a report is brought again to a leader that has more to read than it can."""
MEMBERS_MAX: Final = 4_096


def _lost(node: str) -> HiveError:
    return HiveError(Code.NODE_OFFLINE, f"the connection to {node} was closed")


@asynccontextmanager
async def _failures_named(link: PeerLink, connection: Connection) -> AsyncIterator[None]:
    """Turns what a call on a connection ends with into `HiveError`, and drops a connection that broke."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        link.note_failure(connection, error)
        raise error_of(error, str(link.node_id)) from error
    except asyncio.CancelledError:
        if closed_under_it():
            raise _lost(link.node_id) from None
        raise
    except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
        raise _lost(link.node_id) from error


class GrpcWorkerLink:
    """The worker's side of its stream to the leader: its first event opens it, and each further one is a call."""

    def __init__(self, link: PeerLink, connection: Connection) -> None:
        self._link = link
        self._connection = connection
        self._id = secrets.token_bytes(STREAM_ID_BYTES)
        self._stream: Any = None
        self._opened = asyncio.Event()

    @property
    def opened(self) -> bool:
        return self._opened.is_set()

    def _frame(self, event: bytes) -> bytes:
        data: bytes = hive_pb2.WorkerFrame(event=event, stream=self._id).SerializeToString()
        return data

    async def send(self, event: WorkerEvent) -> None:
        """Sends one event. Raises NODE_OFFLINE when the stream is broken, and what the leader refused it with."""
        frame = self._frame(encode_worker_event(event))
        if not self._opened.is_set():
            await self._proven(lambda: self._open(frame))
            self._opened.set()
            return
        while True:
            try:
                await self._report(frame)
                return
            except HiveError as error:
                if error.code is not Code.OVERLOADED:
                    raise
            if self._stream.done():
                raise _lost(self._link.node_id)
            await asyncio.sleep(REPORT_PAUSE_S)

    async def _proven(self, call: Callable[[], Awaitable[None]]) -> None:
        """Makes a call on the stream's connection; once more with a fresh ticket when the leader no longer knows the kept one,
        which was refused before anything was done. Tickets end every hour, and a session lives on."""
        for attempt in (1, 2):
            try:
                async with _failures_named(self._link, self._connection):
                    await call()
                return
            except HiveError as error:
                if error.code is not Code.PEER_REJECTED or attempt == 2:
                    raise
            if await self._link.connect(CONNECT_TIMEOUT_S) is not self._connection:
                raise _lost(self._link.node_id)

    async def _open(self, hello: bytes) -> None:
        self._stream = self._connection.unary_stream(SERVICE + "Work")(hello, metadata=self._connection.metadata)
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                first = await self._stream.read()
        except TimeoutError:
            raise HiveError(Code.NODE_OFFLINE, f"{self._link.node_id} did not take the hello in time") from None
        if first is grpc.aio.EOF:
            raise _lost(self._link.node_id)

    async def _report(self, frame: bytes) -> None:
        async def report() -> None:
            invoke = self._connection.unary(SERVICE + "Report")
            await invoke(frame, metadata=self._connection.metadata, timeout=REPORT_TIMEOUT_S)

        await self._proven(report)

    async def orders(self) -> AsyncIterator[WorkerOrder]:
        """The leader's orders, after its word on the hello; ends when the leader ended the stream.

        Raises:
            HiveError: NODE_OFFLINE when it broke.
        """
        await self._opened.wait()
        while True:
            async with _failures_named(self._link, self._connection):
                data = await self._stream.read()
                if data is grpc.aio.EOF:
                    if await self._stream.code() is not grpc.StatusCode.OK:
                        raise _lost(self._link.node_id)
                    return
            try:
                yield decode_worker_order(parse_answer(hive_pb2.OrderFrame, data, self._link.node_id).order)
            except DecodeError as error:
                raise HiveError(Code.PEER_REJECTED, f"the leader's order is wrong: {error}") from error

    async def aclose(self) -> None:
        """Says goodbye, so that the leader does not take the end for a crash."""
        if self._stream is None:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if self._opened.is_set() and not self._stream.done():
                    await self._report(self._frame(GOODBYE))
                    await self._stream.code()
        except (TimeoutError, HiveError):
            pass  # it ended by itself meanwhile, or the leader does not answer: either way it is over
        finally:
            self._stream.cancel()


class GrpcPeers:
    """All peers of this node.

    `on_peer_connected` and `on_peer_lost` are told of message streams that this node dialled, `on_peer_unreached` of every
    connection that broke and every dial that nobody answered; the daemon sets them.

    Args:
        me: what this node says of itself.
    """

    def __init__(self, me: Self) -> None:
        self._me = me
        self._certificates = Certificates()
        self._links: dict[NodeId, PeerLink] = {}
        self._streams: dict[NodeId, MessageStream] = {}
        self.on_peer_connected: Callable[[NodeId], None] = lambda node: None
        self.on_peer_lost: Callable[[NodeId, bool], None] = lambda node, reset: None
        self.on_peer_unreached: Callable[[NodeId], None] = lambda node: None
        self._closing: set[asyncio.Task[None]] = set()

    # --- links ---------------------------------------------------------------------------------------------------

    def link_to(self, peer: PeerAddress) -> PeerLink:
        """The link to a peer, which learns the addresses given here when it has none."""
        link = self._link(peer.node_id)
        if not link.addresses:
            link.learn(peer.addresses)
        return link

    def _link(self, node: NodeId) -> PeerLink:
        link = self._links.get(node)
        if link is None:
            if len(self._links) >= PEERS_MAX:
                self._give_up(next(iter(self._links)))
            link = self._links[node] = PeerLink(
                node, self._me, self._certificates, lambda lost: self.on_peer_unreached(lost)
            )
        return link

    def _give_up(self, node: NodeId) -> None:
        link = self._links.pop(node)
        link.give_up()
        stream = self._streams.pop(node, None)

        async def close() -> None:
            if stream is not None:
                await stream.aclose()
            await link.aclose()

        task = asyncio.ensure_future(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def cut_off(self, node: NodeId) -> None:
        """Ends all that goes on with a node that is not trusted any more."""
        if node in self._links:
            self._give_up(node)

    def learn(self, peer: PeerAddress) -> None:
        if self._link(peer.node_id).learn(peer.addresses):
            stream = self._streams.get(peer.node_id)
            if stream is not None:
                stream.nudge()

    # --- consensus -----------------------------------------------------------------------------------------------

    def send(self, node: NodeId, message: Message) -> None:
        stream = self._streams.get(node)
        if stream is None:
            link = self._link(node)
            stream = self._streams[node] = MessageStream(
                link,
                on_connected=lambda: self.on_peer_connected(node),
                on_lost=lambda reset: self.on_peer_lost(node, reset),
            )
        stream.send(message)

    async def probe(self, node: NodeId, deadline_s: float) -> bool:
        link = self._links.get(node)
        if link is None or not link.addresses:
            raise HiveError(Code.NODE_OFFLINE, f"no address of {node} is known")
        dials = [asyncio.ensure_future(_dial(address)) for address in link.addresses]
        try:
            async with asyncio.timeout(deadline_s):
                answers = [await dial for dial in asyncio.as_completed(dials)]
        except TimeoutError:
            if any(dial.done() and not dial.cancelled() and dial.result() is True for dial in dials):
                return True
            raise HiveError(Code.NODE_OFFLINE, f"{node} did not answer in time") from None
        finally:
            for dial in dials:
                dial.cancel()
        if True in answers:
            return True
        if None in answers:
            raise HiveError(Code.NODE_OFFLINE, f"{node} cannot be reached")
        return False

    # --- meeting -------------------------------------------------------------------------------------------------

    async def introduce(self, address: str, deadline_s: float) -> Introduction:
        met = await meet(self._me, self._certificates, address, deadline_s)
        await met.channel.close()
        return met.introduction

    async def invite(self, peer: PeerAddress, hive_id: str, deadline_s: float) -> SignedNodeRecord:
        request = hive_pb2.InviteRequest(hive_id=hive_id)
        data = await self._call(peer, "Invite", request, deadline_s)
        try:
            return decode_record(SignedNodeRecord, parse_answer(hive_pb2.InviteResponse, data, peer.node_id).record)
        except DecodeError as error:
            raise HiveError(Code.PEER_REJECTED, f"the record of {peer.node_id} is wrong: {error}") from error

    async def join(
        self,
        peer: PeerAddress,
        hive_id: str,
        record: SignedNodeRecord,
        deadline_s: float,
        claim: JoinClaim = NO_CLAIM,
        hops: int = 0,
    ) -> JoinOffer:
        """Asks a hive to take in the node that signed `record`: this one, or with `hops` one that asked this one."""
        request = hive_pb2.JoinRequest(
            record=encode_record(record),
            from_lan=claim.from_lan,
            token_key=claim.token_key,
            token_signature=claim.token_signature,
        )
        carried = ((HOPS, str(hops)),) if hops else ()
        data = await self._call(peer, "Join", request, deadline_s, carried)
        answer = parse_answer(hive_pb2.JoinResponse, data, peer.node_id)
        if hive_id and answer.hive_id != hive_id:
            raise HiveError(Code.WRONG_HIVE, f"{peer.node_id} is in another hive by now: look again")
        try:
            members = tuple(decode_record(SignedNodeRecord, item) for item in answer.members[:MEMBERS_MAX])
        except DecodeError as error:
            raise HiveError(Code.PEER_REJECTED, f"the members told by {peer.node_id} are wrong: {error}") from error
        leader = PeerAddress(
            node_id=NodeId(answer.leader_node_id), addresses=tuple(answer.leader_addresses[:ADDRESSES_MAX])
        )
        return JoinOffer(
            hive_id=answer.hive_id,
            members=members,
            leader=leader,
            voter_rights=answer.voter_rights,
            nodes=tuple(NodeId(node) for node in answer.node_ids[:MEMBERS_MAX]),
            voters=tuple(NodeId(node) for node in answer.voter_ids[:MEMBERS_MAX]),
            later_sequence=answer.later_sequence,
            index=answer.applied_index,
        )

    async def _call(
        self,
        peer: PeerAddress,
        method: str,
        request: Any,
        deadline_s: float,
        carried: tuple[tuple[str, str], ...] = (),
    ) -> bytes:
        """One unary call; tried once more on a fresh connection when the ticket of the kept one is no longer known.

        Who has no time left for that hears the refusal, which says more than that the time is over.
        """
        link = self.link_to(peer)
        loop = asyncio.get_running_loop()
        ends = loop.time() + deadline_s
        connection = await link.connect(deadline_s)
        try:
            return await _called(link, connection, method, request, ends, carried)
        except HiveError as error:
            if error.code is not Code.PEER_REJECTED:
                raise
            try:
                connection = await link.connect(max(ends - loop.time(), 0))
            except HiveError as failure:
                if failure.code is not Code.NODE_OFFLINE or loop.time() < ends:
                    raise
                raise error from None
        return await _called(link, connection, method, request, ends, carried)

    # --- work ----------------------------------------------------------------------------------------------------

    async def open_worker_link(self, leader: PeerAddress) -> WorkerLink:
        link = self.link_to(leader)
        return GrpcWorkerLink(link, await link.connect(CONNECT_TIMEOUT_S))

    async def fetch_blob(self, peer: PeerAddress, blob: BlobRef) -> AsyncIterator[bytes]:
        request = hive_pb2.FetchBlobRequest(sha256=blob.sha256, size_bytes=blob.size_bytes)
        async for data in self._stream(peer, "FetchBlob", request, BLOB_STALL_S):
            yield parse_answer(hive_pb2.BlobPiece, data, peer.node_id).data

    async def fetch_snapshot(self, peer: PeerAddress, ref: SnapshotRef, offset: int) -> AsyncIterator[bytes]:
        request = hive_pb2.FetchSnapshotRequest(sha256=ref.sha256, offset=offset)
        async for data in self._stream(peer, "FetchSnapshot", request, BLOB_STALL_S):
            piece = parse_answer(hive_pb2.SnapshotPiece, data, peer.node_id)
            if zlib.crc32(piece.data) != piece.crc32:
                raise HiveError(
                    Code.BLOB_CORRUPT, f"a piece of the snapshot from {peer.node_id} was damaged on the way"
                )
            yield piece.data

    async def manage_hive(self, leader: PeerAddress, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        request = hive_pb2.ManageHiveRequest(
            action=order.action.value, node_id=order.node, rights=order.rights.value, lifetime_ms=order.lifetime_ms
        )
        data = await self._call(leader, "ManageHive", request, deadline_s)
        answer = parse_answer(hive_pb2.ManageHiveResponse, data, leader.node_id)
        pending = tuple(_pending_node(node, leader.node_id) for node in answer.pending[:MEMBERS_MAX])
        return ClusterAnswer(node=answer.node_id, expires_ms=answer.expires_ms, pending=pending)

    async def members(self, peer: PeerAddress, deadline_s: float) -> MembersTold:
        data = await self._call(peer, "ListMembers", hive_pb2.ListMembersRequest(), deadline_s)
        answer = parse_answer(hive_pb2.ListMembersResponse, data, peer.node_id)
        # A record may have expired since it was agreed: it names its node all the same.
        try:
            signed = [decode_record(SignedNodeRecord, item) for item in answer.records[:MEMBERS_MAX]]
            members = tuple(open_record(record, verify_signature) for record in signed)
        except DecodeError as error:
            raise HiveError(Code.PEER_REJECTED, f"the members told by {peer.node_id} are wrong: {error}") from error
        return MembersTold(members=members, index=answer.applied_index)

    async def compare_digest(self, leader: PeerAddress, report: DigestReport, deadline_s: float) -> Verdict:
        request = hive_pb2.CompareDigestRequest(
            version=report.version, member_id=report.member_id, index=report.index, digest=report.digest
        )
        data = await self._call(leader, "CompareDigest", request, deadline_s)
        answer = parse_answer(hive_pb2.CompareDigestResponse, data, leader.node_id)
        try:
            return Verdict(answer.verdict)
        except ValueError:
            return Verdict.UNDECIDED  # A newer leader has words that this node does not know.

    async def read_log(self, peer: PeerAddress, key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]:
        request = hive_pb2.ReadLogRequest(
            user=key.user, task_id=key.task_id, attempt=key.attempt, offset=offset, follow=follow
        )
        # A task may be silent for as long as it likes; a peer that is gone is noticed by the connection's pings.
        async for data in self._stream(peer, "ReadLog", request, None if follow else BLOB_STALL_S):
            yield parse_answer(hive_pb2.LogPiece, data, peer.node_id).data

    async def _stream(
        self, peer: PeerAddress, method: str, request: Any, stall_s: float | None
    ) -> AsyncIterator[bytes]:
        link = self.link_to(peer)
        connection = await link.connect(CONNECT_TIMEOUT_S)
        stream = connection.unary_stream(SERVICE + method)(request.SerializeToString(), metadata=connection.metadata)
        try:
            while True:
                async with _failures_named(link, connection):
                    try:
                        async with asyncio.timeout(stall_s):
                            data = await stream.read()
                    except TimeoutError:
                        raise HiveError(Code.NODE_OFFLINE, f"{peer.node_id} stopped sending") from None
                    if data is grpc.aio.EOF:
                        if await stream.code() is not grpc.StatusCode.OK:
                            raise _lost(peer.node_id)
                        return
                yield data
        finally:
            stream.cancel()

    async def store_blob(self, peer: PeerAddress, blob: BlobRef, pieces: AsyncIterator[bytes]) -> None:
        link = self.link_to(peer)
        connection = await link.connect(CONNECT_TIMEOUT_S)
        call = connection.stream_unary(SERVICE + "StoreBlob")(metadata=connection.metadata)
        try:
            async with _failures_named(link, connection), aclosing(_blob_pieces(blob, pieces)) as sent:
                await Upload(call, BLOB_STALL_S).send(sent)
        except TimeoutError:
            raise HiveError(Code.NODE_OFFLINE, f"{peer.node_id} stopped receiving") from None
        finally:
            call.cancel()

    async def aclose(self) -> None:
        """Ends all streams in words and closes all connections."""
        for node in list(self._links):
            self._give_up(node)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CONNECT_TIMEOUT_S)


async def _called(
    link: PeerLink,
    connection: Connection,
    method: str,
    request: Any,
    ends: float,
    carried: tuple[tuple[str, str], ...],
) -> bytes:
    """The answer to one unary call, which ends at a time of the loop."""
    async with _failures_named(link, connection):
        data: bytes = await connection.unary(SERVICE + method)(
            request.SerializeToString(),
            timeout=max(ends - asyncio.get_running_loop().time(), 0),
            metadata=(*connection.metadata, *carried),
        )
        return data


def _pending_node(node: Any, leader: NodeId) -> PendingNode:
    """A machine that waits for an operator's word, as the leader tells of it. Raises PEER_REJECTED."""
    try:
        wants = NodeRights(node.wants)
    except ValueError as error:
        raise HiveError(
            Code.PEER_REJECTED, f"a machine waits at {leader} for the rights {node.wants!r}, which are not known here"
        ) from error
    return PendingNode(
        node_id=NodeId(node.node_id),
        hostname=node.hostname,
        addresses=tuple(node.addresses[:ADDRESSES_MAX]),
        wants=wants,
        is_in=node.is_in,
    )


async def _blob_pieces(blob: BlobRef, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The messages of an upload: the blob's name first, then its content in pieces of `CHUNK_BYTES`."""
    yield hive_pb2.StoreBlobPiece(sha256=blob.sha256, size_bytes=blob.size_bytes).SerializeToString()
    async for data in pieces:
        for start in range(0, len(data), CHUNK_BYTES):
            yield hive_pb2.StoreBlobPiece(data=data[start : start + CHUNK_BYTES]).SerializeToString()


async def _dial(address: str) -> bool | None:
    """Whether a TCP connection is taken (True) or refused (False); None for any other failure."""
    try:
        host, port = split_address(address)
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return False
    except (OSError, ValueError):  # Nodes may say anything of where they are.
        return None
    writer.transport.abort()
    return True
