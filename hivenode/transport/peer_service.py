"""The callee's side of the peer protocol: proof of identity, and what a proven peer may ask.

| call | who may |
|---|---|
| Challenge | anyone, also a program that is no node: it tells no more than mDNS does, with a signature |
| Prove | whoever can sign the nonce, unless both sides are in different hives |
| Invite, Join | a proven node, also across the border of a hive |
| CompareDigest, ManageHive, Work, Report, FetchBlob, StoreBlob | a proven node of this hive that `admits` lets in |
| Messages, ReadLog, FetchSnapshot, ListMembers | of these, one with voter right: it leads, votes, or serves the task's user |

gRPC takes a frame of a stream whole into memory before anybody sees its size. So no stream of a node without voter right is read
but those that bring a blob, which have places; what a worker tells its leader comes call by call.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import Any, Final
from urllib.parse import unquote

import grpc
import structlog

from hivenode.consensus import MemberId
from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import NodeId, SignedNodeRecord, handshake_message
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError, InvariantError
from hivenode.identity import Identity, verify_signature
from hivenode.pb import hive_pb2
from hivenode.pool.records import BlobRef, NodeRights
from hivenode.runtime.digests import DigestReport
from hivenode.runtime.ports import (
    AttemptKey,
    BlobStore,
    ClusterAction,
    ClusterOrder,
    JoinClaim,
    JoinOffer,
    Leadership,
    PeerAddress,
    PeerHost,
    TaskRunner,
    WorkerHello,
    WorkerSession,
)
from hivenode.runtime.rate_limit import RateLimit, origin_key
from hivenode.runtime.refusals import Refusals
from hivenode.runtime.streams import closing
from hivenode.transport.bounds import check
from hivenode.transport.channels import CHUNK_BYTES
from hivenode.transport.codec import decode_message, decode_worker_event, encode_worker_order
from hivenode.transport.interceptors.calls import Context, error_for, origin_of, refuse
from hivenode.transport.interceptors.intake import write
from hivenode.transport.metadata import HIVE_ID, HOPS, HOPS_MAX, PEER_TICKET, value_of
from hivenode.transport.node_calls import NodeCalls
from hivenode.transport.pace import STALL_S, Pace
from hivenode.transport.parsing import parse
from hivenode.transport.peer_link import CALLER, GOODBYE, SERVICE, callee_purpose, read_record
from hivenode.transport.receptions import DOWNLOADS_MAX, Receptions, answers
from hivenode.transport.services.cluster import pending_node
from hivenode.transport.statuses import SUCCESS_METADATA
from hivenode.transport.tickets import TicketExpiredError, Tickets

JOIN_TIMEOUT_S: Final = 20.0
"""A join commits a command and perhaps waits for an election."""
MANAGE_TIMEOUT_S: Final = 20.0
"""A change of the configuration commits twice and perhaps waits for an election."""

JOINS_PER_MINUTE_MAX: Final = 120
"""Machines that come in through one node from one address, or one /64 of IPv6: some dozens may start at once behind one router.
Each costs the leader an entry and a look at all its machines."""
WORKER_STREAMS_MAX: Final = 4
"""Streams of orders that a node without voter right may have standing: one, and some that it does not know to be gone."""
NAMED_CODES: Final = frozenset(
    {Code.PEER_REJECTED, Code.PERMISSION_DENIED, Code.NOT_A_MEMBER, Code.INVALID_ARGUMENT, Code.NODE_REMOVED}
)
"""What a peer that keeps to the protocol is hardly ever answered; who hears it is named in the log."""

_log = structlog.get_logger(__name__)

ForwardJoin = Callable[[PeerAddress, str, SignedNodeRecord, float, JoinClaim, int], Awaitable[JoinOffer]]
"""(leader, hive id, record, deadline in seconds, claim, hops) → the leader's offer."""
_Serve = Callable[[Any, Context], Any]


def _hops(metadata: Any) -> int:
    text = value_of(metadata, HOPS)
    return int(text) if text in ("1", "2") else 0


class _Working:
    """A worker's session whose stream of orders stands."""

    def __init__(self, session: WorkerSession) -> None:
        self.session: Final = session
        self.goodbye: Final = asyncio.Event()


class PeerServer:
    """Serves PeerService.

    Args:
        now_ms: wall clock, ms since 1970, for the expiry of node records.
        clock_ms: monotonic, for rates.
        admits: whether a proven node of this hive is let into its inner calls.
        is_voter: whether such a node has voter right.
        on_lan: whether an IP address is of a network that this machine is in.
        forward_join: brings a join to the leader.
        node_calls: counts the calls of nodes.
        on_broken: told of a broken invariant, which stops the daemon.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        certificate_sha256: bytes,
        host: PeerHost,
        blobs: BlobStore,
        runner: TaskRunner,
        leadership: Leadership,
        tickets: Tickets,
        now_ms: Callable[[], int],
        clock_ms: Callable[[], int],
        admits: Callable[[NodeId], bool],
        is_voter: Callable[[NodeId], bool],
        on_lan: Callable[[str], bool],
        forward_join: ForwardJoin,
        node_calls: NodeCalls,
        on_broken: Callable[[InvariantError], None],
    ) -> None:
        self._identity = identity
        self._certificate_sha256 = certificate_sha256
        self._host = host
        self._blobs = blobs
        self._runner = runner
        self._leadership = leadership
        self._tickets = tickets
        self._now_ms = now_ms
        self._clock_ms = clock_ms
        self._admits = admits
        self._is_voter = is_voter
        self._on_lan = on_lan
        self._node_calls = node_calls
        self._receptions = Receptions()
        self._fetches = answers(DOWNLOADS_MAX, "blobs are being sent")
        self._joins = RateLimit("machines that come in from this address", JOINS_PER_MINUTE_MAX)
        self._streams: Counter[NodeId] = Counter()
        self._working: dict[tuple[NodeId, bytes], _Working] = {}
        self._forward_join = forward_join
        self._on_broken = on_broken
        self._refusals = Refusals()
        self._strangers_refusals = (
            Refusals()
        )  # Apart, or a member's would be lost among those of somebody with many keys.
        self._stopping = asyncio.Event()

    def stopping(self) -> None:
        """Ends the streams of peers, which would otherwise hold up the stop; nobody was lost by that."""
        self._stopping.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """All methods of the service; each parses its own requests, so that what is malformed is answered in one way."""
        methods: dict[str, Any] = {
            "Challenge": grpc.unary_unary_rpc_method_handler(self._unary(hive_pb2.ChallengeRequest, self._challenge)),
            "Prove": grpc.unary_unary_rpc_method_handler(self._unary(hive_pb2.ProveRequest, self._prove)),
            "Invite": grpc.unary_unary_rpc_method_handler(self._unary(hive_pb2.InviteRequest, self._invite)),
            "Join": grpc.unary_unary_rpc_method_handler(self._unary(hive_pb2.JoinRequest, self._join)),
            "ManageHive": grpc.unary_unary_rpc_method_handler(
                self._unary(hive_pb2.ManageHiveRequest, self._manage_hive)
            ),
            "CompareDigest": grpc.unary_unary_rpc_method_handler(
                self._unary(hive_pb2.CompareDigestRequest, self._compare_digest)
            ),
            "Report": grpc.unary_unary_rpc_method_handler(self._unary(hive_pb2.WorkerFrame, self._report)),
            "ListMembers": grpc.unary_unary_rpc_method_handler(
                self._unary(hive_pb2.ListMembersRequest, self._list_members)
            ),
            "Messages": grpc.stream_stream_rpc_method_handler(self._stream(self._messages)),
            "Work": grpc.unary_stream_rpc_method_handler(self._stream(self._work)),
            "StoreBlob": grpc.stream_unary_rpc_method_handler(self._stream(self._store_blob)),
            "FetchBlob": grpc.unary_stream_rpc_method_handler(self._stream(self._fetch_blob)),
            "ReadLog": grpc.unary_stream_rpc_method_handler(self._stream(self._read_log)),
            "FetchSnapshot": grpc.unary_stream_rpc_method_handler(self._stream(self._fetch_snapshot)),
        }
        service = SERVICE.strip("/")
        return grpc.method_handlers_generic_handler(service, methods)

    # --- round every call ----------------------------------------------------------------------------------------

    def _unary(self, request: type[Any], serve: _Serve) -> _Serve:
        async def answer(data: bytes, context: Context) -> bytes:
            try:
                response: bytes = (await serve(_parsed(request, data), context)).SerializeToString()
            except Exception as error:
                await self._refuse(context, serve.__name__, error)
            context.set_trailing_metadata(SUCCESS_METADATA)
            return response

        return answer

    def _stream(self, serve: _Serve) -> _Serve:
        async def answer(request: Any, context: Context) -> Any:
            try:
                result = await serve(request, context)
            except Exception as error:
                await self._refuse(context, serve.__name__, error)
            except asyncio.CancelledError as error:
                if (refusal := self._node_calls.refusal(error)) is not None:
                    await refuse(context, refusal)
                raise
            context.set_trailing_metadata(SUCCESS_METADATA)
            return result

        return answer

    async def _refuse(self, context: Context, what: str, error: Exception) -> None:
        refusal = error_for(what, error, self._on_broken)
        if isinstance(refusal, TicketExpiredError):
            _log.debug("a ticket has expired", node=refusal.caller, what=what.strip("_"))
        elif refusal.code in NAMED_CODES:
            refusals = self._strangers_refusals
            try:
                caller = str(node := self._proven(context))
                if self._admits(node):
                    refusals = self._refusals
            except HiveError:
                caller = caller_ip(context)
            refusals.name(caller, what.strip("_"), reason=refusal.message)
        await refuse(context, refusal)

    def _proven(self, context: Context) -> NodeId:
        """The caller, by its ticket; for calls across the border of a hive."""
        return self._tickets.holder(value_of(context.invocation_metadata(), PEER_TICKET))

    def _admitted(self, context: Context) -> NodeId:
        """The caller, by its ticket, in this hive and let in."""
        metadata = context.invocation_metadata()
        caller = self._tickets.check(value_of(metadata, PEER_TICKET), value_of(metadata, HIVE_ID))
        if not self._admits(caller):
            raise HiveError(Code.NOT_A_MEMBER, f"{caller} is not known as a member of this hive: join first")
        self._node_calls.note(caller)
        return caller

    @contextmanager
    def _standing(self, caller: NodeId) -> Iterator[None]:
        """Counts a stream that stands. Raises OVERLOADED."""
        if not self._is_voter(caller) and self._streams[caller] >= WORKER_STREAMS_MAX:
            raise HiveError(Code.OVERLOADED, f"{WORKER_STREAMS_MAX} streams of {caller} stand: wait for some to end")
        self._streams[caller] += 1
        try:
            yield
        finally:
            self._streams[caller] -= 1
            if not self._streams[caller]:
                del self._streams[caller]

    # --- meeting -------------------------------------------------------------------------------------------------

    async def _challenge(self, request: Any, context: Context) -> Any:
        caller, public_key = NodeId(""), b""
        if request.caller_record:
            _, record = read_record(request.caller_record, self._now_ms())
            caller, public_key = record.node_id, record.public_key
        mine = self._host.introduction()
        message = handshake_message(
            nonce=request.caller_nonce,
            signer=self._identity.node_id,
            other=caller,
            hive_id=mine.hive_id,
            certificate_sha256=self._certificate_sha256,
            purpose=callee_purpose(mine.instance, mine.former_hives),
        )
        return hive_pb2.ChallengeResponse(
            callee_record=encode_record(mine.signed),
            callee_nonce=self._tickets.open_challenge(public_key) if caller else b"",
            hive_id=mine.hive_id,
            signature=self._identity.sign(message),
            phase=mine.phase.value,
            hive_created_ms=mine.hive_created_ms,
            members=mine.members,
            leader_node_id=mine.leader.node_id if mine.leader else "",
            leader_addresses=mine.leader.addresses if mine.leader else (),
            confirmed=mine.confirmed,
            instance=mine.instance,
            former_hives=mine.former_hives,
            recoveries=mine.recoveries,
            closed=mine.closed,
        )

    async def _prove(self, request: Any, context: Context) -> Any:
        caller = NodeId(request.caller_node_id)
        challenge = self._tickets.challenge_of(request.callee_nonce, caller)
        message = handshake_message(
            nonce=request.callee_nonce,
            signer=caller,
            other=self._identity.node_id,
            hive_id=request.hive_id,
            certificate_sha256=self._certificate_sha256,
            purpose=CALLER,
        )
        if not verify_signature(challenge.public_key, message, request.signature):
            raise HiveError(Code.PEER_REJECTED, f"the caller could not prove to be {caller}")
        self._tickets.spend(challenge)
        mine = self._leadership.hive_id()
        if mine and request.hive_id and mine != request.hive_id:
            raise HiveError(Code.WRONG_HIVE, f"this node is in hive {mine}, the caller in {request.hive_id}")
        origin = "" if self._admits(caller) else origin_key(origin_of(context.peer()))
        return hive_pb2.ProveResponse(ticket=self._tickets.give(caller, origin))

    async def _invite(self, request: Any, context: Context) -> Any:
        signed = self._host.accept_invitation(self._proven(context), request.hive_id)
        return hive_pb2.InviteResponse(record=encode_record(signed))

    async def _join(self, request: Any, context: Context) -> Any:
        caller = self._proven(context)
        hops = _hops(context.invocation_metadata())
        signed, record = read_record(request.record, self._now_ms())
        if hops and not self._admits(caller):
            raise HiveError(Code.PEER_REJECTED, "only a member of this hive may bring another node's request to join")
        if not hops and record.node_id != caller:
            raise HiveError(Code.PEER_REJECTED, f"{caller} must not ask for {record.node_id} to join")
        # The record is signed by the one who joins, so the word of a member that brings it is not needed for it.
        # A worker's word of where it was asked is good for nothing, here or where it is passed on to.
        seen = request.from_lan and self._is_voter(caller) if hops else self._on_lan(caller_ip(context))
        claim = JoinClaim(
            from_lan=seen,
            token_key=request.token_key,
            token_signature=request.token_signature,
        )
        if self._admits(caller):
            offer = await self._offer(caller, signed, claim, hops, context)
        else:
            with self._coming_in(context):
                offer = await self._offer(caller, signed, claim, hops, context)
        return hive_pb2.JoinResponse(
            hive_id=offer.hive_id,
            members=[encode_record(member) for member in offer.members],
            leader_node_id=offer.leader.node_id,
            leader_addresses=offer.leader.addresses,
            voter_rights=offer.voter_rights,
            node_ids=offer.nodes,
            voter_ids=offer.voters,
            later_sequence=offer.later_sequence,
            applied_index=offer.index,
        )

    async def _offer(
        self, caller: NodeId, signed: SignedNodeRecord, claim: JoinClaim, hops: int, context: Context
    ) -> JoinOffer:
        """The leader's answer, which may be this node."""
        try:
            return await self._host.accept_join(caller, signed, claim)
        except HiveError as error:
            if error.code is not Code.NO_LEADER or hops >= HOPS_MAX:
                raise
            remaining_s = context.time_remaining()
            deadline_s = min(JOIN_TIMEOUT_S, JOIN_TIMEOUT_S if remaining_s is None else remaining_s)
            leader = await self._leadership.leader(deadline_s)
            if leader.node_id == self._identity.node_id:
                raise
            return await self._forward_join(leader, self._leadership.hive_id(), signed, deadline_s, claim, hops + 1)

    @contextmanager
    def _coming_in(self, context: Context) -> Iterator[None]:
        """Counts a machine of an address that is taken in; one that is refused does not count. Raises RATE_LIMITED."""
        origin = origin_key(origin_of(context.peer()))
        self._joins.take(origin, self._clock_ms())
        try:
            yield
        except HiveError as error:
            if error.code is not Code.OUTCOME_UNKNOWN:
                self._joins.give_back(origin)
            raise

    # --- consensus -----------------------------------------------------------------------------------------------

    async def _messages(self, frames: AsyncIterator[bytes], context: Context) -> None:
        caller = self._admitted(context)
        self._host.check_heard(caller)
        await context.write(hive_pb2.RaftFrameAck().SerializeToString())
        await self._messages_of(caller, frames)

    async def _messages_of(self, caller: NodeId, frames: AsyncIterator[bytes]) -> None:
        self._host.peer_connected(caller)
        hearing = asyncio.ensure_future(self._hear_messages(frames, caller))
        stopping = asyncio.ensure_future(self._stopping.wait())
        said_goodbye = False
        try:
            await asyncio.wait({hearing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                said_goodbye = await hearing
        finally:
            for task in (hearing, stopping):
                task.cancel()
            # Before anything that could be broken off again: the node would count as connected for good.
            self._host.peer_lost(caller, not said_goodbye and not self._stopping.is_set())
            await asyncio.wait({hearing, stopping})

    async def _hear_messages(self, frames: AsyncIterator[bytes], caller: NodeId) -> bool:
        """Hands on what the peer says, until its stream ends; whether it said goodbye."""
        async for data in frames:
            if data == GOODBYE:
                return True
            self._host.check_heard(caller)  # It may have lost its right since.
            for piece in _parsed(hive_pb2.RaftFrame, data).messages:
                self._host.receive(caller, _decoded(decode_message, piece))
        return False

    # --- work ----------------------------------------------------------------------------------------------------

    async def _work(self, data: bytes, context: Context) -> None:
        caller = self._admitted(context)
        frame = _parsed(hive_pb2.WorkerFrame, data)
        hello = _decoded(decode_worker_event, frame.event)
        if not isinstance(hello, WorkerHello):
            raise HiveError(Code.INVALID_ARGUMENT, "a worker says hello first")
        key = (caller, frame.stream)
        with self._standing(caller):
            session = await self._host.open_worker_session(caller, hello)
            working = self._working[key] = _Working(session)
            try:
                await self._work_of(working, context)
            finally:
                if self._working.get(key) is working:
                    del self._working[key]

    async def _work_of(self, working: _Working, context: Context) -> None:
        """Until either side ends the session; gRPC cancels this when the connection breaks."""
        telling = asyncio.ensure_future(self._tell_worker(working.session, context))
        others = [asyncio.ensure_future(event.wait()) for event in (working.goodbye, self._stopping)]
        reset = True
        try:
            await asyncio.wait({telling, *others}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                await telling
            reset = False
        finally:
            for task in (telling, *others):
                task.cancel()
            await asyncio.wait({telling, *others})
            await working.session.closed(reset and not self._stopping.is_set())

    async def _report(self, frame: Any, context: Context) -> Any:
        working = self._working.get((self._admitted(context), frame.stream))
        if working is None:
            raise HiveError(Code.NODE_OFFLINE, "no stream of this name stands here: say hello again")
        if frame.event == GOODBYE:
            working.goodbye.set()
        else:
            await working.session.handle(_decoded(decode_worker_event, frame.event))
        return hive_pb2.ReportResponse()

    @staticmethod
    async def _tell_worker(session: WorkerSession, context: Context) -> None:
        await write(context, hive_pb2.OrderFrame().SerializeToString())
        async for order in session.orders():
            await write(context, hive_pb2.OrderFrame(order=encode_worker_order(order)).SerializeToString())

    # --- blobs and logs ------------------------------------------------------------------------------------------

    async def _fetch_blob(self, data: bytes, context: Context) -> None:
        caller = self._admitted(context)
        request = _parsed(hive_pb2.FetchBlobRequest, data)
        blob = BlobRef(sha256=request.sha256, size_bytes=request.size_bytes)
        if not self._blobs.has(blob):
            raise HiveError(Code.BLOB_NOT_FOUND, f"this node has no blob {request.sha256[:64]}")
        async with AsyncExitStack() as stack:
            if not self._is_voter(caller):
                await stack.enter_async_context(self._fetches.place(caller))
            await _send_pieces(self._blobs.read(blob, request.offset), hive_pb2.BlobPiece, context)

    async def _store_blob(self, pieces: AsyncIterator[bytes], context: Context) -> bytes:
        caller = self._admitted(context)
        if self._is_voter(caller):
            return await self._take_blob(pieces)
        async with self._receptions.place(f"node:{caller}"):
            return await self._take_blob(pieces)

    async def _take_blob(self, pieces: AsyncIterator[bytes]) -> bytes:
        moving = _moving(pieces)
        try:
            first = _parsed(hive_pb2.StoreBlobPiece, await anext(moving))
        except StopAsyncIteration:
            raise HiveError(Code.INVALID_ARGUMENT, "the first piece must name the blob") from None

        async def content() -> AsyncGenerator[bytes, None]:
            if first.data:
                yield first.data
            async for piece in moving:
                yield _parsed(hive_pb2.StoreBlobPiece, piece).data

        expected = BlobRef(sha256=first.sha256, size_bytes=first.size_bytes)
        async with aclosing(content()) as stream:
            await self._blobs.put(stream, size_bytes_max=first.size_bytes, expected=expected)
        answer: bytes = hive_pb2.StoreBlobResponse().SerializeToString()
        return answer

    async def _read_log(self, data: bytes, context: Context) -> None:
        caller = self._admitted(context)
        if not self._is_voter(caller):
            raise HiveError(Code.PERMISSION_DENIED, f"{caller} has no voter right, and serves no user")
        request = _parsed(hive_pb2.ReadLogRequest, data)
        key = AttemptKey(user=request.user, task_id=request.task_id, attempt=request.attempt)
        pieces = self._runner.read_log(key, request.offset, request.follow)
        await _send_pieces(pieces, hive_pb2.LogPiece, context)

    async def _manage_hive(self, request: Any, context: Context) -> Any:
        caller = self._admitted(context)
        action = ClusterAction(request.action.lower())
        rights = NodeRights(request.rights.lower() or NodeRights.WORKER.value)
        remaining_s = context.time_remaining()
        deadline_s = min(MANAGE_TIMEOUT_S, MANAGE_TIMEOUT_S if remaining_s is None else remaining_s)
        order = ClusterOrder(action=action, node=request.node_id, rights=rights, lifetime_ms=request.lifetime_ms)
        answer = await self._host.manage_hive(caller, order, deadline_s)
        return hive_pb2.ManageHiveResponse(
            node_id=answer.node, expires_ms=answer.expires_ms, pending=[pending_node(node) for node in answer.pending]
        )

    async def _compare_digest(self, request: Any, context: Context) -> Any:
        caller = self._admitted(context)
        report = DigestReport(
            version=request.version,
            member_id=MemberId(request.member_id),
            index=request.index,
            digest=request.digest,
        )
        verdict = await self._host.compare_digest(caller, report)
        return hive_pb2.CompareDigestResponse(verdict=verdict.value)

    async def _list_members(self, request: Any, context: Context) -> Any:
        members, index = self._host.members(self._admitted(context))
        return hive_pb2.ListMembersResponse(records=map(encode_record, members), applied_index=index)

    async def _fetch_snapshot(self, data: bytes, context: Context) -> None:
        caller = self._admitted(context)
        request = _parsed(hive_pb2.FetchSnapshotRequest, data)
        async with closing(self._host.read_snapshot(caller, request.sha256, request.offset)) as pieces:
            async for piece in pieces:
                answer = hive_pb2.SnapshotPiece(data=piece, crc32=zlib.crc32(piece))
                await write(context, answer.SerializeToString())


def caller_ip(context: Context) -> str:
    """The IP address of a call; empty when it came by something else."""
    kind, _, rest = str(context.peer()).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return unquote(rest.rpartition(":")[0]).strip("[]").partition("%")[0]


async def _send_pieces(pieces: AsyncIterator[bytes], kind: type[Any], context: Context) -> None:
    """Sends bytes in pieces of `CHUNK_BYTES`; `write` waits while the receiver's window is full, and not for ever."""
    async with closing(pieces) as read:
        async for data in read:
            for start in range(0, len(data), CHUNK_BYTES):
                await write(context, kind(data=data[start : start + CHUNK_BYTES]).SerializeToString())


async def _moving(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The pieces of a stream; raises OVERLOADED when it trickles."""
    pace = Pace(STALL_S)
    while True:
        try:
            async with asyncio.timeout_at(pace.ends):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise pace.refusal() from None
        pace.moved(len(piece))
        yield piece


def _parsed(kind: type[Any], data: bytes) -> Any:
    """The message, each of its fields within its bounds."""
    message = parse(kind, data)
    check(message)
    return message


def _decoded(decode: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return decode(data)
    except DecodeError as error:
        raise HiveError(Code.INVALID_ARGUMENT, f"malformed bytes: {error}") from error
