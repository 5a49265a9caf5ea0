"""What the sweeper removes and what it spares, on a real disk."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from hivenode.blobs.store import DiskBlobStore
from hivenode.blobs.sweeper import YOUNG_MS, BlobSweeper
from hivenode.pool.records import BlobRef
from tests.support.parts import no_files_left


async def one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def put_old(store: DiskBlobStore, data: bytes) -> BlobRef:
    blob = await store.put(one(data), size_bytes_max=1_000)
    old_s = time.time() - YOUNG_MS / 1_000 - 60
    os.utime(store.path(blob), (old_s, old_s))
    return blob


async def test_only_old_blobs_that_no_task_names_are_removed(tmp_path: Path) -> None:
    store = DiskBlobStore(tmp_path / "blobs", 0)
    named, forgotten = await put_old(store, b"named"), await put_old(store, b"forgotten")
    young = await store.put(one(b"young"), size_bytes_max=1_000)
    sweeper = BlobSweeper(store=store, references={named.sha256: 1}.get, wall_ms=wall_ms)
    unknown = await sweeper.sweep()
    references = {named.sha256: 1, forgotten.sha256: 0, young.sha256: 0}
    sweeper = BlobSweeper(store=store, references=references.__getitem__, wall_ms=wall_ms)
    assert (unknown, await sweeper.sweep()) == (0, 1)
    assert (store.has(named), store.has(forgotten), store.has(young)) == (True, False, True)
    assert forgotten.sha256 == hashlib.sha256(b"forgotten").hexdigest()
    await store.aclose()


async def test_a_machine_that_is_out_of_files_sweeps_the_next_time(tmp_path: Path) -> None:
    store = DiskBlobStore(tmp_path / "blobs", 0)
    forgotten = await put_old(store, b"forgotten")
    sweeper = BlobSweeper(store=store, references=lambda _: 0, wall_ms=wall_ms)
    with no_files_left():
        assert await sweeper.sweep() == 0  # What it raises would end the daemon.
    assert store.has(forgotten)
    assert await sweeper.sweep() == 1
    await store.aclose()
