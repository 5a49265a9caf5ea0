"""Blobs on this node's disk: files named by the SHA-256 of their content, complete and durable, or absent.

A blob lies at `root/ab/<sha256>`, where `ab` are its first two digits. It is written to `root/tmp/<random>`, synced, renamed, and
its folder synced, so that no crash leaves half a blob under a blob's name; what a crash leaves in `tmp` is removed at the
next start. Blocking work runs in a few threads; every stream has at most one piece of work there at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from hivenode.blobs.files import PIECE_BYTES, Growing, Reading, check_space, move_into_place, settle_file
from hivenode.errors import Code, HiveError
from hivenode.pool.records import BlobRef

_THREADS: Final = 4
"""Hashing and writing are bound by one disk and a few cores; more threads would only wait."""
_TEMPORARY: Final = "tmp"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FOLDER: Final = re.compile(r"[0-9a-f]{2}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBlob:
    """A blob on disk, and when it came, so that a sweep can leave alone what is not named by a task yet."""

    blob: BlobRef
    stored_ms: int


class DiskBlobStore:
    """Fills `ports.BlobStore`.

    Args:
        root: the folder of the blobs; made when missing. One daemon uses it at a time.
        reserve_bytes: free space under which nothing more is stored.
    """

    def __init__(self, root: Path, reserve_bytes: int) -> None:
        self._root = root
        self._temporary = root / _TEMPORARY
        self._reserve_bytes = reserve_bytes
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")
        self._temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._temporary.iterdir():
            leftover.unlink()

    def has(self, blob: BlobRef) -> bool:
        """Whether the blob lies here, with the size that its reference says."""
        if _SHA256.fullmatch(blob.sha256) is None:
            return False
        try:
            return self._place(blob.sha256).stat().st_size == blob.size_bytes
        except FileNotFoundError:
            return False

    def path(self, blob: BlobRef) -> Path:
        """The file of a blob. Raises BLOB_NOT_FOUND."""
        if not self.has(blob):
            raise HiveError(Code.BLOB_NOT_FOUND, f"the blob {blob.sha256[:12]} is not on this node")
        return self._place(blob.sha256)

    async def put(
        self, pieces: AsyncIterator[bytes], *, size_bytes_max: int, expected: BlobRef | None = None
    ) -> BlobRef:
        """Stores a stream and returns when file and folder are synced; a blob that is here already is not read again.

        Args:
            pieces: the content; pieces of any size.
            size_bytes_max: more than this is refused.
            expected: what the content must be.
        Raises:
            HiveError: BLOB_TOO_LARGE, BLOB_CORRUPT (not the expected content), DISK_FULL.
        """
        if expected is not None:
            if _SHA256.fullmatch(expected.sha256) is None or expected.size_bytes < 0:
                raise HiveError(Code.INVALID_ARGUMENT, "a blob is named by 64 hexadecimal digits and its size")
            if self.has(expected):
                os.utime(self._place(expected.sha256))  # Young again, for a sweep that spares what came a moment ago.
                return expected
            if expected.size_bytes > size_bytes_max:
                raise _too_large(size_bytes_max)
            check_space(self._root, expected.size_bytes, self._reserve_bytes)
            size_bytes_max = expected.size_bytes
        path = self._temporary / secrets.token_hex(16)
        growing = Growing(path, self._reserve_bytes)
        try:
            await self._run(growing.open)
            size_bytes = await self._take(pieces, growing, size_bytes_max, expected)
            sha256 = await self._run(growing.sync)
            blob = BlobRef(sha256=sha256, size_bytes=size_bytes)
            if expected is not None and blob != expected:
                raise _corrupt(expected)
            await self._run(lambda: move_into_place(path, self._place(sha256)))
        except BaseException:
            with contextlib.suppress(HiveError):  # Only when this node stops: the next start removes what is left.
                await self._run(growing.discard)
            raise
        return blob

    async def put_file(self, source: Path) -> BlobRef:
        """Moves a finished file of the same file system into the store. Raises DISK_FULL."""
        sha256, size_bytes = await self._run(lambda: settle_file(source))
        await self._run(lambda: move_into_place(source, self._place(sha256)))
        return BlobRef(sha256=sha256, size_bytes=size_bytes)

    async def read(self, blob: BlobRef, offset: int = 0) -> AsyncIterator[bytes]:
        """The content from `offset`, in pieces of 256 KiB. Raises BLOB_NOT_FOUND."""
        reading = Reading(self.path(blob), offset)
        try:
            await self._run(reading.open)
            while piece := await self._run(reading.next_piece):
                yield piece
        except FileNotFoundError as error:
            raise HiveError(Code.BLOB_NOT_FOUND, f"the blob {blob.sha256[:12]} is not on this node any more") from error
        finally:
            await self._run(reading.close)

    async def delete(self, sha256: str, *, spare_younger_s: float = 0.0) -> None:
        """Removes a blob; a missing one is no error. It is gone for `has` before this first waits.

        Args:
            spare_younger_s: leaves a blob alone that was stored, or asked to be stored again, less than this ago.
        """
        if _SHA256.fullmatch(sha256) is None:
            return
        place = self._place(sha256)
        doomed = self._temporary / secrets.token_hex(16)
        try:
            if spare_younger_s and time.time() - place.stat().st_mtime < spare_younger_s:
                return
            os.rename(place, doomed)
        except FileNotFoundError:
            return
        await self._run(lambda: doomed.unlink(missing_ok=True))

    async def held(self) -> list[HeldBlob]:
        """All blobs on disk, in the order of their names."""
        return await self._run(self._list)

    async def aclose(self) -> None:
        """Ends the threads, after the work that they have begun."""
        await asyncio.to_thread(self._threads.shutdown)

    def _place(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256

    async def _take(
        self, pieces: AsyncIterator[bytes], growing: Growing, size_bytes_max: int, expected: BlobRef | None
    ) -> int:
        """Writes a stream, gathered to pieces of about 1 MiB; its size."""
        waiting = bytearray()
        size_bytes = 0
        async for piece in pieces:
            size_bytes += len(piece)
            if size_bytes > size_bytes_max:
                raise _too_large(size_bytes_max) if expected is None else _corrupt(expected)
            waiting += piece
            if len(waiting) >= PIECE_BYTES:
                data, waiting = bytes(waiting), bytearray()
                await self._write(growing, data)
        if waiting:
            await self._write(growing, bytes(waiting))
        return size_bytes

    async def _write(self, growing: Growing, data: bytes) -> None:
        await self._run(lambda: growing.write(data))

    async def _run(self, work: Callable[[], T]) -> T:
        """Runs blocking work in a thread. A cancelled caller leaves it running to its end: files are never left open."""
        try:
            future = self._threads.submit(work)
        except RuntimeError as error:
            raise HiveError(Code.SHUTTING_DOWN, "this node is stopping: send this through another one") from error
        return await asyncio.shield(asyncio.wrap_future(future))

    def _list(self) -> list[HeldBlob]:
        found: list[HeldBlob] = []
        for folder in sorted(entry for entry in self._root.iterdir() if _FOLDER.fullmatch(entry.name)):
            for file in sorted(folder.iterdir()):
                if _SHA256.fullmatch(file.name) is None:
                    continue
                try:
                    state = file.stat()
                except FileNotFoundError:  # deleted since it was listed
                    continue
                blob = BlobRef(sha256=file.name, size_bytes=state.st_size)
                found.append(HeldBlob(blob=blob, stored_ms=state.st_mtime_ns // 1_000_000))
        return found


def _too_large(size_bytes_max: int) -> HiveError:
    return HiveError(
        Code.BLOB_TOO_LARGE, f"this is larger than the {size_bytes_max / (1 << 20):.4g} MiB that are allowed"
    )


def _corrupt(expected: BlobRef) -> HiveError:
    return HiveError(
        Code.BLOB_CORRUPT,
        f"what came is not the blob {expected.sha256[:12]} of {expected.size_bytes} bytes: send it again",
    )
