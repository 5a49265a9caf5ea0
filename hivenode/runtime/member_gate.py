"""Who takes part in consensus, as one member sees it: whose messages it hears, and who may have its log and state.

A worker need not be trusted, and whoever claims a leader's term would have all logs; so not everybody that proved its key is
heard. Agreed state alone does not say who is: a voter that was taken out counts until the configuration is without it, and a
member that was away knows nothing of those who came meanwhile. Deaf to either, a hive whose majority lives could decide nothing.

| the first line that fits | takes part |
|---|---|
| a member that takes part vouched for the node, by a state that this member has yet to reach | yes |
| the agreed state here says that it is kept out, as one that was revoked | no |
| it has the node's entry, with voter right | yes |
| the node is in the configuration | yes: its vote is counted |
| anything else | no |

A word for somebody counts until this member has applied all that it rests on, and knows by itself; and not longer than the one
that gave it takes part. It counts against an entry without voter right, a removal and a revocation, for those may be older than
it: who was revoked may have been let in again since. But a revocation that is applied after the word was given ends it, whatever
index it claims to rest on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.state_view import ReadView
from hivenode.pool import nodes
from hivenode.pool.events import Event, NodeChanged, NodeRemoved, NodeRevoked, StateReplaced
from hivenode.pool.records import NodeKind, NodeRights

VOUCHED_MAX: Final = 4_096
"""As many as the leader names to a node that it takes in."""
REMEMBERED_MAX: Final = 4_096
"""Nodes with voter right that are remembered until the next change of a node; the rest are looked up for each message."""


@dataclass(frozen=True, slots=True)
class _Word:
    """Somebody's word for a node: whose, and the index of the agreed state that it rests on."""

    by: NodeId
    index: int


class MemberGate:
    """See the module.

    Args:
        view: the agreed state.
        members: the nodes in the configuration, as of the same entry.
        applied_index: of that entry.
    """

    def __init__(
        self,
        view: Callable[[], ReadView],
        members: Callable[[], frozenset[NodeId]],
        applied_index: Callable[[], int],
    ) -> None:
        self._view = view
        self._members = members
        self._applied_index = applied_index
        self._words: dict[NodeId, _Word] = {}
        self._entitled: set[NodeId] = set()

    def takes_part(self, node: NodeId) -> bool:
        if node in self._entitled:
            return True
        if node in self.vouched:
            return True
        view = self._view()
        if nodes.is_denied(view, node):
            return False
        entry = nodes.find_node(view, node)
        if entry is not None and entry.kind is NodeKind.HIVE and entry.rights is NodeRights.VOTER:
            if len(self._entitled) < REMEMBERED_MAX:
                self._entitled.add(node)
            return True
        return node in self._members()

    @property
    def vouched(self) -> Set[NodeId]:
        """Those whom another's word lets take part."""
        if self._words:
            applied = self._applied_index()
            self._words = {node: word for node, word in self._words.items() if word.index > applied}
        return self._words.keys()

    def may_be_new(self, node: NodeId) -> bool:
        """Whether a node that takes no part may do so by what was agreed while this member was away."""
        return not nodes.is_denied(self._view(), node)

    def vouch(self, by: NodeId, index: int, named: Iterable[NodeId]) -> None:
        """Takes the word of one that takes part, who has applied `index`, for those that do as well."""
        if index <= self._applied_index():
            return
        for node in named:
            if len(self._words) < VOUCHED_MAX or node in self._words:
                known = self._words.get(node)
                self._words[node] = _Word(by, index if known is None else max(index, known.index))

    def applied(self, events: tuple[Event, ...]) -> None:
        """Takes what was applied. With one that is taken out goes its word, and the word of those it alone spoke for."""
        gone = set[NodeId]()
        for event in events:
            match event:
                case NodeChanged():
                    self._entitled.clear()
                case NodeRemoved(node_id=node_id):
                    self._entitled.clear()
                    gone.add(NodeId(node_id))
                case NodeRevoked(node_id=node_id):
                    self._words.pop(NodeId(node_id), None)
                case StateReplaced():
                    self._entitled.clear()
                    view = self._view()
                    self._words = {node: word for node, word in self._words.items() if not nodes.is_denied(view, node)}
                    gone |= {word.by for word in self._words.values() if not self.takes_part(word.by)}
                case _:
                    pass  # Users, sessions and tasks take no part.
        while gone:
            dropped = {node for node, word in self._words.items() if word.by in gone}
            for node in dropped:
                del self._words[node]
            gone = {node for node in dropped if not self.takes_part(node)}
