"""The rule for voters and learners, case by case, and as a loop that must come to rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivenode.encoding.node_record import NodeId
from hivenode.membership.voters import (
    GRACE_MS,
    LAG_ENTRIES_MAX,
    LEARNERS_MAX,
    STABLE_MS,
    YOUNG_HIVE_MS,
    Member,
    Place,
    VoterChange,
    VoterPolicyInput,
    departure_refusal,
    next_change,
    wanted_voters,
)

NOW_MS = 10_000_000


def member(name: str, place: Place, *, alive_ms: int = 600_000, incarnation: str = "1") -> Member:
    return Member(
        member_id=f"{name}.{incarnation}",
        node_id=NodeId(name),
        place=place,
        may_vote=True,
        current=True,
        left=False,
        alive_since_ms=NOW_MS - alive_ms,
        dead_since_ms=None,
        match_lag=0,
    )


def dead(it: Member, for_ms: int) -> Member:
    return replace(it, alive_since_ms=None, dead_since_ms=NOW_MS - for_ms)


def voter(name: str) -> Member:
    return member(name, Place.VOTER)


def learner(name: str, *, alive_ms: int = 600_000) -> Member:
    return member(name, Place.LEARNER, alive_ms=alive_ms)


def change(*members: Member, age_ms: int = 3_600_000) -> VoterChange | None:
    return next_change(VoterPolicyInput(now_ms=NOW_MS, hive_created_ms=NOW_MS - age_ms, leader="a.1", members=members))


@pytest.mark.parametrize(
    ("nodes", "voters"), [(0, 0), (1, 1), (2, 1), (3, 3), (4, 3), (6, 3), (7, 5), (8, 5), (100, 5)]
)
def test_voters_are_wanted_by_the_number_of_nodes(nodes: int, voters: int) -> None:
    assert wanted_voters(nodes) == voters


def test_a_node_alone_is_as_it_should_be() -> None:
    assert change(voter("a")) is None


def test_the_second_node_becomes_learner_and_stays_it() -> None:
    assert change(voter("a"), member("b", Place.OUTSIDE)) == VoterChange(learners=("b.1",))
    assert change(voter("a"), learner("b")) is None


def test_two_learners_become_voters_together() -> None:
    assert change(voter("a"), learner("b"), learner("c")) == VoterChange(voters=("b.1", "c.1"))


def test_one_ready_learner_waits_for_the_other_because_two_voters_are_worse_than_one() -> None:
    assert change(voter("a"), learner("b"), learner("c", alive_ms=STABLE_MS - 1)) is None


def test_a_learner_that_lags_is_not_promoted() -> None:
    behind = replace(learner("c"), match_lag=LAG_ENTRIES_MAX + 1)
    assert change(voter("a"), learner("b"), behind) is None
    assert change(voter("a"), learner("b"), replace(learner("c"), match_lag=None)) is None


def test_a_young_hive_does_not_wait_for_stability() -> None:
    members = (voter("a"), learner("b", alive_ms=1), learner("c", alive_ms=1))
    assert change(*members, age_ms=YOUNG_HIVE_MS - 1) == VoterChange(voters=("b.1", "c.1"))
    assert change(*members, age_ms=YOUNG_HIVE_MS) is None


def test_a_restart_is_not_a_leave() -> None:
    members = (voter("a"), voter("b"), learner("d"))
    assert change(*members, dead(voter("c"), GRACE_MS - 1)) is None


def test_a_dead_voter_is_replaced_after_its_grace_and_stays_as_learner() -> None:
    members = (voter("a"), voter("b"), learner("d"))
    wanted = VoterChange(voters=("d.1",), learners=("c.1",))
    assert change(*members, dead(voter("c"), GRACE_MS)) == wanted


def test_a_dead_voter_without_stand_in_stays() -> None:
    assert change(voter("a"), voter("b"), dead(voter("c"), 10 * GRACE_MS)) is None


def test_without_a_quorum_no_voter_is_replaced() -> None:
    gone = [dead(voter(name), GRACE_MS) for name in "bcd"]
    assert change(voter("a"), *gone, voter("e"), *(dead(learner(n), GRACE_MS) for n in "fg")) is None


@pytest.mark.parametrize("place", [Place.VOTER, Place.LEARNER])
def test_a_node_without_its_log_comes_back_as_a_new_learner_and_its_old_member_goes(place: Place) -> None:
    old = replace(dead(member("b", place), 5_000), current=False)
    new = member("b", Place.OUTSIDE, incarnation="2")
    rest = (voter("a"), voter("c"), voter("d"))
    assert change(*rest, old, new) == VoterChange(learners=("b.2",), remove=("b.1",))


def test_an_old_member_goes_when_the_new_one_is_already_in() -> None:
    old = replace(dead(voter("b"), 5_000), current=False)
    new = member("b", Place.LEARNER, incarnation="2")
    assert change(voter("a"), voter("c"), old, new) == VoterChange(remove=("b.1",))


def test_a_voter_that_left_is_replaced_in_one_change() -> None:
    left = replace(voter("c"), left=True)
    assert change(voter("a"), voter("b"), left, learner("d")) == VoterChange(voters=("d.1",), remove=("c.1",))


def test_voters_shrink_when_nodes_leave_but_never_by_the_leader() -> None:
    assert change(voter("a"), voter("b")) == VoterChange(learners=("b.1",))
    assert change(replace(voter("a"), left=True)) is None


def test_a_living_voter_that_leaves_waits_for_a_stand_in_that_is_on_its_way() -> None:
    left = replace(voter("c"), left=True)
    assert change(voter("a"), voter("b"), left, learner("d", alive_ms=STABLE_MS - 1)) is None
    assert change(voter("a"), voter("b"), left, dead(learner("d"), 1)) is not None


def test_where_two_voters_would_remain_the_leader_alone_does() -> None:
    left = replace(voter("c"), left=True)
    assert change(voter("a"), voter("b"), left) == VoterChange(learners=("b.1",), remove=("c.1",))
    excess = (voter("a"), voter("b"), voter("c"), replace(member("d", Place.OUTSIDE), may_vote=False))
    gone = tuple(replace(it, may_vote=False) for it in excess[1:3])
    assert change(excess[0], *gone) == VoterChange(learners=("c.1",), remove=("b.1",))


def test_a_dead_voter_that_left_goes_at_once() -> None:
    left = dead(replace(voter("c"), left=True), 1)
    assert change(voter("a"), voter("b"), left) == VoterChange(remove=("c.1",))


def test_a_voter_whose_node_came_back_without_its_log_counts_as_dead() -> None:
    old, new = replace(voter("b"), current=False), member("b", Place.LEARNER, incarnation="2", alive_ms=1)
    # b.1 is the dead one of three: without c, a alone of two would answer.
    assert change(voter("a"), old, replace(voter("c"), left=True), new) == VoterChange(remove=("b.1",))
    assert change(voter("a"), old, dead(voter("c"), 1), new) is None


def test_voters_that_are_too_many_go_together() -> None:
    six = (*(voter(name) for name in "abcde"), learner("f"))
    assert change(*six) == VoterChange(learners=("b.1", "c.1"))


def test_nodes_without_voter_right_stay_outside() -> None:
    assert change(voter("a"), replace(member("b", Place.OUTSIDE), may_vote=False)) is None


def test_learners_are_bounded_and_a_dead_one_makes_room() -> None:
    voters = [voter(name) for name in "abcde"]
    learners = [learner(f"l{n:02}") for n in range(LEARNERS_MAX)]
    newcomer = member("z", Place.OUTSIDE)
    assert change(*voters, *learners, newcomer) is None
    learners[3] = dead(learners[3], GRACE_MS)
    assert change(*voters, *learners, newcomer) == VoterChange(remove=("l03.1",))


def applied(members: list[Member], it: VoterChange) -> list[Member]:
    place = {
        **dict.fromkeys(it.voters, Place.VOTER),
        **dict.fromkeys(it.learners, Place.LEARNER),
        **dict.fromkeys(it.remove, Place.OUTSIDE),
    }
    after = [replace(m, place=place.get(m.member_id, m.place)) for m in members]
    return [m for m in after if m.current or m.place is not Place.OUTSIDE]


def _quorum_alive(voters: list[Member]) -> bool:
    return 2 * sum(it.alive_since_ms is not None for it in voters) > len(voters)


@st.composite
def pictures(draw: st.DrawFn) -> list[Member]:
    members = []
    for number in range(draw(st.integers(1, 9))):
        it = member("abcdefghi"[number], Place.VOTER if number == 0 else draw(st.sampled_from(Place)))
        if number:
            age_ms = draw(st.sampled_from([0, GRACE_MS - 1, GRACE_MS]))
            it = dead(it, age_ms) if draw(st.booleans()) else it
            it = replace(it, left=draw(st.booleans()), current=draw(st.sampled_from([True, True, False])))
        members.append(it)
        if not it.current:
            members.append(member("abcdefghi"[number], Place.OUTSIDE, incarnation="2"))
    return members


@given(pictures())
def test_changes_come_to_rest_and_never_take_a_living_quorum_away(members: list[Member]) -> None:
    for _ in range(60):
        it = change(*members)
        if it is None:
            break
        assert change(*reversed(members)) == it
        assert "a.1" not in (*it.learners, *it.remove)
        before = [m for m in members if m.place is Place.VOTER]
        members = applied(members, it)
        after = [m for m in members if m.place is Place.VOTER]
        if _quorum_alive(before):
            assert _quorum_alive(after)
        if len(after) == 2 < len(before):
            gone = [m for m in before if m.member_id not in {n.member_id for n in after}]
            assert all(m.alive_since_ms is None or not m.current for m in gone)
    else:
        pytest.fail("the rule never comes to rest")


def refusal(going: str, *members: Member, at_once: bool = False) -> str:
    given_ = VoterPolicyInput(now_ms=NOW_MS, hive_created_ms=0, leader="a.1", members=members)
    return departure_refusal(given_, NodeId(going), at_once=at_once)


def test_a_voter_may_go_while_the_others_or_with_its_help_one_alone_can_decide() -> None:
    assert refusal("b", voter("a"), voter("b"), voter("c")) == ""
    # It helps to take its own vote and the dead one's away.
    assert refusal("b", voter("a"), voter("b"), dead(voter("c"), 5_000)) == ""
    assert refusal("b", voter("a"), voter("b"), dead(voter("c"), 5_000), learner("d")) == ""
    assert refusal("c", voter("a"), voter("b"), dead(voter("c"), 5_000)) == ""
    assert refusal("d", voter("a"), learner("d")) == ""
    assert refusal("a", voter("a"), learner("d")) == ""


def test_a_voter_stays_that_a_majority_needs() -> None:
    five = [voter("a"), voter("b"), voter("c"), dead(voter("d"), 5_000), dead(voter("e"), 5_000)]
    assert "no majority" in refusal("b", *five)
    assert "no majority" in refusal("c", voter("a"), dead(voter("b"), 5_000), dead(voter("c"), 5_000))


def test_who_is_not_heard_from_now_on_goes_only_where_the_others_are_a_majority() -> None:
    assert refusal("b", voter("a"), voter("b"), voter("c"), at_once=True) == ""
    assert "only 1 answer" in refusal("b", voter("a"), voter("b"), dead(voter("c"), 5_000), at_once=True)
    assert refusal("c", voter("a"), voter("b"), dead(voter("c"), 5_000), at_once=True) == ""
