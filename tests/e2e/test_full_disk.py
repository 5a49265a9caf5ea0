"""A data directory that fills up: new work is refused in words, reading goes on, and freed space is enough to go on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hivenode.errors import Code, Outcome
from tests.e2e.user import CallError, User
from tests.support.daemons import hive, wait_for
from tests.support.parts import require

SIZE_MIB = 96
RESERVE_MIB = 32


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    require(mounted.returncode == 0, "a file system of its own (root, to mount a tmpfs)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, leave_mib: int) -> Path:
    """Writes until `leave_mib` are free."""
    ballast = folder / "ballast"
    room = os.statvfs(folder)
    with ballast.open("wb") as file:
        for _ in range((room.f_bavail * room.f_frsize >> 20) - leave_mib):
            file.write(bytes(1 << 20))
    return ballast


def test_a_full_disk_refuses_new_work_in_words_and_goes_on_when_space_is_freed(small_disk: Path) -> None:
    with hive(small_disk, 1, settings={"HIVENODE_DISK_RESERVE_MIB": str(RESERVE_MIB)}) as machines:
        (daemon,) = machines.daemons
        user = User.new(daemon)
        ballast = fill(small_disk, RESERVE_MIB // 2)
        wait_for("a warning of the full disk", lambda: any("MiB free" in w for w in daemon.status().warnings) or None)
        with pytest.raises(CallError) as caught:
            user.upload("t", "print(1)")
        assert (caught.value.code, caught.value.outcome) == (Code.DISK_FULL, Outcome.RETRY), caught.value
        assert user.balance() == 1000
        ballast.unlink()
        wait_for("the end of the warning", lambda: not any("MiB free" in w for w in daemon.status().warnings) or None)
        user.upload("t", "print(1)")
        assert user.ended("t").state == "COMPLETED"
