"""What is said of copies is true: an answer that says n has its entry on n disks, and it stays there while they do.

| promise | looked at |
|---|---|
| so many disks have the entry, as it was answered for | at every answer |
| who is left of two has all that was answered for with two copies | when one of two is lost for ever |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hivenode.consensus import Entry
from simulations.checkers.violation import demand

if TYPE_CHECKING:
    from simulations.node import Node


class CopiesChecker:
    """Told of every answer that a leader gives."""

    def __init__(self) -> None:
        self.answers: dict[int, int] = {}
        """How many answers said so many copies."""
        self.said: dict[int, int] = {}
        """The most copies that an answer spoke of, by entry."""
        self.promised_index = 0
        """The last entry that was answered for with two copies or more."""

    def acknowledged(self, node: Node, entry: Entry, copies: int) -> None:
        """A leader answers for an entry."""
        self.answers[copies] = self.answers.get(copies, 0) + 1
        self.said[entry.index] = max(copies, self.said.get(entry.index, 0))
        if copies > 1:
            self.promised_index = max(self.promised_index, entry.index)
        having = sum(other.disk.log.holds(entry) for other in node.world.nodes.values())
        demand(
            having >= copies,
            f"{node.name} answered for entry {entry.index} that {copies} disks have it; {having} do",
        )

    def survives(self, left: Node) -> None:
        """All other machines are gone for ever."""
        last = left.disk.log.last_index()
        demand(
            last >= self.promised_index,
            f"entry {self.promised_index} was answered for with two copies, and {left.name}, which is left, ends at {last}",
        )
