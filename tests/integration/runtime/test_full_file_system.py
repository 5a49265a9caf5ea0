"""A file system without a byte left, which LMDB tells of as of a broken disk: writing waits for room, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hivenode.consensus import Entry
from hivenode.errors import Code, HiveError
from hivenode.runtime import state_writing
from hivenode.runtime.log_writing import DISK_RETRY_MS, LogWriting
from hivenode.runtime.own_work import OwnWork
from hivenode.runtime.state_writing import StateWriting
from hivenode.runtime.stores import CompactionBounds, LogWrite
from hivenode.storage import state_store
from hivenode.storage.log_store import LogStore
from tests.support.disks import CONF, Disk
from tests.support.replicas import until
from tests.support.small_disks import fill, small_disk

SMALL_KIB = 3 << 10
LEFT_BYTES = 500_000
VALUE_BYTES = 20_000
"""More than a page, so that LMDB writes some of it before the room ends."""
WRITES_MAX = 200
PAGE_BYTES = 4_096
FEW_KEYS = 20
BOUNDS = CompactionBounds(entries_max=50, entries_kept=10)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", SMALL_KIB) as folder:
        yield folder


@pytest.fixture
def writer() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def value(index: int) -> bytes:
    return index.to_bytes(4, "big") * (VALUE_BYTES // 4)


def batch(index: int) -> LogWrite:
    return LogWrite(hard_state=None, entries=(Entry(term=1, index=index, data=value(index)),))


async def test_a_write_of_the_log_waits_for_room_and_what_was_written_is_kept(
    disk: Path, writer: ThreadPoolExecutor
) -> None:
    log = LogStore(disk / "log")
    ballast = fill(disk, leave_bytes=LEFT_BYTES)
    ended, now_ms = asyncio.Event(), 0
    writing = LogWriting(log, writer, wake=ended.set, stalled_ms=60_000, clock_ms=lambda: now_ms)

    async def is_done() -> bool:
        await ended.wait()
        ended.clear()
        return writing.done()

    for _ in range(WRITES_MAX):
        writing.begin(batch(log.last_index() + 1))
        if not await is_done():
            break
    written = log.last_index()
    assert written > 0
    for _ in range(3):
        assert writing.disk_full
        assert writing.waits_for_room
        now_ms += DISK_RETRY_MS
        assert not writing.done()
        assert not await is_done()
    ballast.unlink()
    now_ms += DISK_RETRY_MS
    assert not writing.done()
    assert await is_done()
    assert not writing.disk_full
    log.close()
    again = LogStore(disk / "log")
    assert again.last_index() == written + 1
    assert [again.entries(n, n + 1, 1)[0].data for n in range(1, written + 2)] == [
        value(n) for n in range(1, written + 2)
    ]
    again.close()


async def test_agreed_state_waits_in_memory_for_room_and_is_flushed_by_itself_then(
    disk: Path, writer: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_writing, "DISK_RETRY_S", 0.01)
    monkeypatch.setattr(state_store, "ACTIVE_KEYS_MAX", FEW_KEYS)
    node = Disk(disk)
    ballast = fill(disk, leave_bytes=LEFT_BYTES)
    work = OwnWork(lambda: None)
    writing = StateWriting(
        log=node.log, state=node.state, snapshots=node.snapshots, writer=writer, compaction=BOUNDS, work=work
    )
    node.state.conf = CONF
    writing.start()
    index = 0

    def apply() -> None:
        nonlocal index
        index += 1
        node.state.put(b"row%06d" % index, value(index))
        node.state.finish_entry(index, 1)
        writing.want_flush()

    while not writing.is_stuck:
        assert index < WRITES_MAX * FEW_KEYS
        for _ in range(FEW_KEYS + 1):
            apply()
        await until(lambda: writing.is_stuck or not node.state.dirty or work.broken is not None)
        assert work.broken is None, work.broken
    rows = {b"row%06d" % n: value(n) for n in range(1, index + 1)}
    assert dict(node.state.scan(b"")) == rows
    ballast.unlink()
    digest = node.state.digest
    await until(lambda: not node.state.dirty or work.broken is not None)
    await until(lambda: not writing.is_stuck)
    await writing.hold()  # The flush that took the rows is over.
    writing.end()
    writing.let_go()
    await work.wait()
    assert work.broken is None
    node.state.close()
    again = state_store.StateStore(node.root / node.log.state_folder)
    assert (again.applied_index, again.digest) == (index, digest)
    assert dict(again.scan(b"")) == rows
    again.close()
    node.log.close()


def test_a_full_disk_lets_open_what_is_there(disk: Path) -> None:
    log = LogStore(disk / "log")
    log.write(batch(1))
    log.close()
    state_store.StateStore(disk / "state").close()
    fill(disk)
    again = LogStore(disk / "log")
    assert again.entries(1, 2, 1)[0].data == value(1)
    again.close()
    state = state_store.StateStore(disk / "state")
    assert state.applied_index == 0
    state.close()


@pytest.mark.parametrize("left_pages", range(8))
def test_a_disk_too_full_for_a_new_log_or_state_refuses_it_and_has_room_for_it_later(
    disk: Path, left_pages: int
) -> None:
    """LMDB alone would end the process (no page for its locks), or leave half of a head that it never takes again."""
    ballast = fill(disk, leave_bytes=left_pages * PAGE_BYTES)
    for make in (LogStore, state_store.StateStore):
        with pytest.raises(HiveError) as caught:
            make(disk / make.__name__)
        assert caught.value.code is Code.DISK_FULL
    ballast.unlink()
    for make in (LogStore, state_store.StateStore):
        make(disk / make.__name__).close()
