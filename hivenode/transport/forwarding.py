"""Brings a call to the node that may answer it, and again when that node dies or loses its leadership meanwhile.

Rules:
- A call travels as the bytes that came in, with the caller's token, origin, idempotency key and remaining deadline.
- A unary call is tried until its deadline, or until nobody could be asked for `LEADER_WAIT_S`. That is safe because all
  tries of a write bear one idempotency key: the hive does it once and remembers the reply.
- A leader that is silent while this node knows of none is not waited for: it was stopped, or cut off, with a majority.
- What is said at the end is true: OUTCOME_UNKNOWN when any try may have reached a leader, NO_LEADER when none did.
- A stream is tried again only while nothing of it has been passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import grpc

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError, Outcome, outcome_of
from hivenode.runtime.ports import Leadership, PeerAddress, Standing
from hivenode.transport.interceptors.calls import Call, deadline_error
from hivenode.transport.metadata import (
    AUTHORIZATION,
    HOPS,
    HOPS_MAX,
    IDEMPOTENCY_KEY,
    ORIGIN,
    STATUS_DETAILS,
    THROUGH,
    Metadata,
)
from hivenode.transport.peer_link import Connection, LostCallError, PeerLink, closed_under_it
from hivenode.transport.statuses import DeadlinePassedError, code_in
from hivenode.transport.uploads import Upload

LEADER_WAIT_S: Final = 10.0
"""How long a call waits in all while nobody who leads can be asked: five slow elections; then it is better to say so.

It ends before callers' own deadlines, which are 30 s on the command line, so that they hear the reason."""
RETRY_PAUSE_S: Final = 0.05
"""Between two tries while the same node is still named leader; an election takes twenty times as long."""
LOOK_S: Final = 0.25
"""How often a call in flight looks whether another leads by now: a machine that lost its power resets no connection."""
LEADERLESS_S: Final = 3.0
"""How long a call in flight waits while nobody is known to lead; an election takes two, and then another is asked."""
CONNECT_TIMEOUT_S: Final = 2.0
"""For reaching a leader that does not answer; another may lead by then."""

_NOT_DONE: Final = frozenset({Code.NO_LEADER, Code.SHUTTING_DOWN, Code.PEER_REJECTED, Code.WRONG_HIVE})
"""Answers of a target that say that it did nothing, and that another may."""
_BROKEN: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL})
"""What a call ends with when its connection breaks (a reset stream shows as any of these), if no daemon spoke."""


class RelayedError(Exception):
    """The target's own failure, to be passed on as it is."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(error.details())
        self.error: Final = error


class _TryAgainError(Exception):
    """A try failed in a way that the next may not. `reached`: the target may have got the call and done it."""

    def __init__(self, reason: str, *, reached: bool) -> None:
        super().__init__(reason)
        self.reached: Final = reached


class _Patience:
    """How long a call has had nobody to ask."""

    def __init__(self) -> None:
        self._since: float | None = None

    def found(self) -> None:
        """Somebody is being asked."""
        self._since = None

    def lacking(self, since: float | None = None) -> float:
        """Nobody could be asked, from now or from an earlier time of the loop; the seconds that this has lasted."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now if since is None else since
        return now - self._since

    def left_s(self) -> float:
        """Seconds that a leader may still take to be found."""
        waited_s = 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since
        return max(LEADER_WAIT_S - waited_s, 0.0)


def relayed_metadata(metadata: Any) -> Metadata:
    """What of a target's trailing metadata is passed on."""
    return tuple((key, value) for key, value in metadata or () if key.startswith("hive-") or key == STATUS_DETAILS)


def _judge(error: grpc.aio.AioRpcError) -> _TryAgainError | None:
    """Whether a failed try may be repeated; None when the failure is the answer."""
    code = code_in(tuple(error.trailing_metadata() or ()))
    reason = error.details() or error.code().name
    if code in _NOT_DONE:
        return _TryAgainError(reason, reached=False)
    if code is Code.OUTCOME_UNKNOWN:
        return _TryAgainError(reason, reached=True)
    if code is None and error.code() in _BROKEN:
        return _TryAgainError(reason, reached=True)
    return None


def _says_not_done(failure: HiveError | RelayedError) -> bool:
    """Whether a failure says that its own try did nothing, which tells nothing of an earlier one."""
    if isinstance(failure, HiveError):
        return failure.outcome is Outcome.RETRY
    code = code_in(tuple(failure.error.trailing_metadata() or ()))
    return code is None or outcome_of(code) is Outcome.RETRY


def _doubt(reason: str) -> HiveError:
    """What a caller is told of a write of which an earlier try may have been done."""
    return HiveError(
        Code.OUTCOME_UNKNOWN,
        f"the leader went away, and it is not known whether it was done ({reason}): repeat the call with the same "
        f"{IDEMPOTENCY_KEY} to learn it",
    )


def _source_gone() -> HiveError:
    """What a caller is told of a stream that broke off in its midst."""
    return HiveError(Code.NODE_OFFLINE, "the node that was sending went away: ask again")


class Forwarder:
    """Carries calls to the leader.

    Args:
        me: this node, which never forwards to itself.
        link_to: the link to a peer, by its address.
    """

    def __init__(self, me: NodeId, leadership: Leadership, link_to: Callable[[PeerAddress], PeerLink]) -> None:
        self._me = me
        self._leadership = leadership
        self._link_to = link_to

    async def unary(
        self, call: Call, request: bytes, here: Callable[[], Awaitable[Any]]
    ) -> tuple[Any, Metadata | None]:
        """Answers a unary call at the right place.

        Args:
            here: answers it on this node; called whenever this node's standing allows it.
        Returns:
            What `here` returned and None, or the target's response bytes and trailing metadata.
        """
        reached = False
        patience = _Patience()
        while True:
            begun: float | None = None
            try:
                if call.answered_here(self._leadership.standing()):
                    begun = asyncio.get_running_loop().time()
                    return await self._answer_here(call, here), None
                leader = await self._leader(call, patience)
                return await self._send(call, leader, request, patience)
            except _TryAgainError as again:
                reached = reached or again.reached
                patience.lacking(begun)
                if patience.left_s() <= 0:
                    raise self._nobody(call, reached, str(again)) from again
                await self._pause(call, reached, str(again))
            except (HiveError, RelayedError) as failure:
                if reached and call.route.writes and _says_not_done(failure):
                    raise _doubt(str(failure)) from failure
                raise

    async def _answer_here(self, call: Call, here: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await here()
        except HiveError as error:
            # Leadership may be lost while the call is being decided; the next leader is asked then.
            if isinstance(error, DeadlinePassedError) or error.code not in (Code.NO_LEADER, Code.OUTCOME_UNKNOWN):
                raise
            raise _TryAgainError(error.message, reached=error.code is Code.OUTCOME_UNKNOWN) from error

    @staticmethod
    def _nobody(call: Call, reached: bool, reason: str) -> HiveError:
        """What a call is told that found nobody to ask for as long as it is willing to wait."""
        return _doubt(reason) if reached and call.route.writes else HiveError(Code.NO_LEADER, reason)

    async def _pause(self, call: Call, reached: bool, reason: str) -> None:
        """Waits a moment before the next try; raises at the deadline."""
        await asyncio.sleep(max(min(RETRY_PAUSE_S, call.remaining_s()), 0))
        if call.remaining_s() > 0:
            return
        if reached and call.route.writes:
            raise deadline_error(call.route)
        raise HiveError(Code.NO_LEADER, f"no leader could be asked in time ({reason}): try again")

    async def _leader(self, call: Call, patience: _Patience) -> PeerAddress:
        if call.hops >= HOPS_MAX:
            raise HiveError(Code.NO_LEADER, "the node that was thought to lead does not: try again")
        deadline_s = min(patience.left_s(), max(call.remaining_s(), 0))
        leader = await self._leadership.leader(deadline_s)
        if leader.node_id == self._me:
            # Just elected: the standing follows as soon as this node may answer.
            raise _TryAgainError("this node was just elected", reached=False)
        return leader

    async def _connect(self, call: Call, leader: PeerAddress) -> tuple[PeerLink, Connection]:
        """The connection to a leader; a dial is waited for as an answer is, under a patience of its own: nobody is asked yet."""
        link = self._link_to(leader)
        if link.ready is not None:
            return link, link.ready
        dialled = asyncio.ensure_future(link.connect(min(CONNECT_TIMEOUT_S, max(call.remaining_s(), 0))))
        try:
            await self._watch(call, leader.node_id, dialled, _Patience(), reached=False)
            return link, await dialled
        except HiveError as error:
            raise _TryAgainError(error.message, reached=False) from error
        finally:
            _let_go(dialled)

    def _carried(self, call: Call, connection: Connection) -> list[tuple[str, str]]:
        carried = [*connection.metadata, (HOPS, str(call.hops + 1)), (ORIGIN, call.caller.origin)]
        if call.caller.through:
            carried.append((THROUGH, call.caller.through))
        if call.token:
            carried.append((AUTHORIZATION, f"Bearer {call.token}"))
        if call.caller.idempotency_key:
            carried.append((IDEMPOTENCY_KEY, call.caller.idempotency_key))
        return carried

    async def _send(
        self, call: Call, leader: PeerAddress, request: bytes, patience: _Patience
    ) -> tuple[bytes, Metadata]:
        link, connection = await self._connect(call, leader)
        patience.found()
        invoke = connection.unary(call.route.method)
        sent = asyncio.ensure_future(
            _outcome(invoke(request, timeout=max(call.remaining_s(), 0), metadata=self._carried(call, connection)))
        )
        try:
            await self._watch(call, leader.node_id, sent, patience, reached=True)
            return await sent
        except grpc.aio.AioRpcError as error:
            link.note_failure(connection, error)
            again = _judge(error)
            if again is not None:
                raise again from error
            if (
                error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                and code_in(tuple(error.trailing_metadata() or ())) is None
            ):
                raise _TryAgainError(f"{leader.node_id} did not answer", reached=True) from error
            raise RelayedError(error) from error
        except LostCallError as error:
            raise _TryAgainError("the connection was closed", reached=True) from error
        finally:
            _let_go(sent)

    async def _watch(
        self, call: Call, target: NodeId, sent: asyncio.Future[Any], patience: _Patience, *, reached: bool
    ) -> None:
        """Returns when a call to a leader, or its dial, has ended; raises _TryAgainError when that need not be waited for."""
        while not (await asyncio.wait({sent}, timeout=min(LOOK_S, max(call.remaining_s(), 0))))[0]:
            if call.remaining_s() <= 0:
                raise _TryAgainError(f"{target} did not answer", reached=reached)
            if await self._moved(target, patience):
                raise _TryAgainError(f"{target} leads no longer", reached=reached)

    async def _moved(self, target: NodeId, patience: _Patience) -> bool:
        """Whether this node leads, knows of another leader by now, or has known of none for longer than an election."""
        if self._leadership.standing() is Standing.LEADER:
            return True
        try:
            leader = await self._leadership.leader(0)
        except HiveError:
            return patience.lacking() >= LEADERLESS_S
        patience.found()
        return leader.node_id != target

    async def download(
        self, call: Call, request: bytes, here: Callable[[], AsyncGenerator[bytes, None]]
    ) -> AsyncGenerator[bytes, None]:
        """Answers a call with a stream of responses at the right place; tried again until its first piece came."""
        patience = _Patience()
        while True:
            if call.answered_here(self._leadership.standing()):
                async with aclosing(here()) as own:
                    async for piece in own:
                        yield piece
                return
            started = False
            try:
                leader = await self._leader(call, patience)
                link, connection = await self._connect(call, leader)
                patience.found()
                stream = connection.unary_stream(call.route.method)(
                    request, timeout=max(call.remaining_s(), 0), metadata=self._carried(call, connection)
                )
                try:
                    async for piece in stream:
                        started = True
                        yield piece
                    return
                except grpc.aio.AioRpcError as error:
                    link.note_failure(connection, error)
                    again = _judge(error)
                    if again is None:
                        raise RelayedError(error) from error
                    if started:
                        raise _source_gone() from error
                    raise again from error
                except asyncio.CancelledError:
                    if not closed_under_it():
                        raise
                    if started:
                        raise _source_gone() from None
                    raise _TryAgainError("the connection was closed", reached=True) from None
                finally:
                    stream.cancel()
            except _TryAgainError as error:
                patience.lacking()
                if patience.left_s() <= 0:
                    raise self._nobody(call, False, str(error)) from error
                await self._pause(call, False, str(error))

    async def upload(
        self,
        call: Call,
        pieces: AsyncIterator[bytes],
        here: Callable[[], Awaitable[Any]],
    ) -> tuple[Any, Metadata | None]:
        """Answers a call with a stream of requests at the right place; tried again until its first piece was taken."""
        patience = _Patience()
        while True:
            try:
                if call.answered_here(self._leadership.standing()):
                    return await here(), None
                leader = await self._leader(call, patience)
                link, connection = await self._connect(call, leader)
                patience.found()
            except _TryAgainError as error:
                patience.lacking()
                if patience.left_s() <= 0:
                    raise self._nobody(call, False, str(error)) from error
                await self._pause(call, False, str(error))
                continue
            sent = connection.stream_unary(call.route.method)(
                timeout=max(call.remaining_s(), 0), metadata=self._carried(call, connection)
            )
            passing = asyncio.ensure_future(_passed(Upload(sent, None), pieces))
            try:
                await self._watch(call, leader.node_id, passing, patience, reached=True)
                response, trailing = await passing
                return response, relayed_metadata(trailing)
            except _TryAgainError as error:
                raise HiveError(Code.OUTCOME_UNKNOWN, f"{error}: repeat the upload") from error
            except grpc.aio.AioRpcError as error:
                link.note_failure(connection, error)
                again = _judge(error)
                if again is not None and again.reached:
                    raise HiveError(Code.OUTCOME_UNKNOWN, "the leader went away: repeat the upload") from error
                if again is not None:
                    raise HiveError(Code.NO_LEADER, f"{again}: repeat the upload") from error
                raise RelayedError(error) from error
            except LostCallError:
                raise HiveError(Code.OUTCOME_UNKNOWN, "the leader went away: repeat the upload") from None
            finally:
                _let_go(passing)
                sent.cancel()


def _let_go(task: asyncio.Future[Any]) -> None:
    """Ends what nobody waits for any more; its failure counts as seen."""
    if not task.cancel() and not task.cancelled():
        task.exception()


async def _outcome(sent: Any) -> tuple[bytes, Metadata]:
    """The response and trailing metadata of a call that was sent; LostCallError when its channel was closed under it."""
    try:
        response = await sent
    except asyncio.CancelledError:
        if closed_under_it():
            raise LostCallError from None
        sent.cancel()
        raise
    return response, relayed_metadata(await sent.trailing_metadata())


async def _passed(upload: Upload, pieces: AsyncIterator[bytes]) -> tuple[bytes, Metadata]:
    """What an upload was answered; LostCallError when its channel was closed under it."""
    try:
        return await upload.send(pieces)
    except asyncio.CancelledError:
        if closed_under_it():
            raise LostCallError from None
        raise
