"""Every decoder that reads bytes from outside: one registry for the tests, the bench and the coverage-guided runs.

A decoder may return whatever it likes and raise what its line allows; anything else is a bug. What it is given begins with valid
values (`seeds`), since random bytes get no further than the first check.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
import tempfile
import types
import typing
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Final

import nacl.signing

from hivenode.archives import ArchiveLimits, inspect_task, read_task, unpack_task
from hivenode.cli import logins, private_files
from hivenode.config import split_address
from hivenode.consensus import ConfChange, ConfState, MemberId, SnapshotMeta
from hivenode.consensus.confchange import decode_conf_change, encode_conf_change
from hivenode.consensus.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    Snapshot,
    SnapshotOffer,
    SnapshotStatus,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from hivenode.discovery.bootstrap import parse_host_port
from hivenode.discovery.mdns import read_record as read_mdns_record
from hivenode.encoding import canonical
from hivenode.encoding.canonical import DecodeError, encode
from hivenode.encoding.claim import Claim, SignedClaim, read_claim
from hivenode.encoding.join_token import SEED_BYTES, JoinToken, read_token, write_token
from hivenode.encoding.node_record import NodeRecord, Role, SignedNodeRecord, node_id_of, sign_record
from hivenode.encoding.records import Record, decode_record, encode_record
from hivenode.encoding.recovery import RECOVERY_DOMAIN, RecoveryRecord, SignedRecovery, open_recovery
from hivenode.errors import HiveError, InvariantError
from hivenode.identity import Identity, verify_signature
from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.pool.commands import COMMANDS
from hivenode.pool.records import SessionRecord
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    AttemptOrder,
    AttemptStarted,
    Caller,
    CloseOrder,
    PeerAddress,
    StopOrder,
    WorkerHeartbeat,
    WorkerHello,
)
from hivenode.runtime.snapshots import decode_ref, encode_ref
from hivenode.runtime.stores import SnapshotRef
from hivenode.runtime.tokens import TokenSigner, check_time, open_token, signer_of
from hivenode.storage import state_file
from hivenode.storage.log_store import decode_entry, encode_entry
from hivenode.transport.bounds import STREAM_ID_BYTES, check
from hivenode.transport.codec import (
    decode_message,
    decode_worker_event,
    decode_worker_order,
    encode_message,
    encode_worker_event,
    encode_worker_order,
)
from hivenode.transport.interceptors.calls import Call
from hivenode.transport.parsing import COUNTED_FROM_BYTES, parse
from hivenode.transport.peer_link import read_record
from hivenode.transport.routing import ROUTES, Route, Shape
from hivenode.transport.services.cluster import ClusterHandlers
from hivenode.transport.services.nodes import NodeHandlers
from hivenode.transport.services.tasks import TaskHandlers
from hivenode.transport.tickets import CHALLENGE_BYTES, Tickets
from hivenode.worker.requirements import parse_requirements
from hivenode.worker.resources import parse_gpus
from tests.integration.transport.parts import Node, World, task_record

HIVE_ID: Final = "ab" * 16
NOW_MS: Final = 1_800_000_000_000
FAR_MS: Final = 4_000_000_000_000
SMALL: Final = ArchiveLimits(members_max=20, unpacked_bytes_max=1 << 20, ratio_floor_bytes=1 << 14, depth_max=4)
IDENTITY: Final = Identity(nacl.signing.SigningKey(b"\1" * 32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """One reader of foreign bytes.

    Args:
        reads: the functions of the product that it calls, as `module.function`: what the check for forgotten ones looks at.
        seeds: valid inputs.
        errors: what it may raise.
        call: reads one input.
    """

    name: str
    reads: tuple[str, ...]
    seeds: tuple[bytes, ...]
    errors: tuple[type[Exception], ...]
    call: Callable[[bytes], object]


# --- samples ---------------------------------------------------------------------------------------------------------


def sample(hint: Any) -> Any:
    """A valid value of a type that a record's field may have."""
    for _ in range(2):
        hint = getattr(hint, "__supertype__", hint)
    plain: dict[Any, Any] = {int: 7, str: "text", bytes: b"bytes", bool: True}
    if hint in plain:
        return plain[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return hint(**{field.name: sample(hints[field.name]) for field in dataclasses.fields(hint)})
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return sample(next(argument for argument in arguments if argument is not type(None)))
    if origin is tuple:
        return (sample(arguments[0]),) * 2
    raise TypeError(f"no sample of {hint!r}")


def _records(kinds: typing.Iterable[type[Record]]) -> tuple[bytes, ...]:
    return tuple(encode_record(sample(kind)) for kind in kinds)


CONF: Final = ConfState(
    voters=frozenset({MemberId("a"), MemberId("b")}),
    voters_outgoing=frozenset({MemberId("a")}),
    learners=frozenset({MemberId("c")}),
    learners_next=frozenset(),
    auto_leave=True,
)
META: Final = SnapshotMeta(index=9, term=3, conf=CONF)
ENTRY: Final = Entry(term=3, index=8, kind=EntryKind.NORMAL, data=b"command")
_ENDS: Final[dict[str, Any]] = {"to": MemberId("a"), "from_": MemberId("b"), "term": 3}
MESSAGES: Final = (
    VoteRequest(**_ENDS, pre_vote=True, last_index=5, last_term=2, transfer=False, commit=4, commit_term=2),
    VoteResponse(**_ENDS, pre_vote=True, granted=True, commit=4, commit_term=2),
    AppendRequest(**_ENDS, prev_index=7, prev_term=3, entries=(ENTRY, ENTRY), commit=6),
    AppendResponse(**_ENDS, index=7, reject=True, hint_index=5, hint_term=2),
    Heartbeat(**_ENDS, commit=4, context=b"c"),
    HeartbeatResponse(**_ENDS, context=b"c"),
    SnapshotOffer(**_ENDS, snapshot=Snapshot(meta=META, data=b"ref")),
    SnapshotStatus(**_ENDS, ok=True),
    TimeoutNow(**_ENDS),
    ReadIndexRequest(**_ENDS, context=b"c"),
    ReadIndexResponse(**_ENDS, context=b"c", index=4),
)
_KEY: Final = AttemptKey(user="u", task_id="t", attempt=1)


def _signed_record() -> SignedNodeRecord:
    record = dataclasses.replace(
        sample(NodeRecord),
        node_id=IDENTITY.node_id,
        public_key=IDENTITY.public_key,
        role=Role.AUTO,
        certificate_sha256=b"c" * 32,
        addresses=("127.0.0.1:50052",),
        expires_ms=FAR_MS,
    )
    return sign_record(record, IDENTITY.sign)


def _signed_recovery() -> bytes:
    record = dataclasses.replace(
        sample(RecoveryRecord),
        hive_id=f"{HIVE_ID}+1.aabbccdd",
        former_hive_id=HIVE_ID,
        recovered_by=node_id_of(IDENTITY.public_key),
        public_key=IDENTITY.public_key,
    )
    data = encode_record(record)
    return encode_record(SignedRecovery(record=data, signature=IDENTITY.sign(RECOVERY_DOMAIN + data)))


# --- what needs more than one line -----------------------------------------------------------------------------------


def _peer_message(data: bytes) -> None:
    """One message of PeerService: the first byte says which."""
    requests = _peer_requests()
    if data:
        check(parse(requests[data[0] % len(requests)], data[1:]))


_PADDING: Final = nodepool_pb2.UploadTaskRequest(task_data=bytes(COUNTED_FROM_BYTES)).SerializeToString()


def _large_request(data: bytes) -> None:
    """Fields behind one that is so long that all are counted."""
    parse(nodepool_pb2.UploadTaskRequest, _PADDING + data)


@cache
def _peer_requests() -> tuple[Any, ...]:
    from google.protobuf.message_factory import GetMessageClass

    service = hive_pb2.DESCRIPTOR.services_by_name["PeerService"]
    return tuple(GetMessageClass(method.input_type) for method in service.methods)


class _Api:
    """The handlers of all unary calls over ports in memory: parse, bounds, handler, answer."""

    def __init__(self) -> None:
        self._world = World()
        self._runner = asyncio.Runner()
        ports = self._runner.run(self._ports())
        self._handlers = {
            **NodeHandlers(ports.registry, ports.status).table(),
            **TaskHandlers(ports.tasks).table(),
            **ClusterHandlers(ports.cluster).table(),
        }
        self.routes: list[Route] = [route for name, route in sorted(ROUTES.items()) if route.shape is Shape.UNARY]

    async def _ports(self) -> Any:
        return Node(self._world).server_ports()

    def call(self, data: bytes) -> None:
        """One call: the first byte says of which method."""
        if not data:
            return
        route = self.routes[data[0] % len(self.routes)]
        request = parse(route.request, data[1:])
        check(request)
        handler = self._handlers.get(route.method)
        if handler is not None:
            self._runner.run(self._answer(route, handler, request))

    async def _answer(self, route: Route, handler: Any, request: Any) -> None:
        world = self._world
        for memory in (world.users, world.tasks, world.done, world.callers):
            memory.clear()
        world.tasks["t"] = task_record("t", b"data")
        call = Call(
            route=route,
            caller=Caller(origin="ip:192.0.2.1", idempotency_key="k", deadline_s=5.0),
            token="token",
            hops=0,
            deadline=asyncio.get_running_loop().time() + 5.0,
            on_machine=False,
            proven=SessionRecord(**(_session_fields())),
        )
        (await handler(request, call)).SerializeToString()


def _session_fields() -> dict[str, Any]:
    fields = {
        field.name: sample(typing.get_type_hints(SessionRecord)[field.name])
        for field in dataclasses.fields(SessionRecord)
    }
    return fields | {"username": "testuser", "expires_ms": FAR_MS}


@cache
def _api() -> _Api:
    return _Api()


def _api_seeds() -> tuple[bytes, ...]:
    return tuple(
        bytes([number]) + _filled(route.request()).SerializeToString() for number, route in enumerate(_api().routes)
    )


_GOOD: Final[dict[str, Any]] = {
    "address": "127.0.0.1:1",
    "purpose": "admin",
    "user_role": "user",
    "priority": "high",
    "email": "a@b",
    "signature": b"s" * 64,
    "callee_nonce": b"n" * CHALLENGE_BYTES,
    "stream": b"s" * STREAM_ID_BYTES,
    "sha256": "a" * 64,
    "action": "remove",
    "rights": "worker",
}
"""Where the first best value is none."""


def _filled(message: Any, depth: int = 0) -> Any:
    """A message with every field set to something small."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            if depth < 3:
                place = getattr(message, field.name)
                _filled(place.add() if field.is_repeated else place, depth + 1)
            continue
        value: Any = _GOOD.get(field.name) or {
            field.TYPE_STRING: "t",
            field.TYPE_BYTES: b"x" * 32,
            field.TYPE_BOOL: True,
        }.get(field.type, 1)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return message


@cache
def _place() -> Path:
    """A folder of this process, gone with it; in memory where the system has such a place."""
    memory = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(prefix="hn-fuzz-", dir=memory if memory.is_dir() else None)
    _kept.append(folder)
    return Path(folder.name)


_kept: Final[list[Any]] = []


def _archive(data: bytes) -> None:
    """As a submission and then a worker read it: inspected whole, then unpacked."""
    import shutil

    path, target = _place() / "task", _place() / "unpacked"
    path.write_bytes(data)
    found = inspect_task(path, SMALL)
    read_task(path, found, SMALL, lambda: None)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    unpack_task(path, found, target, SMALL)


def _zip_seeds() -> tuple[bytes, ...]:
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w", method) as archive:
            archive.writestr("top/main.py", b"print(1)\n")
            archive.writestr("top/data/a.txt", b"a" * 50)
            archive.writestr("top/requirements.txt", b"numpy\n")
        made.append(whole.getvalue())
    return (*made, b"print('a bare script')\n")


def _token(data: bytes) -> None:
    token = data.decode("utf-8", "surrogateescape")
    check_time(open_token(token, signer=signer_of(token), public_key=IDENTITY.public_key, hive_id=HIVE_ID), NOW_MS)


def _token_seed() -> bytes:
    session = SessionRecord(**_session_fields())
    return TokenSigner(IDENTITY).sign(session, HIVE_ID).encode()


def _tickets() -> tuple[bytes, Callable[[bytes], object]]:
    """A ticket with its hive, and who looks at such."""
    tickets = Tickets(lambda: HIVE_ID, lambda: NOW_MS)
    ticket = tickets.give(IDENTITY.node_id, "ip:127.0.0.1").encode()

    def read(data: bytes) -> None:
        tickets.check(data[: len(ticket)].decode("latin-1"), data[len(ticket) :].decode("latin-1"))

    return ticket + HIVE_ID.encode(), read


def _challenges() -> tuple[bytes, Callable[[bytes], object]]:
    """A challenge's nonce, and who looks at such."""
    tickets = Tickets(lambda: HIVE_ID, lambda: NOW_MS)
    return tickets.open_challenge(IDENTITY.public_key), lambda data: tickets.challenge_of(data, IDENTITY.node_id)


def _snapshot(data: bytes) -> None:
    # As one would come whose sender means harm: its name fits it.
    ref = SnapshotRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    _, rows = state_file.read_state(state_file.HashedFile(io.BytesIO(data)), HIVE_ID, ref, META)
    for _ in rows:
        pass


def _snapshot_seed() -> bytes:
    made = io.BytesIO()
    mark = state_file.StateMark(index=META.index, term=META.term, digest=b"d" * 32, conf=CONF)
    rows = iter([(b"key%d" % number, b"value" * number) for number in range(5)])
    state_file.write_state(state_file.HashedFile(made), HIVE_ID, mark, rows)
    return made.getvalue()


def _mdns(data: bytes) -> None:
    """A TXT record as zeroconf hands it over: lengths and `key=value`, taken apart as RFC 6763 section 6 says."""
    properties: dict[bytes, bytes | None] = {}
    at = 0
    while at < len(data):
        text = data[at + 1 : at + 1 + data[at]]
        key, found, value = text.partition(b"=")
        properties.setdefault(key, value if found else None)
        at += 1 + data[at]
    addresses = [part.decode("latin-1") for part in data.split(b"\n")[-4:]]
    read_mdns_record(properties, addresses, int.from_bytes(data[:2], "big"), loopback=True)


def _mdns_seed() -> bytes:
    texts = [b"id=" + IDENTITY.node_id.encode(), b"hive=" + HIVE_ID.encode(), b"ver=0.1.0", b"phase=member", b"group="]
    return b"".join(bytes([len(text)]) + text for text in texts) + b"\x0b\n127.0.0.1\n192.168.1.20"


def _logins(data: bytes) -> None:
    import os

    os.environ["HIVENODE_CONFIG_DIR"] = str(_place())
    (_place() / "logins.json").write_bytes(data)
    logins.find("hive")
    private_files.read("logins.json", "hives")


def _addresses(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    parse_host_port(text, 50052)
    split_address(text)


# --- the registry ----------------------------------------------------------------------------------------------------


@cache
def decoders() -> dict[str, Decoder]:
    """All decoders by name."""
    signed = _signed_record()
    claim = encode_record(SignedClaim(claim=encode_record(sample(Claim)), signature=b"s" * 64))
    ticket_seed, read_ticket = _tickets()
    challenge_seed, read_challenge = _challenges()
    mark = {"errors": (DecodeError,)}
    worker_events = (
        WorkerHello(boot_id="boot", capabilities=sample(_hint(WorkerHello, "capabilities")), open=(_KEY,)),
        WorkerHeartbeat(cpu_percent=5, memory_percent=6),
        AttemptStarted(key=_KEY),
        sample(AttemptEnded),
    )
    orders = (
        dataclasses.replace(
            sample(AttemptOrder), key=_KEY, holders=(PeerAddress(node_id=IDENTITY.node_id, addresses=("a:1",)),)
        ),
        StopOrder(key=_KEY, discard=True),
        CloseOrder(key=_KEY),
    )
    kinds = typing.cast("Any", COMMANDS)._kinds.values()
    rows: list[Decoder] = [
        Decoder(
            name="canonical value",
            reads=("canonical.decode",),
            seeds=(encode([1, -5, "text", b"bytes", None, True, [[], [1 << 40]]]),),
            call=canonical.decode,
            **mark,
        ),
        Decoder(
            name="log command",
            reads=("records.decode", "records.decode_record"),
            seeds=_records(kinds),
            call=COMMANDS.decode,
            **mark,
        ),
        Decoder(
            name="Raft message",
            reads=("codec.decode_message",),
            seeds=tuple(encode_message(message) for message in MESSAGES),
            call=decode_message,
            **mark,
        ),
        Decoder(
            name="worker event",
            reads=("codec.decode_worker_event",),
            seeds=tuple(encode_worker_event(event) for event in worker_events),
            call=decode_worker_event,
            **mark,
        ),
        Decoder(
            name="worker order",
            reads=("codec.decode_worker_order",),
            seeds=tuple(encode_worker_order(order) for order in orders),
            call=decode_worker_order,
            **mark,
        ),
        Decoder(
            name="configuration change",
            reads=("confchange.decode_conf_change",),
            seeds=(
                encode_conf_change(
                    ConfChange(add_voters=(MemberId("a"),), add_learners=(), remove=(MemberId("b"),), context=b"c")
                ),
            ),
            call=decode_conf_change,
            **mark,
        ),
        Decoder(
            name="node record",
            reads=("node_record.open_record", "peer_link.read_record"),
            seeds=(encode_record(signed),),
            errors=(HiveError,),
            call=lambda data: read_record(data, NOW_MS),
        ),
        Decoder(
            name="node record, signature passed over",
            reads=("node_record.open_record",),
            seeds=(signed.record,),
            call=lambda data: decode_record(NodeRecord, data),
            **mark,
        ),
        Decoder(
            name="recovery record",
            reads=("recovery.open_recovery",),
            seeds=(_signed_recovery(),),
            call=lambda data: open_recovery(data, verify_signature),
            **mark,
        ),
        Decoder(name="claim", reads=("claim.read_claim",), seeds=(claim,), call=read_claim, **mark),
        Decoder(
            name="snapshot reference",
            reads=("snapshots.decode_ref",),
            seeds=(encode_ref(SnapshotRef(sha256="a" * 64, size_bytes=5)),),
            call=decode_ref,
            **mark,
        ),
        Decoder(
            name="snapshot file",
            reads=("state_file.read_state",),
            seeds=(_snapshot_seed(),),
            errors=(HiveError,),
            call=_snapshot,
        ),
        Decoder(
            name="log row",
            reads=("log_store.decode_entry",),
            seeds=(encode_entry(ENTRY),),
            errors=(InvariantError,),
            call=lambda data: decode_entry(ENTRY.index, data),
        ),
        Decoder(
            name="API request",
            reads=("bounds.check",),
            seeds=_api_seeds(),
            errors=(HiveError,),
            call=lambda data: _api().call(data),
        ),
        Decoder(
            name="peer request",
            reads=("bounds.check", "parsing.parse"),
            seeds=tuple(
                bytes([number]) + _filled(request()).SerializeToString()
                for number, request in enumerate(_peer_requests())
            ),
            errors=(HiveError,),
            call=_peer_message,
        ),
        Decoder(
            name="large request",
            reads=("parsing.parse",),
            seeds=(_filled(nodepool_pb2.UploadTaskRequest()).SerializeToString(),),
            errors=(HiveError,),
            call=_large_request,
        ),
        Decoder(
            name="token",
            reads=("tokens.open_token", "tokens.signer_of"),
            seeds=(_token_seed(),),
            errors=(HiveError,),
            call=_token,
        ),
        Decoder(
            name="join token",
            reads=("join_token.read_token",),
            seeds=(write_token(dataclasses.replace(sample(JoinToken), seed=b"s" * SEED_BYTES)).encode(),),
            call=lambda data: read_token(data.decode("utf-8", "replace")),
            **mark,
        ),
        Decoder(name="ticket", reads=("tickets.check",), seeds=(ticket_seed,), errors=(HiveError,), call=read_ticket),
        Decoder(
            name="challenge",
            reads=("tickets.challenge_of",),
            seeds=(challenge_seed,),
            errors=(HiveError,),
            call=read_challenge,
        ),
        Decoder(name="mDNS record", reads=("mdns.read_record",), seeds=(_mdns_seed(),), errors=(), call=_mdns),
        Decoder(
            name="address",
            reads=("bootstrap.parse_host_port", "config.split_address"),
            seeds=(b"192.168.1.5:50052", b"[fe80::1]:50052"),
            errors=(HiveError, ValueError),
            call=_addresses,
        ),
        Decoder(
            name="task archive",
            reads=("archives.inspect_task", "archives.read_task", "archives.unpack_task"),
            seeds=_zip_seeds(),
            errors=(HiveError,),
            call=_archive,
        ),
        Decoder(
            name="requirements",
            reads=("requirements.parse_requirements",),
            seeds=(b"numpy>=1.2,<3 ; python_version > '3.8'\nrequests[socks]==2.31 # web\n\n# nothing\n",),
            errors=(HiveError,),
            call=parse_requirements,
        ),
        Decoder(
            name="logins file",
            reads=("logins.find", "private_files.read"),
            seeds=(b'{"hives": {"hive": {"username": "u", "token": "t", "expires_ms": 5}}}',),
            errors=(),
            call=_logins,
        ),
        Decoder(
            name="nvidia-smi's answer",
            reads=("resources.parse_gpus",),
            seeds=(b"NVIDIA RTX, 24576, 2520\nTesla, 16000, [N/A]\n",),
            errors=(),
            call=lambda data: parse_gpus(data.decode("utf-8", "replace")),
        ),
    ]
    return {decoder.name: decoder for decoder in rows}


def _hint(kind: type, field: str) -> Any:
    return typing.get_type_hints(kind)[field]
