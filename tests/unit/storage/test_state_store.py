"""The agreed state's overlay against a plain dictionary, and what survives a reopening."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hivenode.consensus import ConfState, MemberId
from hivenode.encoding.canonical import encode
from hivenode.errors import InvariantError
from hivenode.storage import state_store
from hivenode.storage.state_store import StateStore

KEYS = st.binary(min_size=1, max_size=3).map(lambda raw: bytes(b"\x00a\xff"[byte % 3] for byte in raw))


class StateStoreMachine(RuleBasedStateMachine):
    """Random writes, flushes and reopenings; every read agrees with a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        # So that rows are kept and driven out all the time, and some are too long to be kept.
        self.bounds = pytest.MonkeyPatch()
        self.bounds.setattr(state_store, "KEPT_ROWS_MAX", 2)
        self.bounds.setattr(state_store, "KEPT_BYTES_MAX", 2)
        self.folder = tempfile.TemporaryDirectory()
        self.store = StateStore(Path(self.folder.name) / "state")
        self.model: dict[bytes, bytes] = {}

    @rule(key=KEYS, value=st.binary(max_size=4))
    def put(self, key: bytes, value: bytes) -> None:
        self.store.put(key, value)
        self.model[key] = value

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(during=st.lists(st.tuples(KEYS, st.binary(max_size=2)), max_size=3), fail=st.booleans())
    def flush(self, during: list[tuple[bytes, bytes]], fail: bool) -> None:
        batch = self.store.begin_flush()
        if not fail:
            self.store.commit_flush(batch)
        for key, value in during:
            self.put(key, value)
        if fail:
            self.store.abandon_flush()
        else:
            self.store.end_flush()

    @rule()
    def reopen(self) -> None:
        self.store.applied_index += 1
        batch = self.store.begin_flush()
        self.store.commit_flush(batch)
        self.store.close()
        applied = self.store.applied_index
        self.store = StateStore(Path(self.folder.name) / "state")
        assert self.store.applied_index == applied

    @rule(prefix=st.binary(max_size=2), after=st.one_of(st.just(b""), KEYS), reverse=st.booleans())
    def scan(self, prefix: bytes, after: bytes, reverse: bool) -> None:
        wanted = [
            (key, value)
            for key, value in sorted(self.model.items(), reverse=reverse)
            if key.startswith(prefix) and (not after or (key < after if reverse else key > after))
        ]
        assert list(self.store.scan(prefix, after=after, reverse=reverse)) == wanted

    @invariant()
    def reads_agree(self) -> None:
        assert dict(self.store.scan(b"")) == self.model
        for key in (b"a", b"\x00", b"a\xff", b"a", b"\xff"):
            assert self.store.get(key) == self.model.get(key)

    def teardown(self) -> None:
        self.bounds.undo()
        self.store.close()
        self.folder.cleanup()


StateStoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_overlay_reads_like_a_dictionary = StateStoreMachine.TestCase


def test_configuration_and_applied_index_come_back_with_the_rows_of_the_same_flush(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state")
    store.put(b"a", b"1")
    store.applied_index = 7
    store.conf = ConfState(voters=frozenset({MemberId("x.1"), MemberId("y.2")}), learners=frozenset({MemberId("z.3")}))
    batch = store.begin_flush()
    store.put(b"b", b"unflushed")
    store.commit_flush(batch)
    store.end_flush()
    store.close()
    reopened = StateStore(tmp_path / "state")
    assert (reopened.applied_index, reopened.conf) == (7, store.conf)
    assert dict(reopened.scan(b"")) == {b"a": b"1"}
    reopened.close()


def _map(folder: Path) -> tuple[lmdb.Environment, Any, Any]:
    environment = lmdb.open(str(folder), max_dbs=2, map_size=1 << 30)
    return environment, environment.open_db(b"main"), environment.open_db(b"meta")


def _written(folder: Path) -> None:
    store = StateStore(folder)
    for key in (b"a", b"b", b"c"):
        store.put(key, key * 8)
    store.finish_entry(3, 1)
    store.commit_flush(store.begin_flush())
    store.close()


def test_a_flipped_bit_is_found_by_whoever_reads_the_row_and_goes_into_no_snapshot(tmp_path: Path) -> None:
    _written(tmp_path)
    environment, main, _ = _map(tmp_path)
    with environment, environment.begin(write=True, db=main) as transaction:
        row = transaction.get(b"b") or b""
        transaction.put(b"b", bytes((row[0] ^ 1,)) + row[1:])
    store = StateStore(tmp_path)
    assert store.get(b"a") == b"a" * 8
    with pytest.raises(InvariantError, match="b'b' of the agreed state is not what was written"):
        store.get(b"b")
    with pytest.raises(InvariantError):
        list(store.scan(b""))
    with pytest.raises(InvariantError), store.copying() as (_, rows):
        list(rows)
    store.put(b"b", b"new")  # What was not read may be written.
    store.commit_flush(store.begin_flush())
    store.end_flush()
    assert store.get(b"b") == b"new"
    store.close()


def test_a_map_without_checksums_is_given_them(tmp_path: Path) -> None:
    _written(tmp_path)
    environment, main, meta = _map(tmp_path)
    with environment, environment.begin(write=True) as transaction:
        transaction.put(b"format", encode(1), db=meta)
        for key in (b"a", b"b", b"c"):
            transaction.put(key, key * 8, db=main)
    for _ in range(2):
        store = StateStore(tmp_path)
        assert list(store.scan(b"")) == [(key, key * 8) for key in (b"a", b"b", b"c")]
        assert store.applied_index == 3
        store.close()
