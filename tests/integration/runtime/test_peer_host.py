"""What a replica takes from its peers: nothing of consensus from a node whose right is to run tasks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hivenode.consensus import Heartbeat, MemberId, Message
from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import encode_record
from hivenode.pool.commands import AdmitNode
from hivenode.pool.records import NodeRights
from hivenode.runtime.local import member_id_of, node_of
from hivenode.runtime.member_gate import MemberGate
from hivenode.runtime.peer_host import LocalPeerHost
from hivenode.runtime.refusals import Refusals
from tests.support.replicas import leader_of, propose, three
from tests.unit.pool.driver import node_id, signed_record


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
        gate = MemberGate(leader.replica.view, lambda: frozenset({node_of(MemberId(leader.id))}), lambda: 0)
        local: Any = SimpleNamespace(replica=replica, clock_ms=lambda: 0, may_hold_state=gate.takes_part)
        local.note_unheard = lambda node: None
        host: Any = SimpleNamespace(_local=local, _heard_ms={}, _refusals=Refusals())
        for number in (7, 8):
            sender = member_id_of(node_id(number), "i1")
            message = Heartbeat(to=leader.id, from_=sender, term=99, commit=0)
            LocalPeerHost.receive(host, node_id(number), message)
        assert taken == [node_id(8)]
