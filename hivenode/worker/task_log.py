"""An attempt's log: one file that its output is appended to, and that any number of readers follow without polling.

`append` may be called from any thread (Docker's stream is read in one); readers and events belong to the event loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from hivenode.errors import Code, HiveError

_PIECE_BYTES: Final = 64 * 1024


class TaskLog:
    """Appends to a new file up to a bound, and wakes those who follow it.

    Args:
        path: the file; must not exist.
        size_bytes_max: output beyond it is dropped, and `halted` is set.

    Made on the event loop. Raises OSError when the file cannot be made.
    """

    def __init__(self, path: Path, size_bytes_max: int) -> None:
        self.path: Final = path
        self.halted: Final = asyncio.Event()
        """Set when no more can be written: the bound is reached or the disk failed (`failure` says which)."""
        self.failure = ""
        self.exceeded = False
        self._size_bytes_max = size_bytes_max
        self._size_bytes = 0
        self._finished = False
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def append(self, data: bytes) -> None:
        """Writes what fits; never raises, for a full disk is told by `halted`."""
        with self._lock:
            if self._finished or self.failure:
                return
            fitting = data[: self._size_bytes_max - self._size_bytes]
            view = memoryview(fitting)
            try:
                while view:
                    written = os.write(self._descriptor, view)
                    self._size_bytes += written
                    view = view[written:]
            except OSError as error:
                self.failure = f"the log could not be written: {error.strerror}"
            self.exceeded = self.exceeded or len(fitting) < len(data)
        self._loop.call_soon_threadsafe(self._wake)

    def finish(self) -> None:
        """Nothing comes any more: readers end when they have read what is there. On the event loop; may be repeated."""
        with self._lock:
            self._finished = True
        self._wake()

    def close(self) -> None:
        """Finishes, and lets go of the file; whoever reads already keeps a hold of its own. May be repeated."""
        self.finish()
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    async def read(self, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """The log from `offset` (bytes) in pieces of at most 64 KiB; with `follow` until it is finished.

        Works by the open file, so that it may be moved into the blob store meanwhile. A closed log reads as empty.
        Raises OVERLOADED when this machine is out of files for now.
        """
        with self._lock:
            if self._descriptor < 0:
                return
            try:
                descriptor = os.dup(self._descriptor)
            except OSError as error:
                raise HiveError(
                    Code.OVERLOADED, f"the log cannot be read at this moment ({error.strerror}): ask again"
                ) from error
        try:
            while True:
                finished = self._finished
                if piece := os.pread(descriptor, _PIECE_BYTES, offset):
                    offset += len(piece)
                    yield piece
                elif finished or not follow:
                    return
                elif self._size_bytes <= offset and not self._finished:
                    await self._changed()
        finally:
            os.close(descriptor)

    async def _changed(self) -> None:
        waiter = self._loop.create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _wake(self) -> None:
        if self.exceeded or self.failure:
            self.halted.set()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
