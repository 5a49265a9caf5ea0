"""What the leader orders of a worker, and what the worker tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from hivenode.encoding.node_record import Capabilities, NodeId
from hivenode.pool.records import AttemptOutcome, BlobRef, TaskSpec
from hivenode.runtime.ports.agreement import PeerAddress


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


class TaskRunner(Protocol):
    """The worker part of this daemon, as the leader's orders and peers' questions reach it."""

    def capabilities(self) -> Capabilities: ...

    def read_log(self, key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """The attempt's log from `offset`; with `follow` until it is complete. Raises TASK_NOT_FOUND."""
        ...
