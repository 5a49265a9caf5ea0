"""What the owner of a machine does with the hive: take a node out, leave, hand leadership over, copy the state.

Fills `ClusterControl`.

Rules:
- The owner of this machine asks, or an operator. What the leader must do it is asked for as one member asks another.
- A node that leads hands leadership over before it goes; the only voter makes a learner a voter for that first.
- A voter goes only while those that remain can decide without it. Its vote counts until a majority of them knows for good that
  the configuration is without it, so its daemon goes on until the leader tells it so: what it has applied itself is not enough.
  Only a revoked one is not heard any more, so there the others must be a majority without it.
- A node is out when the hive's list and the configuration are without it. What it has on disk stays, and is of no use to it:
  the hive takes it back with an empty data directory only.
- A node goes one way: it leaves for good, or it goes to another hive. Of two that are asked for at once the second is refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Final

import structlog

from hivenode.consensus import ConfChange, MemberId
from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.join_token import (
    MEMBERS_MAX,
    SEED_BYTES,
    JoinToken,
    TokenMember,
    key_hash,
    read_token,
    write_token,
)
from hivenode.encoding.node_record import NODE_ID_CHARACTERS, NodeId
from hivenode.encoding.records import Record
from hivenode.encoding.recovery import base_of
from hivenode.errors import Code, HiveError
from hivenode.identity import identity_of
from hivenode.pool import nodes, queries
from hivenode.pool.commands import ApproveNode, CreateJoinToken, DenyNode, DropForeignWorkers
from hivenode.pool.records import NodeEntry, NodeKind, NodeRights, WayOut
from hivenode.runtime.departures import CONFIRMS_DEPARTURE, departure
from hivenode.runtime.joining import JoinDesk
from hivenode.runtime.local import LocalNode, node_of
from hivenode.runtime.ports import (
    ClusterAction,
    ClusterAnswer,
    ClusterOrder,
    HivePhase,
    Introduction,
    MadeCopy,
    PeerNetwork,
)
from hivenode.runtime.replica import Replica
from hivenode.runtime.requests import accepted
from hivenode.runtime.voter_keeper import VoterKeeper

HANDOVER_DEADLINE_S: Final = 1.0
"""A transfer of leadership takes two round trips."""
INTRODUCE_DEADLINE_S: Final = 3.0
LEAVES: Final = "is leaving its hive"
MOVES: Final = "is on its way to another hive"

_log = structlog.get_logger(__name__)


class HiveCluster:
    """See the module.

    Args:
        connected: the nodes whose message stream to or from this one stands.
        keeper: the keeper of the voters, None on a node that is no replica.
        left: called once this node has left its hive for good; raises nothing that the disk says.
        moves: called to start this node anew in another hive, by id, address and join token; what it has is kept beside. At most
            one of both is done, once.
        desk: knows who waits to be let in.
    """

    def __init__(
        self,
        *,
        local: LocalNode,
        peers: PeerNetwork,
        connected: Callable[[], Set[NodeId]],
        keeper: Callable[[], VoterKeeper | None],
        left: Callable[[], None],
        moves: Callable[[str, str, str], None],
        desk: JoinDesk,
    ) -> None:
        self._local = local
        self._peers = peers
        self._connected = connected
        self._keeper = keeper
        self._left = left
        self._moves = moves
        self._desk = desk
        self._way = ""
        """What an owner's call has this node do, or what it does for good."""
        self._is_decided = False
        """Whether it does that for good: its life ends."""
        self._is_out = False
        self._departures = asyncio.Lock()
        """From the question whether the hive can do without a node to the entry by which it is out: one at a time.

        It spares the second of two a refusal; that the two are not decided on the same state is the entry's to see to."""

    # --- what the owner asks ---------------------------------------------------------------------------------------

    async def remove(self, node: str, deadline_s: float) -> str:
        return (await self._order(ClusterOrder(action=ClusterAction.REMOVE, node=node), deadline_s)).node

    async def hand_leadership(self, node: str, deadline_s: float) -> str:
        return (await self._order(ClusterOrder(action=ClusterAction.TRANSFER, node=node), deadline_s)).node

    async def manage(self, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        return await self._order(order, deadline_s)

    async def create_token(self, rights: NodeRights, lifetime_ms: int, deadline_s: float) -> tuple[str, int]:
        replica = self._local.replica
        if replica is None or queries.hive(replica.view()) is None:
            raise HiveError(Code.NOT_A_MEMBER, "this node holds no copy of the hive's state: ask another machine")
        seed = secrets.token_bytes(SEED_BYTES)
        order = ClusterOrder(
            action=ClusterAction.TOKEN,
            node=key_hash(identity_of(seed).public_key),
            rights=rights,
            lifetime_ms=lifetime_ms,
        )
        expires_ms = (await self._order(order, deadline_s)).expires_ms
        known = [TokenMember(node_id=self._local.node_id, address=address) for address in self._local.addresses[:1]]
        known += [
            TokenMember(node_id=entry.node_id, address=entry.addresses[0])
            for entry in queries.nodes(replica.view())
            if entry.rights is NodeRights.VOTER and entry.addresses and entry.node_id != self._local.node_id
        ]
        token = JoinToken(
            hive_id=self._local.hive_id(),
            seed=seed,
            rights=rights.value,
            expires_ms=expires_ms,
            members=tuple(known[:MEMBERS_MAX]),
        )
        return write_token(token), expires_ms

    async def join_by_token(self, token: str, abandon: bool, deadline_s: float) -> str:
        try:
            read = read_token(token)
        except DecodeError as error:
            raise HiveError(Code.INVALID_ARGUMENT, str(error)) from None
        failure = HiveError(Code.NODE_OFFLINE, "the join token names no machine")
        for member in read.members:
            try:
                intro = await self._peers.introduce(member.address, min(deadline_s, INTRODUCE_DEADLINE_S))
            except HiveError as error:
                failure = error
                continue
            if intro.record.node_id != member.node_id or base_of(intro.hive_id) != base_of(read.hive_id):
                failure = HiveError(Code.PEER_REJECTED, f"{member.address} is not the machine that the token names")
                continue
            return await self._go_to(intro, member.address, abandon, deadline_s, token)
        raise failure

    async def leave(self, deadline_s: float) -> None:
        with self._one_way(LEAVES):
            await self._go_out(deadline_s)

    async def move(self, address: str, abandon: bool, deadline_s: float) -> str:
        intro = await self._peers.introduce(address, min(deadline_s, INTRODUCE_DEADLINE_S))
        return await self._go_to(intro, address, abandon, deadline_s, "")

    async def _go_to(self, intro: Introduction, address: str, abandon: bool, deadline_s: float, token: str) -> str:
        own = self._local.hive_id()
        if not intro.hive_id or intro.phase is not HivePhase.MEMBER:
            raise HiveError(
                Code.INVALID_ARGUMENT, f"the machine at {address} is in no hive yet: start it, and ask again"
            )
        if own and base_of(intro.hive_id) == base_of(own):
            raise HiveError(Code.INVALID_ARGUMENT, f"the machine at {address} is of this node's own hive")
        if own and not abandon:
            raise HiveError(
                Code.INVALID_ARGUMENT,
                f"this node is in hive {own}; say --abandon to give up what it has there, and join {intro.hive_id}",
            )
        with self._one_way(MOVES):
            if own:
                await self._give_up(deadline_s)
            self._moves(intro.hive_id, address, token)
            self._is_decided = True
        return intro.hive_id

    @contextmanager
    def _one_way(self, way: str) -> Iterator[None]:
        """For an owner's call that has this node go. Raises INVALID_ARGUMENT when it goes already; a code that has the call
        repeated might take this node out of the hive that it was on its way to."""
        if self._way:
            raise HiveError(Code.INVALID_ARGUMENT, f"this node {self._way}: wait for it, and look at `hivenode status`")
        self._way = way
        try:
            yield
        finally:
            # Also when the owner does not wait any longer: nobody goes on with the move, and the hive may let this node go yet.
            if not self._is_decided:
                self._way = ""
                if self._is_out:
                    self.taken_out()

    async def _give_up(self, deadline_s: float) -> None:
        """The others shall not wait for this node's vote. Alone, or with others that cannot take over, it just goes."""
        try:
            await self._go_out(deadline_s)
        except HiveError as error:
            if error.code is not Code.INVALID_ARGUMENT:
                raise

    async def _go_out(self, deadline_s: float) -> None:
        try:
            await self.remove(self._local.node_id, deadline_s)
        except HiveError:
            # The answer may be lost, or another call have taken it out beside.
            if not self._is_out:
                raise
        self._is_out = True

    async def snapshot(self) -> MadeCopy:
        replica = self._local.replica
        if replica is None:
            raise HiveError(Code.NOT_A_MEMBER, "this node holds no copy of the hive's state")
        made = await replica.make_snapshot()
        return MadeCopy(
            path=made.path,
            index=made.meta.index,
            term=made.meta.term,
            size_bytes=made.ref.size_bytes,
            sha256=made.ref.sha256,
        )

    async def _order(self, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        replica = self._local.replica
        if replica is not None and replica.leads:
            order = self._as_meant(replica, order)
            leaving = order.action in (ClusterAction.REMOVE, ClusterAction.REVOKE)
            going = self._resolve(replica, order.node) if leaving else None
            if going is None or going.node_id != self._local.node_id:
                return await self.carry_out(order, deadline_s)
            self._refuse_departure(replica, order, self._local.node_id)
            await self._make_room(replica, deadline_s)
        leader = await self._local.leader(deadline_s)
        return await self._peers.manage_hive(leader, order, deadline_s)

    # --- at the leader ---------------------------------------------------------------------------------------------

    async def carry_out(self, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        """Does what a member asks. Raises NO_LEADER, NODE_NOT_FOUND, INSUFFICIENT_RESOURCES, INVALID_ARGUMENT."""
        replica = self._local.replica
        if replica is None or not replica.leads:
            raise HiveError(Code.NO_LEADER, "this node does not lead; ask again")
        order = self._as_meant(replica, order)
        match order.action:
            case ClusterAction.PENDING:
                return ClusterAnswer(pending=self._desk.pending(replica.view()))
            case ClusterAction.TOKEN:
                command = CreateJoinToken(key_hash=order.node, rights=order.rights, lifetime_ms=order.lifetime_ms)
                made = accepted(await replica.propose(command, deadline_s=deadline_s))
                _log.warning("a join token was made", rights=order.rights.value, expires_ms=made.number)
                return ClusterAnswer(node=order.node, expires_ms=made.number)
            case ClusterAction.APPROVE | ClusterAction.DENY:
                return await self._decide(replica, order, deadline_s)
        entry = self._resolve(replica, order.node)
        if entry.kind is NodeKind.FOREIGN:
            return await self._drop(replica, order, entry, deadline_s)
        node = entry.node_id
        match order.action:
            case ClusterAction.TRANSFER:
                await self._hand_over(replica, self._voter_of(replica, node))
            case ClusterAction.REVOKE:
                async with self._departures:
                    decided_at = await self._see_off(replica, order, node, deadline_s)
                    # One that was removed while this waited for its turn is to be kept out all the same.
                    is_in = queries.node(replica.view(), node) is not None
                    revoke = departure(node, WayOut.REVOKED if is_in else WayOut.DENIED, decided_at)
                    accepted(await replica.propose(revoke, deadline_s=deadline_s))
                _log.warning("node revoked", node=node)
            case ClusterAction.REMOVE:
                async with self._departures:
                    decided_at = await self._see_off(replica, order, node, deadline_s)
                    was_member = self._is_member(replica, node)
                    remove = departure(node, WayOut.REMOVED, decided_at)
                    accepted(await replica.propose(remove, deadline_s=deadline_s))
                _log.info("node removed", node=node)
                if was_member:
                    await self._await_departure(replica, node, deadline_s)
        return ClusterAnswer(node=node)

    @staticmethod
    async def _drop(replica: Replica, order: ClusterOrder, entry: NodeEntry, deadline_s: float) -> ClusterAnswer:
        """Takes a user's worker off the list. Raises INVALID_ARGUMENT when something else is wanted of it."""
        if order.action is not ClusterAction.REMOVE:
            raise HiveError(
                Code.INVALID_ARGUMENT,
                f"{entry.node_id} is a worker that {entry.owner} registered, and no machine of the hive: it can be removed",
            )
        drop = DropForeignWorkers(node_ids=(entry.node_id,))
        accepted(await replica.propose(drop, deadline_s=deadline_s))
        _log.info("a user's worker was taken off the list", node=entry.node_id, owner=entry.owner)
        return ClusterAnswer(node=entry.node_id)

    async def _see_off(self, replica: Replica, order: ClusterOrder, node: NodeId, deadline_s: float) -> int:
        """Returns when the node may be taken out by this one; as `_refuse_departure`. Raises INVALID_ARGUMENT, NO_LEADER, too."""
        decided_at = self._refuse_departure(replica, order, node)
        if node == self._local.node_id:
            await self._make_room(replica, deadline_s)
            raise HiveError(Code.NO_LEADER, "the leader handed over before it goes; ask again")
        return decided_at

    def _refuse_departure(self, replica: Replica, order: ClusterOrder, node: NodeId) -> int:
        """The last entry that was applied when it was decided that the node may go. Raises INSUFFICIENT_RESOURCES, OVERLOADED."""
        keeper = self._keeper()
        if keeper is not None:
            keeper.refuse_departure(node, at_once=order.action is not ClusterAction.REMOVE)
        return replica.applied_index

    async def _decide(self, replica: Replica, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        """About a machine that waits, or one that did: the whole id may name it before it has asked."""
        waiting = [node.node_id for node in self._desk.pending(replica.view()) if node.node_id.startswith(order.node)]
        if len(waiting) > 1:
            raise HiveError(Code.INVALID_ARGUMENT, f"{len(waiting)} machines that wait begin with {order.node[:64]}")
        if not waiting and len(order.node) != NODE_ID_CHARACTERS:
            raise HiveError(Code.NODE_NOT_FOUND, f"no machine that waits begins with {order.node[:64]}")
        node = waiting[0] if waiting else NodeId(order.node)
        approves = order.action is ClusterAction.APPROVE
        command: Record = ApproveNode(node_id=node, rights=order.rights) if approves else DenyNode(node_id=node)
        async with self._departures:
            if not approves and self._is_member(replica, node):
                # One that was removed, and whose vote still counts: it is not heard any more from then on.
                command = departure(node, WayOut.DENIED, self._refuse_departure(replica, order, node))
            accepted(await replica.propose(command, deadline_s=deadline_s))
        _log.warning("a machine was approved" if approves else "a machine was denied", node=node)
        return ClusterAnswer(node=node)

    async def _await_departure(self, replica: Replica, node: NodeId, deadline_s: float) -> None:
        """Returns when a member can do no more harm by ending than one that was never there. Raises OUTCOME_UNKNOWN."""
        try:
            async with asyncio.timeout(deadline_s):
                await replica.until(lambda: not self._is_member(replica, node))
        except TimeoutError:
            raise HiveError(
                Code.OUTCOME_UNKNOWN, f"{node} is off the list, and still in the configuration: look at the members"
            ) from None
        await replica.propose(CONFIRMS_DEPARTURE, deadline_s=deadline_s)

    async def _make_room(self, replica: Replica, deadline_s: float) -> None:
        """Lets another lead. Raises INVALID_ARGUMENT when there is no other."""
        status = replica.status()
        if len(status.conf.voters) == 1:
            learners = [member for member in status.conf.learners if node_of(member) in self._connected()]
            if not learners:
                raise HiveError(
                    Code.INVALID_ARGUMENT,
                    "no other machine can take over: start one, or stop this daemon and remove its data directory",
                )
            best = max(learners, key=lambda member: (status.progress[member].match, member))
            await replica.propose_conf_change(ConfChange(add_voters=(best,)), deadline_s=deadline_s)
            await self._hand_over(replica, best)
            return
        if not await self.hand_over():
            raise HiveError(Code.NODE_OFFLINE, "no other voter took over in time; ask again")

    async def hand_over(self) -> bool:
        """Names the best successor that is there, and returns whether it leads now."""
        replica = self._local.replica
        if replica is None or not replica.leads:
            return True
        status, connected = replica.status(), self._connected()
        ready = [
            member
            for member in status.conf.voters
            if member != replica.member_id and node_of(member) in connected and member in status.progress
        ]
        if not ready:
            return False
        try:
            await self._hand_over(replica, max(ready, key=lambda member: (status.progress[member].match, member)))
        except HiveError:
            return False
        return True

    async def _hand_over(self, replica: Replica, to: MemberId) -> None:
        if to == replica.member_id:
            return
        replica.transfer_leader(to)
        try:
            async with asyncio.timeout(HANDOVER_DEADLINE_S):
                await replica.until(lambda: not replica.leads)
        except TimeoutError:
            raise HiveError(Code.NODE_OFFLINE, f"{node_of(to)} did not take over in time; ask again") from None

    # --- small things ----------------------------------------------------------------------------------------------

    @staticmethod
    def _as_meant(replica: Replica, order: ClusterOrder) -> ClusterOrder:
        """Who revokes a machine that left meanwhile, by its whole id, means that it shall not come back."""
        view, node = replica.view(), NodeId(order.node)
        entry = queries.node(view, node)
        # A user may have registered a worker under the id since.
        has_left = (entry is None or entry.kind is NodeKind.FOREIGN) and (
            nodes.removed_incarnation(view, node) is not None or nodes.is_denied(view, node)
        )
        if order.action is ClusterAction.REVOKE and has_left:
            return dataclasses.replace(order, action=ClusterAction.DENY)
        return order

    @staticmethod
    def _resolve(replica: Replica, name: str) -> NodeEntry:
        """A node by its id or an unmistakable beginning of it: a machine of the hive, or else a worker that a user registered."""
        fitting = [entry for entry in queries.nodes(replica.view()) if name and entry.node_id.startswith(name)]
        # Whoever gives a worker such a name must not come between an operator and a machine; nor its own longer names.
        found = [entry for entry in fitting if entry.kind is NodeKind.HIVE] or fitting
        found = [entry for entry in found if entry.node_id == name] or found
        if not found:
            raise HiveError(Code.NODE_NOT_FOUND, f"the hive has no node {name[:64]}")
        if len(found) > 1:
            raise HiveError(Code.INVALID_ARGUMENT, f"{len(found)} nodes begin with {name[:64]}: write more of the id")
        return found[0]

    @staticmethod
    def _is_member(replica: Replica, node: NodeId) -> bool:
        return any(node_of(member) == node for member in replica.status().conf.members())

    @staticmethod
    def _voter_of(replica: Replica, node: NodeId) -> MemberId:
        for member in replica.status().conf.voters:
            if node_of(member) == node:
                return member
        raise HiveError(Code.INVALID_ARGUMENT, f"{node} has no vote, so it cannot lead")

    # --- this node goes --------------------------------------------------------------------------------------------

    def taken_out(self) -> None:
        """The hive is without this node, for good: its daemon ends, unless an owner's call has it go, which sees to that."""
        self._is_out = True
        if not self._way:
            self._way, self._is_decided = LEAVES, True
            self._left()
