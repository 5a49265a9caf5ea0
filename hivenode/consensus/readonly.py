"""Linearizable reads without a log entry (thesis §6.4), in batches.

Rules:
- A read is answered with an index that was committed when the read was already waiting, after a quorum has confirmed, by
  an answer to a heartbeat sent after that, that this leader still leads.
- A follower's question counts as its own confirmation, for that question alone: where asker and leader are a quorum it
  is answered at once.
- All waiting reads share one round of heartbeats. A round in flight takes no new reads: they came after its index.
- A round asks those first who confirmed the last one, since more answers than a quorum only cost. Its number is sent in
  every heartbeat until it is confirmed, so one that is lost, or asks somebody who is gone, costs one interval.
- A leader that steps down forgets its reads; who asked sees the leader change and asks again.

State table:

| state | read comes | pump with a waiting read | quorum confirmed |
|---|---|---|---|
| idle | waits | round in flight | - |
| round in flight | waits | round in flight | idle, the round's reads are answered |
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hivenode.consensus.messages import MemberId
from hivenode.consensus.quorum import VoteResult
from hivenode.errors import ensure

_ROUND_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRead:
    """A read that waits: who asked, and under which name."""

    requester: MemberId
    context: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRound:
    """Reads that wait for the same confirmation."""

    context: bytes
    index: int
    reads: tuple[PendingRead, ...]
    confirmed: dict[MemberId, bool] = field(default_factory=dict)


class ReadBatch:
    """The leader's reads: those that wait for a round, and the round in flight."""

    __slots__ = ("_count", "_waiting", "answered", "in_flight")

    def __init__(self) -> None:
        self._waiting: list[PendingRead] = []
        self._count = 0
        self.in_flight: ReadRound | None = None
        self.answered: frozenset[MemberId] = frozenset()
        """Who confirmed the last round that ended."""

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    @property
    def context(self) -> bytes:
        """What heartbeats carry: the number of the round in flight, or nothing."""
        return self.in_flight.context if self.in_flight is not None else b""

    def add(self, read: PendingRead) -> None:
        """Lets a read wait for the next round."""
        self._waiting.append(read)

    def take_waiting(self) -> tuple[PendingRead, ...]:
        """Hands out the waiting reads, for a leader that needs nobody's confirmation."""
        reads, self._waiting = tuple(self._waiting), []
        return reads

    def start(self, index: int) -> None:
        """Begins a round for all that wait, at the commit index `index`."""
        ensure(self.in_flight is None, "A round of reads is in flight already.")
        self._count += 1
        self.in_flight = ReadRound(
            context=self._count.to_bytes(_ROUND_BYTES, "big"), index=index, reads=self.take_waiting()
        )

    def confirm(self, member: MemberId, context: bytes) -> bool:
        """Notes a member's answer; returns whether it belongs to the round in flight."""
        if self.in_flight is None or context != self.in_flight.context:
            return False
        self.in_flight.confirmed[member] = True
        return True

    def finish(self, result: VoteResult) -> ReadRound | None:
        """Ends the round if it is confirmed, and returns it."""
        if self.in_flight is None or result is not VoteResult.WON:
            return None
        done, self.in_flight = self.in_flight, None
        self.answered = frozenset(done.confirmed)
        return done
