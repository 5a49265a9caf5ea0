"""A hive that lost its quorum for good goes on with what one machine has; those declared dead never come back with their logs."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_birth import begin_birth
from tests.e2e.user import User
from tests.support.daemons import ANSWER_DEADLINE_S, ROOT, Daemon, Hive, hive, wait_for

GRANT_CPT = 1000
USAGE = 2
RECOVERY_DEADLINE_S = 60.0
"""A machine that is gone is asked for a quarter of a minute."""


def start_recovery(daemon: Daemon, *arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "hivenode", "cluster", "recover", "--data-dir", str(daemon.data_dir), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=daemon.environment)


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """What a command came to, however it ends."""
    try:
        out, errors = process.communicate(timeout=RECOVERY_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def recover(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ended(start_recovery(daemon, *arguments))


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


def test_a_machine_that_answers_only_at_the_second_asking_is_not_dead(tmp_path: Path) -> None:
    with hive(tmp_path, 2) as made:
        other, stopped = made.leader(), made.followers()[0]
        address, node_id = other.peer_address, other.node_id
        caught_up(made, stopped)
        stopped.kill()
        other.kill()
        host, _, port = address.rpartition(":")
        with socket.create_server((host, int(port))) as nobody:
            nobody.settimeout(ANSWER_DEADLINE_S)
            command = start_recovery(stopped, "--dead", node_id, "--yes")
            try:
                # It is asked, and gives no answer; only then its daemon starts.
                nobody.accept()[0].close()
            finally:
                nobody.close()
                other.flags = (*other.flags, "--peer-listen", address)
                other.start()
                done = ended(command)
        assert done.returncode != 0, done.stdout
        assert "a quorum answers" in done.stderr
        assert "waiting for an answer of" in done.stderr
        assert node_id[:8] in done.stderr
        stopped.start()
        made.wait(nodes=2, voters=1)


def test_where_the_others_are_is_known_from_the_log_when_the_state_lags_behind(tmp_path: Path) -> None:
    with hive(tmp_path, 2) as made:
        other, stopped = made.leader(), made.followers()[0]
        caught_up(made, stopped)
        stopped.kill()
        # As if nothing had been flushed since the beginning: all is in the log still.
        shutil.rmtree(stopped.data_dir / "state")
        done = recover(stopped, "--dead", other.node_id, "--yes")
        assert done.returncode != 0, done.stdout
        assert "a quorum answers" in done.stderr
        stopped.start()
        made.wait(nodes=2, voters=1)


def test_a_machine_that_does_not_know_its_own_record_asks_nobody_and_recovers_nothing(tmp_path: Path) -> None:
    daemon = Daemon(name="unborn", folder=tmp_path)
    begin_birth(daemon.data_dir)
    done = recover(daemon, "--yes")
    assert done.returncode != 0
    assert "this machine's own record" in done.stderr
