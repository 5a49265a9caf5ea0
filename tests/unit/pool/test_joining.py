"""Who may join: trust mode, tokens, approvals, denials, revocation, and how much of it is kept."""

from __future__ import annotations

import dataclasses

import pytest

from hivenode.encoding.records import encode_record
from hivenode.errors import Code
from hivenode.pool import invariants, joining, keys, queries
from hivenode.pool import nodes as node_rules
from hivenode.pool.commands import (
    AdmitNode,
    ApproveNode,
    CreateJoinToken,
    DenyNode,
    RemoveNode,
    RevokeNode,
    SetTrust,
    TakeOutNode,
)
from hivenode.pool.dissolving import is_virgin
from hivenode.pool.events import AttemptRevoked, NodeChanged, NodeRemoved, NodeRevoked
from hivenode.pool.records import NodeRights, TaskState, TrustMode, WayOut
from tests.unit.pool.driver import Hive, node_id, signed_record

HOUR_MS = 3_600_000


def key_hash(number: int) -> str:
    return f"{number:064x}"


def token(number: int, lifetime_ms: int = HOUR_MS) -> CreateJoinToken:
    return CreateJoinToken(key_hash=key_hash(number), rights=NodeRights.WORKER, lifetime_ms=lifetime_ms)


def test_trust_is_set_once_and_only_in_an_empty_hive() -> None:
    hive = Hive()
    assert joining.trust_mode(hive.view) is TrustMode.LAN
    hive.do(SetTrust(mode=TrustMode.TOKEN))
    hive.do(SetTrust(mode=TrustMode.TOKEN))
    assert joining.trust_mode(hive.view) is TrustMode.TOKEN
    hive.refused(SetTrust(mode=TrustMode.LAN), Code.PERMISSION_DENIED)
    used = Hive()
    used.user("alice")
    used.refused(SetTrust(mode=TrustMode.APPROVE), Code.PERMISSION_DENIED)


def test_a_hive_that_decided_who_may_join_never_gives_itself_up() -> None:
    for command in (
        SetTrust(mode=TrustMode.TOKEN),
        token(1),
        ApproveNode(node_id=node_id(1), rights=NodeRights.VOTER),
        DenyNode(node_id=node_id(1)),
    ):
        hive = Hive()
        assert is_virgin(hive.view)
        hive.do(command)
        assert not is_virgin(hive.view), command


def test_a_token_counts_until_it_expires_and_makes_room_then() -> None:
    hive = Hive()
    assert hive.do(token(1)).number == hive.now_ms + HOUR_MS
    for number in range(2, joining.TOKENS_MAX + 1):
        hive.do(token(number))
    hive.refused(token(100), Code.RATE_LIMITED)
    found = joining.join_token(hive.view, key_hash(1), hive.now_ms)
    assert found is not None
    assert found.rights is NodeRights.WORKER
    hive.later(HOUR_MS)
    assert joining.join_token(hive.view, key_hash(1), hive.now_ms) is None
    hive.do(token(100))
    assert joining.join_token(hive.view, key_hash(100), hive.now_ms) is not None
    invariants.check(hive.view)


@pytest.mark.parametrize("lifetime_ms", [0, -1, joining.TOKEN_LIFETIME_MS_MAX + 1])
def test_a_token_without_an_end_is_refused(lifetime_ms: int) -> None:
    Hive().refused(token(1, lifetime_ms), Code.INVALID_ARGUMENT)


@pytest.mark.parametrize("text", ["", "0" * 63, "G" * 64, "0" * 65])
def test_a_token_is_kept_by_a_hash_alone(text: str) -> None:
    command = dataclasses.replace(token(1), key_hash=text)
    Hive().refused(command, Code.INVALID_ARGUMENT)


def test_an_approval_waits_a_day_and_is_used_up_by_the_admission() -> None:
    hive = Hive()
    hive.do(ApproveNode(node_id=node_id(1), rights=NodeRights.WORKER))
    assert joining.approval(hive.view, node_id(1), hive.now_ms) is NodeRights.WORKER
    hive.node(1)
    assert joining.approval(hive.view, node_id(1), hive.now_ms) is None
    hive.do(ApproveNode(node_id=node_id(2), rights=NodeRights.VOTER))
    hive.later(joining.APPROVAL_MS)
    assert joining.approval(hive.view, node_id(2), hive.now_ms) is None
    invariants.check(hive.view)


def test_approvals_are_bounded() -> None:
    hive = Hive()
    for number in range(joining.APPROVALS_MAX):
        hive.do(ApproveNode(node_id=f"node-{number}", rights=NodeRights.WORKER))
    hive.refused(ApproveNode(node_id="one more", rights=NodeRights.WORKER), Code.RATE_LIMITED)
    hive.later(joining.APPROVAL_MS)
    hive.do(ApproveNode(node_id="one more", rights=NodeRights.WORKER))


def test_a_worker_that_is_approved_may_vote_and_rights_only_grow() -> None:
    hive = Hive()
    hive.do(AdmitNode(signed_record=encode_record(signed_record(1)), rights=NodeRights.WORKER))
    hive.do(ApproveNode(node_id=node_id(1), rights=NodeRights.VOTER))
    assert hive.event(NodeChanged).node_id == node_id(1)
    assert hive.entry_of(1).rights is NodeRights.VOTER
    hive.refused(ApproveNode(node_id=node_id(1), rights=NodeRights.WORKER), Code.INVALID_ARGUMENT)


def test_a_denied_node_stays_out_until_it_is_approved() -> None:
    hive = Hive()
    hive.do(DenyNode(node_id=node_id(1)))
    admission = AdmitNode(signed_record=encode_record(signed_record(1)), rights=NodeRights.WORKER)
    hive.refused(admission, Code.NODE_REMOVED)
    hive.do(ApproveNode(node_id=node_id(1), rights=NodeRights.WORKER))
    hive.do(admission)
    hive.refused(DenyNode(node_id=node_id(1)), Code.NODE_EXISTS)
    invariants.check(hive.view)


def test_a_revoked_node_loses_its_attempts_and_comes_back_by_approval_alone() -> None:
    hive = Hive()
    alice = hive.user("alice")
    node = hive.node(1)
    hive.submit(alice, "t")
    hive.assign("alice", "t", node)
    hive.do(RevokeNode(node_id=node, reason="It lied."))
    assert hive.event(NodeRevoked).node_id == hive.event(NodeRemoved).node_id == node
    assert hive.event(AttemptRevoked).task_id == "t"
    assert hive.task("alice", "t").state is TaskState.PENDING
    for incarnation in ("i1", "i2"):
        again = signed_record(1, sequence=5, incarnation=incarnation)
        refused = AdmitNode(signed_record=encode_record(again), rights=NodeRights.VOTER)
        hive.refused(refused, Code.NODE_REMOVED)
    hive.refused(RevokeNode(node_id=node, reason=""), Code.NODE_NOT_FOUND)
    hive.do(ApproveNode(node_id=node, rights=NodeRights.WORKER))
    hive.do(AdmitNode(signed_record=encode_record(signed_record(1, sequence=6)), rights=NodeRights.WORKER))
    invariants.check(hive.view)


def _take_out(number: int, way: WayOut, decided_at: int) -> TakeOutNode:
    return TakeOutNode(node_id=node_id(number), way=way, reason="", decided_at=decided_at)


@pytest.mark.parametrize("second", WayOut)
@pytest.mark.parametrize("first", WayOut)
def test_nobody_is_taken_out_by_a_decision_of_before_another_went(first: WayOut, second: WayOut) -> None:
    hive = Hive()
    for number in (1, 2):
        hive.node(number)
    for number, way in ((1, first), (2, second)):
        if way is WayOut.DENIED:
            hive.do(RemoveNode(node_id=node_id(number), reason=""))
    decided_at = len(hive.log)
    hive.do(_take_out(1, first, decided_at))
    hive.refused(_take_out(2, second, decided_at), Code.OVERLOADED)
    hive.do(_take_out(2, second, len(hive.log)))
    for number, way in ((1, first), (2, second)):
        assert queries.node(hive.view, node_id(number)) is None
        assert node_rules.is_denied(hive.view, node_id(number)) is (way is not WayOut.REMOVED)
    invariants.check(hive.view)


def test_a_decision_that_was_refused_holds_up_no_other() -> None:
    hive = Hive()
    hive.node(1)
    decided_at = len(hive.log)
    hive.refused(_take_out(2, WayOut.REMOVED, decided_at), Code.NODE_NOT_FOUND)
    hive.refused(_take_out(1, WayOut.REMOVED, -1), Code.INVALID_ARGUMENT)
    hive.do(_take_out(1, WayOut.REVOKED, decided_at))
    assert hive.event(NodeRevoked).node_id == node_id(1)


def test_entries_of_before_decisions_were_told_are_applied_as_ever() -> None:
    hive = Hive()
    for number in (1, 2, 3):
        hive.node(number)
    decided_at = len(hive.log)
    hive.do(RemoveNode(node_id=node_id(1), reason=""))
    assert hive.view.get(keys.TAKEN_OUT) is None
    hive.do(_take_out(2, WayOut.REMOVED, decided_at))
    hive.do(RevokeNode(node_id=node_id(3), reason=""))


def test_removals_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_rules, "REMOVED_MAX", 3)
    hive = Hive()
    for number in range(1, 6):
        hive.node(number)
        hive.do(RemoveNode(node_id=node_id(number), reason=""))
    remembered = [number for number in range(1, 6) if queries.was_removed(hive.view, node_id(number), "i1")]
    assert remembered == [3, 4, 5]
    invariants.check(hive.view)
    hive.refused(AdmitNode(signed_record=encode_record(signed_record(5)), rights=NodeRights.VOTER), Code.NODE_REMOVED)
    hive.node(1)
    invariants.check(hive.view)


def test_a_node_that_was_removed_twice_is_remembered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_rules, "REMOVED_MAX", 2)
    hive = Hive()
    for incarnation in ("i1", "i2", "i3"):
        record = signed_record(1, incarnation=incarnation)
        hive.do(AdmitNode(signed_record=encode_record(record), rights=NodeRights.VOTER))
        hive.do(RemoveNode(node_id=node_id(1), reason=""))
    assert queries.was_removed(hive.view, node_id(1), "i3")
    invariants.check(hive.view)


def test_those_kept_out_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "DENIED_MAX", 2)
    hive = Hive()
    for name in ("a", "b", "a"):
        hive.do(DenyNode(node_id=name))
    hive.refused(DenyNode(node_id="c"), Code.RATE_LIMITED)
    hive.do(ApproveNode(node_id="a", rights=NodeRights.WORKER))
    hive.do(DenyNode(node_id="c"))
    invariants.check(hive.view)
