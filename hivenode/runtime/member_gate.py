"""Who takes part in consensus, as one member sees it: whose messages it hears, and who may have its log and state.

A worker need not be trusted, and whoever claims a leader's term would have all logs; so not everybody that proved its key is
heard. Agreed state alone does not say who is: a voter that was taken out counts until the configuration is without it, and a
member that was away knows nothing of those who came meanwhile. Deaf to either, a hive whose majority lives could decide nothing.

| what this member has of the node | takes part |
|---|---|
| a revocation | no, whatever else |
| its entry, with voter right | yes |
| it is in the configuration | yes: its vote is counted |
| neither entry nor removal, but a member that takes part vouched for it | yes |
| anything else | no |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.state_view import ReadView
from hivenode.pool import nodes
from hivenode.pool.events import Event, NodeChanged, NodeRemoved, StateReplaced
from hivenode.pool.records import NodeKind, NodeRights

VOUCHED_MAX: Final = 4_096
"""As many as the leader names to a node that it takes in."""
REMEMBERED_MAX: Final = 4_096
"""Nodes with voter right that are remembered until the next change of a node; the rest are looked up for each message."""


class MemberGate:
    """See the module.

    Args:
        view: the agreed state.
        members: the nodes in the configuration, as of the same entry.
    """

    def __init__(self, view: Callable[[], ReadView], members: Callable[[], frozenset[NodeId]]) -> None:
        self._view = view
        self._members = members
        self._vouched: frozenset[NodeId] = frozenset()
        self._entitled: set[NodeId] = set()

    def takes_part(self, node: NodeId) -> bool:
        if node in self._entitled:
            return True
        view = self._view()
        if nodes.is_denied(view, node):
            return False
        entry = nodes.find_node(view, node)
        if entry is not None and entry.kind is NodeKind.HIVE and entry.rights is NodeRights.VOTER:
            if len(self._entitled) < REMEMBERED_MAX:
                self._entitled.add(node)
            return True
        return node in self._members() or node in self._vouched

    @property
    def vouched(self) -> frozenset[NodeId]:
        """Those who take part by another's word alone."""
        return self._vouched

    def is_unknown(self, node: NodeId) -> bool:
        """Whether the agreed state says nothing of the node, as of one that came while this member was away."""
        view = self._view()
        return nodes.find_node(view, node) is None and nodes.removed_incarnation(view, node) is None

    def vouch(self, named: Iterable[NodeId]) -> None:
        """A member that takes part named those that do, as far as it knows."""
        told = self._vouched | {node for node in named if self.is_unknown(node)}
        self._vouched = frozenset(sorted(told)[:VOUCHED_MAX])

    def applied(self, events: tuple[Event, ...]) -> None:
        """Takes what was applied: of a node that the agreed state knows, only that counts from then on."""
        for event in events:
            match event:
                case NodeChanged(node_id=node_id) | NodeRemoved(node_id=node_id):
                    self._vouched -= {NodeId(node_id)}
                    self._entitled.clear()
                case StateReplaced():
                    self._vouched = frozenset(node for node in self._vouched if self.is_unknown(node))
                    self._entitled.clear()
                case _:
                    pass  # Users, sessions and tasks take no part.
