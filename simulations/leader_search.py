"""A light node's way to the leader: it asks other machines who leads, some at once, first those that knew it before.

It does what `hivenode.runtime.leader_search` does. Discovery tells it every machine's address, and what
it learned outlives its process, but for who leads: that is forgotten as soon as that one does not serve.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from hivenode.runtime.leader_search import ASKED_AT_ONCE, INTRODUCE_DEADLINE_S
from hivenode.runtime.local import LEADERLESS_S
from simulations.calls import LeaderAsked, LeaderTold
from simulations.engine import SECOND

if TYPE_CHECKING:
    from simulations.node import Node

SILENCE_US: Final = int(INTRODUCE_DEADLINE_S * SECOND)
LEADERLESS_US: Final = int(LEADERLESS_S * SECOND)


class LeaderSearch:
    """One for each machine; `leader` is the name of who led when one was told last."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._informed: set[str] = set()
        self._round: Iterator[str] = iter(())
        self._asked: dict[str, int] = {}
        self._lacking_us: int | None = None
        self.leader: str | None = None

    def meet(self, names: Iterable[str]) -> None:
        """These hold the hive's log, so they may know who leads."""
        self._informed |= {*names} - {self._node.name}

    def forget(self) -> None:
        """The process is gone, and with it what it was about to learn."""
        self.leader = None
        self._lacking_us = None
        self._asked.clear()

    def found(self) -> None:
        """The machine knows who leads by itself."""
        self._lacking_us = None

    def _lacks_long(self) -> bool:
        """Whether the machine has wanted a leader for longer than any election takes."""
        now_us = self._node.world.engine.now_us
        if self._lacking_us is None:
            self._lacking_us = now_us
        return now_us - self._lacking_us >= LEADERLESS_US

    def seek(self) -> None:
        """Asks others who leads, when this machine cannot know by itself; one without a hive asks nobody."""
        node = self._node
        in_hive = node.disk.log.hive_id != ""
        if in_hive and self.leader is None and (node.light or self._lacks_long()):
            self._begin()

    def _begin(self) -> None:
        """Goes through all machines, unless that is under way; a round that finds nobody is begun anew by the next call."""
        if not self._asked:
            self._round = self._candidates()
            for _ in range(ASKED_AT_ONCE):
                self._ask_next()

    def _candidates(self) -> Iterator[str]:
        known = sorted(self._informed)
        yield from known
        yield from [name for name in self._node.world.nodes if name not in self._informed and name != self._node.name]

    def _ask_next(self) -> None:
        target = next(self._round, "")
        if not target:
            return
        engine = self._node.world.engine
        asked_us = self._asked[target] = engine.now_us
        self._node.world.network.send(self._node.name, target, LeaderAsked(), once=True)
        self._node.at(engine.now_us + SILENCE_US, lambda: self._unanswered(target, asked_us))

    def _unanswered(self, target: str, asked_us: int) -> None:
        if self._asked.get(target) == asked_us:
            del self._asked[target]
            self._ask_next()

    def asked(self, source: str) -> None:
        """A machine asks who leads; only one that holds the log of the same hive tells it."""
        node, world = self._node, self._node.world
        # What a light node was told may be old, and would go round among them for ever.
        ours = node.disk.log.hive_id == world.nodes[source].disk.log.hive_id
        leader = node.leader_node() if ours and not node.light else None
        told = LeaderTold(leader=leader.name if leader is not None else "")
        world.network.send(node.name, source, told, once=True)

    def told(self, source: str, leader: str) -> None:
        """A machine said who leads; empty when it does not know."""
        if leader and leader != self._node.name:
            self.leader = leader
            self._asked.clear()
            self.meet([source, leader])
        elif self._asked.pop(source, None) is not None:
            self._ask_next()
