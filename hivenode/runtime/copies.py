"""On how many disks an acknowledged write lies, and the two-node rule: with one voter, a learner shall have it too.

Rules:
- With several voters a majority has what is committed, and the reply goes out at once. What was committed before a change of
  the configuration was applied was committed by the voters of before, and counts by them.
- With one voter the reply waits until a learner's log has the entry on disk, for `SECOND_COPY_MS` at most.
- Only a learner that keeps up is waited for: one that the leader sends ahead to, and that it heard within an election timeout.
  Otherwise the reply goes out at once, and says that there is one copy.
- What is applied is done: the rule delays replies and never takes anything back.

| learner | reply |
|---|---|
| has the entry | now, 2 copies |
| keeps up, has not | when it has; at the deadline, or when it falls silent: 1 copy |
| silent, or far behind | now, 1 copy |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from hivenode.consensus import ConfState, MemberId, ProgressState, RaftStatus

SECOND_COPY_MS: Final = 2_000
"""Many times what a disk takes to sync; a person notices two seconds, and a program's deadline is longer."""

acknowledged_copies: ContextVar[int] = ContextVar("acknowledged_copies", default=0)
"""On how many disks the last write lies that the running task proposed; 0 before any."""


def has_one_voter(conf: ConfState) -> bool:
    """Whether one disk alone decides what is committed."""
    return len(conf.voters) == 1 and not conf.voters_outgoing


def quorum_size(conf: ConfState) -> int:
    """On how many voters' disks everything committed lies at least; 0 without a configuration."""
    return max((len(half) // 2 + 1 for half in (conf.voters, conf.voters_outgoing) if half), default=0)


class QuorumCopies:
    """How many voters' disks have a committed entry for certain, while the configuration changes."""

    def __init__(self) -> None:
        self._before = 0
        self._until = 0

    def changed(self, before: ConfState, committed: int) -> None:
        """A change of the configuration is applied; up to the entry `committed` the voters of before decided."""
        size = quorum_size(before)
        # A batch may hold two changes, and what they cover the fewest of all their voters may have.
        self._before = min(size, self._before) if self._until == committed else size
        self._until = committed

    def copies(self, index: int, conf: ConfState) -> int:
        """Of the entry at `index`; `conf` is the configuration as it is now."""
        size = quorum_size(conf)
        return min(size, self._before) if index <= self._until else size


@dataclass(frozen=True, slots=True)
class _Waiting:
    index: int
    deadline_ms: int
    settle: Callable[[int], None]


class SecondCopies:
    """The replies of a leader that wait for a learner.

    Args:
        heard_ms: a learner that was not heard for so long is silent.
    """

    def __init__(self, heard_ms: int) -> None:
        self._heard_ms = heard_ms
        self._heard: dict[MemberId, int] = {}
        self._waiting: deque[_Waiting] = deque()
        self._alone_index = 0
        """The last entry that was answered for with one copy."""

    def heard(self, member: MemberId, now_ms: int) -> None:
        """A message of the member came."""
        self._heard[member] = now_ms

    @property
    def deadline_ms(self) -> int | None:
        """When the oldest reply goes out in any case."""
        return self._waiting[0].deadline_ms if self._waiting else None

    def learner_match(self, status: RaftStatus, now_ms: int) -> int | None:
        """Up to where a learner that keeps up has the log on disk; None when there is none."""
        found = None
        for member in status.conf.learners:
            progress = status.progress.get(member)
            if progress is None or progress.state is not ProgressState.REPLICATE:
                continue
            if now_ms - self._heard.get(member, -self._heard_ms) < self._heard_ms:
                found = max(found or 0, progress.match)
        return found

    def copies(self, status: RaftStatus, now_ms: int) -> int:
        """How many disks have all that was answered for: 2 when a learner keeps up and has also what was alone."""
        match = self.learner_match(status, now_ms)
        return 2 if match is not None and match >= self._alone_index else 1

    def settle(self, index: int, status: RaftStatus, now_ms: int, settle: Callable[[int], None]) -> None:
        """Calls `settle` with the number of copies, now or later; indexes come in order."""
        match = self.learner_match(status, now_ms)
        waiting = _Waiting(index, now_ms + SECOND_COPY_MS, settle)
        if match is None or match >= index:
            self._answer(waiting, copied=match is not None)
        else:
            self._waiting.append(waiting)

    def _answer(self, waiting: _Waiting, *, copied: bool) -> None:
        if not copied:
            self._alone_index = max(self._alone_index, waiting.index)
        waiting.settle(2 if copied else 1)

    def release(self, status: RaftStatus, now_ms: int) -> None:
        """Lets replies go whose entry a learner has by now, or for which there is nothing to wait any longer."""
        match = self.learner_match(status, now_ms)
        while self._waiting:
            first = self._waiting[0]
            copied = match is not None and match >= first.index
            if not copied and match is not None and now_ms < first.deadline_ms:
                return
            self._answer(self._waiting.popleft(), copied=copied)

    def release_all(self) -> None:
        """This member leads no longer: what is applied is answered."""
        while self._waiting:
            self._answer(self._waiting.popleft(), copied=False)
