"""How much room the data directory has left: below the reserve a node takes no new work, so that what it took can be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOOK_INTERVAL_MS: Final = 500
"""A disk that fills at 200 MB/s loses 100 MB in that time, well within the default reserve."""


class DiskSpace:
    """The free space of one file system, looked at now and then.

    Args:
        folder: any folder on it.
        reserve_bytes: free space that new work leaves alone.
        clock_ms: monotonic time.
    """

    def __init__(self, folder: Path, reserve_bytes: int, clock_ms: Callable[[], int]) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._clock_ms = clock_ms
        self._looked_ms = -LOOK_INTERVAL_MS
        self._shortage = ""

    def shortage(self) -> str:
        """One sentence when there is less than the reserve, else empty."""
        now = self._clock_ms()
        if now - self._looked_ms >= LOOK_INTERVAL_MS:
            self._looked_ms = now
            room = os.statvfs(self._folder)
            free_bytes = room.f_bavail * room.f_frsize
            self._shortage = ""
            if free_bytes < self._reserve_bytes:
                self._shortage = (
                    f"the disk has {free_bytes >> 20} MiB free, and {self._reserve_bytes >> 20} MiB are kept in reserve: "
                    "no new work is accepted until some space is freed"
                )
        return self._shortage
