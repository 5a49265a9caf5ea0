"""Snapshots on disk: what was copied out is what comes in, damage is found, and a crash leaves the old or the new."""

from __future__ import annotations

import asyncio
import resource
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest

from hivenode.consensus import Compacted, ConfState, Entry, HardState, SnapshotMeta, SnapshotUnavailable
from hivenode.errors import Code, HiveError
from hivenode.runtime.stores import CompactionBounds, LogBase, LogWrite, SnapshotRef
from hivenode.storage.log_store import LogStore
from hivenode.storage.state_store import StateStore
from tests.support.disks import CONF, Disk

DEADLINE_S = 30.0


def test_an_installed_snapshot_is_the_state_that_was_copied_and_survives_a_reopening(tmp_path: Path) -> None:
    leader, follower = Disk(tmp_path / "leader"), Disk(tmp_path / "follower")
    leader.fill(10_000)
    follower.fill(10, b"old")
    made = leader.snapshots.make()
    assert made.meta == SnapshotMeta(index=10_000, term=1, conf=CONF)
    follower.install(follower.take(made))
    for disk in (follower, None):
        if disk is None:
            follower.close()
            disk = follower = Disk(tmp_path / "follower")
        assert disk.rows() == leader.rows()
        assert (disk.state.digest, disk.state.applied_index, disk.state.conf) == (leader.state.digest, 10_000, CONF)
        assert (disk.log.first_index(), disk.log.last_index(), disk.log.term(10_000)) == (10_001, 10_000, 1)
    assert sorted(path.name for path in (tmp_path / "follower").iterdir()) == ["log", "snapshots", "state.1"]
    assert list((tmp_path / "follower" / "snapshots").iterdir()) == []
    follower.close()
    leader.close()


def test_a_copy_reads_on_from_its_map_while_the_store_goes_on_with_another_and_is_closed(tmp_path: Path) -> None:
    leader, follower = Disk(tmp_path / "leader"), Disk(tmp_path / "follower")
    leader.fill(20)
    follower.fill(10, b"old")
    rows = follower.rows()
    prepared = follower.take(leader.snapshots.make())
    with follower.state.copying() as (mark, copied):
        first = next(copied)
        follower.install(prepared)
        assert follower.rows() == leader.rows()
        assert [path.name for path in follower.root.glob("state*")] == ["state.1"]
        with follower.state.copying() as (later_mark, later):
            last = next(later)
            follower.close()
            assert dict([first, *copied]) == rows
            assert mark.index == 10
            assert dict([last, *later]) == leader.rows()
            assert later_mark.index == 20
            with pytest.raises(lmdb.Error, match="already open"):
                StateStore(follower.root / "state.1")
    StateStore(follower.root / "state.1").close()
    leader.close()


def test_a_store_that_is_closed_begins_no_copy(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk")
    disk.fill(1)
    disk.close()
    with pytest.raises(HiveError) as refusal, disk.state.copying():
        pass
    assert refusal.value.code is Code.SHUTTING_DOWN


@pytest.mark.parametrize("place", [0, 20, 300, 5_000, -1, -20])
def test_a_flipped_bit_anywhere_is_found_and_leaves_no_folder(tmp_path: Path, place: int) -> None:
    leader, follower = Disk(tmp_path / "leader"), Disk(tmp_path / "follower")
    leader.fill(500)
    made = leader.snapshots.make()
    data = bytearray(made.path.read_bytes())
    data[place] ^= 1
    follower.snapshots.receive(made.ref, 0, bytes(data))
    with pytest.raises(HiveError) as damage:
        follower.snapshots.prepare(made.ref, made.meta)
    assert damage.value.code is Code.BLOB_CORRUPT
    assert follower.snapshots.received_bytes(made.ref) == 0, "what is damaged is fetched anew"
    assert sorted(path.name for path in follower.root.iterdir()) == ["log", "snapshots", "state"]
    follower.close()
    leader.close()


def test_a_snapshot_of_another_hive_or_entry_is_refused(tmp_path: Path) -> None:
    leader, follower = Disk(tmp_path / "leader"), Disk(tmp_path / "follower")
    leader.fill(3)
    made = leader.snapshots.make()
    for meta in (
        SnapshotMeta(index=4, term=1, conf=CONF),
        SnapshotMeta(index=3, term=2, conf=CONF),
        SnapshotMeta(index=3, term=1, conf=ConfState()),
    ):
        follower.snapshots.receive(made.ref, 0, made.path.read_bytes())
        with pytest.raises(HiveError, match="another entry"):
            follower.snapshots.prepare(made.ref, meta)
    follower.close()
    leader.close()


async def test_a_partial_file_goes_on_where_it_stopped_also_after_a_restart(tmp_path: Path) -> None:
    leader, follower = Disk(tmp_path / "leader"), Disk(tmp_path / "follower")
    leader.fill(2_000)
    made = leader.snapshots.make()
    follower.snapshots.receive(made.ref, 0, made.path.read_bytes()[:1_000])
    follower.close()
    follower = Disk(tmp_path / "follower")
    offset = follower.snapshots.received_bytes(made.ref)
    assert offset == 1_000
    async for data in leader.snapshots.read(made.ref.sha256, offset):
        follower.snapshots.receive(made.ref, offset, data)
        offset += len(data)
    assert follower.snapshots.prepare(made.ref, made.meta).meta == made.meta
    with pytest.raises(HiveError, match="more came"):
        follower.snapshots.receive(made.ref, made.ref.size_bytes, b"x")
    with pytest.raises(HiveError, match="name"):
        follower.snapshots.received_bytes(SnapshotRef(sha256="../state", size_bytes=1))
    follower.close()
    leader.close()


async def test_who_comes_for_a_copy_in_the_moment_when_another_takes_its_place_is_told_so(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "leader")
    disk.fill(3)
    made = disk.snapshots.make()
    loop, free = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, free.wait, DEADLINE_S)
    pieces = disk.snapshots.read(made.ref.sha256, 0)
    coming = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)  # It asks for this copy now, and the file is opened when a thread is free.
    disk.fill(4)
    assert disk.snapshots.make().path != made.path
    free.set()
    with pytest.raises(HiveError) as refusal:
        await coming
    assert refusal.value.code is Code.BLOB_NOT_FOUND
    assert await busy
    disk.close()


def test_a_machine_out_of_files_makes_and_takes_no_snapshot_for_now_and_goes_on(tmp_path: Path) -> None:
    leader, follower = Disk(tmp_path / "leader"), Disk(tmp_path / "follower")
    leader.fill(3)
    bound = resource.getrlimit(resource.RLIMIT_NOFILE)

    def runs_out(disk: Disk, last_step: str) -> None:
        def step(name: str) -> None:
            if name == last_step:
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, bound[1]))

        disk.snapshots._step = step

    try:
        runs_out(leader, "snapshot written")
        with pytest.raises(HiveError):
            leader.snapshots.make()
        resource.setrlimit(resource.RLIMIT_NOFILE, bound)
        runs_out(leader, "")
        assert not list((tmp_path / "leader" / "snapshots").iterdir()), "each try would leave a copy of the state"
        made = leader.snapshots.make()
        follower.snapshots.receive(made.ref, 0, made.path.read_bytes())
        runs_out(follower, "some rows written")
        with pytest.raises(HiveError):
            follower.snapshots.prepare(made.ref, made.meta)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, bound)
    runs_out(follower, "")
    assert follower.snapshots.prepare(made.ref, made.meta).meta == made.meta
    follower.close()
    leader.close()


def test_a_crash_at_any_step_leaves_the_old_or_the_new_and_never_a_mixture(tmp_path: Path) -> None:
    leader = Disk(tmp_path / "leader")
    leader.fill(9_000, b"new")
    made = leader.snapshots.make()
    old = Disk(tmp_path / "follower")
    old.fill(100, b"old")
    old_rows, pictures = old.rows(), 0
    images: list[Path] = []

    def picture(name: str) -> None:
        nonlocal pictures
        pictures += 1
        images.append(tmp_path / f"image{pictures:03d}")
        shutil.copytree(old.root, images[-1])

    old.snapshots._step = picture
    prepared = old.take(made)
    picture("prepared")
    base = LogBase(index=prepared.meta.index, term=prepared.meta.term, state_folder=prepared.folder.name)
    write = LogWrite(hard_state=HardState(term=2, vote=None, commit=base.index), entries=(), base=base)
    old.log.write(write)
    picture("the log names the new state")
    changed_over_at = len(images)
    old.log.written(write)
    old.state.adopt(prepared.folder)
    picture("the new state is open")
    old.snapshots.retire()
    picture("the old state is removed")
    old.close()
    assert changed_over_at >= 5
    for number, image in enumerate(images, 1):
        found = Disk(image)
        if number < changed_over_at:
            assert (found.rows(), found.log.last_index(), found.state.applied_index) == (old_rows, 100, 100)
            assert found.log.first_index() == 1
        else:
            assert (found.rows(), found.log.last_index(), found.state.applied_index) == (leader.rows(), 9_000, 9_000)
            assert found.log.first_index() == 9_001
        folders = [path.name for path in image.iterdir() if path.name.startswith("state")]
        assert folders == [found.log.state_folder]
        found.close()
    leader.close()


def test_a_compacted_log_keeps_its_tail_and_its_base_after_a_reopening(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "node")
    disk.fill(5_000)
    bounds = CompactionBounds(entries_max=4_000, entries_kept=1_000)
    assert disk.log.compactable(CompactionBounds(entries_max=5_000), 5_000) == 0
    assert disk.log.compactable(bounds, 3_000) == 3_000, "never past what the state has synced"
    assert disk.log.compactable(bounds, 5_000) == 4_000
    disk.log.begin_compaction(4_000)
    disk.log.compact()
    size_bytes = disk.log.size_bytes
    for log in (disk.log, None):
        if log is None:
            disk.close()
            disk = Disk(tmp_path / "node")
            log = disk.log
        assert (log.first_index(), log.last_index(), log.term(4_000)) == (4_001, 5_000, 1)
        assert log.entries(4_001, 5_001, 1 << 20)[0].data == b"4001"
        with pytest.raises(Compacted):
            log.term(3_999)
        with pytest.raises(Compacted):
            log.entries(4_000, 4_002, 1)
        with pytest.raises(SnapshotUnavailable):
            log.snapshot()
        assert log.snapshot_wanted
    assert size_bytes <= 1_000 * 20
    disk.close()


def test_a_log_is_compacted_by_its_bytes_too(tmp_path: Path) -> None:
    log = LogStore(tmp_path / "log")
    write = LogWrite(
        hard_state=None, entries=tuple(Entry(term=1, index=index, data=bytes(1_000)) for index in range(1, 101))
    )
    log.write(write)
    log.written(write)
    assert log.compactable(CompactionBounds(bytes_max=90_000, bytes_kept=50_000), 100) in (50, 51)
    log.close()


def test_a_crash_between_the_transactions_of_a_compaction_leaves_a_whole_log(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "node")
    disk.fill(5_000)
    disk.log.begin_compaction(4_500)
    assert disk.log._remove_some(4_500, 1)
    shutil.copytree(disk.root / "log", tmp_path / "image")
    image = LogStore(tmp_path / "image")
    assert (image.first_index(), image.last_index(), image.term(2_000)) == (2_001, 5_000, 1)
    image.close()
    disk.close()


def test_the_digest_is_of_what_entries_wrote_in_any_order_and_never_forgets_a_difference(tmp_path: Path) -> None:
    one, two, three = (StateStore(tmp_path / name) for name in ("one", "two", "three"))
    one.put(b"a", b"1")
    one.put(b"b", b"2")
    two.put(b"b", b"0")
    two.put(b"b", b"2")
    two.put(b"a", b"1")
    three.put(b"a", b"1")
    three.put(b"b", b"3")
    for store in (one, two, three):
        store.finish_entry(1, 1)
    assert one.digest == two.digest != three.digest
    for store in (one, two, three):
        store.put(b"b", b"2")
        store.finish_entry(2, 1)
    assert one.digest == two.digest != three.digest
    one.delete(b"b")
    two.put(b"b", b"")
    for store in (one, two):
        store.finish_entry(3, 1)
    assert one.digest != two.digest
    for store in (one, two, three):
        store.close()
