"""A data directory that fills up: new work is refused in words, reading goes on, and freed space is enough to go on.

Below the reserve a daemon takes no work; what others write on its disk may fill it to the last byte all the same.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hivenode.errors import Code, Outcome
from tests.e2e.user import CallError, User, if_done
from tests.support.daemons import Daemon, Hive, hive, wait_for
from tests.support.small_disks import fill, small_disk

SIZE_MIB = 96
RESERVE_MIB = 32
NO_RESERVE = {"HIVENODE_DISK_RESERVE_MIB": "0"}
HASTE_S = 1.0
"""A write that the disk has no room for is not answered."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", SIZE_MIB << 10) as folder:
        yield folder


def test_a_full_disk_refuses_new_work_in_words_and_goes_on_when_space_is_freed(disk: Path) -> None:
    with hive(disk, 1, settings={"HIVENODE_DISK_RESERVE_MIB": str(RESERVE_MIB)}) as machines:
        (daemon,) = machines.daemons
        user = User.new(daemon)
        ballast = fill(disk, leave_bytes=RESERVE_MIB << 19)
        wait_for("a warning of the full disk", lambda: any("MiB free" in w for w in daemon.status().warnings) or None)
        with pytest.raises(CallError) as caught:
            user.upload("t", "print(1)")
        assert (caught.value.code, caught.value.outcome) == (Code.DISK_FULL, Outcome.RETRY), caught.value
        assert user.balance() == 1000
        ballast.unlink()
        wait_for("the end of the warning", lambda: not any("MiB free" in w for w in daemon.status().warnings) or None)
        user.upload("t", "print(1)")
        assert user.ended("t").state == "COMPLETED"


def unused_address() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


def is_stuck(daemon: Daemon) -> bool:
    """Whether the daemon says that its disk has no room for its log."""
    return any("log cannot be written" in warning for warning in daemon.status().warnings)


def write_until_stuck(daemon: Daemon, write: Callable[[], object]) -> None:
    def look() -> bool | None:
        if_done(write)
        return is_stuck(daemon) or None

    wait_for("a log without room", look)


def begin_again_without_room(daemon: Daemon, disk: Path, address: str) -> None:
    """Not even what it leaves of itself is given back."""
    daemon.kill()
    fill(disk)
    daemon.start()
    fill(disk)
    daemon.dial(address)
    wait_for("its next life", lambda: is_stuck(daemon) or None)
    assert not (daemon.data_dir / "daemon.json").exists()


def test_a_daemon_on_a_disk_without_a_byte_left_answers_reads_and_goes_on_in_its_next_life(disk: Path) -> None:
    address = unused_address()
    with hive(disk, 1, "--listen", address, settings=NO_RESERVE) as machines:
        (daemon,) = machines.daemons
        user, friend = User.new(daemon), User.new(daemon)
        ballast = fill(disk)
        hasty = user.at(daemon, timeout_s=HASTE_S)
        write_until_stuck(daemon, lambda: hasty.transfer(friend.name, 1))
        balance = user.balance()
        assert balance + friend.balance() == 2_000
        with pytest.raises(CallError) as caught:
            user.transfer(friend.name, 1)
        assert (caught.value.code, caught.value.outcome) == (Code.DISK_FULL, Outcome.RETRY), caught.value
        assert daemon.alive
        begin_again_without_room(daemon, disk, address)
        ballast.unlink()
        left = wait_for("a transfer", lambda: if_done(lambda: user.transfer(friend.name, 1)))
        assert user.balance() == left < balance
        assert left + friend.balance() == 2_000


def test_a_member_on_a_disk_without_a_byte_left_holds_nobody_up_and_catches_up_when_there_is_room(
    disk: Path, tmp_path: Path
) -> None:
    address = unused_address()
    machines = Hive(folder=tmp_path)
    try:
        full = machines.add("--listen", address, settings=NO_RESERVE, name=f"{disk.name}/full")
        machines.wait()
        others = [machines.add(), machines.add()]
        machines.wait()
        user, friend = User.new(others[0]), User.new(others[0])
        ballast = fill(disk)
        hasty = user.at(others[0], timeout_s=HASTE_S)
        write_until_stuck(full, lambda: hasty.transfer(friend.name, 1))
        wait_for("a transfer elsewhere", lambda: if_done(lambda: hasty.transfer(friend.name, 1)))
        assert machines.leader() is not full
        assert full.alive
        begin_again_without_room(full, disk, address)
        ballast.unlink()
        left = wait_for("a transfer through it", lambda: if_done(lambda: user.at(full).transfer(friend.name, 1)))
        assert left + friend.at(full).balance() == 2_000
    finally:
        machines.close()
