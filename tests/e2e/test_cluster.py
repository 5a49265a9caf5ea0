"""`hivenode cluster` against real daemons: members, a copy of the state, leadership, taking a node out, leaving."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hivenode.pb import hive_pb2, nodepool_pb2
from tests.e2e.user import NODES, User
from tests.support.daemons import Daemon, Hive, hive, wait_for


def run(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hivenode", "--data-dir", str(daemon.data_dir), "cluster", *arguments],
        env=daemon.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(daemon: Daemon, *arguments: str) -> Any:
    done = run(daemon, *arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    with hive(tmp_path_factory.mktemp("cluster"), 3, "--executor", "none") as made:
        yield made


def test_members_are_listed_and_the_state_is_copied(three: Hive) -> None:
    leader = three.leader()
    listed = answer(leader, "members")
    assert [member["voter"] for member in listed["members"]] == [True] * 3
    assert listed["copies"] == 2
    assert "leader" in run(leader, "members").stdout
    made = answer(three.followers()[0], "snapshot")
    assert Path(made["path"]).stat().st_size == made["size_bytes"]


def test_leadership_goes_where_it_is_wanted(three: Hive) -> None:
    wanted = three.followers()[0]
    other = three.followers()[1]
    assert answer(other, "transfer", wanted.node_id[:16])["node_id"] == wanted.node_id
    wait_for("the new leader", lambda: three.leader() if three.leader() is wanted else None)
    refused = run(other, "transfer", "nobody", "--json")
    assert (refused.returncode, json.loads(refused.stdout)["error"]["name"]) == (4, "NODE_NOT_FOUND")


@pytest.mark.parametrize("at_leader", [True, False])
def test_a_worker_that_a_user_registered_is_taken_off_the_list_by_an_operator(three: Hive, at_leader: bool) -> None:
    user = User.new(three.leader())
    name = f"box-{user.name}"
    user.call(
        f"{NODES}RegisterWorkerNode", nodepool_pb2.RegisterWorkerNodeRequest(node_id=name), nodepool_pb2.StatusResponse
    )
    asked = three.leader() if at_leader else three.followers()[0]
    refused = run(asked, "revoke", name, "--json")
    assert (refused.returncode, json.loads(refused.stdout)["error"]["name"]) == (4, "INVALID_ARGUMENT")
    assert answer(asked, "remove", name)["node_id"] == name
    listed = user.call(f"{NODES}GetNodeList", nodepool_pb2.GetNodeListRequest(), nodepool_pb2.GetNodeListResponse)
    assert sorted(node.node_id for node in listed.nodes) == sorted(daemon.node_id for daemon in three)


def test_a_node_that_leaves_is_out_its_daemon_stops_and_a_restart_is_refused(three: Hive) -> None:
    going = three.leader()
    gone = going.node_id
    assert answer(going, "leave", "--yes") == {"node_id": gone, "left": True}
    assert going.ended() == 0
    going.start()
    assert going.ended() == 2
    assert "has left its hive for good" in going.log_tail()
    three.daemons.remove(going)

    def without() -> bool | None:
        report = three.running[0].answer()
        members = {member.node_id for member in report.members}
        return True if report.leader_node_id and gone not in members and report.nodes == 2 else None

    wait_for("a hive without it", without)


def test_a_node_that_another_takes_out_stops_by_itself(tmp_path: Path) -> None:
    with hive(tmp_path, 2, "--executor", "none") as two:
        leader, other = two.leader(), two.followers()[0]
        gone = other.node_id
        assert answer(leader, "remove", gone[:20])["node_id"] == gone
        assert other.ended() == 0
        report: hive_pb2.GetStatusResponse = leader.answer()
        assert [member.node_id for member in report.members] == [leader.node_id]
        last = run(leader, "leave", "--yes", "--json")
        assert last.returncode == 4
        assert "no other machine can take over" in last.stdout
