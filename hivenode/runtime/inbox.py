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

GATHER_MS: Final = 5
"""While earlier proposals are being agreed on, later ones gather for one append and one fsync, and no longer than this: a round
costs a leader some milliseconds of work however many proposals it carries, and a follower far away must not hold up the next."""
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
    """When the oldest of these came."""
    signals: deque[LeaderLost | Transfer] = field(default_factory=deque)
    fetched: Fetched | None = None

    def propose(self, proposal: Proposal, now_ms: int) -> bool:
        """Puts a proposal in; returns whether the replica has to look: for the first, and when there are enough."""
        self.proposals.append(proposal)
        if len(self.proposals) == 1:
            self.proposed_ms = now_ms
        return len(self.proposals) in (1, GATHERED_MAX)

    def has_gathered(self, now_ms: int) -> bool:
        """Whether the proposals that wait are appended although earlier ones are still being agreed on."""
        return len(self.proposals) >= GATHERED_MAX or now_ms >= self.proposed_ms + GATHER_MS

    @property
    def deadline_ms(self) -> int | None:
        """When the proposals that wait have gathered at the latest; None when none do."""
        return self.proposed_ms + GATHER_MS if self.proposals else None
