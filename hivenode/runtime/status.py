"""What this node says of itself and its hive; fills the `HiveStatus` port. It tells what it knows and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hivenode.encoding.node_record import Capabilities, NodeId
from hivenode.pool import joining, queries
from hivenode.runtime.hive_life import HiveLife
from hivenode.runtime.joining import JoinDesk
from hivenode.runtime.local import LocalNode, node_of
from hivenode.runtime.ports import HivePhase, MemberStatus, StatusReport
from hivenode.runtime.replica import Replica

MAP_ALARM_PERCENT: Final = 70
"""Above this share of a database's map the operator is told."""


class NodeStatus:
    """See the module.

    Args:
        desk: knows who waits to be let in.
        sizes: for each database its name, bytes used, and size of the map.
    """

    def __init__(
        self,
        *,
        local: LocalNode,
        life: HiveLife,
        api_address: Callable[[], str],
        peer_address: Callable[[], str],
        capabilities: Callable[[], Capabilities],
        hears: Callable[[NodeId], bool],
        sizes: Callable[[], tuple[tuple[str, int, int], ...]],
        desk: JoinDesk,
    ) -> None:
        self._local = local
        self._life = life
        self._api_address = api_address
        self._peer_address = peer_address
        self._capabilities = capabilities
        self._hears = hears
        self._sizes = sizes
        self._desk = desk

    def report(self) -> StatusReport:
        local, replica = self._local, self._local.replica
        capabilities = self._capabilities()
        members = self._members(replica)
        known = local.known_leader()
        leader = known.node_id if known is not None else NodeId("")
        status = replica.status() if replica is not None else None
        counts = queries.counts(replica.view()) if replica is not None else None
        hive = queries.hive(replica.view()) if replica is not None else None
        return StatusReport(
            node_id=local.node_id,
            hive_id=local.hive_id(),
            role=local.config.role.value,
            phase=self._life.phase.value,
            version=local.version,
            api_address=self._api_address(),
            peer_address=self._peer_address(),
            peer_addresses=local.addresses,
            leader_node_id=leader,
            leader_address=next(iter(known.addresses), "") if known is not None else "",
            term=status.term if status else 0,
            commit_index=status.commit if status else 0,
            applied_index=replica.applied_index if replica else 0,
            members=members,
            nodes=counts.nodes if counts else 0,
            copies=replica.copies if replica is not None else 0,
            users=counts.users if counts else 0,
            tasks_pending=counts.tasks_pending if counts else 0,
            tasks_running=counts.tasks_running if counts else 0,
            tasks_ended=counts.tasks_ended if counts else 0,
            ledger_height=queries.ledger_head(replica.view())[0] if replica else 0,
            supply=hive.supply if hive else 0,
            executor=capabilities.executor,
            executor_note=capabilities.executor_note,
            trust=joining.trust_mode(replica.view()).value if replica is not None and hive else "",
            warnings=self._warnings(replica, members, leader),
        )

    def _members(self, replica: Replica | None) -> tuple[MemberStatus, ...]:
        if replica is None:
            return ()
        status = replica.status()
        conf = status.conf
        voters = conf.voters | conf.voters_outgoing
        found = []
        for member in sorted(voters | conf.learners | conf.learners_next):
            node = node_of(member)
            progress = status.progress.get(member)
            own = member == replica.member_id
            found.append(
                MemberStatus(
                    member_id=member,
                    node_id=node,
                    voter=member in voters,
                    match_index=progress.match if progress else (replica.applied_index if own else 0),
                    # With a leader the others talk to it alone; without one all voters ask each other for votes.
                    alive=True
                    if own or self._hears(node)
                    else (None if replica.leader and not replica.leads else False),
                )
            )
        return tuple(found)

    def _warnings(self, replica: Replica | None, members: tuple[MemberStatus, ...], leader: NodeId) -> tuple[str, ...]:
        found: list[str] = []
        if self._local.hive_id() and replica is not None and not leader:
            voters = [member for member in members if member.voter]
            unheard = [member.node_id for member in voters if not member.alive]
            found.append(
                f"the hive has no leader: {len(unheard)} of {len(voters)} voters are not heard here "
                f"({', '.join(unheard) or 'an election is under way'}); writes wait until a majority is back"
            )
        found += self._vote_warnings(replica, members)
        if self._life.phase is not HivePhase.MEMBER:
            goal = self._life.bound_for
            found.append(
                f"this node is in no hive yet: it waits for hive {goal}, which its owner named"
                if goal
                else "this node is in no hive yet: it is looking for others"
            )
            if self._life.refused:
                found.append(f"not taken in: {self._life.refused}")
        found += self._waiting(replica)
        for hive_id, address in self._life.foreign.items():
            found.append(
                f"foreign hive seen: {hive_id} at {address}; hives with data never merge by themselves, and "
                "`hivenode cluster join --abandon` moves this machine"
            )
        if shortage := self._local.shortage():
            found.append(shortage)
        elif replica is not None and replica.writing.disk_full:
            found.append("the log cannot be written: look at the disk; nothing new is accepted")
        for name, used, size in self._sizes():
            if used * 100 >= size * MAP_ALARM_PERCENT:
                found.append(f"the {name} database has used {used * 100 // size} % of its map")
        return tuple(found)

    def _waiting(self, replica: Replica | None) -> list[str]:
        """Who waits for somebody's word, as far as this node knows: strangers are known to the leader alone."""
        if replica is None:
            return []
        view = replica.view()
        waiting = self._desk.pending(view) if replica.leads else self._desk.could_vote(view)
        if not waiting:
            return []
        return [
            f"{len(waiting)} machines wait for approval, to come in or to vote: `hivenode cluster pending` lists them"
        ]

    @staticmethod
    def _vote_warnings(replica: Replica | None, members: tuple[MemberStatus, ...]) -> list[str]:
        """How far the hive is from losing its majority, as far as this node can know."""
        if replica is None:
            return []
        voters = [member for member in members if member.voter]
        if len(voters) == 1:
            return ["one machine holds every vote: start a third machine, so that the hive survives the loss of one"]
        silent = [member.node_id for member in voters if member.alive is False]
        spare = (len(voters) - 1) // 2 - len(silent)
        if not replica.leads or not silent:
            return []
        rest = "the loss of one more stops the hive" if spare == 0 else f"it survives the loss of {spare} more"
        return [f"{len(silent)} of {len(voters)} voters are silent ({', '.join(silent)}): {rest}"]
