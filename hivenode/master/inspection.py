"""Inspecting uploads, at the leader: in threads of its own, by turns of the users, small archives apart from large ones.

An archive that is within all bounds may unpack to 1 GiB, which takes a core for seconds, and one that fails its check sum at the
very end costs its sender nothing. So nobody else waits for such a thread but who sends such an archive too:

| line | what is done there |
|---|---|
| small | all directories are read; archives that unpack to `SMALL_BYTES_MAX` at the most are read whole |
| large | the others are read whole |

A line has one thread and does one piece of work of each user in turn. What nobody waits for any more ends at its next piece.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from hivenode.archives import ArchiveLimits, TaskArchive, inspect_task, read_task
from hivenode.errors import Code, HiveError

SMALL_BYTES_MAX: Final = 16 << 20
"""Read in some 50 ms, at the 2.7 s for 1 GiB that were measured."""
SMALL_WAITING_MAX: Final = 1_024
LARGE_WAITING_MAX: Final = 32
"""Some 90 s of one core when each unpacks to 1 GiB."""
USER_SHARE: Final = 4
"""One user has at most this part of the places while others wait, and leaves this part free while nobody does."""

T = TypeVar("T")
Check = Callable[[], None]
"""Called between pieces of the work; raises when nobody waits for it any more."""


class Line:
    """One thread, which works for each user in turn.

    Args:
        waiting_max: work that waits or is done, of all users.
    """

    def __init__(self, name: str, waiting_max: int) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting_max = waiting_max
        self._waiting: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Lock] = {}
        self._closed = threading.Event()

    async def run(self, user: str, work: Callable[[Check], T]) -> T:
        """What `work` gives, in the thread.

        Raises:
            HiveError: OVERLOADED, SHUTTING_DOWN, and what the work raises.
        """
        waiting, own = self._waiting.total(), self._waiting[user]
        share = self._waiting_max // USER_SHARE
        most = share if waiting > own else self._waiting_max - share
        if waiting >= self._waiting_max or own >= most:
            raise _overloaded()
        self._waiting[user] += 1
        try:
            async with self._turns.setdefault(user, asyncio.Lock()):
                return await self._in_thread(work)
        finally:
            self._waiting[user] -= 1
            if not self._waiting[user]:
                del self._waiting[user], self._turns[user]

    async def aclose(self) -> None:
        """Ends the thread, at the next piece of what it does."""
        self._closed.set()
        await asyncio.to_thread(self._thread.shutdown)

    async def _in_thread(self, work: Callable[[Check], T]) -> T:
        left = threading.Event()

        def check() -> None:
            if self._closed.is_set() or left.is_set():
                raise _stopping()

        def begun() -> T:
            check()
            return work(check)

        if self._closed.is_set():
            raise _stopping()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, begun)
        finally:
            left.set()


class Inspections:
    """Inspects uploads whole.

    Args:
        limits: what an archive may be.
    """

    def __init__(self, limits: ArchiveLimits) -> None:
        self._limits = limits
        self._small = Line("small archives", SMALL_WAITING_MAX)
        self._large = Line("large archives", LARGE_WAITING_MAX)

    async def inspect(self, path: Path, user: str, deadline_s: float) -> None:
        """Returns when the archive was found sound, to its last byte.

        Raises:
            HiveError: INVALID_TASK, OVERLOADED, SHUTTING_DOWN.
        """
        try:
            async with asyncio.timeout(deadline_s):
                archive = await self._small.run(user, lambda check: self._begin(path, check))
                if archive.unpacked_bytes > SMALL_BYTES_MAX:
                    await self._large.run(user, lambda check: read_task(path, archive, self._limits, check))
        except TimeoutError:
            raise _overloaded() from None

    async def aclose(self) -> None:
        """Ends the threads."""
        await asyncio.gather(self._small.aclose(), self._large.aclose())

    def _begin(self, path: Path, check: Check) -> TaskArchive:
        archive = inspect_task(path, self._limits)
        if archive.unpacked_bytes <= SMALL_BYTES_MAX:
            read_task(path, archive, self._limits, check)
        return archive


def _overloaded() -> HiveError:
    return HiveError(Code.OVERLOADED, "too many archives wait to be looked at: try again in a few seconds")


def _stopping() -> HiveError:
    return HiveError(Code.SHUTTING_DOWN, "this node is stopping: send this through another one")
