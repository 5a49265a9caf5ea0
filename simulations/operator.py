"""An operator: revokes machines that are not trusted any more, gives others the right to vote, and lets revoked ones in again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hivenode.pool import queries
from hivenode.pool.nodes import is_denied
from hivenode.pool.records import NodeRights
from simulations.calls import Written
from simulations.cluster import Cluster
from simulations.engine import MS
from simulations.node import Node
from simulations.replica import Replica
from simulations.world import World

LOOK_US: Final = 500 * MS
"""Between two times that an operator asks for the same."""


def _nothing(_result: Written) -> None:
    """The operator looks at the hive for what came of it."""


class Operator:
    """One for a run. What is refused, or gets lost with its leader, is asked for again until `stop`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._engine = world.engine
        self._stopped = False
        self.busy = 0
        """How many machines are on their way out or in."""

    def stop(self) -> None:
        self._stopped = True

    def revoke(self, going: Node, *, defiant: bool) -> None:
        """Has a machine kept out. Args: defiant: its daemon does not end when it hears so."""
        going.leaving, going.defiant = True, defiant
        self._engine.note(f"{going.name} is to be revoked{', and goes on' if defiant else ''}")

        def done() -> None:
            going.revoked = True
            self._engine.note(f"{going.name} is revoked")

        self._insist(
            lambda cluster: cluster.revoke(going.node_id, _nothing),
            lambda replica: is_denied(replica.view, going.node_id),
            done,
        )

    def approve(self, worker: Node) -> None:
        """Gives a machine of the hive the right to vote."""
        self._engine.note(f"{worker.name} is to vote")

        def may_vote(replica: Replica) -> bool:
            entry = queries.node(replica.view, worker.node_id)
            return entry is not None and entry.rights is NodeRights.VOTER

        self._insist(lambda cluster: cluster.approve(worker.node_id, _nothing), may_vote, lambda: None)

    def let_in_again(self, revoked: Node) -> None:
        """One that goes on comes back with the log that it has; another one's owner starts it with an empty disk."""
        self._engine.note(f"{revoked.name} is to come back")

        def done() -> None:
            self._world.on_trial.discard(revoked.name)
            revoked.revoked, revoked.leaving, revoked.defiant = False, False, False
            if revoked.left:
                revoked.left = False
                revoked.wipe()
            revoked.boot()

        self._insist(
            lambda cluster: cluster.approve(revoked.node_id, _nothing),
            lambda replica: not is_denied(replica.view, revoked.node_id),
            done,
        )

    def _insist(
        self, ask: Callable[[Cluster], None], holds: Callable[[Replica], bool], done: Callable[[], None]
    ) -> None:
        self.busy += 1

        def look() -> None:
            leader = self._world.leader()
            if leader is not None and leader.replica is not None and leader.cluster is not None:
                if holds(leader.replica):
                    self.busy -= 1
                    done()
                    return
                cluster = leader.cluster
                if not self._stopped and not self._world.is_anybody_unsound():
                    leader.run(lambda: ask(cluster))
            self._engine.after(LOOK_US, look)

        look()
