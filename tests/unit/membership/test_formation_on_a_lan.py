"""Whole LANs of fresh nodes in virtual time: whatever the start times and delays, one hive holds all in the end."""

from __future__ import annotations

import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivenode.encoding.node_record import NodeId
from hivenode.membership.formation import FormationState, Me
from tests.unit.membership.lan import Lan


def never(caller: NodeId, target: NodeId, nth: int) -> bool:
    return False


@pytest.mark.parametrize("nodes", [1, 2, 3, 7, 20])
def test_nodes_started_together_form_one_hive_at_the_first_try(nodes: int) -> None:
    lan = Lan(random.Random(nodes), never, founders_taken_in=False)
    for number in range(nodes):
        lan.boot(Me(node_id=NodeId(f"n{number:02}"), may_vote=True))
    lan.run(6_000)
    assert lan.settled()
    assert len(lan.formed) == 1
    assert lan.hives[lan.formed[0]].members == set(lan.hosts)


def test_a_newcomer_joins_a_standing_hive_within_three_seconds() -> None:
    lan = Lan(random.Random(1), never, founders_taken_in=True)
    for number in range(3):
        lan.boot(Me(node_id=NodeId(f"n{number}"), may_vote=True))
    lan.run(6_000)
    lan.boot(Me(node_id=NodeId("a-lower-id"), may_vote=True))
    lan.run(9_000)
    assert lan.settled()
    assert len(lan.formed) == 1


def test_workers_wait_for_a_voter_however_long_it_takes() -> None:
    lan = Lan(random.Random(1), never, founders_taken_in=True)
    for number in range(3):
        lan.boot(Me(node_id=NodeId(f"n{number}"), may_vote=False))
    lan.run(120_000)
    assert not lan.hives
    assert {host.formation.state for host in lan.hosts.values()} == {FormationState.WAITING}
    lan.boot(Me(node_id=NodeId("voter"), may_vote=True))
    lan.run(126_000)
    assert lan.settled()


@pytest.mark.parametrize("sides", [("a", "b"), ("a", "bcd"), ("abc", "d"), ("ab", "cde"), ("abc", "def")])
def test_an_empty_hive_that_formed_behind_a_cut_leaves_for_the_better_one(sides: tuple[str, str]) -> None:
    healed_ms = 8_000

    def cut(caller: NodeId, target: NodeId, nth: int) -> bool:
        return lan.now_ms < healed_ms and (caller in sides[0]) != (target in sides[0])

    lan = Lan(random.Random(5), cut, founders_taken_in=True)
    for name in sides[0] + sides[1]:
        lan.boot(Me(node_id=NodeId(name), may_vote=True))
    lan.run(healed_ms - 1)
    assert len(lan.hives) == 2
    lan.run(healed_ms + 12_000)
    assert lan.settled()


@settings(max_examples=300, deadline=None)
@given(
    starts_ms=st.lists(st.integers(0, 10_000), min_size=1, max_size=6),
    voters=st.lists(st.booleans(), min_size=6, max_size=6),
    losses=st.lists(st.sampled_from([0, 0, 0, 1, 1, 2]), min_size=36, max_size=36),
    seed=st.integers(0, 1 << 32),
    founders_taken_in=st.booleans(),
)
def test_all_nodes_end_in_one_hive_whatever_the_start_times_delays_and_losses(
    starts_ms: list[int], voters: list[bool], losses: list[int], seed: int, founders_taken_in: bool
) -> None:
    def lose(caller: NodeId, target: NodeId, nth: int) -> bool:
        return nth <= losses[6 * int(caller[1:]) + int(target[1:])]

    lan = Lan(random.Random(seed), lose, founders_taken_in)
    voters = [*voters[: len(starts_ms) - 1], True]
    for number, (start_ms, may_vote) in enumerate(zip(starts_ms, voters, strict=True)):
        me = Me(node_id=NodeId(f"n{number}"), may_vote=may_vote)
        lan.at(start_ms, partial(lan.boot, me))
    lan.run(10_000)
    lan.run(40_000)
    assert lan.settled(), {node: (host.formation.state, host.formation.hive_id) for node, host in lan.hosts.items()}
    assert len(lan.hives) == 1
