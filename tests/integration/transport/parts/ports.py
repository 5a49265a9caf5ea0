"""A small in-memory filling of the ports behind the transport, and what the nodes of one test agree on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from hivenode.consensus import Message
from hivenode.encoding.claim import ClaimPurpose
from hivenode.encoding.node_record import Capabilities, NodeId, NodeRecord, Role, SignedNodeRecord, open_record
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError
from hivenode.identity import Certificate, Identity, verify_signature
from hivenode.pool.records import (
    BlobRef,
    NodeRights,
    SessionId,
    SessionRecord,
    TaskRecord,
    TaskSpec,
    TaskState,
    UserName,
    UserRole,
)
from hivenode.runtime.copies import acknowledged_copies
from hivenode.runtime.digests import DigestReport, Verdict
from hivenode.runtime.ports import (
    AttemptKey,
    Caller,
    ClusterAnswer,
    ClusterOrder,
    HivePhase,
    Introduction,
    JoinClaim,
    JoinOffer,
    MadeCopy,
    NodeHealth,
    NodeListing,
    PeerAddress,
    Standing,
    StatusReport,
    StoredFile,
    Submitted,
    TaskEvent,
    TaskView,
    UsageReport,
    WorkerEvent,
    WorkerHello,
    WorkerOrder,
)
from hivenode.transport.peers import GrpcPeers
from tests.integration.transport.parts.samples import DEADLINE_S, HIVE, capabilities, now_ms, task_record


class World:
    """What the nodes of one test agree on, and what they were told."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.roles: dict[str, UserRole] = {}
        self.sessions: dict[str, SessionRecord] = {}
        self.balances: dict[str, int] = {}
        self.tasks: dict[str, TaskRecord] = {}
        self.done: dict[tuple[str, str], int] = {}
        self.callers: list[Caller] = []
        self.log = b"one\ntwo\n"
        self.result: StoredFile | None = None
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self.refuse_uploads = False

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[asyncio.Event]:
        """The call that the block makes stands before the gate, which is shut, when the block has ended."""
        self.gate = asyncio.Event()
        self.entered.clear()
        yield self.gate
        async with asyncio.timeout(DEADLINE_S):
            await self.entered.wait()

    async def pass_gate(self, caller: Caller) -> None:
        """Notes the caller, fails as told, and waits where the test wants calls to wait."""
        self.callers.append(caller)
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure


class Ports:
    """Accounts, Registry, Tasks, HiveStatus, Leadership, PeerHost, TaskRunner and BlobStore of one node."""

    def __init__(self, world: World, identity: Identity, certificate: Certificate) -> None:
        self.world = world
        self.identity = identity
        self.certificate = certificate
        self.where = Standing.LEADER
        self.no_leader = False
        self.leader_address: PeerAddress | None = None
        self.leader_known = asyncio.Event()
        self.hive = HIVE
        self.received: asyncio.Queue[tuple[NodeId, Message]] = asyncio.Queue()
        self.unheard: set[NodeId] = set()
        self.refused_messages = 0
        self.connected: asyncio.Queue[NodeId] = asyncio.Queue()
        self.lost: asyncio.Queue[tuple[NodeId, bool]] = asyncio.Queue()
        self.answer_with: GrpcPeers | None = None
        self.sessions: asyncio.Queue[Session] = asyncio.Queue()
        self.files: dict[str, bytes] = {}
        self.log_pieces: tuple[bytes, ...] = ()
        self.snapshots: dict[str, bytes] = {}
        self.orders: list[tuple[NodeId, ClusterOrder]] = []
        self.has_left = False
        self.reports: list[tuple[NodeId, DigestReport]] = []
        self.snapshot_readers: list[NodeId] = []
        self.addresses: tuple[str, ...] = ()
        self.barriers = 0
        self.joined: list[tuple[NodeId, SignedNodeRecord]] = []
        self.refused_joins = Code.SUCCESS

    # Accounts

    async def register(self, username: str, password: str, email: str, caller: Caller) -> str:
        await self.world.pass_gate(caller)
        if username in self.world.users:
            raise HiveError(Code.USER_EXISTS, "taken")
        self.world.users[username] = password
        self.world.balances[username] = 1_000
        return f"id-{username}"

    async def login(self, username: str, password: str, caller: Caller) -> str:
        await self.world.pass_gate(caller)
        if username not in self.world.users:
            raise HiveError(Code.USER_NOT_FOUND, f"no {username}")
        if self.world.users[username] != password:
            raise HiveError(Code.INVALID_PASSWORD, "wrong password")
        token = f"token-{username}-{len(self.world.callers)}"
        self.world.sessions[token] = SessionRecord(
            session_id=SessionId(token), username=UserName(username), created_ms=0, expires_ms=86_400_000
        )
        return token

    async def refresh(self, token: str, caller: Caller) -> str:
        session = await self.authenticate(token)
        del self.world.sessions[token]
        return await self.login(session.username, self.world.users[session.username], caller)

    async def logout(self, token: str, caller: Caller) -> None:
        del self.world.sessions[(await self.authenticate(token)).session_id]

    async def change_password(self, token: str, old: str, new: str, caller: Caller) -> str:
        session = await self.authenticate(token)
        if self.world.users[session.username] != old:
            raise HiveError(Code.INVALID_PASSWORD, "wrong password")
        self.world.users[session.username] = new
        self.world.sessions = {
            token: kept for token, kept in self.world.sessions.items() if kept.username != session.username
        }
        return await self.login(session.username, new, caller)

    def role_of(self, session: SessionRecord) -> UserRole:
        return self.world.roles.get(session.username, UserRole.USER)

    async def set_role(self, session: SessionRecord, username: str, role: UserRole, caller: Caller) -> str:
        self.world.roles[username] = role
        return username

    async def claim_admin(self, session: SessionRecord, claim: bytes, caller: Caller) -> str:
        if claim != b"admin claim":
            raise HiveError(Code.PERMISSION_DENIED, "no claim")
        self.world.roles[session.username] = UserRole.ADMIN
        return session.username

    async def claim_node(self, session: SessionRecord, claim: bytes, caller: Caller) -> tuple[str, int]:
        if claim != b"node claim":
            raise HiveError(Code.PERMISSION_DENIED, "no claim")
        return "worker-001", 3

    # MachineOwner

    async def redeem(self, code: str, purpose: ClaimPurpose, username: str) -> bytes:
        if code != "code":
            raise HiveError(Code.PERMISSION_DENIED, "no code")
        return f"{purpose.value} claim".encode()

    async def authenticate(self, token: str) -> SessionRecord:
        session = self.world.sessions.get(token)
        if session is None and self.no_leader:
            raise HiveError(Code.NO_LEADER, "it is not known here by now")
        if session is None:
            raise HiveError(Code.INVALID_SESSION, "log in again")
        return session

    async def balance(self, session: SessionRecord, username: str, caller: Caller) -> int:
        if self.world.failure is not None:
            raise self.world.failure
        if username != session.username:
            raise HiveError(Code.PERMISSION_DENIED, "not yours")
        return self.world.balances[username]

    async def transfer(self, session: SessionRecord, receiver: str, amount: int, caller: Caller) -> int:
        await self.world.pass_gate(caller)
        key = (session.username, caller.idempotency_key)
        if key not in self.world.done:
            if receiver not in self.world.balances:
                raise HiveError(Code.ACCOUNT_NOT_FOUND, f"no account {receiver}")
            self.world.balances[session.username] -= amount
            self.world.balances[receiver] += amount
            self.world.done[key] = self.world.balances[session.username]
        acknowledged_copies.set(2)
        return self.world.done[key]

    # Registry

    async def register_worker(
        self, session: SessionRecord, node_id: str, capabilities: Capabilities, port: int, caller: Caller
    ) -> None:
        await self.world.pass_gate(caller)

    async def unregister(self, session: SessionRecord, node_id: str, caller: Caller) -> None:
        raise HiveError(Code.NODE_NOT_FOUND, f"no node {node_id}")

    async def report_status(self, session: SessionRecord, node_id: str, status: str, caller: Caller) -> None:
        await self.world.pass_gate(caller)

    async def health(self, node_id: str) -> NodeHealth:
        if node_id != "worker-001":
            raise HiveError(Code.NODE_NOT_FOUND, f"no node {node_id}")
        return NodeHealth(healthy=True, status="ALIVE", message="", time_ms=5_000)

    async def nodes(self) -> Sequence[NodeListing]:
        return [
            NodeListing(
                node_id="worker-001",
                hostname="host",
                capabilities=capabilities(),
                port=50052,
                trust_level=50,
                last_heartbeat_ms=1_500,
                alive=True,
                status="ALIVE",
                owner="testuser",
                role="foreign",
                addresses=("127.0.0.1:1",),
                slots_free=1,
            )
        ]

    # Tasks

    async def submit(
        self,
        session: SessionRecord,
        task_id: str,
        data: bytes | AsyncIterator[bytes],
        spec: TaskSpec,
        caller: Caller,
    ) -> Submitted:
        await self.world.pass_gate(caller)
        if self.world.refuse_uploads:
            raise HiveError(Code.INVALID_TASK, "no entry point")
        if not isinstance(data, bytes):
            data = b"".join([piece async for piece in data])
        self.world.tasks[task_id] = task_record(task_id, data)
        return Submitted(task_id=task_id, held=5, copies=1)

    async def view(self, session: SessionRecord, task_id: str, caller: Caller) -> TaskView:
        if task_id not in self.world.tasks:
            raise HiveError(Code.TASK_NOT_FOUND, f"no task {task_id}")
        return TaskView(record=self.world.tasks[task_id], note="waits")

    async def records(self, session: SessionRecord) -> Sequence[TaskRecord]:
        return [view.record for view in await self.views(session)]

    async def views(self, session: SessionRecord) -> Sequence[TaskView]:
        return [TaskView(record=record, note="") for record in self.world.tasks.values()]

    async def log(self, session: SessionRecord, task_id: str, caller: Caller) -> bytes:
        await self.world.pass_gate(caller)
        return self.world.log

    async def result(self, session: SessionRecord, task_id: str, caller: Caller) -> StoredFile:
        if self.world.result is None:
            raise HiveError(Code.TASK_NOT_FINISHED, "the task still runs")
        return self.world.result

    async def stop(self, session: SessionRecord, task_id: str, caller: Caller) -> TaskView:
        return await self.view(session, task_id, caller)

    async def watch(
        self, session: SessionRecord, task_id: str, attempt: int, log_offset: int
    ) -> AsyncIterator[TaskEvent]:
        yield TaskEvent(state=TaskState.RUNNING, attempt=1, note="", log=b"one\n", final=False)
        if self.world.gate is not None:
            await self.world.gate.wait()
        if self.world.failure is not None:
            raise self.world.failure
        yield TaskEvent(state=TaskState.COMPLETED, attempt=1, note="", log=b"two\n", final=True)

    async def report_running(
        self, session: SessionRecord, node_id: str, task_id: str, usage: UsageReport, caller: Caller
    ) -> int:
        raise HiveError(Code.STALE_ATTEMPT, "your node holds no attempt of this task")

    # HiveStatus

    def report(self) -> StatusReport:
        return StatusReport(
            node_id=self.identity.node_id,
            hive_id=self.hive,
            role="auto",
            phase="member",
            version="0",
            api_address="",
            peer_address="",
            peer_addresses=(),
            leader_node_id="",
            leader_address="",
            term=1,
            commit_index=2,
            applied_index=2,
            members=(),
            nodes=1,
            copies=1,
            users=0,
            tasks_pending=0,
            tasks_running=0,
            tasks_ended=0,
            ledger_height=0,
            supply=1,
            executor="none",
            executor_note="",
            trust="lan",
            warnings=("alone",),
        )

    # Leadership

    def standing(self) -> Standing:
        return self.where

    def lead(self) -> None:
        self.where = Standing.LEADER
        self.know(None)

    def follow(self, leader: PeerAddress | None, standing: Standing = Standing.REPLICA) -> None:
        self.where = standing
        self.know(leader)

    def know(self, leader: PeerAddress | None) -> None:
        self.leader_address = leader
        if leader is None and self.where is not Standing.LEADER:
            self.leader_known.clear()
        else:
            self.leader_known.set()

    async def leader(self, deadline_s: float) -> PeerAddress:
        try:
            async with asyncio.timeout(deadline_s):
                await self.leader_known.wait()
        except TimeoutError:
            raise HiveError(Code.NO_LEADER, "no leader is known") from None
        return self.leader_address or PeerAddress(node_id=self.identity.node_id, addresses=self.addresses)

    def forget_leader(self, node: NodeId) -> None:
        """Who leads is what the test says."""

    async def read_barrier(self, deadline_s: float) -> None:
        self.barriers += 1

    def hive_id(self) -> str:
        return self.hive

    # PeerHost

    def record(self) -> SignedNodeRecord:
        return self.identity.sign_record(
            NodeRecord(
                node_id=self.identity.node_id,
                public_key=self.identity.public_key,
                incarnation="1",
                role=Role.AUTO,
                addresses=self.addresses,
                capabilities=capabilities(),
                sequence=1,
                expires_ms=now_ms() + 3_600_000,
                version="0",
                certificate_sha256=self.certificate.sha256,
            )
        )

    def encoded_record(self) -> bytes:
        return encode_record(self.record())

    def introduction(self) -> Introduction:
        signed = self.record()
        return Introduction(
            record=NodeRecord(
                node_id=self.identity.node_id,
                public_key=self.identity.public_key,
                incarnation="1",
                role=Role.AUTO,
                addresses=self.addresses,
                capabilities=capabilities(),
                sequence=1,
                expires_ms=0,
                version="0",
                certificate_sha256=self.certificate.sha256,
            ),
            signed=signed,
            hive_id=self.hive,
            phase=HivePhase.MEMBER if self.hive else HivePhase.FRESH,
            instance="first life",
            hive_created_ms=7,
            members=3,
            leader=self.leader_address,
            confirmed=(NodeId("a"), NodeId("b")),
        )

    def receive(self, caller: NodeId, message: Message) -> None:
        if self.answer_with is not None:
            self.answer_with.send(caller, message)
        else:
            self.received.put_nowait((caller, message))

    def check_heard(self, caller: NodeId) -> None:
        if caller in self.unheard:
            self.refused_messages += 1
            raise HiveError(Code.PERMISSION_DENIED, "no voter right")

    def peer_connected(self, caller: NodeId) -> None:
        self.connected.put_nowait(caller)

    def peer_lost(self, caller: NodeId, reset: bool) -> None:
        self.lost.put_nowait((caller, reset))

    def accept_invitation(self, caller: NodeId, hive_id: str) -> SignedNodeRecord:
        if self.hive:
            raise HiveError(Code.WRONG_HIVE, "this node has a hive")
        return self.record()

    async def accept_join(self, through: NodeId, record: SignedNodeRecord, claim: JoinClaim) -> JoinOffer:
        if self.where is not Standing.LEADER:
            raise HiveError(Code.NO_LEADER, "ask the leader")
        if self.refused_joins is not Code.SUCCESS:
            raise HiveError(self.refused_joins, "not now")
        self.joined.append((open_record(record, verify_signature).node_id, record))
        leader = PeerAddress(node_id=self.identity.node_id, addresses=self.addresses)
        return JoinOffer(hive_id=self.hive, members=(self.record(),), leader=leader, voter_rights=True)

    async def open_worker_session(self, caller: NodeId, hello: WorkerHello) -> Session:
        session = Session(caller, hello)
        self.sessions.put_nowait(session)
        return session

    async def manage_hive(self, caller: NodeId, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        self.orders.append((caller, order))
        return ClusterAnswer(node=order.node)

    # ClusterControl

    async def remove(self, node: str, deadline_s: float) -> str:
        return f"{node}-whole"

    async def hand_leadership(self, node: str, deadline_s: float) -> str:
        raise HiveError(Code.NODE_NOT_FOUND, f"the hive has no node {node}")

    async def move(self, address: str, abandon: bool, deadline_s: float) -> str:
        return f"the hive at {address}"

    async def join_by_token(self, token: str, abandon: bool, deadline_s: float) -> str:
        return "the hive of the token"

    async def create_token(self, rights: NodeRights, lifetime_ms: int, deadline_s: float) -> tuple[str, int]:
        return f"a token for a {rights.value}", lifetime_ms

    async def manage(self, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        return ClusterAnswer(node=f"{order.node}-whole")

    async def leave(self, deadline_s: float) -> None:
        self.has_left = True

    async def snapshot(self) -> MadeCopy:
        return MadeCopy(path=Path("/copy"), index=7, term=2, size_bytes=9, sha256="0" * 64)

    async def compare_digest(self, caller: NodeId, report: DigestReport) -> Verdict:
        self.reports.append((caller, report))
        return Verdict.DIFFERS

    def members(self, caller: NodeId) -> tuple[tuple[SignedNodeRecord, ...], int]:
        return (self.introduction().signed,), 7

    async def read_snapshot(self, caller: NodeId, sha256: str, offset: int) -> AsyncIterator[bytes]:
        self.snapshot_readers.append(caller)
        if sha256 not in self.snapshots:
            raise HiveError(Code.BLOB_NOT_FOUND, "another one by now")
        yield self.snapshots[sha256][offset:]

    # TaskRunner

    def capabilities(self) -> Capabilities:
        return capabilities()

    async def read_log(self, key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]:
        if key.task_id != "task-001":
            raise HiveError(Code.TASK_NOT_FOUND, "no such attempt here")
        for piece in self.log_pieces:
            yield piece

    # BlobStore

    def has(self, blob: BlobRef) -> bool:
        return blob.sha256 in self.files

    def path(self, blob: BlobRef) -> Path:
        raise HiveError(Code.BLOB_NOT_FOUND, "blobs of this test have no path")

    async def put(
        self, pieces: AsyncIterator[bytes], *, size_bytes_max: int, expected: BlobRef | None = None
    ) -> BlobRef:
        data = bytearray()
        async for piece in pieces:
            data += piece
            if len(data) > size_bytes_max:
                raise HiveError(Code.BLOB_TOO_LARGE, f"more than {size_bytes_max} bytes came")
        blob = BlobRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        if expected is not None and blob != expected:
            raise HiveError(Code.BLOB_CORRUPT, "the content is not that of its name")
        self.files[blob.sha256] = bytes(data)
        return blob

    async def put_file(self, source: Path) -> BlobRef:
        raise HiveError(Code.BLOB_NOT_FOUND, "blobs of this test have no path")

    async def read(self, blob: BlobRef, offset: int = 0) -> AsyncIterator[bytes]:
        yield self.files[blob.sha256][offset:]

    async def delete(self, sha256: str) -> None:
        self.files.pop(sha256, None)


class Session:
    """The leader's side of a worker's stream."""

    def __init__(self, worker: NodeId, hello: WorkerHello) -> None:
        self.worker = worker
        self.hello = hello
        self.events: asyncio.Queue[WorkerEvent] = asyncio.Queue()
        self.to_tell: asyncio.Queue[WorkerOrder | None] = asyncio.Queue()
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def handle(self, event: WorkerEvent) -> None:
        self.events.put_nowait(event)

    async def orders(self) -> AsyncIterator[WorkerOrder]:
        while (order := await self.to_tell.get()) is not None:
            yield order

    async def closed(self, reset: bool) -> None:
        self.ended.set_result(reset)
