"""Takes every call of the API: reads what it carries, brings it to where it is answered, and says what came of it.

Requests stay bytes until a handler of this node wants them, so that a forwarded call is passed on untouched.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import grpc

from hivenode.errors import Code, HiveError, InvariantError, ensure
from hivenode.runtime.copies import acknowledged_copies
from hivenode.runtime.ports import Accounts, Leadership, Standing
from hivenode.transport.bounds import check
from hivenode.transport.forwarding import Forwarder, RelayedError, relayed_metadata
from hivenode.transport.interceptors.calls import (
    Call,
    Context,
    PeerCheck,
    deadline_error,
    error_for,
    open_call,
    refusal_in,
    refuse,
    token_in,
    trail_refusal,
)
from hivenode.transport.interceptors.intake import write
from hivenode.transport.metadata import COPIES, Metadata
from hivenode.transport.parsing import parse, parse_answer
from hivenode.transport.routing import ROUTES, Access, Route, Shape
from hivenode.transport.services.handlers import Handler
from hivenode.transport.statuses import SUCCESS_METADATA, error_of

_WHO_AM_I: Final = ROUTES["/hive.HiveService/WhoAmI"]
NO_TOKEN: Final = "log in first, and send `authorization: Bearer <token>` in the call's metadata"


class Router(grpc.GenericRpcHandler):
    """Serves all routes.

    Args:
        handlers: a function for every route; see `services/handlers.py`.
        check_peer: who holds a peer ticket.
        on_broken: told of a broken invariant, which stops the daemon.
    """

    def __init__(
        self,
        *,
        handlers: Mapping[str, Handler],
        accounts: Accounts,
        leadership: Leadership,
        forwarder: Forwarder,
        check_peer: PeerCheck,
        on_broken: Callable[[InvariantError], None],
    ) -> None:
        ensure(handlers.keys() == ROUTES.keys(), "the handlers are not those of the routes")
        self._accounts = accounts
        self._leadership = leadership
        self._forwarder = forwarder
        self._check_peer = check_peer
        self._on_broken = on_broken
        self._methods = {name: self._method(route, handlers[name]) for name, route in ROUTES.items()}

    async def prove(self, context: Context) -> str:
        """The user whose session a call shows, before its request is read. A node that cannot know asks the leader.

        Raises:
            HiveError: INVALID_SESSION; NO_LEADER when nobody who knows could be asked for `forwarding.LEADER_WAIT_S`.
        """
        if not token_in(context):
            raise HiveError(Code.INVALID_SESSION, NO_TOKEN)
        call = open_call(_WHO_AM_I, context, self._check_peer)

        async def here() -> str:
            return (await self._accounts.authenticate(call.token)).username

        try:
            answer, relayed = await self._forwarder.unary(call, b"", here)
        except RelayedError as error:
            raise error_of(error.error, "the leader") from error
        return str(answer if relayed is None else parse_answer(_WHO_AM_I.response, answer, "the leader").username)

    async def user_here(self, context: Context) -> str:
        """The user whose session a call shows in its metadata, as far as this node itself knows; else empty.

        Raises:
            HiveError: INVALID_SESSION.
        """
        token = token_in(context)
        if not token or self._leadership.standing() is Standing.LIGHT:
            return ""
        try:
            return (await self._accounts.authenticate(token)).username
        except HiveError as error:
            if error.code is not Code.NO_LEADER:
                raise
            return ""  # The call may wait longer for a leader than this look does.

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(str(handler_call_details.method))

    def _method(self, route: Route, handler: Handler) -> Any:
        match route.shape:
            case Shape.UNARY:
                return grpc.unary_unary_rpc_method_handler(self._unary(route, handler))
            case Shape.UPLOAD:
                return grpc.stream_unary_rpc_method_handler(self._upload(route, handler))
            case Shape.DOWNLOAD:
                return grpc.unary_stream_rpc_method_handler(self._download(route, handler))

    # --- one function a shape ------------------------------------------------------------------------------------

    def _unary(self, route: Route, handler: Handler) -> Any:
        async def answer(data: bytes, context: Context) -> bytes:
            try:
                call = open_call(route, context, self._check_peer)

                async def here() -> bytes:
                    return await self._answer(call, handler, data)

                response, trailing = await self._forwarder.unary(call, data, here)
            except Exception as error:
                return await self._failed(route, error, context)
            context.set_trailing_metadata(_success_metadata() if trailing is None else trailing)
            return bytes(response)

        return answer

    def _upload(self, route: Route, handler: Handler) -> Any:
        async def answer(pieces: AsyncIterator[bytes], context: Context) -> bytes:
            try:
                call = open_call(route, context, self._check_peer)

                async def here() -> bytes:
                    async with asyncio.timeout_at(call.deadline), aclosing(_parse_all(route, pieces)) as requests:
                        await self._authenticate(call, None)
                        response: bytes = (await handler(requests, call)).SerializeToString()
                        return response

                response, trailing = await self._forwarder.upload(call, pieces, here)
            except Exception as error:
                return await self._failed(route, error, context)
            context.set_trailing_metadata(_success_metadata() if trailing is None else trailing)
            return bytes(response)

        return answer

    def _download(self, route: Route, handler: Handler) -> Any:
        async def answer(data: bytes, context: Context) -> None:
            try:
                call = open_call(route, context, self._check_peer)

                async def here() -> AsyncGenerator[bytes, None]:
                    request = parse(route.request, data)
                    await self._authenticate(call, request)
                    check(request)
                    async with aclosing(handler(request, call)) as messages:
                        async for message in messages:
                            # A session that ends meanwhile ends what is told of its user's tasks.
                            await self._still_proven(call)
                            yield message.SerializeToString()

                async with asyncio.timeout_at(call.deadline):
                    async with aclosing(self._forwarder.download(call, data, here)) as pieces:
                        async for piece in pieces:
                            await write(context, piece)
            except Exception as error:
                await self._failed(route, error, context)
                return
            context.set_trailing_metadata(SUCCESS_METADATA)

        return answer

    # --- here ----------------------------------------------------------------------------------------------------

    async def _answer(self, call: Call, handler: Handler, data: bytes) -> bytes:
        """A unary call answered by this node."""
        route = call.route
        request = parse(route.request, data)
        try:
            async with asyncio.timeout_at(call.deadline):
                await self._authenticate(call, request)
                check(request)
                message = await handler(request, call)
                await self._still_proven(call)
                response: bytes = message.SerializeToString()
                return response
        except TimeoutError:
            raise deadline_error(route) from None

    async def _authenticate(self, call: Call, request: Any) -> None:
        """Finds out who calls, and refuses who may not."""
        route = call.route
        if route.access is Access.ANYONE or call.by_owner:
            return
        if not call.token and route.token_field and request is not None:
            call.token = getattr(request, route.token_field)
        if not call.token:
            raise HiveError(Code.INVALID_SESSION, NO_TOKEN)
        if route.access is Access.TOKEN:
            return
        # Before the barrier, since asking a quorum is not for strangers.
        call.proven = await self._accounts.authenticate(call.token)
        if route.barrier:
            await self._leadership.read_barrier(max(call.remaining_s(), 0))
        role = route.access.role
        if role is not None and not self._accounts.role_of(call.session).includes(role):
            raise HiveError(Code.PERMISSION_DENIED, f"this takes the role {role.value}: an admin of the hive gives it")

    async def _still_proven(self, call: Call) -> None:
        """Refuses a read whose session had ended when the read barrier was passed: this node may have been behind before.

        A write looks at the session when it is applied.
        """
        if call.proven is not None and not call.route.writes:
            await self._accounts.authenticate(call.token)

    async def _failed(self, route: Route, error: Exception, context: Context) -> bytes:
        """Says what went wrong: as the documented response where it can carry it, else as the gRPC status."""
        if isinstance(error, RelayedError):
            relayed = error.error
            trailing = relayed_metadata(relayed.trailing_metadata())
            await context.abort(relayed.code(), relayed.details() or "", trailing)
        if isinstance(error, TimeoutError):
            error = deadline_error(route)
        said = error_for(route.method, error, self._on_broken)
        response = refusal_in(route.response, said) if route.shape is not Shape.DOWNLOAD else None
        if response is None:
            await refuse(context, said)
        trail_refusal(context, said)
        data: bytes = response.SerializeToString()
        return data


def _success_metadata() -> Metadata:
    """What trails a call that was answered here; a write says how many copies of it there are."""
    copies = acknowledged_copies.get()
    return (*SUCCESS_METADATA, (COPIES, str(copies))) if copies else SUCCESS_METADATA


async def _parse_all(route: Route, pieces: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
    async for piece in pieces:
        request = parse(route.request, piece)
        check(request)
        yield request
