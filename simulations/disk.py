"""The simulated disk of one machine: a log that is fsynced at every write, and agreed state that is flushed behind it.

Rules:
- One writer does one write after another. A write is durable when its time is over, and only then is its caller told.
- A crash while a write is under way leaves one of three things: nothing of it; all of it, although nobody was told; or a
  torn last page, which recovery finds by its checksum and drops, so that it comes to nothing of it.
- A power cut may also take back the last flush of agreed state, but never a write of the log that was durable.
- A full disk takes no write until there is room; the writer tries again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hivenode.consensus import Compacted, ConfState, Entry, HardState, Snapshot, SnapshotMeta, Unavailable
from hivenode.errors import ensure
from hivenode.runtime.stores import Flush, LogWrite
from simulations.engine import MS, SECOND, Engine
from simulations.views import MemoryView

FSYNC_US: Final = (300, 3 * MS)
"""From an SSD with a cache that survives a power cut to a plain one."""
STALL_US: Final = (20 * MS, 250 * MS)
"""A garbage collection inside the SSD."""
STALL_PER_MILLE: Final = 2
FULL_RETRY_US: Final = 1 * SECOND


class LogDisk:
    """What of the log is durable; fills the core's `LogView` as the production store does."""

    def __init__(self, incarnation: str) -> None:
        self.incarnation = incarnation
        self.hive_id = ""
        self._entries: list[Entry] = []
        self._hard_state = HardState()
        self._conf = ConfState()

    def resume(self, conf: ConfState, applied_index: int) -> None:
        """The configuration as of the applied index, before the core starts."""
        self._conf = conf
        state = self._hard_state
        self._hard_state = HardState(term=state.term, vote=state.vote, commit=max(state.commit, applied_index))

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._conf

    def first_index(self) -> int:
        return 1

    def last_index(self) -> int:
        return len(self._entries)

    def term(self, index: int) -> int:
        if index == 0:
            return 0
        if index < 0:
            raise Compacted(index)
        if index > len(self._entries):
            raise Unavailable(index)
        return self._entries[index - 1].term

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        if lo < 1:
            raise Compacted(lo)
        if hi - 1 > len(self._entries):
            raise Unavailable(hi - 1)
        found: list[Entry] = []
        size_bytes = 0
        for entry in self._entries[lo - 1 : hi - 1]:
            size_bytes += entry.size_bytes
            if found and size_bytes > max_bytes:
                break
            found.append(entry)
        return found

    def snapshot(self) -> Snapshot:
        """The log is kept whole and founds itself, so this one never goes out."""
        return Snapshot(meta=SnapshotMeta(index=0, term=0, conf=ConfState()))

    def write(self, batch: LogWrite) -> None:
        if batch.entries:
            first = batch.entries[0].index
            ensure(1 <= first <= len(self._entries) + 1, f"a gap in the log: {first} after {len(self._entries)}")
            self._entries[first - 1 :] = batch.entries
        if batch.hard_state is not None:
            self._hard_state = batch.hard_state

    def entry(self, index: int) -> Entry | None:
        """An entry as it lies on the disk, for the checkers."""
        return self._entries[index - 1] if 1 <= index <= len(self._entries) else None


class StateView(MemoryView):
    """Agreed state in memory that knows what was written since it was flushed last."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        super().__init__(rows)
        self.dirty: dict[bytes, bytes | None] = {}

    def put(self, key: bytes, value: bytes) -> None:
        super().put(key, value)
        self.dirty[key] = value

    def delete(self, key: bytes) -> None:
        super().delete(key)
        self.dirty[key] = None


@dataclass(slots=True)
class _Undo:
    rows: dict[bytes, bytes | None]
    applied_index: int
    conf: ConfState


class StateDisk:
    """What of agreed state is durable, with what the last flush replaced."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.applied_index = 0
        self.conf = ConfState()
        self._undo: _Undo | None = None

    def commit(self, flush: Flush) -> None:
        self._undo = _Undo({key: self.rows.get(key) for key in flush.rows}, self.applied_index, self.conf)
        self._put(flush.rows)
        self.applied_index, self.conf = flush.applied_index, flush.conf

    def _put(self, rows: dict[bytes, bytes | None]) -> None:
        for key, value in rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def lose_last_flush(self) -> None:
        """The map's last meta page did not reach the platter."""
        if self._undo is not None:
            self._put(self._undo.rows)
            self.applied_index, self.conf = self._undo.applied_index, self._undo.conf
            self._undo = None


class Disk:
    """One machine's disk with its one writer."""

    def __init__(self, engine: Engine, incarnation: str) -> None:
        self._engine = engine
        self.log = LogDisk(incarnation)
        self.state = StateDisk()
        self.slowness = 1
        """How many times slower than it should be."""
        self.full = False
        self.writes = 0
        self._waiting: deque[tuple[LogWrite | Flush, Callable[[], None]]] = deque()
        self._life = 0

    def submit(self, batch: LogWrite | Flush, done: Callable[[], None]) -> None:
        """Queues a write; `done` is called when it is durable, unless a crash comes first."""
        self._waiting.append((batch, done))
        if len(self._waiting) == 1:
            self._begin()

    def _begin(self) -> None:
        stalled = self._engine.chance(STALL_PER_MILLE)
        duration_us = self._engine.between(*(STALL_US if stalled else FSYNC_US)) * self.slowness
        life = self._life
        self._engine.after(duration_us, lambda: self._end(life))

    def _end(self, life: int) -> None:
        if life != self._life:
            return
        if self.full:
            self._engine.after(FULL_RETRY_US, lambda: self._end(life))
            return
        batch, done = self._waiting.popleft()
        self.write_now(batch)
        if self._waiting:
            self._begin()
        done()

    def write_now(self, batch: LogWrite | Flush) -> None:
        """Makes a batch durable, all of it."""
        self.writes += 1
        if isinstance(batch, LogWrite):
            self.log.write(batch)
        else:
            self.state.commit(batch)

    def crash(self, *, power: bool) -> str:
        """The process (or, with `power`, the machine) is gone; returns what became of the write that was under way."""
        self._life += 1
        fate = "idle"
        if self._waiting:
            fate = ("lost", "torn", "whole")[self._engine.rng.randrange(3)]
            if fate == "whole" and not self.full:
                self.write_now(self._waiting[0][0])
        self._waiting.clear()
        if power and self._engine.chance(300):
            self.state.lose_last_flush()
            fate += ", last flush lost"
        return fate
