"""What the scenarios are played on: a hive at work, and words for what is done to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from hivenode.consensus import RaftStatus
from hivenode.encoding.records import Record
from hivenode.pool.commands import Reply
from simulations.calls import Write, Written
from simulations.checkers.violation import demand
from simulations.engine import MS, SECOND
from simulations.faults import Faults
from simulations.node import Node
from simulations.replica import Replica
from simulations.run import check_end, settle
from simulations.workload import Workload
from simulations.world import HEARERS_MAX, Settings, World

LOOK_US: Final = 10 * MS
WELL_US: Final = 60 * SECOND
"""A hive forms, or is whole again after mending, within this time."""


class Stage:
    """A hive whose voters are all there, with clients at work.

    Args:
        seed: what the play is a function of.
        nodes: three and more have three voters, seven and more have five.
        light: how many of them hold no log.
        whole: waits until they are all there; else the play begins when the machines are switched on.
    """

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 7,
        light: int = 0,
        clients: int = 6,
        max_append_bytes: int = 1 << 20,
        whole: bool = True,
    ) -> None:
        settings = Settings(
            nodes=nodes,
            light=light,
            clients=clients,
            max_append_bytes=max_append_bytes,
            # So many hear only of some of them, and would form several hives; they are told of the first one.
            bootstrap=nodes > HEARERS_MAX,
        )
        self.world: Final = World(seed, settings)
        self.engine: Final = self.world.engine
        self.load: Final = Workload(self.world)
        self._voters = 5 if nodes >= 7 else min(3, nodes - 1 + nodes % 2)
        self.world.start()
        self.load.start()
        if whole:
            self.until_whole()

    def until_whole(self) -> None:
        """Waits until all machines are members and as many as should vote."""
        self.until(self._is_whole, "the hive is whole", WELL_US)
        self.world.hive_id = self.world.main_hive()

    def _is_whole(self) -> bool:
        leader = self.world.leader()
        if leader is None or leader.replica is None:
            return False
        conf = leader.replica.status().conf
        # In a joint configuration the founder's death alone would stop the hive.
        return (
            len(conf.voters) == self._voters
            and conf.members() == {node.member_id for node in self.world.present() if node.role.may_vote}
            and not conf.is_joint
            and self.world.is_formed()
        )

    def only_work_is_left(self) -> bool:
        """Whether nothing but work is left to do; replicas that are a moment behind are no trouble."""
        return all("tasks" in trouble or "applied" in trouble for trouble in self.world.troubles())

    # --- time ------------------------------------------------------------------------------------------------------

    def run(self, duration_us: int) -> None:
        self.engine.run_until(self.engine.now_us + duration_us)

    def until(self, holds: Callable[[], bool], what: str, limit_us: int, *, look_us: int = LOOK_US) -> int:
        """Waits until something holds, looking every `look_us`. Returns how long; raises `Violation` at the limit."""
        began_us = self.engine.now_us
        while not holds():
            demand(self.engine.now_us - began_us < limit_us, f"not within {limit_us // SECOND} s: {what}")
            self.run(look_us)
        return self.engine.now_us - began_us

    # --- who is who ------------------------------------------------------------------------------------------------

    def leader(self) -> Node:
        """The leader, after waiting for one."""
        self.until(lambda: self.world.leader() is not None, "somebody leads", WELL_US)
        leader = self.world.leader()
        demand(leader is not None, "nobody leads")
        return leader if leader is not None else next(iter(self.world.nodes.values()))

    def next_leader(self) -> Node:
        """Whoever leads next, at the very moment at which it does."""
        self.until(lambda: self.world.leader() is not None, "somebody leads", WELL_US, look_us=100)
        return self.leader()

    def replica(self, node: Node) -> Replica:
        replica = node.replica
        if replica is None:
            raise ValueError(f"{node.name} holds no log now")
        return replica

    def status(self) -> RaftStatus:
        return self.replica(self.leader()).status()

    def others(self, node: Node) -> list[Node]:
        return [other for other in self.world.present() if other is not node]

    def voters(self) -> list[Node]:
        """The voters, the leader left out."""
        status = self.status()
        chosen = status.conf.voters - {status.member_id}
        return [node for node in self.world.present() if node.member_id in chosen]

    @property
    def commits(self) -> int:
        return len(self.world.checks.consensus.committed)

    @property
    def elections(self) -> int:
        return self.world.checks.consensus.elections

    def until_commits(self, more: int, limit_us: int) -> int:
        """Waits until so many more entries are committed."""
        wanted = self.commits + more
        return self.until(lambda: self.commits >= wanted, f"{more} more commits", limit_us)

    def until_other_leads(self, than: Node, limit_us: int) -> None:
        self.until(lambda: self.world.leader() not in (None, than), f"another than {than.name} leads", limit_us)

    # --- what is done to it ----------------------------------------------------------------------------------------

    def cut(self, sources: Iterable[Node], targets: Iterable[Node], *, both: bool = True) -> None:
        """Cuts the wires from each source to each target, and with `both` those back."""
        targets = list(targets)
        for source in sources:
            for target in targets:
                self.world.network.cut(source.name, target.name)
                if both:
                    self.world.network.cut(target.name, source.name)

    def mend(self) -> None:
        self.world.network.mend_all()

    def command(self, command: Record) -> None:
        """Has the hive agree on something, whoever leads meanwhile."""
        done: list[Written] = []

        def try_it() -> bool:
            if not any(isinstance(result, Reply) for result in done):
                deadline_us = self.engine.now_us + SECOND
                self.replica(self.leader()).propose(Write(body=command), deadline_us, done.append)
                self.run(100 * MS)
            return any(isinstance(result, Reply) for result in done)

        self.until(try_it, f"{type(command).__name__} is agreed on", WELL_US)

    def leads(self, node: Node) -> bool:
        """Whether a node leads; hands it the leadership when another does."""
        leader = self.leader()
        if leader is node:
            return True
        self.replica(leader).transfer_leader(node.member_id)
        self.run(200 * MS)
        return False

    def take_out(self, node: Node) -> None:
        """Its owner wants it back; returns when its daemon has ended, for the hive is without it."""
        node.leaving = True
        Faults(self.world, "none").see_off(node)
        self.until(lambda: node.left, f"{node.name} is out", WELL_US, look_us=100)

    def boot_all(self) -> None:
        for node in self.world.present():
            node.boot()

    def finish(self) -> str:
        """Ends all trouble, lets the hive come to rest, and looks at every promise."""
        self.mend()
        for node in self.world.present():
            node.disk.slowness, node.disk.full = 1, False
            node.resume()
            node.boot()
        self.load.stop()
        settled_us = settle(self.world, self.load)
        checked = check_end(self.world, self.load)
        return (
            f"{self.commits} commits, {self.elections} elections, {checked} operations in histories, "
            f"settled in {settled_us // SECOND} s, trace {self.engine.digest()}"
        )
