"""Whose request is read next: few are under way at once, and nobody waits behind one that does not come.

The connection library takes a message whole into memory once it is asked for, so the number of requests that are being read
bounds that memory. Nearly all are there already when they are asked for, and a turn lasts a moment.

| a request that has not come within `PROMPT_S` | then |
|---|---|
| and a slow place is free, and its client has none | goes on there, and its turn is given on |
| and nobody waits who could have its turn | goes on |
| and somebody does, now or later | is told OVERLOADED, and what came of it is let go |

Turns of strangers go round by connection, so that one with a thousand calls waiting comes no oftener than one with a single call.
Users who have shown a session, and proven members, have a queue each, which goes round by user and by node: whoever half-sends
requests over many connections holds up neither. Of each kind one may have all turns but the last while another has asked of late,
or who half-sends or dawdles would hold all of them, and others wait for `PROMPT_S` each time. The lone one has them all. So a
slow request gives way to the next one of the same even beside the turn that is kept: that one would wait behind it for long.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from hivenode.errors import Code, HiveError

TURNS_MAX: Final = 4
"""Requests that are read at once; more make nothing faster, since one event loop serves them all."""
USERS_TURNS_MAX: Final = 2
MEMBERS_TURNS_MAX: Final = 2
"""Requests of users with a session, and of members, that are read at once beside these. What they send is small, but gRPC would
take in 104 MiB of each."""
PROMPT_S: Final = 0.05
"""A request that is not there by then waits for the network, not for this node."""
COMPANY_S: Final = 10.0
"""So long after a request of another a turn is kept for the next one. Programs that wait for something ask every few seconds."""
SLOW_STRANGERS_MAX: Final = 1
SLOW_KNOWN_MAX: Final = 2
"""Slow requests of those who have shown no session, and of users and members each; one a client."""

T = TypeVar("T")


def overloaded() -> HiveError:
    """What a call is told whose request finds no room."""
    return HiveError(
        Code.OVERLOADED,
        "too many requests are coming in, or this one comes too slowly beside them: try again in a few seconds",
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Reading:
    """One request that is being read. `connection` is whose turn it has, `client` whom it counts for.

    `ends` is when patience does, on the loop's clock; `limit` is set to it only when the request is late, as few are.
    """

    connection: str
    client: str
    limit: asyncio.Timeout
    ends: float
    has_turn: bool = True
    overdue: bool = False


class Turns:
    """Gives turns, so many at once, and so many slow places beside them; one event loop uses it."""

    def __init__(self, turns_max: int, slow_max: int) -> None:
        self._free = turns_max
        self._share = max(turns_max - 1, 1)
        self._slow_max = slow_max
        self._having: Counter[str] = Counter()
        self._waiting: OrderedDict[str, OrderedDict[asyncio.Future[None], None]] = OrderedDict()
        self._overdue: deque[_Reading] = deque()
        self._slow: set[str] = set()
        self._last = self._last_other = ("", -COMPANY_S)  # Who asked last, who was the last one but that, and when.

    async def read(self, read: Callable[[], Awaitable[T]], *, connection: str, client: str, patience_s: float) -> T:
        """What `read` gives, in its turn.

        Args:
            connection: whose turns those are, or the user or node.
            patience_s: for the turn and the request together.
        Raises:
            HiveError: OVERLOADED.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                ends = loop.time() + patience_s
                self._note(connection, loop.time())
                if not self._take(connection):
                    limit.reschedule(ends)
                    await self._turn(connection)
                reading = _Reading(connection=connection, client=client, limit=limit, ends=ends)
                prompt = loop.call_later(min(PROMPT_S, patience_s), self._late, reading)
                try:
                    return await read()
                finally:
                    prompt.cancel()
                    self._ended(reading)
        except TimeoutError:
            raise overloaded() from None

    def _note(self, connection: str, now_s: float) -> None:
        if connection != self._last[0]:
            self._last_other = self._last
        self._last = (connection, now_s)

    def _may_have(self, connection: str, *, freed: str | None = None) -> bool:
        """Whether its share allows a turn, if `freed` had one less; all turns are the share of one that is alone."""
        if self._having[connection] - (connection == freed) < self._share:
            return True
        if len(self._waiting) > (connection in self._waiting):
            return False
        _, asked_s = self._last_other if self._last[0] == connection else self._last
        return asyncio.get_running_loop().time() - asked_s >= COMPANY_S

    def _take(self, connection: str) -> bool:
        """Takes a turn that is free, unless others of the same wait for one."""
        if not self._free or connection in self._waiting or not self._may_have(connection):
            return False
        self._free -= 1
        self._having[connection] += 1
        return True

    async def _turn(self, connection: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(connection, OrderedDict())[turn] = None
        self._give_on()
        if not turn.done():
            late = next((reading for reading in self._overdue if self._next(reading.connection) is not None), None)
            if late is not None:
                self._cut(late)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(connection)
            else:
                self._forget(connection, turn)
            raise

    def _forget(self, connection: str, turn: asyncio.Future[None]) -> None:
        """One waits no longer, or a late reading would give way to it. It may have been passed over this moment."""
        turns = self._waiting.get(connection, OrderedDict())
        turns.pop(turn, None)
        if not turns:
            self._waiting.pop(connection, None)

    def _next(self, freed: str | None = None) -> str | None:
        """Who has the next turn, if `freed` had one less: of those whose share allows it the one whose last was longest ago."""
        return next((connection for connection in self._waiting if self._may_have(connection, freed=freed)), None)

    def _give_back(self, connection: str) -> None:
        self._free += 1
        self._having[connection] -= 1
        if not self._having[connection]:
            del self._having[connection]
        self._give_on()

    def _give_on(self) -> None:
        """Gives the free turns to those that may have them; those that were told to go this moment are passed over."""
        while self._free and (connection := self._next()) is not None:
            turns = self._waiting.pop(connection)
            turn, _ = turns.popitem(last=False)
            if turns:
                self._waiting[connection] = turns
            if not turn.done():
                self._free -= 1
                self._having[connection] += 1
                turn.set_result(None)

    def _late(self, reading: _Reading) -> None:
        if reading.limit.expired():
            return
        reading.limit.reschedule(reading.ends)
        if reading.client not in self._slow and len(self._slow) < self._slow_max:
            self._slow.add(reading.client)
            reading.has_turn = False
            self._give_back(reading.connection)
        elif self._next(reading.connection) is not None:
            self._cut(reading)
        else:
            reading.overdue = True
            self._overdue.append(reading)

    def _cut(self, reading: _Reading) -> None:
        if reading.overdue:
            self._overdue.remove(reading)
            reading.overdue = False
        if not reading.limit.expired():  # Else its patience has run out this moment, and its turn is given on at once.
            reading.limit.reschedule(asyncio.get_running_loop().time())

    def _ended(self, reading: _Reading) -> None:
        if reading.overdue:
            self._overdue.remove(reading)
        if reading.has_turn:
            self._give_back(reading.connection)
        else:
            self._slow.discard(reading.client)
