"""`hivenode cluster join --abandon`: the owner moves a machine with data to another hive; what it had is kept beside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.user import User
from tests.support.daemons import ANSWER_DEADLINE_S, ROOT, Daemon, Hive, hive, wait_for

GRANT_CPT = 1000
APART = ("--no-mdns", "--executor", "none")
GOES = "this node goes to another hive"
KEPT = "what this node had of its hive is kept"


def join(daemon: Daemon, *arguments: str, words: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hivenode", "cluster", "join", "--data-dir", str(daemon.data_dir), *arguments]
    return subprocess.run(
        argv,
        input=words,
        capture_output=True,
        text=True,
        timeout=2 * ANSWER_DEADLINE_S,
        cwd=ROOT,
        env=daemon.environment,
        check=False,
    )


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def is_member_of(made: Hive, moved: Daemon, hive_id: str, nodes: int) -> None:
    def look() -> bool | None:
        # It begins anew, and may listen elsewhere then; the hive itself says when it is in.
        report = made[0].status()
        return (report.hive_id == hive_id and report.nodes == nodes) or None

    wait_for(f"{moved.name} in the other hive", look)
    moved.redial()
    wait_for("its own word", lambda: (moved.status().hive_id == hive_id and moved.status().phase == "member") or None)


def test_a_machine_with_data_goes_to_another_hive_when_its_owner_writes_so(tmp_path: Path) -> None:
    with hive(folder(tmp_path / "target"), 1, *APART) as target, hive(folder(tmp_path / "old"), 1, *APART) as old:
        ann, ben = User.new(target[0]), User.new(old[0])
        target_id, old_id = target[0].status().hive_id, old[0].status().hive_id
        address = target[0].peer_address

        kept = join(old[0], address)
        assert kept.returncode != 0
        assert "--abandon" in kept.stderr
        for words in ("", "yes\n"):
            unsaid = join(old[0], "--abandon", address, words=words)
            assert unsaid.returncode != 0
            assert f"hive {old_id}: 1 users, 0 tasks" in unsaid.stderr
        assert old[0].status().hive_id == old_id
        assert ben.balance() == GRANT_CPT

        done = join(old[0], "--abandon", address, words="abandon\n")
        assert done.returncode == 0, done.stderr
        assert target_id in done.stdout
        is_member_of(target, old[0], target_id, 2)
        assert ann.at(old[0]).balance() == GRANT_CPT
        assert [path.name for path in old[0].data_dir.glob("hive-before-*/log")] == ["log"]
        assert not (old[0].data_dir / "join.json").exists()

        again = join(old[0], "--abandon", "--yes", address)
        assert again.returncode != 0
        assert "own hive" in again.stderr


def test_a_leader_that_goes_leaves_its_hive_in_order(tmp_path: Path) -> None:
    settings = {"HIVENODE_MDNS_GROUP": f"old-{os.getpid()}"}
    with (
        hive(folder(tmp_path / "target"), 1, *APART) as target,
        hive(folder(tmp_path / "old"), 3, settings=settings) as old,
    ):
        ben = User.new(old[0])
        leader = old.leader()
        gone = leader.node_id
        target_id = target[0].status().hive_id
        done = join(leader, "--abandon", "--yes", "--json", target[0].peer_address)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["hive_id"] == target_id
        is_member_of(target, leader, target_id, 2)
        old.daemons.remove(leader)
        try:
            stays = old.wait(nodes=2, voters=1)
            assert gone not in {member.node_id for member in stays.status().members}
            ben = ben.at(stays)
            ben.log_in()  # A login of a machine that has left counts no more.
            assert ben.balance() == GRANT_CPT
        finally:
            leader.close()


def says(daemon: Daemon, words: str) -> None:
    """Waits for words in the log, and looks so often that what follows them is not over yet."""
    deadline = time.monotonic() + ANSWER_DEADLINE_S
    while words not in daemon.log_path.read_text():
        assert time.monotonic() < deadline, daemon.log_tail()
        time.sleep(0.000_5)


@pytest.mark.parametrize("words", [GOES, KEPT])
def test_a_daemon_that_is_told_to_end_while_it_begins_anew_ends(tmp_path: Path, words: str) -> None:
    with hive(folder(tmp_path / "target"), 1, *APART) as target, hive(folder(tmp_path / "old"), 1, *APART) as old:
        User.new(old[0])
        argv = ["cluster", "join", "--data-dir", str(old[0].data_dir), "--abandon", "--yes", target[0].peer_address]
        # Its own answer may be that the daemon is gone.
        asks = subprocess.Popen(
            [sys.executable, "-m", "hivenode", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=old[0].environment,
        )
        try:
            says(old[0], words)
            assert old[0].stop() == 0
        finally:
            asks.kill()
            asks.wait(ANSWER_DEADLINE_S)
        # The old hive is out of the way whenever the word came.
        assert [path.name for path in old[0].data_dir.glob("hive-before-*/log")] == ["log"]
