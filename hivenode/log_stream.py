"""Where the daemon's own log goes: a disk without room for a line loses the line, and the daemon goes on."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class _Lines(io.RawIOBase):
    """Takes what finds no room as written: a buffer would offer it again at the end of the process, and change its exit code."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_broken_off = False
        """The last line was lost, or a part of it."""

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        rest = memoryview(data)
        size_bytes = len(rest)
        try:
            if self._is_broken_off:
                os.write(self._descriptor, b"\n")
                self._is_broken_off = False
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._is_broken_off = True
        return size_bytes


def log_stream(descriptor: int) -> TextIO:
    """Lines for a descriptor, which stays open."""
    lines = io.BufferedWriter(_Lines(descriptor))
    return io.TextIOWrapper(lines, encoding="utf-8", errors="backslashreplace", line_buffering=True)
