"""Turns to be read: few at once, fair by connection, and no waiting behind what does not come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import pytest

from hivenode.errors import Code, HiveError
from hivenode.transport.interceptors.turns import (
    SLOW_KNOWN_MAX,
    SLOW_STRANGERS_MAX,
    TURNS_MAX,
    USERS_TURNS_MAX,
    Turns,
)

DEADLINE_S = 10.0
SHORT_S = 0.01
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


@pytest.mark.parametrize("turns_max", [USERS_TURNS_MAX, TURNS_MAX])
async def test_one_that_half_sends_leaves_a_turn_to_others(turns_max: int) -> None:
    turns = Turns(turns_max, SLOW_KNOWN_MAX)
    assert await _is_read_at_once(turns, "good")
    async with _half_sent(turns, ["bad"] * (10 * turns_max)):
        assert await _is_read_at_once(turns, "good")
        assert await _is_read_at_once(turns, "another")
    async with _half_sent(turns, ["bad"] * (10 * turns_max)):
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
