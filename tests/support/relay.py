"""A way round to a server, by which calls seem to come from another address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from hivenode.config import split_address


@contextlib.asynccontextmanager
async def relay(address: str, source: str, taken: list[asyncio.Task[None]] | None = None) -> AsyncIterator[str]:
    """An address that leads to the given one; whoever comes by it has the IP address `source` there, one of this machine's.

    `taken` gets a task for each connection, which ends with it.
    """
    host, port = split_address(address)

    async def carry(here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if taken is not None and (task := asyncio.current_task()) is not None:
            taken.append(task)
        there, on = await asyncio.open_connection(host, port, local_addr=(source, 0))
        await asyncio.gather(_copy(here, on), _copy(there, back))

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
