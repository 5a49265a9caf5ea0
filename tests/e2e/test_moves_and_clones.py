"""Machines whose address changes, and machines that were made from a copy of another one's disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.user import User
from tests.support.daemons import STOP_DEADLINE_S, Daemon, Hive, wait_for
from tests.support.namespaces import Lan

pytestmark = pytest.mark.netns

GRANT_CPT = 1000
USAGE = 2
MOVED_DEADLINE_S = 40.0


@pytest.fixture
def three(network: Lan, tmp_path: Path) -> Iterator[Hive]:
    made = Hive(folder=tmp_path)
    try:
        for index in range(3):
            made.add("--role", "auto", host=network[index])
        made.wait(nodes=3, voters=3)
        yield made
    finally:
        made.close()


def renumber(hive: Hive, daemon: Daemon, address: str) -> None:
    """The host has another address from now on, and not the old one."""
    host = daemon.host
    assert host is not None
    host.run(["ip", "address", "del", f"{host.address}/24", "dev", "eth0"])
    host.address = address
    host.run(["ip", "address", "add", f"{address}/24", "broadcast", "+", "dev", "eth0"])


def settled_under(hive: Hive, daemon: Daemon, address: str) -> bool | None:
    """Whether the leader has the daemon as a living voter, in a hive of three, and the daemon is up to date."""
    leader = hive.agreed()
    if leader is None:
        return None
    report, own = leader.status(), daemon.status()
    alive = {member.node_id for member in report.members if member.voter and member.alive}
    up_to_date = own.applied_index >= report.commit_index and list(own.peer_addresses) == [f"{address}:50052"]
    return (daemon.node_id in alive and len(alive) == 3 and report.nodes == 3 and up_to_date) or None


def test_a_node_that_comes_back_under_another_address_is_the_same_node(three: Hive, network: Lan) -> None:
    mover = three.followers()[0]
    stays = next(daemon for daemon in three.followers() if daemon is not mover)
    members = {member.member_id for member in three.leader().status().members}
    ann = User.new(stays)
    mover.stop()
    renumber(three, mover, network[3].address.rsplit(".", 1)[0] + ".77")
    assert ann.balance() == GRANT_CPT
    mover.start()
    assert mover.host is not None
    address = mover.host.address
    wait_for("the node back", lambda: settled_under(three, mover, address), deadline_s=MOVED_DEADLINE_S)
    assert {member.member_id for member in three.leader().status().members} == members
    assert ann.at(mover).balance() == GRANT_CPT


def test_a_running_node_may_change_its_address(three: Hive, network: Lan) -> None:
    mover = three.leader()
    members = {member.member_id for member in mover.status().members}
    ann = User.new(mover)
    address = network[3].address.rsplit(".", 1)[0] + ".78"
    renumber(three, mover, address)
    wait_for("the node back", lambda: settled_under(three, mover, address), deadline_s=MOVED_DEADLINE_S)
    assert {member.member_id for member in three.leader().status().members} == members
    assert all(ann.at(daemon).balance() == GRANT_CPT for daemon in three)


def clone(hive: Hive, of: Daemon, network: Lan, *, key_only: bool) -> Daemon:
    """A machine with a copy of another one's disk, or of its key alone; started."""
    made = Daemon(name="clone", folder=hive.folder, flags=("--role", "auto"), host=network[3])
    if key_only:
        made.data_dir.mkdir(mode=0o700)
        shutil.copy(of.data_dir / "node.key", made.data_dir)
    else:
        shutil.copytree(of.data_dir, made.data_dir)
    made.start()
    return made


@pytest.mark.parametrize("key_only", [True, False], ids=["key", "disk"])
@pytest.mark.parametrize("of_leader", [True, False], ids=["leader", "follower"])
def test_a_clone_is_refused_and_stops_while_the_original_lives(
    three: Hive, network: Lan, key_only: bool, of_leader: bool
) -> None:
    original = three.leader() if of_leader else three.followers()[0]
    ann = User.new(original)
    copy = clone(three, original, network, key_only=key_only)
    assert copy.process is not None
    try:
        assert copy.process.wait(MOVED_DEADLINE_S) == USAGE, copy.log_tail()
        said = copy.log_path.read_text()
        assert "remove node.key" in said
        assert f"{original.host.address}:50052" in said if original.host else False
        assert ann.balance() == GRANT_CPT
        assert len(three.leader().status().members) == 3

        (copy.data_dir / "node.key").unlink()
        copy.start()
        three.daemons.append(copy)
        three.wait(nodes=4, voters=3)
        assert copy.node_id != original.node_id
        kept = [path.name for path in copy.data_dir.glob("hive-before-*/*")]
        assert "log" in kept
        assert ann.at(copy).balance() == GRANT_CPT

        # Nobody looks for the original where the copy was: two voters are left, which need each other.
        gone = next(daemon for daemon in three if daemon not in (original, copy))
        gone.kill()
        assert ann.at(original).balance() == GRANT_CPT
    finally:
        if copy not in three.daemons:
            copy.process.kill()
            copy.process.wait(STOP_DEADLINE_S)


def test_a_machine_that_lost_its_log_takes_its_own_place(three: Hive) -> None:
    loser = three.followers()[0]
    ann = User.new(three.leader())
    old = {member.member_id for member in three.leader().status().members if member.node_id == loser.node_id}
    node_id = loser.node_id
    loser.kill()
    for folder in ("log", "state", "snapshots"):
        shutil.rmtree(loser.data_dir / folder, ignore_errors=True)
    loser.start()

    def replaced() -> bool | None:
        leader = three.agreed()
        now = {m.member_id for m in leader.status().members if m.node_id == node_id} if leader else set()
        return (len(now) == 1 and now != old) or None

    wait_for("the new member in the place of the old", replaced)
    assert json.loads((loser.data_dir / "daemon.json").read_text())["node_id"] == node_id
    assert ann.at(loser).balance() == GRANT_CPT
