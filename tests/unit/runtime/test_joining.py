"""The leader's word on who comes in, by the real state and a clock of the test's own."""

from __future__ import annotations

import pytest

from hivenode.encoding.node_record import NodeRecord, open_record
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError
from hivenode.membership.formation import PAIRING_MS
from hivenode.pool.commands import AdmitNode, ApproveNode, RegisterForeignWorker, RemoveNode
from hivenode.pool.records import NodeRights
from hivenode.runtime.joining import JoinDesk
from hivenode.runtime.ports import NO_CLAIM, JoinClaim
from tests.unit.pool.driver import Hive, capabilities, node_id, signed_record, verify

FROM_LAN = JoinClaim(from_lan=True)
ROOM = 4
UNASKED = 3


def _joiner(number: int) -> NodeRecord:
    return open_record(signed_record(number), verify)


def _desk(hive: Hive) -> JoinDesk:
    return JoinDesk(lambda: hive.now_ms, lambda: hive.now_ms, nodes_max=ROOM, unasked_max=UNASKED)


def _come_in(hive: Hive, desk: JoinDesk, number: int, claim: JoinClaim = FROM_LAN) -> NodeRights:
    rights = desk.rights_for(hive.view, _joiner(number), claim)
    hive.do(AdmitNode(signed_record=encode_record(signed_record(number)), rights=rights))
    return rights


def _refusal(hive: Hive, desk: JoinDesk, number: int, claim: JoinClaim = FROM_LAN) -> str:
    with pytest.raises(HiveError) as caught:
        desk.rights_for(hive.view, _joiner(number), claim)
    assert caught.value.code is Code.PEER_REJECTED
    return caught.value.message


def test_who_comes_unasked_may_vote_in_the_hives_first_hour_alone() -> None:
    hive = Hive()
    desk = _desk(hive)
    hive.later(PAIRING_MS - 1)
    assert _come_in(hive, desk, 1) is NodeRights.VOTER
    hive.later(1)
    assert _come_in(hive, desk, 2) is NodeRights.WORKER
    assert [node.node_id for node in desk.pending(hive.view)] == [node_id(2)]
    assert "waits for approval" in _refusal(hive, desk, 3, NO_CLAIM)


def test_many_machines_that_come_unasked_leave_room_for_those_that_an_operator_names() -> None:
    hive = Hive()
    desk = _desk(hive)
    for number in range(1, UNASKED + 1):
        _come_in(hive, desk, number)
    assert f"cluster approve {node_id(9)}" in _refusal(hive, desk, 9)
    assert node_id(9) in {node.node_id for node in desk.pending(hive.view)}
    hive.do(ApproveNode(node_id=node_id(9), rights=NodeRights.VOTER))
    assert _come_in(hive, desk, 9) is NodeRights.VOTER


def test_a_full_hive_takes_in_nobody_until_a_machine_is_taken_out_and_knows_its_own() -> None:
    hive = Hive()
    desk = _desk(hive)
    for number in range(1, ROOM + 1):
        hive.node(number)
    hive.do(ApproveNode(node_id=node_id(9), rights=NodeRights.WORKER))
    assert "`hivenode cluster remove`" in _refusal(hive, desk, 9)
    assert desk.rights_for(hive.view, _joiner(1), FROM_LAN) is NodeRights.VOTER
    hive.do(RemoveNode(node_id=node_id(1), reason=""))
    assert _come_in(hive, desk, 9) is NodeRights.WORKER


def test_workers_that_are_no_machines_of_the_hive_take_no_room_in_it() -> None:
    hive = Hive()
    desk = _desk(hive)
    session = hive.user("ada")
    for number in range(ROOM):
        hive.do(
            RegisterForeignWorker(session_id=session, node_id=f"old{number}", capabilities=capabilities(), port=50052)
        )
    assert _come_in(hive, desk, 1) is NodeRights.VOTER
