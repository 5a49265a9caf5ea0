from __future__ import annotations

import dataclasses

import pytest

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.membership.voters import Member, Place, VoterPolicyInput
from hivenode.runtime.departures import refuse_departure


def _voter(name: str, *, answers: bool = True) -> Member:
    return Member(
        member_id=f"{name}.1",
        node_id=NodeId(name),
        place=Place.VOTER,
        may_vote=True,
        current=True,
        left=False,
        alive_since_ms=0 if answers else None,
        dead_since_ms=None if answers else 0,
        match_lag=0,
    )


def _seen(*members: Member) -> VoterPolicyInput:
    return VoterPolicyInput(now_ms=100_000, hive_created_ms=0, leader="a.1", members=members)


def _refused(seen: VoterPolicyInput, *, is_joint: bool = False, at_once: bool = False) -> Code:
    with pytest.raises(HiveError) as refused:
        refuse_departure(seen, NodeId("c"), is_joint=is_joint, at_once=at_once)
    return refused.value.code


def test_a_voter_may_go_while_the_others_answer() -> None:
    refuse_departure(_seen(*map(_voter, "abc")), NodeId("c"), is_joint=False, at_once=True)


def test_a_voter_that_is_heard_no_more_needs_a_majority_without_it() -> None:
    seen = _seen(_voter("a"), _voter("b", answers=False), _voter("c"))
    assert _refused(seen, at_once=True) is Code.INSUFFICIENT_RESOURCES
    refuse_departure(seen, NodeId("c"), is_joint=False, at_once=False)


def test_nobody_goes_while_the_configuration_is_joint() -> None:
    assert _refused(_seen(*map(_voter, "abc")), is_joint=True) is Code.OVERLOADED


@pytest.mark.parametrize("changed", [{"left": True}, {"may_vote": False}])
def test_nobody_goes_while_another_voter_is_on_its_way_out(changed: dict[str, bool]) -> None:
    going = dataclasses.replace(_voter("b"), **changed)  # type: ignore[arg-type]
    assert _refused(_seen(_voter("a"), going, _voter("c"))) is Code.OVERLOADED


def test_a_voter_that_is_on_its_way_out_may_be_taken_out_again() -> None:
    going = dataclasses.replace(_voter("c"), left=True)
    refuse_departure(_seen(_voter("a"), _voter("b"), going), NodeId("c"), is_joint=False, at_once=False)
