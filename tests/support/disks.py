"""One node's log, agreed state and snapshots on a real disk, without a replica."""

from __future__ import annotations

from pathlib import Path

from hivenode.consensus import ConfState, Entry, HardState, MemberId
from hivenode.runtime.stores import LogBase, LogWrite, MadeSnapshot, PreparedState
from hivenode.storage.log_store import LogStore
from hivenode.storage.snapshots import SnapshotFolder
from hivenode.storage.state_store import StateStore

CONF = ConfState(voters=frozenset({MemberId("a.1"), MemberId("b.1")}))
HIVE = "h" * 32


class Disk:
    """One node's folders, opened as the daemon opens them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.log = LogStore(root / "log")
        if not self.log.hive_id:
            self.log.bind(HIVE, None)
        self.state = StateStore(root / self.log.state_folder)
        self.snapshots = SnapshotFolder(root, self.log, self.state)

    def fill(self, entries: int, tag: bytes = b"") -> None:
        first = self.log.last_index() + 1
        batch = LogWrite(
            hard_state=HardState(term=1, vote=None, commit=entries),
            entries=tuple(Entry(term=1, index=index, data=tag + b"%d" % index) for index in range(first, entries + 1)),
        )
        self.log.write(batch)
        self.log.written(batch)
        for index in range(first, entries + 1):
            self.state.put(b"row%06d" % index, tag + b"value%d" % index)
            self.state.finish_entry(index, 1)
        self.state.conf = CONF
        self.flush()

    def flush(self) -> None:
        flush = self.state.begin_flush()
        self.state.commit_flush(flush)
        self.state.end_flush()

    def take(self, made: MadeSnapshot) -> PreparedState:
        self.snapshots.receive(made.ref, 0, made.path.read_bytes())
        return self.snapshots.prepare(made.ref, made.meta)

    def install(self, prepared: PreparedState) -> None:
        base = LogBase(index=prepared.meta.index, term=prepared.meta.term, state_folder=prepared.folder.name)
        write = LogWrite(hard_state=HardState(term=2, vote=None, commit=base.index), entries=(), base=base)
        self.log.write(write)
        self.log.written(write)
        self.state.adopt(prepared.folder)
        self.snapshots.retire()

    def rows(self) -> dict[bytes, bytes]:
        return dict(self.state.scan(b""))

    def close(self) -> None:
        self.state.close()
        self.log.close()
