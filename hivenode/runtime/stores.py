"""What the replica wants of its disk: the log, fsynced at every write, the agreed state, flushed behind it, and snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator, Reversible
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from hivenode.consensus import ConfState, Entry, HardState, LogView, Snapshot, SnapshotMeta
from hivenode.encoding.state_view import StateView


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBase:
    """What a snapshot makes of the log: nothing up to `index`, and the agreed state in `state_folder` beside the log."""

    index: int
    term: int
    state_folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWrite:
    """What must be durable before the messages that speak for it: entries replace all from their first index on.

    With `base` the whole log is replaced, as one step, and the entries follow the base.
    """

    hard_state: HardState | None
    entries: tuple[Entry, ...]
    base: LogBase | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush:
    """A frozen batch of agreed state; None as a value deletes the key. `digest` is the state's as of the applied index."""

    rows: dict[bytes, bytes | None]
    applied_index: int
    conf: ConfState
    applied_term: int = 0
    digest: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionBounds:
    """How much of the log is kept. Entries are some hundred bytes, so a follower that was away for minutes under load
    catches up from the log, and one that was away longer by a snapshot."""

    entries_max: int = 20_000
    entries_kept: int = 10_000
    bytes_max: int = 128 << 20
    bytes_kept: int = 64 << 20

    def compactable(
        self, sizes: Reversible[int], size_bytes: int, *, first_index: int, last_index: int, synced_index: int
    ) -> int:
        """Up to where a log may be compacted; 0 while it is within these bounds, or nothing may go.

        Args:
            sizes: bytes of each entry from `first_index` to `last_index`, oldest first; `size_bytes` is their sum.
            synced_index: the entry up to which the agreed state survives the loss of power.
        """
        if last_index - first_index + 1 <= self.entries_max and size_bytes <= self.bytes_max:
            return 0
        kept = kept_bytes = 0
        for entry_bytes in islice(reversed(sizes), self.entries_kept):
            kept_bytes += entry_bytes
            if kept_bytes > self.bytes_kept:
                break
            kept += 1
        index = min(last_index - kept, synced_index)
        return index if index >= first_index else 0


class LogStorage(LogView, Protocol):
    """The log of one node: `write` and `compact` block and run on the writer thread, all else on the event loop."""

    @property
    def hive_id(self) -> str: ...

    @property
    def incarnation(self) -> str: ...

    @property
    def snapshot_wanted(self) -> bool:
        """Whether a snapshot was asked for that does not exist; `keep_snapshot` gives one."""
        ...

    def resume(self, conf: ConfState, applied_index: int) -> None:
        """Tells up to where the agreed state came, and the configuration there, before the core starts."""
        ...

    def bind(self, hive_id: str, birth: LogWrite | None) -> None:
        """Makes this log one of a hive, for ever; `birth` is the first entry of a hive that is born here. Blocks."""
        ...

    def write(self, batch: LogWrite) -> None:
        """Raises HiveError DISK_FULL with nothing written."""
        ...

    def written(self, batch: LogWrite) -> None: ...

    def keep_snapshot(self, snapshot: Snapshot) -> None:
        """The newest snapshot of this node, for members whose next entry is compacted away."""
        ...

    def compactable(self, bounds: CompactionBounds, synced_index: int) -> int:
        """Up to where the log may be compacted now; 0 when it need not be."""
        ...

    def begin_compaction(self, index: int) -> None:
        """Nobody reads entries up to `index` any more."""
        ...

    def compact(self) -> None:
        """Removes from disk what nobody reads any more. Raises HiveError DISK_FULL; it may be called again."""
        ...


class StateStorage(StateView, Protocol):
    """The agreed state of one node: `commit_flush` and `sync` block and run on the writer thread, all else on the event loop."""

    applied_index: int
    applied_term: int
    conf: ConfState
    digest: bytes

    @property
    def dirty(self) -> bool: ...

    @property
    def overfull(self) -> bool: ...

    def finish_entry(self, index: int, term: int) -> None:
        """An entry is applied: index, term and the digest of all that entries ever wrote move on."""
        ...

    def begin_flush(self) -> Flush: ...

    def commit_flush(self, flush: Flush) -> None:
        """Raises HiveError DISK_FULL with nothing written."""
        ...

    def end_flush(self) -> None: ...

    def abandon_flush(self) -> None: ...

    def sync(self) -> None:
        """What was flushed survives the loss of power when this returns."""
        ...

    def adopt(self, folder: Path) -> None:
        """Goes on with the agreed state in `folder`; what was here is forgotten, also what was not flushed.

        A copy that is being made of what was here goes on undisturbed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRef:
    """What is told of a snapshot's file: its content names it."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSnapshot:
    ref: SnapshotRef
    meta: SnapshotMeta
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedState:
    """A received snapshot as a folder that can become the agreed state by naming it; see `LogBase`."""

    meta: SnapshotMeta
    folder: Path


class SnapshotStorage(Protocol):
    """Snapshots on this node's disk: `make`, `prepare` and `discard` block and run in a thread of their own."""

    def make(self) -> MadeSnapshot:
        """Copies the agreed state as it was flushed last into a file, in place of the one made before. DISK_FULL."""
        ...

    def end(self) -> None:
        """The node stops: `make` and `prepare`, also those under way, raise SHUTTING_DOWN at their next row."""
        ...

    def received_bytes(self, ref: SnapshotRef) -> int:
        """How much of a snapshot's file has been received already; all other unfinished files are given up. Blocks."""
        ...

    def receive(self, ref: SnapshotRef, offset: int, data: bytes) -> None:
        """Writes the next bytes of a snapshot's file. Blocks. Raises BLOB_CORRUPT beyond its size, DISK_FULL."""
        ...

    def prepare(self, ref: SnapshotRef, meta: SnapshotMeta) -> PreparedState:
        """Checks a received file and makes a folder of agreed state of it. Raises BLOB_CORRUPT, DISK_FULL."""
        ...

    def discard(self, prepared: PreparedState) -> None: ...

    def retire(self) -> None:
        """Removes folders of agreed state that the log no longer names. Blocks."""
        ...

    def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        """The bytes of the snapshot made last, in bounded pieces. Raises BLOB_NOT_FOUND when it is another one."""
        ...
