"""Whoever opens connections without end has a share of them, and others have the rest."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from contextlib import AsyncExitStack

from hivenode.transport.limits import ORIGIN_CONNECTIONS_SHARE, Limits
from tests.integration.transport.parts import DEADLINE_S, nodes
from tests.support.http2 import Http2, http2

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


async def test_connections_that_ended_are_in_nobodys_share() -> None:
    async with nodes(1, limits=Limits(connections=CONNECTIONS)) as (node,), asyncio.timeout(DEADLINE_S):
        served = 0
        while served < 2 * SHARE:
            # The server may see the end of the ones before only after it has seen this one, and closes it.
            with contextlib.suppress(ConnectionError):
                async with http2(node.server.peer_address, tls=_tls()) as connection:
                    served += await connection.ping()
