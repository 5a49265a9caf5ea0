"""Places for streams of large pieces, so that their number bounds the memory.

- Requests: gRPC takes a piece whole into memory before anybody sees its size, up to its one bound for all messages.
- Answers: some copies of a piece are held for as long as the caller takes none.

The rest wait, some seconds, and are then told to come again. The nodes of the hive have places apart from those of users, or slow
uploads of users would keep the results of tasks from being stored.
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
DOWNLOADS_MAX: Final = 128
"""Results to all users, and again blobs to all nodes; one of which nothing is taken holds 1.3 MiB."""
WATCHES_MAX: Final = 256
"""Watched tasks."""
PATIENCE_S: Final = 10.0


def answers(places: int, what: str) -> Receptions:
    """Places for streamed answers, of which one client has a quarter."""
    return Receptions(places=places, client_places=places // 4, what=what)


class Receptions:
    """Gives places; one event loop uses it.

    Args:
        places, client_places: how many there are, and of them for one client.
        patience_s: how long who finds none waits for one.
        what: what there is too much of when none is free, for a person.
    """

    def __init__(
        self,
        *,
        places: int = PLACES_MAX,
        client_places: int = CLIENT_PLACES_MAX,
        patience_s: float = PATIENCE_S,
        what: str = "streams of large pieces are coming in",
    ) -> None:
        self._places = places
        self._client_places = client_places
        self._patience_s = patience_s
        self._what = what
        self._taken: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], str] = {}

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """A place while the block lasts. Raises OVERLOADED when none was free in time."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._take(client)
        except TimeoutError:
            raise HiveError(Code.OVERLOADED, f"too many {self._what}: try again in a few seconds") from None
        try:
            yield
        finally:
            self._give(client)

    async def _take(self, client: str) -> None:
        if self._has_room(client):
            self._taken[client] += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = client
        try:
            await turn
        except asyncio.CancelledError:
            if self._waiting.pop(turn, None) is None:
                self._give(client)  # It had just been given.
            raise

    def _give(self, client: str) -> None:
        """Takes a place back, and gives it to whoever waits longest and may have it.

        One that was told to go this moment stands in the row until it runs: it is passed over.
        """
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]
        for turn, waiting in self._waiting.items():
            if not turn.done() and self._has_room(waiting):
                del self._waiting[turn]
                self._taken[waiting] += 1
                turn.set_result(None)
                return

    def _has_room(self, client: str) -> bool:
        return self._taken.total() < self._places and self._taken[client] < self._client_places
