"""What the leader does for a machine's owner, or an operator: the order of its entries is that of `runtime.cluster`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import Record
from hivenode.errors import Code, HiveError
from hivenode.pool.commands import ApproveNode, Reply
from hivenode.pool.records import NodeRights, WayOut
from hivenode.runtime.departures import CONFIRMS_DEPARTURE, departure
from simulations.calls import Failure, OnWritten, Write, Written
from simulations.engine import SECOND

if TYPE_CHECKING:
    from simulations.node import Node
    from simulations.replica import Replica
    from simulations.steward import Steward

DEADLINE_US: Final = 10 * SECOND
"""As much as an owner's command has."""


class Cluster:
    """One for each life of a replica. What it is asked ends in a reply, or in a failure; a refusal is a failure, too."""

    def __init__(self, node: Node, replica: Replica, steward: Steward) -> None:
        self._node = node
        self._engine = node.world.engine
        self._replica = replica
        self._steward = steward
        self.departing = False
        """From the question whether the hive can do without a node to the entry by which it is out: one at a time."""

    def remove(self, node_id: NodeId, done: OnWritten) -> None:
        """Takes a machine out that its owner wants back; its daemon may end when `done` has a reply."""
        was_member = self._is_member(node_id)

        def agreed(result: Written) -> None:
            if isinstance(result, Reply) and was_member:
                self._await_departure(node_id, done)
            else:
                done(result)

        self._depart(WayOut.REMOVED, node_id, agreed)

    def revoke(self, node_id: NodeId, done: OnWritten) -> None:
        """Takes a machine out that is not trusted any more: it is not heard from then on."""
        self._depart(WayOut.REVOKED, node_id, done)

    def approve(self, node_id: NodeId, done: OnWritten) -> None:
        """Gives a machine the right to vote, or lets one in again that was revoked."""
        if self.departing:
            done(Failure(code=Code.OVERLOADED, text="another one departs"))
        else:
            self._propose(ApproveNode(node_id=node_id, rights=NodeRights.VOTER), done)

    def _depart(self, way: WayOut, node_id: NodeId, done: OnWritten) -> None:
        if self.departing:
            done(Failure(code=Code.OVERLOADED, text="another one departs"))
            return
        try:
            self._steward.refuse_departure(node_id, at_once=way is not WayOut.REMOVED)
        except HiveError as error:
            done(Failure(code=error.code, text=error.message))
            return
        if node_id == self._node.node_id:
            self._make_room()
            done(Failure(code=Code.NO_LEADER, text="the leader hands over before it goes"))
            return
        self.departing = True

        def agreed(result: Written) -> None:
            self.departing = False
            if isinstance(result, Reply) and result.refused:
                result = Failure(code=Code(result.code), text=result.message)
            done(result)

        self._propose(departure(node_id, way, self._replica.applied_index), agreed)

    def _make_room(self) -> None:
        """Lets another lead that is there, if one votes."""
        status = self._replica.status()
        connected = self._steward.connected()
        ready = [
            member
            for member in status.conf.voters - {status.member_id}
            if self._node.world.node_of(member) in connected and member in status.progress
        ]
        if ready:
            self._replica.transfer_leader(max(ready, key=lambda member: (status.progress[member].match, member)))

    def _await_departure(self, node_id: NodeId, done: OnWritten) -> None:
        """Waits until the configuration is without it, and has that confirmed."""
        end_us = self._engine.now_us + DEADLINE_US
        finished = False

        def look() -> None:
            nonlocal finished
            if finished:
                return
            if not self._is_member(node_id):
                finished = True
                # The listener runs inside the replica's own loop.
                self._node.at(self._engine.now_us, lambda: self._propose(CONFIRMS_DEPARTURE, done))
            elif self._engine.now_us >= end_us:
                finished = True
                done(Failure(code=Code.OUTCOME_UNKNOWN, text="it is off the list, and still in the configuration"))

        self._replica.leadership_listeners.append(look)
        self._node.at(end_us, look)
        look()

    def _is_member(self, node_id: NodeId) -> bool:
        return any(self._node.world.node_of(member) == node_id for member in self._replica.status().conf.members())

    def _propose(self, command: Record, done: Callable[[Written], None]) -> None:
        self._replica.propose(Write(body=command), self._engine.now_us + DEADLINE_US, done)
