"""The voter keeper: the leader's hands for `membership.voters`. It gathers the picture, asks for the next change, proposes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from hivenode.consensus import ConfChange, MemberId, RaftStatus
from hivenode.encoding.node_record import NodeId
from hivenode.errors import HiveError
from hivenode.membership.voters import Member, Place, VoterChange, VoterPolicyInput, next_change, wanted_voters
from hivenode.pool import queries
from hivenode.pool.events import Event, NodeChanged, NodeRemoved
from hivenode.pool.records import NodeEntry, NodeKind, NodeRights
from hivenode.runtime.local import member_id_of, node_of
from hivenode.runtime.replica import Replica

CHANGE_DEADLINE_S: Final = 10.0
UNSETTLED_S: Final = 0.1
"""While somebody has yet to catch up there is no event to wait for: the log's progress is looked at this often."""
SETTLED_S: Final = 5.0
"""Times of grace and stability end without an event; they are tens of seconds."""
TOLD_MS: Final = 5_000
"""A node that has just told its record is taken for alive for so long, until it is dialled."""

_log = structlog.get_logger(__name__)


class VoterKeeper:
    """See the module.

    Args:
        connected: the nodes whose message stream to or from this one stands.
        clock_ms: monotonic time.
    """

    def __init__(
        self,
        *,
        replica: Replica,
        connected: Callable[[], set[NodeId]],
        clock_ms: Callable[[], int],
    ) -> None:
        self._replica = replica
        self._connected = connected
        self._clock_ms = clock_ms
        self._wake = asyncio.Event()
        self._alive_since: dict[NodeId, int] = {}
        self._dead_since: dict[NodeId, int] = {}
        self._told_ms: dict[NodeId, int] = {}
        replica.on_leadership(self._wake.set)
        replica.subscribe(self._applied)

    def _applied(self, events: tuple[Event, ...]) -> None:
        for event in events:
            match event:
                case NodeChanged(node_id=node_id):
                    self._told_ms[NodeId(node_id)] = self._clock_ms()
                    self._wake.set()
                case NodeRemoved():
                    self._wake.set()
                case _:
                    pass  # Users, sessions and tasks have no vote.

    async def run(self) -> None:
        """Keeps the configuration as it should be until cancelled, while this node leads."""
        while True:
            self._wake.clear()
            settled = True
            if self._replica.leads and queries.hive(self._replica.view()) is not None:
                change, settled = self._look()
                if change is not None:
                    await self._propose(change)
                    settled = False
            try:
                async with asyncio.timeout(SETTLED_S if settled else UNSETTLED_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _propose(self, change: VoterChange) -> None:
        conf_change = ConfChange(
            add_voters=tuple(MemberId(member) for member in change.voters),
            add_learners=tuple(MemberId(member) for member in change.learners),
            remove=tuple(MemberId(member) for member in change.remove),
        )
        try:
            await self._replica.propose_conf_change(conf_change, deadline_s=CHANGE_DEADLINE_S)
            _log.info("members changed", voters=change.voters, learners=change.learners, removed=change.remove)
        except HiveError as error:
            _log.info("members are not changed now", reason=error.message)

    def _look(self) -> tuple[VoterChange | None, bool]:
        """The next change, and whether nothing is on its way to one."""
        status, now = self._replica.status(), self._clock_ms()
        if status.conf.voters_outgoing:
            return None, False
        view = self._replica.view()
        hive = queries.hive(view)
        entries = {entry.node_id: entry for entry in queries.nodes(view) if entry.kind is NodeKind.HIVE}
        self._note_life(set(entries), now)
        members = self._members(status, entries)
        created_ms = now - (queries.clock_ms(view) - hive.created_ms) if hive is not None else now
        given = VoterPolicyInput(
            now_ms=now, hive_created_ms=created_ms, leader=self._replica.member_id, members=tuple(members)
        )
        entitled = sum(1 for entry in entries.values() if entry.rights is NodeRights.VOTER)
        voters = len(status.conf.voters)
        return next_change(given), voters >= wanted_voters(entitled)

    def _note_life(self, nodes: set[NodeId], now: int) -> None:
        alive = self._connected() | {node_of(self._replica.member_id)}
        alive |= {node for node, told_ms in self._told_ms.items() if now - told_ms < TOLD_MS}
        for node in nodes:
            if node in alive:
                self._dead_since.pop(node, None)
                self._alive_since.setdefault(node, now)
            else:
                self._alive_since.pop(node, None)
                self._dead_since.setdefault(node, now)

    def _members(self, status: RaftStatus, entries: dict[NodeId, NodeEntry]) -> list[Member]:
        places = dict.fromkeys(status.conf.learners | status.conf.learners_next, Place.LEARNER)
        places |= dict.fromkeys(status.conf.voters, Place.VOTER)
        for entry in entries.values():
            if entry.rights is NodeRights.VOTER:
                places.setdefault(member_id_of(entry.node_id, entry.incarnation), Place.OUTSIDE)
        found = []
        for member, place in sorted(places.items()):
            node = node_of(member)
            entry_of = entries.get(node)
            progress = status.progress.get(member)
            found.append(
                Member(
                    member_id=member,
                    node_id=node,
                    place=place,
                    may_vote=entry_of is not None and entry_of.rights is NodeRights.VOTER,
                    current=entry_of is not None and member == member_id_of(node, entry_of.incarnation),
                    left=entry_of is None,
                    alive_since_ms=self._alive_since.get(node),
                    dead_since_ms=self._dead_since.get(node),
                    # Who has acknowledged nothing has nothing for certain, however short the log is.
                    match_lag=max(0, status.last_index - progress.match) if progress and progress.match else None,
                )
            )
        return found
