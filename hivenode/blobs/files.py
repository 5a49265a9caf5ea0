"""Files of the blob store, as its threads see them: written whole or not at all, read in pieces.

A cancelled coroutine leaves its thread at work, so each open file has a lock: a file is never closed under a running read or
write, and what comes after the close does nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hivenode.errors import Code, HiveError

PIECE_BYTES: Final = 1 << 20
"""One write: large enough that the cost of a thread's wake-up vanishes, small enough to hold many."""
READ_BYTES: Final = 256 << 10
"""One read, for somebody who may take his time with it."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def check_space(folder: Path, more_bytes: int, reserve_bytes: int) -> None:
    """Raises DISK_FULL when writing `more_bytes` would leave less than `reserve_bytes` free."""
    room = os.statvfs(folder)
    free_bytes = room.f_bavail * room.f_frsize
    if free_bytes - more_bytes < reserve_bytes:
        raise HiveError(
            Code.DISK_FULL,
            f"the disk of this node is full: {free_bytes >> 20} MiB are free and {reserve_bytes >> 20} MiB are kept in "
            "reserve; free some space, or send this through another node",
        )


def disk_full(error: OSError) -> HiveError | None:
    """DISK_FULL for the errors of the system that mean it, else None."""
    if error.errno in _FULL:
        return HiveError(
            Code.DISK_FULL, f"the disk of this node is full ({error.strerror}): free some space and try again"
        )
    return None


def move_into_place(source: Path, target: Path) -> None:
    """Gives a synced file its final name, durably; a file of that name with the same content is replaced by it."""
    if not target.parent.is_dir():
        with _synced(target.parent.parent):
            target.parent.mkdir(mode=0o700, exist_ok=True)
    with _synced(target.parent):
        os.rename(source, target)


@contextlib.contextmanager
def _synced(folder: Path) -> Iterator[None]:
    """Makes the names durable that the block gives. A machine that is out of files gives none: it could not sync them."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
        os.fsync(handle)
    finally:
        os.close(handle)


class Growing:
    """A temporary file that becomes a blob, or vanishes.

    Args:
        path: where to write; the name must be free.
        reserve_bytes: free space that is never used.
    """

    def __init__(self, path: Path, reserve_bytes: int) -> None:
        self._path = path
        self._reserve_bytes = reserve_bytes
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._handle = -1
        self._given_up = False

    def open(self) -> None:
        """Makes the file, unless it was given up before a thread came to this. Raises DISK_FULL."""
        with self._lock:
            if self._given_up:
                return
            try:
                self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except OSError as error:
                raise disk_full(error) or error from error

    def write(self, data: bytes) -> None:
        """Appends all of `data`. Raises DISK_FULL."""
        with self._lock:
            if self._handle < 0:
                return
            check_space(self._path.parent, len(data), self._reserve_bytes)
            self._digest.update(data)
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[os.write(self._handle, rest) :]
            except OSError as error:
                raise disk_full(error) or error from error

    def sync(self) -> str:
        """Makes the content durable and closes the file; its SHA-256 in hexadecimal digits."""
        with self._lock:
            try:
                os.fsync(self._handle)
            except OSError as error:
                raise disk_full(error) or error from error
            finally:
                self._close()
            return self._digest.hexdigest()

    def discard(self) -> None:
        """Closes and removes the file, unless it has moved into place."""
        with self._lock:
            self._given_up = True
            self._close()
            self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Reading:
    """A blob that is read; once it is open it can be read to its end also when the blob is deleted meanwhile."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._offset = offset
        self._lock = threading.Lock()
        self._handle = -1
        self._closed = False

    def open(self) -> None:
        """Opens the file, unless its reader left before a thread came to this. Raises FileNotFoundError."""
        with self._lock:
            if not self._closed:
                self._handle = os.open(self._path, os.O_RDONLY)

    def next_piece(self) -> bytes:
        """Up to `READ_BYTES`; empty at the end."""
        with self._lock:
            data = os.pread(self._handle, READ_BYTES, self._offset) if self._handle >= 0 else b""
            self._offset += len(data)
            return data

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1


def settle_file(path: Path) -> tuple[str, int]:
    """Syncs a finished file and makes it private; its SHA-256 and size. A link is refused by the system."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchmod(handle, 0o600)
        digest, size_bytes = hashlib.sha256(), 0
        while piece := os.read(handle, PIECE_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
        os.fsync(handle)
    except OSError as error:
        raise disk_full(error) or error from error
    finally:
        os.close(handle)
    return digest.hexdigest(), size_bytes
