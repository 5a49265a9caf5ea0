"""Supervision: what runs as long as the daemon does. A part that fails stops the daemon, with an exit code of its own kind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import IntEnum, unique
from typing import Any, Final
from weakref import WeakSet

import structlog

from hivenode.errors import HiveError, InvariantError

_log = structlog.get_logger(__name__)

STEP_S_MIN: Final = 0.1
"""What every step of the end is given, however late it is: most are done in a moment."""


@unique
class ExitCode(IntEnum):
    """How a daemon ends; a service manager decides by it whether to start it again."""

    STOPPED = 0
    FAILED = 1
    """Something unforeseen; starting again may help."""
    USAGE = 2
    """The configuration or the machine must be changed first."""
    BROKEN_INVARIANT = 70
    """What must hold does not: a person must look before this node runs again."""


class Supervisor:
    """Runs coroutines beside each other and tells when the daemon has to end."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._beside: set[asyncio.Task[None]] = set()
        self._told: WeakSet[asyncio.Task[None]] = WeakSet()
        self._ended = asyncio.Event()
        self._exit_code: ExitCode | None = None

    def run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Starts a part that lasts; its end, or its failure, ends the daemon."""
        task = asyncio.create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(self._part_ended)

    def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts something short; its failure is logged, a broken invariant ends the daemon."""
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside_ended)

    def _beside_ended(self, task: asyncio.Task[None]) -> None:
        self._beside.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, InvariantError):
            self.broken(error)
        else:
            _log.error("work beside failed", exc_info=error)

    def _part_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            if task not in self._told:  # A library may raise it where nobody asked for the end.
                _log.error("the daemon stops since a part of it was broken off", part=task.get_name())
                self.end(ExitCode.FAILED)
            return
        error = task.exception()
        if isinstance(error, InvariantError):
            self.broken(error)
        elif isinstance(error, HiveError):
            _log.error("the daemon stops", part=task.get_name(), reason=error.message)
            self.end(ExitCode.USAGE)
        elif error is not None:
            _log.error("the daemon stops", part=task.get_name(), exc_info=error)
            self.end(ExitCode.FAILED)
        elif self._exit_code is None:
            _log.error("the daemon stops since a part of it ended", part=task.get_name())
            self.end(ExitCode.FAILED)

    def broken(self, error: InvariantError) -> None:
        """A broken invariant: nothing wrong may spread from here."""
        _log.critical("a broken invariant stops the daemon; keep its data directory for a look", exc_info=error)
        self.end(ExitCode.BROKEN_INVARIANT)

    def end(self, code: ExitCode) -> None:
        """Asks the daemon to end; the first word counts, but a broken invariant outranks all."""
        if self._exit_code is None or code is ExitCode.BROKEN_INVARIANT:
            self._exit_code = code
        self._ended.set()

    async def wait(self) -> ExitCode:
        """Returns when the daemon has to end."""
        await self._ended.wait()
        return self._exit_code if self._exit_code is not None else ExitCode.STOPPED

    async def cancel(self, name: str) -> None:
        """Ends one part and waits until it is over; when that is broken off, `cancel_all` waits for the part."""
        task = self._tasks.get(name)
        if task is not None:
            self._tell(task)
            await asyncio.wait({task})
            self._tasks.pop(name, None)

    async def cancel_all(self, deadline_s: float) -> None:
        """Ends everything and waits until it is over, for `deadline_s` at most."""
        tasks = {*self._tasks.values(), *self._beside}
        for task in tasks:
            self._tell(task)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=deadline_s)
            if late:
                _log.warning("not all parts ended in time", parts=sorted(task.get_name() for task in late))

    def _tell(self, task: asyncio.Task[None]) -> None:
        """Cancels a task once: a second time would break off what it tidies up after the first."""
        if task not in self._told:
            self._told.add(task)
            task.cancel()


class Ending:
    """The steps of the daemon's end. Each has a time, from the beginning, by which it is over, so that time which one step
    did not need is left to the next; none keeps a later one from being made, be it that it fails or hangs."""

    def __init__(self) -> None:
        self._begun = asyncio.get_running_loop().time()
        self._left_behind: set[asyncio.Future[None]] = set()

    def left_s(self, until_s: float) -> float:
        """Seconds that a step has which is to be over by `until_s`."""
        return max(self._begun + until_s - asyncio.get_running_loop().time(), STEP_S_MIN)

    async def step(self, what: str, work: Coroutine[Any, Any, None], until_s: float) -> bool:
        """Does one step; whether it was done in time. Its failure is logged, and what hangs is left behind."""
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task}, timeout=self.left_s(until_s))
        if not done:
            _log.warning("not ended in time; nothing acknowledged is lost by that", part=what)
            self._left_behind.add(task)
            task.add_done_callback(self._came_late)
            task.cancel()
            return False
        if task.cancelled() or (error := task.exception()) is None:
            return not task.cancelled()
        _log.error("a part failed at its end", part=what, exc_info=error)
        return False

    def _came_late(self, task: asyncio.Future[None]) -> None:
        self._left_behind.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a part failed late at its end", exc_info=error)
