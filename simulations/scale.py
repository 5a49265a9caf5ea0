"""Hives of many machines: they form, elect, lose a third and heal, and each phase says what it cost a node and second.

Of the machines twenty hold the log in the end, five of them as voters. The others are light, for one of two reasons: half
of them may not hold it by their owners' wish, and the rest only stand in for those that are lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.membership.voters import LEARNERS_MAX, wanted_voters
from hivenode.pool import queries
from simulations.checkers.violation import demand
from simulations.engine import MINUTE, SECOND
from simulations.node import Node
from simulations.scenarios.stage import Stage

REPLICAS: Final = 20
SIZES: Final = (20, 100, 300, 1_000)
FORM_US: Final = 2 * MINUTE
QUIET_US: Final = 30 * SECOND
"""Long enough for some heartbeats of every worker and some rounds of every timer."""
LOSS_US: Final = 2 * MINUTE
"""A dead voter is replaced after a minute; what ran on the lost machines runs again after 15 s."""
HEAL_US: Final = 2 * MINUTE
LOOK_US: Final = 1 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What one part of the play took."""

    name: str
    nodes: int
    virtual_us: int
    events: int
    cpu_s: float

    @property
    def events_each(self) -> float:
        """Events of a node in a virtual second."""
        return self.events * SECOND / (self.nodes * self.virtual_us)

    @property
    def cpu_us_each(self) -> float:
        """Microseconds of CPU of a node in a virtual second."""
        return self.cpu_s * 1e6 * SECOND / (self.nodes * self.virtual_us)


class Play:
    """One hive through all phases; `phases` is filled as they go by. Raises `Violation` when something does not come."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.nodes: Final = nodes
        self.phases: Final[list[Phase]] = []
        self.lost: list[Node] = []
        light = max(0, nodes - REPLICAS) // 2
        with self._phase("forms"):
            self.stage: Final = Stage(seed, nodes=nodes, light=light, whole=False)
            self.stage.until(self._is_formed, "all machines are in", FORM_US, look_us=LOOK_US)
        with self._phase("works"):
            self.stage.run(QUIET_US)
        with self._phase("loses a third"):
            self._lose_a_third()
        with self._phase("heals"):
            for node in self.lost:
                node.boot()
            self.stage.until(self._is_formed, "all machines are in again", HEAL_US, look_us=LOOK_US)
        self.ending = self.stage.finish()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        engine = self.stage.engine if self.phases else None
        began_us, events = (engine.now_us, engine.events) if engine is not None else (0, 0)
        began_s = time.process_time()
        yield
        engine = self.stage.engine
        self.phases.append(
            Phase(
                name=name,
                nodes=self.nodes,
                virtual_us=engine.now_us - began_us,
                events=engine.events - events,
                cpu_s=time.process_time() - began_s,
            )
        )

    def phase(self, name: str) -> Phase:
        """What the phase of this name took."""
        return next(phase for phase in self.phases if phase.name == name)

    def _wanted(self) -> tuple[int, int]:
        """How many voters and learners there are when all is well."""
        voters = wanted_voters(self.nodes)
        return voters, min(LEARNERS_MAX, self.nodes - voters)

    def _has_wanted_members(self) -> bool:
        leader = self.stage.world.leader()
        if leader is None or leader.replica is None:
            return False
        conf = leader.replica.status().conf
        return not conf.is_joint and (len(conf.voters), len(conf.learners)) == self._wanted()

    def _is_formed(self) -> bool:
        return self._has_wanted_members() and self.stage.only_work_is_left()

    def _lose_a_third(self) -> None:
        """The leader and one voter more, and a third of the learners and of the light nodes, lose power at one moment."""
        stage = self.stage
        leader = stage.leader()
        conf = stage.replica(leader).status().conf
        members = {node.member_id: node for node in stage.world.present()}
        voters = [node for member, node in members.items() if member in conf.voters and node is not leader]
        learners = [node for member, node in members.items() if member in conf.learners]
        light = [node for member, node in members.items() if member not in conf.members()]
        self.lost = [leader, *voters[:1], *learners[: len(learners) // 3], *light[: len(light) // 3]]
        elections = stage.elections
        for node in self.lost:
            node.crash(power=True)
        stage.until(lambda: self._lives_on(elections), "the rest goes on without the lost", LOSS_US, look_us=LOOK_US)

    def _lives_on(self, elections: int) -> bool:
        """Another leads, the lost hold no vote nor a place that others could have, all workers that are left serve it, and
        no task is lost."""
        stage = self.stage
        leader = stage.world.leader()
        if leader is None or leader.replica is None or stage.elections == elections:
            return False
        lost = {node.node_id for node in self.lost}
        lost_members = {node.member_id for node in self.lost}
        conf = leader.replica.status().conf
        spares = [node for node in stage.world.alive() if node.role.may_vote and node.member_id not in conf.members()]
        return (
            self._has_wanted_members()
            and not lost_members & (conf.members() if spares else conf.voters)
            and all(node.worker is not None and node.worker.connected for node in stage.world.alive())
            and not any(NodeId(task.node_id) in lost for task in queries.open_attempts(leader.replica.view))
        )


def report(play: Play) -> str:
    """A line a phase, for a person."""
    lines = [
        f"{play.nodes:6} {phase.name:14} {phase.virtual_us / SECOND:8.1f} {phase.events:10,} "
        f"{phase.events_each:12.2f} {phase.cpu_s:8.1f} {phase.cpu_us_each:12.0f}"
        for phase in play.phases
    ]
    return "\n".join(lines)


HEADING: Final = (
    f"{'nodes':>6} {'phase':14} {'virtual s':>8} {'events':>10} {'events/n/s':>12} {'CPU s':>8} {'CPU us/n/s':>12}"
)
"""n/s is a node and virtual second."""


def check_growth(plays: list[Play]) -> None:
    """Raises `Violation` when a larger hive costs each of its nodes more than it may.

    While it works, a node has no more events a second than one of a smaller hive. While it forms, where every node has to meet
    the others, a node has at most as many more as there are more nodes.
    """
    for smaller, larger in pairwise(plays):
        before, after = (play.phase("works").events_each for play in (smaller, larger))
        demand(
            after <= before,
            f"{after:.2f} events a node and second with {larger.nodes} nodes, {before:.2f} with {smaller.nodes}",
        )
        before, after = (play.phase("forms").events / play.nodes for play in (smaller, larger))
        demand(
            after / before <= larger.nodes / smaller.nodes,
            f"{after:.0f} events a node to form a hive of {larger.nodes}, {before:.0f} for one of {smaller.nodes}",
        )
