"""Task archives to the hive and results back, in pieces, with a progress bar where a person is watching."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import click

from hivenode.cli.packing import pack_folder, unpack_result
from hivenode.cli.peer import CALL_DEADLINE_S, HIVE, Peer, Tries, new_key, pauses
from hivenode.errors import Code, HiveError
from hivenode.pb import hive_pb2

PIECE_BYTES: Final = 128 << 10
"""A piece counts when it is there whole, within a minute, which a line of 20 kbit/s does. Larger ones are hardly faster."""

Advance = Callable[[int], None]
Result = TypeVar("Result")


def upload(peer: Peer, path: Path, task_id: str, options: hive_pb2.TaskOptions) -> hive_pb2.UploadTaskStreamResponse:
    """Sends a script, a ZIP, or a folder (packed first) as a task; returns when the hive has accepted it.

    A broken upload begins again with the same idempotency key, so that the task is submitted once.
    """
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hivenode-")))
            pack_folder(path, folder / "task.zip")
            path = folder / "task.zip"
        header = hive_pb2.UploadTaskHeader(task_id=task_id, options=options)
        key = new_key()

        def attempt(tries: Tries) -> hive_pb2.UploadTaskStreamResponse:
            with progress("uploading", path.stat().st_size) as advance:
                return peer.send(
                    f"{HIVE}UploadTaskStream",
                    _pieces(path, header, _stirring(tries, advance)),
                    hive_pb2.UploadTaskPiece,
                    hive_pb2.UploadTaskStreamResponse,
                    key,
                )

        return _until_done(attempt)


def _pieces(path: Path, header: hive_pb2.UploadTaskHeader, advance: Advance) -> Iterator[hive_pb2.UploadTaskPiece]:
    yield hive_pb2.UploadTaskPiece(header=header)
    with path.open("rb") as file:
        while data := file.read(PIECE_BYTES):
            yield hive_pb2.UploadTaskPiece(data=data)
            advance(len(data))


def check_output(output: Path | None) -> None:
    """Refuses, before anything is sent, an output that would overwrite something.

    Raises:
        click.UsageError: the file exists, or the folder has something in it.
    """
    if output is None:
        return
    if output.suffix == ".zip":
        if output.exists():
            raise click.UsageError(f"{output} exists: choose another --output")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise click.UsageError(f"{output} is not an empty folder: choose another --output")


def save_result(peer: Peer, task_id: str, output: Path) -> list[str]:
    """Brings a task's result: saved as it is when `output` ends in .zip, else unpacked there. Returns the names of the files."""
    folder = output.parent if output.suffix == ".zip" else output
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".hivenode-", dir=folder) as temporary:
        archive = Path(temporary) / "result.zip"
        _until_done(lambda tries: _download(peer, task_id, archive, tries))
        if output.suffix == ".zip":
            archive.rename(output)
            return [str(output)]
        unpacked = Path(temporary) / "result"
        names = unpack_result(archive, unpacked)
        for entry in sorted(unpacked.iterdir()):  # Only what is whole: a full disk or Ctrl-C leaves no half file there.
            if (output / entry.name).exists():
                raise HiveError(Code.INVALID_ARGUMENT, f"{output} is not empty any more: choose another --output")
            entry.rename(output / entry.name)
        return names


def _download(peer: Peer, task_id: str, target: Path, tries: Tries) -> None:
    """One download, checked by size and SHA-256 against what the hive agreed on."""
    digest = hashlib.sha256()
    request = hive_pb2.DownloadResultRequest(task_id=task_id)
    expected: hive_pb2.ResultPiece | None = None
    with target.open("wb") as file, contextlib.ExitStack() as stack:
        advance: Advance = _unseen
        for piece in peer.stream(f"{HIVE}DownloadResult", request, hive_pb2.ResultPiece):
            if expected is None:
                expected = piece
                advance = _stirring(tries, stack.enter_context(progress("downloading", piece.size_bytes)))
            digest.update(piece.data)
            file.write(piece.data)
            advance(len(piece.data))
        size = file.tell()
    if expected is None or size != expected.size_bytes or digest.hexdigest() != expected.sha256:
        raise HiveError(Code.OUTCOME_UNKNOWN, f"the result of {task_id} arrived damaged: ask for it again")


def _until_done(attempt: Callable[[Tries], Result]) -> Result:
    """Makes the attempt again on outcomes that allow it, until `CALL_DEADLINE_S` after the first failure."""
    tries = Tries()
    try:
        return attempt(tries)
    except HiveError as error:
        tries.failed(error)
    deadline = time.monotonic() + CALL_DEADLINE_S
    for _ in pauses(deadline):
        tries.stir()
        try:
            return attempt(tries)
        except HiveError as error:
            tries.failed(error, last=time.monotonic() >= deadline)
    raise tries.outcome()


def _stirring(tries: Tries, advance: Advance) -> Advance:
    """Notes for the tries that bytes move."""

    def moved(size_bytes: int) -> None:
        tries.stir()
        advance(size_bytes)

    return moved


def _unseen(_: int) -> None:
    """Progress that nobody watches."""


@contextlib.contextmanager
def progress(label: str, total_bytes: int) -> Iterator[Advance]:
    """A bar on stderr when that is a terminal; else nothing."""
    if not sys.stderr.isatty() or total_bytes < PIECE_BYTES:
        yield _unseen
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task(label, total=total_bytes)
        yield lambda count: bar.advance(row, count)
