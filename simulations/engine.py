"""Virtual time: a heap of things to do, one seeded random source, and the trace of what happened.

Rules:
- Time is whole microseconds and moves only from one event to the next. Two events of one moment happen in the order in
  which they were planned, so a run is a function of its seed alone.
- All randomness comes from `rng`. Nobody reads a real clock, a hash order or an address in memory.
- The trace never draws from `rng`, so a run is the same with and without it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Final, TextIO

from simulations.marks import Kind, Mark, kept_here

MS: Final = 1_000
SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
RECENT_LINES: Final = 40
"""How many of the last lines a failure shows."""


class Engine:
    """Runs events in virtual time.

    Args:
        seed: what the run is a function of.
        trace: where every line goes, those of each message too; None keeps only a digest of the important ones.
    """

    def __init__(self, seed: int, trace: TextIO | None = None) -> None:
        self.rng: Final = Random(seed)
        self.now_us = 0
        self.events = 0
        self.detailed: Final = trace is not None
        self.recent: Final[deque[str]] = deque(maxlen=RECENT_LINES)
        self._trace = trace
        self._marks = kept_here()
        self._digest = hashlib.sha256()
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._planned = 0

    def at(self, time_us: int, action: Callable[[], None]) -> None:
        """Plans `action` for a moment; one that is past is now."""
        self._planned += 1
        heappush(self._heap, (time_us if time_us > self.now_us else self.now_us, self._planned, action))

    def after(self, delay_us: int, action: Callable[[], None]) -> None:
        """Plans `action` for so much later; never for earlier than now."""
        self._planned += 1
        heappush(self._heap, (self.now_us + delay_us if delay_us > 0 else self.now_us, self._planned, action))

    def run_until(self, end_us: int, done: Callable[[], bool] | None = None) -> bool:
        """Runs events up to a moment, or until `done` says so after one; returns whether it did."""
        heap = self._heap
        while heap and heap[0][0] <= end_us:
            self.now_us, _, action = heappop(heap)
            self.events += 1
            action()
            if done is not None and done():
                return True
        self.now_us = max(self.now_us, end_us)
        return False

    # --- the trace -------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """A line that matters: it goes into the digest, and into the trace if there is one."""
        line = f"{self.now_us:>12} {text}"
        self._digest.update(line.encode() + b"\n")
        self.recent.append(line)
        if self._trace is not None:
            self._trace.write(line + "\n")

    def detail(self, text: str) -> None:
        """A line for the trace alone; callers look at `detailed` first, to save making it."""
        if self._trace is not None:
            self._trace.write(f"{self.now_us:>12} . {text}\n")

    def mark(self, kind: Kind, node: str = "", text: str = "", number: int = 0) -> None:
        """A moment for the picture, if somebody wants one."""
        if self._marks is not None:
            self._marks.append(Mark(self.now_us, kind, node, text, number))

    def digest(self) -> str:
        """What the important lines come to: the same for two runs that are the same."""
        return self._digest.hexdigest()[:16]

    # --- chance ----------------------------------------------------------------------------------------------------

    def chance(self, per_mille: int) -> bool:
        return self.rng.random() * 1_000 < per_mille

    def between(self, low: int, high: int) -> int:
        """A whole number in low ... high, both included."""
        # A draw is one call into C this way, and half of all that a quiet run does is to draw.
        return low + int(self.rng.random() * (high - low + 1))
