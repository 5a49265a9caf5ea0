"""What is done together: its results, and what becomes of the rest when one of it fails."""

from __future__ import annotations

import asyncio

import pytest

from hivenode.errors import InvariantError
from hivenode.runtime.together import together


class Lasting:
    """Work that ends only when it is ended."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.is_over = False

    async def run(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # As one that tidies up.
            self.is_over = True


async def test_results_come_in_the_order_of_the_work() -> None:
    first = asyncio.Event()

    async def one() -> int:
        await first.wait()
        return 1

    async def two() -> int:
        first.set()
        return 2

    assert await together([one(), two()]) == [1, 2]
    assert await together(()) == []


async def test_when_one_fails_the_others_are_over_before_that_is_told() -> None:
    lasting = [Lasting(), Lasting()]

    async def fail() -> None:
        await lasting[1].begun.wait()
        raise InvariantError("what must hold does not")

    with pytest.raises(InvariantError):
        await together([lasting[0].run(), fail(), lasting[1].run()])
    assert [it.is_over for it in lasting] == [True, True]


async def test_who_is_ended_ends_what_it_waits_for() -> None:
    lasting = Lasting()
    waiting = asyncio.ensure_future(together([lasting.run()]))
    await lasting.begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert lasting.is_over
