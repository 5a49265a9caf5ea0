"""Snapshots on disk: the agreed state copied out once into a checked file, and a received file made into a state.

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
import os
import secrets
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from hivenode.consensus import SnapshotMeta
from hivenode.durable_files import sync_folder
from hivenode.errors import Code, HiveError, InvariantError
from hivenode.runtime.stores import MadeSnapshot, PreparedState, SnapshotRef
from hivenode.storage.log_store import FIRST_STATE_FOLDER, LogStore
from hivenode.storage.sealed_row import seal
from hivenode.storage.state_file import (
    PIECE_BYTES,
    SNAPSHOT_BYTES_MAX,
    HashedFile,
    damaged,
    read_state,
    write_state,
)
from hivenode.storage.state_store import StateStore, open_state, write_mark

_BATCH_ROWS: Final = 4_096
_TEMPORARY_NAME_BYTES: Final = 8


def _disk_error(error: OSError) -> HiveError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HiveError(Code.DISK_FULL, "no space is left for a snapshot; free some disk space")
    return HiveError(Code.DISK_FULL, f"a snapshot cannot be written: {error.strerror}")


@contextmanager
def _disk_errors_named() -> Iterator[None]:
    """What the disk refuses, or a machine that is out of files, is for another try, and stops nobody."""
    try:
        yield
    except OSError as error:
        raise _disk_error(error) from error


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
        self._ended = threading.Event()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for leftover in (*self._folder.glob("*.snapshot"), *self._folder.glob("*.new")):
            leftover.unlink()
        self.retire()

    def end(self) -> None:
        self._ended.set()

    def _until_end(self, rows: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for row in rows:
            if self._ended.is_set():
                raise HiveError(Code.SHUTTING_DOWN, "this node is shutting down; ask another one")
            yield row

    # --- made here -------------------------------------------------------------------------------------------------

    @_disk_errors_named()
    def make(self) -> MadeSnapshot:
        temporary = self._folder / f"{secrets.token_hex(_TEMPORARY_NAME_BYTES)}.new"
        try:
            with temporary.open("wb") as raw, self._state.copying() as (mark, rows):
                self._step("snapshot begun")
                file = HashedFile(raw)
                write_state(file, self._log.hive_id, mark, self._until_end(rows))
                raw.flush()
                os.fsync(raw.fileno())
            self._step("snapshot written")
        except (HiveError, InvariantError, OSError):
            temporary.unlink(missing_ok=True)
            raise
        ref = SnapshotRef(sha256=file.sha256, size_bytes=file.size_bytes)
        path = self._folder / f"{ref.sha256}.snapshot"
        before = self._made
        try:
            temporary.rename(path)
            sync_folder(self._folder)
        except OSError:  # It is made again, and each try would leave one.
            temporary.unlink(missing_ok=True)
            if before is None or before.path != path:
                path.unlink(missing_ok=True)
            raise
        meta = SnapshotMeta(index=mark.index, term=mark.term, conf=mark.conf)
        self._made = MadeSnapshot(ref=ref, meta=meta, path=path)
        if before is not None and before.path != path:
            before.path.unlink(missing_ok=True)
        return self._made

    async def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        made = self._made
        another = HiveError(Code.BLOB_NOT_FOUND, "this node has another snapshot by now")
        if made is None or made.ref.sha256 != sha256:
            raise another
        loop = asyncio.get_running_loop()
        try:
            opened = await loop.run_in_executor(None, made.path.open, "rb")
        except FileNotFoundError:
            raise another from None  # It took the place of this one meanwhile.
        with opened as file:
            await loop.run_in_executor(None, file.seek, offset)
            while data := await loop.run_in_executor(None, file.read, PIECE_BYTES):
                yield data

    # --- received --------------------------------------------------------------------------------------------------

    def _partial(self, ref: SnapshotRef) -> Path:
        if len(ref.sha256) != 64 or not set(ref.sha256) <= set("0123456789abcdef"):
            raise damaged("its name is none")
        return self._folder / f"{ref.sha256}.partial"

    @_disk_errors_named()
    def received_bytes(self, ref: SnapshotRef) -> int:
        wanted = self._partial(ref)
        for other in self._folder.glob("*.partial"):
            if other != wanted:
                other.unlink()
        return wanted.stat().st_size if wanted.exists() else 0

    @_disk_errors_named()
    def receive(self, ref: SnapshotRef, offset: int, data: bytes) -> None:
        if offset + len(data) > min(ref.size_bytes, SNAPSHOT_BYTES_MAX):
            raise damaged("more came than it has")
        with self._partial(ref).open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data)

    @_disk_errors_named()
    def prepare(self, ref: SnapshotRef, meta: SnapshotMeta) -> PreparedState:
        partial = self._partial(ref)
        folder = self._next_state_folder()
        try:
            with partial.open("rb") as raw:
                self._build(HashedFile(raw), ref, meta, folder)
            sync_folder(folder)
            sync_folder(self._data_dir)
        except (HiveError, lmdb.Error, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, HiveError) and error.code is Code.BLOB_CORRUPT:
                partial.unlink(missing_ok=True)  # Going on with it would never mend it.
            if not isinstance(error, lmdb.Error):
                raise
            raise HiveError(Code.DISK_FULL, f"a snapshot cannot be unpacked: {error}") from error
        self._step("state folder complete")
        partial.unlink()
        return PreparedState(meta=meta, folder=folder)

    def _build(self, file: HashedFile, ref: SnapshotRef, meta: SnapshotMeta, folder: Path) -> None:
        mark, rows = read_state(file, self._log.hive_id, ref, meta)
        folder.mkdir(mode=0o700)
        self._step("state folder made")
        environment = open_state(folder, sync=False)
        try:
            main, about = environment.open_db(b"main"), environment.open_db(b"meta")
            batch: list[tuple[bytes, bytes]] = []
            for row in self._until_end(rows):
                batch.append((row[0], seal(*row)))
                if len(batch) >= _BATCH_ROWS:
                    self._put(environment, main, batch)
                    batch = []
            self._put(environment, main, batch)
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
