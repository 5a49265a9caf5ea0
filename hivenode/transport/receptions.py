"""Places for streams of requests that bring large pieces: gRPC takes a piece whole into memory before anybody sees its size.

A piece is bounded by gRPC's one bound for all messages, so that the number of streams which are being read bounds the memory. The
rest wait unread, some seconds, and are then told to come again. The nodes of the hive have places apart from those of users, or
slow uploads of users would keep the results of tasks from being stored.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from hivenode.errors import Code, HiveError

PLACES_MAX: Final = 8
"""Of all users, and again of all nodes: 832 MiB when each of them sends the largest message that gRPC takes."""
CLIENT_PLACES_MAX: Final = 4
"""Of one client."""
PATIENCE_S: Final = 10.0


class Receptions:
    """Gives places; one event loop uses it. Args: patience_s: how long who finds none waits for one."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._taken: Counter[str] = Counter()
        self._free = asyncio.Condition()

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """A place while the block lasts. Raises OVERLOADED when none was free in time."""
        try:
            async with asyncio.timeout(self._patience_s), self._free:
                await self._free.wait_for(lambda: self._has_room(client))
                self._taken[client] += 1
        except TimeoutError:
            raise HiveError(
                Code.OVERLOADED, "too many streams of large pieces are coming in: try again in a few seconds"
            ) from None
        try:
            yield
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]
            async with self._free:
                self._free.notify_all()

    def _has_room(self, client: str) -> bool:
        return self._taken.total() < PLACES_MAX and self._taken[client] < CLIENT_PLACES_MAX
