"""The stream of consensus messages to one peer: bounded, batched, at most once.

What waits while a write is under way goes together in the next frame. Nothing waits for a peer that is away: the queue is
dropped when the peer cannot be reached, and the next message dials again after a short back-off. Consensus repeats what
matters.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import grpc

from hivenode.consensus import Message
from hivenode.errors import HiveError
from hivenode.pb import hive_pb2
from hivenode.transport.codec import encode_message
from hivenode.transport.peer_link import GOODBYE, SERVICE, Connection, LostCallError, PeerLink, closed_under_it

QUEUE_MESSAGES_MAX: Final = 1_024
"""Consensus has at most 64 appends of 1 MiB in flight to a member; beyond this a message is dropped."""
FRAME_BYTES: Final = 4 << 20
"""A frame is closed when it has so much, so that a heartbeat does not wait behind a long catch-up."""
BACKOFF_FIRST_S: Final = 0.05
BACKOFF_S_MAX: Final = 0.5
"""A peer that comes back must be found within an election."""
CONNECT_TIMEOUT_S: Final = 3.0
GOODBYE_TIMEOUT_S: Final = 0.5
WRITE_STALL_S: Final = 60.0
"""A machine that was suspended for a moment goes on where it was; one that takes nothing for so long is gone, or means harm."""


class MessageStream:
    """Sends messages over a link from a task of its own.

    Args:
        on_connected: called when the stream stands.
        on_lost: called once for each stream that stood, when it is over; with True when it broke, or the peer cut it.
    """

    def __init__(self, link: PeerLink, *, on_connected: Callable[[], None], on_lost: Callable[[bool], None]) -> None:
        self._link = link
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._queue: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._nudge = asyncio.Event()
        self._closing = asyncio.Event()
        self._connected = False
        self._answered = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    def send(self, message: Message) -> None:
        """Queues a message, or drops it when the queue is full."""
        if len(self._queue) < QUEUE_MESSAGES_MAX and not self._closing.is_set():
            self._queue.append(message)
            self._wake.set()

    def nudge(self) -> None:
        """Ends a back-off: there is a new address to try."""
        self._nudge.set()

    async def _run(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while not self._closing.is_set():
            await self._wake.wait()
            try:
                connection = await self._link.connect(CONNECT_TIMEOUT_S)
            except HiveError:
                self._forget()
                await self._back_off(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)
                continue
            if self._closing.is_set():
                return
            backoff_s = BACKOFF_FIRST_S
            broke = False
            try:
                broke = await self._stand(connection)
            finally:
                if self._connected:
                    self._connected = False
                    self._on_lost(broke)

    def _forget(self) -> None:
        self._queue.clear()
        if not self._closing.is_set():
            self._wake.clear()

    async def _back_off(self, seconds: float) -> None:
        self._nudge.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._nudge.wait()
        except TimeoutError:
            pass

    async def _stand(self, connection: Connection) -> bool:
        """One standing stream, until it breaks or this side is closed; whether it broke.

        Nothing is said before the callee took the stream: a write under way would hide why it refused it.
        """
        self._answered.clear()
        stream = connection.stream_stream(SERVICE + "Messages")(metadata=connection.metadata)
        watcher = asyncio.ensure_future(self._watch(stream))
        try:
            async with asyncio.timeout(WRITE_STALL_S):
                await self._answered.wait()
            while not watcher.done():
                if not self._queue:
                    self._wake.clear()
                    if self._closing.is_set():
                        await self._say_goodbye(stream, watcher)
                        return False
                    await self._wake.wait()
                    continue
                async with asyncio.timeout(WRITE_STALL_S):
                    await stream.write(self._frame())
        except TimeoutError:
            watcher.cancel()  # A peer that takes nothing is no peer; it is dialled anew.
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await asyncio.wait({watcher}, timeout=GOODBYE_TIMEOUT_S)  # the watcher has the reason
        except asyncio.CancelledError:
            if not closed_under_it():
                watcher.cancel()
                raise
        finally:
            stream.cancel()
        await asyncio.wait({watcher})
        error = None if watcher.cancelled() else watcher.exception()
        if isinstance(error, grpc.aio.AioRpcError):
            self._link.note_failure(connection, error)
        if not self._connected:
            self._forget()
            await self._back_off(BACKOFF_FIRST_S)
        elif not self._queue and not self._closing.is_set():
            self._wake.clear()  # the watcher set it; there is nothing to dial for yet
        return isinstance(error, LostCallError | grpc.aio.AioRpcError)

    def _frame(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while self._queue and size < FRAME_BYTES:
            piece = encode_message(self._queue.popleft())
            pieces.append(piece)
            size += len(piece)
        data: bytes = hive_pb2.RaftFrame(messages=pieces).SerializeToString()
        return data

    async def _watch(self, stream: Any) -> None:
        """Ends when the stream does; wakes the writer, which may have nothing to say and would not notice.

        The callee's one acknowledgement says that it took the stream: only then does the peer count as connected.
        """
        try:
            while await stream.read() is not grpc.aio.EOF:
                if not self._connected:
                    self._connected = True
                    self._answered.set()
                    self._on_connected()
            if await stream.code() is not grpc.StatusCode.OK:
                raise LostCallError
        except asyncio.CancelledError:
            if closed_under_it():
                raise LostCallError from None
            raise
        finally:
            self._answered.set()
            self._wake.set()

    async def _say_goodbye(self, stream: Any, watcher: asyncio.Future[None]) -> None:
        """Ends the stream in words, so that the peer does not take it for a crash."""
        await stream.write(GOODBYE)
        await stream.done_writing()
        await asyncio.wait({watcher}, timeout=GOODBYE_TIMEOUT_S)
        watcher.cancel()

    async def aclose(self) -> None:
        self._closing.set()
        self._wake.set()
        self._nudge.set()
        done, _ = await asyncio.wait({self._task}, timeout=2 * GOODBYE_TIMEOUT_S)
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task})
