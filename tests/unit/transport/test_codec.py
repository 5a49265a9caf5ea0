"""Every message, event and order survives its encoding, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivenode.consensus import (
    AppendRequest,
    AppendResponse,
    ConfState,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    MemberId,
    Message,
    ReadIndexRequest,
    ReadIndexResponse,
    Snapshot,
    SnapshotMeta,
    SnapshotOffer,
    SnapshotStatus,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from hivenode.encoding.canonical import DecodeError, Value, decode, encode
from hivenode.encoding.node_record import Capabilities, NodeId
from hivenode.pool.records import AttemptOutcome, BlobRef, TaskSpec
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    AttemptOrder,
    AttemptStarted,
    CloseOrder,
    PeerAddress,
    RosterOrder,
    StopOrder,
    WorkerEvent,
    WorkerHeartbeat,
    WorkerHello,
    WorkerOrder,
)
from hivenode.transport.codec import (
    decode_message,
    decode_worker_event,
    decode_worker_order,
    encode_message,
    encode_worker_event,
    encode_worker_order,
)

TO, FROM = MemberId("b.1"), MemberId("a.1")
CONF = ConfState(
    voters=frozenset({TO, FROM}),
    voters_outgoing=frozenset({TO}),
    learners=frozenset({MemberId("c.1")}),
    learners_next=frozenset(),
    auto_leave=True,
)
ENTRIES = (
    Entry(term=1, index=5, data=b"x"),
    Entry(term=2, index=6, kind=EntryKind.CONF_CHANGE, data=b""),
)
MESSAGES: tuple[Message, ...] = (
    VoteRequest(to=TO, from_=FROM, term=1, pre_vote=True, last_index=4, last_term=1, transfer=True),
    VoteResponse(to=TO, from_=FROM, term=0, pre_vote=False, granted=True),
    AppendRequest(to=TO, from_=FROM, term=2, prev_index=4, prev_term=1, entries=ENTRIES, commit=4),
    AppendRequest(to=TO, from_=FROM, term=2, prev_index=0, prev_term=0, entries=(), commit=0),
    AppendResponse(to=TO, from_=FROM, term=2, index=6, reject=True, hint_index=3, hint_term=1),
    Heartbeat(to=TO, from_=FROM, term=2, commit=6, context=b"c"),
    HeartbeatResponse(to=TO, from_=FROM, term=2, context=b"c"),
    SnapshotOffer(
        to=TO, from_=FROM, term=2, snapshot=Snapshot(meta=SnapshotMeta(index=9, term=2, conf=CONF), data=b"d")
    ),
    SnapshotStatus(to=TO, from_=FROM, term=2, ok=False),
    TimeoutNow(to=TO, from_=FROM, term=2),
    ReadIndexRequest(to=TO, from_=FROM, term=2, context=b"r"),
    ReadIndexResponse(to=TO, from_=FROM, term=2, context=b"r", index=7),
)
KEY = AttemptKey(user="u", task_id="t", attempt=2)
BLOB = BlobRef(sha256="0" * 64, size_bytes=3)
OFFER = Capabilities(
    hostname="h",
    cpu_cores=1,
    memory_gb=2,
    cpu_score=3,
    gpu_score=4,
    gpu_memory_gb=5,
    gpu_name="g",
    location="l",
    docker_status="d",
    executor="e",
    executor_note="n",
    slots=6,
)
EVENTS: tuple[WorkerEvent, ...] = (
    WorkerHello(boot_id="b", capabilities=OFFER, open=(KEY,)),
    WorkerHeartbeat(cpu_percent=1, memory_percent=2),
    AttemptStarted(key=KEY),
    AttemptEnded(
        key=KEY,
        outcome=AttemptOutcome.TIMED_OUT,
        exit_code=-9,
        reason="r",
        result=BLOB,
        log=None,
        holders=(NodeId("n"),),
    ),
    AttemptEnded(key=KEY, outcome=AttemptOutcome.EXITED, exit_code=None, reason="", result=None, log=BLOB, holders=()),
)
ORDERS: tuple[WorkerOrder, ...] = (
    AttemptOrder(
        key=KEY,
        data=BLOB,
        holders=(PeerAddress(node_id=NodeId("n"), addresses=("h:1", "h:2")),),
        spec=TaskSpec(dependencies=("a",)),
    ),
    StopOrder(key=KEY, discard=True),
    CloseOrder(key=KEY),
    RosterOrder(),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_its_encoding(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


def test_every_kind_of_message_is_tried() -> None:
    assert {type(message) for message in MESSAGES} == set(Message.__args__)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_survives_its_encoding(event: WorkerEvent) -> None:
    assert decode_worker_event(encode_worker_event(event)) == event


def test_an_event_with_more_items_than_any_may_have_is_refused_before_they_are_read() -> None:
    key = AttemptKey(user="", task_id="", attempt=0)
    hello = next(event for event in EVENTS if isinstance(event, WorkerHello))
    most = replace(hello, open=(key,) * 4_096)
    assert decode_worker_event(encode_worker_event(most)) == most
    with pytest.raises(DecodeError, match="more than 17408 items"):
        decode_worker_event(encode_worker_event(replace(hello, open=(key,) * 4_352)))
    ended = next(event for event in EVENTS if isinstance(event, AttemptEnded))
    with pytest.raises(DecodeError, match="more than 1024 items"):
        decode_worker_event(encode_worker_event(replace(ended, holders=(NodeId(""),) * 1_024)))


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_an_order_survives_its_encoding(order: WorkerOrder) -> None:
    assert decode_worker_order(encode_worker_order(order)) == order


def test_the_kind_numbers_are_for_ever() -> None:
    kinds = [decode(encode_message(message))[0] for message in MESSAGES]  # type: ignore[index]
    assert kinds == [1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11]


ENCODED = (
    *(encode_message(message) for message in MESSAGES),
    *(encode_worker_event(event) for event in EVENTS),
    *(encode_worker_order(order) for order in ORDERS),
)
DECODERS: tuple[tuple[Any, Any], ...] = (
    (decode_message, encode_message),
    (decode_worker_event, encode_worker_event),
    (decode_worker_order, encode_worker_order),
)


def _only_decode_errors(data: bytes) -> None:
    for read, write in DECODERS:
        try:
            value = read(data)
        except DecodeError:
            continue
        assert write(value) == data


_VALUES: st.SearchStrategy[Value] = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.binary(max_size=8) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=9),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_with_this_one_encoding_or_a_decode_error(data: bytes) -> None:
    _only_decode_errors(data)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 12), st.lists(_VALUES, max_size=8))
def test_any_array_is_a_value_with_this_one_encoding_or_a_decode_error(kind: int, rest: list[Value]) -> None:
    _only_decode_errors(encode([kind, *rest]))


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(ENCODED), st.data())
def test_a_damaged_encoding_is_never_taken_for_another_spelling(encoded: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(encoded) - 1))
    damaged = bytearray(encoded)
    damaged[place] = data.draw(st.integers(0, 255))
    _only_decode_errors(bytes(damaged))
    _only_decode_errors(encoded[:place])


def test_members_out_of_order_are_refused() -> None:
    value = decode(encode_message(MESSAGES[7]))
    value[4][2][0].reverse()  # type: ignore[index,union-attr]
    with pytest.raises(DecodeError):
        decode_message(encode(value))


@pytest.mark.parametrize("kind", [True, None, "1", 0, 12, -1])
def test_an_unknown_kind_is_refused(kind: Value) -> None:
    with pytest.raises(DecodeError):
        decode_message(encode([kind, "b", "a", 1]))
