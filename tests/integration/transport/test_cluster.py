"""The owner's calls: answered on loopback without a token, refused to peers, and carried to the leader by a member."""

from __future__ import annotations

import pytest

from hivenode.errors import Code, HiveError
from hivenode.pb import hive_pb2
from hivenode.runtime.ports import ClusterAction, ClusterAnswer, ClusterOrder
from hivenode.transport.interceptors.calls import _is_loopback
from tests.integration.transport.client import Client
from tests.integration.transport.parts import DEADLINE_S, nodes


async def test_the_owner_manages_the_hive_without_a_token() -> None:
    async with nodes(1) as (node,):
        client = Client(node.server.api_address)
        managed, _ = await client.call("RemoveNode", hive_pb2.ManageNodeRequest(node_id="abc"))
        assert managed.node_id == "abc-whole"
        made, _ = await client.call("MakeSnapshot", hive_pb2.MakeSnapshotRequest())
        assert (made.path, made.index, made.term, made.size_bytes) == ("/copy", 7, 2, 9)
        joined, _ = await client.call("JoinHive", hive_pb2.JoinHiveRequest(address="10.0.0.1:5", abandon=True))
        assert joined.hive_id == "the hive at 10.0.0.1:5"
        await client.call("LeaveHive", hive_pb2.LeaveHiveRequest())
        assert node.ports.has_left
        await client.channel.close()


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:4000", True),
        ("ipv6:%5B::1%5D:4000", True),
        ("ipv4:192.168.1.7:4000", False),
        ("ipv6:%5Bfe80::1%5D:4000", False),
        ("", False),
        ("unix:/tmp/x", False),
    ],
)
def test_only_loopback_is_this_machine(peer: str, local: bool) -> None:
    assert _is_loopback(peer) is local


async def test_an_order_of_a_member_reaches_the_leader() -> None:
    async with nodes(2) as (a, b):
        order = ClusterOrder(action=ClusterAction.REMOVE, node="abc")
        assert await a.peers.manage_hive(b.address, order, DEADLINE_S) == ClusterAnswer(node="abc")
        assert b.ports.orders == [(a.id, order)]
        b.admitted = False
        with pytest.raises(HiveError) as refusal:
            await a.peers.manage_hive(b.address, order, DEADLINE_S)
        assert refusal.value.code is Code.NOT_A_MEMBER
