"""Many runs in processes of their own, and what they say in the end."""

from __future__ import annotations

from dataclasses import replace

from simulations.engine import SECOND
from simulations.run import Plan, run
from simulations.sweep import Total, results

DEADLINE_S = 60


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
