"""The daemon's stop: a part that fails at its end keeps nothing from being closed, and one that hangs is left behind in time."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import lmdb
import pytest

from hivenode.config import Config
from hivenode.daemon import LEFT_FILE, STOP_DEADLINE_S, Daemon, DataDirectory
from hivenode.errors import Code, HiveError
from hivenode.identity import load_certificate, load_identity
from hivenode.pool import queries
from hivenode.runtime.errand import Errand
from hivenode.runtime.supervision import ExitCode
from hivenode.storage.log_store import LogStore
from hivenode.storage.snapshots import SnapshotFolder
from hivenode.storage.state_store import StateStore
from tests.support.replicas import until


def _daemon(path: Path) -> Daemon:
    config = Config(
        data_dir=path,
        listen="127.0.0.1:0",
        peer_listen="127.0.0.1:0",
        mdns=False,
        executor="none",
        role="master",
        trust="token",
    )
    folder = DataDirectory(path)
    folder.take()
    return Daemon(config, folder, load_identity(path), load_certificate(path), Errand(path))


class _HeldCopy:
    """A copy of a hive's state that stands in its thread with the map open before its first row, until it is freed."""

    def __init__(self, daemon: Daemon) -> None:
        self.begun = asyncio.Event()
        self.free = threading.Event()
        self._loop = asyncio.get_running_loop()
        replica = daemon._local.replica
        assert replica is not None
        assert isinstance(replica._snapshots, SnapshotFolder)
        self.folder = replica._snapshots
        self.folder._step = self._step
        self.call = asyncio.create_task(replica.make_snapshot())

    def _step(self, name: str) -> None:
        if name == "snapshot begun":
            self._loop.call_soon_threadsafe(self.begun.set)
            self.free.wait(2 * STOP_DEADLINE_S)


def _has_a_hive(daemon: Daemon) -> bool:
    return daemon._local.replica is not None and queries.hive(daemon._local.replica.view()) is not None


async def _fails() -> None:
    raise OSError("the disk refuses")


async def test_a_part_that_fails_at_its_end_keeps_no_store_open(tmp_path: Path) -> None:
    daemon = _daemon(tmp_path)
    await daemon.start()
    # What the tasks release beside calls has failed, and their end raises that.
    daemon._tasks._releasing = asyncio.create_task(_fails())
    await asyncio.wait({daemon._tasks._releasing})
    await daemon.stop()
    with pytest.raises(RuntimeError):
        daemon._writer.submit(int)
    LogStore(tmp_path / "log").close()


async def test_a_part_that_hangs_at_its_end_is_left_behind_in_time(tmp_path: Path) -> None:
    daemon = _daemon(tmp_path)
    await daemon.start()
    freed = threading.Event()
    # A disk that does not answer holds a thread, which nothing can break off.
    daemon._blobs._threads.submit(freed.wait, 2 * STOP_DEADLINE_S)
    begun = time.monotonic()
    try:
        await daemon.stop()
        assert time.monotonic() - begun < STOP_DEADLINE_S
        LogStore(tmp_path / "log").close()
    finally:
        freed.set()


async def test_a_copy_is_ended_by_the_stop_which_closes_the_stores_after_it(tmp_path: Path) -> None:
    daemon = _daemon(tmp_path)
    await daemon.start()
    await until(lambda: _has_a_hive(daemon))
    copy = _HeldCopy(daemon)
    await copy.begun.wait()
    stop = asyncio.create_task(daemon.stop())
    await until(copy.folder._ended.is_set)
    copy.free.set()
    await stop
    with pytest.raises(HiveError) as refusal:
        await copy.call
    assert refusal.value.code is Code.SHUTTING_DOWN
    assert list((tmp_path / "snapshots").iterdir()) == []
    StateStore(tmp_path / "state").close()


async def test_a_copy_that_hangs_at_the_end_is_left_behind_with_its_map_open(tmp_path: Path) -> None:
    daemon = _daemon(tmp_path)
    await daemon.start()
    await until(lambda: _has_a_hive(daemon))
    copy = _HeldCopy(daemon)
    await copy.begun.wait()
    begun = time.monotonic()
    await daemon.stop()
    assert time.monotonic() - begun < STOP_DEADLINE_S
    with pytest.raises(lmdb.Error, match="already open"):
        StateStore(tmp_path / "state")
    copy.free.set()
    await asyncio.wait({copy.call})
    with pytest.raises(HiveError):
        copy.call.result()
    StateStore(tmp_path / "state").close()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("first", ["leaves", "begins anew"])
async def test_a_daemon_that_has_left_its_hive_begins_no_other_life(tmp_path: Path, first: str, keep: bool) -> None:
    """It would join a hive, and its next start would be refused."""
    daemon = _daemon(tmp_path)
    if first == "leaves":
        daemon._leave()
        daemon._restart(keep)
    else:
        daemon._restart(keep)
        daemon._leave()
    assert await daemon.wait() is ExitCode.STOPPED
    assert not daemon.wants_restart
    with pytest.raises(HiveError, match="has left its hive for good"):
        DataDirectory(tmp_path).require_not_left()
    await daemon.stop()


async def test_a_daemon_that_moves_keeps_what_it_has_though_its_hive_dissolves(tmp_path: Path) -> None:
    daemon = _daemon(tmp_path)
    daemon._move("2" * 32, "10.0.0.1:5", "")
    daemon._restart(False)
    assert daemon.wants_restart
    assert daemon.keeps_hive
    await daemon.stop()


async def test_a_daemon_that_cannot_note_that_it_has_left_ends_and_hears_it_again(tmp_path: Path) -> None:
    """The error would take the place of what the owner's call ended with, and the daemon would stay up without a hive."""
    daemon = _daemon(tmp_path)
    (tmp_path / f"{LEFT_FILE}.new").mkdir()  # The disk refuses the file that is to be written there.
    daemon._restart(True)
    daemon._leave()
    assert await daemon.wait() is ExitCode.STOPPED
    assert not daemon.wants_restart
    DataDirectory(tmp_path).require_not_left()
    await daemon.stop()
