"""Machines a continent apart, as on a VPN: whatever one says is at the others after a sixth of a second."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.user import User, if_done
from tests.support.daemons import STOP_DEADLINE_S, Daemon, Hive, wait_for
from tests.support.namespaces import Lan, far_apart

pytestmark = [pytest.mark.netns, pytest.mark.slow]

WAY_S = 0.16
"""Half a round trip from Europe to Australia; more than a read, a heartbeat or a dial of a LAN takes."""
GRANT_CPT = 1000
USAGE = 2
MET_DEADLINE_S = 40.0


@pytest.fixture
def ocean() -> Iterator[Lan]:
    with far_apart(4, WAY_S) as made:
        yield made


def test_machines_far_apart_are_one_hive_that_runs_tasks_and_outlives_its_leader(ocean: Lan, tmp_path: Path) -> None:
    made = Hive(folder=tmp_path)
    try:
        for host in ocean.hosts[:3]:
            made.add("--role", "auto", host=host)
        leader = made.wait(nodes=3, voters=3, workers=3)
        others = made.followers()
        user, friend = User.new(others[0], "first"), User.new(others[1], "second")
        assert user.transfer("second", 1) == GRANT_CPT - 1
        assert friend.at(others[0]).balance() == GRANT_CPT + 1
        user.upload("t", "print('from afar')\n")
        assert user.ended("t").state == "COMPLETED"
        assert user.at(others[1]).logs("t") == "from afar\n"

        address = f"{leader.node_id}@{ocean.hosts[made.daemons.index(leader)].address}:50052"
        told = ocean[made.daemons.index(others[0])].run(
            [sys.executable, "-m", "hivenode", "status", "--peer", address, "--json"]
        )
        assert json.loads(told.stdout)["node_id"] == leader.node_id

        refuse_a_copy(others[0], ocean)

        balance = friend.balance()
        leader.kill()
        assert (
            wait_for("a write after the leader's death", lambda: if_done(lambda: friend.transfer("first", 1, key="k")))
            == balance - 1
        )
        assert friend.at(others[0]).balance() == balance - 1
    finally:
        made.close()


def refuse_a_copy(original: Daemon, ocean: Lan) -> None:
    """A machine with a copy of another one's disk stops, however long the way between the two takes."""
    copy = Daemon(name="copy", folder=original.folder, flags=("--role", "auto"), host=ocean.hosts[3])
    shutil.copytree(original.data_dir, copy.data_dir)
    copy.start()
    assert copy.process is not None
    try:
        assert copy.process.wait(MET_DEADLINE_S) == USAGE, copy.log_tail()
        assert "remove node.key" in copy.log_path.read_text()
    finally:
        copy.process.kill()
        copy.process.wait(STOP_DEADLINE_S)
