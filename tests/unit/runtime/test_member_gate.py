"""Whose word counts in consensus: the table of `runtime.member_gate`, on a real agreed state."""

from __future__ import annotations

import pytest

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import Record, encode_record
from hivenode.pool.commands import AdmitNode, ApproveNode, DenyNode, RegisterForeignWorker, RemoveNode, RevokeNode
from hivenode.pool.events import StateReplaced
from hivenode.pool.records import NodeRights
from hivenode.runtime.member_gate import VOUCHED_MAX, MemberGate
from tests.unit.pool.driver import Hive, capabilities, node_id, signed_record

ONE, TWO, THREE, FOUR = (node_id(number) for number in range(1, 5))


class Member:
    """A member's gate on a hive of its own, told of all that is applied."""

    def __init__(self, *inside: NodeId) -> None:
        self.hive = Hive()
        self.inside = frozenset(inside)
        self.gate = MemberGate(lambda: self.hive.view, lambda: self.inside, lambda: self.applied)

    @property
    def applied(self) -> int:
        return len(self.hive.log)

    def do(self, command: Record) -> None:
        self.hive.do(command)
        self.gate.applied(self.hive.events)

    def admit(self, number: int, rights: NodeRights = NodeRights.VOTER) -> None:
        self.do(AdmitNode(signed_record=encode_record(signed_record(number)), rights=rights))

    def hears(self, *nodes: NodeId) -> list[bool]:
        return [self.gate.takes_part(node) for node in nodes]


def test_voter_right_takes_part_and_worker_right_does_not() -> None:
    member = Member()
    assert member.hears(ONE) == [False]
    member.admit(1)
    member.admit(2, NodeRights.WORKER)
    assert member.hears(ONE, TWO) == [True, False]


def test_a_foreign_worker_takes_no_part_under_whatever_name() -> None:
    member = Member()
    session = member.hive.user("alice")
    member.do(RegisterForeignWorker(session_id=session, node_id=ONE, capabilities=capabilities(), port=9000))
    assert member.hears(ONE) == [False]


def test_a_removed_voter_takes_part_until_the_configuration_is_without_it() -> None:
    member = Member(ONE)
    member.admit(1)
    assert member.hears(ONE) == [True]
    member.do(RemoveNode(node_id=ONE, reason="its owner wants it back"))
    assert member.hears(ONE) == [True]
    member.inside = frozenset()
    assert member.hears(ONE) == [False]


def test_a_revoked_voter_takes_no_part_though_the_configuration_has_it() -> None:
    member = Member(ONE, TWO)
    member.admit(1)
    assert member.hears(ONE, TWO) == [True, True]
    member.do(RevokeNode(node_id=ONE, reason="not trusted"))
    member.do(DenyNode(node_id=TWO))
    assert member.hears(ONE, TWO) == [False, False]
    assert not member.gate.may_be_new(TWO)
    member.do(ApproveNode(node_id=TWO, rights=NodeRights.WORKER))
    assert member.hears(TWO) == [True]


@pytest.mark.parametrize("before", ["nothing", "worker", "removed"])
def test_a_word_for_somebody_counts_until_all_is_applied_that_it_rests_on(before: str) -> None:
    member = Member()
    member.admit(1)
    if before != "nothing":
        member.admit(2, NodeRights.WORKER)
    if before == "removed":
        member.do(RemoveNode(node_id=TWO, reason="out"))
    assert member.gate.may_be_new(TWO)
    member.gate.vouch(ONE, member.applied, [TWO])
    assert member.hears(TWO) == [False], "this member has applied as much as the one that says so"
    member.gate.vouch(ONE, member.applied + 2, [TWO])
    assert member.hears(TWO) == [True]
    member.admit(3)
    assert member.hears(TWO) == [True]
    member.admit(4)
    assert member.hears(TWO) == [False]


def test_one_that_was_revoked_is_heard_when_a_member_says_by_a_later_state_that_it_takes_part() -> None:
    member = Member()
    member.admit(1)
    member.do(DenyNode(node_id=TWO))
    member.gate.vouch(ONE, member.applied, [TWO])
    assert member.hears(TWO) == [False], "this member has applied as much as the one that says so"
    member.gate.vouch(ONE, member.applied + 2, [TWO])
    assert member.hears(TWO) == [True]
    member.admit(3)
    member.admit(4)
    assert member.hears(TWO) == [False], "it has applied all that the word rests on, and knows by itself"


def test_a_revocation_ends_a_word_that_was_given_before_whatever_that_claims_to_rest_on() -> None:
    member = Member()
    member.admit(1)
    member.admit(2)
    member.admit(3)
    member.gate.vouch(ONE, 1_000, [TWO, THREE])
    assert member.hears(TWO, THREE) == [True, True]
    member.do(RevokeNode(node_id=TWO, reason="not trusted"))
    assert member.hears(TWO, THREE) == [False, True]
    member.do(RemoveNode(node_id=THREE, reason="its owner wants it back"))
    assert member.hears(THREE) == [True], "a removal may be older than the word"
    member.do(DenyNode(node_id=THREE))
    assert member.hears(THREE) == [False]


def test_a_state_that_takes_the_place_of_this_one_ends_words_for_those_that_it_keeps_out() -> None:
    member = Member()
    member.admit(1)
    member.gate.vouch(ONE, 1_000, [TWO, THREE])
    member.hive.do(DenyNode(node_id=TWO))
    member.gate.applied((StateReplaced(index=member.applied),))
    assert member.hears(TWO, THREE) == [False, True]


def test_with_one_that_is_taken_out_goes_its_word_and_the_word_of_those_it_spoke_for() -> None:
    member = Member()
    member.admit(1)
    member.gate.vouch(ONE, 1_000, [TWO])
    member.gate.vouch(TWO, 1_000, [THREE])
    assert member.hears(TWO, THREE) == [True, True]
    member.do(RevokeNode(node_id=ONE, reason="not trusted"))
    assert member.hears(ONE, TWO, THREE) == [False, False, False]


def test_a_state_that_takes_the_place_of_this_one_ends_what_rested_on_those_that_are_out() -> None:
    member = Member()
    member.admit(1)
    member.admit(2)
    assert member.hears(ONE, TWO) == [True, True]
    member.gate.vouch(ONE, 1_000, [THREE])
    member.gate.vouch(TWO, 1_000, [FOUR])
    member.hive.do(RemoveNode(node_id=ONE, reason="out"))
    member.gate.applied((StateReplaced(index=member.applied),))
    assert member.hears(ONE, TWO, THREE, FOUR) == [False, True, False, True]


def test_no_more_are_vouched_for_than_a_leader_names_and_none_pushes_out_another() -> None:
    member = Member()
    member.gate.vouch(ONE, 1_000, [TWO])
    many = [NodeId(f"{number:026d}") for number in range(2 * VOUCHED_MAX)]
    member.gate.vouch(ONE, 1_000, many)
    assert sum(member.hears(TWO, *many)) == VOUCHED_MAX
    assert member.hears(TWO) == [True]
