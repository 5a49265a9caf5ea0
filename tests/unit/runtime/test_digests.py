"""The rule by which the voters' digests are judged."""

from __future__ import annotations

from hivenode.consensus import ConfState, MemberId
from hivenode.runtime.digests import Verdict, judge

A, B, C, D, E = (MemberId(f"{name}.1") for name in "abcde")
RIGHT, WRONG, ODD = b"r" * 32, b"w" * 32, b"o" * 32
THREE = ConfState(voters=frozenset({A, B, C}))


def test_the_digest_of_the_majority_is_right() -> None:
    reports = {A: RIGHT, B: RIGHT, C: WRONG}
    verdicts = [judge(reports, THREE, member, time_is_up=False) for member in (A, B, C)]
    assert verdicts == [Verdict.AGREES, Verdict.AGREES, Verdict.DIFFERS]


def test_nothing_is_decided_while_a_majority_may_still_come() -> None:
    assert judge({A: RIGHT}, THREE, A, time_is_up=True) is Verdict.UNDECIDED
    assert judge({A: RIGHT, B: WRONG}, THREE, A, time_is_up=False) is Verdict.UNDECIDED


def test_without_a_majority_all_who_spoke_stop() -> None:
    split = {A: RIGHT, B: WRONG, C: ODD}
    assert {judge(split, THREE, member, time_is_up=False) for member in split} == {Verdict.NO_MAJORITY}
    assert judge({A: RIGHT, B: WRONG}, THREE, A, time_is_up=True) is Verdict.NO_MAJORITY


def test_a_learner_is_judged_and_does_not_count() -> None:
    conf = ConfState(voters=frozenset({A}), learners=frozenset({B, C}))
    reports = {A: RIGHT, B: WRONG, C: WRONG}
    assert judge(reports, conf, A, time_is_up=False) is Verdict.AGREES
    assert judge(reports, conf, B, time_is_up=False) is Verdict.DIFFERS
    assert judge({B: WRONG, C: WRONG}, conf, B, time_is_up=True) is Verdict.UNDECIDED


def test_a_joint_configuration_needs_the_majority_of_both_halves() -> None:
    joint = ConfState(voters=frozenset({A, B, C}), voters_outgoing=frozenset({A, D, E}))
    assert judge({A: RIGHT, B: RIGHT}, joint, A, time_is_up=False) is Verdict.UNDECIDED
    reports = {A: RIGHT, B: RIGHT, D: RIGHT, E: WRONG}
    assert judge(reports, joint, A, time_is_up=False) is Verdict.AGREES
    assert judge(reports, joint, E, time_is_up=False) is Verdict.DIFFERS


def test_a_member_without_a_configuration_decides_nothing() -> None:
    assert judge({A: RIGHT}, ConfState(), A, time_is_up=True) is Verdict.UNDECIDED
