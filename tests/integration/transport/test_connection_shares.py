"""Whoever opens connections without end has a share of them, and others have the rest."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import ssl
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest

from hivenode.config import split_address
from hivenode.transport.connection_shares import ConnectionShares
from hivenode.transport.limits import ORIGIN_CONNECTIONS_SHARE, Limits
from tests.integration.transport.parts import DEADLINE_S, nodes
from tests.support.http2 import Http2, http2
from tests.support.parts import own_address

CONNECTIONS = 40
SHARE = CONNECTIONS // ORIGIN_CONNECTIONS_SHARE
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


async def test_the_newest_connections_of_an_address_that_has_more_than_its_share_are_closed() -> None:
    async with (
        nodes(1, limits=Limits(connections=CONNECTIONS)) as (node,),
        AsyncExitStack() as connections,
        asyncio.timeout(DEADLINE_S),
    ):
        address, tls = node.server.peer_address, _tls()

        async def open_from(origin: str) -> Http2 | None:
            """A connection that speaks HTTP/2; None when it was closed before it did."""
            try:
                made = await connections.enter_async_context(http2(address, tls=tls, origin=origin))
            except ConnectionError:
                return None
            return made if await made.ping() else None

        first = await open_from(ELSEWHERE)
        assert first is not None
        opened = await asyncio.gather(*(open_from(ELSEWHERE) for _ in range(CONNECTIONS - 1)))
        closed = [asyncio.ensure_future(made.closed()) for made in opened if made is not None]
        surplus = CONNECTIONS - SHARE - opened.count(None)
        while sum(ending.done() for ending in closed) < surplus:
            await asyncio.wait([ending for ending in closed if not ending.done()], return_when=asyncio.FIRST_COMPLETED)
        assert await first.ping()
        own = [await open_from(HERE) for _ in range(SHARE)]
        assert all([made is not None and await made.ping() for made in own])
        assert sum(ending.done() for ending in closed) == surplus
        for ending in closed:
            ending.cancel()
        await asyncio.wait(closed)


async def test_an_api_served_to_other_machines_has_a_share_for_each_and_none_for_its_own() -> None:
    other_machine = own_address()
    async with (
        nodes(1, limits=Limits(connections=CONNECTIONS)) as (node,),
        AsyncExitStack() as connections,
        asyncio.timeout(DEADLINE_S),
    ):
        server = node.make_server("127.0.0.1:0", listen="0.0.0.0:0", insecure=True)
        await server.start()
        connections.push_async_callback(server.stop, 0)
        port = split_address(server.api_address)[1]
        own = [await connections.enter_async_context(http2(f"{HERE}:{port}")) for _ in range(SHARE + 1)]
        assert all([await made.ping() for made in own])
        opened = [
            await connections.enter_async_context(http2(f"{other_machine}:{port}"))
            for _ in range(CONNECTIONS - len(own))
        ]
        closed = [asyncio.ensure_future(made.closed()) for made in opened]
        connections.callback(lambda: [ending.cancel() for ending in closed])
        while sum(ending.done() for ending in closed) < len(opened) - SHARE:
            await asyncio.wait([ending for ending in closed if not ending.done()], return_when=asyncio.FIRST_COMPLETED)
        assert all([await made.ping() for made in own])
        another = await connections.enter_async_context(http2(f"{HERE}:{port}"))
        assert await another.ping()
        assert sum(ending.done() for ending in closed) == len(opened) - SHARE


class _Exhausted(ThreadPoolExecutor):
    """Of a machine that has no thread left for a while."""

    lacks = 3

    def submit(self, *arguments: Any, **named: Any) -> Future[Any]:
        if self.lacks:
            self.lacks -= 1
            raise RuntimeError("can't start new thread")
        return super().submit(*arguments, **named)


async def test_looks_that_fail_are_made_again() -> None:
    async with (
        nodes(1, limits=Limits(connections=CONNECTIONS)) as (node,),
        AsyncExitStack() as connections,
        asyncio.timeout(DEADLINE_S),
    ):
        executor = _Exhausted()
        asyncio.get_running_loop().set_default_executor(executor)
        address = node.server.peer_address
        opened = [await connections.enter_async_context(http2(address, tls=_tls())) for _ in range(SHARE + 1)]
        closed = [asyncio.ensure_future(made.closed()) for made in opened]
        connections.callback(lambda: [ending.cancel() for ending in closed])
        await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED)
        assert executor.lacks == 0
        assert sum(ending.done() for ending in closed) == 1


async def test_connections_that_ended_are_in_nobodys_share() -> None:
    async with nodes(1, limits=Limits(connections=CONNECTIONS)) as (node,), asyncio.timeout(DEADLINE_S):
        served = 0
        while served < 2 * SHARE:
            # The server may see the end of the ones before only after it has seen this one, and closes it.
            with contextlib.suppress(ConnectionError):
                async with http2(node.server.peer_address, tls=_tls()) as connection:
                    served += await connection.ping()


class _Listening:
    """A port of this process, and the connections to it, which have rising numbers: by these a first look tells the newest."""

    def __init__(self, stack: ExitStack, host: str) -> None:
        self._stack = stack
        self._listening = stack.enter_context(socket.create_server((host, 0)))
        self.port = int(self._listening.getsockname()[1])
        self._number = 0

    def open_one(self) -> socket.socket:
        opened = self._stack.enter_context(socket.create_connection(self._listening.getsockname()))
        with self._listening.accept()[0] as accepted:
            self._number = fcntl.fcntl(accepted, fcntl.F_DUPFD_CLOEXEC, self._number + 1)
        self._stack.enter_context(socket.socket(fileno=self._number))
        opened.setblocking(False)
        return opened


async def test_looks_at_the_same_time_count_no_connection_twice() -> None:
    """Each opens the sockets that it looks at a second time for a moment, and the others must not see these."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        listening = _Listening(stack, HERE)
        share = [listening.open_one() for _ in range(CONNECTIONS)]
        for _ in range(20):
            surplus = listening.open_one()
            watches = [ConnectionShares(CONNECTIONS) for _ in range(4)]
            for watch in watches:
                stack.callback(watch.stop)
                watch.watch(listening.port)
                for _ in range(CONNECTIONS + 1):
                    watch.accepted()
            async with asyncio.timeout(DEADLINE_S):
                assert await loop.sock_recv(surplus, 1) == b""
            for opened in share:
                with pytest.raises(BlockingIOError):
                    opened.recv(1)


async def test_plain_text_is_looked_at_as_soon_as_the_other_port_after_something_was_closed() -> None:
    """Else who opens a connection for each that is closed keeps others out: they find room once a second alone."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        untold, told = _Listening(stack, own_address()), _Listening(stack, HERE)
        untold_watch, told_watch = ConnectionShares(1, plain=True), ConnectionShares(1)
        for watch, listening in ((untold_watch, untold), (told_watch, told)):
            stack.callback(watch.stop)
            watch.watch(listening.port)
            listening.open_one()
        told_watch.accepted()
        async with asyncio.timeout(DEADLINE_S):
            assert await loop.sock_recv(untold.open_one(), 1) == b""
            again = untold.open_one()
            for _ in range(8):
                surplus = told.open_one()
                told_watch.accepted()
                assert await loop.sock_recv(surplus, 1) == b""
            assert again.recv(1) == b""
