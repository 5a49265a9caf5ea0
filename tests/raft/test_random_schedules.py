"""Safety in every schedule, and progress once faults stop (paper, figure 3; §5.4.3, §5.6)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.raft.schedule import Faults, Schedule

PROFILES = {
    "calm": Faults(drop=0, duplicate=0, crash=0, cut=0, conf_change=0, transfer=0, leader_lost=0),
    "lossy": Faults(drop=120, duplicate=80, crash=0),
    "crashing": Faults(crash=25),
    "cut": Faults(cut=20, leader_lost=20),
    "electing": Faults(drop=60, crash=20, conf_change=2, campaign=40),
    "parted": Faults(drop=10, crash=20, cut=30, conf_change=0, campaign=30, transfer=0),
    "changing": Faults(conf_change=60, transfer=30),
    "everything": Faults(
        drop=60, duplicate=40, crash=15, cut=10, conf_change=30, transfer=15, compact=20, leader_lost=10
    ),
}


def run(seed: int, steps: int, faults: Faults, *, pre_vote: bool = True) -> Schedule:
    schedule = Schedule(seed, faults, pre_vote=pre_vote)
    for _ in range(steps):
        schedule.step()
    schedule.finish()
    return schedule


@pytest.mark.parametrize("profile", sorted(PROFILES))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 1 << 32), steps=st.integers(0, 1500), pre_vote=st.booleans())
def test_random_schedules_keep_every_promise_and_end_in_progress(
    profile: str, seed: int, steps: int, pre_vote: bool
) -> None:
    run(seed, steps, PROFILES[profile], pre_vote=pre_vote)


def test_a_schedule_is_the_same_for_the_same_seed() -> None:
    one, other = (run(7, 1500, PROFILES["everything"]).net for _ in range(2))
    assert one.sent == other.sent
    assert one.now_ms == other.now_ms
