"""The documented price in whole numbers, and trust levels."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivenode.pool import pricing
from hivenode.pool.records import Needs, Priority, TaskSpec
from hivenode.pool.trust import trust_level
from tests.unit.pool.driver import Hive, capabilities


@given(
    memory=st.integers(0, 4_096),
    cpu=st.integers(0, 100_000),
    gpu=st.integers(0, 100_000),
    gpu_memory=st.integers(0, 1_024),
    priority=st.sampled_from(Priority),
)
def test_price_is_the_documented_formula(memory: int, cpu: int, gpu: int, gpu_memory: int, priority: Priority) -> None:
    needs = Needs(memory_gb=memory, cpu_score=cpu, gpu_score=gpu, gpu_memory_gb=gpu_memory)
    base = max(1, (100 * memory + cpu + gpu + 100 * gpu_memory) // 100)
    factor = {Priority.NORMAL: 10, Priority.HIGH: 12, Priority.URGENT: 15}[priority]
    assert pricing.cost_per_minute(TaskSpec(needs=needs, priority=priority)) == base * factor // 10


@pytest.mark.parametrize(
    ("needs", "priority", "cost"),
    [
        (Needs(), Priority.NORMAL, 1),
        (Needs(), Priority.URGENT, 1),
        (Needs(memory_gb=4, cpu_score=250), Priority.NORMAL, 6),
        (Needs(memory_gb=4, cpu_score=250, gpu_score=50), Priority.HIGH, 8),
        (Needs(gpu_memory_gb=35), Priority.HIGH, 42),
        (Needs(memory_gb=5), Priority.URGENT, 7),
    ],
)
def test_price_of_examples(needs: Needs, priority: Priority, cost: int) -> None:
    assert pricing.cost_per_minute(TaskSpec(needs=needs, priority=priority)) == cost


@pytest.mark.parametrize(("limit_s", "minutes"), [(1, 1), (60, 1), (61, 2), (300, 5)])
def test_hold_is_for_every_started_minute_of_the_limit(limit_s: int, minutes: int) -> None:
    assert pricing.hold_for(TaskSpec(needs=Needs(memory_gb=3), time_limit_s=limit_s)) == 3 * minutes


@pytest.mark.parametrize(("ms", "minutes"), [(-5, 1), (0, 1), (1, 1), (60_000, 1), (60_001, 2), (300_000, 5)])
def test_minutes_are_those_that_were_started(ms: int, minutes: int) -> None:
    assert pricing.started_minutes(1_000_000, 1_000_000 + ms) == minutes


def test_trust_grows_with_work_falls_with_faults_and_stays_within_bounds() -> None:
    hive = Hive()
    hive.node(1)
    entry = hive.entry_of(1)
    levels = [trust_level(dataclasses.replace(entry, completed=done)) for done in (0, 1, 20, 1_000, 10**9)]
    assert levels == sorted(levels)
    assert levels[0] == 30
    assert levels[2] == 65
    assert levels[-1] <= 100
    assert trust_level(dataclasses.replace(entry, completed=20, failed=5)) < levels[2]
    no_docker = dataclasses.replace(entry, capabilities=capabilities(docker_status="absent"))
    assert trust_level(no_docker) == 10
