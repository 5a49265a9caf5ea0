"""Who takes part in consensus, as one member sees it: whose messages it hears, and who may have its log and state.

A worker need not be trusted, and whoever claims a leader's term would have all logs; so not everybody that proved its key is
heard. Agreed state alone does not say who is: a voter that was taken out counts until the configuration is without it, and a
member that was away knows nothing of those who came meanwhile. Deaf to either, a hive whose majority lives could decide nothing.

| the first line that fits | takes part |
|---|---|
| the agreed state here has the node's entry, with voter right | yes |
| it is in the configuration, and the state does not say that it is kept out, as one that was revoked | yes: its vote counts |
| a member that takes part vouched for it, by a state that this member has yet to reach | yes |
| the hive named it as it let this member in, which is not in the configuration yet; the state does not keep it out | yes |
| anything else | no |

A word for others counts until this member has applied all that it rests on, and knows by itself; and while the one that gave it
takes part, be it by another's word. Nobody speaks for itself. A word counts against an entry without voter right, a removal and a
revocation, for those may be older than it: who was revoked may have been let in again since. But a revocation that is applied
after a word was given ends it, whatever index it claims to rest on.

What the hive named at the beginning is kept on disk and comes through whatever machine this one joined at, so it counts against
no revocation, and no longer than this member needs it to be brought in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from itertools import islice
from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.state_view import ReadView
from hivenode.pool import nodes
from hivenode.pool.events import Event, NodeChanged, NodeRemoved, NodeRevoked, StateReplaced
from hivenode.pool.records import NodeKind, NodeRights

NAMED_MAX: Final = 4_096
"""As many as the leader names to a node that it takes in; of more in one word the rest is passed over."""
GIVERS_MAX: Final = 64
"""Members whose words are kept, several times those of a configuration."""
REMEMBERED_MAX: Final = 4_096
"""Nodes with voter right that are remembered until the next change of a node; the rest are looked up for each message."""


@dataclass(frozen=True, slots=True)
class _Word:
    """Who takes part, as somebody says by the agreed state of `index`."""

    index: int
    named: frozenset[NodeId]


class MemberGate:
    """See the module.

    Args:
        view: the agreed state.
        members: the nodes in the configuration, as of the same entry.
        is_member: whether this member is in it, as the incarnation that it is.
        applied_index: of that entry.
    """

    def __init__(
        self,
        view: Callable[[], ReadView],
        members: Callable[[], frozenset[NodeId]],
        is_member: Callable[[], bool],
        applied_index: Callable[[], int],
    ) -> None:
        self._view = view
        self._members = members
        self._is_member = is_member
        self._applied_index = applied_index
        self._words: dict[NodeId, _Word] = {}
        self._offer: _Word | None = None
        self._entitled: set[NodeId] = set()

    def takes_part(self, node: NodeId) -> bool:
        return self._is_known(node) or node in self.vouched

    def _is_known(self, node: NodeId) -> bool:
        """Whether this member knows by itself that the node takes part."""
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
        return node in self._members()

    @property
    def vouched(self) -> Set[NodeId]:
        """Those whom another's word lets take part, among them some whom this member knows by itself."""
        if self._offer is None and not self._words:
            return frozenset()
        applied = self._applied_index()
        if self._offer is not None and (self._offer.index <= applied or self._is_member()):
            self._offer = None
        self._words = {giver: word for giver, word in self._words.items() if word.index > applied}
        offered = self._offer.named if self._offer is not None else frozenset[NodeId]()
        found = {node for node in offered if not nodes.is_denied(self._view(), node)}
        said = self._words
        unheard = {giver for giver in said if giver in found or self._is_known(giver)}
        while unheard:
            named = said[unheard.pop()].named
            unheard |= said.keys() & (named - found)
            found |= named
        return found

    def may_be_new(self, node: NodeId) -> bool:
        """Whether a node that is not heard is reason to ask at once who came while this member was away.

        One that is kept out is none, for it could call for ever; who hears no leader asks after a while in any case.
        """
        return not nodes.is_denied(self._view(), node)

    def offer(self, index: int, named: Iterable[NodeId]) -> None:
        """Takes what the hive says of who takes part, by the state of `index`, as it lets this member in."""
        self._offer = _Word(index, frozenset(islice(named, NAMED_MAX)))

    def vouch(self, by: NodeId, index: int, named: Iterable[NodeId]) -> None:
        """Takes the word of one that takes part, who has applied `index`, for those that do as well; no other's."""
        if index <= self._applied_index() or not self.takes_part(by):
            return
        if len(self._words) >= GIVERS_MAX and by not in self._words:
            heard = self.vouched
            self._words = {
                giver: word for giver, word in self._words.items() if giver in heard or self._is_known(giver)
            }
        if len(self._words) < GIVERS_MAX or by in self._words:
            self._words[by] = _Word(index, frozenset(islice(named, NAMED_MAX)) - {by})

    def applied(self, events: tuple[Event, ...]) -> None:
        """Takes what was applied. With one that is taken out goes its word, with one that is kept out all words for it too."""
        for event in events:
            match event:
                case NodeChanged():
                    self._entitled.clear()
                case NodeRemoved(node_id=node_id):
                    self._entitled.clear()
                    self._words.pop(NodeId(node_id), None)
                case NodeRevoked(node_id=node_id):
                    self._keep_out({NodeId(node_id)})
                case StateReplaced():
                    self._entitled.clear()
                    view, said = self._view(), self._words
                    named = frozenset(said).union(*(word.named for word in said.values()))
                    self._keep_out({node for node in named if nodes.is_denied(view, node)})
                case _:
                    pass  # Users, sessions and tasks take no part.

    def _keep_out(self, out: Set[NodeId]) -> None:
        self._words = {
            giver: _Word(word.index, word.named - out) for giver, word in self._words.items() if giver not in out
        }
