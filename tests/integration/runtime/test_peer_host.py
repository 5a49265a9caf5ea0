"""What a replica takes from its peers: nothing of consensus from a node whose right is to run tasks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nacl.signing import SigningKey

from hivenode.consensus import ConfChange, MemberId, Message
from hivenode.encoding.node_record import NodeId, open_record, sign_record
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError
from hivenode.identity import verify_signature
from hivenode.pool import queries
from hivenode.pool.commands import AdmitNode, RemoveNode, SetTrust
from hivenode.pool.records import NodeRights, TrustMode
from hivenode.runtime.admission import TwinChecks
from hivenode.runtime.joining import JoinDesk
from hivenode.runtime.local import member_id_of, node_of
from hivenode.runtime.member_gate import MemberGate
from hivenode.runtime.peer_host import LocalPeerHost
from hivenode.runtime.ports import NO_CLAIM, Introduction, JoinClaim
from hivenode.runtime.rate_limit import RateLimit
from hivenode.runtime.refusals import Refusals
from tests.security.test_rogue import consensus_lies
from tests.support.replicas import DEADLINE_S, Member, leader_of, propose, three
from tests.unit.pool.driver import node_id, signed_record


async def admit_founder(leader: Member) -> None:
    """The last of a hive's first commands."""
    founder = AdmitNode(signed_record=encode_record(signed_record(1)), rights=NodeRights.VOTER)
    assert not (await propose(leader, founder)).refused


async def test_a_worker_cannot_speak_as_a_leader(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        for number, rights in ((7, NodeRights.WORKER), (8, NodeRights.VOTER)):
            await propose(leader, AdmitNode(signed_record=encode_record(signed_record(number)), rights=rights))
        taken: list[NodeId] = []

        def receive(message: Message) -> None:
            taken.append(NodeId(message.from_.partition(".")[0]))

        replica = SimpleNamespace(member_id=leader.id, view=leader.replica.view, receive=receive)
        # Of the host only the replica behind it, and its clock, matter here.
        inside = frozenset({node_of(MemberId(leader.id))})
        gate = MemberGate(
            node_of(MemberId(leader.id)),
            "1",
            view=leader.replica.view,
            members=lambda: inside,
            is_member=lambda: True,
            applied_index=lambda: 0,
        )
        local: Any = SimpleNamespace(replica=replica, clock_ms=lambda: 0, may_hold_state=gate.takes_part)
        local.note_unheard = lambda node: None
        host: Any = SimpleNamespace(_local=local, _heard_ms={}, _refusals=Refusals())
        said = 0
        for number in (7, 8):
            for from_ in (7, 8):
                for message in consensus_lies(MemberId(leader.id), member_id_of(node_id(from_), "i1")):
                    LocalPeerHost.receive(host, node_id(number), message)
                    said += 1
        assert taken == [node_id(8)] * (said // 4)
        LocalPeerHost.check_heard(host, node_id(8))
        for number, code in ((7, Code.PERMISSION_DENIED), (9, Code.NOT_A_MEMBER)):
            with pytest.raises(HiveError) as caught:
                LocalPeerHost.check_heard(host, node_id(number))
            assert caught.value.code is code


async def test_a_removed_member_is_told_so_only_when_the_configuration_is_without_it(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        replica = (await leader_of(members)).replica
        record = signed_record(7)
        removed = member_id_of(node_id(7), open_record(record, verify_signature).incarnation)
        await admit_founder(await leader_of(members))
        await propose(await leader_of(members), AdmitNode(signed_record=encode_record(record), rights=NodeRights.VOTER))
        await replica.propose_conf_change(ConfChange(add_learners=(removed,)), deadline_s=DEADLINE_S)
        await propose(await leader_of(members), RemoveNode(node_id=node_id(7), reason="out"))
        local: Any = SimpleNamespace(replica=replica)
        # Of the host only what it knows of the hive matters here.
        host: Any = SimpleNamespace(_local=local, _desk=JoinDesk(lambda: 0, lambda: 0), _seen_off=set())
        host._see_off = partial(LocalPeerHost._see_off, host)

        async def refusal() -> Code:
            with pytest.raises(HiveError) as caught:
                await LocalPeerHost.accept_join(host, node_id(7), record, NO_CLAIM)
            return caught.value.code

        assert await refusal() is Code.OVERLOADED
        await replica.propose_conf_change(ConfChange(remove=(removed,)), deadline_s=DEADLINE_S)
        before = replica.applied_index
        assert await refusal() is Code.NODE_REMOVED
        told = replica.applied_index
        assert told > before, "it rests on an entry that a majority has after the change"
        assert await refusal() is Code.NODE_REMOVED
        assert replica.applied_index == told


@pytest.mark.parametrize("mode", [TrustMode.TOKEN, TrustMode.APPROVE])
async def test_nobody_comes_in_before_the_hive_has_its_trust_mode(tmp_path: Path, mode: TrustMode) -> None:
    """Between its first command and that one it is a hive of mode `lan`, which would give a stranger the right to vote."""
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        local: Any = SimpleNamespace(replica=leader.replica, clock_ms=lambda: 0, may_hold_state=lambda node: True)
        # Of the host only what it knows of the hive matters here.
        host: Any = SimpleNamespace(_local=local, _desk=JoinDesk(lambda: 0, lambda: 0), _seen_off=set())
        host._twins = TwinChecks(SimpleNamespace())

        async def refusal() -> Code:
            with pytest.raises(HiveError) as caught:
                await LocalPeerHost.accept_join(host, node_id(7), signed_record(7), JoinClaim(from_lan=True))
            return caught.value.code

        assert await refusal() is Code.NO_LEADER
        assert not (await propose(leader, SetTrust(mode=mode))).refused
        assert await refusal() is Code.NO_LEADER
        await admit_founder(leader)
        assert await refusal() is Code.PEER_REJECTED
        assert queries.node(leader.replica.view(), node_id(7)) is None


async def test_a_member_that_is_removed_while_it_tells_its_record_goes_on_while_its_vote_counts(tmp_path: Path) -> None:
    """Found by the simulator (seed 15): the entry that was to take its new address was refused, and its daemon ended."""
    async with three(tmp_path) as members:
        replica = (await leader_of(members)).replica
        record = open_record(signed_record(7), verify_signature)
        removed = member_id_of(node_id(7), record.incarnation)
        await admit_founder(await leader_of(members))
        known = AdmitNode(signed_record=encode_record(signed_record(7)), rights=NodeRights.VOTER)
        await propose(await leader_of(members), known)
        await replica.propose_conf_change(ConfChange(add_learners=(removed,)), deadline_s=DEADLINE_S)

        async def introduce(_address: str, _deadline_s: float) -> Introduction:
            await replica.propose(RemoveNode(node_id=node_id(7), reason="out"), deadline_s=DEADLINE_S)
            raise HiveError(Code.NODE_OFFLINE, "it moved")

        local: Any = SimpleNamespace(replica=replica, may_hold_state=lambda node: True, clock_ms=lambda: 0)
        # Of the host only what it knows of the hive, and whom it asks, matters here.
        peers: Any = SimpleNamespace(introduce=introduce)
        twins = TwinChecks(peers)
        host: Any = SimpleNamespace(_local=local, _twins=twins, _desk=JoinDesk(lambda: 0, lambda: 0), _seen_off=set())
        host._changes = RateLimit("changes", 1)
        host._see_off = partial(LocalPeerHost._see_off, host)
        key = SigningKey(bytes([7]) * 32)
        moved = replace(record, addresses=("10.0.0.2:50052",), sequence=record.sequence + 1)
        told = sign_record(moved, lambda message: key.sign(message).signature)
        with pytest.raises(HiveError) as caught:
            await LocalPeerHost.accept_join(host, node_id(7), told, NO_CLAIM)
        assert caught.value.code is Code.OVERLOADED


async def test_a_node_is_connected_until_the_last_of_its_streams_ended() -> None:
    nothing: Any = None
    # Of the node only who is told of a lost stream matters here.
    local: Any = SimpleNamespace(replica=None, subscribe=lambda listener: None, forget_leader=lambda node: None)
    host = LocalPeerHost(
        local=local,
        life=nothing,
        peers=nothing,
        coordinator=lambda: None,
        digests=lambda: None,
        desk=nothing,
        manage=nothing,
        start=nothing,
    )
    host.peer_connected(node_id(7))
    host.peer_connected(node_id(7))  # The newer stream stands before the end of the older one is seen.
    host.peer_lost(node_id(7), True)
    assert node_id(7) in host.connected
    host.peer_lost(node_id(7), True)
    assert node_id(7) not in host.connected
