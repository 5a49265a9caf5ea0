"""Entries that are no commands, and the memory view that the tests stand on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivenode.encoding.canonical import encode
from hivenode.encoding.records import encode_record
from hivenode.errors import Code
from hivenode.pool import keys, queries
from hivenode.pool.commands import Envelope
from simulations.views import MemoryView
from tests.unit.pool.driver import START_MS, Hive


@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_and_change_nothing(data: bytes) -> None:
    hive = Hive()
    before = hive.view.rows()
    assert hive.entry(data).reply.code == Code.INVALID_ARGUMENT
    assert hive.view.rows() == before


@pytest.mark.parametrize(
    "command", [b"", b"rubbish", encode([999, 1]), encode([114, 2, "s", "bob", 1]), encode([114, 1])]
)
def test_unknown_command_moves_the_clock_alone(command: bytes) -> None:
    hive = Hive()
    before = hive.view.rows()
    envelope = Envelope(time_ms=START_MS + 5, request_owner="o", request_key="k", keep_ms=1, command=command)
    assert hive.entry(encode_record(envelope)).reply.code == Code.INVALID_ARGUMENT
    assert queries.clock_ms(hive.view) == START_MS + 5
    assert {key for key in hive.view.rows() if hive.view.get(key) != before.get(key)} == {keys.CLOCK}


@pytest.mark.parametrize(
    ("time_ms", "owner", "key", "keep_ms"),
    [
        (-1, "o", "k", 1),
        (1 << 60, "o", "k", 1),
        (START_MS, "o" * 129, "k", 1),
        (START_MS, "o\0", "k", 1),
        (START_MS, "o", "k" * 193, 1),
        (START_MS, "o", "k", -1),
        (START_MS, "o", "k", 1 << 60),
    ],
)
def test_envelope_out_of_bounds_is_refused(time_ms: int, owner: str, key: str, keep_ms: int) -> None:
    hive = Hive()
    before = hive.view.rows()
    envelope = Envelope(
        time_ms=time_ms,
        request_owner=owner,
        request_key=key,
        keep_ms=keep_ms,
        command=encode([125, 1, 0, 1]),
    )
    assert hive.entry(encode_record(envelope)).reply.code == Code.INVALID_ARGUMENT
    assert hive.view.rows() == before


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "x" * 1_000, "\ud800"])
def test_query_for_what_cannot_be_a_name_finds_nothing(text: str) -> None:
    view = Hive().view
    assert queries.user(view, text) is None
    assert queries.session(view, text) is None
    assert queries.node(view, text) is None
    assert queries.task(view, text, "t") is None
    assert queries.task(view, "alice", text) is None
    assert queries.tasks_of(view, text, limit=5) == []
    assert queries.open_attempts_of(view, text) == []
    assert (queries.balance(view, text), queries.blob_references(view, text)) == (0, 0)


@given(
    rows=st.dictionaries(st.binary(max_size=3), st.binary(max_size=2), max_size=20),
    prefix=st.sampled_from((b"", b"\x00", b"a", b"\xff", b"\xff\xff")),
    after=st.binary(max_size=3),
    reverse=st.booleans(),
)
def test_memory_view_scans_what_the_port_says(
    rows: dict[bytes, bytes], prefix: bytes, after: bytes, reverse: bool
) -> None:
    view = MemoryView(rows)
    wanted = sorted(pair for pair in rows.items() if pair[0].startswith(prefix))
    if reverse:
        wanted = [pair for pair in reversed(wanted) if not after or pair[0] < after]
    else:
        wanted = [pair for pair in wanted if not after or pair[0] > after]
    assert list(view.scan(prefix, after=after, reverse=reverse)) == wanted


def test_memory_view_stops_a_scan_that_goes_on_after_a_write() -> None:
    view = MemoryView({b"a": b"", b"b": b""})
    scan = view.scan(b"")
    next(scan)
    view.put(b"c", b"")
    with pytest.raises(RuntimeError):
        next(scan)


def test_equal_views_have_equal_digests_and_others_do_not() -> None:
    view = MemoryView({b"a": b"b"})
    assert view.digest() == view.copy().digest()
    assert view.digest() != MemoryView({b"ab": b""}).digest()
