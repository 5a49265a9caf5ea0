"""What waits for the replica's task: messages, proposals, signals, and a fetched snapshot."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from hivenode.consensus import ConfChange, MemberId, Message, SnapshotOffer
from hivenode.encoding.records import Record
from hivenode.pool.commands import Reply
from hivenode.runtime.stores import PreparedState

QUIET_MS: Final = 4
"""While earlier proposals are being agreed on, or many come, they gather for one append and one fsync until none has come for so
long: a round costs all members some milliseconds of work however many proposals it carries. A call takes a busy leader half a
millisecond before it is proposed, so that calls which were answered together, and whose callers ask again, come together."""
GATHER_MS: Final = 30
"""None waits longer than this for others: a follower far away must not hold up the next round."""
CROWD: Final = 4
"""So many in a round are many; fewer gain less from a common round than they lose by waiting for each other."""
GATHERED_MAX: Final = 256
"""So many are enough for one append."""


@dataclass(slots=True, eq=False)
class Proposal:
    """A command or a change of configuration on its way."""

    body: Record | ConfChange
    owner: str
    key: str
    keep_ms: int
    future: asyncio.Future[Reply]
    index: int = 0
    term: int = 0
    reply: Reply | None = None
    """Of its application; it may wait for a second copy."""
    copies: int = 0


@dataclass(frozen=True, slots=True)
class LeaderLost:
    node: MemberId


@dataclass(frozen=True, slots=True)
class Transfer:
    to: MemberId


@dataclass(slots=True, eq=False)
class Fetched:
    """An offer whose state is on disk; `dealt_with` is set when it is installed or refused."""

    offer: SnapshotOffer
    prepared: PreparedState
    dealt_with: asyncio.Event
    stepped: bool = False


@dataclass(slots=True)
class Inbox:
    messages: deque[Message] = field(default_factory=deque)
    proposals: deque[Proposal] = field(default_factory=deque)
    proposed_ms: int = 0
    latest_ms: int = 0
    """When the oldest and the newest of these came."""
    crowd: int = 0
    """How many a round carried lately; what is long ago counts for less."""
    signals: deque[LeaderLost | Transfer] = field(default_factory=deque)
    fetched: Fetched | None = None

    def propose(self, proposal: Proposal, now_ms: int) -> bool:
        """Puts a proposal in; returns whether the replica has to look: for the first, and when there are enough."""
        self.proposals.append(proposal)
        self.latest_ms = now_ms
        if len(self.proposals) == 1:
            self.proposed_ms = now_ms
        return len(self.proposals) in (1, GATHERED_MAX)

    def gathered(self, now_ms: int, *, idle: bool) -> int:
        """How many of the proposals that wait are appended now: all or none.

        Args:
            idle: no earlier ones are being agreed on.
        """
        number = len(self.proposals)
        alone = idle and self.crowd < CROWD
        if not number or not (alone or number >= GATHERED_MAX or now_ms >= self._gathered_ms):
            return 0
        self.crowd = max(number, self.crowd - 1 - self.crowd // 8)
        return number

    @property
    def _gathered_ms(self) -> int:
        return min(self.proposed_ms + GATHER_MS, self.latest_ms + QUIET_MS)

    @property
    def deadline_ms(self) -> int | None:
        """When the proposals that wait have gathered, if no other comes; None when none do."""
        return self._gathered_ms if self.proposals else None
