"""The agreed state on its way to the disk: flushed behind the log, and copied out whole for others; with it the log is compacted.

Rules:
- Applying waits for no write of agreed state: a flush follows its first change by `FLUSH_DELAY_S`, and the log has it all.
- One copy at a time, which may take minutes, and while it is made the log reaches back to its index. When another's snapshot
  takes the place of log and state meanwhile, the copy goes on with the state that it began with, and is offered to nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Executor
from typing import Any, Final, Literal

import structlog

from hivenode.consensus import Snapshot
from hivenode.errors import Code, HiveError, ensure
from hivenode.runtime.own_work import OwnWork
from hivenode.runtime.snapshots import encode_ref
from hivenode.runtime.stores import CompactionBounds, LogStorage, MadeSnapshot, SnapshotStorage, StateStorage

FLUSH_DELAY_S: Final = 0.1
"""Agreed state is written this long after its first change: a crash then replays a tenth of a second of log."""
DISK_RETRY_S: Final = 1.0
"""A write of agreed state that failed for want of space is tried again this often."""

_log = structlog.get_logger(__name__)


class StateWriting:
    """See the module.

    Args:
        writer: the one thread on which log and agreed state are written.
        work: what is begun here belongs to it.
    """

    def __init__(
        self,
        *,
        log: LogStorage,
        state: StateStorage,
        snapshots: SnapshotStorage,
        writer: Executor,
        compaction: CompactionBounds,
        work: OwnWork,
    ) -> None:
        self._log = log
        self._state = state
        self._snapshots = snapshots
        self._writer = writer
        self._compaction = compaction
        self._work = work
        self._wanted = asyncio.Event()
        self._failed = False
        self._flushing = asyncio.Lock()
        self._stopping = False
        self._behind: asyncio.Task[None] | None = None
        self._copy: asyncio.Task[MadeSnapshot] | None = None
        self._making: asyncio.Task[None] | None = None
        self._copy_binds_log = False
        """A copy is under way whose index the log must still reach back to."""

    def start(self) -> None:
        self._behind = self._work.begin(self._flush_behind(), "state flusher")

    def stop(self) -> None:
        """No copy begins any more."""
        self._stopping = True

    def end(self) -> None:
        """What waits is given up, and a copy ends soon; a flush that is under way goes to its end."""
        self._stopping = True
        self._snapshots.end()
        for waiting in (self._behind, self._making):
            if waiting is not None:
                waiting.cancel()

    # --- flushes ---------------------------------------------------------------------------------------------------

    def want_flush(self) -> None:
        """Something was applied."""
        self._wanted.set()

    @property
    def is_stuck(self) -> bool:
        """Memory holds as much agreed state as it may, and the disk has no room for it."""
        return self._failed and self._state.overfull

    def hold(self) -> Coroutine[Any, Any, Literal[True]]:
        """Ends when no flush is under way, and none begins until `let_go`."""
        return self._flushing.acquire()

    def let_go(self) -> None:
        self._flushing.release()

    def replaced(self) -> None:
        """Log and state become another's snapshot, between `hold` and `let_go`: a copy that is under way is of the log before.

        None begins meanwhile, since it begins with a flush."""
        self._copy_binds_log = False

    async def _flush_behind(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not self._state.overfull:
                await asyncio.sleep(FLUSH_DELAY_S)
            try:
                await asyncio.shield(self._work.begin(self._flush(), "state flush"))
            except HiveError as error:
                _log.error("the agreed state cannot be written; the log has it all", reason=error.message)
                await asyncio.sleep(DISK_RETRY_S)
                self._wanted.set()

    async def _flush(self) -> None:
        """Part of a task of `work`. Raises DISK_FULL with nothing written."""
        loop = asyncio.get_running_loop()
        async with self._flushing:
            batch = self._state.begin_flush()
            try:
                await loop.run_in_executor(self._writer, self._state.commit_flush, batch)
            except HiveError:
                self._state.abandon_flush()
                self._failed = True
                raise
            self._state.end_flush()
            self._failed = False
            await self._compact(loop, batch.applied_index)

    async def _compact(self, loop: asyncio.AbstractEventLoop, flushed_index: int) -> None:
        """Drops what nobody needs."""
        index = self._log.compactable(self._compaction, flushed_index)
        if not index or self._copy_binds_log:
            return
        await loop.run_in_executor(self._writer, self._state.sync)
        self._log.begin_compaction(index)
        try:
            await loop.run_in_executor(self._writer, self._log.compact)
        except HiveError as error:
            _log.error("the log is not compacted; it is tried again", reason=error.message)

    # --- copies ----------------------------------------------------------------------------------------------------

    async def make_snapshot(self) -> MadeSnapshot:
        """As `Replica.make_snapshot`."""
        if not self._state.applied_index:
            raise HiveError(Code.NOT_A_MEMBER, "this node has no agreed state yet")
        if self._copy is not None and not self._copy.done():
            # It may be of an earlier moment than this call.
            await asyncio.wait((self._copy,))
        if self._stopping:
            raise HiveError(Code.SHUTTING_DOWN, "this node is shutting down; ask another one")
        if self._copy is None or self._copy.done():
            self._copy = self._work.begin(self._copy_state(), "snapshot copy")
        return await asyncio.shield(self._copy)

    async def _copy_state(self) -> MadeSnapshot:
        # Also when nothing is dirty: the last entries may have written nothing, or what they wrote be under way to the disk.
        await self._flush()
        self._copy_binds_log = True
        try:
            made = await asyncio.get_running_loop().run_in_executor(None, self._snapshots.make)
            if self._copy_binds_log and not self._stopping:
                ensure(self._log.term(made.meta.index) == made.meta.term, "the agreed state is not of this log")
                self._log.keep_snapshot(Snapshot(meta=made.meta, data=encode_ref(made.ref)))
        finally:
            self._copy_binds_log = False
        _log.info("snapshot made", index=made.meta.index, size_bytes=made.ref.size_bytes)
        return made

    def see_to_snapshot(self) -> None:
        """Starts a copy when the core asked for one."""
        if self._log.snapshot_wanted and (self._making is None or self._making.done()):
            self._making = self._work.begin(self._make_for_others(), "snapshot for others")

    async def _make_for_others(self) -> None:
        """A follower needs one; the core asks for it again by itself."""
        try:
            await self.make_snapshot()
        except HiveError as error:
            _log.error("no snapshot can be made; it is tried again", reason=error.message)
            await asyncio.sleep(DISK_RETRY_S)
