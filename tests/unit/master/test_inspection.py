"""Whose archive is looked at next."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from hivenode.errors import Code, HiveError
from hivenode.master.inspection import USER_SHARE, Check, Line

WAITING_MAX = 2 * USER_SHARE
DEADLINE_S = 20.0


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    made = Line("tested", WAITING_MAX)
    yield made
    await made.aclose()


class Held:
    """Work that stands in its thread until it is freed or broken off, and notes whose it was."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.free = threading.Event()
        self.begun = threading.Event()
        self.ended = threading.Event()

    def start(self, line: Line, user: str, name: str = "") -> asyncio.Task[None]:
        def work(check: Check) -> None:
            self.begun.set()
            try:
                while not self.free.wait(0.001):
                    check()
                self.done.append(name)
            finally:
                self.ended.set()

        return asyncio.create_task(line.run(user, work))

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, DEADLINE_S)


async def code_of(task: asyncio.Task[None]) -> Code:
    with pytest.raises(HiveError) as caught:
        await task
    return caught.value.code


async def test_users_take_turns(line: Line) -> None:
    held = Held()
    asked = ("mallory", "mallory", "alice", "bob")
    tasks = [held.start(line, user, f"{n} {user}") for n, user in enumerate(asked)]
    await held.has_begun()
    held.free.set()
    await asyncio.gather(*tasks)
    assert held.done == ["0 mallory", "2 alice", "3 bob", "1 mallory"]


async def test_a_user_alone_has_what_others_do_not_need_and_less_when_they_come(line: Line) -> None:
    held = Held()
    share = WAITING_MAX // USER_SHARE
    tasks = [held.start(line, "mallory") for _ in range(WAITING_MAX - share)]
    assert await code_of(held.start(line, "mallory")) is Code.OVERLOADED
    tasks += [held.start(line, "alice") for _ in range(share)]
    assert await code_of(held.start(line, "alice")) is Code.OVERLOADED
    assert await code_of(held.start(line, "another")) is Code.OVERLOADED
    held.free.set()
    await asyncio.gather(*tasks)
    await held.start(line, "another")


async def test_no_user_has_more_than_a_share_while_others_wait(line: Line) -> None:
    held = Held()
    share = WAITING_MAX // USER_SHARE
    tasks = [held.start(line, "alice")] + [held.start(line, "mallory") for _ in range(share)]
    assert await code_of(held.start(line, "mallory")) is Code.OVERLOADED
    held.free.set()
    await asyncio.gather(*tasks)


async def test_work_that_nobody_waits_for_is_broken_off(line: Line) -> None:
    held, next_ = Held(), Held()
    task = held.start(line, "mallory")
    await held.has_begun()
    task.cancel()
    assert await asyncio.to_thread(held.ended.wait, DEADLINE_S)
    assert held.done == []
    next_.free.set()
    await next_.start(line, "mallory", "next")
    assert next_.done == ["next"]


async def test_the_end_breaks_off_what_is_done_and_what_waits(line: Line) -> None:
    held = Held()
    tasks = [held.start(line, user) for user in ("mallory", "mallory", "alice")]
    await held.has_begun()
    await line.aclose()
    assert [await code_of(task) for task in tasks] == [Code.SHUTTING_DOWN] * 3
    assert await code_of(held.start(line, "bob")) is Code.SHUTTING_DOWN
