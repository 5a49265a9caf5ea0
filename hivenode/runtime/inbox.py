"""What waits for the replica's task: messages, proposals, signals, and a fetched snapshot."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from hivenode.consensus import ConfChange, MemberId, Message, SnapshotOffer
from hivenode.encoding.records import Record
from hivenode.pool.commands import Reply
from hivenode.runtime.stores import PreparedState


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
    signals: deque[LeaderLost | Transfer] = field(default_factory=deque)
    fetched: Fetched | None = None
