"""What an error of LMDB says of the disk: full is told from broken."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from hivenode.errors import Code, HiveError, InvariantError
from hivenode.storage import lmdb_disk
from hivenode.storage.lmdb_disk import UNEXPLAINED_MAX, LmdbDisk, open_environment
from tests.support.parts import require
from tests.support.small_disks import free_bytes, small_disk

SMALL_KIB = 5 << 10
PROMISED_BYTES = 40 << 20
WRITES_MAX = 100
VALUE_BYTES = 200_000
ALL_ROOM_BYTES = 1 << 62


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "log"
    made.mkdir()
    return made


@contextmanager
def opened(folder: Path, *, sync: bool = True) -> Iterator[tuple[lmdb.Environment, LmdbDisk]]:
    environment = open_environment(folder, metasync=True, sync=sync)
    disk = LmdbDisk(environment, folder, "the log")
    try:
        yield environment, disk
    finally:
        disk.close()


def write(environment: lmdb.Environment, disk: LmdbDisk) -> None:
    """Until it fails."""
    for number in range(WRITES_MAX):
        with disk.told_apart(), environment.begin(write=True) as transaction:
            transaction.put(b"%d" % number, bytes(VALUE_BYTES))


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """A write beyond it is a short one, although the disk has room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_short_write_on_a_disk_with_room_is_tried_again_and_not_for_ever(folder: Path) -> None:
    """Somebody may have freed it since, or a quota ended, which no file system tells."""
    require(free_bytes(folder) > lmdb_disk.NEXT_TO_NO_ROOM_BYTES, "a little free disk space")
    failed = lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.EIO)}")
    with opened(folder) as (environment, disk):
        with files_of_at_most(1 << 20), pytest.raises(HiveError) as caught:
            write(environment, disk)
        assert caught.value.code is Code.DISK_FULL
        write(environment, disk)
        for _ in range(UNEXPLAINED_MAX):
            with pytest.raises(HiveError), disk.told_apart():
                raise failed
        with pytest.raises(lmdb.Error, match=os.strerror(errno.EIO)), disk.told_apart():
            raise failed


def test_a_file_without_content_is_no_damaged_log(folder: Path) -> None:
    """The process was killed before its head was written."""
    (folder / "data.mdb").touch()
    with files_of_at_most(1 << 10), pytest.raises(HiveError) as caught:
        open_environment(folder, metasync=True)
    assert caught.value.code is Code.DISK_FULL
    with opened(folder) as (environment, disk):
        write(environment, disk)


def test_a_short_write_on_a_disk_without_room_is_a_full_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_disk, "NEXT_TO_NO_ROOM_BYTES", ALL_ROOM_BYTES)
    with opened(folder) as (environment, disk):
        with files_of_at_most(1 << 20), pytest.raises(HiveError) as caught:
            write(environment, disk)
        assert caught.value.code is Code.DISK_FULL
        write(environment, disk)


@pytest.mark.parametrize(
    "error", [lmdb.DiskError("mdb_put: full"), lmdb.Error(f"mdb_put: {os.strerror(errno.EDQUOT)}")]
)
def test_the_system_s_words_for_a_full_disk_count_wherever_there_is_room(folder: Path, error: lmdb.Error) -> None:
    with opened(folder) as (_, disk):
        with pytest.raises(HiveError) as caught, disk.told_apart():
            raise error
        assert caught.value.code is Code.DISK_FULL


def test_an_error_that_is_none_of_the_disk_goes_on_as_it_is(folder: Path) -> None:
    with (
        opened(folder) as (environment, disk),
        pytest.raises(lmdb.BadValsizeError),
        disk.told_apart(),
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"k" * 1_000, b"")


@pytest.fixture
def promised(tmp_path: Path) -> Iterator[Path]:
    """A file system that has less disk than it says, so that a write is taken and the fsync fails."""
    tools = [shutil.which(tool) for tool in ("mkfs.ext4", "losetup", "mount", "umount")]
    require(os.geteuid() == 0 and None not in tools, "root, mkfs.ext4 and losetup, for a disk whose fsync fails")
    place = tmp_path / "promised"
    with small_disk(tmp_path / "disk", SMALL_KIB) as behind:
        image = behind / "image"
        with image.open("wb") as file:
            file.truncate(PROMISED_BYTES)
        make = ["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1", "-O", "^has_journal", str(image)]
        subprocess.run(make, check=True)
        place.mkdir()
        mounted = subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True, check=False)
        require(mounted.returncode == 0, "loop devices")
        try:
            yield place
        finally:
            subprocess.run(["umount", str(place)], check=True)


def test_a_failed_fsync_is_a_broken_disk_although_the_next_one_succeeds(
    promised: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_disk, "NEXT_TO_NO_ROOM_BYTES", ALL_ROOM_BYTES)
    with opened(promised) as (environment, disk):
        with pytest.raises(InvariantError, match="look after this machine's disk"):
            write(environment, disk)
        os.fsync(disk._witness)


def test_a_failed_fsync_of_what_was_committed_without_one_is_a_broken_disk(promised: Path) -> None:
    with opened(promised, sync=False) as (environment, disk):
        write(environment, disk)
        with pytest.raises(InvariantError, match="look after this machine's disk"):
            disk.sync()
