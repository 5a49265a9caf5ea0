"""How a member lets machines into the hive when it leads, as `runtime.peer_host.LocalPeerHost.accept_join` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import NodeRecord, SignedNodeRecord, open_record
from hivenode.encoding.records import decode_record, encode_record
from hivenode.errors import Code
from hivenode.membership.twins import Claim, TwinVerdict, addresses_to_ask, judge
from hivenode.pool import queries
from hivenode.pool.commands import AdmitNode
from hivenode.pool.nodes import is_denied
from hivenode.pool.records import NodeKind, NodeRights
from hivenode.runtime.admission import ASK_DEADLINE_S
from hivenode.runtime.hive_life import JOIN_DEADLINE_S
from hivenode.runtime.peer_host import ADMIT_DEADLINE_S, OFFERED_MEMBERS_MAX, is_outdated, says_nothing_new
from hivenode.runtime.ports import JoinOffer, PeerAddress
from hivenode.transport.metadata import HOPS_MAX
from simulations.calls import Failure, IntroduceAsked, JoinAsked, OnAnswer, Write, Written
from simulations.engine import SECOND

if TYPE_CHECKING:
    from simulations.node import Node
    from simulations.replica import Replica


class Admission:
    """One for each machine; it keeps nothing."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._world = node.world
        self._engine = node.world.engine

    def asked_to_admit(self, asked: JoinAsked, answer: OnAnswer) -> None:
        """As `LocalPeerHost.accept_join`: the leader asks whether the key lives elsewhere, then lets the node in."""
        replica = self._node.replica
        if replica is None or not replica.leads:
            self._forward_join(asked, answer)
            return
        if not queries.is_born(replica.view):
            answer(Failure(code=Code.NO_LEADER, text="the hive is still being born"))
            return
        try:
            joiner = open_record(asked.record, self._world.verify)
        except DecodeError:
            answer(Failure(code=Code.PEER_REJECTED, text="the node record is not valid"))
            return
        if is_denied(replica.view, joiner.node_id):
            answer(Failure(code=Code.NODE_REMOVED, text="this node is kept out of the hive"))
            return
        if self._counts_still(replica, joiner):
            answer(Failure(code=Code.OVERLOADED, text="it was removed, and its vote still counts"))
            return
        if queries.was_removed(replica.view, joiner.node_id, joiner.incarnation):
            self._admit(replica, asked, answer)
        elif replica.has_settled:
            self._take_in(replica, asked, answer)
        else:
            # Machines that the last leader let in would not be seen yet.
            def settled(failure: Failure | None) -> None:
                if failure is None:
                    self._take_in(replica, asked, answer)
                else:
                    answer(failure)

            replica.read_barrier(self._engine.now_us + round(ADMIT_DEADLINE_S * SECOND), settled)

    def _take_in(self, replica: Replica, asked: JoinAsked, answer: OnAnswer) -> None:
        """Agrees on what is new of the joiner; what the hive knows already is agreed on."""
        joiner = open_record(asked.record, self._world.verify)
        known = queries.node(replica.view, joiner.node_id)
        if says_nothing_new(known, joiner, self._world.verify) or is_outdated(known, joiner):
            answer(self._offer(replica, joiner))
            return
        if known is None or known.kind is not NodeKind.HIVE:
            self._admit(replica, asked, answer)
            return
        admitted = Claim(node_id=known.node_id, incarnation=known.incarnation, addresses=known.addresses)
        newcomer = Claim(node_id=joiner.node_id, incarnation=joiner.incarnation, addresses=joiner.addresses)
        self._ask_claims(
            addresses_to_ask(admitted, newcomer),
            lambda claims: self._judge(replica, asked, answer, (admitted, newcomer, claims)),
        )

    def _forward_join(self, asked: JoinAsked, answer: OnAnswer) -> None:
        """A member that does not lead asks the leader, as `transport.peer_service` does."""
        leader = self._node.leader_node()
        if leader is None or leader is self._node or asked.hops >= HOPS_MAX:
            answer(Failure(code=Code.NO_LEADER, text="this node does not lead"))
            return
        onward = replace(asked, hops=asked.hops + 1)
        self._node.calls.ask(self._node.address_book.address_of(leader), onward, JOIN_DEADLINE_S, answer)

    def _judge(
        self, replica: Replica, asked: JoinAsked, answer: OnAnswer, said: tuple[Claim, Claim, list[Claim]]
    ) -> None:
        if judge(*said) is TwinVerdict.ALONE:
            self._admit(replica, asked, answer)
        elif judge(*said) is TwinVerdict.TWIN:
            answer(Failure(code=Code.NODE_EXISTS, text="the key of this machine is in use"))
        else:
            answer(Failure(code=Code.NODE_OFFLINE, text="it still answers at its old address"))

    def _ask_claims(self, addresses: tuple[str, ...], done: Callable[[list[Claim]], None]) -> None:
        claims: list[Claim] = []
        open_calls = len(addresses)
        if not open_calls:
            done(claims)
            return

        def answered(address: str, result: Any) -> None:
            nonlocal open_calls
            open_calls -= 1
            if not isinstance(result, Failure):
                record = result.record
                claims.append(
                    Claim(
                        node_id=record.node_id,
                        incarnation=record.incarnation,
                        addresses=(address,),
                        instance=result.instance,
                    )
                )
            if not open_calls:
                done(claims)

        for address in addresses:
            self._node.calls.ask(address, IntroduceAsked(), ASK_DEADLINE_S, partial(answered, address))

    def _admit(self, replica: Replica, asked: JoinAsked, answer: OnAnswer) -> None:
        joiner = open_record(asked.record, self._world.verify)

        def agreed(result: Written) -> None:
            if isinstance(result, Failure):
                answer(result)
                return
            if self._counts_still(replica, joiner):
                answer(Failure(code=Code.OVERLOADED, text="it was removed meanwhile, and its vote still counts"))
            elif result.refused:
                answer(Failure(code=Code(result.code), text=result.message))
            else:
                answer(self._offer(replica, joiner))

        rights = self._world.rights_of(joiner)
        command = AdmitNode(signed_record=encode_record(asked.record), rights=rights)
        deadline_us = self._engine.now_us + round(ADMIT_DEADLINE_S * SECOND)
        replica.propose(Write(body=command), deadline_us, agreed)

    def _offer(self, replica: Replica, joiner: NodeRecord) -> JoinOffer:
        """What a machine is told that the hive has."""
        entry = queries.node(replica.view, joiner.node_id)
        later = entry.sequence if entry is not None and not says_nothing_new(entry, joiner, self._world.verify) else 0
        entries = [entry for entry in queries.nodes(replica.view) if entry.kind is NodeKind.HIVE]
        records = [decode_record(SignedNodeRecord, entry.signed_record) for entry in entries[:OFFERED_MEMBERS_MAX]]
        return JoinOffer(
            hive_id=self._node.disk.log.hive_id,
            members=tuple(records),
            leader=PeerAddress(node_id=self._node.node_id, addresses=(self._node.address,)),
            voter_rights=entry is not None and entry.rights is NodeRights.VOTER,
            voters=tuple(entry.node_id for entry in entries if entry.rights is NodeRights.VOTER),
            later_sequence=later,
            index=replica.applied_index,
        )

    def _counts_still(self, replica: Replica, removed: NodeRecord) -> bool:
        """Whether it was taken out, and its vote may be needed to take its vote away."""
        return (
            queries.was_removed(replica.view, removed.node_id, removed.incarnation)
            and self._world.member_of(removed.node_id, removed.incarnation) in replica.conf.members()
        )
