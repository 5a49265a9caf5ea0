"""Who takes part in consensus, as one member sees it: whose messages it hears, and who may have its log and state.

A worker need not be trusted, and whoever claims a leader's term would have all logs; so not everybody that proved its key is
heard. Agreed state alone does not say who is: a voter that was taken out counts until the configuration is without it, and a
member that was away knows nothing of those who came meanwhile. Deaf to either, a hive whose majority lives could decide nothing.

| the first line that fits | takes part |
|---|---|
| the agreed state here has the node's entry, with voter right | yes |
| it is in the configuration, and the state does not say that it is kept out, as one that was revoked | yes: its vote counts |
| a member that takes part vouched for it, by a state that this member has yet to reach | yes |
| the hive named it to this member, which is not in the configuration; no state of after that keeps it out | yes |
| anything else | no |

A word for others counts until this member has applied all that it rests on, and knows by itself; and while the one that gave it
takes part, be it by another's word. Nobody speaks for itself. A word counts against an entry without voter right, a removal and a
revocation, for those may be older than it: who was revoked may have been let in again since. But a revocation that is applied
after a word was given ends it, whatever index it claims to rest on.

What the hive named to one that came is kept on disk, and passed through whatever machine was asked, which could put in itself. So
it counts only while the configuration is without this member, and neither it nor a word that hangs on it counts against a
revocation that is newer than this member's own admission.
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
        myself, incarnation: this member's node, and which life of it with one log it is.
        view: the agreed state.
        members: the nodes in the configuration, as of the same entry.
        is_member: whether this member is in it, as the incarnation that it is.
        applied_index: of that entry.
    """

    def __init__(
        self,
        myself: NodeId,
        incarnation: str,
        *,
        view: Callable[[], ReadView],
        members: Callable[[], frozenset[NodeId]],
        is_member: Callable[[], bool],
        applied_index: Callable[[], int],
    ) -> None:
        self._myself, self._incarnation = myself, incarnation
        self._view = view
        self._members = members
        self._is_member = is_member
        self._applied_index = applied_index
        self._words: dict[NodeId, _Word] = {}
        self._offer = _Word(0, frozenset())
        self._entitled: set[NodeId] = set()
        self._reached: tuple[int, Set[NodeId]] | None = None
        """Those who hang on words, and as of which entry; None when it has to be found out."""

    def takes_part(self, node: NodeId) -> bool:
        return self._is_known(node) or self._is_offered(node) or node in self._hanging()

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

    def _is_offered(self, node: NodeId) -> bool:
        return node in self._offer.named and self._offer_counts() and not self._is_barred(node)

    def _offer_counts(self) -> bool:
        return self._offer.index > self._applied_index() and not self._is_member()

    def _is_barred(self, node: NodeId) -> bool:
        """Whether a node is kept out by a state of after this member was admitted: what the hive said as it came is older."""
        view = self._view()
        if not nodes.is_denied(view, node):
            return False
        mine = nodes.find_node(view, self._myself)
        incarnation = mine.incarnation if mine is not None else nodes.removed_incarnation(view, self._myself)
        return incarnation == self._incarnation

    def _hanging(self) -> Set[NodeId]:
        """Those who take part by words alone, among others who do so anyhow."""
        applied = self._applied_index()
        if self._reached is None or self._reached[0] != applied:
            self._words = {giver: word for giver, word in self._words.items() if word.index > applied}
            found = self._reach(filter(self._is_known, self._words), lambda node: False)
            if self._offer_counts():
                found |= self._reach(filter(self._is_offered, self._words), self._is_barred)
            self._reached = applied, found
        return self._reached[1]

    def _reach(self, roots: Iterable[NodeId], is_barred: Callable[[NodeId], bool]) -> set[NodeId]:
        """Whom the roots name, and those name in turn, but for who is barred."""
        found, said = set[NodeId](), self._words
        unheard = set(roots)
        while unheard:
            named = {node for node in said[unheard.pop()].named - found if not is_barred(node)}
            unheard |= said.keys() & named
            found |= named
        return found

    def vouched(self) -> Set[NodeId]:
        """Those whom others named, of whom some may not be heard."""
        return self._hanging() | (self._offer.named if self._offer_counts() else frozenset())

    def may_be_new(self, node: NodeId) -> bool:
        """Whether a node that is not heard is reason to ask at once who came while this member was away.

        One that is kept out is none, for it could call for ever; who hears no leader asks after a while in any case.
        """
        return not nodes.is_denied(self._view(), node)

    def offer(self, index: int, named: Iterable[NodeId]) -> None:
        """Takes what the hive says to this member of who takes part, by the state of `index`.

        It takes the place of words of less, but for those of members that this one knows by itself.
        """
        self._offer = _Word(index, frozenset(islice(named, NAMED_MAX)))
        self._words = {
            giver: word for giver, word in self._words.items() if word.index > index or self._is_known(giver)
        }
        self._reached = None

    def vouch(self, by: NodeId, index: int, named: Iterable[NodeId]) -> None:
        """Takes the word of one that takes part, who has applied `index`, for those that do as well; no other's."""
        if index <= self._applied_index() or not self.takes_part(by):
            return
        if by in self._words or self._has_room(by):
            self._words[by] = _Word(index, frozenset(islice(named, NAMED_MAX)) - {by})
            self._reached = None

    def _has_room(self, giver: NodeId) -> bool:
        """Makes room for a word: those that do not count go, and for the word of one that is known that of one that is not."""
        if len(self._words) < GIVERS_MAX:
            return True
        self._words = {giver: word for giver, word in self._words.items() if self.takes_part(giver)}
        if len(self._words) < GIVERS_MAX:
            return True
        unknown = next((other for other in self._words if not self._is_known(other)), None)
        if unknown is None or not self._is_known(giver):
            return False
        del self._words[unknown]
        return True

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
                    self._words.pop(NodeId(node_id), None)
                    self._words = {
                        giver: _Word(word.index, word.named - {node_id}) for giver, word in self._words.items()
                    }
                case StateReplaced():
                    # Who was kept out in between is not told, so what still counts is asked for anew.
                    self._entitled.clear()
                    self._words.clear()
                case _:
                    pass  # Users, sessions and tasks take no part.
        self._reached = None
