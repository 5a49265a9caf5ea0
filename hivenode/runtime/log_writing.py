"""One write of the log at a time, on the writer thread: begun, looked at, and tried again while the disk is full.

| state | `begin` | `done` |
|---|---|---|
| idle | under way | True |
| under way | refused | False; True once it is durable |
| failed for want of space | refused | False; begun again after `DISK_RETRY_MS` |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

import structlog

from hivenode.errors import HiveError, ensure
from hivenode.runtime.stores import LogStorage, LogWrite

DISK_RETRY_MS: Final = 1_000
"""A write that failed for want of space is tried again this often."""

_log = structlog.get_logger(__name__)


class LogWriting:
    """See the module.

    Args:
        wake: called on the event loop when a write ended.
        stalled_ms: a write that takes longer says that the disk takes nothing.
        clock_ms: monotonic.
    """

    def __init__(
        self,
        log: LogStorage,
        writer: Executor,
        *,
        wake: Callable[[], None],
        stalled_ms: int,
        clock_ms: Callable[[], int],
    ) -> None:
        self._log = log
        self._writer = writer
        self._wake = wake
        self._stalled_ms = stalled_ms
        self._clock_ms = clock_ms
        self._batch: LogWrite | None = None
        self._future: asyncio.Future[None] | None = None
        self._begun_ms = 0
        self._retry_ms = 0
        self.disk_full = False

    def begin(self, batch: LogWrite) -> None:
        """Hands a batch to the writer thread."""
        ensure(self._batch is None, "two writes of the log overlap")
        self._batch = batch
        self._begun_ms = self._clock_ms()
        self._submit(batch)

    def _submit(self, batch: LogWrite) -> None:
        self._future = asyncio.get_running_loop().run_in_executor(self._writer, self._log.write, batch)
        self._future.add_done_callback(lambda _: self._wake())

    def done(self) -> bool:
        """Whether nothing is under way. Goes on with what is. Raises what no wait will mend."""
        batch, future = self._batch, self._future
        if batch is None:
            return True
        if future is None:
            if self._clock_ms() >= self._retry_ms:
                self._submit(batch)
            return False
        if not future.done():
            return False
        self._future = None
        try:
            future.result()
        except HiveError as error:
            self.disk_full = True
            self._retry_ms = self._clock_ms() + DISK_RETRY_MS
            _log.error("the log cannot be written; trying again", reason=error.message)
            return False
        self.disk_full = False
        self._batch = None
        self._log.written(batch)
        return True

    @property
    def stalled(self) -> bool:
        """Whether the disk takes nothing: it is full, or a write takes too long."""
        return self._batch is not None and (self.disk_full or self._clock_ms() >= self._begun_ms + self._stalled_ms)

    @property
    def waits_for_room(self) -> bool:
        """Whether nothing is under way, and nothing was written, because the disk is full."""
        return self._batch is not None and self._future is None

    @property
    def deadline_ms(self) -> int | None:
        """When `done` or `stalled` may say something else although no write ended; None when never."""
        if self._batch is None:
            return None
        if self._future is None:
            return self._retry_ms
        return None if self.stalled else self._begun_ms + self._stalled_ms
