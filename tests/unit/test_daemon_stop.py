"""The daemon's stop: a part that fails at its end keeps nothing from being closed, and one that hangs is left behind in time."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from hivenode.config import Config
from hivenode.daemon import STOP_DEADLINE_S, Daemon, DataDirectory
from hivenode.identity import load_certificate, load_identity
from hivenode.runtime.errand import Errand
from hivenode.storage.log_store import LogStore


def _daemon(path: Path) -> Daemon:
    config = Config(
        data_dir=path, listen="127.0.0.1:0", peer_listen="127.0.0.1:0", mdns=False, executor="none", role="master"
    )
    folder = DataDirectory(path)
    folder.take()
    return Daemon(config, folder, load_identity(path), load_certificate(path), Errand(path))


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
