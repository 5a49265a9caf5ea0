"""A client of its own that begins messages of gRPC and never ends them, which gRPC's own clients do not do.

It speaks as much of HTTP/2 as that takes: it keeps to the windows that it is given and answers pings, so that nobody can tell it
from a slow network.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from hivenode.config import split_address

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_INITIAL_WINDOW_SETTING = 4
_WINDOW_AT_FIRST = 65_535
_FRAME_BYTES_MAX = 16_384
_ZEROS: Final = bytes(_FRAME_BYTES_MAX)
MESSAGE_BYTES: Final = 100 << 20
"""What each message says that it will have."""


def message_of(data: bytes) -> bytes:
    """A whole message as gRPC puts it on the wire."""
    return struct.pack(">BI", 0, len(data)) + data


class _Stream:
    def __init__(self, window: int, first: bytes, part_bytes: int) -> None:
        self.window = window
        self._head = first + struct.pack(">BI", 0, MESSAGE_BYTES)
        self._part_bytes = part_bytes
        self.ended = False

    @property
    def rest_bytes(self) -> int:
        return len(self._head) + self._part_bytes

    def take(self, most: int) -> bytes:
        """The next bytes of it, at most so many; empty when all has been sent that is to be."""
        if self._head:
            data, self._head = self._head[:most], self._head[most:]
            return data
        size = max(min(most, self._part_bytes), 0)
        self._part_bytes -= size
        return _ZEROS[:size]


class HalfSent:
    """One connection. `stand` begins streams; `settled` returns when the other side takes no more of them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._streams: dict[int, _Stream] = {}
        self._window = self._stream_window = _WINDOW_AT_FIRST
        self._moved = False
        self._ponged = asyncio.Event()
        self._heard = asyncio.Event()
        self._reading: asyncio.Future[None] | None = None

    async def begin(self) -> None:
        self._writer.write(_PREFACE)
        self._frame(_SETTINGS, 0, 0, b"")
        self._reading = asyncio.ensure_future(self._read())

    def stand(self, path: str, metadata: Sequence[tuple[str, str]], *, first: bytes = b"", part_bytes: int) -> None:
        """Begins a stream: what is to be sent whole, then so much of a message of `MESSAGE_BYTES`."""
        number = 2 * len(self._streams) + 1
        head = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"))
        headers = (*head, ("content-type", "application/grpc"), ("te", "trailers"), *metadata)
        self._streams[number] = _Stream(self._stream_window, first, part_bytes)
        self._frame(_HEADERS, _END_HEADERS, number, b"".join(_literal(*header) for header in headers))
        self._pump()

    async def all_ended(self) -> None:
        """Until the other side has ended every stream."""
        await self._until(lambda: all(stream.ended for stream in self._streams.values()))

    async def sent(self, count: int) -> None:
        """Until the other side has taken all that is to be sent of so many streams."""
        await self._until(lambda: sum(stream.rest_bytes == 0 for stream in self._streams.values()) >= count)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._heard.clear()
            await self._heard.wait()

    async def settled(self) -> None:
        """Until between two pings nothing was taken."""
        self._moved = True
        while self._moved and self._reading is not None and not self._reading.done():
            self._moved = False
            self._ponged.clear()
            self._frame(_PING, 0, 0, bytes(8))
            ponged = asyncio.ensure_future(self._ponged.wait())
            both: set[asyncio.Future[Any]] = {ponged, self._reading}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            ponged.cancel()

    async def aclose(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._writer.transport.abort()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._writer.write(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream))
        self._writer.write(payload)

    def _pump(self) -> None:
        """Sends what the windows allow, a frame a stream in turn."""
        moved = True
        while moved:
            moved = False
            for number, stream in self._streams.items():
                most = min(_FRAME_BYTES_MAX, self._window, stream.window)
                if most <= 0 or stream.ended or not (data := stream.take(most)):
                    continue
                self._frame(_DATA, 0, number, data)
                stream.window -= len(data)
                self._window -= len(data)
                moved = self._moved = True

    async def _read(self) -> None:
        while True:
            head = await self._reader.readexactly(9)
            kind, flags, number = struct.unpack(">BBI", head[3:])
            payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            stream = self._streams.get(number)
            if kind == _SETTINGS and not flags & _ACK:
                self._settings(payload)
                self._frame(_SETTINGS, _ACK, 0, b"")
            elif kind == _PING and flags & _ACK:
                self._ponged.set()
            elif kind == _PING:
                self._frame(_PING, _ACK, 0, payload)
            elif kind == _WINDOW and number == 0:
                self._window += int.from_bytes(payload, "big")
            elif kind == _WINDOW and stream is not None:
                stream.window += int.from_bytes(payload, "big")
            elif stream is not None and (kind == _RESET or (kind == _HEADERS and flags & _END_STREAM)):
                stream.ended = True
            self._pump()
            self._heard.set()
            await self._writer.drain()

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW_SETTING:
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value


def _literal(name: str, value: str) -> bytes:
    """A header in HPACK, written out (RFC 7541, section 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(text: str) -> bytes:
    data = text.encode("ascii")
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, more = len(data) - 127, bytearray([127])
    while rest >= 128:
        more.append(rest % 128 + 128)
        rest //= 128
    return bytes([*more, rest]) + data


@asynccontextmanager
async def half_sent(address: str, *, tls: bool) -> AsyncIterator[HalfSent]:
    """A connection to `host:port`."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(*split_address(address), ssl=context)
    client = HalfSent(reader, writer)
    await client.begin()
    try:
        yield client
    finally:
        await client.aclose()
