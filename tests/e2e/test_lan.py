"""Machines of their own on one network, with nothing said but `--role auto`: they find each other, and survive each other."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hivenode.errors import Outcome
from hivenode.pb import nodepool_pb2
from tests.e2e.user import PAUSE_S, USERS, CallError, User, if_done
from tests.support.avahi import avahi, browse
from tests.support.daemons import Daemon, Hive, wait_for
from tests.support.namespaces import Lan

pytestmark = [pytest.mark.netns, pytest.mark.slow]

FORMED_DEADLINE_S = 20.0
"""The promise is 6 s, which the bench measures; here a loaded machine only must not hang."""
JOINED_DEADLINE_S = 20.0
NEXT_WRITE_DEADLINE_S = 20.0
TRY_S = 5.0
GRANT_CPT = 1000


@pytest.fixture
def three(network: Lan, tmp_path: Path) -> Iterator[Hive]:
    """Three daemons, just started, on three hosts."""
    made = Hive(folder=tmp_path)
    try:
        for index in range(3):
            made.add("--role", "auto", host=network[index])
        yield made
    finally:
        made.close()


def test_three_machines_are_one_hive_and_a_fourth_joins(three: Hive, network: Lan) -> None:
    begun = time.monotonic()
    three.wait(nodes=3, voters=3, deadline_s=FORMED_DEADLINE_S)
    print(f"one hive of three {time.monotonic() - begun:.2f} s after the last start")
    reports = [daemon.status() for daemon in three]
    assert len({report.hive_id for report in reports}) == 1
    assert {daemon.api for daemon in three} == {"127.0.0.1:50051"}
    for daemon, host in zip(three, network, strict=False):
        assert list(daemon.status().peer_addresses) == [f"{host.address}:50052"]
    user = User.new(three.followers()[0])
    begun = time.monotonic()
    fourth = three.add("--role", "auto", host=network[3])
    wait_for("the fourth in the hive", lambda: _joined(three, fourth, reports[0].hive_id), deadline_s=JOINED_DEADLINE_S)
    print(f"the fourth joined {time.monotonic() - begun:.2f} s after its start")
    assert user.at(fourth).balance() == GRANT_CPT
    assert User.new(fourth).balance() == GRANT_CPT


def _joined(hive: Hive, newcomer: Daemon, hive_id: str) -> bool | None:
    report = newcomer.status()
    return (report.hive_id == hive_id and report.nodes == 4 and report.phase == "member") or None


def test_peer_port_serves_the_api_to_other_machines(three: Hive, network: Lan, tmp_path: Path) -> None:
    """A program on another machine submits through any peer."""
    three.wait(nodes=3, voters=3, deadline_s=FORMED_DEADLINE_S)
    address = f"{network[0].address}:50052"
    program = [sys.executable, "-m", "hivenode"]
    named = f"{three[0].node_id}@{address}"
    done = network[3].run([*program, "status", "--peer", named, "--json"])
    assert json.loads(done.stdout)["node_id"] == three[0].node_id
    # Who answers is not known there, and nobody can be asked.
    config = ["env", f"HIVENODE_CONFIG_DIR={tmp_path}", f"HIVENODE_DATA_DIR={tmp_path}"]
    with pytest.raises(subprocess.CalledProcessError) as refused:
        network[3].run([*config, *program, "status", "--peer", address, "--json"])
    assert named in refused.value.stdout + refused.value.stderr
    with pytest.raises(subprocess.CalledProcessError):
        network[3].run([*config, *program, "status", "--peer", f"{three[1].node_id}@{address}"])
    # A machine of the hive knows who else is in it.
    own = [*config, f"HIVENODE_DATA_DIR={three[1].data_dir}"]
    done = network[1].run([*own, *program, "status", "--peer", address, "--json"])
    assert json.loads(done.stdout)["node_id"] == three[0].node_id


async def test_avahi_sees_every_daemon(three: Hive, network: Lan, tmp_path: Path) -> None:
    three.wait(nodes=3, voters=3, deadline_s=FORMED_DEADLINE_S)
    hive_id, wanted = three[0].status().hive_id, {daemon.node_id for daemon in three}
    (tmp_path / "avahi").mkdir()
    async with avahi(network[3], tmp_path / "avahi") as env:
        async with asyncio.timeout(JOINED_DEADLINE_S):
            seen: dict[str, list[str]] = {}
            while set(seen) != wanted:
                # What a daemon announces follows what it has become.
                listed = [line.split(";") for line in (await browse(network[3], env)).splitlines() if line[0] == "="]
                seen = {fields[3]: fields for fields in listed if hive_id in fields[9]}
    for daemon, host in zip(three, network, strict=False):
        fields = seen[daemon.node_id]
        assert fields[4:6] == ["_hivenode._tcp", "local"]
        assert fields[7:9] == [host.address, "50052"]
        assert '"phase=member"' in fields[9]


@dataclass
class Write:
    """One transfer of 1 CPT: its key, when it began and ended, and as what (None: done)."""

    key: str
    to_second: bool
    begun_s: float
    ended_s: float = 0.0
    outcome: Outcome | None = None


class Writer(threading.Thread):
    """Moves 1 CPT to and fro between two accounts through one daemon, a key for each."""

    def __init__(self, name: str, pair: tuple[User, User], through: Daemon) -> None:
        super().__init__(name=name)
        self.pair = (pair[0].at(through), pair[1].at(through))
        self.writes: list[Write] = []
        self.ends = threading.Event()

    def run(self) -> None:
        while not self.ends.is_set():
            number = len(self.writes)
            write = Write(key=f"{self.name}-{number}", to_second=number % 2 == 0, begun_s=time.monotonic())
            self.writes.append(write)
            try:
                send(write, self.pair)
            except CallError as error:
                write.outcome = error.outcome
                time.sleep(PAUSE_S)
            write.ended_s = time.monotonic()

    def done_since(self, moment_s: float) -> Write | None:
        """The first write that began after the moment and was done."""
        return next((w for w in self.writes if w.begun_s > moment_s and w.ended_s and w.outcome is None), None)


def send(write: Write, pair: tuple[User, User]) -> None:
    sender, receiver = pair if write.to_second else (pair[1], pair[0])
    request = nodepool_pb2.TransferRequest(token=sender.token, receiver_username=receiver.name, amount=1)
    sender.call(f"{USERS}Transfer", request, nodepool_pb2.TransferResponse, key=write.key, timeout_s=TRY_S)


@pytest.mark.timeout(240)
def test_any_one_of_three_dies_and_the_next_write_through_another_succeeds(three: Hive) -> None:
    three.wait(nodes=3, voters=3, deadline_s=FORMED_DEADLINE_S)
    pair = (User.new(three[0], "first"), User.new(three[1], "second"))
    sent = 0
    for round_number, victim in enumerate([*three, three.leader()]):
        survivor = next(daemon for daemon in three if daemon is not victim)
        was = "the leader" if victim is three.leader() else "a follower"
        writers = [
            Writer(f"survivor{round_number}", pair, survivor),
            Writer(f"victim{round_number}", pair, victim),
        ]
        _kill_under_writes(victim, was, writers)
        victim.start()
        three.wait(nodes=3, voters=3)
        # What is not known is found out: the same key gives the same write, which happens once.
        for writer in writers:
            for write in writer.writes:
                if write.outcome is not None:
                    assert write.outcome in (Outcome.RETRY, Outcome.UNKNOWN), write
                    send(write, (pair[0].at(survivor), pair[1].at(survivor)))
                sent += 1 if write.to_second else -1
        for daemon in three:
            assert pair[0].at(daemon).balance() == GRANT_CPT - sent
            assert pair[1].at(daemon).balance() == GRANT_CPT + sent


def _kill_under_writes(victim: Daemon, was: str, writers: list[Writer]) -> None:
    """Kills while both write, and waits for the next write through the survivor."""
    for writer in writers:
        writer.start()
    try:
        wait_for("writes through both", lambda: all(writer.done_since(0.0) for writer in writers) or None)
        killed_s = time.monotonic()
        victim.kill()
        through = writers[0]
        first = wait_for("the next write", lambda: through.done_since(killed_s), deadline_s=NEXT_WRITE_DEADLINE_S)
    finally:
        for writer in writers:
            writer.ends.set()
        for writer in writers:
            writer.join(TRY_S * 2)
    assert not any(writer.is_alive() for writer in writers), "a write hangs"
    in_flight = [write for writer in writers for write in writer.writes if write.begun_s < killed_s < write.ended_s]
    slowest_s = max((write.ended_s - killed_s for write in in_flight), default=0.0)
    told = [write.outcome.value if write.outcome else "done" for write in in_flight]
    print(f"{was} killed: next write done after {first.ended_s - killed_s:.2f} s; in flight {told}, {slowest_s:.2f} s")


def test_leader_that_is_cut_off_is_replaced_and_never_tells_what_is_no_longer_so(three: Hive, network: Lan) -> None:
    three.wait(nodes=3, voters=3, deadline_s=FORMED_DEADLINE_S)
    old = three.leader()
    others = [daemon for daemon in three if daemon is not old]
    pair = (User.new(others[0], "first"), User.new(others[1], "second"))
    assert pair[0].at(old).balance() == GRANT_CPT
    assert old.host is not None
    network.isolate(old.host)
    begun = time.monotonic()
    through = wait_for(
        "a write without the old leader",
        lambda: if_done(lambda: pair[0].at(others[0]).transfer("second", 1, key="moves-one")),
    )
    print(f"the leader cut off: next write done after {time.monotonic() - begun:.2f} s")
    assert through == GRANT_CPT - 1
    # The old leader knows neither that nor what to answer: it says so, and takes nothing on.
    late = Write(key="late", to_second=True, begun_s=0.0)
    here = (pair[0].at(old, timeout_s=TRY_S), pair[1].at(old))
    with pytest.raises(CallError) as read:
        here[0].balance()
    assert read.value.outcome in (Outcome.RETRY, Outcome.UNKNOWN)
    with pytest.raises(CallError) as written:
        send(late, here)
    assert written.value.outcome in (Outcome.RETRY, Outcome.UNKNOWN)
    network.heal()
    three.wait(nodes=3, voters=3)
    wait_for("the old leader's answer", lambda: if_done(pair[0].at(old).balance))
    send(late, here)
    for daemon in three:
        assert (pair[0].at(daemon).balance(), pair[1].at(daemon).balance()) == (GRANT_CPT - 2, GRANT_CPT + 2)
