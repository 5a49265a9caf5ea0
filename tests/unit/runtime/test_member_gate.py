"""Whose word counts in consensus: the table of `runtime.member_gate`, on a real agreed state."""

from __future__ import annotations

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import encode_record
from hivenode.pool.commands import AdmitNode, ApproveNode, DenyNode, RegisterForeignWorker, RemoveNode, RevokeNode
from hivenode.pool.events import StateReplaced
from hivenode.pool.records import NodeRights
from hivenode.runtime.member_gate import VOUCHED_MAX, MemberGate
from tests.unit.pool.driver import Hive, capabilities, node_id, signed_record

ONE, TWO, THREE = node_id(1), node_id(2), node_id(3)


class Member:
    """A member's gate on a hive of its own, told of all that is applied."""

    def __init__(self, *inside: NodeId) -> None:
        self.hive = Hive()
        self.inside = frozenset(inside)
        self.gate = MemberGate(lambda: self.hive.view, lambda: self.inside)

    def do(self, command: object) -> None:
        self.hive.do(command)  # type: ignore[arg-type]
        self.gate.applied(self.hive.events)

    def admit(self, number: int, rights: NodeRights = NodeRights.VOTER) -> None:
        self.do(AdmitNode(signed_record=encode_record(signed_record(number)), rights=rights))


def test_voter_right_takes_part_and_worker_right_does_not() -> None:
    member = Member()
    assert not member.gate.takes_part(ONE)
    member.admit(1)
    member.admit(2, NodeRights.WORKER)
    assert member.gate.takes_part(ONE)
    assert not member.gate.takes_part(TWO)
    assert not member.gate.is_unknown(TWO)
    assert member.gate.is_unknown(THREE)


def test_a_foreign_worker_takes_no_part_under_whatever_name() -> None:
    member = Member()
    session = member.hive.user("alice")
    member.do(RegisterForeignWorker(session_id=session, node_id=ONE, capabilities=capabilities(), port=9000))
    assert not member.gate.takes_part(ONE)


def test_a_removed_voter_takes_part_until_the_configuration_is_without_it() -> None:
    member = Member(ONE)
    member.admit(1)
    member.do(RemoveNode(node_id=ONE, reason="its owner wants it back"))
    assert member.gate.takes_part(ONE)
    member.inside = frozenset()
    assert not member.gate.takes_part(ONE)


def test_a_revoked_voter_takes_no_part_though_the_configuration_has_it() -> None:
    member = Member(ONE, TWO)
    member.admit(1)
    member.do(RevokeNode(node_id=ONE, reason="not trusted"))
    assert not member.gate.takes_part(ONE)
    member.do(DenyNode(node_id=TWO))
    assert not member.gate.takes_part(TWO)
    member.do(ApproveNode(node_id=TWO, rights=NodeRights.WORKER))
    assert member.gate.takes_part(TWO)


def test_a_word_for_somebody_counts_until_the_state_knows_better() -> None:
    member = Member()
    member.admit(2, NodeRights.WORKER)
    member.gate.vouch([ONE, TWO])
    assert member.gate.takes_part(ONE)
    assert not member.gate.takes_part(TWO), "the agreed state gave it worker right alone"
    member.admit(1, NodeRights.WORKER)
    assert not member.gate.takes_part(ONE)
    member.do(RemoveNode(node_id=ONE, reason="out"))
    member.gate.vouch([ONE])
    assert not member.gate.takes_part(ONE), "it was removed"


def test_a_state_that_takes_the_place_of_this_one_ends_what_it_knows_better() -> None:
    member = Member()
    member.gate.vouch([ONE, TWO])
    member.hive.do(AdmitNode(signed_record=encode_record(signed_record(1)), rights=NodeRights.WORKER))
    member.gate.applied((StateReplaced(index=9),))
    assert not member.gate.takes_part(ONE)
    assert member.gate.takes_part(TWO)


def test_no_more_are_vouched_for_than_a_hive_has_members() -> None:
    member = Member()
    many = [NodeId(f"{number:026d}") for number in range(2 * VOUCHED_MAX)]
    member.gate.vouch(many)
    assert sum(map(member.gate.takes_part, many)) == VOUCHED_MAX
