"""A hive that lost its quorum for good goes on with what one machine has; those declared dead never come back with their logs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.user import User
from tests.support.daemons import ANSWER_DEADLINE_S, ROOT, Daemon, Hive, hive, wait_for

GRANT_CPT = 1000
USAGE = 2


def recover(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hivenode", "cluster", "recover", "--data-dir", str(daemon.data_dir), *arguments]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=ANSWER_DEADLINE_S, cwd=ROOT, env=daemon.environment, check=False
    )


def caught_up(made: Hive, daemon: Daemon) -> None:
    """What was acknowledged with two copies is on this disk, among others."""
    leader = made.leader()

    def look() -> bool | None:
        return (leader.status().copies >= 2 and daemon.status().applied_index >= leader.status().commit_index) or None

    wait_for("the survivor's log", look)


@pytest.mark.parametrize("count", [2, 3])
def test_the_survivor_goes_on_with_all_that_had_two_copies(tmp_path: Path, count: int) -> None:
    with hive(tmp_path, count) as made:
        survivor = made.followers()[0]
        others = [daemon for daemon in made if daemon is not survivor]
        dead = [daemon.node_id for daemon in others]
        named = [argument for node in dead for argument in ("--dead", node)]
        ann, ben = User.new(made.leader()), User.new(survivor)
        for _ in range(5):
            ann.transfer(ben.name, 10)
        caught_up(made, survivor)
        hive_id = survivor.status().hive_id
        running = recover(survivor, *named, "--yes")
        assert running.returncode != 0
        assert "already runs" in running.stderr
        for daemon in others:
            daemon.kill()
        survivor.kill()

        unnamed = recover(survivor, "--yes")
        assert unnamed.returncode != 0
        assert all(node in unnamed.stderr for node in dead)
        done = recover(survivor, *named, "--yes")
        assert done.returncode == 0, done.stderr
        assert f"{hive_id}+1." in done.stdout
        assert "may be lost" in done.stdout

        survivor.start()
        wait_for("a leader", lambda: (survivor.status().leader_node_id == survivor.node_id) or None)
        report = survivor.status()
        assert report.hive_id.startswith(f"{hive_id}+1.")
        assert [member.node_id for member in report.members] == [survivor.node_id]
        assert report.nodes == 1
        ann, ben = ann.at(survivor), ben.at(survivor)
        # A token is for one epoch.
        ann.log_in()
        ben.log_in()
        assert (ann.balance(), ben.balance()) == (GRANT_CPT - 50, GRANT_CPT + 50)
        ann.transfer(ben.name, 1)

        returned = others[0]
        returned.start()
        assert returned.process is not None
        assert returned.process.wait(60) == USAGE, returned.log_tail()
        assert "declared dead" in returned.log_path.read_text()
        assert survivor.status().nodes == 1
        shutil.move(returned.data_dir / "log", tmp_path / "given-up-log")
        returned.start()
        wait_for("the return as a new member", lambda: (survivor.status().nodes == 2) or None)
        wait_for("the hive's id", lambda: (returned.status().hive_id == report.hive_id) or None)
        assert ben.at(returned).balance() == GRANT_CPT + 51


def test_nothing_is_recovered_while_a_quorum_answers(tmp_path: Path) -> None:
    with hive(tmp_path, 3) as made:
        stopped = made.followers()[0]
        others = [daemon for daemon in made if daemon is not stopped]
        caught_up(made, stopped)
        stopped.kill()
        done = recover(stopped, *(argument for daemon in others for argument in ("--dead", daemon.node_id)), "--yes")
        assert done.returncode != 0
        assert "a quorum answers" in done.stderr
        assert done.stdout.count("answers") == 2
        stopped.start()
        made.wait(nodes=3, voters=3)
