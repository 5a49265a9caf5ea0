"""Voters go and come while another is down: what a majority needs of each of them is heard."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.test_cluster import answer, run
from tests.e2e.user import User
from tests.support.daemons import Daemon, hive, wait_for

WITHOUT_TASKS = ("--executor", "none")


def _voters(daemon: Daemon) -> set[str]:
    return {member.node_id for member in daemon.answer().members if member.voter}


def _members(daemon: Daemon) -> set[str]:
    return {member.node_id for member in daemon.answer().members}


def _takes_writes(daemon: Daemon) -> None:
    """Somebody registers, logs in and reads the balance."""
    assert User.new(daemon).balance() > 0


def test_a_voter_is_taken_out_while_another_is_down_and_the_hive_goes_on(tmp_path: Path) -> None:
    with hive(tmp_path, 3, *WITHOUT_TASKS) as three:
        leader, (down, going) = three.leader(), three.followers()
        down.kill()
        gone = going.node_id
        assert answer(leader, "remove", gone)["node_id"] == gone
        assert going.ended() == 0
        three.daemons.remove(going)
        _takes_writes(leader)
        down.start()
        wait_for("both are in one hive", lambda: three.agreed() if len(_voters(leader)) == 1 else None)


def test_a_voter_that_the_others_cannot_do_without_stays(tmp_path: Path) -> None:
    with hive(tmp_path, 3, *WITHOUT_TASKS) as three:
        leader, (down, going) = three.leader(), three.followers()
        down.kill()
        refused = run(leader, "revoke", going.node_id, "--json")
        assert refused.returncode != 0
        assert "without it only 1 answer" in refused.stdout
        _takes_writes(leader)
        assert going.alive


def test_of_two_voters_that_are_revoked_at_once_one_stays(tmp_path: Path) -> None:
    with hive(tmp_path, 3, *WITHOUT_TASKS) as three:
        leader, going = three.leader(), three.followers()
        with ThreadPoolExecutor(2) as at_once:
            done = list(at_once.map(lambda daemon: run(leader, "revoke", daemon.node_id, "--json"), going))
        _takes_writes(leader)
        revoked = [daemon for daemon, told in zip(going, done, strict=True) if told.returncode == 0]
        assert revoked, [told.stdout for told in done]
        for daemon in revoked:
            assert daemon.ended() == 0
            three.daemons.remove(daemon)


def test_a_member_that_was_away_follows_a_leader_that_it_never_met(tmp_path: Path) -> None:
    with hive(tmp_path, 3, *WITHOUT_TASKS) as made:
        first = made.leader()
        away, going = made.followers()
        away.kill()
        newcomer = made.add(*WITHOUT_TASKS)
        wait_for("the newcomer is a member", lambda: newcomer.status().hive_id == first.status().hive_id or None)
        answer(first, "remove", going.node_id)
        assert going.ended() == 0
        made.daemons.remove(going)
        wait_for("the newcomer votes", lambda: newcomer.node_id in _voters(first) or None)
        answer(first, "transfer", newcomer.node_id)
        wait_for("the newcomer leads", lambda: True if made.leader() is newcomer else None)
        away.start()
        # By the log: that the newcomer leads it may have from the one that both knew, which then has more to tell.
        agreed = newcomer.answer().commit_index
        wait_for("it follows the newcomer", lambda: away.status().applied_index >= agreed or None)
        # The one that both knew dies, and the two others are the majority that is left.
        first.kill()
        _takes_writes(newcomer)
        made.daemons.remove(first)


def test_a_member_that_was_away_follows_a_leader_that_was_revoked_and_let_in_again(tmp_path: Path) -> None:
    with hive(tmp_path, 5, *WITHOUT_TASKS) as made:
        first = made.leader()
        going, leaving = (daemon for daemon in made.followers() if daemon.node_id in _voters(first))
        answer(first, "revoke", going.node_id)
        assert going.ended() == 0
        wait_for("three vote again", lambda: len(_voters(first)) == 3 or None)
        away = next(daemon for daemon in made.running if daemon.node_id not in _voters(first))
        wait_for("it knows that one is out", lambda: None if going.node_id in _members(away) else True)
        away.kill()
        answer(first, "approve", going.node_id)
        going.forget_all_but_its_key()
        going.start()
        wait_for("it is in again", lambda: going.node_id in _members(first) or None)
        answer(first, "remove", leaving.node_id)
        assert leaving.ended() == 0
        made.daemons.remove(leaving)
        wait_for("it votes again", lambda: going.node_id in _voters(first) or None)
        answer(first, "transfer", going.node_id)
        wait_for("it leads", lambda: True if made.leader() is going else None)
        away.start()
        agreed = going.answer().commit_index
        wait_for("the one that was away follows it", lambda: away.status().applied_index >= agreed or None)
