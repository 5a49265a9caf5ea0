"""The leader's word on who comes in, by the real state and a clock of the test's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, suppress

import pytest
from structlog.testing import capture_logs

from hivenode.consensus import ConfState, MemberId, RaftStatus, Role
from hivenode.encoding.node_record import NodeId, NodeRecord, open_record
from hivenode.encoding.records import Record, encode_record
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError
from hivenode.membership.formation import PAIRING_MS
from hivenode.pool import keys
from hivenode.pool.commands import AdmitNode, ApproveNode, RegisterForeignWorker, RemoveNode
from hivenode.pool.events import StateReplaced
from hivenode.pool.records import NodeRights
from hivenode.runtime.joining import JoinDesk
from hivenode.runtime.ports import NO_CLAIM, JoinClaim
from hivenode.runtime.refusals import NAMED_MAX
from tests.unit.pool.driver import Hive, capabilities, node_id, signed_record, verify

FROM_LAN = JoinClaim(from_lan=True)
ROOM = 4
UNASKED = 3


def _joiner(number: int) -> NodeRecord:
    return open_record(signed_record(number), verify)


def _desk(hive: Hive) -> JoinDesk:
    return JoinDesk(lambda: hive.now_ms, lambda: hive.now_ms, nodes_max=ROOM, unasked_max=UNASKED)


class _Leader:
    """Leads a hive of the driver, whose log is applied as it is written; `appended` more entries are not agreed on yet."""

    def __init__(self, hive: Hive) -> None:
        self.hive = hive
        self.term = 1
        self.appended = 0

    def view(self) -> ReadView:
        return self.hive.view

    def status(self) -> RaftStatus:
        applied = len(self.hive.log)
        return RaftStatus(
            member_id=MemberId("leader"),
            role=Role.LEADER,
            term=self.term,
            leader=MemberId("leader"),
            commit=applied,
            applied=applied,
            last_index=applied + self.appended,
            conf=ConfState(),
            transfer_target=None,
            conflicts_refused=0,
            progress={},
        )


def _place(hive: Hive, desk: JoinDesk, number: int, claim: JoinClaim = FROM_LAN) -> AbstractContextManager[NodeRights]:
    return desk.place(_Leader(hive), _joiner(number), claim)


def _come_in(hive: Hive, desk: JoinDesk, number: int, claim: JoinClaim = FROM_LAN) -> NodeRights:
    with _place(hive, desk, number, claim) as rights:
        _do(hive, desk, AdmitNode(signed_record=encode_record(signed_record(number)), rights=rights))
    return rights


def _do(hive: Hive, desk: JoinDesk, command: Record) -> None:
    hive.do(command)
    desk.applied(hive.events)


def _refusal(hive: Hive, desk: JoinDesk, number: int, claim: JoinClaim = FROM_LAN) -> str:
    with pytest.raises(HiveError) as caught, _place(hive, desk, number, claim):
        pass
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
    with _place(hive, desk, 1) as rights:
        assert rights is NodeRights.VOTER
    _do(hive, desk, RemoveNode(node_id=node_id(1), reason=""))
    assert _come_in(hive, desk, 9) is NodeRights.WORKER


def test_workers_that_are_no_machines_of_the_hive_take_no_room_in_it() -> None:
    hive = Hive()
    desk = _desk(hive)
    session = hive.user("ada")
    assert _come_in(hive, desk, 1) is NodeRights.VOTER
    for number in range(ROOM):
        foreign = RegisterForeignWorker(
            session_id=session, node_id=f"old{number}", capabilities=capabilities(), port=50052
        )
        _do(hive, desk, foreign)
    assert _come_in(hive, desk, 2) is NodeRights.VOTER


def test_who_waits_is_told_without_reading_all_rows_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hive = Hive()
    desk = _desk(hive)
    session = hive.user("ada")
    hive.later(PAIRING_MS)
    assert _come_in(hive, desk, 1) is NodeRights.WORKER
    assert [node.node_id for node in desk.pending(hive.view)] == [node_id(1)]
    read: list[bytes] = []
    scan = hive.view.scan

    def counted(prefix: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        for row in scan(prefix, reverse=reverse):
            read.append(row[0])
            yield row

    monkeypatch.setattr(hive.view, "scan", counted)
    for number in range(9):
        foreign = RegisterForeignWorker(
            session_id=session, node_id=f"old{number}", capabilities=capabilities(), port=50052
        )
        _do(hive, desk, foreign)
    read.clear()
    assert _come_in(hive, desk, 2) is NodeRights.WORKER
    assert [node.node_id for node in desk.pending(hive.view)] == sorted([node_id(1), node_id(2)])
    _do(hive, desk, ApproveNode(node_id=node_id(1), rights=NodeRights.VOTER))
    assert [node.node_id for node in desk.pending(hive.view)] == [node_id(2)]
    assert not [key for key in read if key.startswith(keys.NODES)]


def test_machines_that_are_coming_in_have_their_places() -> None:
    hive = Hive()
    desk = _desk(hive)
    with ExitStack() as joins:
        for number in range(1, UNASKED + 1):
            joins.enter_context(_place(hive, desk, number))
            joins.enter_context(_place(hive, desk, number))  # Asking twice takes one place.
        assert "waits for approval" in _refusal(hive, desk, 9)
        for number in range(9, 9 + ROOM - UNASKED):
            hive.do(ApproveNode(node_id=node_id(number), rights=NodeRights.WORKER))
            joins.enter_context(_place(hive, desk, number))
        hive.do(ApproveNode(node_id=node_id(20), rights=NodeRights.WORKER))
        assert "takes no more" in _refusal(hive, desk, 20)
    assert _come_in(hive, desk, 20) is NodeRights.WORKER


def _broken_off(desk: JoinDesk, leader: _Leader) -> None:
    """As many joins as may come unasked, each broken off with its entry in the leader's log."""
    for number in range(1, UNASKED + 1):
        leader.appended += 1
        with suppress(TimeoutError), desk.place(leader, _joiner(number), FROM_LAN):
            raise TimeoutError


def test_a_join_that_is_broken_off_has_its_place_until_its_entry_is_applied() -> None:
    hive = Hive()
    desk, leader = _desk(hive), _Leader(hive)
    _broken_off(desk, leader)
    for number in range(1, UNASKED):
        with pytest.raises(HiveError), desk.place(leader, _joiner(9), FROM_LAN):
            pass
        _do(hive, desk, AdmitNode(signed_record=encode_record(signed_record(number)), rights=NodeRights.WORKER))
        leader.appended -= 1
    hive.send(AdmitNode(signed_record=b"no record", rights=NodeRights.WORKER))
    leader.appended -= 1
    with desk.place(leader, _joiner(9), FROM_LAN) as rights:
        assert rights is NodeRights.VOTER


def test_a_join_that_is_broken_off_has_its_place_until_another_term() -> None:
    hive = Hive()
    desk, leader = _desk(hive), _Leader(hive)
    _broken_off(desk, leader)
    with pytest.raises(HiveError), desk.place(leader, _joiner(9), FROM_LAN):
        pass
    leader.term += 1
    with desk.place(leader, _joiner(9), FROM_LAN) as rights:
        assert rights is NodeRights.VOTER


def test_a_snapshot_is_counted_anew() -> None:
    hive = Hive()
    desk = _desk(hive)
    assert _come_in(hive, desk, 1) is NodeRights.VOTER
    for number in range(2, ROOM + 1):
        hive.node(number)
    desk.applied((StateReplaced(index=len(hive.log)),))
    assert "takes no more" in _refusal(hive, desk, 9)


def test_who_asks_with_many_keys_fills_no_log() -> None:
    hive = Hive()
    desk = _desk(hive)
    with capture_logs() as logs:
        for number in range(2 * NAMED_MAX):
            stranger = dataclasses.replace(_joiner(1), node_id=NodeId(f"n{number}"))
            with pytest.raises(HiveError), desk.place(_Leader(hive), stranger, NO_CLAIM):
                pass
    assert len(logs) == NAMED_MAX + 1
