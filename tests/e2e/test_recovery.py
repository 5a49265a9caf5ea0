"""A hive that lost its quorum for good goes on with what one machine has; those declared dead never come back with their logs."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from hivenode.pb import nodepool_pb2
from hivenode.transport.metadata import COPIES
from tests.e2e.test_birth import begin_birth
from tests.e2e.user import USERS, CallError, User
from tests.support.daemons import ANSWER_DEADLINE_S, ROOT, Daemon, Hive, hive, wait_for

GRANT_CPT = 1000
USAGE = 2
MANY = 200
"""Transfers that are acknowledged before a machine is lost in the middle of more."""
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


@dataclass(frozen=True)
class Told:
    """A transfer of 1 CPT that was acknowledged: what the sender had then, and on how many disks it lay."""

    key: str
    left_cpt: int
    copies: int


class Sender(threading.Thread):
    """Transfers as fast as answers come, a new key for each, until one is not done."""

    def __init__(self, through: Daemon, receiver: str) -> None:
        super().__init__()
        self.user = User.new(through)
        self.receiver = receiver
        self.told: list[Told] = []

    def run(self) -> None:
        with contextlib.suppress(CallError):
            while True:
                self.told.append(self.send(f"{self.user.name}-{len(self.told)}"))

    def send(self, key: str) -> Told:
        request = nodepool_pb2.TransferRequest(token=self.user.token, receiver_username=self.receiver, amount=1)
        answer, trailing = self.user.call_told(f"{USERS}Transfer", request, nodepool_pb2.TransferResponse, key=key)
        return Told(key, answer.new_balance, int(trailing[COPIES]))


@pytest.mark.parametrize("lost", ["leader", "follower"])
def test_of_two_machines_either_may_be_lost_for_ever_in_the_middle_of_writing(tmp_path: Path, lost: str) -> None:
    with hive(tmp_path, 2, "--executor", "none") as made:
        leader, follower = made.leader(), made.followers()[0]
        gone, left = (leader, follower) if lost == "leader" else (follower, leader)
        gone_id, left_id = gone.node_id, left.node_id
        caught_up(made, follower)
        receiver = User.new(leader)
        senders = [Sender(through, receiver.name) for through in (leader, follower, leader, follower)]
        for sender in senders:
            sender.start()
        try:
            wait_for("many transfers", lambda: (sum(len(each.told) for each in senders) >= MANY) or None)
        finally:
            gone.kill()
            left.kill()
            for sender in senders:
                sender.join(ANSWER_DEADLINE_S)
        shutil.rmtree(gone.data_dir)
        safe = {sender: [told for told in sender.told if told.copies >= 2] for sender in senders}
        print({sender.user.name: (len(sender.told), len(safe[sender])) for sender in senders})
        assert sum(map(len, safe.values())) > MANY // 2

        recovered = recover(left, "--dead", gone_id, "--yes")
        if gone is leader:
            assert recovered.returncode == 0, recovered.stderr
        else:
            # The only voter is left, so nothing is lost, and the hive goes on by itself.
            assert "a quorum answers, or is here to be started" in recovered.stderr
        left.start()
        wait_for("a leader", lambda: (left.status().leader_node_id == left_id) or None)
        for sender in senders:
            sender.user = sender.user.at(left)
            sender.user.log_in()
            before = sender.user.balance()
            assert before <= GRANT_CPT - len(safe[sender])
            # The same key is the same transfer: its answer is remembered with it, and nothing moves again.
            for told in safe[sender]:
                assert sender.send(told.key).left_cpt == told.left_cpt
            assert sender.user.balance() == before


def test_a_member_that_is_neither_named_nor_shown_keeps_a_hive_from_recovery(tmp_path: Path) -> None:
    with hive(tmp_path, 2, "--executor", "none") as made:
        other, left = made.leader(), made.followers()[0]
        other_id = other.node_id
        caught_up(made, left)
        other.kill()
        left.kill()
        unnamed = recover(left, "--yes")
        assert unnamed.returncode != 0
        assert other_id in unnamed.stderr


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
