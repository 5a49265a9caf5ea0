"""The reads that wait at one member: questions to the leader, and then until what it answers is applied here.

| a read | goes on when |
|---|---|
| waits | no question is under way, or the last one is `READ_RETRY_MS` old |
| asked | its question, or a later one, is confirmed with an index |
| confirmed | that index is applied here |

A question that is not answered soon may be lost, or the leader may be far away or busy. So it is asked again for the same reads,
and its own answer still counts: where answers take longer than that, none would ever do otherwise.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final, Protocol

from hivenode.consensus import ReadState
from hivenode.errors import Code, HiveError

READ_RETRY_MS: Final = 300
"""A read whose question or answer may be lost is asked again after two heartbeats."""
QUESTIONS_MAX: Final = 16
"""Of one member under way; the answer to an earlier one comes after nearly five seconds, and counts no more."""


class Read(Protocol):
    """One who waits, as a future does. `done` is true as well when the caller has gone."""

    def done(self) -> bool: ...

    def set_result(self, result: None, /) -> None: ...


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
        if not (self._waiting or self._asked) or (self._asked and now_ms - self._asked_ms < READ_RETRY_MS):
            return
        self._waiting = [read for read in self._waiting if not read.done()]
        asked = [read for read in next(reversed(self._asked.values()), []) if not read.done()]
        reads = [*asked, *self._waiting]
        if not reads:
            self._asked.clear()
            return
        self._sequence += 1
        context = f"{self._origin}:{self._sequence}".encode()
        try:
            self._ask(context)
        except HiveError as error:
            # A leader that is asked too much answers what it was asked before; else there is none to ask by now.
            if error.code is not Code.OVERLOADED:
                self._asked.clear()
                self._waiting = reads
            return
        self._asked_ms = now_ms
        self._waiting = []
        self._asked[context] = reads
        if len(self._asked) > QUESTIONS_MAX:
            del self._asked[next(iter(self._asked))]

    def confirm(self, state: ReadState, applied_index: int) -> None:
        """An answer came."""
        reads = self._asked.get(state.context)
        if reads is None:
            return
        while next(iter(self._asked)) != state.context:  # A question is for the reads of those before it, too.
            del self._asked[next(iter(self._asked))]
        del self._asked[state.context]
        if state.index <= applied_index:
            _finish(reads)
        else:
            heapq.heappush(self._confirmed, (state.index, self._sequence, reads))
            self._sequence += 1

    def applied(self, applied_index: int) -> None:
        """Agreed state went on."""
        while self._confirmed and self._confirmed[0][0] <= applied_index:
            _finish(heapq.heappop(self._confirmed)[2])

    def ask_anew(self) -> None:
        """Questions to an earlier leader are never answered: they are put to the next one."""
        self._waiting = [*next(reversed(self._asked.values()), []), *self._waiting]
        self._asked.clear()


def _finish(reads: list[Read]) -> None:
    for read in reads:
        if not read.done():
            read.set_result(None)
