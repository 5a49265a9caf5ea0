"""Raft's promises over all members and all of the past (Raft paper, figure 3).

| promise | looked at |
|---|---|
| election safety: one leader a term | when a member leads |
| log matching: same index and term, same log up to there | when entries become durable |
| leader completeness: a leader has all that is committed | when a member leads |
| state machine safety: one entry an index, for ever | when an entry is applied |
| a commit is durable at a quorum of the configuration | in the end, by leader completeness and equal logs |
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from hivenode.consensus import Entry, LogView, MemberId
from simulations.checkers.violation import Violation, demand


class ConsensusChecker:
    """Told of what members do; raises at the first thing that must not be."""

    def __init__(self) -> None:
        self.elections = 0
        self.committed: list[Entry] = []
        """By index, from 1."""
        self._committed_by: list[int] = []
        """The highest term that had a leader when the entry of the same place was first applied."""
        self._highest_term = 0
        self._leaders: dict[int, MemberId] = {}
        self._entries: dict[tuple[int, int], tuple[Entry, int]] = {}

    def leads(self, member: MemberId, term: int, log: LogView, tail: Sequence[Entry]) -> None:
        """A member leads.

        Args:
            log: what of its log is durable.
            tail: what is not durable yet; it stands over `log` from its first index on.
        """
        known = self._leaders.setdefault(term, member)
        demand(known == member, f"two leaders in term {term}: {known} and {member}")
        self.elections += 1
        self._highest_term = max(self._highest_term, term)
        # Leader completeness speaks of later terms (§5.4.3): who won term 45 by votes that were long on their way need not have
        # what term 46 committed meanwhile.
        del self._committed_by[len(self.committed) :]  # What a recovery gave up.
        bound = bisect_left(self._committed_by, term)
        if not bound or bound < log.first_index() - 1:
            return
        newest = self.committed[bound - 1]
        tail_begin = tail[0].index if tail else log.last_index() + 1
        if newest.index >= tail_begin:
            place = newest.index - tail_begin
            found = tail[place].term if place < len(tail) else None
        else:
            found = log.term(newest.index)
        demand(
            found == newest.term,
            f"{member} leads term {term} without the committed entry {newest.index} of term {newest.term}",
        )

    def persisted(self, name: str, entries: Sequence[Entry], log: LogView) -> None:
        """Entries became durable at a member."""
        for entry in entries:
            before = log.term(entry.index - 1)
            known = self._entries.setdefault((entry.index, entry.term), (entry, before))
            demand(
                known[0] == entry and known[1] == before,
                f"{name} has another entry {entry.index} of term {entry.term}, or another log before it",
            )

    def installed(self, name: str, index: int, term: int) -> None:
        """A snapshot took the place of a member's log and state."""
        demand(index <= len(self.committed), f"{name} installed a snapshot of {index}, which was never committed")
        there = self.committed[index - 1]
        demand(there.term == term, f"{name} installed a snapshot of {index} of term {term}, not {there.term}")

    def applied(self, name: str, entry: Entry) -> bool:
        """A member applies an entry; returns whether it is the first to do so."""
        known = len(self.committed)
        demand(entry.index <= known + 1, f"{name} applied {entry.index}, but only {known} were ever committed")
        if entry.index == known + 1:
            self.committed.append(entry)
            self._committed_by[known:] = [self._highest_term]
            return True
        there = self.committed[entry.index - 1]
        if there is not entry and there != entry:
            raise Violation(f"{name} applied another entry {entry.index}: term {entry.term}, not {there.term}")
        return False
