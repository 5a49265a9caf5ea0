"""Addresses at which nothing is said."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from tests.integration.transport.parts import DEADLINE_S


class Silent:
    """Takes connections, and says nothing on them."""

    def __init__(self) -> None:
        self.taken: list[asyncio.Task[None]] = []
        self.one_came = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.taken.append(task)
        self.one_came.set()
        with contextlib.suppress(OSError):
            while await reader.read(1 << 16):
                pass
        writer.close()

    async def all_ended(self) -> None:
        """Waits until whoever came has closed its connection."""
        async with asyncio.timeout(DEADLINE_S):
            await self.one_came.wait()
            await asyncio.wait(self.taken)


@contextlib.asynccontextmanager
async def silent(count: int, *shown: socket.socket) -> AsyncIterator[tuple[Silent, tuple[str, ...]]]:
    """So many addresses at which nothing is said, and those of some bound sockets, which it closes."""
    there = Silent()
    servers = [await asyncio.start_server(there.take, "127.0.0.1", 0) for _ in range(count)]
    servers += [await asyncio.start_server(there.take, sock=bound) for bound in shown]
    try:
        yield there, tuple(f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers)
    finally:
        for server in servers:
            server.close()
