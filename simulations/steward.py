"""The leader's care for the configuration: shows the production rule who is there, and proposes what it wants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hivenode.consensus import ConfChange, MemberId, RaftStatus
from hivenode.membership.voters import Member, Place, VoterPolicyInput, next_change
from hivenode.pool import queries
from hivenode.pool.records import NodeEntry, NodeKind, NodeRights
from simulations.calls import Write
from simulations.engine import MS, SECOND

if TYPE_CHECKING:
    from simulations.node import Node
    from simulations.replica import Replica

LOOK_US: Final = 500 * MS
DEADLINE_US: Final = 10 * SECOND
SILENT_MS: Final = 3_000
"""A member that was not heard for two checks of the quorum does not answer."""


class Steward:
    """One for each life of a replica."""

    def __init__(self, node: Node, replica: Replica) -> None:
        self._node = node
        self._engine = node.world.engine
        self._replica = replica
        self._busy = False
        self._leading = False
        self._heard_ms: dict[MemberId, int] = {}
        self._alive_ms: dict[MemberId, int] = {}
        self._dead_ms: dict[MemberId, int] = {}
        self._look()

    def _look(self) -> None:
        self._node.at(self._engine.now_us + LOOK_US, self._look)
        if self._replica.leads != self._leading:
            self._leading = self._replica.leads
            for known in (self._heard_ms, self._alive_ms, self._dead_ms):
                known.clear()
        if not self._leading:
            return
        status = self._replica.status()
        hive = queries.hive(self._replica.view)
        members = self._members(status)
        if self._busy or status.conf.is_joint or hive is None:
            return
        clock = self._node.clock
        change = next_change(
            VoterPolicyInput(
                now_ms=clock.monotonic_ms(),
                hive_created_ms=clock.monotonic_ms() - max(0, clock.wall_ms() - hive.created_ms),
                leader=status.member_id,
                members=members,
            )
        )
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
        self._replica.propose(Write(body=body), self._engine.now_us + DEADLINE_US, lambda _result: self._done())

    def _done(self) -> None:
        self._busy = False

    def _members(self, status: RaftStatus) -> tuple[Member, ...]:
        entries = {
            MemberId(f"{self._node.world.names[entry.node_id]}.{entry.incarnation}"): entry
            for entry in queries.nodes(self._replica.view)
            if entry.kind is NodeKind.HIVE
        }
        entitled = {member for member, entry in entries.items() if entry.rights is NodeRights.VOTER}
        named = sorted(entitled | status.conf.members())
        return tuple(self._member(member, entries.get(member), entries, status) for member in named)

    def _member(
        self, member: MemberId, entry: NodeEntry | None, entries: dict[MemberId, NodeEntry], status: RaftStatus
    ) -> Member:
        name = member.partition(".")[0]
        self._hear(member, name, status)
        node_id = self._node.world.nodes[name].node_id
        newest = entry or next((other for other in entries.values() if other.node_id == node_id), None)
        progress = status.progress.get(member)
        place = Place.OUTSIDE
        if status.conf.is_voter(member):
            place = Place.VOTER
        elif member in status.conf.members():
            place = Place.LEARNER
        return Member(
            member_id=member,
            node_id=node_id,
            place=place,
            may_vote=newest is not None and newest.rights is NodeRights.VOTER,
            current=entry is not None,
            left=newest is None,
            alive_since_ms=self._alive_ms.get(member),
            dead_since_ms=self._dead_ms.get(member),
            # One that never acknowledged anything may have no log at all, however short the leader's is.
            match_lag=max(0, status.last_index - progress.match) if progress is not None and progress.match else None,
        )

    def _hear(self, member: MemberId, name: str, status: RaftStatus) -> None:
        now_ms = self._node.clock.monotonic_ms()
        progress = status.progress.get(member)
        if progress is not None:
            heard = member == status.member_id or progress.recent_active
        else:
            # Whoever is outside the configuration is known by its connection alone.
            other = self._node.world.nodes[name]
            heard = other.alive and not other.paused and self._node.reaches(other)
        if heard:
            self._heard_ms[member] = now_ms
        if now_ms - self._heard_ms.setdefault(member, now_ms) < SILENT_MS:
            self._dead_ms.pop(member, None)
            self._alive_ms.setdefault(member, now_ms)
        else:
            self._alive_ms.pop(member, None)
            self._dead_ms.setdefault(member, now_ms)
