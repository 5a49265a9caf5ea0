"""Work that nobody else breaks off: a thread goes on with the disk when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hivenode.errors import HiveError

T = TypeVar("T")


class OwnWork:
    """The tasks of one owner, which ends after the last of them.

    Args:
        wake: called when one ended.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._tasks: set[asyncio.Task[Any]] = set()
        self.broken: BaseException | None = None
        """What broke first in one of them, beyond what a disk may do; the owner raises it."""

    def begin(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Who waits for the task does so behind a shield."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, HiveError):
            self.broken = self.broken or error
        self._wake()

    async def wait(self) -> None:
        """Returns when none is left, also of those that begin meanwhile."""
        while self._tasks:
            await asyncio.wait(self._tasks)
