"""What the leader knows of one member's log, and how fast it may send to it.

Rules:
- `match` never falls within a term: it is what the member has made durable. `next` is a guess and may fall back.
- PROBE sends one append and waits for its answer or for a heartbeat's. REPLICATE sends ahead, at most `max_inflight`
  appends that are not answered. SNAPSHOT sends nothing until the member has the snapshot, failed to, or took too long.
- After a rejection REPLICATE has one append out, and with each step forward twice as many again: where appends overtake
  each other, a whole window is refused with the first that is late, and would be sent again for nothing.
- A lost message needs no timer here: the answer to a heartbeat of a member that is behind asks for another append.

State table:

| state | append accepted | append rejected | entry compacted | unreachable | snapshot reported or overdue |
|---|---|---|---|---|---|
| PROBE | REPLICATE | PROBE, next falls | SNAPSHOT | PROBE | - |
| REPLICATE | REPLICATE | PROBE, next = match + 1 | SNAPSHOT | PROBE | - |
| SNAPSHOT | REPLICATE when the log reaches back to it | SNAPSHOT | - | SNAPSHOT | PROBE |
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, unique


@unique
class ProgressState(Enum):
    """How the leader sends to a member."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressStatus:
    """A picture of one member's progress."""

    match: int
    next: int
    state: ProgressState
    recent_active: bool


class Progress:
    """The leader's view of one member."""

    __slots__ = (
        "_inflight",
        "_max_inflight",
        "_window",
        "match",
        "next",
        "offered_ms",
        "pending_snapshot",
        "probe_due",
        "probe_sent",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(self, *, next_index: int, max_inflight: int) -> None:
        self.match = 0
        self.next = next_index
        self.state = ProgressState.PROBE
        self.probe_sent = False
        """In PROBE: an append is out, and the next waits for an answer."""
        self.probe_due = True
        """An append goes out even if it is empty, to learn where the member stands."""
        self.recent_active = True
        """The member was heard since the last check of the quorum; a new one has the benefit of the doubt."""
        self.pending_snapshot = 0
        self.offered_ms = 0
        self.sent_commit = 0
        self._inflight: deque[int] = deque()
        self._max_inflight = max_inflight
        self._window = max_inflight
        """How many appends with entries may be out now."""

    def _reset(self, state: ProgressState) -> None:
        self.state = state
        self.probe_sent = False
        self.probe_due = False
        self.pending_snapshot = 0
        self._inflight.clear()

    def become_probe(self) -> None:
        """Sends one append at a time from what is known to match, or from after a snapshot that was sent."""
        after_snapshot = self.pending_snapshot + 1 if self.state is ProgressState.SNAPSHOT else 0
        self._reset(ProgressState.PROBE)
        self.next = max(self.match + 1, after_snapshot)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.probe_due = True

    def become_replicate(self) -> None:
        """Sends ahead of the answers."""
        self._reset(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int, now_ms: int) -> None:
        """Sends nothing until the snapshot up to `index` has arrived."""
        self._reset(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.offered_ms = now_ms
        self.next = index + 1
        self.sent_commit = index

    def abort_snapshot(self) -> None:
        """The member did not get the snapshot: asks again where its log stands."""
        self.pending_snapshot = 0
        self.become_probe()

    @property
    def is_paused(self) -> bool:
        """Whether not even an empty append may be sent."""
        return self.state is ProgressState.SNAPSHOT or (self.state is ProgressState.PROBE and self.probe_sent)

    @property
    def is_full(self) -> bool:
        """Whether as many appends with entries are out as may be."""
        return len(self._inflight) >= self._window

    @property
    def inflight_count(self) -> int:
        return len(self._inflight)

    def sent(self, last_index: int | None, commit: int) -> None:
        """Notes an append that was sent.

        Args:
            last_index: its last entry's index, or None when it was empty.
            commit: the commit index that it told.
        """
        self.probe_due = False
        self.sent_commit = commit
        if self.state is ProgressState.PROBE:
            self.probe_sent = True
        elif last_index is not None:
            self.next = last_index + 1
            self._inflight.append(last_index)

    def can_bump_commit(self, commit: int) -> bool:
        """Whether an empty append would tell the member of a commit index that it can use."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def accept(self, index: int) -> bool:
        """Notes that the member's log is durable and equal up to `index`; returns whether that is news."""
        while self._inflight and self._inflight[0] <= index:
            self._inflight.popleft()
        self.next = max(self.next, index + 1)
        if index <= self.match:
            return False
        self.match = index
        self.probe_sent = False
        self._window = min(2 * self._window, self._max_inflight)
        return True

    def reject(self, rejected: int, hint: int) -> bool:
        """Falls back after a rejected append; returns False when the answer is an old one.

        Args:
            rejected: the `prev_index` that did not fit.
            hint: the highest index at which the two logs may agree.
        """
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self._window = 1
            self.become_probe()
            return True
        if self.state is ProgressState.SNAPSHOT or self.next - 1 != rejected:
            return False
        self.next = max(min(rejected, hint + 1), self.match + 1, 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.probe_sent = False
        self.probe_due = True
        return True

    def status(self) -> ProgressStatus:
        """A frozen picture."""
        return ProgressStatus(match=self.match, next=self.next, state=self.state, recent_active=self.recent_active)
