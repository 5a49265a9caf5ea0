"""Agreed state on disk: an ordered map in LMDB under an overlay in memory.

Applying a committed entry writes into the overlay, so it costs no I/O and its answer goes out at once: the entry itself is
already durable in the log. Every now and then the overlay is flushed, with the applied index and the configuration, in
one transaction; after a crash the log is replayed from that index. So the state may lag the log but is never ahead of it,
and never half of an entry. In the map each row has a checksum, which is looked at whenever the row is read from there: a flipped
bit stops this node before it is answered with, built upon, or sent to others in a snapshot.

With the applied index stands a digest: a running SHA-256 over what every entry since the first one wrote, so that two members
which applied the same entries to the same state have the same digest, and a difference, once written, never goes away.

Three layers, newest first: `active` (being written), `flushing` (being committed by the writer thread), the map. A deleted key
is a tombstone (None) in its layer. The event loop owns the layers; the writer thread sees only a frozen batch. Rows of the map
that were read lately stay in memory as well, since nearly every entry looks at some that hardly ever change.

A copy is read from the map in a thread of its own, for minutes. The map that it began with stays open until it is over, also when
the store goes on with another one, or is closed: LMDB crashes the process when a map is closed under a reader.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb
from sortedcontainers import SortedList

from hivenode.consensus import ConfState
from hivenode.encoding.canonical import decode, encode
from hivenode.errors import Code, HiveError, ensure
from hivenode.runtime.digests import NO_DIGEST, digest_after
from hivenode.runtime.stores import Flush
from hivenode.storage.lmdb_disk import MAP_BYTES, LmdbDisk, open_environment
from hivenode.storage.sealed_row import seal, unseal
from hivenode.storage.state_file import StateMark

ACTIVE_KEYS_MAX: Final = 200_000
"""Above it `overfull` tells the runtime to wait for a flush: some 100 MB of overlay."""
KEPT_ROWS_MAX: Final = 8_192
"""Rows of the map that are kept as they were read: as many as decoded records are (`encoding/records.py`)."""
KEPT_BYTES_MAX: Final = 2_048
"""Longer ones are rare and are not kept, so that all together stay below some 20 MB."""
FORMAT: Final = 2
"""Since 2 each row has a checksum; a map of before is given them when it is opened."""

_APPLIED, _FORMAT = b"applied", b"format"
_NOT_HERE: Final = object()
"""Told apart from None, which says that a row was deleted."""


def _after_prefix(prefix: bytes) -> bytes | None:
    """The least key that is greater than every key with this prefix; None when there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None


def open_state(folder: Path, *, sync: bool = True) -> lmdb.Environment:
    """The LMDB environment of an agreed state; without `sync` its maker calls `Environment.sync` when it is whole. DISK_FULL."""
    # Without metasync a power cut may lose the last commits but never the map's integrity, and the log has them all.
    return open_environment(folder, map_bytes=MAP_BYTES, metasync=False, sync=sync, spare_transactions=2)


def write_mark(transaction: lmdb.Transaction, meta: Any, mark: StateMark) -> None:
    """Writes format and mark, in the transaction that makes them true."""
    transaction.put(_FORMAT, encode(FORMAT), db=meta)
    transaction.put(_APPLIED, encode(mark.to_value()), db=meta)


class _Map:
    """An open map, and how many need it: the store itself, and the copies that are read from it."""

    def __init__(self, folder: Path) -> None:
        self.environment: Final = open_state(folder)
        self.disk: Final = LmdbDisk(self.environment, folder, "the agreed state")
        self._lock = threading.Lock()
        self._holders = 1
        with ExitStack() as undo:
            undo.callback(self.let_go)
            with self.disk.told_apart():
                self.main: Final = self.environment.open_db(b"main")
                self.meta: Final = self.environment.open_db(b"meta")
            undo.pop_all()

    def hold(self) -> bool:
        """On any thread: whether the map is open, and stays so until `let_go`."""
        with self._lock:
            if self._holders:
                self._holders += 1
                return True
            return False

    def let_go(self) -> None:
        """On any thread: the last one closes the map."""
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self.disk.close()


class _Overlay:
    """Rows that are not in the map yet; None is a deleted one.

    Their keys are brought into order when somebody scans, which few entries do.
    """

    def __init__(self, rows: dict[bytes, bytes | None]) -> None:
        self.rows: Final = rows
        self._ordered: SortedList[bytes] = SortedList()
        self._unordered = list(rows)

    def put(self, key: bytes, value: bytes | None) -> None:
        if key not in self.rows:
            self._unordered.append(key)
        self.rows[key] = value

    def keys(self, prefix: bytes, after: bytes, reverse: bool) -> Iterator[bytes]:
        """The keys with a prefix that come after another one."""
        if self._unordered:
            self._ordered.update(self._unordered)
            self._unordered.clear()
        low, high = prefix, _after_prefix(prefix)
        low_inclusive = True
        if after and reverse:
            high = after if high is None else min(high, after)
        elif after and after >= low:
            low, low_inclusive = after, False
        return self._ordered.irange(low, high, inclusive=(low_inclusive, False), reverse=reverse)


class StateStore:
    """The agreed state of one node; fills the pure rooms' `StateView`."""

    def __init__(self, folder: Path) -> None:
        self._active = _Overlay({})
        self._flushing = _Overlay({})
        self._kept: dict[bytes, bytes | None] = {}
        self._touched: dict[bytes, bytes | None] = {}
        self._open(folder)

    def _open(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._map = _Map(folder)
        self._environment, self._main, self._meta = self._map.environment, self._map.main, self._map.meta
        mark = StateMark(index=0, term=0, digest=NO_DIGEST, conf=ConfState())
        with self._map.disk.told_apart(), self._environment.begin(write=True) as transaction:
            found = transaction.get(_FORMAT, db=self._meta)
            if found is None:
                transaction.put(_FORMAT, encode(FORMAT), db=self._meta)
            elif decode(found) == 1:
                self._seal_all(transaction)
            elif decode(found) != FORMAT:
                raise HiveError(Code.INVALID_ARGUMENT, f"{folder} was written by a newer hivenode: upgrade this one")
            applied = transaction.get(_APPLIED, db=self._meta)
            if applied is not None:
                mark = StateMark.of_value(decode(applied))
        self.applied_index, self.applied_term = mark.index, mark.term
        self.digest, self.conf = mark.digest, mark.conf
        self._reader = self._environment.begin(db=self._main)

    def _seal_all(self, transaction: lmdb.Transaction) -> None:
        # Read as it was before, since a cursor must not write where it walks.
        with self._environment.begin(db=self._main) as before, before.cursor() as cursor:
            for key, value in cursor:
                transaction.put(key, seal(key, value), db=self._main)
        transaction.put(_FORMAT, encode(FORMAT), db=self._meta)

    # --- StateView -------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        value: Any = self._active.rows.get(key, _NOT_HERE)
        if value is _NOT_HERE:
            value = self._flushing.rows.get(key, _NOT_HERE)
        if value is _NOT_HERE:
            value = self._kept.get(key, _NOT_HERE)
        if value is _NOT_HERE:
            value = self._in_map(key)
            self._keep(key, value)
        found: bytes | None = value
        return found

    def _keep(self, key: bytes, value: bytes | None) -> None:
        self._kept.pop(key, None)
        if value is not None and len(value) > KEPT_BYTES_MAX:
            return
        if len(self._kept) >= KEPT_ROWS_MAX:
            self._kept.clear()
        self._kept[key] = value

    def _in_map(self, key: bytes) -> bytes | None:
        row = self._reader.get(key)
        return None if row is None else unseal(key, row)

    def put(self, key: bytes, value: bytes) -> None:
        self._active.put(key, value)
        self._touched[key] = value

    def delete(self, key: bytes) -> None:
        self._active.put(key, None)
        self._touched[key] = None

    def scan(self, prefix: bytes, *, after: bytes = b"", reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        layers = [
            self._active.keys(prefix, after, reverse),
            self._flushing.keys(prefix, after, reverse),
            self._map_keys(prefix, after, reverse),
        ]
        heads: list[bytes | None] = [next(layer, None) for layer in layers]
        pick = max if reverse else min
        while True:
            waiting = [head for head in heads if head is not None]
            if not waiting:
                return
            key = pick(waiting)
            for position, head in enumerate(heads):
                if head == key:
                    heads[position] = next(layers[position], None)
            value = self._scanned(key)
            if value is not None:
                yield key, value

    def _scanned(self, key: bytes) -> bytes | None:
        """As `get`, but a long scan does not drive out what is kept."""
        for rows in (self._active.rows, self._flushing.rows):
            if key in rows:
                return rows[key]
        return self._in_map(key)

    def _map_keys(self, prefix: bytes, after: bytes, reverse: bool) -> Iterator[bytes]:
        with self._reader.cursor(db=self._main) as cursor:
            if reverse:
                end = _after_prefix(prefix)
                if after and (end is None or after < end):
                    end = after
                # `set_range` finds the first key ≥ end; the one before it is the greatest below end.
                found = cursor.prev() if end is not None and cursor.set_range(end) else cursor.last()
            else:
                found = cursor.set_range(max(prefix, after)) if prefix or after else cursor.first()
                if found and after and cursor.key() == after:
                    found = cursor.next()
            while found and cursor.key().startswith(prefix):
                yield cursor.key()
                found = cursor.prev() if reverse else cursor.next()

    def finish_entry(self, index: int, term: int) -> None:
        """An entry is applied: what it wrote goes into the digest, in key order, as it stands at the entry's end."""
        self.digest = digest_after(self.digest, index, term, self._touched)
        self.applied_index, self.applied_term = index, term
        self._touched.clear()

    # --- flushing --------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether there is anything to flush."""
        return bool(self._active.rows)

    @property
    def overfull(self) -> bool:
        return len(self._active.rows) > ACTIVE_KEYS_MAX

    def begin_flush(self) -> Flush:
        """Freezes the overlay for the writer thread; one flush at a time."""
        ensure(not self._flushing.rows, "two flushes of the agreed state overlap")
        self._flushing, self._active = self._active, _Overlay({})
        return Flush(
            rows=self._flushing.rows,
            applied_index=self.applied_index,
            applied_term=self.applied_term,
            digest=self.digest,
            conf=self.conf,
        )

    def commit_flush(self, flush: Flush) -> None:
        """On the writer thread: one transaction with the rows, the applied index and the configuration. DISK_FULL."""
        with self._map.disk.told_apart(), self._environment.begin(write=True, db=self._main) as transaction:
            with transaction.cursor(db=self._main) as cursor:
                rows = sorted(flush.rows.items())
                cursor.putmulti([(key, seal(key, value)) for key, value in rows if value is not None])
            for key, value in flush.rows.items():
                if value is None:
                    transaction.delete(key)
            mark = StateMark(index=flush.applied_index, term=flush.applied_term, digest=flush.digest, conf=flush.conf)
            write_mark(transaction, self._meta, mark)

    def end_flush(self) -> None:
        """Back on the event loop: the flushed rows are read from the map from now on."""
        self._reader.abort()
        self._reader = self._environment.begin(db=self._main)
        for key in self._kept.keys() & self._flushing.rows.keys():
            self._keep(key, self._flushing.rows[key])
        self._flushing = _Overlay({})

    def abandon_flush(self) -> None:
        """After a failed commit: the rows go back under those written since, to be flushed again."""
        self._active = _Overlay({**self._flushing.rows, **self._active.rows})
        self._flushing = _Overlay({})

    def sync(self) -> None:
        """On the writer thread: the last flush survives the loss of power when this returns."""
        self._map.disk.sync()

    # --- as a whole ------------------------------------------------------------------------------------------------

    @contextmanager
    def copying(self) -> Iterator[tuple[StateMark, Iterator[tuple[bytes, bytes]]]]:
        """On any thread: one moment of what was flushed, all rows in key order. Flushes go on meanwhile, and `adopt` and `close`.

        Raises:
            HiveError: SHUTTING_DOWN when the store is closed already.
        """
        copied = self._hold_map()
        try:
            with copied.environment.begin() as transaction:
                applied = transaction.get(_APPLIED, db=copied.meta)
                ensure(applied is not None, "a snapshot of an agreed state that was never flushed")
                with transaction.cursor(db=copied.main) as cursor:
                    yield StateMark.of_value(decode(applied or b"")), ((key, unseal(key, row)) for key, row in cursor)
        finally:
            copied.let_go()

    def _hold_map(self) -> _Map:
        while True:
            found = self._map
            if found.hold():
                return found
            if found is self._map:
                raise HiveError(Code.SHUTTING_DOWN, "this node is shutting down; ask another one")

    def adopt(self, folder: Path) -> None:
        """Goes on with the agreed state in `folder`; nobody flushes the old one meanwhile. A copy of it goes on."""
        ensure(not self._flushing.rows, "the agreed state is replaced while it is flushed")
        before = self._map
        self._reader.abort()
        self._active = _Overlay({})
        self._kept.clear()
        self._touched.clear()
        self._open(folder)
        before.let_go()

    def sizes(self) -> tuple[int, int]:
        """Bytes used of the map, and the map's size."""
        info, stat = self._environment.info(), self._environment.stat()
        return (info["last_pgno"] + 1) * stat["psize"], info["map_size"]

    def close(self) -> None:
        """The map is closed at once, or by the copy that is still read from it."""
        self._reader.abort()
        self._map.let_go()
