"""Task archives and results: what a task may be, how it is unpacked, and how what it wrote is packed.

Rules
- A task is a ZIP with `main.py`, `app.py`, `run.py` or `start.py` (in this order) at its top or in its single top folder, or
  one bare Python script. The same inspection runs at the upload and again at the worker, because neither trusts the other.
- Everything that a ZIP says of itself is a claim. Claims are checked against bounds first, and the real bytes are counted
  against the same bounds while they are read, so that no claim can make this machine write more than it agreed to.
- A script is not compiled here: text of less than 1 MiB can cost a compiler minutes in which no other thread of this process
  runs, or gigabytes. Whether it is Python shows where it runs, in its own bounds.
- Nothing but plain files and folders with plain modes leaves an archive, and nothing but plain files enters a result: links and
  special files are refused on the way in and left out on the way back, and are never followed.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path
from typing import IO, Final

from hivenode.errors import OUT_OF_FILES, Code, HiveError

ENTRY_NAMES: Final = ("main.py", "app.py", "run.py", "start.py")
REQUIREMENTS_NAME: Final = "requirements.txt"
LOG_NAME: Final = "log.txt"
"""The attempt's log inside a result ZIP."""
TASK_LOG_NAME: Final = "log.task.txt"
"""Where a file goes that the task itself called `log.txt`."""

_FINDER_FOLDER: Final = "__MACOSX/"
"""Metadata that macOS adds to every ZIP; left out, or no such ZIP would have a single top folder."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_PIECE_BYTES: Final = 256 * 1024
_PACKED_EXTRA_BYTES: Final = 64 * 1024
"""What no compressor needs; gigabytes that unpack to nothing would be one piece of work that cannot be broken off."""
_LOCAL_HEADER: Final = struct.Struct("<4sHHHHHIIIHH")
_END_RECORD: Final = struct.Struct("<4sHHHHIIH")
_ENCRYPTION_FLAGS: Final = 0x1 | 0x40 | 0x2000
_PATCH_FLAG: Final = 0x20
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    IndexError,
)
"""What `zipfile` raises for bytes that are no sound ZIP; `ValueError` holds the errors of text decoding."""


@unique
class ArchiveKind(Enum):
    ZIP = "zip"
    SCRIPT = "script"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """Bounds on what a task may be.

    Args:
        members_max: files and folders, and again folders, with those that only the names of others tell of; unpacking more
            takes longer than most tasks run.
        unpacked_bytes_max: sum of all files.
        ratio_max: unpacked to packed size, for one file and for the whole. Text packs about 10 to 1; deflate ends at 1,032.
        ratio_floor_bytes: files and archives up to this size may have any ratio, for a few zeros hurt nobody.
        path_bytes_max: a member's whole name in UTF-8.
        depth_max: folders above a file.
        script_bytes_max: a bare script; larger ones are data in disguise.
    """

    members_max: int = 10_000
    unpacked_bytes_max: int = 1 << 30
    ratio_max: int = 200
    ratio_floor_bytes: int = 1 << 20
    path_bytes_max: int = 1_024
    depth_max: int = 32
    script_bytes_max: int = 1 << 20

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise HiveError(Code.INVALID_ARGUMENT, f"The archive limit {name} must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArchive:
    """A task that was found sound. `top` is the folder to strip (`name/`) or empty; `entry` is a path after stripping."""

    kind: ArchiveKind
    entry: str
    top: str
    has_requirements: bool
    files: int
    unpacked_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultLimits:
    """Bounds on a result ZIP: how many files it takes, their whole size before packing, and folders above a file."""

    files_max: int = 10_000
    bytes_max: int = 1 << 30
    depth_max: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMark:
    """What tells whether a file has been written to since the task was unpacked."""

    size_bytes: int
    changed_ns: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedResult:
    """A finished result ZIP. `left_out` counts links, special and unreadable files, and what was over a bound."""

    files: int
    unpacked_bytes: int
    left_out: int


def _refuse(reason: str) -> HiveError:
    return HiveError(Code.INVALID_TASK, reason)


def _shown(name: str) -> str:
    """A member's name as it may stand in a message: bounded, on one line."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")


# --- inspection ----------------------------------------------------------------------------------------------------


def inspect_task(path: Path, limits: ArchiveLimits) -> TaskArchive:
    """Finds out what a task is, and that what it says of itself is within the bounds; of a ZIP the directory is read.

    Args:
        path: the uploaded file.
        limits: the bounds.
    Raises:
        HiveError: INVALID_TASK, with the member and the bound in the message.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head in (b"PK\x03\x04", b"PK\x05\x06"):
        with _opened(path, limits) as archive:
            return _inspect_zip(archive, path.stat().st_size, limits)
    return _inspect_script(path, limits)


def read_task(path: Path, archive: TaskArchive, limits: ArchiveLimits, check: Callable[[], None]) -> None:
    """Unpacks a task into nothing, so that damage is found before it is accepted. A worker, which unpacks it, needs not.

    Args:
        path: the file that `archive` describes.
        archive: what `inspect_task` found, in this process.
        limits: the bounds that it was inspected with.
        check: called before each piece of some 256 KiB; what it raises ends the reading.
    Raises:
        HiveError: INVALID_TASK, with the member in the message.
    """
    if archive.kind is ArchiveKind.SCRIPT:
        return
    with _opened(path, limits) as opened:
        for member in opened.infolist():
            if member.filename.startswith(_FINDER_FOLDER):
                continue
            check()
            for _ in _pieces(opened, member):
                check()


def _inspect_script(path: Path, limits: ArchiveLimits) -> TaskArchive:
    with path.open("rb") as file:
        source = file.read(limits.script_bytes_max + 1)
    if len(source) > limits.script_bytes_max:
        raise _refuse(
            f"The task is no ZIP and no Python script: a bare script may have at most {limits.script_bytes_max} bytes."
        )
    if not source.strip():
        raise _refuse("The task is no ZIP and no Python script: it is empty.")
    try:
        source.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _refuse("The task is no ZIP and no Python script: it is not UTF-8 text.") from None
    if b"\0" in source:
        raise _refuse("The task is no ZIP and no Python script: it has a NUL byte.")
    return TaskArchive(
        kind=ArchiveKind.SCRIPT,
        entry=ENTRY_NAMES[0],
        top="",
        has_requirements=False,
        files=1,
        unpacked_bytes=len(source),
    )


@contextmanager
def _opened(path: Path, limits: ArchiveLimits) -> Iterator[zipfile.ZipFile]:
    """The ZIP, opened after a look at its end record; whatever is wrong with its bytes becomes INVALID_TASK."""
    try:
        with path.open("rb") as file:
            _check_end_record(file, limits)
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                yield archive
    except _DAMAGE as error:
        raise _refuse(f"The ZIP is damaged: {ascii(str(error))[:120]}.") from None


def _check_end_record(file: IO[bytes], limits: ArchiveLimits) -> None:
    """Bounds the central directory before `zipfile` reads all of it into memory."""
    size = file.seek(0, os.SEEK_END)
    tail_start = max(0, size - _END_RECORD.size - 0xFFFF - 20)
    file.seek(tail_start)
    tail = file.read()
    # The same rule as zipfile's: a record without a comment at the very end, else the last signature that there is.
    at = len(tail) - _END_RECORD.size
    if at < 0 or tail[at : at + 4] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END_RECORD.size > len(tail):
        raise _refuse("The ZIP is damaged: it has no end record.")
    _, _, _, _, entries, directory_bytes, directory_at, _ = _END_RECORD.unpack_from(tail, at)
    if tail[max(0, at - 20) : max(0, at - 16)] == b"PK\x06\x07":
        raise _refuse(f"The ZIP is of the ZIP64 kind, which only more than {limits.members_max} members would need.")
    if entries > limits.members_max or directory_bytes > limits.members_max * (46 + limits.path_bytes_max + 256):
        raise _refuse(f"The ZIP has more than {limits.members_max} members.")
    if directory_at + directory_bytes != tail_start + at:
        raise _refuse("The ZIP is damaged: there are foreign bytes before or between its parts.")


def _inspect_zip(archive: zipfile.ZipFile, size_bytes: int, limits: ArchiveLimits) -> TaskArchive:
    members = archive.infolist()
    if len(members) > limits.members_max:
        raise _refuse(f"The ZIP has more than {limits.members_max} members.")
    for member in members:
        _check_member(member, limits)
    _check_names(members, limits)
    _check_overlap(archive, members)
    wanted = [m for m in members if not m.filename.startswith(_FINDER_FOLDER)]
    unpacked = sum(m.file_size for m in wanted)
    if unpacked > limits.unpacked_bytes_max:
        raise _refuse(f"The ZIP unpacks to {unpacked} bytes; the bound is {limits.unpacked_bytes_max}.")
    if unpacked > limits.ratio_floor_bytes and unpacked > limits.ratio_max * size_bytes:
        raise _refuse(f"The ZIP unpacks to more than {limits.ratio_max} times its size.")
    top, entry = _find_entry([m.filename for m in wanted])
    names = {m.filename for m in wanted}
    return TaskArchive(
        kind=ArchiveKind.ZIP,
        entry=entry,
        top=top,
        has_requirements=top + REQUIREMENTS_NAME in names,
        files=sum(1 for m in wanted if not m.is_dir()),
        unpacked_bytes=unpacked,
    )


def _check_member(member: zipfile.ZipInfo, limits: ArchiveLimits) -> None:
    """One member's claims by themselves: name, kind, compression, size."""
    name = member.orig_filename
    shown = _shown(name)
    if "\0" in name or member.filename != name:
        raise _refuse(f"The member {shown} has a NUL in its name.")
    if _CONTROL.search(name):
        raise _refuse(f"The member {shown} has a control character in its name.")
    if "\\" in name:
        raise _refuse(f"The member {shown} has a backslash in its name; folders are parted by '/'.")
    if name.startswith("/"):
        raise _refuse(f"The member {shown} has an absolute path.")
    if len(name) >= 2 and name[1] == ":" and name[0].isalpha():
        raise _refuse(f"The member {shown} names a drive.")
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        raise _refuse(f"The member {shown} points outside its folder ('..').")
    if "" in parts or "." in parts:
        raise _refuse(f"The member {shown} has an empty part or '.' in its path.")
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) > limits.path_bytes_max or any(len(p.encode("utf-8", "surrogatepass")) > 255 for p in parts):
        raise _refuse(f"The member {shown} has a name over {limits.path_bytes_max} bytes, or a part over 255.")
    if len(parts) - 1 > limits.depth_max:
        raise _refuse(f"The member {shown} lies more than {limits.depth_max} folders deep.")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise _refuse(f"The member {shown} is a symbolic link; links are not allowed.")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR and not member.is_dir()):
        raise _refuse(f"The member {shown} is neither a plain file nor a folder.")
    if member.flag_bits & _ENCRYPTION_FLAGS:
        raise _refuse(f"The member {shown} is encrypted.")
    if member.flag_bits & _PATCH_FLAG or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refuse(
            f"The member {shown} is compressed by method {member.compress_type}; only store and deflate are allowed."
        )
    if member.is_dir() and member.file_size:
        raise _refuse(f"The member {shown} is a folder with content.")
    if member.file_size > limits.unpacked_bytes_max:
        raise _refuse(
            f"The member {shown} unpacks to {member.file_size} bytes; the bound is {limits.unpacked_bytes_max}."
        )
    if member.compress_size > 2 * member.file_size + _PACKED_EXTRA_BYTES:
        raise _refuse(f"The member {shown} is more than twice as large packed as unpacked.")
    if member.file_size > limits.ratio_floor_bytes and member.file_size > limits.ratio_max * member.compress_size:
        raise _refuse(f"The member {shown} unpacks to more than {limits.ratio_max} times its packed size.")


def _check_names(members: list[zipfile.ZipInfo], limits: ArchiveLimits) -> None:
    """No name twice, no file where another member needs a folder, and not too many folders, with those that nobody names."""
    seen: set[str] = set()
    for member in members:
        name = member.filename.removesuffix("/")
        if name in seen:
            raise _refuse(f"The member {_shown(name)} is there twice.")
        seen.add(name)
    files = {member.filename for member in members if not member.is_dir()}
    folders: set[str] = set()
    for member in members:
        folder = member.filename.rpartition("/")[0]
        while folder and folder not in folders:
            if folder in files:
                raise _refuse(f"The member {_shown(folder)} is a file, and a folder of other members too.")
            folders.add(folder)
            if len(folders) > limits.members_max:
                raise _refuse(f"The ZIP has more than {limits.members_max} folders.")
            folder = folder.rpartition("/")[0]


def _check_overlap(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> None:
    """Members share no bytes: a bomb that packs one block for many files is found though each ratio is modest."""
    file = archive.fp
    if file is None:
        raise _refuse("The ZIP is damaged: it is closed.")
    end = 0
    for member in sorted(members, key=lambda m: m.header_offset):
        if member.header_offset < end:
            raise _refuse(f"The member {_shown(member.filename)} overlaps another one.")
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        if len(header) != _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise _refuse(f"The ZIP is damaged: the member {_shown(member.filename)} has no local header.")
        name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)[9:11]
        end = member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes + member.compress_size
    if end > archive.start_dir:
        raise _refuse("The ZIP is damaged: its last member reaches into the directory.")


def _find_entry(names: list[str]) -> tuple[str, str]:
    """(folder to strip, entry point)."""
    known = set(names)
    for entry in ENTRY_NAMES:
        if entry in known:
            return "", entry
    tops = {name.split("/", 1)[0] for name in names}
    if len(tops) == 1 and all("/" in name for name in names):
        top = tops.pop() + "/"
        for entry in ENTRY_NAMES:
            if top + entry in known:
                return top, entry
    wanted = ", ".join(ENTRY_NAMES)
    raise _refuse(f"The ZIP has no entry point: one of {wanted} must lie at its top or in its single top folder.")


def _pieces(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """The real bytes of a member, never more than it claims; the check sum is compared at the end."""
    total = 0
    with archive.open(member) as source:
        while piece := source.read(_PIECE_BYTES):
            total += len(piece)
            if total > member.file_size:
                raise _refuse(f"The member {_shown(member.filename)} is larger than it says.")
            yield piece
    if total != member.file_size:
        raise _refuse(f"The ZIP is damaged: the member {_shown(member.filename)} is shorter than it says.")


# --- unpacking -----------------------------------------------------------------------------------------------------


def unpack_task(path: Path, archive: TaskArchive, target: Path, limits: ArchiveLimits) -> None:
    """Writes the task's files (0644) and folders (0755) into an empty folder that nobody else writes to.

    Args:
        path: the file that `archive` describes.
        archive: what `inspect_task` found, in this process.
        target: an existing empty folder.
        limits: the bounds that it was inspected with; real bytes are counted against them again.
    Raises:
        HiveError: INVALID_TASK when the bytes are not what the inspection saw.
        OSError: the disk failed or is full.
    """
    if archive.kind is ArchiveKind.SCRIPT:
        with path.open("rb") as source:
            _write_new(target / archive.entry, iter([source.read(limits.script_bytes_max)]))
        return
    left = limits.unpacked_bytes_max
    with _opened(path, limits) as opened:
        for member in opened.infolist():
            if member.filename.startswith(_FINDER_FOLDER) or member.filename == archive.top:
                continue
            _check_member(member, limits)
            if not member.filename.startswith(archive.top):
                raise _refuse(f"The member {_shown(member.filename)} lies outside the top folder.")
            place = target / member.filename.removeprefix(archive.top)
            if member.is_dir():
                _make_folders(target, place)
                continue
            _make_folders(target, place.parent)
            left -= member.file_size
            if left < 0:
                raise _refuse(f"The ZIP unpacks to more than {limits.unpacked_bytes_max} bytes.")
            _write_new(place, _pieces(opened, member))


def _make_folders(target: Path, folder: Path) -> None:
    """Like `mkdir -p` below `target`, with mode 0755 whatever the umask."""
    missing = []
    while folder != target and not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir()
        each.chmod(0o755)


def _write_new(place: Path, pieces: Iterator[bytes]) -> None:
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise _refuse(f"The member {_shown(place.name)} is there twice.") from None
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o644)
        for piece in pieces:
            file.write(piece)


# --- results -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A plain file of a hostile tree, open for reading."""

    name: str
    descriptor: int
    status: os.stat_result


def mark_files(folder: Path, limits: ResultLimits) -> Mapping[str, FileMark]:
    """The files of a task just unpacked, so that `pack_result` can tell what the task wrote."""
    marks = {}
    for found in _walk(folder, limits.depth_max, []):
        os.close(found.descriptor)
        marks[found.name] = _mark(found.status)
    return marks


def pack_result(
    folder: Path, marks: Mapping[str, FileMark], log: Path, target: Path, limits: ResultLimits
) -> PackedResult:
    """Packs what the task wrote, under `output/` or new or changed anywhere in its folder, and the log.

    Args:
        folder: the task's working folder; none of its processes lives any more.
        marks: what `mark_files` saw before the task ran.
        log: the attempt's log, which goes in as `log.txt`; it is bounded by its writer.
        target: the ZIP to write; must not exist.
        limits: the bounds; what goes over them is left out and counted.
    Raises:
        OSError: the disk failed or is full.
    """
    skipped: list[str] = []
    files, size = 0, 0
    with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with log.open("rb") as source:
            _store(archive, LOG_NAME, source, os.fstat(source.fileno()))
        for found in _walk(folder, limits.depth_max, skipped):
            with os.fdopen(found.descriptor, "rb") as source:
                if not found.name.startswith("output/") and marks.get(found.name) == _mark(found.status):
                    continue
                if files == limits.files_max or size + found.status.st_size > limits.bytes_max:
                    skipped.append(found.name)
                    continue
                files += 1
                size += found.status.st_size
                _store(archive, TASK_LOG_NAME if found.name == LOG_NAME else found.name, source, found.status)
    return PackedResult(files=files, unpacked_bytes=size, left_out=len(skipped))


def _mark(status: os.stat_result) -> FileMark:
    return FileMark(size_bytes=status.st_size, changed_ns=status.st_mtime_ns, inode=status.st_ino)


def _store(archive: zipfile.ZipFile, name: str, source: IO[bytes], status: os.stat_result) -> None:
    """Adds one file with a plain mode and without anything else of its own, reading no more than it had when looked at."""
    member = zipfile.ZipInfo(name)  # 1980-01-01: the same outputs give the same bytes, whenever they were made.
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = (stat.S_IFREG | 0o644) << 16
    member.file_size = status.st_size  # Tells zipfile whether the member needs ZIP64 fields.
    left = status.st_size
    with archive.open(member, "w") as target:
        while left and (piece := source.read(min(_PIECE_BYTES, left))):
            target.write(piece)
            left -= len(piece)


def _walk(folder: Path, depth_max: int, skipped: list[str]) -> Iterator[_Found]:
    """The plain files below a folder in the order of their names, each open; what is not one goes to `skipped`.

    Goes by descriptors and follows no link, so that no path of the tree can lead out of it or be too long to open. Raises
    OSError when this machine is out of files, which says nothing of the file that is to be opened.
    """
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack: list[tuple[int, str, list[str]]] = [(root, "", [])]
    try:
        stack[0][2].extend(_names(root))
        while stack:
            parent, prefix, names = stack[-1]
            if not names:
                stack.pop()
                os.close(parent)
                continue
            base = names.pop()
            name = prefix + base
            try:
                found = _open_plain(parent, base, name)
            except (OSError, UnicodeEncodeError) as error:
                if isinstance(error, OSError) and error.errno in OUT_OF_FILES:
                    raise
                skipped.append(name)
                continue
            if stat.S_ISDIR(found.status.st_mode):
                if len(stack) > depth_max:
                    os.close(found.descriptor)
                    skipped.append(name)
                    continue
                stack.append(
                    (found.descriptor, name + "/", [])
                )  # Before the listing, which may find no second descriptor.
                stack[-1][2].extend(_names(found.descriptor))
                continue
            yield found
    finally:
        for descriptor, _, _ in stack:
            os.close(descriptor)


def _names(descriptor: int) -> list[str]:
    return sorted(os.listdir(descriptor), reverse=True)


def _open_plain(parent: int, base: str, name: str) -> _Found:
    """Opens a plain file or folder without following or waiting for anything. Raises OSError for all else."""
    name.encode("utf-8")
    if "\\" in name or any(ord(c) < 0x20 for c in base):
        raise OSError("a name that cannot stand in a ZIP")
    before = os.lstat(base, dir_fd=parent)
    if not (stat.S_ISREG(before.st_mode) or stat.S_ISDIR(before.st_mode)):
        raise OSError("neither a plain file nor a folder")
    # O_NONBLOCK: had the entry become a pipe since, opening it would wait for a writer for ever.
    descriptor = os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    status = os.fstat(descriptor)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        os.close(descriptor)
        raise OSError("neither a plain file nor a folder")
    return _Found(name=name, descriptor=descriptor, status=status)
