"""A machine with the right to run tasks that lies to the whole hive at once changes nothing, and its name stands in the logs.

It is a program with a real key that joined a hive of three daemons by a join token. It says to each of them whatever a voter, a
leader or another worker may say: the kinds come from the protocol's own lists, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import grpc
import jwt
import nacl.signing
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hivenode.consensus import (
    AppendRequest,
    AppendResponse,
    ConfChange,
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
    encode_conf_change,
)
from hivenode.encoding.node_record import NodeId, NodeRecord, Role, SignedNodeRecord
from hivenode.encoding.records import encode_record
from hivenode.errors import Code
from hivenode.identity import Identity, make_certificate
from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.pool.records import AttemptOutcome
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    ClusterAction,
    PeerAddress,
    WorkerEvent,
    WorkerHeartbeat,
    WorkerHello,
)
from hivenode.transport.bounds import STREAM_ID_BYTES
from hivenode.transport.codec import encode_message, encode_worker_event
from hivenode.transport.peer_link import SERVICE, Connection, Self
from hivenode.transport.peers import GrpcPeers
from hivenode.transport.statuses import code_in
from tests.e2e.user import MASTER, USERS, CallError, User, zip_of
from tests.integration.transport.parts import capabilities
from tests.support.daemons import Daemon, hive, wait_for
from tests.support.requests import good_request

DEADLINE_S: Final = 20.0
FAR_TERM: Final = 1_000_000
METHODS: Final = hive_pb2.DESCRIPTOR.services_by_name["PeerService"].methods_by_name
PATIENT: Final = {"HIVENODE_ELECTION_TIMEOUT_MIN_MS": "10000", "HIVENODE_ELECTION_TIMEOUT_MAX_MS": "15000"}
"""The term must not change by itself on a busy machine: that would hide, or look like, what the rogue did."""
TASK: Final = "import time\nwhile True: time.sleep(0.05)\n"


class Rogue:
    """The machine: its key, its connections, and the hive that it wants into."""

    def __init__(self, hive_id: str) -> None:
        self.identity = Identity(nacl.signing.SigningKey.generate())
        self.certificate = make_certificate()
        self.hive_id = ""
        self.target = hive_id
        self.peers = GrpcPeers(
            Self(identity=self.identity, record=self.record, hive_id=lambda: self.hive_id, now_ms=now_ms)
        )

    @property
    def id(self) -> NodeId:
        return self.identity.node_id

    def statement(self) -> NodeRecord:
        return NodeRecord(
            node_id=self.id,
            public_key=self.identity.public_key,
            incarnation="1",
            role=Role.WORKER,
            addresses=("127.0.0.1:9",),
            capabilities=capabilities(),
            sequence=now_ms(),
            expires_ms=now_ms() + 3_600_000,
            version="0",
            certificate_sha256=self.certificate.sha256,
        )

    def record(self) -> SignedNodeRecord:
        return self.identity.sign_record(self.statement())

    async def join(self, daemon: Daemon) -> None:
        """Comes in, as a worker: in `lan` mode whoever says that it never votes gets no more than that."""
        address = address_of(daemon)
        offer = await self.peers.join(address, self.target, self.record(), DEADLINE_S)
        assert not offer.voter_rights
        self.hive_id = offer.hive_id

    async def connection(self, daemon: Daemon) -> Connection:
        return await self.peers.link_to(address_of(daemon)).connect(DEADLINE_S)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def address_of(daemon: Daemon) -> PeerAddress:
    return PeerAddress(node_id=NodeId(daemon.node_id), addresses=(daemon.peer_address,))


# --- what it says as a member of consensus ---


def consensus_lies(to: MemberId, from_: MemberId) -> Iterator[Message]:
    """One message of each kind, as the leader of a far term or as a voter of it would say it."""
    head: dict[str, Any] = {"to": to, "from_": from_, "term": FAR_TERM}
    entry = Entry(term=FAR_TERM, index=1, kind=EntryKind.NORMAL, data=b"lies")
    change = ConfChange(add_voters=(from_,), remove=(to,))
    taken_over = Entry(term=FAR_TERM, index=2, kind=EntryKind.CONF_CHANGE, data=encode_conf_change(change))
    yield VoteRequest(**head, pre_vote=False, last_index=1 << 40, last_term=FAR_TERM, transfer=True)
    yield VoteRequest(**head, pre_vote=True, last_index=1 << 40, last_term=FAR_TERM)
    yield VoteResponse(**head, pre_vote=False, granted=True)
    yield AppendRequest(**head, prev_index=0, prev_term=0, entries=(entry, taken_over), commit=2)
    yield AppendResponse(**head, index=1 << 40)
    yield Heartbeat(**head, commit=1 << 40)
    yield HeartbeatResponse(**head)
    conf = ConfState(voters=frozenset({from_}))
    snapshot = Snapshot(meta=SnapshotMeta(index=1 << 40, term=FAR_TERM, conf=conf), data=b"lies")
    yield SnapshotOffer(**head, snapshot=snapshot)
    yield SnapshotStatus(**head, ok=True)
    yield TimeoutNow(**head)
    yield ReadIndexRequest(**head, context=b"lies")
    yield ReadIndexResponse(**head, context=b"lies", index=1 << 40)


def test_no_kind_of_consensus_message_is_left_out() -> None:
    assert {type(lie) for lie in consensus_lies(MemberId("a.1"), MemberId("b.1"))} == set(get_args(Message))


async def lie_in_consensus(rogue: Rogue, daemon: Daemon, members: list[str]) -> None:
    """In its own name, and in the name of every member, the daemon's own included."""
    connection = await rogue.connection(daemon)
    to = next(MemberId(member) for member in members if member.startswith(daemon.node_id))
    messages: Any = connection.stream_stream(SERVICE + "Messages")
    stream = messages(metadata=connection.metadata)
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for from_ in (f"{rogue.id}.1", *members):
            lies = [encode_message(lie) for lie in consensus_lies(to, MemberId(from_))]
            await stream.write(hive_pb2.RaftFrame(messages=lies).SerializeToString())
        await stream.done_writing()
    # A write under way hides why it failed; whoever waits for the word of the other side is told.
    asked = messages(metadata=connection.metadata)
    for ended in (stream, asked):
        assert await ended.code() is not grpc.StatusCode.OK
    assert code_in(tuple(await asked.trailing_metadata() or ())) is Code.PERMISSION_DENIED


# --- what it says as a worker ---


def worker_lies(key: AttemptKey) -> Iterator[WorkerEvent]:
    """Of an attempt that another machine holds; the hello comes first, and once more."""
    hello = WorkerHello(boot_id="b", capabilities=dataclasses.replace(capabilities(), slots=0), open=(key,))
    yield hello
    yield WorkerHeartbeat(cpu_percent=0, memory_percent=0)
    yield AttemptStarted(key=key)
    for outcome in AttemptOutcome:
        yield AttemptEnded(key=key, outcome=outcome, exit_code=0, reason="lies", result=None, log=None, holders=())
    yield hello


def test_no_kind_of_word_of_a_worker_is_left_out() -> None:
    key = AttemptKey(user="u", task_id="t", attempt=1)
    assert {type(lie) for lie in worker_lies(key)} == set(get_args(WorkerEvent))


async def lie_as_worker(rogue: Rogue, daemon: Daemon, user: str, task: str) -> None:
    for attempt in (1, 2):
        connection = await rogue.connection(daemon)
        name = secrets.token_bytes(STREAM_ID_BYTES)
        hello, *lies = [
            hive_pb2.WorkerFrame(event=encode_worker_event(event), stream=name).SerializeToString()
            for event in worker_lies(AttemptKey(user=user, task_id=task, attempt=attempt))
        ]
        work: Any = connection.channel.unary_stream(SERVICE + "Work")
        stream = work(hello, metadata=connection.metadata)
        # One that leads takes the hello, and hears what follows; whoever does not hears nothing of it.
        with contextlib.suppress(grpc.aio.AioRpcError):
            async with asyncio.timeout(DEADLINE_S):
                await stream.read()
        report: Any = connection.channel.unary_unary(SERVICE + "Report")
        for said in (*lies, hive_pb2.WorkerFrame(stream=name).SerializeToString()):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await report(said, metadata=connection.metadata, timeout=DEADLINE_S)
        stream.cancel()


# --- what it asks of peers ---


@dataclass(frozen=True)
class Ask:
    """A call of the peer protocol, and the code that it has to be answered with; None is for what a worker may do."""

    method: str
    request: Any
    code: Code | None
    hops: int = 0


def peer_asks(rogue: Rogue, other: NodeId, members: list[str], user: str, task: str) -> Iterator[Ask]:
    yield Ask("Challenge", hive_pb2.ChallengeRequest(caller_nonce=bytes(32)), None)
    yield Ask("Prove", good_request(METHODS["Prove"].input_type), Code.PEER_REJECTED)
    yield Ask("Invite", hive_pb2.InviteRequest(hive_id="f" * 32), Code.WRONG_HIVE)
    forged = dataclasses.replace(rogue.statement(), node_id=other)
    signed = rogue.identity.sign_record(forged)
    yield Ask("Join", hive_pb2.JoinRequest(record=encode_record(signed)), Code.PEER_REJECTED)
    fresh = Identity(nacl.signing.SigningKey.generate())
    voter = dataclasses.replace(rogue.statement(), node_id=fresh.node_id, public_key=fresh.public_key, role=Role.AUTO)
    # It brings a second key of its own, and says that it saw it on the network.
    brought = hive_pb2.JoinRequest(record=encode_record(fresh.sign_record(voter)), from_lan=True)
    yield Ask("Join", brought, Code.PEER_REJECTED)
    yield Ask("Join", brought, Code.PEER_REJECTED, hops=1)
    for action in ClusterAction:
        for node in (other, rogue.id):
            if (action, node) == (ClusterAction.REMOVE, rogue.id):
                continue  # Everybody may leave.
            request = hive_pb2.ManageHiveRequest(action=action.value, node_id=node, rights="voter", lifetime_ms=60_000)
            yield Ask("ManageHive", request, Code.PERMISSION_DENIED)
    for member in members:
        report = hive_pb2.CompareDigestRequest(version=1, member_id=member, index=1024, digest=bytes(32))
        yield Ask("CompareDigest", report, Code.PEER_REJECTED)
    yield Ask("ListMembers", hive_pb2.ListMembersRequest(), Code.PERMISSION_DENIED)
    yield Ask("FetchSnapshot", good_request(METHODS["FetchSnapshot"].input_type), Code.PERMISSION_DENIED)
    log = hive_pb2.ReadLogRequest(user=user, task_id=task, attempt=1)
    yield Ask("ReadLog", log, Code.PERMISSION_DENIED)
    yield Ask("Report", good_request(METHODS["Report"].input_type), Code.NODE_OFFLINE)
    yield Ask("FetchBlob", hive_pb2.FetchBlobRequest(sha256="0" * 64, size_bytes=1), Code.BLOB_NOT_FOUND)
    yield Ask("StoreBlob", hive_pb2.StoreBlobPiece(sha256="0" * 64, size_bytes=1, data=b"x"), Code.BLOB_CORRUPT)


async def ask(rogue: Rogue, daemon: Daemon, wanted: Ask) -> Code | None:
    connection = await rogue.connection(daemon)
    hops = (("hive-hops", str(wanted.hops)),) if wanted.hops else ()
    metadata = (*connection.metadata, *hops)
    descriptor, path, data = METHODS[wanted.method], SERVICE + wanted.method, wanted.request.SerializeToString()
    try:
        if descriptor.client_streaming:
            sending: Any = connection.channel.stream_unary(path)
            await sending(iter([data]), metadata=metadata, timeout=DEADLINE_S)
        elif descriptor.server_streaming:
            reading: Any = connection.channel.unary_stream(path)
            async for _ in reading(data, metadata=metadata, timeout=DEADLINE_S):
                pass
        else:
            invoke: Any = connection.channel.unary_unary(path)
            await invoke(data, metadata=metadata, timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        return code_in(tuple(error.trailing_metadata() or ()))
    return None


# --- what it says as a user ---


def forged_tokens(rogue: Rogue, voter: str, alice: User, hive_id: str) -> dict[str, str]:
    """Tokens of the victim's own session, so that nothing but the signature is wrong."""
    claims = jwt.decode(alice.token, options={"verify_signature": False})
    key = Ed25519PrivateKey.from_private_bytes(rogue.identity.seed)
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def signed(issuer: str, **other: Any) -> str:
        return jwt.encode({**claims, "iss": issuer, **other}, key, algorithm="EdDSA", headers={"kid": issuer})

    head, body, _ = alice.token.split(".")
    return {
        "signed by the worker": signed(rogue.id),
        "said to be signed by a voter": signed(voter),
        "signed by the worker, with a voter's claim": jwt.encode(
            {**claims, "iss": voter}, key, algorithm="EdDSA", headers={"kid": rogue.id}
        ),
        "of another hive": signed(rogue.id, aud="f" * 32),
        "without an algorithm": jwt.encode({**claims, "iss": voter}, "", algorithm="none", headers={"kid": voter}),
        "by a public key as a secret": jwt.encode(
            {**claims, "iss": voter}, public, algorithm="HS256", headers={"kid": voter}
        ),
        "without a signature": f"{head}.{body}.",
    }


def speak_for(alice: User, token: str, daemon: Daemon, mallory: str, task: str) -> None:
    """Whatever would hurt: each must be refused as a session that is none."""
    speaker = User(alice.name, daemon, token)
    calls: tuple[tuple[str, Any, Any], ...] = (
        (f"{USERS}GetBalance", nodepool_pb2.GetBalanceRequest(username=alice.name), nodepool_pb2.GetBalanceResponse),
        (
            f"{USERS}Transfer",
            nodepool_pb2.TransferRequest(receiver_username=mallory, amount=1),
            nodepool_pb2.TransferResponse,
        ),
        (f"{MASTER}StopTask", nodepool_pb2.StopTaskRequest(task_id=task), nodepool_pb2.StopTaskResponse),
        (f"{MASTER}GetTaskLogs", nodepool_pb2.GetTaskLogsRequest(task_id=task), nodepool_pb2.GetTaskLogsResponse),
    )
    for method, request, answer in calls:
        with pytest.raises(CallError) as caught:
            speaker.call(method, request, answer)
        assert caught.value.code == Code.INVALID_SESSION, f"{method}: {caught.value}"


# --- all of it ---


def agreed(daemon: Daemon, alice: User, bob: User, task: str) -> dict[str, Any]:
    """What must be the same before and after; the nodes but for the rogue's own entry."""
    report = daemon.status()
    return {
        "term": report.term,
        "leader": report.leader_node_id,
        "members": sorted((member.member_id, member.voter) for member in report.members),
        "nodes": report.nodes,
        "alice": alice.balance(),
        "bob": bob.balance(),
        "task": [(it.state, it.attempt, it.node_id) for it in [_task(alice, task)]],
    }


def _task(user: User, task: str) -> hive_pb2.TaskDetail:
    found: hive_pb2.TaskDetail = user.call(
        "/hive.HiveService/GetTask", hive_pb2.GetTaskRequest(task_id=task), hive_pb2.TaskDetail
    )
    return found


def named_in(daemons: list[Daemon], rogue: NodeId) -> set[str]:
    """The kinds of refusals in whose log lines the rogue's id stands."""
    found = set()
    for daemon in daemons:
        for line in daemon.log_path.read_text(errors="replace").splitlines():
            if "refused a node" in line and rogue in line:
                found.add(_what(line))
    return found


def _what(line: str) -> str:
    with contextlib.suppress(json.JSONDecodeError):
        return str(json.loads(line)["what"])
    return line.partition("what=")[2]


async def lie(rogue: Rogue, daemons: list[Daemon], alice: User, task: str) -> None:
    """Says everything to everybody, all of it in a first and again in a second round."""
    for daemon in daemons * 2:
        members = [member.member_id for member in daemon.status().members]
        other = next(NodeId(it.node_id) for it in daemons if it is not daemon)
        await lie_in_consensus(rogue, daemon, members)
        await lie_as_worker(rogue, daemon, alice.name, task)
        asked = list(peer_asks(rogue, other, members, alice.name, task))
        streams = {"Messages", "Work"}
        assert {it.method for it in asked} | streams == set(METHODS), "a call of the peer protocol is left out"
        for it in asked:
            code = await ask(rogue, daemon, it)
            assert code == it.code, f"{it.method} at {daemon.name}: {code}, not {it.code}: {it.request}"


def test_a_worker_that_says_everything_changes_nothing_and_is_named(tmp_path: Path) -> None:
    with hive(tmp_path, 3, "--executor", "process", settings=PATIENT) as made:
        daemons = list(made)
        leader = made.leader()
        alice, bob = User.new(leader), User.new(leader)
        alice.upload("t1", zip_of({"main.py": TASK}))
        wait_for("the task", lambda: _task(alice, "t1").state == "RUNNING" or None)
        rogue = Rogue(leader.status().hive_id)

        async def play() -> tuple[dict[str, Any], dict[str, Any]]:
            await rogue.join(leader)
            await asyncio.to_thread(
                wait_for, "the rogue in the hive", lambda: all(it.status().nodes == 4 for it in daemons) or None
            )
            before = agreed(leader, alice, bob, "t1")
            await lie(rogue, daemons, alice, "t1")
            for daemon in daemons:
                for name, token in forged_tokens(rogue, leader.node_id, alice, rogue.hive_id).items():
                    with _told(name):
                        await asyncio.to_thread(speak_for, alice, token, daemon, bob.name, "t1")
            after = agreed(leader, alice, bob, "t1")
            await rogue.peers.aclose()
            return before, after

        before, after = asyncio.run(play())
        assert after == before
        assert all(daemon.alive for daemon in daemons)
        named = named_in(daemons, rogue.id)
        wanted = {"messages", "a token signed without voter right", "join", "manage_hive"}
        assert wanted | {"compare_digest", "fetch_snapshot", "read_log"} <= named, named


def test_workers_that_take_no_copies_stop_no_upload(tmp_path: Path) -> None:
    with hive(tmp_path, 1, "--executor", "process") as made:
        leader = made.leader()
        alice = User.new(leader)
        rogues = [Rogue(leader.status().hive_id) for _ in range(2)]

        async def join() -> None:
            for rogue in rogues:
                await rogue.join(leader)
                await rogue.peers.aclose()

        asyncio.run(join())
        wait_for("the rogues in the hive", lambda: leader.status().nodes == 3 or None)
        assert alice.upload("t", zip_of({"main.py": "print('hello')"})).copies == 1
        assert alice.ended("t").state == "COMPLETED"
        assert alice.result("t")["log.txt"] == b"hello\n"


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"with a token {what}")
        raise
