"""What the API's services call for users: accounts, the machines they may use, and tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hivenode.encoding.claim import ClaimPurpose
from hivenode.encoding.node_record import Capabilities
from hivenode.pool.records import BlobRef, SessionRecord, TaskRecord, TaskSpec, TaskState, UserRole


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
