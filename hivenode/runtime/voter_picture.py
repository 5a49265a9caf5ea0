"""What a leader has seen of the hive's nodes, for the rule that says who votes (`membership.voters`).

Rules:
- A member of the configuration is alive while it answers: a connection may stand to a machine that is gone. For `NEW_LEADER_MS`
  a new leader takes whoever is connected for alive, since it has not listened for long enough.
- Anybody else is alive while it is connected, or has just told its record.
- A node that was taken out is looked at as well, as long as the configuration has it: its vote counts.
- Whoever does not lead sees nothing, so what an earlier leadership saw is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Final

from hivenode.consensus import MemberId, RaftStatus
from hivenode.encoding.node_record import NodeId
from hivenode.encoding.state_view import ReadView
from hivenode.membership.voters import Member, Place, VoterPolicyInput
from hivenode.pool import queries
from hivenode.pool.events import Event, NodeChanged
from hivenode.pool.records import NodeEntry, NodeKind, NodeRights

TOLD_MS: Final = 5_000
"""A node that has just told its record is taken for alive for so long, until it is dialled."""
NEW_LEADER_MS: Final = 3_000
"""Twenty heartbeats: whoever lives has answered one by then."""


class VoterPicture:
    """One for each life of a replica.

    Args:
        me: this node.
        member_of: the Raft id of a node with one log, by node and incarnation.
        node_of: the node of a Raft id.
    """

    def __init__(
        self,
        me: NodeId,
        member_of: Callable[[NodeId, str], MemberId],
        node_of: Callable[[MemberId], NodeId],
    ) -> None:
        self._me = me
        self._member_of = member_of
        self._node_of = node_of
        self._leads = False
        self._led_since_ms = 0
        self._alive_since: dict[NodeId, int] = {}
        self._dead_since: dict[NodeId, int] = {}
        self._told_ms: dict[NodeId, int] = {}

    def lead(self, leads: bool, now_ms: int) -> None:
        """To be told whether this node leads before every look."""
        if leads != self._leads:
            self._leads, self._led_since_ms = leads, now_ms
            for known in (self._alive_since, self._dead_since, self._told_ms):
                known.clear()

    def applied(self, events: tuple[Event, ...], now_ms: int) -> None:
        if not self._leads:
            return
        for event in events:
            if isinstance(event, NodeChanged):
                self._told_ms[NodeId(event.node_id)] = now_ms

    def lost(self, node: NodeId) -> None:
        """A connection ended, which may stand again before the next look."""
        self._alive_since.pop(node, None)

    def look(
        self,
        status: RaftStatus,
        view: ReadView,
        now_ms: int,
        *,
        connected: Set[NodeId],
        hears: Callable[[NodeId], bool],
    ) -> VoterPolicyInput:
        """The picture as of now.

        Args:
            connected: the nodes whose connection to or from this one stands.
            hears: whether a node has said something of consensus lately.
        """
        entries = {entry.node_id: entry for entry in queries.nodes(view) if entry.kind is NodeKind.HIVE}
        conf = status.conf.members()
        self._told_ms = {node: told for node, told in self._told_ms.items() if now_ms - told < TOLD_MS}
        listened = now_ms - self._led_since_ms >= NEW_LEADER_MS
        for node in sorted(entries.keys() | {self._node_of(member) for member in conf}):
            entry = entries.get(node)
            if entry is None or self._member_of(node, entry.incarnation) in conf:
                alive = node in connected and (hears(node) or not listened)
            else:
                alive = node in connected or node in self._told_ms
            if alive or node == self._me:
                self._dead_since.pop(node, None)
                self._alive_since.setdefault(node, now_ms)
            else:
                self._alive_since.pop(node, None)
                self._dead_since.setdefault(node, now_ms)
        hive = queries.hive(view)
        age_ms = max(0, queries.clock_ms(view) - hive.created_ms) if hive is not None else 0
        return VoterPolicyInput(
            now_ms=now_ms,
            hive_created_ms=now_ms - age_ms,
            leader=status.member_id,
            members=tuple(self._members(status, entries)),
        )

    def _members(self, status: RaftStatus, entries: dict[NodeId, NodeEntry]) -> list[Member]:
        places = dict.fromkeys(status.conf.learners | status.conf.learners_next, Place.LEARNER)
        places |= dict.fromkeys(status.conf.voters | status.conf.voters_outgoing, Place.VOTER)
        for entry in entries.values():
            if entry.rights is NodeRights.VOTER:
                places.setdefault(self._member_of(entry.node_id, entry.incarnation), Place.OUTSIDE)
        found = []
        for member, place in sorted(places.items()):
            node = self._node_of(member)
            entry_of = entries.get(node)
            progress = status.progress.get(member)
            found.append(
                Member(
                    member_id=member,
                    node_id=node,
                    place=place,
                    may_vote=entry_of is not None and entry_of.rights is NodeRights.VOTER,
                    current=entry_of is not None and member == self._member_of(node, entry_of.incarnation),
                    left=entry_of is None,
                    alive_since_ms=self._alive_since.get(node),
                    dead_since_ms=self._dead_since.get(node),
                    # Who has acknowledged nothing has nothing for certain, however short the log is.
                    match_lag=max(0, status.last_index - progress.match) if progress and progress.match else None,
                )
            )
        return found
