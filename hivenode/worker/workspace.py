"""Work folders of hostile tasks: how much they hold, whose they are, and how they are removed.

A task can make trees of any depth, with paths longer than the system takes, modes that shut out their reader, and links to
anywhere. So trees are walked by descriptors, links are never followed, and removal flattens before it deletes.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hivenode.errors import OUT_OF_FILES

DEPTH_MAX: Final = 96
"""Folders above a file. Each level that is being measured holds a descriptor open."""
ENTRIES_MAX: Final = 200_000
"""Files and folders: an empty one costs the disk an inode, and each measurement a look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a tree holds on disk; `excess` says in words which bound it breaks, or is empty."""

    size_bytes: int
    entries: int
    excess: str


def measure(folder: Path, size_bytes_max: int) -> Measured:
    """Adds up the blocks of a tree that is being written to; stops at the first broken bound. Raises OSError."""
    size, entries = 0, 0
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack: list[tuple[int, list[str]]] = [(root, [])]
    excess = ""
    try:
        stack[0][1].extend(os.listdir(root))
        while stack and not excess:
            parent, names = stack[-1]
            if not names:
                os.close(parent)
                stack.pop()
                continue
            name = names.pop()
            entries += 1
            try:
                status = os.lstat(name, dir_fd=parent)
                size += status.st_blocks * 512
                if stat.S_ISDIR(status.st_mode):
                    child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                    stack.append((child, []))  # Before the listing, which may find no second descriptor.
                    stack[-1][1].extend(os.listdir(child))
            except PermissionError:
                excess = "it shut a folder against being measured"
            except OSError as error:
                if error.errno in OUT_OF_FILES:
                    raise  # What is below would count as nothing.
                continue  # Gone or changed since it was listed.
            if size >= size_bytes_max:
                excess = f"it wrote {size} bytes; the bound is {size_bytes_max}"
            elif entries > ENTRIES_MAX:
                excess = f"it made more than {ENTRIES_MAX} files"
            elif len(stack) > DEPTH_MAX:
                excess = f"it made folders more than {DEPTH_MAX} deep"
    finally:
        for descriptor, _ in stack:
            os.close(descriptor)
    return Measured(size_bytes=size, entries=entries, excess=excess)


def give_tree(folder: Path, user_id: int, group_id: int) -> None:
    """Makes a freshly unpacked tree, which holds no links, belong to the user that the task runs as."""
    os.chown(folder, user_id, group_id, follow_symlinks=False)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(parent, name), user_id, group_id, follow_symlinks=False)


def remove_tree(folder: Path) -> None:
    """Removes a tree that a task wrote, however deep; does nothing when it is not there.

    Folders inside are first renamed to one level, so that neither paths nor recursion grow with the tree's depth.
    Raises OSError when something cannot be removed.
    """
    if not folder.exists():
        return
    flat = Path(tempfile.mkdtemp(prefix=".removing-", dir=folder.parent))
    folder.chmod(0o700)
    folder.rename(flat / "0")
    waiting, named = ["0"], 1
    while waiting:
        place = flat / waiting.pop()
        place.chmod(0o700)
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    # Renaming a folder writes its '..', which needs write permission on itself.
                    os.chmod(entry.path, 0o700)
                    os.rename(entry.path, flat / str(named))
                    waiting.append(str(named))
                    named += 1
                else:
                    os.unlink(entry.path)
        place.rmdir()
    flat.rmdir()


def clear_folder(folder: Path) -> None:
    """Removes everything in a folder of this daemon that an earlier life of it left there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for entry in list(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            entry.unlink()


def free_bytes(folder: Path) -> int:
    """What the file system of a folder still takes."""
    return shutil.disk_usage(folder).free
