"""Turns to be read: few at once, fair by connection, and no waiting behind what does not come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hivenode.errors import Code, HiveError
from hivenode.transport.interceptors.turns import SLOW_KNOWN_MAX, SLOW_STRANGERS_MAX, TURNS_MAX, Turns

DEADLINE_S = 10.0
SHORT_S = 0.01


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
async def _crowd(turns: Turns) -> AsyncIterator[None]:
    """Strangers whose requests never come; when the block begins, most of them were told to go."""
    never = [
        asyncio.ensure_future(_read(turns, asyncio.get_running_loop().create_future(), f"bad{number}"))
        for number in range(20)
    ]
    gone: set[asyncio.Future[str]] = set()
    try:
        async with asyncio.timeout(DEADLINE_S):
            while len(gone) < 10:  # All are told to go but those that got a place, or the last turns.
                gone |= (await asyncio.wait(set(never) - gone, return_when=asyncio.FIRST_COMPLETED))[0]
        yield
    finally:
        for task in never:
            task.cancel()
        await asyncio.gather(*never, return_exceptions=True)


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
