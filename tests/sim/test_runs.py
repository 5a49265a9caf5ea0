"""Whole runs: a small sweep, every scenario, what a failure prints, and bugs put in on purpose."""

from __future__ import annotations

import io

import pytest

from simulations import mutants, scenarios
from simulations.engine import MINUTE, SECOND
from simulations.faults import Faults
from simulations.run import Plan, run
from simulations.world import Settings, World


@pytest.mark.parametrize(("seed", "nodes"), [(101, 5), (103, 7), (104, 3), (105, 1), (106, 2)])
def test_a_hive_under_all_faults_keeps_its_promises_and_comes_to_rest(seed: int, nodes: int) -> None:
    result = run(Plan(seed=seed, nodes=nodes, duration_us=3 * MINUTE, faults="all"))
    assert result.failure == ""
    assert result.commits > 50
    assert result.checked > 20


@pytest.mark.parametrize("name", sorted(scenarios.ALL))
def test_scenario(name: str) -> None:
    assert "trace" in scenarios.ALL[name](1)


def test_a_trace_does_not_change_the_run() -> None:
    plan = Plan(seed=9, nodes=5, duration_us=MINUTE, faults="all")
    assert run(plan).digest == run(plan, io.StringIO()).digest


def test_without_faults_nobody_is_deposed() -> None:
    result = run(Plan(seed=8, nodes=5, duration_us=5 * MINUTE, faults="none"))
    assert result.failure == ""
    assert result.elections == 1


def test_an_unknown_fault_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no fault 'rain'"):
        Faults(World(1, Settings()), "crash,rain")


@pytest.mark.parametrize("name", ["commit_beyond_match", "state_depends_on_node", "request_done_again"])
def test_a_bug_put_in_on_purpose_is_found_and_the_run_says_how_to_see_it_again(name: str) -> None:
    found = mutants.bite(name, seeds_max=8)
    assert found.seeds > 0
    plan = Plan(seed=found.seeds, nodes=5, duration_us=int(mutants.HOURS * 60 * MINUTE), faults="all")
    assert plan.command() == f"python -m simulations replay --nodes 5 --seed {found.seeds} --hours 0.1 --faults all"


def test_another_seed_is_another_run() -> None:
    plans = [Plan(seed=seed, nodes=3, duration_us=10 * SECOND, faults="all") for seed in (1, 2)]
    assert len({run(plan).digest for plan in plans}) == 2


def test_a_mutant_leaves_nothing_behind() -> None:
    plan = Plan(seed=3, nodes=3, duration_us=MINUTE, faults="all")
    before = run(plan).digest
    for mutant in mutants.ALL.values():
        with mutant():
            pass
    assert run(plan).digest == before


def test_a_founder_does_not_elect_itself_by_the_configuration_of_before() -> None:
    """It kept entries that follow a change of the configuration, without that the change is committed."""
    assert "trace" in scenarios.ALL["figure_8"](3)


def test_a_node_that_is_in_the_lists_of_two_hives_takes_the_log_of_its_own_alone() -> None:
    """Two hives were forming, and the answer of the one got lost before the other took the node in."""
    assert "one hive" in scenarios.ALL["discovery_loses_most"](3)


def test_one_machine_works_off_a_crowds_queue_before_it_rests() -> None:
    """Its two slots took longer for the tasks of a crowd than any hive needs to come to rest otherwise."""
    assert run(Plan(seed=289, nodes=1, duration_us=108 * SECOND, faults="all")).failure == ""
