"""A small file system of its own for a test, and what fills it up to the last byte. It needs root."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.parts import require

_MIB: Final = 1 << 20


@contextlib.contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[Path]:
    """A tmpfs of that size in `folder`, which is made."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    require(os.geteuid() == 0 and mount is not None and umount is not None, "root, to mount a small disk")
    folder.mkdir()
    made = subprocess.run(
        [str(mount), "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    require(made.returncode == 0, "the right to mount a small disk")
    try:
        yield folder
    finally:
        # Lazily, since a loop device on it lets go of its file a moment after it was unmounted.
        subprocess.run([str(umount), "--lazy", str(folder)], check=True)


def free_bytes(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def fill(folder: Path, *, leave_bytes: int = 0) -> Path:
    """Takes all room but `leave_bytes`; it is there again when the file is removed."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        while (room_bytes := free_bytes(folder) - leave_bytes) > 0:
            try:
                file.write(bytes(min(room_bytes, _MIB)))
            except OSError as error:  # Somebody else was faster.
                if error.errno != errno.ENOSPC:
                    raise
    return ballast
