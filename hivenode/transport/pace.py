"""How slow a stream of pieces may be: one that trickles holds its place for nothing."""

from __future__ import annotations

import asyncio
from typing import Final

from hivenode.errors import Code, HiveError

STALL_S: Final = 60.0
STALL_BYTES: Final = 64 << 10
"""A stream that brings less than this in `STALL_S` is ended."""


class Pace:
    """Of one stream that brings pieces: `ends` is when it must have brought more, by the loop's clock."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._moved_bytes = 0
        self.ends = self._loop.time() + stall_s

    def moved(self, size_bytes: int) -> None:
        self._moved_bytes += size_bytes
        if self._moved_bytes >= STALL_BYTES:
            self.ends, self._moved_bytes = self._loop.time() + self._stall_s, 0

    def refusal(self) -> HiveError:
        """What whoever sends is told when `ends` has come."""
        return HiveError(
            Code.OVERLOADED, f"the stream brought less than {STALL_BYTES} bytes in {self._stall_s:g} s: send it again"
        )
