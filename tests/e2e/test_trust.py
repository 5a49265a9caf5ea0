"""Who is let into a hive: by token, by approval, and not any more after a revocation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from hivenode.pb import nodepool_pb2
from tests.e2e.user import NODES, User
from tests.support.daemons import ANSWER_DEADLINE_S, ROOT, Daemon, Hive, hive, wait_for

GRANT_CPT = 1000
APPROVED_DEADLINE_S = 90.0
"""Who waits asks again every half minute."""


def cluster(daemon: Daemon, *arguments: str, words: str = "", wanted: int = 0) -> Any:
    """`hivenode cluster …` on the daemon's machine; what it printed as JSON."""
    argv = [sys.executable, "-m", "hivenode", "cluster", *arguments, "--json", "--data-dir", str(daemon.data_dir)]
    done = subprocess.run(
        argv,
        input=words,
        capture_output=True,
        text=True,
        timeout=2 * ANSWER_DEADLINE_S,
        cwd=ROOT,
        env=daemon.environment,
        check=False,
    )
    assert done.returncode == wanted, done.stdout + done.stderr
    return json.loads(done.stdout)


def says(daemon: Daemon, words: str) -> str | None:
    return next((warning for warning in daemon.status().warnings if words in warning), None)


def is_in(daemon: Daemon, hive_id: str) -> bool | None:
    report = daemon.status()
    return (report.hive_id == hive_id and report.phase == "member") or None


def test_a_hive_by_token_takes_nobody_without_one_and_a_worker_gets_no_log(tmp_path: Path) -> None:
    with hive(tmp_path, 1, "--trust", "token", "--executor", "none") as made:
        first, hive_id = made[0], made[0].status().hive_id
        assert first.status().trust == "token"
        alice = User.new(first)
        stranger = made.add("--executor", "none", "--bootstrap", first.peer_address)
        wait_for("the refusal", lambda: says(stranger, "not taken in"))
        assert stranger.status().hive_id == ""
        (waits,) = cluster(first, "pending")["nodes"]
        assert (waits["node_id"], waits["wants"], waits["is_in"]) == (stranger.node_id, "voter", False)
        assert says(first, "wait for approval")

        token = cluster(first, "token", "create", "--ttl", "5m")["token"]
        assert cluster(stranger, "join", "-", words=f"{token}\n")["hive_id"] == hive_id
        wait_for("the hive's word", lambda: first.status().nodes == 2 or None)
        stranger.redial()
        wait_for("its own word", lambda: is_in(stranger, hive_id))
        assert alice.at(stranger).balance() == GRANT_CPT
        assert not (stranger.data_dir / "join.json").exists(), "the token is not kept"
        # A worker has no log, and so no copy of users and passwords.
        assert stranger.status().members == []
        assert stranger.status().commit_index == 0
        assert [member.node_id for member in first.status().members] == [first.node_id]
        # After a restart it still knows whom it may believe.
        stranger.stop()
        stranger.start()
        wait_for("its own word again", lambda: is_in(stranger, hive_id))
        assert alice.at(stranger).balance() == GRANT_CPT
        assert stranger.status().members == []

        (waits,) = cluster(first, "pending")["nodes"]
        assert (waits["node_id"], waits["is_in"]) == (stranger.node_id, True)
        assert cluster(first, "approve", stranger.node_id[:8])["node_id"] == stranger.node_id

        def holds_the_log() -> bool | None:
            return stranger.node_id in {member.node_id for member in stranger.status().members} or None

        wait_for("its copy of the log", holds_the_log, deadline_s=APPROVED_DEADLINE_S)


def test_a_hive_by_approval_lets_in_whom_its_operator_names_and_keeps_out_whom_it_denies(tmp_path: Path) -> None:
    with hive(tmp_path, 1, "--trust", "approve", "--executor", "none") as made:
        first, hive_id = made[0], made[0].status().hive_id
        flags = ("--executor", "none", "--bootstrap", first.peer_address)
        good, bad = made.add(*flags, name="good"), made.add(*flags, name="bad")
        for daemon in (good, bad):
            wait_for("the refusal", lambda daemon=daemon: says(daemon, "waits for approval"))  # type: ignore[misc]
        cluster(first, "deny", bad.node_id)
        cluster(first, "approve", good.node_id, "--rights", "worker")
        wait_for("the approved one in the hive", lambda: is_in(good, hive_id), deadline_s=APPROVED_DEADLINE_S)
        wait_for("the denial", lambda: says(bad, "kept out"), deadline_s=APPROVED_DEADLINE_S)
        assert first.status().nodes == 2
        assert bad.status().hive_id == ""


def test_a_revoked_voter_is_cut_off_at_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    with hive(tmp_path, 3, "--executor", "none") as made:
        alice = User.new(made.leader())
        going = made.followers()[0]
        staying = [daemon for daemon in made if daemon is not going]
        cluster(staying[0], "revoke", going.node_id)
        _wait_without(made, going, staying)
        assert alice.at(staying[0]).balance() == GRANT_CPT
        # It comes back neither as the member that it was nor, with the same key, as another one.
        going.kill()
        going.forget_all_but_its_key()
        going.start()
        wait_for("the refusal", lambda: says(going, "kept out"))
        assert staying[0].status().nodes == 2
        assert going.status().hive_id == ""


def test_workers_hear_at_once_of_a_revocation_and_let_go_of_the_revoked_one(tmp_path: Path) -> None:
    with hive(tmp_path, 1, "--executor", "none") as made:
        first, hive_id = made[0], made[0].status().hive_id
        flags = ("--role", "worker", "--executor", "none", "--bootstrap", first.peer_address)
        staying, going = made.add(*flags, name="staying"), made.add(*flags, name="going")
        for daemon in (staying, going):
            wait_for("its place in the hive", lambda daemon=daemon: is_in(daemon, hive_id))  # type: ignore[misc]
            assert daemon.status().members == []
        _hears_of(staying, going)
        cluster(first, "revoke", going.node_id)
        words = "cut off a node that has no place in the hive"
        wait_for("the worker's word", lambda: words in staying.log_path.read_text() or None)
        cut = next(line for line in staying.log_path.read_text().splitlines() if words in line)
        assert going.node_id in cut


def test_a_machine_that_was_removed_is_kept_out_by_a_revocation_that_comes_after(tmp_path: Path) -> None:
    with hive(tmp_path, 1, "--executor", "none") as made:
        first, hive_id = made[0], made[0].status().hive_id
        going = made.add("--role", "worker", "--executor", "none", "--bootstrap", first.peer_address)
        wait_for("its place in the hive", lambda: is_in(going, hive_id))
        cluster(first, "revoke", going.node_id.upper(), wanted=4)
        assert cluster(first, "remove", going.node_id)["node_id"] == going.node_id
        # A user's worker of that name comes in no operator's way.
        register = nodepool_pb2.RegisterWorkerNodeRequest(node_id=going.node_id)
        User.new(first).call(f"{NODES}RegisterWorkerNode", register, nodepool_pb2.StatusResponse)
        assert cluster(first, "revoke", going.node_id)["node_id"] == going.node_id
        cluster(first, "revoke", going.node_id[:10], wanted=4)
        going.kill()
        going.forget_all_but_its_key()
        going.start()
        wait_for("the refusal", lambda: says(going, "kept out"))


def _hears_of(daemon: Daemon, other: Daemon) -> None:
    """Waits until the daemon has the other among those that it believes."""
    path = daemon.data_dir / "roster.json"
    wait_for("the roster", lambda: (path.exists() and other.node_id in path.read_text()) or None)


def _wait_without(made: Hive, going: Daemon, staying: list[Daemon]) -> None:
    def look() -> bool | None:
        reports = [daemon.status() for daemon in staying]
        gone = all(report.nodes == 2 for report in reports)
        members = {member.node_id for report in reports for member in report.members}
        return (gone and going.node_id not in members and all(report.leader_node_id for report in reports)) or None

    wait_for("a hive without the revoked one", look)
