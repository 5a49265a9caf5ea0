"""An event loop in virtual time: when nothing is left to do, it is the next planned moment at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """What waits here waits for a planned moment alone. Raises RuntimeError where none is planned."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("all wait, and for nothing that will come")
            self.now_s += max(timeout, 0.0)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """What `main` gives, which waits for no file, process or thread. Its loop's time begins at 0 s."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
