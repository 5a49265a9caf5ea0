"""The first runs of `make sweep`, on all cores, and what a sweep says in the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulations.engine import SECOND
from simulations.run import Plan, run
from simulations.sweep import Total, results
from tests.support.sweeping import BESIDE

DEADLINE_S = 1_500
"""Many times what it takes on two cores that have nothing else to do."""


@pytest.mark.slow
@pytest.mark.beside
@pytest.mark.timeout(DEADLINE_S + 100)
def test_a_hundred_node_hours_under_all_faults_keep_every_promise() -> None:
    total, elapsed_s = BESIDE.result(DEADLINE_S)
    summary = total.summary(elapsed_s)
    print(summary)
    assert not total.failed, summary
    assert total.node_hours >= 100
    # What is kept by hives that nothing happens to is no promise.
    assert total.faults > 20 * total.node_hours
    assert total.elections > 5 * total.node_hours
    assert total.commits > 300 * total.node_hours
    assert total.checked > 100 * total.node_hours


def test_a_run_is_the_same_in_another_process() -> None:
    plans = [Plan(seed=seed, nodes=3, duration_us=20 * SECOND, faults="all") for seed in (1, 2, 3)]
    digests = {result.plan.seed: result.digest for result, _ in results(plans, 2, DEADLINE_S)}
    assert digests == {plan.seed: run(plan).digest for plan in plans}


def test_a_sweep_names_the_one_command_that_does_a_failed_run_again() -> None:
    plan = Plan(seed=7, nodes=1, duration_us=SECOND, faults="none")
    total = Total()
    total.add(replace(run(plan), failure="a promise was broken"), 1.0)
    assert "1 runs, 1 failed" in total.summary(1.0)
    assert f"again: {plan.command()}" in total.summary(1.0)
