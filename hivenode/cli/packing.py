"""Between folders and ZIPs: a task's folder is packed to be sent, a result is unpacked without trusting its names; and a
look at a bare script, which the hive does not compile."""

from __future__ import annotations

import shutil
import stat
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import click

from hivenode.errors import Code, HiveError

_LEFT_OUT: Final = frozenset({".git", "__pycache__", ".venv"})
"""Folders that no task needs: history, compiled files, another machine's interpreter."""
_FILES_MAX: Final = 20_000
"""The hive takes fewer members than this; a home folder given by mistake is noticed before it is read."""
_RESULT_FILES_MAX: Final = 100_000
_RESULT_BYTES_MAX: Final = 64 * 1024**3
"""A result is bounded by the worker already; this bounds what a lying one can write here."""
_FIXED_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""The same folder gives the same bytes, so that the same task id can be sent again."""


def check_script(path: Path) -> None:
    """Refuses a file `.py` that does not compile on this machine, before anything is sent; what is no text the hive will tell.

    Raises:
        HiveError: INVALID_TASK, with the line.
    """
    if path.suffix != ".py" or not path.is_file():
        return
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        return
    if "\0" in text:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What is odd in the script is told where it runs.
            compile(text, path.name, "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise HiveError(Code.INVALID_TASK, f"{path}{where} does not compile: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError):
        pass  # More than this compiler takes; it may run elsewhere.


def pack_folder(folder: Path, target: Path) -> int:
    """Writes the files of a task's folder as a ZIP to `target`; returns its size in bytes.

    Raises:
        click.UsageError: a symbolic link, nothing to pack, or too many files.
    """
    count = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _files(folder):
            count += 1
            if count > _FILES_MAX:
                raise click.UsageError(f"{folder} has more than {_FILES_MAX} files: give the task's own folder")
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _FIXED_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(info, "w") as member:
                shutil.copyfileobj(source, member)
    if not count:
        raise click.UsageError(f"{folder} is empty: a task's folder has a main.py")
    return target.stat().st_size


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in _LEFT_OUT:
            continue
        if path.is_symlink():
            raise click.UsageError(f"{path} is a symbolic link, which a task cannot have: put a copy in its place")
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path


def unpack_result(archive_path: Path, folder: Path) -> list[str]:
    """Unpacks a result into `folder`, which is made; returns the files' names in order.

    Raises:
        HiveError: BLOB_CORRUPT when it is no ZIP, or has a member that would leave the folder.
    """
    try:
        with zipfile.ZipFile(archive_path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            _check_result(members)
            for info in members:
                path = folder / info.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, path.open("xb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, FileExistsError) as error:
        raise HiveError(Code.BLOB_CORRUPT, f"the result cannot be unpacked: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    return sorted(info.filename for info in members)


def _check_result(members: list[zipfile.ZipInfo]) -> None:
    if len(members) > _RESULT_FILES_MAX or sum(info.file_size for info in members) > _RESULT_BYTES_MAX:
        raise HiveError(Code.BLOB_CORRUPT, "the result is larger unpacked than any worker may make it")
    for info in members:
        name = PurePosixPath(info.filename)
        mode = info.external_attr >> 16
        special = stat.S_IFMT(mode) not in (0, stat.S_IFREG)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename or ":" in info.filename or special:
            raise HiveError(
                Code.BLOB_CORRUPT, f"the result has a member that would leave its folder: {info.filename!r}"
            )
