"""The blob store on a real disk."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hivenode.blobs.files import Growing, disk_full, move_into_place
from hivenode.blobs.store import DiskBlobStore
from hivenode.errors import Code, HiveError
from hivenode.pool.records import BlobRef
from hivenode.runtime.streams import closing
from tests.support.parts import no_files_left
from tests.support.small_disks import free_bytes, small_disk

LARGE = 1 << 30
SMALL_KIB = 3 << 10


def ref(data: bytes) -> BlobRef:
    return BlobRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


async def cut(data: bytes, piece_bytes: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), piece_bytes):
        yield data[start : start + piece_bytes]


async def whole(store: DiskBlobStore, blob: BlobRef, offset: int = 0) -> bytes:
    return b"".join([piece async for piece in store.read(blob, offset)])


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DiskBlobStore]:
    made = DiskBlobStore(tmp_path / "blobs", 0)
    yield made
    await made.aclose()


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "blobs" / "tmp").iterdir())


def open_under(folder: Path) -> list[str]:
    """The files in a folder that this process has open."""
    names = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [name for name in names if name.startswith(f"{folder}/")]


async def test_a_stored_stream_is_named_by_its_content(store: DiskBlobStore, tmp_path: Path) -> None:
    data = os.urandom(3_500_000)
    blob = await store.put(cut(data, 70_000), size_bytes_max=LARGE)
    assert blob == ref(data)
    assert store.has(blob)
    assert store.path(blob) == tmp_path / "blobs" / blob.sha256[:2] / blob.sha256
    assert await whole(store, blob) == data
    assert await whole(store, blob, 3_000_001) == data[3_000_001:]
    assert leftovers(tmp_path) == []


async def test_an_empty_stream_is_a_blob(store: DiskBlobStore) -> None:
    blob = await store.put(cut(b""), size_bytes_max=LARGE)
    assert blob == ref(b"")
    assert await whole(store, blob) == b""


async def test_a_stream_over_the_bound_leaves_nothing(store: DiskBlobStore, tmp_path: Path) -> None:
    with pytest.raises(HiveError) as caught:
        await store.put(cut(bytes(2_000_000)), size_bytes_max=1_500_000)
    assert caught.value.code is Code.BLOB_TOO_LARGE
    assert await store.held() == []
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("data", [b"other", b"longer than it was", b"x"])
async def test_content_that_is_not_the_expected_one_is_refused(
    store: DiskBlobStore, tmp_path: Path, data: bytes
) -> None:
    with pytest.raises(HiveError) as caught:
        await store.put(cut(data), size_bytes_max=LARGE, expected=ref(b"right"))
    assert caught.value.code is Code.BLOB_CORRUPT
    assert not store.has(ref(b"right"))
    assert leftovers(tmp_path) == []


async def test_an_expected_blob_over_the_bound_is_refused_before_it_is_read(store: DiskBlobStore) -> None:
    with pytest.raises(HiveError) as caught:
        await store.put(cut(bytes(10)), size_bytes_max=9, expected=ref(bytes(10)))
    assert caught.value.code is Code.BLOB_TOO_LARGE


async def test_names_that_are_no_digest_lead_nowhere(store: DiskBlobStore, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(b"secret")
    for name in ("../secret", "..", "", "AB" * 32, "ab" * 32 + "\n"):
        blob = BlobRef(sha256=name, size_bytes=6)
        assert not store.has(blob)
        with pytest.raises(HiveError) as caught:
            store.path(blob)
        assert caught.value.code is Code.BLOB_NOT_FOUND
        with pytest.raises(HiveError):
            await store.put(cut(b"secret"), size_bytes_max=LARGE, expected=blob)
        await store.delete(name)
    assert outside.exists()


async def test_a_full_disk_refuses_while_the_stream_comes(tmp_path: Path) -> None:
    store = DiskBlobStore(tmp_path / "blobs", free_bytes(tmp_path) + (1 << 30))
    with pytest.raises(HiveError) as caught:
        await store.put(cut(bytes(10)), size_bytes_max=LARGE)
    assert caught.value.code is Code.DISK_FULL
    with pytest.raises(HiveError) as caught:
        await store.put(cut(bytes(10)), size_bytes_max=LARGE, expected=ref(bytes(10)))
    assert caught.value.code is Code.DISK_FULL
    assert leftovers(tmp_path) == []
    await store.aclose()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", SMALL_KIB) as folder:
        yield folder


async def test_a_disk_that_fills_up_under_a_stream_is_told_and_left_clean(disk: Path) -> None:
    store = DiskBlobStore(disk / "blobs", 0)
    with pytest.raises(HiveError) as caught:
        await store.put(cut(bytes(5 << 20), 300_000), size_bytes_max=LARGE)
    assert caught.value.code is Code.DISK_FULL
    assert list((disk / "blobs" / "tmp").iterdir()) == []
    assert (await store.put(cut(bytes(1 << 20)), size_bytes_max=LARGE)).size_bytes == 1 << 20
    await store.aclose()


async def test_the_reserve_is_kept_while_a_stream_comes(disk: Path) -> None:
    store = DiskBlobStore(disk / "blobs", 2 << 20)
    with pytest.raises(HiveError) as caught:
        await store.put(cut(bytes(2 << 20), 300_000), size_bytes_max=LARGE)
    assert caught.value.code is Code.DISK_FULL
    assert free_bytes(disk) >= 2 << 20
    await store.aclose()


async def test_the_system_s_word_for_a_full_disk_is_disk_full(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        refusal = disk_full(OSError(number, os.strerror(number)))
        assert refusal is not None
        assert refusal.code is Code.DISK_FULL
    assert disk_full(OSError(errno.EIO, "broken")) is None


async def test_what_a_crash_left_half_written_is_gone_after_the_start(tmp_path: Path) -> None:
    (tmp_path / "blobs" / "tmp").mkdir(parents=True)
    (tmp_path / "blobs" / "tmp" / "half").write_bytes(b"half")
    store = DiskBlobStore(tmp_path / "blobs", 0)
    assert leftovers(tmp_path) == []
    await store.aclose()


async def test_blobs_outlive_the_store_that_wrote_them(tmp_path: Path) -> None:
    first = DiskBlobStore(tmp_path / "blobs", 0)
    blob = await first.put(cut(b"kept"), size_bytes_max=LARGE)
    await first.aclose()
    second = DiskBlobStore(tmp_path / "blobs", 0)
    assert await whole(second, blob) == b"kept"
    assert [held.blob for held in await second.held()] == [blob]
    await second.aclose()


async def test_the_same_blob_can_be_stored_by_many_at_once(store: DiskBlobStore, tmp_path: Path) -> None:
    data = os.urandom(1_200_000)
    blobs = await asyncio.gather(*(store.put(cut(data, 100_000), size_bytes_max=LARGE) for _ in range(8)))
    assert set(blobs) == {ref(data)}
    assert await whole(store, ref(data)) == data
    assert leftovers(tmp_path) == []


async def test_a_cancelled_upload_leaves_nothing(store: DiskBlobStore, tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield bytes(2_000_000)
        begun.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(store.put(stuck(), size_bytes_max=LARGE))
    await asyncio.wait_for(begun.wait(), 10)
    assert len(leftovers(tmp_path)) == 1
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert leftovers(tmp_path) == []
    assert await store.held() == []


async def test_a_failing_sender_is_told_on_and_leaves_nothing(store: DiskBlobStore, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise HiveError(Code.NODE_OFFLINE, "gone")

    with pytest.raises(HiveError) as caught:
        await store.put(broken(), size_bytes_max=LARGE)
    assert caught.value.code is Code.NODE_OFFLINE
    assert leftovers(tmp_path) == []


async def test_a_finished_file_is_moved_in(store: DiskBlobStore, tmp_path: Path) -> None:
    source = tmp_path / "result.zip"
    source.write_bytes(b"result")
    blob = await store.put_file(source)
    assert blob == ref(b"result")
    assert not source.exists()
    assert store.path(blob).stat().st_mode & 0o777 == 0o600


async def test_a_link_is_not_moved_in(store: DiskBlobStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(OSError):
        await store.put_file(tmp_path / "link")
    assert await store.held() == []


async def test_a_deleted_blob_is_gone_and_a_missing_one_is_no_error(store: DiskBlobStore, tmp_path: Path) -> None:
    blob = await store.put(cut(b"gone soon"), size_bytes_max=LARGE)
    await store.delete(blob.sha256)
    await store.delete(blob.sha256)
    assert not store.has(blob)
    with pytest.raises(HiveError) as caught:
        await whole(store, blob)
    assert caught.value.code is Code.BLOB_NOT_FOUND
    assert leftovers(tmp_path) == []


async def test_a_reader_keeps_a_blob_that_is_deleted_under_it(store: DiskBlobStore) -> None:
    data = os.urandom(2_500_000)
    blob = await store.put(cut(data, 500_000), size_bytes_max=LARGE)
    reading = store.read(blob)
    first = await anext(reading)
    await store.delete(blob.sha256)
    assert first + b"".join([piece async for piece in reading]) == data


async def test_a_reader_who_leaves_while_its_file_is_opened_leaves_no_file_open(
    store: DiskBlobStore, tmp_path: Path
) -> None:
    blob = await store.put(cut(b"some"), size_bytes_max=LARGE)

    async def first() -> bytes:
        async with closing(store.read(blob)) as pieces:
            return await anext(pieces)

    readers = [asyncio.ensure_future(first()) for _ in range(50)]
    await asyncio.sleep(0)  # Now each has asked a thread for its file.
    for reader in readers:
        reader.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*readers, return_exceptions=True)
    )
    await store.aclose()
    assert open_under(tmp_path) == []


def test_a_file_that_was_given_up_before_a_thread_opened_it_is_not_made(tmp_path: Path) -> None:
    growing = Growing(tmp_path / "upload", 0)
    growing.discard()
    growing.open()
    assert list(tmp_path.iterdir()) == []
    assert open_under(tmp_path) == []


async def test_a_young_blob_can_be_spared(store: DiskBlobStore) -> None:
    blob = await store.put(cut(b"young"), size_bytes_max=LARGE)
    os.utime(store.path(blob), (1, 1))
    assert (await store.held())[0].stored_ms == 1_000
    await store.put(cut(b"never read"), size_bytes_max=LARGE, expected=blob)
    await store.delete(blob.sha256, spare_younger_s=60)
    assert store.has(blob)
    os.utime(store.path(blob), (1, 1))
    await store.delete(blob.sha256, spare_younger_s=60)
    assert not store.has(blob)


async def test_a_closed_store_says_that_the_node_stops(tmp_path: Path) -> None:
    store = DiskBlobStore(tmp_path / "blobs", 0)
    await store.aclose()
    with pytest.raises(HiveError) as caught:
        await store.put(cut(b"late"), size_bytes_max=LARGE)
    assert caught.value.code is Code.SHUTTING_DOWN


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_machine_that_is_out_of_files_gives_no_blob_a_name_that_a_power_cut_may_take(
    tmp_path: Path, has_folder: bool
) -> None:
    """The next upload of it would find it there, and count it as a copy."""
    source, target = tmp_path / "source", tmp_path / "ab/blob"
    source.touch()
    if has_folder:
        target.parent.mkdir()
    with no_files_left(), pytest.raises(OSError, match="Too many open files"):
        move_into_place(source, target)
    assert (source.exists(), target.parent.exists(), target.exists()) == (True, has_folder, False)
    move_into_place(source, target)
    assert target.exists()
