"""Snapshots on disk: the agreed state copied out once into a checked file, and a received file made into a state.

A snapshot's file is named by its SHA-256 and holds, one after the other: magic; the header (4-byte length, then canonical
[version, hive id, [index, term, digest, configuration]]); the rows in key order, each with an 8-byte head that says the lengths
of key and value; a head that no row can have; the number of rows. All numbers are big-endian.

| file or folder | is |
|---|---|
| snapshots/<sha256>.snapshot | what this node made last, for others to fetch |
| snapshots/<sha256>.partial | what it has received so far of another's |
| state, state.<n> | the agreed state; the log says which one, and any other is a leftover |

A received snapshot becomes a whole new folder `state.<n>`, fsynced, before the log names it. So nothing is ever replaced in
place, and a crash at any moment leaves a leftover at most, which the next start removes.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import lmdb

from hivenode.consensus import SnapshotMeta
from hivenode.encoding.canonical import DecodeError, decode, encode
from hivenode.errors import Code, HiveError
from hivenode.runtime.stores import MadeSnapshot, PreparedState, SnapshotRef
from hivenode.storage.log_store import FIRST_STATE_FOLDER, LogStore
from hivenode.storage.state_store import StateMark, StateStore, open_environment, write_mark

MAGIC: Final = b"hivenode state\n"
VERSION: Final = 1
PIECE_BYTES: Final = 1 << 20
"""What is read, written or sent at once."""
SNAPSHOT_BYTES_MAX: Final = 64 << 30
"""No state outgrows its map."""
HEADER_BYTES_MAX: Final = 1 << 20
"""A configuration of a thousand members is 64 KiB."""
KEY_BYTES_MAX: Final = 511
"""LMDB's own bound."""
VALUE_BYTES_MAX: Final = 16 << 20
"""More than any command may be."""
_BATCH_ROWS: Final = 4_096
_LENGTH: Final = struct.Struct(">I")
_HEAD: Final = struct.Struct(">II")
_COUNT: Final = struct.Struct(">Q")
_END: Final = _HEAD.pack(0xFFFFFFFF, 0xFFFFFFFF)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _disk_error(error: OSError) -> HiveError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HiveError(Code.DISK_FULL, "no space is left for a snapshot; free some disk space")
    return HiveError(Code.DISK_FULL, f"a snapshot cannot be written: {error.strerror}")


def _corrupt(what: str) -> HiveError:
    return HiveError(Code.BLOB_CORRUPT, f"the snapshot is damaged: {what}")


class _Hashed:
    """A file that is read or written once from its beginning, and its SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)
        self.size_bytes += len(data)

    def read(self, size_bytes: int) -> bytes:
        data = self._file.read(size_bytes)
        if len(data) != size_bytes:
            raise _corrupt("it ends too early")
        self._hash.update(data)
        self.size_bytes += size_bytes
        return data

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def _write_state(file: _Hashed, hive_id: str, mark: StateMark, rows: Iterator[tuple[bytes, bytes]]) -> None:
    header = encode([VERSION, hive_id, mark.to_value()])
    file.write(MAGIC + _LENGTH.pack(len(header)) + header)
    count = waiting_bytes = 0
    waiting: list[bytes] = []
    for key, value in rows:
        waiting += (_HEAD.pack(len(key), len(value)), key, value)
        waiting_bytes += len(key) + len(value)
        count += 1
        if waiting_bytes >= PIECE_BYTES:
            file.write(b"".join(waiting))
            waiting, waiting_bytes = [], 0
    waiting += (_END, _COUNT.pack(count))
    file.write(b"".join(waiting))


def _read_header(file: _Hashed) -> tuple[str, StateMark]:
    if file.read(len(MAGIC)) != MAGIC:
        raise _corrupt("it is none")
    (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
    if length > HEADER_BYTES_MAX:
        raise _corrupt("its header is too long")
    try:
        value: Any = decode(file.read(length))
        version, hive_id, mark = value
        if version != VERSION:
            raise HiveError(Code.BLOB_CORRUPT, f"the snapshot is of version {version}: upgrade this node")
        return hive_id, StateMark.of_value(mark)
    except (DecodeError, TypeError, ValueError, IndexError) as error:
        raise _corrupt("its header cannot be read") from error


def _read_rows(file: _Hashed) -> Iterator[tuple[bytes, bytes]]:
    count, last = 0, None
    while True:
        key_bytes, value_bytes = head = _HEAD.unpack(file.read(_HEAD.size))
        if _HEAD.pack(*head) == _END:
            break
        if not 0 < key_bytes <= KEY_BYTES_MAX or value_bytes > VALUE_BYTES_MAX:
            raise _corrupt("a row has an impossible length")
        key = file.read(key_bytes)
        if last is not None and key <= last:
            raise _corrupt("its rows are out of order")
        last = key
        count += 1
        yield key, file.read(value_bytes)
    if _COUNT.unpack(file.read(_COUNT.size)) != (count,):
        raise _corrupt("rows are missing")


class SnapshotFolder:
    """Snapshots of one node; fills `SnapshotStorage`.

    Args:
        data_dir: holds `snapshots/` and the folders of agreed state.
        step: called with the name of every step that a crash may fall after; for tests.
    """

    def __init__(
        self, data_dir: Path, log: LogStore, state: StateStore, step: Callable[[str], None] = lambda name: None
    ) -> None:
        self._data_dir = data_dir
        self._folder = data_dir / "snapshots"
        self._log = log
        self._state = state
        self._step = step
        self._made: MadeSnapshot | None = None
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for leftover in (*self._folder.glob("*.snapshot"), *self._folder.glob("*.new")):
            leftover.unlink()
        self.retire()

    # --- made here -------------------------------------------------------------------------------------------------

    def make(self) -> MadeSnapshot:
        temporary = self._folder / "made.new"
        try:
            with temporary.open("wb") as raw, self._state.copying() as (mark, rows):
                file = _Hashed(raw)
                _write_state(file, self._log.hive_id, mark, rows)
                raw.flush()
                os.fsync(raw.fileno())
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _disk_error(error) from error
        ref = SnapshotRef(sha256=file.sha256, size_bytes=file.size_bytes)
        path = self._folder / f"{ref.sha256}.snapshot"
        temporary.rename(path)
        _sync_folder(self._folder)
        meta = SnapshotMeta(index=mark.index, term=mark.term, conf=mark.conf)
        before, self._made = self._made, MadeSnapshot(ref=ref, meta=meta, path=path)
        if before is not None and before.path != path:
            before.path.unlink(missing_ok=True)
        return self._made

    async def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        made = self._made
        if made is None or made.ref.sha256 != sha256:
            raise HiveError(Code.BLOB_NOT_FOUND, "this node has another snapshot by now")
        loop = asyncio.get_running_loop()
        with await loop.run_in_executor(None, made.path.open, "rb") as file:
            await loop.run_in_executor(None, file.seek, offset)
            while data := await loop.run_in_executor(None, file.read, PIECE_BYTES):
                yield data

    # --- received --------------------------------------------------------------------------------------------------

    def _partial(self, ref: SnapshotRef) -> Path:
        if len(ref.sha256) != 64 or not set(ref.sha256) <= set("0123456789abcdef"):
            raise _corrupt("its name is none")
        return self._folder / f"{ref.sha256}.partial"

    def received_bytes(self, ref: SnapshotRef) -> int:
        wanted = self._partial(ref)
        for other in self._folder.glob("*.partial"):
            if other != wanted:
                other.unlink()
        return wanted.stat().st_size if wanted.exists() else 0

    def receive(self, ref: SnapshotRef, offset: int, data: bytes) -> None:
        if offset + len(data) > min(ref.size_bytes, SNAPSHOT_BYTES_MAX):
            raise _corrupt("more came than it has")
        try:
            with self._partial(ref).open("r+b" if offset else "wb") as file:
                file.seek(offset)
                file.write(data)
        except OSError as error:
            raise _disk_error(error) from error

    def prepare(self, ref: SnapshotRef, meta: SnapshotMeta) -> PreparedState:
        partial = self._partial(ref)
        folder = self._next_state_folder()
        try:
            with partial.open("rb") as raw:
                self._build(_Hashed(raw), ref, meta, folder)
        except (HiveError, lmdb.Error, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, HiveError) and error.code is Code.BLOB_CORRUPT:
                partial.unlink(missing_ok=True)  # Going on with it would never mend it.
            if isinstance(error, HiveError):
                raise
            if isinstance(error, OSError):
                raise _disk_error(error) from error
            raise HiveError(Code.DISK_FULL, f"a snapshot cannot be unpacked: {error}") from error
        _sync_folder(folder)
        _sync_folder(self._data_dir)
        self._step("state folder complete")
        partial.unlink()
        return PreparedState(meta=meta, folder=folder)

    def _build(self, file: _Hashed, ref: SnapshotRef, meta: SnapshotMeta, folder: Path) -> None:
        hive_id, mark = _read_header(file)
        if hive_id != self._log.hive_id:
            raise _corrupt("it is of another hive")
        if (mark.index, mark.term, mark.conf) != (meta.index, meta.term, meta.conf):
            raise _corrupt("it stands for another entry than was said")
        folder.mkdir(mode=0o700)
        self._step("state folder made")
        environment = open_environment(folder, sync=False)
        try:
            main, about = environment.open_db(b"main"), environment.open_db(b"meta")
            batch: list[tuple[bytes, bytes]] = []
            for row in _read_rows(file):
                batch.append(row)
                if len(batch) >= _BATCH_ROWS:
                    self._put(environment, main, batch)
                    batch = []
            self._put(environment, main, batch)
            if (file.sha256, file.size_bytes) != (ref.sha256, ref.size_bytes):
                raise _corrupt("its SHA-256 is another than was said")
            with environment.begin(write=True) as transaction:
                write_mark(transaction, about, mark)
            environment.sync(True)
        finally:
            environment.close()

    def _put(self, environment: lmdb.Environment, main: Any, rows: list[tuple[bytes, bytes]]) -> None:
        with environment.begin(write=True, db=main) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(rows, append=True)
        self._step("some rows written")

    def discard(self, prepared: PreparedState) -> None:
        shutil.rmtree(prepared.folder, ignore_errors=True)

    # --- folders of agreed state -----------------------------------------------------------------------------------

    def _state_folders(self) -> list[Path]:
        named = [self._data_dir / FIRST_STATE_FOLDER, *self._data_dir.glob(f"{FIRST_STATE_FOLDER}.*")]
        return [folder for folder in named if folder.is_dir()]

    def _next_state_folder(self) -> Path:
        self.retire()
        current = self._log.state_folder
        number = int(current.rpartition(".")[2]) if "." in current else 0
        return self._data_dir / f"{FIRST_STATE_FOLDER}.{number + 1}"

    def retire(self) -> None:
        """Removes the folders that the log does not name."""
        for folder in self._state_folders():
            if folder.name != self._log.state_folder:
                shutil.rmtree(folder, ignore_errors=True)
