"""A way round to a server, by which calls seem to come from another address."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from hivenode.config import split_address

CLOSE_S = 10.0


@contextlib.asynccontextmanager
async def relay(
    address: str,
    source: str,
    taken: list[asyncio.Task[None]] | None = None,
    *,
    delay_s: float = 0.0,
    shown: socket.socket | None = None,
) -> AsyncIterator[str]:
    """An address that leads to the given one; whoever comes by it has the IP address `source` there, one of this machine's.

    Args:
        taken: gets a task for each connection, which ends with it.
        delay_s: how long all that is said takes, each way.
        shown: a bound socket for the way round; the relay closes it.
    """
    host, port = split_address(address)
    carried: list[asyncio.Task[None]] = [] if taken is None else taken

    async def carry(here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            carried.append(task)
        try:
            there, on = await asyncio.open_connection(host, port, local_addr=(source, 0))
        except OSError:
            back.close()
            return
        try:
            await asyncio.gather(_copy(here, on, delay_s), _copy(there, back, delay_s))
        finally:
            on.close()
            back.close()

    server = await (
        asyncio.start_server(carry, "127.0.0.1", 0) if shown is None else asyncio.start_server(carry, sock=shown)
    )
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        if delay_s and carried:  # What is on the way would come after the test.
            for task in carried:
                task.cancel()
            await asyncio.wait(carried, timeout=CLOSE_S)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def read() -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                on_the_way.put_nowait((loop.time() + delay_s, data))
        on_the_way.put_nowait((loop.time() + delay_s, b""))

    async def write() -> None:
        with contextlib.suppress(OSError):
            while (item := await on_the_way.get())[1]:
                await asyncio.sleep(item[0] - loop.time())
                writer.write(item[1])
                await writer.drain()
        writer.close()

    await asyncio.gather(read(), write())
