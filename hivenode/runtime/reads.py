"""The reads that wait at one member: one question to the leader at a time, and then until its answer is applied here.

| a read | goes on when |
|---|---|
| waits | no question is under way, or the last got no answer for `READ_RETRY_MS` |
| asked | the question is confirmed with an index |
| confirmed | that index is applied here |
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Final

from hivenode.consensus import ReadState
from hivenode.errors import HiveError

READ_RETRY_MS: Final = 300
"""A read whose question or answer got lost is asked again after two heartbeats."""

Read = asyncio.Future[None]


class Reads:
    """See the module.

    Args:
        origin: names this member in this life: a late answer to an earlier one must not answer a question of this one.
        ask: asks the core for an index; raises HiveError when there is nobody to ask.
    """

    def __init__(self, origin: str, ask: Callable[[bytes], None]) -> None:
        self._origin = origin
        self._ask = ask
        self._sequence = 0
        self._waiting: list[Read] = []
        self._asked: dict[bytes, list[Read]] = {}
        self._asked_ms = 0
        self._confirmed: list[tuple[int, int, list[Read]]] = []

    def add(self, read: Read) -> None:
        self._waiting.append(read)

    def ask(self, now_ms: int) -> None:
        """Asks for all that wait. Those that come while a question is under way share the next, as writes share an fsync."""
        if not self._waiting or (self._asked and now_ms - self._asked_ms < READ_RETRY_MS):
            return
        # What got no answer in that time was lost, and its readers ask again.
        self._asked.clear()
        reads = [read for read in self._waiting if not read.done()]
        self._waiting = []
        if not reads:
            return
        self._asked_ms = now_ms
        self._sequence += 1
        context = f"{self._origin}:{self._sequence}".encode()
        try:
            self._ask(context)
        except HiveError:
            return  # There is no leader to ask; each reader asks again until its own deadline.
        self._asked[context] = reads

    def confirm(self, state: ReadState, applied_index: int) -> None:
        """An answer came."""
        reads = self._asked.pop(state.context, None)
        if reads is None:
            return
        if state.index <= applied_index:
            _finish(reads)
        else:
            heapq.heappush(self._confirmed, (state.index, self._sequence, reads))
            self._sequence += 1

    def applied(self, applied_index: int) -> None:
        """Agreed state went on."""
        while self._confirmed and self._confirmed[0][0] <= applied_index:
            _finish(heapq.heappop(self._confirmed)[2])

    def forget_questions(self) -> None:
        """Questions to an earlier leader are never answered; their readers ask again."""
        self._asked.clear()


def _finish(reads: list[Read]) -> None:
    for read in reads:
        if not read.done():
            read.set_result(None)
