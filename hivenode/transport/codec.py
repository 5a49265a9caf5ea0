"""Consensus messages, worker events and worker orders as canonical bytes, and back.

Every value is an array that begins with its kind number; the numbers are for ever. Decoding is strict: what is not exactly
the encoding of one value is a `DecodeError`, so that a peer's bytes never become a half-built object.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, TypeVar, assert_never

from hivenode.consensus.messages import (
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
from hivenode.encoding.canonical import DecodeError, Value, decode, encode, refuse_many
from hivenode.encoding.node_record import Capabilities, NodeId
from hivenode.encoding.records import from_value, to_value
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

T = TypeVar("T")
_Fields = tuple[tuple[str, type], ...]

# The fields of each message after its kind, `to`, `from_` and `term`; a nested kind has a function of its own below.
_MESSAGES: Final[dict[int, tuple[type[Any], _Fields]]] = {
    1: (
        VoteRequest,
        (
            ("pre_vote", bool),
            ("last_index", int),
            ("last_term", int),
            ("transfer", bool),
            ("commit", int),
            ("commit_term", int),
        ),
    ),
    2: (VoteResponse, (("pre_vote", bool), ("granted", bool), ("commit", int), ("commit_term", int))),
    3: (
        AppendRequest,
        (("prev_index", int), ("prev_term", int), ("entries", list), ("commit", int)),
    ),
    4: (AppendResponse, (("index", int), ("reject", bool), ("hint_index", int), ("hint_term", int))),
    5: (Heartbeat, (("commit", int), ("context", bytes))),
    6: (HeartbeatResponse, (("context", bytes),)),
    7: (SnapshotOffer, (("snapshot", list),)),
    8: (SnapshotStatus, (("ok", bool),)),
    9: (TimeoutNow, ()),
    10: (ReadIndexRequest, (("context", bytes),)),
    11: (ReadIndexResponse, (("context", bytes), ("index", int))),
}
EVENT_ITEMS_MAX: Final = 1_024
"""Numbers, texts and arrays in what a worker tells: the longest list in it is of the machines that have a result."""
HELLO_ITEMS_MAX: Final = 4 * 4_096 + EVENT_ITEMS_MAX
"""A hello names four open attempts for each of 1,024 slots, each an array of three."""
_HELLO: Final = b"\x01"
"""The second byte of a hello: the first is the array's."""
_KIND_OF: Final = {kind: number for number, (kind, _) in _MESSAGES.items()}
_ENTRY_KINDS: Final = {kind.value: kind for kind in EntryKind}


# --- reading what must have an exact shape ---------------------------------------------------------------------------


def _array(value: Any, length: int) -> list[Any]:
    if type(value) is not list or len(value) != length:
        raise DecodeError(f"an array of {length} is wanted")
    return value


def _exact(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise DecodeError(f"{kind.__name__} is wanted, {type(value).__name__} is there")
    return value


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise DecodeError("a number that is not negative is wanted")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple([_exact(item, str) for item in _exact(value, list)])


def _optional(value: Any, read: Callable[[Any], T]) -> T | None:
    return None if value is None else read(value)


# --- consensus messages ----------------------------------------------------------------------------------------------


def _write_conf(conf: ConfState) -> list[Value]:
    sets = (conf.voters, conf.voters_outgoing, conf.learners, conf.learners_next)
    return [*(sorted(members) for members in sets), conf.auto_leave]


def _read_members(value: Any) -> frozenset[MemberId]:
    names = _texts(value)
    if any(left >= right for left, right in itertools.pairwise(names)):
        raise DecodeError("the members are not in order")  # a set has one encoding only
    return frozenset(MemberId(name) for name in names)


def _read_conf(value: Any) -> ConfState:
    voters, outgoing, learners, learners_next, auto_leave = _array(value, 5)
    return ConfState(
        voters=_read_members(voters),
        voters_outgoing=_read_members(outgoing),
        learners=_read_members(learners),
        learners_next=_read_members(learners_next),
        auto_leave=_exact(auto_leave, bool),
    )


def _write_snapshot(snapshot: Snapshot) -> list[Value]:
    meta = snapshot.meta
    return [meta.index, meta.term, _write_conf(meta.conf), snapshot.data]


def _read_snapshot(value: Any) -> Snapshot:
    index, term, conf, data = _array(value, 4)
    meta = SnapshotMeta(index=_natural(index), term=_natural(term), conf=_read_conf(conf))
    return Snapshot(meta=meta, data=_exact(data, bytes))


def _read_entry(value: Any) -> Entry:
    term, index, kind, data = _array(value, 4)
    entry_kind = _ENTRY_KINDS.get(_natural(kind))
    if entry_kind is None:
        raise DecodeError(f"no entry has kind {kind!r}")
    return Entry(term=_natural(term), index=_natural(index), kind=entry_kind, data=_exact(data, bytes))


def encode_message(message: Message) -> bytes:
    """Canonical bytes of a consensus message."""
    number = _KIND_OF[type(message)]
    out: list[Value] = [number, message.to, message.from_, message.term]
    if isinstance(message, AppendRequest):
        entries = [[entry.term, entry.index, entry.kind.value, entry.data] for entry in message.entries]
        out += (message.prev_index, message.prev_term, entries, message.commit)
    elif isinstance(message, SnapshotOffer):
        out.append(_write_snapshot(message.snapshot))
    else:
        out += [getattr(message, name) for name, _ in _MESSAGES[number][1]]
    return encode(out)


def decode_message(data: bytes) -> Message:
    """The consensus message of canonical bytes. Raises `DecodeError` for anything else."""
    value: Any = decode(data)
    number = _exact(value, list)[0] if value else None
    if type(number) is not int or number not in _MESSAGES:
        raise DecodeError("this is no consensus message")
    kind, fields = _MESSAGES[number]
    _array(value, 4 + len(fields))
    read: dict[str, Any] = {
        "to": MemberId(_exact(value[1], str)),
        "from_": MemberId(_exact(value[2], str)),
        "term": _natural(value[3]),
    }
    for (name, field_kind), item in zip(fields, value[4:], strict=True):
        read[name] = _natural(item) if field_kind is int else _exact(item, field_kind)
    if kind is AppendRequest:
        read["entries"] = tuple([_read_entry(entry) for entry in read["entries"]])
    elif kind is SnapshotOffer:
        read["snapshot"] = _read_snapshot(read["snapshot"])
    message: Message = kind(**read)
    return message


# --- the worker's stream ---------------------------------------------------------------------------------------------


def _write_key(key: AttemptKey) -> list[Value]:
    return [key.user, key.task_id, key.attempt]


def _read_key(value: Any) -> AttemptKey:
    user, task_id, attempt = _array(value, 3)
    return AttemptKey(user=_exact(user, str), task_id=_exact(task_id, str), attempt=_natural(attempt))


def _write_blob(blob: BlobRef | None) -> Value:
    return None if blob is None else to_value(blob)


def _read_blob(value: Any) -> BlobRef:
    return from_value(BlobRef, value)


def _read_peer(value: Any) -> PeerAddress:
    node_id, addresses = _array(value, 2)
    return PeerAddress(node_id=NodeId(_exact(node_id, str)), addresses=_texts(addresses))


def _read_outcome(value: Any) -> AttemptOutcome:
    try:
        return AttemptOutcome(_exact(value, str))
    except ValueError as error:
        raise DecodeError(f"{value!r} is no outcome of an attempt") from error


def encode_worker_event(event: WorkerEvent) -> bytes:
    """Canonical bytes of what a worker tells the leader."""
    match event:
        case WorkerHello():
            keys = [_write_key(key) for key in event.open]
            return encode([1, event.boot_id, to_value(event.capabilities), keys])
        case WorkerHeartbeat():
            return encode([2, event.cpu_percent, event.memory_percent])
        case AttemptStarted():
            return encode([3, _write_key(event.key)])
        case AttemptEnded():
            return encode(
                [
                    4,
                    _write_key(event.key),
                    event.outcome.value,
                    event.exit_code,
                    event.reason,
                    _write_blob(event.result),
                    _write_blob(event.log),
                    list(event.holders),
                ]
            )
        case _:
            assert_never(event)


def decode_worker_event(data: bytes) -> WorkerEvent:
    """The worker's event of canonical bytes. Raises `DecodeError` for anything else."""
    is_hello = data[1:2] == _HELLO
    refuse_many(data, HELLO_ITEMS_MAX if is_hello else EVENT_ITEMS_MAX)
    value: Any = decode(data)
    match value:
        case [1, str(boot_id), capabilities, [*keys]] if type(value[0]) is int:
            return WorkerHello(
                boot_id=boot_id,
                capabilities=from_value(Capabilities, capabilities),
                open=tuple([_read_key(key) for key in keys]),
            )
        case [2, cpu, memory] if type(value[0]) is int:
            return WorkerHeartbeat(cpu_percent=_natural(cpu), memory_percent=_natural(memory))
        case [3, key] if type(value[0]) is int:
            return AttemptStarted(key=_read_key(key))
        case [4, key, outcome, exit_code, reason, result, log, holders] if type(value[0]) is int:
            return AttemptEnded(
                key=_read_key(key),
                outcome=_read_outcome(outcome),
                exit_code=_optional(exit_code, lambda item: _exact(item, int)),
                reason=_exact(reason, str),
                result=_optional(result, _read_blob),
                log=_optional(log, _read_blob),
                holders=tuple([NodeId(holder) for holder in _texts(holders)]),
            )
        case _:
            raise DecodeError("this is no event of a worker")


def encode_worker_order(order: WorkerOrder) -> bytes:
    """Canonical bytes of what the leader tells a worker."""
    match order:
        case AttemptOrder():
            holders = [[holder.node_id, list(holder.addresses)] for holder in order.holders]
            return encode([1, _write_key(order.key), to_value(order.data), holders, to_value(order.spec)])
        case StopOrder():
            return encode([2, _write_key(order.key), order.discard])
        case CloseOrder():
            return encode([3, _write_key(order.key)])
        case RosterOrder():
            return encode([4])
        case _:
            assert_never(order)


def decode_worker_order(data: bytes) -> WorkerOrder:
    """The leader's order of canonical bytes. Raises `DecodeError` for anything else."""
    value: Any = decode(data)
    match value:
        case [1, key, blob, [*holders], spec] if type(value[0]) is int:
            return AttemptOrder(
                key=_read_key(key),
                data=_read_blob(blob),
                holders=tuple([_read_peer(holder) for holder in holders]),
                spec=from_value(TaskSpec, spec),
            )
        case [2, key, bool(discard)] if type(value[0]) is int:
            return StopOrder(key=_read_key(key), discard=discard)
        case [3, key] if type(value[0]) is int:
            return CloseOrder(key=_read_key(key))
        case [4] if type(value[0]) is int:
            return RosterOrder()
        case _:
            raise DecodeError("this is no order to a worker")
