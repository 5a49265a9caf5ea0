"""What the application of a log entry made happen, for those who act on it; the same at every replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from hivenode.pool.records import TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChanged:
    """A task is new or came into another state."""

    user: str
    task_id: str
    state: TaskState
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptAssigned:
    """The node shall run the attempt."""

    user: str
    task_id: str
    attempt: int
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRevoked:
    """The attempt was stopped or given up: its worker shall kill it."""

    user: str
    task_id: str
    attempt: int
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptClosed:
    """The hive waits for nothing more of the attempt: its worker may forget what it had to report."""

    user: str
    task_id: str
    attempt: int
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChanged:
    """A node is new or its entry is another one."""

    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRemoved:
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRevoked:
    """The node is not trusted, whether it was in or not: nobody speaks to it from now on."""

    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveCreated:
    hive_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveDissolved:
    """The hive has given itself up: its members go to the other one."""

    target_hive_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobReleased:
    """The last task that named the blob was swept: no agreed state needs it any more."""

    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosed:
    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StateReplaced:
    """A snapshot took the place of the agreed state: anything may have changed, and no other event will say so."""

    index: int


Event: TypeAlias = (
    TaskChanged
    | AttemptAssigned
    | AttemptRevoked
    | AttemptClosed
    | NodeChanged
    | NodeRemoved
    | NodeRevoked
    | HiveCreated
    | HiveDissolved
    | BlobReleased
    | SessionClosed
    | StateReplaced
)
