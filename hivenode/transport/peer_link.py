"""One peer as the calling side sees it: its addresses, and at most one proven connection.

A connection is dialled at its first use: the addresses in turn, the one that worked last first, and the next one beside those
that are silent. All who want it wait for one dial, each as long as it likes; the dial goes on without them, so that a peer far
away is reached by callers that have little time. Each try is a channel of its own, so that no back-off of an earlier failure
delays it, and takes exactly the certificate that the callee's signed record vouches for. Both sides prove who they are
(Challenge, Prove) before anything else is said. A connection that broke is dropped whole, and the next use dials afresh. A link
that is given up ends its dial, which closes what it made.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import (
    NodeId,
    NodeRecord,
    SignedNodeRecord,
    handshake_message,
    open_record,
)
from hivenode.encoding.records import decode_record, encode_record
from hivenode.encoding.recovery import RECOVERIES_MAX
from hivenode.errors import Code, HiveError
from hivenode.identity import Identity, fingerprint, verify_signature
from hivenode.membership.twins import INSTANCE_CHARACTERS_MAX
from hivenode.pb import hive_pb2
from hivenode.runtime.ports import HivePhase, Introduction, PeerAddress
from hivenode.transport.channels import CONNECT_MS_MAX, open_channel
from hivenode.transport.metadata import HIVE_ID, PEER_TICKET
from hivenode.transport.parsing import parse_answer
from hivenode.transport.statuses import code_in, error_of
from hivenode.transport.tls import Certificates, fetch_certificate

DIAL_TIMEOUT_S: Final = CONNECT_MS_MAX / 1_000
"""For one try of one address, and for a proof; a try takes some six round trips."""
NEXT_ADDRESS_S: Final = 0.25
"""Before the next address is tried beside one that is silent, as RFC 8305, section 5, advises: one of a network that is gone
answers nothing at all. So long, too, before one that could not be reached is tried again while others are silent: a daemon that
begins anew refuses for a moment."""
SILENT_S: Final = 1.0
"""Before one that is silent is tried once more beside that: a try whose first packet was lost says the next one a second later,
and then two, so that a machine that comes back would be found late."""
REDIAL_PAUSE_S: Final = 0.05
"""Within it the failure of the last dial answers for the next: hundreds of calls that wait for a dead leader must not dial
each for itself."""
NONCE_BYTES: Final = 32
ADDRESSES_MAX: Final = 16
"""As many as a node record may name."""
CALLEE: Final = "callee"
CALLER: Final = "caller"
SERVICE: Final = "/hive.PeerService/"
GOODBYE: Final = b""
"""An empty frame: the last one of a stream whose sender ends it on purpose. A stream that ends without was cut, which gRPC
does not tell from an end in words."""
_INTRODUCTIONS_MAX: Final = 1_024
"""Confirmed peers that one introduction may name."""
_FORMER_HIVES_MAX: Final = 64


class LostCallError(Exception):
    """The channel was closed while the call was on it."""


def closed_under_it() -> bool:
    """In an `except CancelledError`: whether the channel was closed under the call, rather than this task cancelled.

    grpc.aio raises CancelledError for both.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Self:
    """What this node says of itself when it calls others; functions, since record and hive change."""

    identity: Identity
    record: Callable[[], SignedNodeRecord]
    hive_id: Callable[[], str]
    now_ms: Callable[[], int]


class Connection:
    """A channel on which both sides have proven themselves. Calls carry `metadata`.

    The ticket in it is renewed on the same channel when it has expired, or when this node is in another hive by now, so that
    the streams on the channel live on.
    """

    def __init__(self, channel: grpc.aio.Channel, address: str, callee: NodeRecord, ticket: str, hive_id: str) -> None:
        self.channel: Final = channel
        self.address: Final = address
        self.certificate_sha256: Final = callee.certificate_sha256
        self.metadata: tuple[tuple[str, str], ...] = ()
        self.refused = False
        self._hive_id = ""
        self.renew(ticket, hive_id)
        self._methods: dict[str, Any] = {}

    def renew(self, ticket: str, hive_id: str) -> None:
        self.metadata = ((PEER_TICKET, ticket), (HIVE_ID, hive_id))
        self._hive_id = hive_id
        self.refused = False

    def proven_in(self, hive_id: str) -> bool:
        """Whether the ticket counts in this hive, as far as is known here."""
        return self._hive_id == hive_id and not self.refused

    def _method(self, name: str, make: Callable[[str], Any]) -> Any:
        found = self._methods.get(name)
        if found is None:
            found = self._methods[name] = make(name)
        return found

    def unary(self, method: str) -> Any:
        """The method as bytes to bytes."""
        return self._method(method, self.channel.unary_unary)

    def unary_stream(self, method: str) -> Any:
        return self._method(method, self.channel.unary_stream)

    def stream_unary(self, method: str) -> Any:
        return self._method(method, self.channel.stream_unary)

    def stream_stream(self, method: str) -> Any:
        return self._method(method, self.channel.stream_stream)


def read_record(data: bytes, now_ms: int) -> tuple[SignedNodeRecord, NodeRecord]:
    """A peer's signed record, checked. Raises PEER_REJECTED."""
    try:
        signed = decode_record(SignedNodeRecord, data)
        record = open_record(signed, verify_signature)
    except DecodeError as error:
        raise HiveError(Code.PEER_REJECTED, f"the peer's node record is wrong: {error}") from error
    if record.expires_ms <= now_ms:
        raise HiveError(Code.PEER_REJECTED, "the peer's node record has expired: check the clocks of both machines")
    return signed, record


def callee_purpose(instance: str, former_hives: Iterable[str]) -> str:
    """What a callee signs for, besides who it is: all by which a caller gives up something of its own."""
    return " ".join((CALLEE, instance, *former_hives))


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """A channel pinned to the certificate that the one who answered vouches for; `nonce` waits for this node's proof."""

    channel: grpc.aio.Channel
    introduction: Introduction
    nonce: bytes


async def meet(me: Self, certificates: Certificates, address: str, deadline_s: float) -> Meeting:
    """Dials an address and asks who answers; the caller closes the channel.

    Raises:
        HiveError: NODE_OFFLINE when nobody answers, PEER_REJECTED when the answer does not hold.
    """
    ends = asyncio.get_running_loop().time() + deadline_s
    known = certificates.shown_at(address)
    if known is not None:
        try:
            return await _meet_pinned(me, address, known, deadline_s)
        except HiveError as error:
            # A daemon that began anew may show another certificate, or another node listens there by now.
            certificates.forget(address)
            if error.code is not Code.NODE_OFFLINE:
                raise
    remaining_s = max(ends - asyncio.get_running_loop().time(), 0)
    der = await fetch_certificate(address, remaining_s)
    meeting = await _meet_pinned(me, address, der, max(ends - asyncio.get_running_loop().time(), 0))
    certificates.note(address, der)
    return meeting


async def _meet_pinned(me: Self, address: str, der: bytes, deadline_s: float) -> Meeting:
    channel = open_channel(address, der)
    try:
        introduction, nonce = await challenge(channel, me, address, fingerprint(der), deadline_s)
    except BaseException:
        await channel.close()
        raise
    return Meeting(channel=channel, introduction=introduction, nonce=nonce)


async def challenge(
    channel: grpc.aio.Channel,
    me: Self,
    address: str,
    certificate_sha256: bytes,
    deadline_s: float,
    *,
    metadata: tuple[tuple[str, str], ...] = (),
) -> tuple[Introduction, bytes]:
    """Asks who answers. Returns the introduction, its author proven, and the callee's nonce.

    Args:
        certificate_sha256: of the certificate that the channel is pinned to.
        metadata: with an old ticket, by which a member waits for no stranger.

    Raises:
        HiveError: NODE_OFFLINE when nobody answers, PEER_REJECTED when the answer does not hold.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    request = hive_pb2.ChallengeRequest(
        caller_record=encode_record(me.record()), caller_nonce=nonce, hive_id=me.hive_id()
    )
    # gRPC makes None of an answer that its deserializer does not take.
    invoke: Any = channel.unary_unary(SERVICE + "Challenge")
    try:
        data = await invoke(request.SerializeToString(), timeout=deadline_s, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise error_of(error, address) from error
    answer = parse_answer(hive_pb2.ChallengeResponse, data, address)
    introduction = read_answer(
        answer,
        caller=me.identity.node_id,
        nonce=nonce,
        address=address,
        certificate_sha256=certificate_sha256,
        now_ms=me.now_ms(),
    )
    return introduction, answer.callee_nonce


def read_answer(
    answer: Any, *, caller: str, nonce: bytes, address: str, certificate_sha256: bytes, now_ms: int
) -> Introduction:
    """What the callee of a Challenge says of itself, its author proven.

    Args:
        caller: the id of the node that asked; empty for a program that is no node.
        nonce: what it asked with.
        certificate_sha256: of the certificate that the channel is pinned to.

    Raises:
        HiveError: PEER_REJECTED when the answer does not hold.
    """
    signed, record = read_record(answer.callee_record, now_ms)
    message = handshake_message(
        nonce=nonce,
        signer=record.node_id,
        other=NodeId(caller),
        hive_id=answer.hive_id,
        certificate_sha256=certificate_sha256,
        purpose=callee_purpose(answer.instance, answer.former_hives),
    )
    if not verify_signature(record.public_key, message, answer.signature):
        raise HiveError(Code.PEER_REJECTED, f"{address} could not prove to be {record.node_id}")
    if record.certificate_sha256 != certificate_sha256:
        raise HiveError(Code.PEER_REJECTED, f"{record.node_id} does not vouch for the certificate shown at {address}")
    try:
        phase = HivePhase(answer.phase)
    except ValueError as error:
        raise HiveError(Code.PEER_REJECTED, f"{address} is in a phase that is not known here") from error
    leader = None
    if answer.leader_node_id:
        leader = PeerAddress(
            node_id=NodeId(answer.leader_node_id), addresses=tuple(answer.leader_addresses[:ADDRESSES_MAX])
        )
    return Introduction(
        record=record,
        signed=signed,
        hive_id=answer.hive_id,
        phase=phase,
        hive_created_ms=answer.hive_created_ms,
        members=answer.members,
        leader=leader,
        confirmed=tuple(NodeId(node) for node in answer.confirmed[:_INTRODUCTIONS_MAX]),
        instance=answer.instance[:INSTANCE_CHARACTERS_MAX],
        former_hives=tuple(answer.former_hives[:_FORMER_HIVES_MAX]),
        recoveries=tuple(answer.recoveries[:RECOVERIES_MAX]),
        closed=answer.closed,
    )


async def prove(
    channel: grpc.aio.Channel,
    me: Self,
    callee: NodeRecord,
    nonce: bytes,
    deadline_s: float,
    *,
    metadata: tuple[tuple[str, str], ...] = (),
) -> tuple[str, str]:
    """Proves this node to a callee. Returns the ticket and the hive id that it stands for. Raises PEER_REJECTED, WRONG_HIVE.

    `metadata` as of `challenge`.
    """
    hive_id = me.hive_id()
    message = handshake_message(
        nonce=nonce,
        signer=me.identity.node_id,
        other=callee.node_id,
        hive_id=hive_id,
        certificate_sha256=callee.certificate_sha256,
        purpose=CALLER,
    )
    request = hive_pb2.ProveRequest(
        caller_node_id=me.identity.node_id,
        callee_nonce=nonce,
        hive_id=hive_id,
        signature=me.identity.sign(message),
    )
    invoke: Any = channel.unary_unary(SERVICE + "Prove")
    try:
        data = await invoke(request.SerializeToString(), timeout=deadline_s, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise error_of(error, str(callee.node_id)) from error
    return parse_answer(hive_pb2.ProveResponse, data, str(callee.node_id)).ticket, hive_id


async def _tried(me: Self, certificates: Certificates, address: str) -> Meeting | HiveError:
    """What a try comes to. A failure is made anew: with its frames it would keep the call, and so the connection, which gRPC
    closes when nothing is left of its calls, until the garbage collector comes by."""
    try:
        return await meet(me, certificates, address, DIAL_TIMEOUT_S)
    except HiveError as error:
        return HiveError(error.code, error.message)


async def _undo(attempt: asyncio.Task[Meeting | HiveError]) -> None:
    """Leaves nothing open of a try that is not wanted any more, also when it met somebody."""
    attempt.cancel()
    await asyncio.wait({attempt})
    if not attempt.cancelled() and isinstance(met := attempt.result(), Meeting):
        await met.channel.close()


class PeerLink:
    """The link to one node.

    Args:
        certificates: what was shown at which address, shared with the other links.
        on_unreached: called when the connection broke or no address answered.
    """

    def __init__(
        self, node_id: NodeId, me: Self, certificates: Certificates, on_unreached: Callable[[NodeId], None]
    ) -> None:
        self.node_id: Final = node_id
        self._me = me
        self._certificates = certificates
        self._on_unreached = on_unreached
        self._addresses: tuple[str, ...] = ()
        self._current: Connection | None = None
        self._failure: tuple[float, HiveError] | None = None
        self._dialling: asyncio.Task[Connection] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._given_up = False

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    @property
    def ready(self) -> Connection | None:
        """The proven connection when it is there already."""
        current = self._current
        wanted = current is not None and not self._given_up and current.proven_in(self._me.hive_id())
        return current if wanted else None

    def learn(self, addresses: tuple[str, ...]) -> bool:
        """Takes newer addresses; whether there was one that was not known."""
        told = addresses[: 2 * ADDRESSES_MAX]  # Where the hive has the node, and where it says that it is now.
        fresh = any(address not in self._addresses for address in told)
        if fresh:
            self._addresses = told
            self._failure = None
        elif told:  # In the order that the dials gave them.
            self._addresses = tuple(address for address in self._addresses if address in told)
        return fresh

    async def connect(self, deadline_s: float) -> Connection:
        """The proven connection, dialled when there is none. Raises NODE_OFFLINE, PEER_REJECTED, WRONG_HIVE."""
        self._check_wanted()
        if (ready := self.ready) is not None:
            return ready
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    connection = await asyncio.shield(self._dialled())
                    self._check_wanted()
                    if connection.proven_in(self._me.hive_id()):  # It may be in another hive since the dial began.
                        return connection
        except TimeoutError:
            raise HiveError(Code.NODE_OFFLINE, f"{self.node_id} did not answer in time") from None
        except asyncio.CancelledError:
            if not closed_under_it():
                raise
            self._check_wanted()
            raise HiveError(Code.NODE_OFFLINE, f"the connection to {self.node_id} was closed") from None

    def _dialled(self) -> asyncio.Task[Connection]:
        """The dial that is under way, or else a new one."""
        if self._dialling is None or self._dialling.done():
            self._dialling = asyncio.ensure_future(self._renewed_or_dialled())
            self._dialling.add_done_callback(self._forget_dial)
        return self._dialling

    def _forget_dial(self, ended: asyncio.Task[Connection]) -> None:
        """Lets go of a dial, whose frames would keep what it closed; its failure counts as seen, for nobody may wait any more."""
        if not ended.cancelled():
            ended.exception()
        if self._dialling is ended:
            self._dialling = None

    async def _renewed_or_dialled(self) -> Connection:
        made = await self._renewed() or await self._dial()
        if isinstance(made, HiveError):
            try:
                raise made
            finally:
                del made  # The failure has this frame, which would have the failure.
        return made

    async def _renewed(self) -> Connection | None:
        """The kept connection with a ticket that counts; None when there is none, or it broke, also under another call."""
        current = self._current
        if current is not None and not current.proven_in(self._me.hive_id()):
            try:
                introduction, nonce = await challenge(
                    current.channel,
                    self._me,
                    current.address,
                    current.certificate_sha256,
                    DIAL_TIMEOUT_S,
                    metadata=current.metadata,
                )
                current.renew(
                    *await self._prove(current.channel, current.address, introduction, nonce, current.metadata)
                )
            except (HiveError, grpc.aio.UsageError):
                self.drop(current)
            except asyncio.CancelledError:
                if not closed_under_it():
                    raise
        return self._current

    async def _prove(
        self,
        channel: grpc.aio.Channel,
        address: str,
        introduction: Introduction,
        nonce: bytes,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> tuple[str, str]:
        """This node's proof to the one that answered; the ticket and the hive id that it counts in."""
        callee = introduction.record
        if callee.node_id != self.node_id:
            raise HiveError(Code.PEER_REJECTED, f"{address} is {callee.node_id}, not {self.node_id}")
        return await prove(channel, self._me, callee, nonce, DIAL_TIMEOUT_S, metadata=metadata)

    async def _dial(self) -> Connection | HiveError:
        """Tries the addresses until one answers, or each has failed; those that are learned meanwhile too.

        A failure is returned, and not raised: see `_tried`.
        """
        loop = asyncio.get_running_loop()
        if self._failure is not None and loop.time() < self._failure[0] + REDIAL_PAUSE_S:
            return HiveError(self._failure[1].code, self._failure[1].message)
        tries: dict[asyncio.Task[Meeting | HiveError], str] = {}
        begun: dict[str, float] = {}
        failures: dict[str, HiveError] = {}
        """By address, the last failure last."""
        is_time = False
        try:
            while any(address not in failures for address in self._addresses):
                address = self._next_address(begun, failures, set(tries.values()), loop.time(), again=is_time)
                if address is not None:
                    begun[address] = loop.time()
                    tries[asyncio.ensure_future(_tried(self._me, self._certificates, address))] = address
                done, _ = await asyncio.wait(tries, timeout=NEXT_ADDRESS_S, return_when=asyncio.FIRST_COMPLETED)
                is_time = not done
                for ended in done:
                    address = tries.pop(ended)
                    met = ended.result()
                    made = met if isinstance(met, HiveError) else await self._proven(address, met)
                    if isinstance(made, Connection):
                        self._current, self._failure = made, None
                        self._addresses = tuple(sorted(self._addresses, key=lambda it: it != made.address))
                        return made
                    failures.pop(address, None)
                    failures[address] = made
        finally:
            while tries:
                self._soon(_undo(tries.popitem()[0]))
        failure = next(
            reversed(failures.values()), HiveError(Code.NODE_OFFLINE, f"no address of {self.node_id} is known")
        )
        self._failure = (loop.time(), failure)
        self._on_unreached(self.node_id)
        return HiveError(failure.code, failure.message)

    def _next_address(
        self, begun: dict[str, float], failures: dict[str, HiveError], trying: set[str], now_s: float, *, again: bool
    ) -> str | None:
        """One that was not tried yet; with `again` else the one that waits the longest of those that may answer by now."""
        for address in self._addresses:
            if address not in begun:
                return address
        waits = [
            address
            for address in self._addresses
            if (address not in failures or failures[address].code is Code.NODE_OFFLINE)
            and now_s - begun[address] >= (SILENT_S if address in trying else NEXT_ADDRESS_S)
        ]
        return min(waits, key=begun.__getitem__, default=None) if again else None

    async def _proven(self, address: str, met: Meeting) -> Connection | HiveError:
        """The connection to one that was met. One proof at a time is made: only in a dial, and not in each try."""
        try:
            ticket, hive_id = await self._prove(met.channel, address, met.introduction, met.nonce)
        except HiveError as error:
            self._soon(met.channel.close())
            return HiveError(error.code, error.message)
        except BaseException:
            self._soon(met.channel.close())
            raise
        return Connection(met.channel, address, met.introduction.record, ticket, hive_id)

    def drop(self, connection: Connection) -> None:
        """Gives a connection up; the next use dials afresh. Nothing when it was given up before."""
        if self._current is connection:
            self._current = None
            self._soon(connection.channel.close())
            self._on_unreached(self.node_id)

    def note_failure(self, connection: Connection, error: grpc.aio.AioRpcError) -> None:
        """Drops the connection when the failure shows that it broke, and proves anew when its ticket is no longer known."""
        code = code_in(tuple(error.trailing_metadata() or ()))
        if code in (Code.PEER_REJECTED, Code.WRONG_HIVE):
            connection.refused = True
        elif code is None and error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):
            self.drop(connection)

    def _soon(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def give_up(self) -> None:
        """From now on nobody is given a connection. The one that is there stays until `aclose`, for what ends on it in words."""
        self._given_up = True
        if self._dialling is not None:
            self._dialling.cancel()

    def _check_wanted(self) -> None:
        """Raises NODE_OFFLINE when the link was given up."""
        if self._given_up:
            raise HiveError(Code.NODE_OFFLINE, f"the connection to {self.node_id} was given up")

    async def aclose(self) -> None:
        self.give_up()
        if self._dialling is not None:
            await asyncio.wait({self._dialling}, timeout=DIAL_TIMEOUT_S)
        if self._current is not None:
            self.drop(self._current)
        if self._closing:
            await asyncio.wait(self._closing, timeout=DIAL_TIMEOUT_S)
