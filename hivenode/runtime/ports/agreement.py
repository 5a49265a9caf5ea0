"""Who leads, and how something is agreed on or read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique
from typing import Protocol

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import Record
from hivenode.encoding.state_view import ReadView
from hivenode.pool.commands import Reply
from hivenode.pool.events import Event


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
