"""What LMDB's errors say of the disk: that it is full, which passes, or that it failed, after which nothing is written any more.

A write that finds no room at all fails with ENOSPC or EDQUOT. One that finds room for a part of it is a *short write*, and for
that LMDB says EIO, which is also what it says of a failed fsync. They are told apart, because only one may be tried again:

| a commit failed with | an fsync through a descriptor of our own | the file system has | so | it raises |
|---|---|---|---|---|
| the map is full | | | there is no room | DISK_FULL |
| ENOSPC, EDQUOT | succeeds | | there is no room | DISK_FULL |
| EIO | succeeds | next to no room | it was a short write | DISK_FULL |
| EIO | succeeds | room, up to `UNEXPLAINED_MAX` times in a row | room came since, or a quota ended | DISK_FULL |
| EIO | succeeds | room, and again | the write failed | what LMDB raised |
| any of the three | fails | | the fsync failed | InvariantError |

After a failed fsync the kernel may have thrown away what it could not write, and calls it written: trying again would succeed and
build on what is on no disk, and so would another life of this process. Linux tells of such a failure once through each descriptor
that was open at the time (errseq_t), so one of our own hears of it although LMDB's has. A commit that failed for want of room
wrote neither of the two pages that say what is valid (else LMDB takes no other transaction), so all that was committed stands,
and the same commit may be tried again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from hivenode.errors import Code, HiveError, InvariantError

MAP_BYTES: Final = 64 << 30
"""Address space, not disk: fixed and large, so that the map never has to be resized under a reader."""
NEXT_TO_NO_ROOM_BYTES: Final = 4 << 20
"""A short write took the last byte there was. Somebody may have freed a little before we look, and file systems keep some."""
UNEXPLAINED_MAX: Final = 8
"""Nothing that is valid was written, so it may be tried again; a disk that fails each time is broken."""
_DATA_FILE: Final = "data.mdb"
_LOCK_FILE: Final = "lock.mdb"
_LOCK_BYTES: Final = 8_192
"""What LMDB makes its lock file for 126 readers."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def open_environment(
    folder: Path, *, map_bytes: int = MAP_BYTES, metasync: bool, sync: bool = True, spare_transactions: int = 1
) -> lmdb.Environment:
    """Opens or makes the LMDB environment in `folder`, which exists.

    Raises:
        HiveError: DISK_FULL, and then there is none in `folder` if there was none before.
        lmdb.Error: it is damaged, or the disk cannot be read.
    """
    data = folder / _DATA_FILE
    is_new = not data.exists() or not data.stat().st_size
    try:
        _make_lock_file(folder / _LOCK_FILE)
        return lmdb.open(
            str(folder),
            map_size=map_bytes,
            max_dbs=2,
            metasync=metasync,
            sync=sync,
            mode=0o600,
            max_spare_txns=spare_transactions,
        )
    except (OSError, lmdb.Error) as error:
        full = error.errno in _FULL if isinstance(error, OSError) else _lacks_room(error)
        if not full:
            raise
        if is_new:  # Half of its head is there perhaps, which LMDB would take for a damaged one ever after.
            for name in (_DATA_FILE, _LOCK_FILE):
                (folder / name).unlink(missing_ok=True)
        raise HiveError(
            Code.DISK_FULL, f"{folder} cannot be opened, since its disk is full: free some disk space, and start again"
        ) from error


def _make_lock_file(path: Path) -> None:
    """LMDB makes it without content and writes into its map, and where no block is left for that the system kills the process."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    try:
        if os.write(handle, bytes(_LOCK_BYTES)) != _LOCK_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(handle)


class LmdbDisk:
    """The disk under one environment. One thread at a time writes.

    Args:
        folder: holds the environment.
        what: is kept in it, for messages.
    """

    def __init__(self, environment: lmdb.Environment, folder: Path, what: str) -> None:
        self._environment = environment
        self._folder = folder
        self._what = what
        self._unexplained = 0
        self._witness = os.open(folder / _DATA_FILE, os.O_RDONLY | os.O_CLOEXEC)

    @contextmanager
    def told_apart(self) -> Iterator[None]:
        """Around one write transaction.

        Raises:
            HiveError: DISK_FULL with nothing of it written; it may be tried again.
            InvariantError: an fsync failed.
            lmdb.Error: anything else.
        """
        try:
            yield
            self._unexplained = 0
        except lmdb.MapFullError as error:
            raise self._full(error) from error
        except lmdb.Error as error:
            lacks_room = _lacks_room(error)
            if not lacks_room and not _says(error, errno.EIO):
                raise
            if not self._is_sound():
                raise self._broken(error) from error
            self._unexplained += not lacks_room and self._has_room()
            if self._unexplained > UNEXPLAINED_MAX:
                raise
            raise self._full(error) from error

    def _is_sound(self) -> bool:
        """Whether no fsync failed, and LMDB takes another transaction."""
        try:
            os.fsync(self._witness)
            self._environment.begin(write=True).abort()
        except (OSError, lmdb.PanicError):
            return False
        return True

    def _has_room(self) -> bool:
        room = os.statvfs(self._folder)
        return room.f_bavail * room.f_frsize >= NEXT_TO_NO_ROOM_BYTES

    def sync(self) -> None:
        """All that was committed survives the loss of power when this returns. Raises InvariantError; see the module."""
        try:
            self._environment.sync(True)
        except lmdb.Error as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """Closes the environment as well."""
        self._environment.close()
        os.close(self._witness)

    def _full(self, error: lmdb.Error) -> HiveError:
        return HiveError(Code.DISK_FULL, f"{self._what} cannot be written: {error}; free some disk space")

    def _broken(self, error: lmdb.Error) -> InvariantError:
        return InvariantError(
            f"the disk failed to write {self._what} in {self._folder}: {error}. It is not tried again, since what the disk "
            "was given before may be lost: look after this machine's disk, and start again"
        )


def _lacks_room(error: lmdb.Error) -> bool:
    return isinstance(error, lmdb.DiskError) or _says(error, errno.EDQUOT)


def _says(error: lmdb.Error, number: int) -> bool:
    # Not every version of the binding gives the number.
    return str(error).endswith(os.strerror(number))
