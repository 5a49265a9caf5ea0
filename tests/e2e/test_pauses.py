"""Daemons that hang instead of dying, and a whole hive that goes down: what was acknowledged stays, what is told is true."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path

import pytest

from hivenode.errors import Outcome
from tests.e2e.user import CallError, User, if_done
from tests.support.daemons import hive, wait_for

GRANT_CPT = 1000
TRY_S = 5.0

pytestmark = pytest.mark.slow


def test_paused_leader_is_replaced_and_follows_when_it_goes_on(tmp_path: Path) -> None:
    with hive(tmp_path, 3, "--executor", "none") as three:
        old = three.leader()
        others = [daemon for daemon in three if daemon is not old]
        user, receiver = User.new(others[0]), User.new(others[0])
        old.signal(signal.SIGSTOP)
        begun = time.monotonic()
        try:
            wait_for("a write without the leader", lambda: if_done(lambda: user.transfer(receiver.name, 1, key="k")))
            print(f"the leader paused: next write done after {time.monotonic() - begun:.2f} s")
        finally:
            old.signal(signal.SIGCONT)
        # It wakes in the belief that it leads, and must not answer from what it knew.
        balance = wait_for("an answer of the one that was paused", lambda: if_done(user.at(old).balance))
        assert balance == GRANT_CPT - 1
        assert three.wait(voters=3) is not old or old.status().term > 2
        for daemon in three:
            assert user.at(daemon).balance() == GRANT_CPT - 1


def test_whole_hive_killed_at_once_comes_back_with_everything(tmp_path: Path) -> None:
    with hive(tmp_path, 3, "--executor", "sandbox", workers=3) as three:
        user, receiver = User.new(three[0]), User.new(three[1])
        user.upload("done", "print('kept')\n")
        user.ended("done")
        user.upload("waits", "print('later')\n", location="nowhere")
        for number in range(20):
            user.at(three[number % 3]).transfer(receiver.name, 1, key=f"k{number}")
        before = user.balance()
        for daemon in three:
            daemon.signal(signal.SIGKILL)
        for daemon in three:
            daemon.kill()
        for daemon in three:
            daemon.start()
        three.wait(workers=3)
        for daemon in three:
            here = user.at(daemon)
            assert here.balance() == before
            assert receiver.at(daemon).balance() == GRANT_CPT + 20
            assert here.logs("done") == "kept\n"
            assert here.result("done")
            assert here.poll("waits").status == "PENDING"
            # A repeated key is still the transfer that it was.
            here.transfer(receiver.name, 1, key="k7")
        assert user.balance() == before


def test_quorum_that_is_lost_is_told_and_comes_back(tmp_path: Path) -> None:
    with hive(tmp_path, 3, "--executor", "none") as three:
        survivor, *others = three
        user, receiver = User.new(survivor), User.new(survivor)
        for daemon in others:
            daemon.kill()
        begun = time.monotonic()
        with pytest.raises(CallError) as caught:
            user.at(survivor, timeout_s=TRY_S).transfer(receiver.name, 1, key="lost")
        assert caught.value.outcome in (Outcome.RETRY, Outcome.UNKNOWN)
        print(f"without a quorum: {caught.value} after {time.monotonic() - begun:.2f} s")
        wait_for("word of it", lambda: survivor.status().leader_node_id == "" or None)
        for daemon in others:
            daemon.start()
        three.wait()
        wait_for("the same write again", lambda: if_done(lambda: user.transfer(receiver.name, 1, key="lost")))
        assert (user.balance(), receiver.balance()) == (GRANT_CPT - 1, GRANT_CPT + 1)


def test_daemons_that_stop_in_order_hand_over_and_keep_everything(tmp_path: Path) -> None:
    with hive(tmp_path, 3, "--executor", "none") as three:
        leader, follower = three.leader(), three.followers()[0]
        asked = three.followers()[1]
        user, receiver = User.new(asked), User.new(asked)
        for key, daemon in (("k1", leader), ("k2", follower)):
            assert daemon.stop() == 0
            write = partial(user.transfer, receiver.name, 1, key=key)
            wait_for("the next write", partial(if_done, write))
            daemon.start()
            three.wait()
        for daemon in three:
            assert user.at(daemon).balance() == GRANT_CPT - 2
