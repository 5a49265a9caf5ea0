"""Whom the leader takes for alive, suspect or lost."""

from __future__ import annotations

from hivenode.encoding.node_record import NodeId
from hivenode.membership.suspicion import Standing, Suspicion, SuspicionConfig

NODE = NodeId("a" * 26)
CONFIG = SuspicionConfig(suspect_ms=5_000, lost_ms=10_000, refused_grace_ms=300)


def test_a_worker_that_is_heard_is_alive_and_one_never_heard_of_is_lost() -> None:
    suspicion = Suspicion(CONFIG)
    assert suspicion.standing(NODE) is Standing.LOST
    suspicion.heard(NODE, 1_000)
    assert suspicion.standing(NODE) is Standing.ALIVE
    assert suspicion.next_deadline() == 6_000


def test_silence_makes_suspect_and_then_lost_once() -> None:
    suspicion = Suspicion(CONFIG)
    suspicion.heard(NODE, 0)
    assert suspicion.judge(4_999) == ()
    assert suspicion.judge(5_000) == ()
    assert suspicion.standing(NODE) is Standing.SUSPECT
    assert [lost.node_id for lost in suspicion.judge(10_000)] == [NODE]
    assert suspicion.judge(20_000) == ()
    assert suspicion.next_deadline() is None


def test_a_refused_connection_after_a_reset_is_lost_after_the_grace() -> None:
    suspicion = Suspicion(CONFIG)
    suspicion.heard(NODE, 0)
    suspicion.reset(NODE)
    suspicion.refused(NODE, 100)
    assert suspicion.judge(399) == ()
    assert suspicion.next_deadline() == 400
    assert [lost.reason for lost in suspicion.judge(400)] == ["the worker's daemon is gone"]


def test_a_word_within_the_grace_takes_the_suspicion_away() -> None:
    suspicion = Suspicion(CONFIG)
    suspicion.heard(NODE, 0)
    suspicion.reset(NODE)
    suspicion.refused(NODE, 100)
    suspicion.heard(NODE, 200)
    assert suspicion.judge(1_000) == ()
    assert suspicion.standing(NODE) is Standing.ALIVE


def test_a_refusal_without_a_reset_says_nothing() -> None:
    suspicion = Suspicion(CONFIG)
    suspicion.heard(NODE, 0)
    suspicion.refused(NODE, 100)
    assert suspicion.judge(1_000) == ()


def test_an_expected_worker_gets_the_full_time_from_the_election_on() -> None:
    suspicion = Suspicion(CONFIG)
    suspicion.expect(NODE, 1_000)
    suspicion.expect(NODE, 9_000)
    assert suspicion.judge(10_999) == ()
    assert [lost.node_id for lost in suspicion.judge(11_000)] == [NODE]


def test_a_reset_with_silence_is_lost_by_the_time_of_silence() -> None:
    suspicion = Suspicion(CONFIG)
    suspicion.heard(NODE, 0)
    suspicion.reset(NODE)
    assert suspicion.judge(9_999) == ()
    assert len(suspicion.judge(10_000)) == 1
