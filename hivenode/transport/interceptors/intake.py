"""What comes before every call: how much memory and how many calls a client may take, before anything of its request is read.

The connection library has one bound on a message for all methods, and reads a message whole before anybody sees it. What it
does not do is read before it is asked to: until then a call costs a flow-control window. So every request is asked for here,
after a look at who calls and what the method can need.

| request | who | size | comes within |
|---|---|---|---|
| of most methods | anybody | `SMALL_BYTES_MAX` | `small_patience_s` |
| with an archive or result in it | whose session stands | `MESSAGE_BYTES_MAX` | `large_patience_s` |
| a stream of a user's | whose session stands | `PIECE_BYTES_MAX` a piece | `STALL_BYTES` each `STALL_S` |
| of a peer's stream | a proven member (`peer_service.py`) | `MESSAGE_BYTES_MAX` a frame | |

Rules
- Few requests are read at once, by turns (`turns.py`), and few streams of a user's (`receptions.py`). Requests of users whose
  session is known before they are read have turns of their own, and so have the small ones of members and of their users, also
  with a ticket that has expired. A member with voter right has read its users' so itself, and waits for neither.
- A streamed answer holds some of its pieces for as long as its caller takes them, so a user has so many of them, by method.
- What has been read counts against `HELD_BYTES_MAX` until its call has ended, and a large answer until it was taken; one client
  may have half of it.
- One connection, and one network, has so many calls under way and no more, and at the peer port all that are no members together
  leave room for the members. A proven member speaks for many, and has a bound of its own (`node_calls.py`).
- Metadata that may be there once and is there twice is refused before anybody reads it, at both ports and of every method.
- Nobody may wait for the health to change: such a call never ends, and costs its caller nothing.
- A caller who does not read its answers is cut off.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager, contextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError, InvariantError
from hivenode.runtime.rate_limit import origin_key
from hivenode.runtime.streams import closing
from hivenode.transport.channels import MESSAGE_BYTES_MAX
from hivenode.transport.interceptors.calls import Context, error_for, origin_of, refuse
from hivenode.transport.interceptors.turns import (
    MEMBERS_TURNS_MAX,
    SLOW_KNOWN_MAX,
    SLOW_STRANGERS_MAX,
    TURNS_MAX,
    USERS_TURNS_MAX,
    Turns,
    overloaded,
)
from hivenode.transport.limits import Limits
from hivenode.transport.metadata import doubled
from hivenode.transport.node_calls import NodeCalls
from hivenode.transport.pace import STALL_S, Pace
from hivenode.transport.peer_link import SERVICE
from hivenode.transport.receptions import Receptions, answers
from hivenode.transport.statuses import MalformedError

SMALL_BYTES_MAX: Final = 4 << 20
"""gRPC's own default, which every client is made for."""
PIECE_BYTES_MAX: Final = 8 << 20
"""A piece of a streamed upload; the command line sends 128 KiB."""
UNCOUNTED_BYTES: Final = 64 << 10
"""Requests up to this size are held by the number of calls alone: as many as there can be calls take 256 MiB."""
HELD_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX
"""Two of the largest requests at once. A board with 1 GiB that leads a hive has this, and the copies made of it, to spare."""
BULKY_AT_ONCE_MAX: Final = 4
"""Answers of up to `MESSAGE_BYTES_MAX` that are made at once, since their size is known only when they are there."""
BULKY_OF_ONE_MAX: Final = 2
"""Of one client."""
WRITE_STALL_S: Final = 60.0
"""A caller that takes no piece of its answer for so long has gone, or means harm."""
CONNECTION_CALLS_MAX: Final = 256
"""Calls under way on one connection that is no peer's: a program with as many threads waits for its own answers."""
ADDRESS_CALLS_MAX: Final = 1_024
"""Of one address, or one /64 of IPv6, a quarter of all; all programs of one machine share it."""
_HEALTH_WATCH: Final = "/grpc.health.v1.Health/Watch"
_STRANGERS: Final = "all strangers"

_TRIM: Final[Any] = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Of glibc alone; elsewhere there is nothing to do."""

Prove = Callable[[Context], Awaitable[str]]
"""The name of the user whose session stands. Raises INVALID_SESSION, or NO_LEADER where nobody can know."""


class Intake(grpc.aio.ServerInterceptor):
    """Asks for the requests of all calls of a daemon, and keeps the bounds of this module.

    Args:
        large: the methods whose requests may have `MESSAGE_BYTES_MAX`.
        bulky: the methods whose answers, each one message, may have it.
        uploads: the methods of users that are streams of requests.
        downloads: the methods of users that are streams of answers, and how many of these there may be at once.
        prove: who calls, for `large` and `uploads`.
        user_here: who calls, as far as this node knows.
        member_of: the proven member that makes a call; None for everybody else.
        lapsed_member_of: the member whose ticket, merely expired, a call shows; None for everybody else.
        is_voter: whether a member has voter right.
        node_calls: counts the members' calls.
        on_broken: told of a broken invariant, which stops the daemon.
        limits: what is allowed at the most.
    """

    def __init__(
        self,
        *,
        large: Collection[str],
        bulky: Collection[str],
        uploads: Collection[str],
        downloads: Mapping[str, int],
        prove: Prove,
        user_here: Callable[[Context], Awaitable[str]],
        member_of: Callable[[Context], NodeId | None],
        lapsed_member_of: Callable[[Context], NodeId | None],
        is_voter: Callable[[NodeId], bool],
        node_calls: NodeCalls,
        on_broken: Callable[[InvariantError], None],
        limits: Limits,
    ) -> None:
        self._large = frozenset(large)
        self._bulky = frozenset(bulky)
        self._making_bulky = Receptions(
            places=BULKY_AT_ONCE_MAX, client_places=BULKY_OF_ONE_MAX, what="large answers are being made"
        )
        self._uploads = frozenset(uploads)
        self._answering = {
            method: answers(places, f"calls of {method.rpartition('/')[2]} are being answered")
            for method, places in downloads.items()
        }
        self._prove = prove
        self._user_here = user_here
        self._member_of = member_of
        self._lapsed_member_of = lapsed_member_of
        self._is_voter = is_voter
        self._node_calls = node_calls
        self._on_broken = on_broken
        self._limits = limits
        self._receptions = Receptions()
        self._handlers: dict[str, Any] = {}
        self._calls: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._held_bytes = 0
        self._turns = Turns(TURNS_MAX, SLOW_STRANGERS_MAX)
        self._users_turns = Turns(USERS_TURNS_MAX, SLOW_KNOWN_MAX)
        self._members_turns = Turns(MEMBERS_TURNS_MAX, SLOW_KNOWN_MAX)
        self._giving_back: asyncio.Future[int] | None = None

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = str(handler_call_details.method)
        if method == _HEALTH_WATCH:
            return None
        known = self._handlers.get(method)
        if known is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None  # Not remembered: strangers can make up any number of names.
            known = self._handlers[method] = self._lazily(method, handler)
        if name := doubled(handler_call_details.invocation_metadata):
            return _refusing(MalformedError(f"the metadata may have {name} once; it is there twice or more often"))
        return known

    def _lazily(self, method: str, handler: Any) -> Any:
        """A handler that reads for itself what gRPC would have read before it."""
        parts: dict[str, Any] = {"response_serializer": handler.response_serializer}
        if handler.request_streaming:
            if method.startswith(SERVICE):
                return handler
            if method not in self._uploads:
                return grpc.stream_stream_rpc_method_handler(self._conversation(method, handler), None, **parts)
            return grpc.stream_unary_rpc_method_handler(
                self._upload(method, handler), handler.request_deserializer, **parts
            )
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._download(method, handler), None, **parts)
        if method in self._bulky:
            # On the wire a stream of one message is a message; but its sender sees when it has been taken.
            return grpc.stream_stream_rpc_method_handler(self._bulky_unary(method, handler), None, **parts)
        return grpc.stream_unary_rpc_method_handler(self._unary(method, handler), None, **parts)

    # --- one function a shape ------------------------------------------------------------------------------------

    def _unary(self, method: str, handler: Any) -> Any:
        async def answer(requests: Any, context: Context) -> Any:
            async with self._request(method, handler, context) as request:
                try:
                    return await handler.unary_unary(request, context)
                finally:
                    del request

        return answer

    def _bulky_unary(self, method: str, handler: Any) -> Any:
        async def answer(requests: Any, context: Context) -> None:
            async with self._request(method, handler, context) as request:
                client = await self._client_here(context)
                with ExitStack() as held:
                    async with self._making_bulky.place(client):
                        response = await handler.unary_unary(request, context)
                        held.enter_context(self._share_of_memory(client, len(response)))
                    await write(context, response)
                    del response

        return answer

    def _download(self, method: str, handler: Any) -> Any:
        answering = self._answering.get(method)

        async def answer(requests: Any, context: Context) -> None:
            async with self._request(method, handler, context) as request, AsyncExitStack() as stack:
                if answering is not None:
                    await stack.enter_async_context(answering.place(await self._client_here(context)))
                if not inspect.isasyncgenfunction(handler.unary_stream):
                    await handler.unary_stream(request, context)
                    return
                async with aclosing(handler.unary_stream(request, context)) as messages:
                    async for message in messages:
                        await write(context, message)

        return answer

    def _upload(self, method: str, handler: Any) -> Any:
        async def answer(requests: AsyncIterator[Any], context: Context) -> Any:
            try:
                with self._share_of_calls(context):
                    user = await self._prove(context)
                    async with AsyncExitStack() as stack:
                        if not self._is_from_voter(context):
                            await stack.enter_async_context(self._receptions.place(f"user:{user}"))
                        pieces = await stack.enter_async_context(closing(_pieces(context)))
                        return await handler.stream_unary(pieces, context)
            except HiveError as error:
                await refuse(context, error)
            except BaseException as error:
                await self._refuse_failed(method, context, error)
                raise

        return answer

    def _conversation(self, method: str, handler: Any) -> Any:
        """A stream of small requests, answered one by one, as reflection is."""

        async def requests_of(context: Context) -> AsyncGenerator[Any, None]:
            while (data := await self._read(context, user="", large=False)) is not None:
                yield _parsed(handler, data)

        async def answer(requests: Any, context: Context) -> None:
            try:
                with self._share_of_calls(context):
                    async with (
                        aclosing(requests_of(context)) as asked,
                        aclosing(handler.stream_stream(asked, context)) as messages,
                    ):
                        async for message in messages:
                            await write(context, message)
            except HiveError as error:
                await refuse(context, error)
            except BaseException as error:
                await self._refuse_failed(method, context, error)
                raise

        return answer

    @asynccontextmanager
    async def _request(self, method: str, handler: Any, context: Context) -> AsyncIterator[Any]:
        """The request of a call, its share taken until the call ends; whatever is wrong with it ends the call."""
        data: bytes | None = None
        request: Any = None
        try:
            with self._share_of_calls(context):
                large = method in self._large
                user = await self._prove(context) if large else await self._user_seen(context)
                data = await self._read(context, user=user, large=large)
                if data is None:
                    raise MalformedError("the call ended without a request")
                with self._share_of_memory(f"user:{user}" if user else _network(context), len(data)):
                    request = _parsed(handler, data)
                    data = None
                    yield request
        except HiveError as error:
            data = request = None
            _let_go(error)
            await refuse(context, error)
        except BaseException as error:
            data = request = None
            _let_go(error)
            await self._refuse_failed(method, context, error)
            raise

    async def _refuse_failed(self, method: str, context: Context, error: BaseException) -> None:
        """Tells the caller, when the call was broken off with the membership of the node that brought it, or by what nobody
        expected. What gRPC itself raises is the end of a call that was answered, or whose caller has gone."""
        if (refusal := self._node_calls.refusal(error)) is not None:
            await refuse(context, refusal)
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.BaseError):
            await refuse(context, error_for(method, error, self._on_broken))

    # --- shares --------------------------------------------------------------------------------------------------

    @contextmanager
    def _share_of_calls(self, context: Context) -> Iterator[None]:
        """Counts a call of a client. Raises OVERLOADED."""
        if (member := self._member_of(context)) is not None:
            self._node_calls.note(member)
            yield
            return
        peer = context.peer()
        network = _network(context)
        bounds = [(peer, CONNECTION_CALLS_MAX), (network, ADDRESS_CALLS_MAX)]
        if _is_at_peer_port(context):
            bounds.append((_STRANGERS, self._limits.strangers_calls))
        for key, most in bounds:
            if self._calls[key] >= most:
                whose = "strangers" if key == _STRANGERS else "this client"
                raise HiveError(
                    Code.OVERLOADED, f"{most} calls of {whose} are under way: wait for some to end, then try again"
                )
        for key, _ in bounds:
            self._calls[key] += 1
        try:
            yield
        finally:
            for key, _ in bounds:
                _take_off(self._calls, key, 1)

    async def _client_here(self, context: Context) -> str:
        """Whose answer it is: who shows no session before the request is looked at counts with all from the same place."""
        user = await self._user_here(context)
        return f"user:{user}" if user else _network(context)

    async def _user_seen(self, context: Context) -> str:
        """The user whose session a call shows, when this node can tell at once; else empty.

        Whether the session is good is asked again when the request is there: this gives nothing but turns, and refuses nothing.
        """
        if self._member_of(context) is not None:
            return ""  # Its turns are the member's.
        try:
            # What is known here needs no waiting; a look at the leader is not for strangers.
            async with asyncio.timeout(0):
                return await self._user_here(context)
        except (HiveError, TimeoutError):
            return ""

    def _is_from_voter(self, context: Context) -> bool:
        member = self._member_of(context)
        return member is not None and self._is_voter(member)

    @contextmanager
    def _share_of_memory(self, client: str, size_bytes: int) -> Iterator[None]:
        """Counts what a request holds. Raises OVERLOADED."""
        if size_bytes <= UNCOUNTED_BYTES:
            yield
            return
        if self._held_bytes + size_bytes > HELD_BYTES_MAX or self._held[client] + size_bytes > HELD_BYTES_MAX // 2:
            raise overloaded()
        self._held_bytes += size_bytes
        self._held[client] += size_bytes
        try:
            yield
        finally:
            self._held_bytes -= size_bytes
            _take_off(self._held, client, size_bytes)
            self._give_back()

    def _give_back(self) -> None:
        """Lets the system have the memory that large requests came in, which glibc would keep in pieces."""
        if _TRIM is not None and (self._giving_back is None or self._giving_back.done()):
            self._giving_back = asyncio.get_running_loop().run_in_executor(None, _TRIM, 0)

    # --- reading -------------------------------------------------------------------------------------------------

    async def _read(self, context: Context, *, user: str, large: bool) -> bytes | None:
        """The next request of a call, as bytes; None when there is none. Raises OVERLOADED, INVALID_ARGUMENT.

        Args:
            user: whose session was shown; empty when none was.
        """
        member = self._member_of(context)
        is_from_voter = member is not None and self._is_voter(member)
        if member is None:
            # Its old ticket is good for this turn alone: what it asks is refused, and then it proves itself again.
            member = self._lapsed_member_of(context)
        patience_s = self._limits.large_patience_s if large else self._limits.small_patience_s
        data: Any
        if is_from_voter:
            data = await context.read()
        elif member is not None and not large:
            data = await self._members_turns.read(context.read, connection=member, client=member, patience_s=patience_s)
        elif user:
            data = await self._users_turns.read(context.read, connection=user, client=user, patience_s=patience_s)
        else:
            data = await self._turns.read(
                context.read, connection=context.peer(), client=_network(context), patience_s=patience_s
            )
        if data is grpc.aio.EOF:
            return None
        size_bytes, size_bytes_max = len(data), MESSAGE_BYTES_MAX if large else SMALL_BYTES_MAX
        if size_bytes > size_bytes_max:
            del data  # Or the refusal would keep it, as long as it lives itself.
            self._give_back()
            raise MalformedError(f"a request of this method may have {size_bytes_max} bytes; this one has {size_bytes}")
        request: bytes = data
        return request


async def write(context: Context, message: Any) -> None:
    """Sends one message of an answer. Raises OVERLOADED when the caller does not take it, NODE_OFFLINE when it has gone.

    One that goes while a message is under way ends the write, or cancels the call, whichever is seen first.
    """
    try:
        async with asyncio.timeout(WRITE_STALL_S):
            await context.write(message)
    except TimeoutError:
        raise HiveError(Code.OVERLOADED, f"nothing of the answer was taken for {WRITE_STALL_S:g} s") from None
    except grpc.aio.InternalError:
        raise HiveError(Code.NODE_OFFLINE, "the caller has gone") from None


async def _pieces(context: Context) -> AsyncGenerator[Any, None]:
    """The requests of a stream. Raises OVERLOADED when it trickles, INVALID_ARGUMENT for a piece that is too large."""
    pace = Pace(STALL_S)
    while True:
        try:
            async with asyncio.timeout_at(pace.ends):
                piece: Any = await context.read()
        except TimeoutError:
            raise pace.refusal() from None
        if piece is grpc.aio.EOF:
            return
        size_bytes = len(piece)
        if size_bytes > PIECE_BYTES_MAX:
            del piece  # Or the refusal would keep it, as long as it lives itself.
            raise MalformedError(f"a piece of an upload may have {PIECE_BYTES_MAX} bytes; this one has {size_bytes}")
        pace.moved(size_bytes)
        yield piece


def _network(context: Context) -> str:
    """Where a caller is: its address, or of IPv6 its /64, in which one machine has as many addresses as it likes."""
    return origin_key(origin_of(context.peer()))


def _is_at_peer_port(context: Context) -> bool:
    """Whether a call came over TLS, which that port alone speaks."""
    return bool(context.auth_context().get("transport_security_type") == [b"ssl"])


def _refusing(error: HiveError) -> Any:
    """A handler that reads nothing of a call."""

    async def answer(requests: Any, context: Context) -> None:
        await refuse(context, error)

    return grpc.stream_stream_rpc_method_handler(answer)


def _parsed(handler: Any, data: bytes) -> Any:
    if handler.request_deserializer is None:
        return data
    try:
        return handler.request_deserializer(data)
    except DecodeError as error:
        raise MalformedError("this is no request of this method") from error


def _let_go(error: BaseException | None) -> None:
    """Empties the frames of a failure that are over: grpc.aio keeps it in a cycle, and so the request that they hold."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _take_off(counter: Counter[str], key: str, amount: int) -> None:
    counter[key] -= amount
    if not counter[key]:
        del counter[key]
