"""The log as the core sees it: what stable storage holds, and the tail that is not durable yet.

Rules:
- Indexes start at 1; index 0 with term 0 stands before the first entry, and is where a new hive's configuration stands.
- `offset` divides the log: entries below it are durable in the `LogView`, entries from it on are only here. What is in
  storage at or above `offset` is being overwritten and never looked at.
- `applied <= committed <= last_index`, and only durable entries are handed out for applying.

Theory of operation: an append that conflicts cuts the tail, and moves `offset` down if it reaches into what was durable.
A Ready hands the whole tail out to be written; `stable_to` then moves `offset` up, but only if the tail still ends that
part with the same term, because the tail may have been rewritten while the disk was busy. A snapshot that replaces the
log waits in `pending_snapshot` in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from hivenode.consensus.messages import ConfState, Entry, EntryKind, HardState, Snapshot, SnapshotMeta
from hivenode.errors import ensure

_SCAN_BYTES = 1 << 20
"""How much of the log one step of a scan reads, so that a scan's memory is bounded."""


class Compacted(LookupError):  # noqa: N818 - a fact about an index, not a fault.
    """The entry is before the first one that is kept."""


class Unavailable(LookupError):  # noqa: N818
    """The entry is after the last one."""


class SnapshotUnavailable(LookupError):  # noqa: N818
    """There is no snapshot to send yet; the leader asks again later."""


class LogView(Protocol):
    """Stable storage as the core reads it: synchronous and as fast as memory. The runtime writes it, never the core.

    While a Ready is being written, the core reads only entries below the Ready's first one, and nothing at all while its
    snapshot is being installed, so a writer on another thread never changes what is read.
    """

    def initial_state(self) -> tuple[HardState, ConfState]:
        """What was persisted last, and the configuration **as of the applied index** that the core is started with.

        Changes committed after that index are handed out again and applied again, so the configuration must be stored
        in one transaction with the applied index.
        """
        ...

    def first_index(self) -> int:
        """The first entry that is kept; one more than the last index when there is none."""
        ...

    def last_index(self) -> int:
        """The last entry, or the index before the first one."""
        ...

    def term(self, index: int) -> int:
        """The term of an entry, or of the index before the first.

        Raises:
            Compacted, Unavailable: the index is outside of that.
        """
        ...

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries `lo` up to, not including, `hi`; as many as fit in `max_bytes` of `size_bytes`, but at least one.

        Raises:
            Compacted, Unavailable: the range is not wholly there.
        """
        ...

    def snapshot(self) -> Snapshot:
        """The newest snapshot, at `first_index - 1` or later; before any was made, the founding configuration at index 0.

        A newcomer always begins with it, because what stands in the log changes a configuration and does not give one.

        Raises:
            SnapshotUnavailable: it is being made.
        """
        ...


def fitting(entries: Sequence[Entry], max_bytes: int) -> list[Entry]:
    """The longest beginning of `entries` that fits in `max_bytes`, at least one entry."""
    total = 0
    for count, entry in enumerate(entries):
        total += entry.size_bytes
        if total > max_bytes and count > 0:
            return list(entries[:count])
    return list(entries)


class MemoryLog:
    """A `LogView` in memory, with the writing side that a storage has; for the simulator and tests."""

    def __init__(self, conf: ConfState | None = None, hard_state: HardState | None = None) -> None:
        self._conf = conf if conf is not None else ConfState()
        self._hard_state = hard_state if hard_state is not None else HardState()
        self._snapshot = Snapshot(meta=SnapshotMeta(index=0, term=0, conf=self._conf))
        self._base_index = 0
        self._base_term = 0
        self._entries: list[Entry] = []

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._conf

    def first_index(self) -> int:
        return self._base_index + 1

    def last_index(self) -> int:
        return self._base_index + len(self._entries)

    def term(self, index: int) -> int:
        if index == self._base_index:
            return self._base_term
        self._check(index)
        return self._entries[index - self._base_index - 1].term

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        if lo >= hi:
            return []
        self._check(lo)
        self._check(hi - 1)
        base = self._base_index + 1
        return fitting(self._entries[lo - base : hi - base], max_bytes)

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def _check(self, index: int) -> None:
        if index <= self._base_index:
            raise Compacted(f"entry {index} is compacted; the first one is {self._base_index + 1}")
        if index > self.last_index():
            raise Unavailable(f"entry {index} is after the last one, {self.last_index()}")

    def set_hard_state(self, hard_state: HardState) -> None:
        """Persists term, vote and commit."""
        self._hard_state = hard_state

    def set_conf_state(self, conf: ConfState) -> None:
        """Persists the configuration as of the applied index."""
        self._conf = conf

    def append(self, entries: Sequence[Entry]) -> None:
        """Persists entries; all that stood at or after the first one's index is gone."""
        if not entries:
            return
        first = entries[0].index
        ensure(self._base_index < first <= self.last_index() + 1, f"Appending at {first} would leave a gap in the log.")
        del self._entries[first - self._base_index - 1 :]
        self._entries.extend(entries)

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replaces log and configuration by a received snapshot."""
        self._snapshot = snapshot
        self._conf = snapshot.meta.conf
        self._base_index, self._base_term = snapshot.meta.index, snapshot.meta.term
        self._entries = []

    def create_snapshot(self, index: int, conf: ConfState, data: bytes = b"") -> Snapshot:
        """Makes a snapshot at an applied index; the entries stay until `compact`."""
        ensure(index >= self._snapshot.meta.index, "A snapshot cannot be older than the last one.")
        self._snapshot = Snapshot(meta=SnapshotMeta(index=index, term=self.term(index), conf=conf), data=data)
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drops the entries up to and including `index`, which a snapshot must cover."""
        ensure(index <= self._snapshot.meta.index, "Only entries that a snapshot covers may be dropped.")
        if index > self._base_index:
            term = self.term(index)
            del self._entries[: index - self._base_index]
            self._base_index, self._base_term = index, term


class RaftLog:
    """The whole log: a `LogView` and the tail that is not durable yet."""

    __slots__ = ("_view", "applied", "committed", "offset", "pending_snapshot", "tail")

    def __init__(self, view: LogView, *, committed: int, applied: int) -> None:
        first, last = view.first_index(), view.last_index()
        self._view = view
        self.offset = last + 1
        self.tail: list[Entry] = []
        self.pending_snapshot: Snapshot | None = None
        # What is applied was committed, even if the hard state that said so was not synced before a crash.
        self.committed = max(committed, applied)
        self.applied = applied
        ensure(
            self.committed <= last,
            f"Index {self.committed} is committed, but the log ends at {last}: entries are lost.",
        )
        ensure(
            applied >= first - 1,
            f"Index {applied} is applied, but the log begins at {first}: the state lags behind it.",
        )

    def first_index(self) -> int:
        if self.pending_snapshot is not None:
            return self.pending_snapshot.meta.index + 1
        return self._view.first_index()

    def last_index(self) -> int:
        return self.offset + len(self.tail) - 1

    def last_term(self) -> int:
        return self.term(self.last_index())

    def durable_index(self) -> int:
        """The index up to which this log is on this member's own disk; nothing counts while a snapshot replaces it."""
        return self.offset - 1 if self.pending_snapshot is None else 0

    def term(self, index: int) -> int:
        """The term of an entry, or of the index before the first.

        Raises:
            Compacted, Unavailable: the index is outside of that.
        """
        if index >= self.offset:
            if index - self.offset >= len(self.tail):
                raise Unavailable(f"entry {index} is after the last one, {self.last_index()}")
            return self.tail[index - self.offset].term
        if self.pending_snapshot is not None:
            if index == self.pending_snapshot.meta.index:
                return self.pending_snapshot.meta.term
            raise Compacted(f"entry {index} is replaced by a snapshot")
        return self._view.term(index)

    def matches(self, index: int, term: int) -> bool:
        """Whether the log has an entry of this term at this index."""
        try:
            return self.term(index) == term
        except LookupError:
            return False

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a candidate's log is at least as good as this one (paper §5.4.1)."""
        own = self.last_term()
        return last_term > own or (last_term == own and last_index >= self.last_index())

    def slice(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries `lo` up to, not including, `hi` that fit in `max_bytes`, at least one.

        Raises:
            Compacted: `lo` is before the first entry.
        """
        if lo >= hi:
            return []
        if lo >= self.offset:
            return fitting(self.tail[lo - self.offset : hi - self.offset], max_bytes)
        if lo < self.first_index():
            raise Compacted(f"entry {lo} is compacted")
        stable = self._view.entries(lo, min(hi, self.offset), max_bytes)
        if hi <= self.offset or lo + len(stable) < self.offset:
            return stable
        return fitting(stable + self.tail[: hi - self.offset], max_bytes)

    def conflict_index(self, entries: Sequence[Entry]) -> int:
        """The index of the first entry that is not in the log with the same term; 0 when all are."""
        last = self.last_index()
        for entry in entries:
            if entry.index > last or not self.matches(entry.index, entry.term):
                return entry.index
        return 0

    def append(self, entries: Sequence[Entry]) -> None:
        """Puts entries into the tail; all that stood at or after the first one's index is gone."""
        first = entries[0].index
        ensure(self.committed < first <= self.last_index() + 1, f"An append at {first} would rewrite or skip entries.")
        if first <= self.offset:
            self.offset = first
            self.tail = list(entries)
        else:
            del self.tail[first - self.offset :]
            self.tail.extend(entries)

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The highest index up to `index` whose term is at most `term`, and its term, 0 when that is not kept.

        Both sides use it to skip whole terms that cannot match, instead of asking index by index (paper §5.3, end).
        """
        while index > 0:
            try:
                own = self.term(index)
            except LookupError:
                return index, 0
            if own <= term:
                return index, own
            index -= 1
        return 0, 0

    def commit_to(self, index: int) -> None:
        if index > self.committed:
            ensure(index <= self.last_index(), f"Commit index {index} is beyond the log's end {self.last_index()}.")
            self.committed = index

    def last_committed(self) -> tuple[int, int]:
        """Index and term of the last committed entry."""
        return self.committed, self.term(self.committed)

    def restore(self, snapshot: Snapshot) -> None:
        """Replaces the whole log by a snapshot that is not durable yet."""
        self.pending_snapshot = snapshot
        self.offset = snapshot.meta.index + 1
        self.tail = []
        self.committed = snapshot.meta.index

    def stable_to(self, index: int, term: int) -> None:
        """The tail up to `index` was written; true of this tail only if its entry there is still of that term."""
        place = index - self.offset
        if 0 <= place < len(self.tail) and self.tail[place].term == term:
            del self.tail[: place + 1]
            self.offset = index + 1

    def stable_snapshot_to(self, index: int) -> None:
        """The snapshot at `index` was installed, unless a newer one has taken its place."""
        if self.pending_snapshot is not None and self.pending_snapshot.meta.index == index:
            self.pending_snapshot = None

    def applied_to(self, index: int) -> None:
        ensure(index <= self.committed, f"Index {index} was applied before it was committed.")
        self.applied = max(self.applied, index)

    def applicable(self, max_bytes: int) -> list[Entry]:
        """The next entries to apply: committed, and durable here."""
        if self.pending_snapshot is not None:
            return []
        return self.slice(self.applied + 1, min(self.committed, self.offset - 1) + 1, max_bytes)

    @property
    def has_applicable(self) -> bool:
        return self.pending_snapshot is None and self.applied < min(self.committed, self.offset - 1)

    def snapshot(self) -> Snapshot:
        return self._view.snapshot() if self.pending_snapshot is None else self.pending_snapshot

    def has_unapplied_conf_change(self) -> bool:
        """Whether a committed change of the configuration is not applied yet."""
        index = self.applied + 1
        while index <= self.committed:
            page = self.slice(index, self.committed + 1, _SCAN_BYTES)
            if any(entry.kind is EntryKind.CONF_CHANGE for entry in page):
                return True
            index += len(page)
        return False

    def fault(self) -> str | None:
        """What is wrong with the log, or None."""
        if not self.applied <= self.committed <= self.last_index():
            return f"applied {self.applied}, committed {self.committed}, last {self.last_index()} are out of order"
        if self.tail and self.tail[0].index != self.offset:
            return f"the tail begins at {self.tail[0].index}, not at {self.offset}"
        for before, after in pairwise(self.tail):
            if after.index != before.index + 1 or after.term < before.term:
                return f"entry {after.index} does not follow entry {before.index}"
        return None
