"""What the hive agrees on, as records: users, sessions, nodes, tasks. Keys are in `keys.py`, changes in `commands.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import Final, NewType

from hivenode.encoding.node_record import Capabilities, NodeId
from hivenode.encoding.records import Record

UserName = NewType("UserName", str)
TaskId = NewType("TaskId", str)
SessionId = NewType("SessionId", str)

DEFAULT_TIME_LIMIT_S: Final = 300
"""The developer guide's TaskConfig."""
DEFAULT_ATTEMPTS_MAX: Final = 4
"""One run and, as the developer guide's `max_retries = 3`, three more when the hive lost the earlier ones."""


@unique
class Priority(Enum):
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"


@unique
class UserRole(Enum):
    """What a user may do; each role includes those before it."""

    USER = "user"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: UserRole) -> bool:
        """Whether who has this role may do what the other may."""
        ranks = list(UserRole)
        return ranks.index(self) >= ranks.index(other)


@unique
class TaskState(Enum):
    PENDING = "PENDING"
    ASSIGNED = "ASSIGNED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"

    @property
    def ended(self) -> bool:
        return self in (TaskState.COMPLETED, TaskState.FAILED, TaskState.STOPPED)

    @property
    def documented(self) -> str:
        """The name that the documented API knows: an assigned task is still pending there."""
        return "PENDING" if self is TaskState.ASSIGNED else self.value


@unique
class NodeKind(Enum):
    HIVE = "hive"
    FOREIGN = "foreign"
    """Registered by the documented call alone; listed, never given tasks."""


@unique
class NodeRights(Enum):
    WORKER = "worker"
    VOTER = "voter"


@unique
class TrustMode(Enum):
    """How a machine that nobody knows comes into the hive."""

    LAN = "lan"
    """By itself from the same network: as a voter within an hour after the hive was formed, later as a worker."""
    TOKEN = "token"
    """With a join token."""
    APPROVE = "approve"
    """When an operator approves it; a join token is an approval in advance."""


@unique
class WayOut(Enum):
    """How a node goes out of the hive."""

    REMOVED = "removed"
    """Its vote counts, and it is heard, until the configuration is without it."""
    REVOKED = "revoked"
    """It is not heard any more, and kept out until it is approved."""
    DENIED = "denied"
    """The same for one that was removed, and whose vote may still count."""


@unique
class AttemptOutcome(Enum):
    """How an attempt ended, as its worker saw it."""

    EXITED = "exited"
    """The program ended by itself; the exit code decides between COMPLETED and FAILED."""
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_EXCEEDED = "disk_exceeded"
    OUTPUT_EXCEEDED = "output_exceeded"
    INVALID = "invalid"
    """The task could not be started by its own fault, as requirements that do not exist."""
    STOPPED = "stopped"
    WORKER_FAULT = "worker_fault"
    """The machine could not do it: the task runs again elsewhere and pays nothing for this attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRef(Record):
    """A blob by its content: 64 hexadecimal digits of its SHA-256, and its size."""

    KIND = 10
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveRecord(Record):
    """The hive's birth and settings. Grants: CPT per new account, and how many accounts a day receive one."""

    KIND = 11
    hive_id: str
    created_ms: int
    supply: int
    signup_grant: int
    grants_per_day_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRecord(Record):
    """A user; `password_hash` is an Argon2id string."""

    KIND = 12
    username: UserName
    user_id: str
    password_hash: str
    email: str
    role: UserRole
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord(Record):
    KIND = 13
    session_id: SessionId
    username: UserName
    created_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEntry(Record):
    """A node as the hive knows it. `signed_record` is empty for a foreign worker; `owner` is empty when unclaimed."""

    KIND = 14
    node_id: NodeId
    kind: NodeKind
    owner: str
    rights: NodeRights
    capabilities: Capabilities
    addresses: tuple[str, ...]
    incarnation: str
    sequence: int
    port: int
    joined_ms: int
    completed: int
    failed: int
    signed_record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs(Record):
    """What a task asks of a machine; zero and empty ask nothing."""

    KIND = 15
    memory_gb: int = 0
    cpu_score: int = 0
    gpu_score: int = 0
    gpu_memory_gb: int = 0
    gpu_name: str = ""
    location: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec(Record):
    """What the user asked for. `dependencies` are task ids of the same user that must be COMPLETED first."""

    KIND = 16
    needs: Needs = Needs()
    priority: Priority = Priority.NORMAL
    time_limit_s: int = DEFAULT_TIME_LIMIT_S
    attempts_max: int = DEFAULT_ATTEMPTS_MAX
    dependencies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord(Record):
    """A task and its newest attempt.

    `attempt` counts from 1; 0 says none yet. `attempt_open` says that the worker `node_id` still owes the end of the newest
    attempt (also after a stop), so that its slot is taken. Times are ms since the epoch of the agreed clock, 0 for not yet.
    `held` is what the escrow still holds, `paid` what the worker's owner received.
    """

    KIND = 17
    user: UserName
    task_id: TaskId
    spec: TaskSpec
    data: BlobRef
    data_holders: tuple[str, ...]
    state: TaskState
    attempt: int
    attempt_open: bool
    node_id: str
    submitted_ms: int
    assigned_ms: int
    started_ms: int
    ended_ms: int
    exit_code: int | None
    reason: str
    result: BlobRef | None
    log: BlobRef | None
    output_holders: tuple[str, ...]
    cost_per_minute: int
    held: int
    paid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DissolvedRecord(Record):
    """The hive's end: the hive that its members go to, and where members of that one were."""

    KIND = 19
    target_hive_id: str
    target_addresses: tuple[str, ...]
    decided_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTokenRecord(Record):
    """A join token, under the hash of its public key."""

    KIND = 30
    rights: NodeRights
    created_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRecord(Record):
    """With which rights a node that is not in yet may come in."""

    KIND = 31
    rights: NodeRights
    expires_ms: int
