"""Two hives that formed apart and meet: an empty one dissolves into the other, one with data never does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hivenode.pb import hive_pb2
from tests.e2e.user import User
from tests.support.daemons import Daemon, Hive, wait_for
from tests.support.namespaces import Lan

pytestmark = pytest.mark.netns

GRANT_CPT = 1000
MET_DEADLINE_S = 60.0


@pytest.fixture
def began_alone() -> bool:
    """Whether the second hive was formed by one machine, which another then joined; else mostly by both."""
    return False


@pytest.fixture
def apart(network: Lan, tmp_path: Path, began_alone: bool) -> Iterator[Hive]:
    """Four daemons: the first two formed a hive, then, behind a cut, the last two another, which is younger."""
    for first in network.hosts[:2]:
        for second in network.hosts[2:]:
            network.cut(first, second)
    made = Hive(folder=tmp_path)
    try:
        for index in range(2):
            made.add("--role", "auto", host=network[index])
        made.wait(nodes=2)
        for index in range(2, 4):
            daemon = made.add("--role", "auto", host=network[index])
            if began_alone:
                wait_for("a hive", partial(hive_id_of, daemon))
        wait_for("the second hive", lambda: hive_of_two(made[2], made[3]))
        yield made
    finally:
        made.close()


def hive_id_of(daemon: Daemon) -> str | None:
    return daemon.status().hive_id or None


def hive_of_two(*daemons: Daemon) -> Daemon | None:
    """The leader of the two."""
    reports = [(daemon, daemon.status()) for daemon in daemons]
    if len({report.hive_id for _, report in reports}) != 1 or any(report.nodes != 2 for _, report in reports):
        return None
    return next((daemon for daemon, report in reports if report.leader_node_id == report.node_id), None)


@pytest.mark.parametrize("began_alone", [False, True])
def test_an_empty_hive_of_two_dissolves_into_the_older_one(apart: Hive, network: Lan) -> None:
    hive_id = apart[0].status().hive_id
    assert apart[2].status().hive_id != hive_id
    network.heal()
    apart.wait(nodes=4, voters=3, deadline_s=MET_DEADLINE_S)
    assert {daemon.status().hive_id for daemon in apart} == {hive_id}
    assert User.new(apart[3]).at(apart[0]).balance() == GRANT_CPT


def test_a_member_that_was_away_when_its_hive_dissolved_follows(apart: Hive, network: Lan) -> None:
    hive_id = apart[0].status().hive_id
    leader = wait_for("the leader of the second hive", lambda: hive_of_two(apart[2], apart[3]))
    away = apart[3] if leader is apart[2] else apart[2]
    away.kill()
    network.heal()
    wait_for("the hive of three", lambda: (leader.status().hive_id == hive_id) or None, deadline_s=MET_DEADLINE_S)
    ann = User.new(leader)
    away.start()
    wait_for("the last one", lambda: (away.status().hive_id == hive_id) or None, deadline_s=MET_DEADLINE_S)
    apart.wait(nodes=4, voters=3)
    assert ann.at(away).balance() == GRANT_CPT


def test_hives_with_data_stay_apart_and_both_say_so(apart: Hive, network: Lan) -> None:
    ann, ben = User.new(apart[0]), User.new(apart[2])
    ids = [daemon.status().hive_id for daemon in apart]
    network.heal()
    wait_for("the first hive's warning", lambda: sees(apart[0].status(), ids[2]), deadline_s=MET_DEADLINE_S)
    wait_for("the second hive's warning", lambda: sees(apart[2].status(), ids[0]), deadline_s=MET_DEADLINE_S)
    assert [daemon.status().hive_id for daemon in apart] == ids
    assert (ann.balance(), ben.balance()) == (GRANT_CPT, GRANT_CPT)


def sees(report: hive_pb2.GetStatusResponse, other: str) -> bool | None:
    return any(f"foreign hive seen: {other}" in warning for warning in report.warnings) or None
