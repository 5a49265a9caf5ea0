"""The simulated disk of one machine: a log that is fsynced at every write, and agreed state that is flushed behind it.

Rules:
- One writer does one write after another. A write is durable when its time is over, and only then is its caller told.
- A crash while a write is under way leaves one of three things: nothing of it; all of it, although nobody was told; or a
  torn last page, which recovery finds by its checksum and drops, so that it comes to nothing of it.
- A power cut may also take back the last flush of agreed state, but never a write of the log that was durable, nor a flush
  that was synced after it.
- A full disk takes no write until there is room; the writer tries again.
- A compaction is told to the core first and done on the disk behind; a crash in between leaves the longer log.
- A snapshot replaces log and agreed state by one write: the log names the image of the state that goes with it.
- Bits flip. A damaged row, of the log or of agreed state, is read by the production decoder, whose checksum finds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Reversible
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Final, assert_never

from hivenode.consensus import Compacted, ConfState, Entry, HardState, Snapshot, SnapshotUnavailable, Unavailable
from hivenode.encoding.recovery import base_of
from hivenode.errors import ensure
from hivenode.runtime.digests import NO_DIGEST, digest_after
from hivenode.runtime.stores import CompactionBounds, Flush, LogWrite
from hivenode.storage.log_store import decode_entry, encode_entry
from hivenode.storage.sealed_row import seal, unseal
from hivenode.storage.state_file import StateMark
from simulations.engine import MS, SECOND, Engine
from simulations.views import MemoryView

FSYNC_US: Final = (300, 3 * MS)
"""From an SSD with a cache that survives a power cut to a plain one."""
STALL_US: Final = (20 * MS, 250 * MS)
"""A garbage collection inside the SSD."""
STALL_PER_MILLE: Final = 2
FULL_RETRY_US: Final = 1 * SECOND


ROW_HEAD_BYTES: Final = 13
"""About what an entry's row has beside its data, as in the production store."""
FIRST_IMAGE: Final = "state"


class _Sizes(Reversible[int]):
    """The bytes of entries, without a list of them: they are looked at only when the log is too long."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[int]:
        return (len(entry.data) + ROW_HEAD_BYTES for entry in self._entries)

    def __reversed__(self) -> Iterator[int]:
        return (len(entry.data) + ROW_HEAD_BYTES for entry in reversed(self._entries))


class LogDisk:
    """What of the log is durable; fills the core's `LogView` as the production store does.

    `_base` is the entry before the first on the disk; `_first` is the first that the core may still read.
    """

    def __init__(self, incarnation: str) -> None:
        self.incarnation = incarnation
        self.hive_id = ""
        self.state_image = FIRST_IMAGE
        self._entries: list[Entry] = []
        self._base, self._base_term = 0, 0
        self._first, self._first_term = 1, 0
        self._size_bytes = 0
        self._hard_state = HardState()
        self._conf = ConfState()
        self._snapshot: Snapshot | None = None
        self.snapshot_wanted = False
        self.damaged: dict[int, bytes] = {}
        """Rows with flipped bits, by index."""

    def resume(self, conf: ConfState, applied_index: int) -> None:
        """The configuration as of the applied index, before the core starts; what was only in memory is forgotten."""
        self._conf = conf
        self._first, self._first_term = self._base + 1, self._base_term
        self._snapshot, self.snapshot_wanted = None, False
        state = self._hard_state
        self._hard_state = HardState(term=state.term, vote=state.vote, commit=max(state.commit, applied_index))

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._conf

    def first_index(self) -> int:
        return self._first

    def last_index(self) -> int:
        return self._base + len(self._entries)

    def term(self, index: int) -> int:
        if index < self._first:
            if index == self._first - 1:
                return self._first_term
            raise Compacted(index)
        place = index - self._base - 1
        if place >= len(self._entries):
            raise Unavailable(index)
        if self.damaged:
            self._read_damaged(index, index)
        return self._entries[place].term

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        if lo < self._first:
            raise Compacted(lo)
        if hi - 1 > self._base + len(self._entries):
            raise Unavailable(hi - 1)
        found: list[Entry] = []
        size_bytes = 0
        for entry in self._entries[lo - 1 - self._base : hi - 1 - self._base]:
            size_bytes += entry.size_bytes
            if found and size_bytes > max_bytes:
                break
            found.append(entry)
        if self.damaged and found:
            self._read_damaged(lo, found[-1].index)
        return found

    def on_disk(self) -> tuple[int, int]:
        """The first and the last entry that the disk has, those included that the core reads no more."""
        return self._base + 1, self.last_index()

    def holds(self, entry: Entry) -> bool:
        """Whether the entry is on this disk, or in the state that took its place; for the checkers."""
        place = entry.index - self._base - 1
        if place < 0:
            return True
        return place < len(self._entries) and self._entries[place].term == entry.term

    def snapshot(self) -> Snapshot:
        """Made when somebody needs one, as by the production store."""
        if self._snapshot is None or self._snapshot.meta.index < self._first - 1:
            self.snapshot_wanted = True
            raise SnapshotUnavailable("it is being made")
        return self._snapshot

    def keep_snapshot(self, snapshot: Snapshot) -> None:
        self._snapshot, self.snapshot_wanted = snapshot, False

    def write(self, batch: LogWrite) -> None:
        base = batch.base
        if base is not None:
            self._entries.clear()
            self.damaged.clear()
            self._size_bytes = 0
            self._base, self._base_term = base.index, base.term
            self._first, self._first_term = base.index + 1, base.term
            self.state_image = base.state_folder
            self._snapshot = None
        if batch.entries:
            first = batch.entries[0].index
            place = first - 1 - self._base
            ensure(0 <= place <= len(self._entries), f"a gap in the log: {first} after {self.last_index()}")
            for gone in self._entries[place:]:
                self._size_bytes -= len(gone.data) + ROW_HEAD_BYTES
                self.damaged.pop(gone.index, None)
            for entry in batch.entries:
                self._size_bytes += len(entry.data) + ROW_HEAD_BYTES
            self._entries[place:] = batch.entries
        if batch.hard_state is not None:
            self._hard_state = batch.hard_state

    # --- compaction ------------------------------------------------------------------------------------------------

    def compactable(self, bounds: CompactionBounds, synced_index: int) -> int:
        """Up to where the log may be compacted; 0 when it need not be."""
        hidden = self._first - 1 - self._base
        return bounds.compactable(
            _Sizes(self._entries[hidden:] if hidden else self._entries),
            self._size_bytes,
            first_index=self._first,
            last_index=self.last_index(),
            synced_index=synced_index,
        )

    def begin_compaction(self, index: int) -> None:
        """The core reads nothing up to `index` any more; the disk has it a little longer."""
        ensure(self._first <= index <= self.last_index(), f"a compaction to {index} of {self._first}..")
        self._first, self._first_term = index + 1, self.term(index)

    def compact(self) -> None:
        """The disk follows."""
        gone = self._entries[: self._first - 1 - self._base]
        for entry in gone:
            self._size_bytes -= len(entry.data) + ROW_HEAD_BYTES
            self.damaged.pop(entry.index, None)
        del self._entries[: len(gone)]
        self._base, self._base_term = self._first - 1, self._first_term

    # --- what goes wrong -------------------------------------------------------------------------------------------

    def flip_bit(self, index: int, bit: int) -> None:
        """A bit of an entry's row flips; `bit` is taken modulo the row's length."""
        row = bytearray(self.damaged.get(index) or encode_entry(self._entries[index - 1 - self._base]))
        bit %= 8 * len(row)
        row[bit // 8] ^= 1 << bit % 8
        self.damaged[index] = bytes(row)

    def _read_damaged(self, low: int, high: int) -> None:
        for index in sorted(self.damaged):
            if low <= index <= high:
                ensure(
                    decode_entry(index, self.damaged[index]) == self._entries[index - 1 - self._base],
                    f"a flipped bit of entry {index} was not found",
                )

    def bind(self, hive_id: str, birth: LogWrite | None) -> None:
        """The production store's rules: one hive for ever, and a birth into an empty log."""
        ensure(self.hive_id in ("", hive_id), "a log belongs to one hive for ever")
        ensure(birth is None or self.last_index() == 0, "a hive is born into an empty log")
        if birth is not None:
            self.write(birth)
        self.hive_id = hive_id

    # --- another epoch ---------------------------------------------------------------------------------------------

    def begin_epoch(self, hive_id: str, batch: LogWrite) -> None:
        """Goes on as the next epoch of the same hive, in one write with what begins it."""
        ensure(base_of(self.hive_id) == base_of(hive_id) != "", "an epoch is of the log's own hive")
        self.write(batch)
        self.hive_id = hive_id


class StateView(MemoryView):
    """Agreed state in memory that knows what was written since it was flushed last, and the digest of all it ever was."""

    def __init__(self, image: StateImage) -> None:
        super().__init__(image.rows)
        self.rotten = dict(image.rotten)
        """Rows in which a bit flipped after they were written, as they lie on disk, with their checksums."""
        self.dirty: dict[bytes, bytes | None] = {}
        self._touched: dict[bytes, bytes | None] = {}
        self.chained_digest = image.mark.digest
        """The production store's running digest, which members compare."""

    @property
    def is_rotten(self) -> bool:
        return bool(self.rotten)

    def get(self, key: bytes) -> bytes | None:
        if self.rotten and key in self.rotten:
            return unseal(key, self.rotten[key])
        return self._rows.get(key)

    def scan(self, prefix: bytes, *, after: bytes = b"", reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        for key, value in super().scan(prefix, after=after, reverse=reverse):
            yield key, unseal(key, self.rotten[key]) if key in self.rotten else value

    def put(self, key: bytes, value: bytes) -> None:
        super().put(key, value)
        if self.rotten:
            self.rotten.pop(key, None)
        self.dirty[key] = self._touched[key] = value

    def delete(self, key: bytes) -> None:
        super().delete(key)
        self.rotten.pop(key, None)
        self.dirty[key] = self._touched[key] = None

    def finish_entry(self, index: int, term: int) -> None:
        """An entry is applied."""
        self.chained_digest = digest_after(self.chained_digest, index, term, self._touched)
        self._touched.clear()

    def adopt(self, image: StateImage) -> None:
        """Goes on with another state; what was not flushed of this one is forgotten."""
        self.replace(image.rows)
        self.rotten = dict(image.rotten)
        self.dirty, self.chained_digest = {}, image.mark.digest
        self._touched.clear()

    def flip_bit(self, key: bytes, bit: int) -> None:
        """A bit of a row flips where it lies; one that is to be written is not there yet."""
        value = super().get(key)
        if value is not None and key not in self.dirty:
            self.rotten[key] = flipped(seal(key, value), bit)


def flipped(data: bytes, bit: int) -> bytes:
    """The data with one bit turned over; `bit` is taken modulo its length."""
    if not data:
        return data
    found = bytearray(data)
    found[bit // 8 % len(found)] ^= 1 << bit % 8
    return bytes(found)


@dataclass(frozen=True, slots=True)
class StateImage:
    """A whole agreed state as it lies on disk."""

    rows: dict[bytes, bytes]
    mark: StateMark
    rotten: dict[bytes, bytes] = field(default_factory=dict)
    """As `StateView` has it."""

    def read(self) -> Iterator[tuple[bytes, bytes]]:
        """All rows in key order, each checked."""
        for key, value in sorted(self.rows.items()):
            yield key, unseal(key, self.rotten[key]) if key in self.rotten else value


NO_STATE: Final = StateMark(index=0, term=0, digest=NO_DIGEST, conf=ConfState())


@dataclass(slots=True)
class _Undo:
    rows: dict[bytes, bytes | None]
    mark: StateMark


class StateDisk:
    """What of agreed state is durable, with what the last flush replaced."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.rotten: dict[bytes, bytes] = {}
        self.mark = NO_STATE
        self._undo: _Undo | None = None

    @property
    def applied_index(self) -> int:
        return self.mark.index

    @property
    def conf(self) -> ConfState:
        return self.mark.conf

    @property
    def image(self) -> StateImage:
        """What is durable now; the rows are not copied."""
        return StateImage(self.rows, self.mark, self.rotten)

    def commit(self, flush: Flush) -> None:
        self._undo = _Undo({key: self.rows.get(key) for key in flush.rows}, self.mark)
        self._put(flush.rows)
        self.mark = StateMark(index=flush.applied_index, term=flush.applied_term, digest=flush.digest, conf=flush.conf)

    def sync(self) -> None:
        """The last flush survives the loss of power."""
        self._undo = None

    def _put(self, rows: dict[bytes, bytes | None]) -> None:
        if self.rotten:
            for key in rows:
                self.rotten.pop(key, None)
        for key, value in rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def flip_bit(self, key: bytes, bit: int) -> None:
        """A bit of a row flips."""
        self.rotten[key] = flipped(seal(key, self.rows[key]), bit)

    def adopt(self, image: StateImage) -> None:
        """The log names this image from now on."""
        self.rotten = dict(image.rotten)
        self.rows, self.mark, self._undo = dict(image.rows), image.mark, None

    def lose_last_flush(self) -> None:
        """The map's last meta page did not reach the platter."""
        if self._undo is not None:
            self._put(self._undo.rows)
            self.mark = self._undo.mark
            self._undo = None


@unique
class Chore(Enum):
    """What the writer does beside writing batches."""

    SYNC_STATE = "sync the state"
    COMPACT_LOG = "compact the log"


@dataclass(frozen=True, slots=True)
class Bind:
    """Makes the log one of a hive, for ever; `birth` is the first entry of a hive that is born here."""

    hive_id: str
    birth: LogWrite | None


Job = LogWrite | Flush | Chore | Bind


class Disk:
    """One machine's disk with its one writer."""

    def __init__(self, engine: Engine, incarnation: str) -> None:
        self._engine = engine
        self.log = LogDisk(incarnation)
        self.state = StateDisk()
        self.images: dict[str, StateImage] = {}
        """States unpacked beside, by the name that a write of the log may give; all but the named one are leftovers."""
        self.slowness = 1
        """How many times slower than it should be."""
        self.full = False
        self._held_until_us = 0
        self.writes = 0
        self.torn = 0
        """Writes whose last page a crash left half written."""
        self._waiting: deque[tuple[Job, Callable[[], None]]] = deque()
        self._life = 0

    def hold(self, duration_us: int) -> None:
        """Ends no write that begins from now on before so much time is over."""
        self._held_until_us = self._engine.now_us + duration_us

    def submit(self, batch: Job, done: Callable[[], None]) -> None:
        """Queues a write; `done` is called when it is durable, unless a crash comes first."""
        self._waiting.append((batch, done))
        if len(self._waiting) == 1:
            self._begin()

    def _begin(self) -> None:
        stalled = self._engine.chance(STALL_PER_MILLE)
        duration_us = self._engine.between(*(STALL_US if stalled else FSYNC_US)) * self.slowness
        duration_us = max(duration_us, self._held_until_us - self._engine.now_us)
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

    def write_now(self, batch: Job) -> None:
        """Makes a batch durable, all of it."""
        self.writes += 1
        match batch:
            case LogWrite():
                self.log.write(batch)
                if batch.base is not None:
                    self.state.adopt(self.images.pop(batch.base.state_folder))
            case Flush():
                self.state.commit(batch)
            case Bind():
                self.log.bind(batch.hive_id, batch.birth)
            case Chore.SYNC_STATE:
                self.state.sync()
            case Chore.COMPACT_LOG:
                self.log.compact()
            case _:
                assert_never(batch)

    def crash(self, *, power: bool) -> str:
        """The process (or, with `power`, the machine) is gone; returns what became of the write that was under way."""
        self._life += 1
        fate = "idle"
        if self._waiting:
            fate = ("lost", "torn", "whole")[self._engine.rng.randrange(3)]
            self.torn += fate == "torn"
            if fate == "whole" and not self.full:
                self.write_now(self._waiting[0][0])
        self._waiting.clear()
        self.images.clear()
        if power and self._engine.chance(300):
            self.state.lose_last_flush()
            fate += ", last flush lost"
        return fate
