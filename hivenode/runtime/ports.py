"""The ports: what the rooms of the daemon want of each other, in plain values. Siblings meet here and nowhere else.

Three groups: what the API's services call (`Accounts`, `Registry`, `Tasks`, `HiveStatus`, `Leadership`), what peers say to each
other (`PeerNetwork` for the caller's side, `PeerHost` for the callee's), and what the worker offers (`TaskRunner`). Every
method may raise `HiveError`; every one that waits takes or has a deadline. `daemon.py` alone says which class fills which port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path
from typing import Final, Protocol

from hivenode.consensus import Message
from hivenode.encoding.claim import ClaimPurpose
from hivenode.encoding.node_record import Capabilities, NodeId, NodeRecord, SignedNodeRecord
from hivenode.encoding.records import Record
from hivenode.encoding.state_view import ReadView
from hivenode.pool.commands import Reply
from hivenode.pool.events import Event
from hivenode.pool.records import (
    AttemptOutcome,
    BlobRef,
    NodeRights,
    SessionRecord,
    TaskRecord,
    TaskSpec,
    TaskState,
    UserRole,
)
from hivenode.runtime.digests import DigestReport, Verdict
from hivenode.runtime.stores import SnapshotRef

# --- what one call of the API carries ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What is known of a call before anything is looked up.

    Args:
        origin: the address that the call came from, for rate limits (`ip:1.2.3.4`).
        through: the node without voter right whose word the origin is; empty when there is none, or it is a voter's.
        idempotency_key: makes a repeated call the same call; the first peer to hear a write gives it one when it has none.
        deadline_s: seconds that the caller still waits; always set, bounded by the transport.
    """

    origin: str
    idempotency_key: str
    deadline_s: float
    through: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeListing:
    """One line of the node list. `alive` and `last_heartbeat_ms` are the leader's memory, not agreed state."""

    node_id: str
    hostname: str
    capabilities: Capabilities
    port: int
    trust_level: int
    last_heartbeat_ms: int
    alive: bool
    status: str
    owner: str
    role: str
    addresses: tuple[str, ...]
    slots_free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealth:
    healthy: bool
    status: str
    message: str
    time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """Percent figures of `ReportRunningStatus`."""

    cpu: int
    memory: int
    gpu: int
    gpu_memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task for its owner. `note` says in a sentence why it waits, failed, or what is not known of it."""

    record: TaskRecord
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """One step of watching a task: a piece of its log, or a change of state, or both. `final` ends the stream.

    `attempt` is the one to which the log belongs: a new one begins a new log.
    """

    state: TaskState
    attempt: int
    note: str
    log: bytes
    final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """`held` is the CPT in escrow; `copies` on how many nodes the data lies on disk."""

    task_id: str
    held: int
    copies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A blob on this node's disk, complete and checked."""

    path: Path
    blob: BlobRef


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """A Raft member. `alive` is None where this node cannot know: only the leader hears from all of them."""

    member_id: str
    node_id: str
    voter: bool
    match_index: int
    alive: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """What `hivenode status` tells: who and where this node is, and what the hive looks like from here."""

    node_id: str
    hive_id: str
    role: str
    phase: str
    version: str
    api_address: str
    peer_address: str
    peer_addresses: tuple[str, ...]
    leader_node_id: str
    leader_address: str
    term: int
    commit_index: int
    applied_index: int
    members: tuple[MemberStatus, ...]
    nodes: int
    copies: int
    users: int
    tasks_pending: int
    tasks_running: int
    tasks_ended: int
    ledger_height: int
    supply: int
    executor: str
    executor_note: str
    trust: str
    warnings: tuple[str, ...]


class Accounts(Protocol):
    """Users, sessions and money. Decided by the leader: transport brings the calls there, except where it says *replica*."""

    async def register(self, username: str, password: str, email: str, caller: Caller) -> str:
        """A new user; returns the user id."""
        ...

    async def login(self, username: str, password: str, caller: Caller) -> str:
        """Opens a session; returns its token (JWT, 24 h)."""
        ...

    async def refresh(self, token: str, caller: Caller) -> str:
        """A new session and token for the user of a standing one, which is closed."""
        ...

    async def logout(self, token: str, caller: Caller) -> None:
        """Ends a token's session everywhere; one that has ended is no error."""
        ...

    async def change_password(self, token: str, old: str, new: str, caller: Caller) -> str:
        """Ends all sessions of the user and opens one; returns its token."""
        ...

    def role_of(self, session: SessionRecord) -> UserRole:
        """What the session's user may do, as this node has it (any replica)."""
        ...

    async def set_role(self, session: SessionRecord, username: str, role: UserRole, caller: Caller) -> str:
        """Gives a user a role, by the word of an admin; returns the user's name."""
        ...

    async def claim_admin(self, session: SessionRecord, claim: bytes, caller: Caller) -> str:
        """Makes the session's user an admin by a machine's claim; returns the user's name."""
        ...

    async def claim_node(self, session: SessionRecord, claim: bytes, caller: Caller) -> tuple[str, int]:
        """Gives a machine's earnings to the session's user; the machine's id, and the CPT that it had earned."""
        ...

    async def authenticate(self, token: str) -> SessionRecord:
        """The standing session of a token (any replica). Raises INVALID_SESSION."""
        ...

    async def balance(self, session: SessionRecord, username: str, caller: Caller) -> int:
        """The CPT of the session's own user; linearizable (any replica)."""
        ...

    async def transfer(self, session: SessionRecord, receiver: str, amount: int, caller: Caller) -> int:
        """Moves whole CPT; returns the sender's new balance."""
        ...


class MachineOwner(Protocol):
    """What the owner of this machine proves to others."""

    async def redeem(self, code: str, purpose: ClaimPurpose, username: str) -> bytes:
        """Canonical bytes of a `SignedClaim` for who shows this machine's code, which then changes. PERMISSION_DENIED."""
        ...


class Registry(Protocol):
    """The list of machines. `nodes` and `health` rest on the leader's memory and are answered there."""

    async def register_worker(
        self, session: SessionRecord, node_id: str, capabilities: Capabilities, port: int, caller: Caller
    ) -> None: ...

    async def unregister(self, session: SessionRecord, node_id: str, caller: Caller) -> None: ...

    async def report_status(self, session: SessionRecord, node_id: str, status: str, caller: Caller) -> None:
        """Notes that a foreign worker of the session's user is alive, and what it says of itself."""
        ...

    async def health(self, node_id: str) -> NodeHealth: ...

    async def nodes(self) -> Sequence[NodeListing]: ...


class Tasks(Protocol):
    """The master part: what users do with tasks. Only ever the tasks of the session's own user."""

    async def submit(
        self,
        session: SessionRecord,
        task_id: str,
        data: bytes | AsyncIterator[bytes],
        spec: TaskSpec,
        caller: Caller,
    ) -> Submitted:
        """Checks and stores the archive, copies it to a second node, commits the task (leader). An empty id is given one."""
        ...

    async def view(self, session: SessionRecord, task_id: str, caller: Caller) -> TaskView:
        """Linearizable (any replica)."""
        ...

    async def records(self, session: SessionRecord) -> Sequence[TaskRecord]:
        """The user's newest tasks, newest first, as this node has them."""
        ...

    async def views(self, session: SessionRecord) -> Sequence[TaskView]:
        """All tasks of the user, newest first; may be a bounded moment old (any replica)."""
        ...

    async def log(self, session: SessionRecord, task_id: str, caller: Caller) -> bytes:
        """stdout and stderr so far, in the order written, whole lines (any replica)."""
        ...

    async def result(self, session: SessionRecord, task_id: str, caller: Caller) -> StoredFile:
        """The result ZIP, brought to this node's disk first (any replica). TASK_NOT_FINISHED before the end."""
        ...

    async def stop(self, session: SessionRecord, task_id: str, caller: Caller) -> TaskView: ...

    def watch(self, session: SessionRecord, task_id: str, attempt: int, log_offset: int) -> AsyncIterator[TaskEvent]:
        """States and log pieces as they come, until the task has ended and its log is complete (any replica).

        Args:
            attempt, log_offset: what the watcher has already; of another attempt than the newest it is of no use.
        """
        ...

    async def report_running(
        self, session: SessionRecord, node_id: str, task_id: str, usage: UsageReport, caller: Caller
    ) -> int:
        """CPT that the running attempt has earned so far; refused unless the caller's node holds the attempt."""
        ...


@unique
class ClusterAction(Enum):
    REMOVE = "remove"
    TRANSFER = "transfer"
    APPROVE = "approve"
    DENY = "deny"
    REVOKE = "revoke"
    TOKEN = "token"
    PENDING = "pending"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOrder:
    """What a member asks of the leader.

    `node` is an id or an unmistakable beginning of one; for TOKEN the hash of the token's public key, for PENDING empty.
    `rights` belongs to APPROVE and TOKEN, `lifetime_ms` to TOKEN.
    """

    action: ClusterAction
    node: str = ""
    rights: NodeRights = NodeRights.WORKER
    lifetime_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingNode:
    """A machine that waits for an operator's word: to come in, or (`is_in`) to vote."""

    node_id: NodeId
    hostname: str
    addresses: tuple[str, ...]
    wants: NodeRights
    is_in: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAnswer:
    """What the leader did: the node's whole id, of TOKEN the expiry, of PENDING who waits."""

    node: str = ""
    expires_ms: int = 0
    pending: tuple[PendingNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinClaim:
    """What speaks for a joiner besides its record.

    Args:
        from_lan: it called from the network of the member that it asked.
        token_key, token_signature: the public key of a join token, and what it signed.
    """

    from_lan: bool = False
    token_key: bytes = b""
    token_signature: bytes = b""


NO_CLAIM: Final = JoinClaim()


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeCopy:
    """A copy of the agreed state in a file of this node."""

    path: Path
    index: int
    term: int
    size_bytes: int
    sha256: str


class ClusterControl(Protocol):
    """What the owner of this machine does with the hive (any node); each returns when it is done."""

    async def remove(self, node: str, deadline_s: float) -> str:
        """Takes a node out of the hive for good; returns its whole id. Raises NODE_NOT_FOUND, INVALID_ARGUMENT."""
        ...

    async def hand_leadership(self, node: str, deadline_s: float) -> str:
        """Lets a voter lead; returns its whole id."""
        ...

    async def leave(self, deadline_s: float) -> None:
        """Takes this node out of the hive for good; its daemon stops soon after."""
        ...

    async def move(self, address: str, abandon: bool, deadline_s: float) -> str:
        """Takes this node to the hive at a peer address; returns that hive's id. The daemon begins anew soon after.

        Raises INVALID_ARGUMENT when there is none, it is the own one, or the own one is to be kept; NODE_OFFLINE.
        """
        ...

    async def join_by_token(self, token: str, abandon: bool, deadline_s: float) -> str:
        """Takes this node to the hive of a join token; otherwise as `move`."""
        ...

    async def create_token(self, rights: NodeRights, lifetime_ms: int, deadline_s: float) -> tuple[str, int]:
        """A join token of this hive, and when it expires (ms since 1970)."""
        ...

    async def manage(self, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        """APPROVE, DENY, REVOKE and PENDING."""
        ...

    async def snapshot(self) -> MadeCopy: ...


class HiveStatus(Protocol):
    def report(self) -> StatusReport: ...


@unique
class Standing(Enum):
    """Where this node stands for one call."""

    LEADER = "leader"
    REPLICA = "replica"
    """Holds the agreed state and follows: may answer reads after `Leadership.read_barrier`."""
    LIGHT = "light"
    """Holds no agreed state: forwards every call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """Where a node can be called: its id and `host:port` of its peer port, best first."""

    node_id: NodeId
    addresses: tuple[str, ...]


class Leadership(Protocol):
    def standing(self) -> Standing: ...

    async def leader(self, deadline_s: float) -> PeerAddress:
        """The leader as known here, waiting while there is none. Raises NO_LEADER at the deadline."""
        ...

    def forget_leader(self, node: NodeId) -> None:
        """This node cannot be reached, or says that it does not lead: whoever was told that it leads asks anew."""
        ...

    async def read_barrier(self, deadline_s: float) -> None:
        """Returns when local state holds all that was acknowledged before the call (ReadIndex). Raises NO_LEADER."""
        ...

    def hive_id(self) -> str:
        """Empty while this node belongs to none."""
        ...


class Agreement(Protocol):
    """The replicated state machine as the rooms around it use it."""

    async def propose(
        self, command: Record, *, deadline_s: float, owner: str = "", key: str = "", keep_ms: int = 0
    ) -> Reply:
        """Commits a command through this node, which must lead, and returns the reply of its application.

        Args:
            owner, key, keep_ms: what makes a repetition the same request, and how long it is remembered (`Envelope`).
        Raises:
            HiveError: NO_LEADER and OVERLOADED (not done), OUTCOME_UNKNOWN (perhaps done). A refusal is a `Reply`.
        """
        ...

    def view(self) -> ReadView:
        """The agreed state as applied here, for reading at once: never kept across an await."""
        ...

    def subscribe(self, listener: Callable[[tuple[Event, ...]], None]) -> Callable[[], None]:
        """Calls `listener` with the events of every applied entry that has any; returns what ends that."""
        ...

    def now_ms(self) -> int:
        """This node's wall clock, ms since 1970: for tokens, never for agreed decisions."""
        ...


# --- between peers -------------------------------------------------------------------------------------------------


@unique
class HivePhase(Enum):
    FRESH = "fresh"
    FOUNDING = "founding"
    MEMBER = "member"


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """What a node answers to whoever calls it, and what makes a discovered address a confirmed peer."""

    record: NodeRecord
    signed: SignedNodeRecord
    hive_id: str
    phase: HivePhase
    hive_created_ms: int
    members: int
    leader: PeerAddress | None
    confirmed: tuple[NodeId, ...]
    """The fresh peers that the answering node has itself confirmed."""
    instance: str
    """Drawn at each start of the daemon, and begins with the time of it: two machines with one key differ in it."""
    former_hives: tuple[str, ...] = ()
    """The hives that the answering node saw dissolve."""
    recoveries: tuple[bytes, ...] = ()
    """The recoveries of its hive, as canonical bytes of signed records."""
    closed: bool = False
    """Whether its hive takes in only whom an operator names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOffer:
    """What a joiner, or an invited founder, receives: the hive and where its members are.

    Args:
        later_sequence: not 0: the node is not in, since the hive has a statement of it with this sequence, which the sent
            one does not follow, as when the node's clock was set back. It can sign a later one and ask again.
        index: of the agreed state that the offer rests on.
    """

    hive_id: str
    members: tuple[SignedNodeRecord, ...]
    leader: PeerAddress
    voter_rights: bool
    nodes: tuple[NodeId, ...] = ()
    voters: tuple[NodeId, ...] = ()
    later_sequence: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersTold:
    """The nodes in the configuration, as of the `index` that whoever says so has applied."""

    members: tuple[NodeRecord, ...]
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptKey:
    user: str
    task_id: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOrder:
    """The leader's word to a worker: run this."""

    key: AttemptKey
    data: BlobRef
    holders: tuple[PeerAddress, ...]
    spec: TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted:
    key: AttemptKey


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded:
    """The end of an attempt; result and log are durable on `holders` before this is said."""

    key: AttemptKey
    outcome: AttemptOutcome
    exit_code: int | None
    reason: str
    result: BlobRef | None
    log: BlobRef | None
    holders: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHello:
    """First word of a worker to a leader. `boot_id` is new at every start of the daemon; `open` are the attempts that it
    runs or has ended without an acknowledgement."""

    boot_id: str
    capabilities: Capabilities
    open: tuple[AttemptKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHeartbeat:
    cpu_percent: int
    memory_percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOrder:
    """Kill the attempt; its log and result up to here are still wanted unless `discard`."""

    key: AttemptKey
    discard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseOrder:
    """The end is committed: the worker may forget the attempt and its files."""

    key: AttemptKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterOrder:
    """A node is not in the hive any more: who keeps no log asks at once whom it may still believe."""


WorkerEvent = WorkerHello | WorkerHeartbeat | AttemptStarted | AttemptEnded
WorkerOrder = AttemptOrder | StopOrder | CloseOrder | RosterOrder


class WorkerLink(Protocol):
    """The worker's side of its stream to the leader."""

    @property
    def opened(self) -> bool:
        """Whether the leader has taken the hello, also when the stream has ended since."""
        ...

    async def send(self, event: WorkerEvent) -> None: ...

    def orders(self) -> AsyncIterator[WorkerOrder]:
        """Ends, or raises NODE_OFFLINE, when the stream breaks."""
        ...

    async def aclose(self) -> None: ...


class WorkerSession(Protocol):
    """The leader's side of a worker's stream, made by `PeerHost.open_worker_session`."""

    async def handle(self, event: WorkerEvent) -> None:
        """Takes the next event of the worker."""
        ...

    def orders(self) -> AsyncIterator[WorkerOrder]:
        """What to tell the worker; ends when the session is closed by the leader."""
        ...

    async def closed(self, reset: bool) -> None:
        """The stream ended; `reset` says that the connection broke, rather than the worker saying goodbye."""
        ...


class PeerNetwork(Protocol):
    """The caller's side of the peer protocol. Connections are made, proven and kept by the network itself."""

    async def introduce(self, address: str, deadline_s: float) -> Introduction:
        """Calls an address and returns who answers, its record checked. Raises NODE_OFFLINE, PEER_REJECTED."""
        ...

    def learn(self, peer: PeerAddress) -> None:
        """Newer addresses of a node."""
        ...

    def send(self, node: NodeId, message: Message) -> None:
        """Sends a Raft message: at most once, unordered across reconnects, dropped when the bounded queue is full."""
        ...

    async def probe(self, node: NodeId, deadline_s: float) -> bool:
        """Dials the node afresh. False when it was refused, as by a machine whose daemon is gone; True when it answered.
        Raises NODE_OFFLINE when nothing is known, as when the call timed out."""
        ...

    async def invite(self, peer: PeerAddress, hive_id: str, deadline_s: float) -> SignedNodeRecord:
        """Asks a fresh peer to be a founder of the hive that this node will form; its record when it agrees."""
        ...

    async def join(
        self,
        peer: PeerAddress,
        hive_id: str,
        record: SignedNodeRecord,
        deadline_s: float,
        claim: JoinClaim = NO_CLAIM,
    ) -> JoinOffer:
        """Asks a hive, through any of its peers, to take this node in."""
        ...

    async def open_worker_link(self, leader: PeerAddress) -> WorkerLink: ...

    def fetch_snapshot(self, peer: PeerAddress, ref: SnapshotRef, offset: int) -> AsyncIterator[bytes]:
        """The bytes of a snapshot that the peer offered, from `offset` on, each piece checked as it comes."""
        ...

    async def manage_hive(self, leader: PeerAddress, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        """Asks the leader to take a node out or to let another lead; returns the node's whole id."""
        ...

    async def members(self, peer: PeerAddress, deadline_s: float) -> MembersTold:
        """Asks a member of this hive which nodes are in the configuration."""
        ...

    async def compare_digest(self, leader: PeerAddress, report: DigestReport, deadline_s: float) -> Verdict:
        """Tells the leader this member's digest, and returns what it makes of it."""
        ...

    def fetch_blob(self, peer: PeerAddress, blob: BlobRef) -> AsyncIterator[bytes]: ...

    async def store_blob(self, peer: PeerAddress, blob: BlobRef, pieces: AsyncIterator[bytes]) -> None:
        """Returns when the peer has the blob checked and fsynced."""
        ...

    def read_log(self, peer: PeerAddress, key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]: ...


class PeerHost(Protocol):
    """The callee's side of the peer protocol. `caller` is proven before any of these is called."""

    def introduction(self) -> Introduction: ...

    def receive(self, caller: NodeId, message: Message) -> None: ...

    def check_heard(self, caller: NodeId) -> None:
        """Raises PERMISSION_DENIED or NOT_A_MEMBER when the consensus messages of a peer are not taken."""
        ...

    def peer_connected(self, caller: NodeId) -> None: ...

    def peer_lost(self, caller: NodeId, reset: bool) -> None:
        """The caller's message stream ended."""
        ...

    def accept_invitation(self, caller: NodeId, hive_id: str) -> SignedNodeRecord:
        """Raises WRONG_HIVE unless this node is fresh and has not promised itself to another founder."""
        ...

    async def accept_join(self, through: NodeId, record: SignedNodeRecord, claim: JoinClaim) -> JoinOffer:
        """At the leader: takes the signer of the record in. Elsewhere raises NO_LEADER; the transport forwards.

        Args:
            through: who brings the request: the joiner itself, or a member that it asked.
        """
        ...

    async def open_worker_session(self, caller: NodeId, hello: WorkerHello) -> WorkerSession: ...

    async def manage_hive(self, caller: NodeId, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        """At the leader. Raises PERMISSION_DENIED for a node without voter right, but for its own leaving."""
        ...

    async def compare_digest(self, caller: NodeId, report: DigestReport) -> Verdict:
        """At the leader. Raises PEER_REJECTED for a report of another node than the caller."""
        ...

    def members(self, caller: NodeId) -> tuple[tuple[SignedNodeRecord, ...], int]:
        """The nodes in the configuration, and the index that this node has applied. Raises PERMISSION_DENIED for who takes
        no part."""
        ...

    def read_snapshot(self, caller: NodeId, sha256: str, offset: int) -> AsyncIterator[bytes]:
        """This node's newest snapshot. Raises PERMISSION_DENIED for a node without voter right, BLOB_NOT_FOUND."""
        ...


class BlobStore(Protocol):
    """This node's blobs: files named by the SHA-256 of their content, complete or absent."""

    def has(self, blob: BlobRef) -> bool: ...

    def path(self, blob: BlobRef) -> Path:
        """Raises BLOB_NOT_FOUND."""
        ...

    async def put(
        self, pieces: AsyncIterator[bytes], *, size_bytes_max: int, expected: BlobRef | None = None
    ) -> BlobRef:
        """Stores a stream and returns when file and folder are fsynced. BLOB_TOO_LARGE, BLOB_CORRUPT, DISK_FULL."""
        ...

    async def put_file(self, source: Path) -> BlobRef:
        """Moves a finished file of the same file system into the store."""
        ...

    def read(self, blob: BlobRef, offset: int = 0) -> AsyncIterator[bytes]: ...

    async def delete(self, sha256: str) -> None: ...


class BlobCopies(Protocol):
    """Blobs across nodes."""

    async def replicate(
        self, blob: BlobRef, *, preferred: Sequence[PeerAddress], deadline_s: float
    ) -> tuple[NodeId, ...]:
        """Copies a local blob until it lies on two nodes; all holders, this node first, which is enough where no other node
        has voter right. Raises TOO_FEW_COPIES."""
        ...

    async def fetch(self, blob: BlobRef, holders: Sequence[PeerAddress], deadline_s: float) -> None:
        """Brings a blob to this node, trying the holders in turn. Raises BLOB_NOT_FOUND, NODE_OFFLINE."""
        ...


class TaskRunner(Protocol):
    """The worker part of this daemon, as the leader's orders and peers' questions reach it."""

    def capabilities(self) -> Capabilities: ...

    def read_log(self, key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """The attempt's log from `offset`; with `follow` until it is complete. Raises TASK_NOT_FOUND."""
        ...
