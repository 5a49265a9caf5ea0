"""Turns to be read: few at once, fair by connection, and no waiting behind what does not come."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import pytest

from hivenode.errors import Code, HiveError
from hivenode.transport.interceptors.turns import (
    PROMPT_S,
    SLOW_KNOWN_MAX,
    SLOW_STRANGERS_MAX,
    TURNS_MAX,
    USERS_TURNS_MAX,
    Turns,
)
from tests.support import virtual_loop

DEADLINE_S = 10.0
SHORT_S = 0.01
PRECISION_S = 1e-6
SEEDS = 60
CALLS = 40
BREAK = range(0, CALLS, 10)
"""The calls whose connections break."""
STEPS = 10
"""Of the event loop, in which what waits for nothing has been read."""


async def _read(turns: Turns, what: asyncio.Future[str], connection: str, *, client: str = "") -> str:
    async def come() -> str:
        return await what

    return await turns.read(come, connection=connection, client=client or connection, patience_s=DEADLINE_S)


async def test_what_never_comes_gives_its_turn_to_those_that_wait() -> None:
    turns, loop = Turns(TURNS_MAX, SLOW_KNOWN_MAX), asyncio.get_running_loop()
    never = [asyncio.ensure_future(_read(turns, loop.create_future(), f"bad{number}")) for number in range(40)]
    await asyncio.sleep(0)
    there: asyncio.Future[str] = loop.create_future()
    there.set_result("here")
    async with asyncio.timeout(DEADLINE_S):
        assert await _read(turns, there, "good") == "here"
        over = [task for task in never if task.done()]
        assert over, "somebody had to give way"
        for task in over:
            with pytest.raises(HiveError) as caught:
                await task
            assert caught.value.code is Code.OVERLOADED
        for task in never:
            task.cancel()
        await asyncio.gather(*never, return_exceptions=True)
        assert await _read(turns, there, "good") == "here"


async def test_turns_go_round_by_connection() -> None:
    turns, loop = Turns(TURNS_MAX, SLOW_KNOWN_MAX), asyncio.get_running_loop()
    order: list[str] = []
    holding: list[asyncio.Future[str]] = [loop.create_future() for _ in range(TURNS_MAX)]
    tasks = [asyncio.ensure_future(_read(turns, what, f"first{number}")) for number, what in enumerate(holding)]
    await asyncio.sleep(0)

    async def noted(connection: str) -> None:
        there: asyncio.Future[str] = loop.create_future()
        there.set_result("")
        await _read(turns, there, connection)
        order.append(connection)

    waiting = [asyncio.ensure_future(noted("many")) for _ in range(30)]
    await asyncio.sleep(0)
    waiting.append(asyncio.ensure_future(noted("one")))
    await asyncio.sleep(0)
    holding[0].set_result("")
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*waiting)
    assert order.index("one") <= 2
    for what in holding[1:]:
        what.set_result("")
    await asyncio.gather(*tasks)


@asynccontextmanager
async def _half_sent(turns: Turns, connections: Iterable[str]) -> AsyncIterator[Sequence[asyncio.Future[str]]]:
    """A request on each of these that never comes; they are told to go when the block ends."""
    never = [
        asyncio.ensure_future(_read(turns, asyncio.get_running_loop().create_future(), connection))
        for connection in connections
    ]
    await asyncio.sleep(0)
    try:
        yield never
    finally:
        for task in never:
            task.cancel()
        await asyncio.gather(*never, return_exceptions=True)


@asynccontextmanager
async def _crowd(turns: Turns) -> AsyncIterator[None]:
    """Strangers whose requests never come; when the block begins, most of them were told to go."""
    async with _half_sent(turns, (f"bad{number}" for number in range(20))) as never:
        gone: set[asyncio.Future[str]] = set()
        async with asyncio.timeout(DEADLINE_S):
            while len(gone) < 10:  # All are told to go but those that got a place, or the last turns.
                gone |= (await asyncio.wait(set(never) - gone, return_when=asyncio.FIRST_COMPLETED))[0]
        yield


@pytest.mark.parametrize("places", [SLOW_STRANGERS_MAX, SLOW_KNOWN_MAX])
async def test_slow_requests_go_on_while_others_are_served(places: int) -> None:
    turns, loop = Turns(TURNS_MAX, places), asyncio.get_running_loop()
    slow: list[asyncio.Future[str]] = [loop.create_future() for _ in range(places)]
    tasks = [
        asyncio.ensure_future(_read(turns, what, f"c{number}", client=f"slow{number}"))
        for number, what in enumerate(slow)
    ]
    await asyncio.sleep(0)
    async with _crowd(turns):
        assert not any(task.done() for task in tasks)
        for what in slow:
            what.set_result("whole")
        assert await asyncio.gather(*tasks) == ["whole"] * places


async def test_one_user_has_one_slow_place_and_another_the_other() -> None:
    turns, loop = Turns(TURNS_MAX, SLOW_KNOWN_MAX), asyncio.get_running_loop()
    mine, mine_too, anothers = (loop.create_future() for _ in range(3))
    first = asyncio.ensure_future(_read(turns, mine, "c0", client="me"))
    second = asyncio.ensure_future(_read(turns, mine_too, "c1", client="me"))
    third = asyncio.ensure_future(_read(turns, anothers, "c2", client="another"))
    await asyncio.sleep(0)
    async with _crowd(turns):
        with pytest.raises(HiveError) as caught:
            await second
        assert caught.value.code is Code.OVERLOADED
        mine.set_result("mine")
        anothers.set_result("another's")
        assert (await first, await third) == ("mine", "another's")


async def _is_read_at_once(turns: Turns, connection: str) -> bool:
    there: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    there.set_result("")
    reading = asyncio.ensure_future(_read(turns, there, connection))
    for _ in range(STEPS):
        await asyncio.sleep(0)
    at_once = reading.done()
    async with asyncio.timeout(DEADLINE_S):
        await reading
    return at_once


@pytest.mark.parametrize("bad", ["bad", ""])
@pytest.mark.parametrize("turns_max", [USERS_TURNS_MAX, TURNS_MAX])
async def test_one_that_half_sends_leaves_a_turn_to_others(turns_max: int, bad: str) -> None:
    turns = Turns(turns_max, SLOW_KNOWN_MAX)
    assert await _is_read_at_once(turns, "good")
    async with _half_sent(turns, [bad] * (10 * turns_max)):
        assert await _is_read_at_once(turns, "good")
        assert await _is_read_at_once(turns, "another")
    async with _half_sent(turns, [bad] * (10 * turns_max)):
        assert await _is_read_at_once(turns, "good"), "the turns of those that went are there again"


async def test_one_that_is_alone_has_all_turns() -> None:
    turns = Turns(USERS_TURNS_MAX, SLOW_KNOWN_MAX)
    async with _half_sent(turns, ["lone"] * (USERS_TURNS_MAX - 1)):
        assert await _is_read_at_once(turns, "lone")


async def test_one_that_has_had_its_share_ends_no_slow_request_of_another() -> None:
    turns, loop = Turns(USERS_TURNS_MAX, 0), asyncio.get_running_loop()
    slow, mine = loop.create_future(), loop.create_future()
    another = asyncio.ensure_future(_read(turns, slow, "another"))
    first = asyncio.ensure_future(_read(turns, mine, "me"))
    async with _half_sent(turns, ["me"] * 10):
        with pytest.raises(HiveError):  # Late, as the other one is by then: it gives way to those behind it.
            await first
        assert not another.done()
        slow.set_result("whole")
        assert await another == "whole"


async def test_who_comes_while_the_patience_with_another_runs_out_has_its_turn() -> None:
    turns, loop = Turns(1, 0), asyncio.get_running_loop()
    given_up, there = asyncio.Event(), loop.create_future()

    async def never() -> str:
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            given_up.set()
            await there  # It has the turn still, as while a call's end is under way.
            raise
        return ""

    late = asyncio.ensure_future(turns.read(never, connection="late", client="late", patience_s=SHORT_S))
    async with asyncio.timeout(DEADLINE_S):
        await given_up.wait()
        prompt = asyncio.ensure_future(_read(turns, there, "prompt"))
        await asyncio.sleep(0)
        there.set_result("whole")
        assert await prompt == "whole"
        with pytest.raises(HiveError) as caught:
            await late
    assert caught.value.code is Code.OVERLOADED


@pytest.mark.parametrize("has_company", [True, False])
def test_a_slow_request_gives_way_to_the_next_of_the_same_while_a_turn_is_kept_for_others(has_company: bool) -> None:
    async def main() -> None:
        turns, loop = Turns(USERS_TURNS_MAX, 0), asyncio.get_running_loop()
        if has_company:
            assert await _is_read_at_once(turns, "another")
        what: asyncio.Future[str] = loop.create_future()
        slow = asyncio.ensure_future(_read(turns, what, "me"))
        await asyncio.sleep(2 * PROMPT_S)
        assert not slow.done()
        assert await _is_read_at_once(turns, "me")
        if has_company:
            assert isinstance(slow.exception(), HiveError)
        else:
            what.set_result("whole")
            assert await slow == "whole"

    virtual_loop.run(main())


def test_a_slow_request_gives_way_to_nobody_that_has_gone() -> None:
    async def main() -> None:
        turns, loop = Turns(1, 0), asyncio.get_running_loop()
        what: asyncio.Future[str] = loop.create_future()
        slow = asyncio.ensure_future(_read(turns, what, "slow"))
        await asyncio.sleep(0)
        async with _half_sent(turns, ["gone", "gone", "gone too"]):
            pass
        loop.call_later(2 * PROMPT_S, what.set_result, "whole")
        assert await slow == "whole"
        assert await _is_read_at_once(turns, "next")

    virtual_loop.run(main())


class _Crowd:
    """Random calls on one `Turns` that dawdle, break and go, and what may never happen with any of them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._turns_max, self._slow_max = self._random.choice([1, 2, 4]), self._random.choice([0, 1, 2])
        self._turns = Turns(self._turns_max, self._slow_max)
        self._waiting: set[int] = set()
        self._waited_s = -math.inf  # When somebody waited last.
        self._reading = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._call(number) for number in range(CALLS)))
        after = [asyncio.ensure_future(self._read(number, f"after{number}", math.inf)) for number in range(CALLS)]
        await asyncio.sleep(PROMPT_S / 2)
        assert self._reading == self._turns_max, "all turns are there again, and no more"
        await asyncio.sleep(self._slow_max * PROMPT_S)
        assert self._reading == self._turns_max + self._slow_max, "and so are the slow places"
        for task in after:
            task.cancel()
        await asyncio.gather(*after, return_exceptions=True)

    def _waits_no_longer(self, number: int) -> None:
        if number in self._waiting:
            self._waiting.remove(number)
            self._waited_s = asyncio.get_running_loop().time()

    async def _read(self, number: int, user: str, lasts_s: float, *, client: str = "", patience_s: float = 60.0) -> str:
        async def come() -> str:
            self._waits_no_longer(number)
            self._reading += 1
            assert self._reading <= self._turns_max + self._slow_max
            try:
                if lasts_s:
                    await asyncio.sleep(lasts_s)
                if number in BREAK:
                    raise ConnectionError
                return user
            finally:
                self._reading -= 1

        self._waiting.add(number)
        try:
            return await self._turns.read(come, connection=user, client=client or user, patience_s=patience_s)
        finally:
            self._waits_no_longer(number)

    async def _call(self, number: int) -> None:
        draw, loop = self._random, asyncio.get_running_loop()
        lasts_s = draw.choice([0.0, 0.02, PROMPT_S, 0.06, 0.3, 5.0, math.inf])
        patience_s = draw.choice([0.01, PROMPT_S, 0.3, 10.0, 60.0])
        goes_s = draw.choice([math.inf, math.inf, 0.0, 0.01, PROMPT_S, 0.3, 9.0])
        user = f"user{draw.randrange(4)}"
        await asyncio.sleep(draw.choice([0.0, PROMPT_S, draw.uniform(0.0, 3.0)]))
        start_s = loop.time()
        task = asyncio.ensure_future(
            self._read(number, user, lasts_s, client=draw.choice([user, "one"]), patience_s=patience_s)
        )
        if not (await asyncio.wait([task], timeout=None if goes_s == math.inf else goes_s))[0]:
            task.cancel()
            self._waits_no_longer(number)
            await asyncio.wait([task])
        took_s = loop.time() - start_s
        assert took_s <= min(patience_s, goes_s) + PRECISION_S
        if task.cancelled():
            assert took_s >= goes_s - PRECISION_S
        elif isinstance(error := task.exception(), HiveError):
            assert error.code is Code.OVERLOADED
            is_in_the_way = self._waiting or loop.time() - self._waited_s < PRECISION_S
            assert is_in_the_way or took_s >= patience_s - PRECISION_S, "it gave way to nobody"
        elif number in BREAK:
            assert isinstance(error, ConnectionError)
        else:
            assert task.result() == user


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whoever_comes_and_goes_all_turns_are_there_in_the_end(seed: int) -> None:
    virtual_loop.run(_Crowd(seed).run())
