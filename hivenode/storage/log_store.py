"""The Raft log on disk: one LMDB environment in which every commit is fsynced before it returns.

Two databases: `entries` (8-byte big-endian index → canonical [term, kind, data, checksum]) and `meta` (hard state, the
hive's id, this log's incarnation, its base; sealed rows, but for the format's). Writes happen on the storage writer thread
(`write`); what the consensus core reads it reads on the event loop, from a bounded cache of the newest entries and else from
the memory map. The environment is never opened twice.

An incarnation is made with the log and dies with it: a node that lost its log is another member.

The log begins after its *base*, the index and term of the last entry that is gone. Compaction moves the base in two steps: the
event loop stops reading the entries (`begin_compaction`), then the writer thread removes them, with the base, in one
transaction (`compact`). A snapshot that replaces the log is one transaction as well: entries, base, hard state, and the name of
the folder in which the new agreed state already lies. So log and state change over at the same instant, and after a crash
at any moment either both are the old ones or both are the new ones.
"""

from __future__ import annotations

import secrets
import struct
import zlib
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import lmdb

from hivenode.consensus import (
    Compacted,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    MemberId,
    Snapshot,
    SnapshotUnavailable,
    Unavailable,
)
from hivenode.encoding.canonical import DecodeError, decode, encode
from hivenode.encoding.recovery import base_of
from hivenode.errors import Code, HiveError, InvariantError, ensure
from hivenode.runtime.stores import CompactionBounds, LogWrite
from hivenode.storage.lmdb_disk import LmdbDisk, open_environment
from hivenode.storage.sealed_row import seal, unseal

CACHE_ENTRIES_MAX: Final = 8_192
"""Followers that keep up are served from memory; one that is further behind is read from the map."""
FORMAT: Final = 2
"""Since 2 each row of `meta` has a checksum: a vote that a flipped bit changed would be given twice. A log of before is given
them when it is opened."""
FIRST_STATE_FOLDER: Final = "state"
_KEY_BYTES: Final = 8
_CHECKED_HEAD: Final = struct.Struct(">QQB")
_FIELDS_WITHOUT_CHECKSUM: Final = 3
_REMOVED_AT_ONCE: Final = 2_000
"""Entries that one transaction of a compaction removes: some milliseconds, for which other writes wait."""

_HARD_STATE, _HIVE_ID, _INCARNATION, _FORMAT = b"hard_state", b"hive_id", b"incarnation", b"format"
_VALUE_HEAD_BYTES: Final = 13
"""About what an entry's row has beside its data."""
_BASE, _STATE_FOLDER = b"base", b"state_folder"


def _key(index: int) -> bytes:
    return index.to_bytes(_KEY_BYTES, "big")


def encode_entry(entry: Entry) -> bytes:
    """An entry's row: canonical [term, kind, data, CRC-32 of index, term, kind and data]."""
    return encode([entry.term, entry.kind.value, entry.data, _checksum(entry)])


def _checksum(entry: Entry) -> int:
    return zlib.crc32(entry.data, zlib.crc32(_CHECKED_HEAD.pack(entry.index, entry.term, entry.kind.value)))


def decode_entry(index: int, data: bytes) -> Entry:
    """The entry in a row. Raises InvariantError when a bit of it flipped; rows from before there was a checksum have none."""
    try:
        value: Any = decode(data)
        entry = Entry(term=value[0], index=index, kind=EntryKind(value[1]), data=value[2])
        sound = len(value) == _FIELDS_WITHOUT_CHECKSUM or value[3] == _checksum(entry)
    except (DecodeError, TypeError, ValueError, IndexError, struct.error):
        sound = False
    if not sound:
        raise InvariantError(
            f"entry {index} of the log is damaged on disk: this machine's disk or memory went wrong, and its log is never "
            "served. Move the folder log out of the data directory and start again, as a new member of the hive"
        )
    return entry


class LogStore:
    """The log of one node; fills the core's `LogView`."""

    def __init__(self, folder: Path) -> None:
        """Opens or makes the log in `folder`.

        Raises:
            HiveError: it is of a newer format; DISK_FULL when something has to be written for it.
            InvariantError: it is damaged.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._environment = open_environment(folder, metasync=True)
        self._disk = LmdbDisk(self._environment, folder, "the log")
        self._cache: dict[int, Entry] = {}
        self._conf = ConfState()
        self._snapshot: Snapshot | None = None
        self._snapshot_wanted = False
        with ExitStack() as undo:
            undo.callback(self.close)
            self._read(folder)
            undo.pop_all()

    def _read(self, folder: Path) -> None:
        with self._disk.told_apart():
            self._entries = self._environment.open_db(b"entries")
            self._meta = self._environment.open_db(b"meta")
        with self._disk.told_apart(), self._environment.begin(write=True) as transaction:
            found = transaction.get(_FORMAT, db=self._meta)
            if found is None:
                transaction.put(_FORMAT, encode(FORMAT), db=self._meta)
                self._put(transaction, _INCARNATION, secrets.token_hex(8).encode())
            elif decode(bytes(found)) == 1:
                self._seal_all(transaction)
            elif decode(bytes(found)) != FORMAT:
                raise HiveError(
                    Code.INVALID_ARGUMENT,
                    f"{folder} was written by a newer hivenode (format {decode(bytes(found))!r}): upgrade this one",
                )
            self._incarnation = (self._get(transaction, _INCARNATION) or b"").decode()
            self._hive_id = (self._get(transaction, _HIVE_ID) or b"").decode()
            self._hard_state = self._read_hard_state(transaction)
            self._state_folder = (self._get(transaction, _STATE_FOLDER) or b"").decode()
            base_index, self._base_term = self._read_base(transaction)
            self._first = base_index + 1
            with transaction.cursor(db=self._entries) as cursor:
                more = cursor.first()
                found_first = int.from_bytes(cursor.key(), "big") if more else self._first
                ensure(found_first == self._first, f"the log begins at {found_first} although its base is {base_index}")
                # What each entry has on disk, oldest first; some bytes an entry, so that no bound needs the disk.
                self._sizes = deque(len(value) for value in cursor.iternext(keys=False, values=True))
            self._last = base_index + len(self._sizes)
        self._size_bytes = sum(self._sizes)

    def _seal_all(self, transaction: lmdb.Transaction) -> None:
        with transaction.cursor(db=self._meta) as cursor:
            rows = [(bytes(key), bytes(value)) for key, value in cursor if bytes(key) != _FORMAT]
        for key, value in rows:
            self._put(transaction, key, value)
        transaction.put(_FORMAT, encode(FORMAT), db=self._meta)

    def _put(self, transaction: lmdb.Transaction, key: bytes, value: bytes) -> None:
        transaction.put(key, seal(key, value), db=self._meta)

    def _get(self, transaction: lmdb.Transaction, key: bytes) -> bytes | None:
        row = transaction.get(key, db=self._meta)
        return None if row is None else unseal(key, bytes(row), of="log")

    def _read_base(self, transaction: lmdb.Transaction) -> tuple[int, int]:
        data = self._get(transaction, _BASE)
        value: Any = [0, 0] if data is None else decode(data)
        return value[0], value[1]

    def _read_hard_state(self, transaction: lmdb.Transaction) -> HardState:
        data = self._get(transaction, _HARD_STATE)
        if data is None:
            return HardState(term=0, vote=None, commit=0)
        value: Any = decode(data)
        return HardState(term=value[0], vote=MemberId(value[1]) if value[1] else None, commit=value[2])

    @property
    def incarnation(self) -> str:
        return self._incarnation

    @property
    def hive_id(self) -> str:
        """Empty while the node belongs to no hive."""
        return self._hive_id

    @property
    def state_folder(self) -> str:
        """The name of the folder beside the log in which the agreed state lies that belongs to it."""
        return self._state_folder or FIRST_STATE_FOLDER

    # --- the event loop reads --------------------------------------------------------------------------------------

    def resume(self, conf: ConfState, applied_index: int) -> None:
        """The configuration as of the applied index; both are kept with the agreed state, in its transactions.

        What was applied was committed, though a commit index alone is not worth an fsync and may be older on disk.
        """
        self._conf = conf
        state = self._hard_state
        self._hard_state = HardState(term=state.term, vote=state.vote, commit=max(state.commit, applied_index))

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._conf

    def first_index(self) -> int:
        return self._first

    def last_index(self) -> int:
        return self._last

    def term(self, index: int) -> int:
        """Raises `Compacted` before the index that precedes the first entry, and `Unavailable` above the last."""
        if index == self._first - 1:
            return self._base_term
        return self._entry(index).term

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries `low` ≤ index < `high`, at least one, then as many as fit in `max_bytes` of `size_bytes`."""
        found: list[Entry] = []
        size_bytes = 0
        for index in range(low, high):
            entry = self._entry(index)
            size_bytes += entry.size_bytes
            if found and size_bytes > max_bytes:
                break
            found.append(entry)
        return found

    def snapshot(self) -> Snapshot:
        """Made when somebody needs one: until then, and when the last one is too old, `SnapshotUnavailable`."""
        if self._snapshot is None or self._snapshot.meta.index < self._first - 1:
            self._snapshot_wanted = True
            raise SnapshotUnavailable("it is being made")
        return self._snapshot

    @property
    def snapshot_wanted(self) -> bool:
        return self._snapshot_wanted

    def keep_snapshot(self, snapshot: Snapshot) -> None:
        self._snapshot, self._snapshot_wanted = snapshot, False

    @property
    def size_bytes(self) -> int:
        """What the entries have on disk."""
        return self._size_bytes

    def _entry(self, index: int) -> Entry:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        if index < self._first:
            raise Compacted(index)
        if index > self._last:
            raise Unavailable(index)
        with self._environment.begin() as transaction:
            data = transaction.get(_key(index), db=self._entries)
        ensure(
            data is not None, f"entry {index} is missing from the log although {self._first}..{self._last} are there"
        )
        return decode_entry(index, bytes(data or b""))

    # --- the writer thread writes ----------------------------------------------------------------------------------

    def write(self, batch: LogWrite, *, hive_id: str = "") -> None:
        """Makes a batch durable; blocks for the fsync. Raises HiveError DISK_FULL with nothing written.

        Args:
            hive_id: binds the log to this hive in the same transaction, unless empty.
        """
        with self._disk.told_apart(), self._environment.begin(write=True) as transaction:
            if hive_id:
                self._put(transaction, _HIVE_ID, hive_id.encode())
            last = self._last
            if batch.base is not None:
                last = batch.base.index
                transaction.drop(self._entries, delete=False)
                self._put(transaction, _BASE, encode([batch.base.index, batch.base.term]))
                self._put(transaction, _STATE_FOLDER, batch.base.state_folder.encode())
            if batch.entries:
                first = batch.entries[0].index
                ensure(first <= last + 1, f"a gap in the log: {first} after {last}")
                with transaction.cursor(db=self._entries) as cursor:
                    if first <= last:
                        more = cursor.set_key(_key(first))
                        while more:
                            more = cursor.delete()
                    cursor.putmulti([(_key(e.index), encode_entry(e)) for e in batch.entries], append=True)
            if batch.hard_state is not None:
                state = batch.hard_state
                self._put(transaction, _HARD_STATE, encode([state.term, state.vote or "", state.commit]))

    def written(self, batch: LogWrite) -> None:
        """Back on the event loop: what `write` made durable becomes readable."""
        if batch.hard_state is not None:
            self._hard_state = batch.hard_state
        if batch.base is not None:
            self._cache.clear()
            self._sizes.clear()
            self._size_bytes = 0
            self._first, self._last, self._base_term = batch.base.index + 1, batch.base.index, batch.base.term
            self._state_folder = batch.base.state_folder
            self._snapshot = None
        if not batch.entries:
            return
        first = batch.entries[0].index
        for index in range(first, self._last + 1):
            self._cache.pop(index, None)
            self._size_bytes -= self._sizes.pop()
        for entry in batch.entries:
            self._cache[entry.index] = entry
            size_bytes = len(entry.data) + _VALUE_HEAD_BYTES
            self._sizes.append(size_bytes)
            self._size_bytes += size_bytes
        self._last = batch.entries[-1].index
        while len(self._cache) > CACHE_ENTRIES_MAX:
            # Insertion order is index order but for overwritten tails, where dropping any entry is harmless.
            del self._cache[next(iter(self._cache))]

    # --- compaction ------------------------------------------------------------------------------------------------

    def compactable(self, bounds: CompactionBounds, synced_index: int) -> int:
        """Up to where the log may be compacted; 0 while it is within its bounds, or nothing may go."""
        return bounds.compactable(
            self._sizes,
            self._size_bytes,
            first_index=self._first,
            last_index=self._last,
            synced_index=synced_index,
        )

    def begin_compaction(self, index: int) -> None:
        """On the event loop: from now on entries up to `index` are gone for the core; the disk has them a little longer."""
        ensure(self._first <= index <= self._last, f"a compaction to {index} of {self._first}..{self._last}")
        self._base_term = self.term(index)
        for gone in range(self._first, index + 1):
            self._cache.pop(gone, None)
            self._size_bytes -= self._sizes.popleft()
        self._first = index + 1

    def compact(self) -> None:
        """On the writer thread: removes the entries before the first one; each transaction moves the base with them."""
        base_index, base_term = self._first - 1, self._base_term
        while self._remove_some(base_index, base_term):
            pass

    def _remove_some(self, base_index: int, base_term: int) -> bool:
        """Removes some of the oldest entries up to the base; returns whether there are more."""
        with (
            self._disk.told_apart(),
            self._environment.begin(write=True) as transaction,
            transaction.cursor(db=self._entries) as cursor,
        ):
            more, index, term = cursor.first(), 0, 0
            for _ in range(_REMOVED_AT_ONCE):
                if not more or int.from_bytes(cursor.key(), "big") > base_index:
                    break
                index = int.from_bytes(cursor.key(), "big")
                term = decode_entry(index, bytes(cursor.value())).term
                more = cursor.delete()
            if index:
                self._put(transaction, _BASE, encode([index, term]))
            ensure(index < base_index or term in (0, base_term), "the log's base and its last removed entry differ")
        return 0 < index < base_index

    def bind(self, hive_id: str, birth: LogWrite | None) -> None:
        """Makes this log one of a hive, for ever; `birth` is the first entry of a hive that is born here. Blocks."""
        ensure(self._hive_id in ("", hive_id), "a log belongs to one hive for ever")
        ensure(birth is None or self._last == 0, "a hive is born into an empty log")
        # In one transaction: an entry without its hive would come back with this log into whatever hive it joins next.
        batch = birth or LogWrite(hard_state=None, entries=())
        self.write(batch, hive_id=hive_id)
        self.written(batch)
        self._hive_id = hive_id

    def begin_epoch(self, hive_id: str, batch: LogWrite) -> None:
        """Goes on as the next epoch of the same hive; the id and all that is written change over in one transaction. Blocks."""
        ensure(base_of(self._hive_id) == base_of(hive_id) != "", "an epoch is of the log's own hive")
        self.write(batch, hive_id=hive_id)
        self.written(batch)
        self._hive_id = hive_id

    def sizes(self) -> tuple[int, int]:
        """Bytes used of the map, and the map's size."""
        info, stat = self._environment.info(), self._environment.stat()
        return (info["last_pgno"] + 1) * stat["psize"], info["map_size"]

    def close(self) -> None:
        self._disk.close()
