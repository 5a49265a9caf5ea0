"""The leader's care for the configuration: the production picture and rule, and proposals of what they want."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hivenode.consensus import ConfChange, MemberId
from hivenode.encoding.node_record import NodeId
from hivenode.membership.voters import VoterPolicyInput, next_change
from hivenode.pool import queries
from hivenode.pool.nodes import is_denied
from hivenode.runtime.departures import refuse_departure
from hivenode.runtime.voter_picture import VoterPicture
from simulations.calls import Write
from simulations.engine import MS, SECOND

if TYPE_CHECKING:
    from simulations.node import Node
    from simulations.replica import Replica

LOOK_US: Final = 500 * MS
DEADLINE_US: Final = 10 * SECOND


class Steward:
    """One for each life of a replica."""

    def __init__(self, node: Node, replica: Replica) -> None:
        self._node = node
        self._engine = node.world.engine
        self._replica = replica
        self._busy = False
        self._picture = VoterPicture(node.node_id, node.world.member_of, node.world.node_of)
        replica.leadership_listeners.append(
            lambda: self._picture.lead(self._replica.leads, self._node.clock.monotonic_ms())
        )
        replica.listeners.append(lambda events: self._picture.applied(events, self._node.clock.monotonic_ms()))
        self._look_again()

    def refuse_departure(self, node: NodeId, *, at_once: bool) -> None:
        """As `VoterKeeper.refuse_departure`."""
        is_joint = self._replica.status().conf.is_joint
        refuse_departure(self._seen(), node, is_joint=is_joint, at_once=at_once)

    def connected(self) -> set[NodeId]:
        """Whose connection stands: that a process stands still shows by its silence alone.

        One that has lost its disk has no hive, and proves itself for none; who was revoked is cut off.
        """
        node, view = self._node, self._replica.view
        hive_id = node.disk.log.hive_id
        present = (other for other in node.world.alive() if other.disk.log.hive_id == hive_id and node.reaches(other))
        return {other.node_id for other in present if not is_denied(view, other.node_id)}

    def _look_again(self) -> None:
        self._node.at(self._engine.now_us + LOOK_US, self._look_again)
        replica = self._replica
        if not replica.leads or self._busy or replica.conf.is_joint or queries.hive(replica.view) is None:
            return
        change = next_change(self._seen())
        if change is None:
            return
        self._busy = True
        self._engine.note(
            f"{self._node.name} wants voters {change.voters} learners {change.learners} out {change.remove}"
        )
        body = ConfChange(
            add_voters=tuple(map(MemberId, change.voters)),
            add_learners=tuple(map(MemberId, change.learners)),
            remove=tuple(map(MemberId, change.remove)),
        )
        replica.propose(Write(body=body), self._engine.now_us + DEADLINE_US, lambda _result: self._done())

    def _done(self) -> None:
        self._busy = False

    def _seen(self) -> VoterPolicyInput:
        node = self._node
        return self._picture.look(
            self._replica.status(),
            self._replica.view,
            node.clock.monotonic_ms(),
            connected=self.connected(),
            hears=node.hearing.has_heard,
        )
