"""A data directory that fills up: new work is refused in words, reading goes on, and freed space is enough to go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hivenode.errors import Code, Outcome
from tests.e2e.user import CallError, User
from tests.support.daemons import hive, wait_for
from tests.support.small_disks import fill, small_disk

SIZE_MIB = 96
RESERVE_MIB = 32


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
