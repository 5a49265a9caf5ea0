"""The log on disk: what is written is there after a reopening, and a conflicting tail is replaced whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from hivenode.consensus import Entry, EntryKind, HardState, MemberId, MemoryLog, Unavailable
from hivenode.encoding.canonical import encode
from hivenode.errors import InvariantError
from hivenode.runtime.stores import LogBase, LogWrite
from hivenode.storage.log_store import LogStore, decode_entry, encode_entry
from hivenode.storage.sealed_row import SEAL_BYTES


def entry(index: int, term: int, data: bytes = b"x") -> Entry:
    return Entry(term=term, index=index, kind=EntryKind.NORMAL, data=data)


def write(store: LogStore, *entries: Entry, hard_state: HardState | None = None) -> None:
    batch = LogWrite(hard_state=hard_state, entries=entries)
    store.write(batch)
    store.written(batch)


def test_entries_and_hard_state_survive_a_reopening(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    state = HardState(term=3, vote=MemberId("a.1"), commit=2)
    write(store, entry(1, 1), entry(2, 3, b"two"), hard_state=state)
    incarnation = store.incarnation
    store.close()
    again = LogStore(tmp_path / "log")
    assert again.initial_state()[0] == state
    assert (again.first_index(), again.last_index(), again.incarnation) == (1, 2, incarnation)
    assert again.entries(1, 3, 1 << 20) == [entry(1, 1), entry(2, 3, b"two")]
    assert again.term(0) == 0
    again.close()


def test_a_conflicting_tail_is_replaced_whole_on_disk_and_in_memory(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    write(store, *[entry(index, 1) for index in range(1, 11)])
    write(store, entry(4, 2, b"new"))
    for view in (store, None):
        if view is None:
            store.close()
            view = LogStore(tmp_path / "log")
        assert view.last_index() == 4
        assert [found.term for found in view.entries(1, 5, 1 << 20)] == [1, 1, 1, 2]
        with pytest.raises(Unavailable):
            view.term(5)
        last = view
    last.close()


def test_a_gap_is_a_broken_invariant(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    with pytest.raises(InvariantError):
        store.write(LogWrite(hard_state=None, entries=(entry(2, 1),)))
    assert store.last_index() == 0
    store.close()


def test_entries_are_bounded_by_bytes_but_never_empty(tmp_path: Path) -> None:
    """By the same measure as everywhere in the core, so that empty entries are bounded too."""
    store, memory = LogStore(tmp_path / "log"), MemoryLog()
    entries = [entry(index, 1, b"y" * (100 * (index % 2))) for index in range(1, 6)]
    write(store, *entries)
    memory.append(entries)
    for max_bytes in range(sum(found.size_bytes for found in entries) + 1):
        assert store.entries(1, 6, max_bytes) == memory.entries(1, 6, max_bytes)
    assert len(store.entries(1, 6, 0)) == 1
    store.close()


def test_a_new_folder_is_a_new_incarnation(tmp_path: Path) -> None:
    first, second = LogStore(tmp_path / "one"), LogStore(tmp_path / "two")
    assert first.incarnation != second.incarnation
    first.close()
    second.close()


def test_a_log_belongs_to_one_hive_for_ever(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    store.bind("h1", LogWrite(hard_state=HardState(term=1, vote=None, commit=1), entries=(entry(1, 1),)))
    with pytest.raises(InvariantError):
        store.bind("h2", None)
    store.close()
    again = LogStore(tmp_path / "log")
    assert (again.hive_id, again.last_index()) == ("h1", 1)
    again.close()


def test_a_hive_is_born_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LogStore(tmp_path / "log")

    def crash(batch: LogWrite) -> None:
        raise KeyboardInterrupt

    # Whatever follows the durable write of the first entry must not be needed for it to belong to a hive.
    monkeypatch.setattr(store, "written", crash)
    birth = LogWrite(hard_state=HardState(term=1, vote=None, commit=1), entries=(entry(1, 1),))
    with pytest.raises(KeyboardInterrupt):
        store.bind("h" * 32, birth)
    store.close()
    again = LogStore(tmp_path / "log")
    assert (again.last_index(), again.hive_id) == (1, "h" * 32)
    again.close()


def test_any_flipped_bit_of_a_row_is_found() -> None:
    whole = entry(7, 300, b"some command")
    row = encode_entry(whole)
    assert decode_entry(7, row) == whole
    for bit in range(8 * len(row)):
        damaged = bytearray(row)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvariantError, match="entry 7 of the log is damaged"):
            decode_entry(7, bytes(damaged))


def test_a_row_of_another_place_is_found() -> None:
    with pytest.raises(InvariantError):
        decode_entry(8, encode_entry(entry(7, 3)))


def test_a_row_from_before_there_was_a_checksum_is_read() -> None:
    assert decode_entry(7, encode([3, EntryKind.NORMAL.value, b"x"])) == entry(7, 3)


def test_a_damaged_entry_is_never_served_after_a_restart(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    write(store, entry(1, 1), entry(2, 1, b"command"))
    store.close()
    with lmdb.open(str(tmp_path / "log"), max_dbs=2, map_size=1 << 30) as environment:
        entries = environment.open_db(b"entries")
        with environment.begin(write=True, db=entries) as transaction:
            key = (2).to_bytes(8, "big")
            transaction.put(key, (transaction.get(key) or b"").replace(b"command", b"bommand"))
    again = LogStore(tmp_path / "log")
    assert again.term(1) == 1
    for read in (lambda: again.term(2), lambda: again.entries(1, 3, 1 << 20)):
        with pytest.raises(InvariantError):
            read()
    again.close()


def a_log_with_all_rows(folder: Path) -> LogStore:
    """Every row that `meta` may have is there."""
    store = LogStore(folder)
    state = HardState(term=3, vote=MemberId("a.1"), commit=7)
    base = LogBase(index=7, term=2, state_folder="state.1")
    store.bind("h1", LogWrite(hard_state=state, entries=(entry(8, 3),), base=base))
    return store


def meta_rows(folder: Path, changed: Callable[[bytes, bytes], bytes]) -> list[bytes]:
    """Changes the rows of `meta`, and returns their keys."""
    with lmdb.open(str(folder), max_dbs=2, map_size=1 << 30) as environment:
        meta = environment.open_db(b"meta")
        with environment.begin(write=True, db=meta) as transaction:
            rows = list(transaction.cursor())
            for key, row in rows:
                transaction.put(key, changed(key, row))
    return [key for key, _ in rows]


def test_a_log_from_before_its_own_rows_had_checksums_is_given_them(tmp_path: Path) -> None:
    store = a_log_with_all_rows(tmp_path / "log")
    before = (store.incarnation, store.hive_id, store.initial_state()[0], store.state_folder, store.term(7))
    store.close()
    keys = meta_rows(tmp_path / "log", lambda key, row: encode(1) if key == b"format" else row[:-SEAL_BYTES])
    assert len(keys) == 6
    for _ in range(2):
        again = LogStore(tmp_path / "log")
        assert (again.first_index(), again.last_index()) == (8, 8)
        found = (again.incarnation, again.hive_id, again.initial_state()[0], again.state_folder, again.term(7))
        assert found == before
        again.close()


def test_a_flipped_bit_in_what_the_log_says_of_itself_is_found(tmp_path: Path) -> None:
    store = a_log_with_all_rows(tmp_path / "log")
    store.close()
    whole = meta_rows(tmp_path / "log", lambda key, row: row)
    for damaged in whole:
        if damaged == b"format":
            continue

        def flipped(key: bytes, row: bytes, damaged: bytes = damaged) -> bytes:
            return bytes([row[0] ^ 1]) + row[1:] if key == damaged else row

        meta_rows(tmp_path / "log", flipped)
        with pytest.raises(InvariantError, match="of the log is not what was written"):
            LogStore(tmp_path / "log")
        meta_rows(tmp_path / "log", flipped)
    LogStore(tmp_path / "log").close()
