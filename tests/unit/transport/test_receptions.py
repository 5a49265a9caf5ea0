"""Places for streams of large pieces: so many of one client, so many of all, and no endless waiting for one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from hivenode.errors import Code, HiveError
from hivenode.transport.receptions import CLIENT_PLACES_MAX, PLACES_MAX, Receptions
from tests.support import virtual_loop

DEADLINE_S = 10.0
SHORT_S = 0.05
SEEDS = 60
CALLS = 60


@asynccontextmanager
async def _full(receptions: Receptions) -> AsyncIterator[AsyncExitStack]:
    """All places are taken; those of `me`, as many as one client has, are let go of with what is given."""
    async with AsyncExitStack() as others:
        for number in range(PLACES_MAX - CLIENT_PLACES_MAX):
            await others.enter_async_context(receptions.place(f"other{number}"))
        async with AsyncExitStack() as mine:
            for _ in range(CLIENT_PLACES_MAX):
                await mine.enter_async_context(receptions.place("me"))
            yield mine


async def _is_refused(receptions: Receptions, client: str) -> None:
    with pytest.raises(HiveError) as refused:
        async with receptions.place(client):
            pass
    assert refused.value.code is Code.OVERLOADED


async def test_who_finds_no_place_is_refused_after_a_while() -> None:
    receptions = Receptions(patience_s=SHORT_S)
    async with _full(receptions):
        await _is_refused(receptions, "another")


async def test_one_client_has_so_many_places_and_leaves_the_rest_to_others() -> None:
    receptions = Receptions(patience_s=SHORT_S)
    async with AsyncExitStack() as taken:
        for _ in range(CLIENT_PLACES_MAX):
            await taken.enter_async_context(receptions.place("me"))
        await _is_refused(receptions, "me")
        for _ in range(PLACES_MAX - CLIENT_PLACES_MAX):
            await taken.enter_async_context(receptions.place("another"))


async def test_who_waits_has_the_place_that_becomes_free() -> None:
    receptions = Receptions(patience_s=DEADLINE_S)
    order: list[str] = []

    async def wait() -> None:
        async with receptions.place("another"):
            order.append("another has it")

    async with _full(receptions) as mine:
        waits = asyncio.ensure_future(wait())
        await asyncio.sleep(0)  # It asks now, and finds none.
        order.append("I let go")
        await mine.aclose()
        await waits
    assert order == ["I let go", "another has it"]


async def test_who_gives_up_in_the_moment_when_it_has_its_turn_gives_it_on() -> None:
    receptions = Receptions(patience_s=DEADLINE_S)

    async def wait(client: str) -> None:
        async with receptions.place(client):
            pass

    async with _full(receptions) as mine:
        first, second = [asyncio.ensure_future(wait(client)) for client in ("first", "second")]
        await asyncio.sleep(0)  # Both ask now, and find none.
        await mine.aclose()
        first.cancel()
        async with asyncio.timeout(DEADLINE_S):
            await second
        assert first.cancelled()


async def test_one_that_was_told_to_go_this_moment_is_passed_over() -> None:
    receptions = Receptions(patience_s=DEADLINE_S)
    served: list[str] = []

    async def wait(client: str) -> None:
        async with receptions.place(client):
            served.append(client)

    async with _full(receptions) as mine:
        first, second = [asyncio.ensure_future(wait(client)) for client in ("first", "second")]
        await asyncio.sleep(0)  # Both ask now, and find none.
        first.cancel()  # It runs, and leaves the row, only when this test waits.
        await mine.aclose()
        async with asyncio.timeout(DEADLINE_S):
            await second
    assert first.cancelled()
    assert served == ["second"]
    async with _full(receptions):
        pass


async def test_a_place_is_free_again_however_often_its_holder_is_cancelled() -> None:
    receptions = Receptions(patience_s=DEADLINE_S)
    entered = asyncio.Event()

    async def hold() -> None:
        async with receptions.place("me"):
            entered.set()
            await asyncio.Event().wait()

    holders = [asyncio.ensure_future(hold()) for _ in range(CLIENT_PLACES_MAX)]
    await entered.wait()
    waiting = asyncio.ensure_future(hold())
    await asyncio.sleep(0)  # It asks now, and finds none.
    entered.clear()
    for _ in range(2):
        for holder in holders:
            holder.cancel()
    async with asyncio.timeout(DEADLINE_S):
        await entered.wait()
        waiting.cancel()
        await asyncio.gather(*holders, waiting, return_exceptions=True)
    async with AsyncExitStack() as taken:
        for _ in range(CLIENT_PLACES_MAX):
            await taken.enter_async_context(receptions.place("me"))


class _Crowd:
    """Random calls that hold a place for a while or go before they have one, many of them in the same moment."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._receptions = Receptions(patience_s=self._random.choice([1.0, 3.0]))
        self._holding: list[str] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._call() for _ in range(CALLS)))
        assert not self._holding
        async with _full(self._receptions):
            pass  # No place was lost.

    async def _call(self) -> None:
        draw = self._random
        client, lasts_s, goes_s = draw.choice("abc"), draw.choice([0.0, 1.0, 2.0]), draw.choice([0.0, 1.0, 2.0, 60.0])
        await asyncio.sleep(draw.choice([0.0, 1.0, 2.0, 3.0]))

        async def hold() -> None:
            async with self._receptions.place(client):
                self._holding.append(client)
                assert len(self._holding) <= PLACES_MAX
                assert self._holding.count(client) <= CLIENT_PLACES_MAX
                try:
                    await asyncio.sleep(lasts_s)
                finally:
                    self._holding.remove(client)

        task = asyncio.ensure_future(hold())
        await asyncio.wait([task], timeout=goes_s)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            assert isinstance(error, HiveError)
            assert error.code is Code.OVERLOADED


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whoever_comes_and_goes_all_places_are_there_in_the_end(seed: int) -> None:
    virtual_loop.run(_Crowd(seed).run())
