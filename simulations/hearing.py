"""Whom one machine listens to: whose messages of consensus it takes, and whose calls that only members may make."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from hivenode.encoding.node_record import NodeId
from hivenode.pool import queries
from hivenode.pool.records import NodeKind
from hivenode.runtime.member_gate import MemberGate
from hivenode.runtime.peer_host import HEARD_MS

if TYPE_CHECKING:
    from simulations.node import Node
    from simulations.replica import Replica


class Hearing:
    """The production gate of one machine, while its process holds the log; without a log it takes no message of consensus."""

    def __init__(self, node: Node) -> None:
        self._node: Final = node
        self._gate: MemberGate | None = None
        self._heard_ms: dict[NodeId, int] = {}

    def begin(self, replica: Replica) -> None:
        """The process holds the log from now on."""
        node, world = self._node, self._node.world
        self._gate = gate = MemberGate(
            node.node_id,
            node.disk.log.incarnation,
            view=lambda: replica.view,
            members=lambda: frozenset(map(world.node_of, replica.conf.members())),
            is_member=lambda: replica.member_id in replica.conf.members(),
            applied_index=lambda: replica.applied_index,
        )
        self.note_offer()
        replica.listeners.append(gate.applied)

    def forget(self) -> None:
        """The process is gone, and with it what it heard."""
        self._gate = None
        self._heard_ms.clear()

    def takes_part(self, other: Node) -> bool:
        """Whether this member hears what the other says of consensus, and gives it log and state."""
        return self._gate is not None and self._gate.takes_part(other.node_id)

    def admits(self, other: Node) -> bool:
        """As `LocalNode.admits`: whether this member of the hive takes calls of the other that only members may make."""
        replica = self._node.replica
        if replica is None:
            return True
        entry = queries.node(replica.view, other.node_id)
        return (entry is not None and entry.kind is NodeKind.HIVE) or self.takes_part(other)

    def hears_message(self, source: str) -> bool:
        """Whether a message of the core is taken; a peer that the agreed state does not know is asked about."""
        node = self._node
        gate, node_id = self._gate, node.world.nodes[source].node_id
        if gate is None:
            return False
        if gate.takes_part(node_id):
            self._heard_ms[node_id] = node.clock.monotonic_ms()
            return True
        if node.life is not None and gate.may_be_new(node_id):
            node.life.unheard_called()
        return False

    def has_heard(self, node_id: NodeId) -> bool:
        """Whether another has said something of consensus lately."""
        return self._node.clock.monotonic_ms() - self._heard_ms.get(node_id, -HEARD_MS) < HEARD_MS

    def vouch(self, by: NodeId, index: int, named: Iterable[NodeId]) -> None:
        """A member that takes part named those that do."""
        if self._gate is not None:
            self._gate.vouch(by, index, named)

    def note_offer(self) -> None:
        """What the leader named as it let this machine in; also after a restart, for it is on the machine's disk."""
        node = self._node
        if self._gate is not None and node.roster is not None:
            self._gate.offer(node.roster.index, (node.roster.leader.node_id, *node.roster.voters))
