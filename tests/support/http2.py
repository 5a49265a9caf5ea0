"""One HTTP/2 connection, frame by frame (RFC 9113): for what no client of gRPC does."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Final

from hivenode.config import split_address

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS: Final = 4
PING: Final = 6
GOAWAY: Final = 7
ACK: Final = 1


class Http2:
    """A connection that answers settings and pings as it must, and otherwise does what the test says.

    `farewell` is what the server said before it closed the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.farewell = b""

    def send(self, kind: int, payload: bytes = b"", flags: int = 0) -> None:
        """One frame of the connection itself."""
        self._writer.write(len(payload).to_bytes(3, "big") + bytes((kind, flags)) + bytes(4) + payload)

    async def frame(self) -> tuple[int, int] | None:
        """Kind and flags of the next frame; None when the server has closed the connection."""
        try:
            head = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        kind, flags = head[3], head[4]
        if kind == GOAWAY:
            self.farewell = payload
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self.send(kind, payload if kind == PING else b"", ACK)
        return kind, flags

    async def ping(self) -> bool:
        """Whether the server answers."""
        self.send(PING, bytes(8))
        while (frame := await self.frame()) is not None:
            if frame == (PING, ACK):
                return True
        return False

    async def closed(self) -> None:
        """Waits until the server closes the connection."""
        while await self.frame() is not None:
            pass


@contextlib.asynccontextmanager
async def http2(address: str, tls: ssl.SSLContext | None = None, origin: str | None = None) -> AsyncIterator[Http2]:
    """A connection that has said its preface: in plain text without `tls`, from the IP address `origin`."""
    local = None if origin is None else (origin, 0)
    reader, writer = await asyncio.open_connection(*split_address(address), ssl=tls, local_addr=local)
    made = Http2(reader, writer)
    writer.write(PREFACE)
    made.send(SETTINGS)
    try:
        yield made
    finally:
        # A close over TLS waits for the other side's word, which may come after the test's loop has ended.
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
