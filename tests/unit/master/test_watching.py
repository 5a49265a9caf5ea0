"""Watching a task, from its submission to the last byte of its log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from hivenode.errors import Code, HiveError
from hivenode.pool.records import SessionRecord, TaskSpec, TaskState
from hivenode.runtime.ports import TaskEvent
from tests.support.master_hive import LEADER, SCRIPT, WORKER, Hive, call
from tests.support.peer_disks import AttemptLog


class Watcher:
    """Reads a watch step by step, each within a deadline."""

    def __init__(self, hive: Hive, session: SessionRecord, offset: int = 0, attempt: int = 0) -> None:
        self.events = cast("AsyncGenerator[TaskEvent, None]", hive.tasks.watch(session, "t", attempt, offset))
        self.log = b""

    async def next(self) -> TaskEvent:
        async with asyncio.timeout(10):
            event = await anext(self.events)
        self.log += event.log
        return event

    async def until_log(self, length: int) -> None:
        while len(self.log) < length:
            await self.next()

    async def to_the_end(self) -> TaskEvent:
        while not (event := await self.next()).final:
            pass
        async with asyncio.timeout(10):
            assert [more async for more in self.events] == []
        return event


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncIterator[Hive]:
    made = Hive(tmp_path)
    yield made
    await made.aclose()


@pytest.fixture
async def ann(hive: Hive) -> SessionRecord:
    session = hive.user("ann")
    await hive.tasks.submit(session, "t", SCRIPT, TaskSpec(), call())
    return session


async def test_a_watch_tells_every_state_and_the_whole_log(hive: Hive, ann: SessionRecord) -> None:
    watcher = Watcher(hive, ann)
    assert (await watcher.next()).state is TaskState.PENDING
    log = hive.assign(start=False)
    assert (await watcher.next()).state is TaskState.ASSIGNED
    hive.begin()
    assert (await watcher.next()).state is TaskState.RUNNING
    log.write(b"one\n")
    assert (await watcher.next()).log == b"one\n"
    log.write(b"two\nthree")
    assert (await watcher.next()).log == b"two\nthree"
    log.write(b" and more\n", close=True)
    await hive.end(log=bytes(log.data))
    last = await watcher.to_the_end()
    assert last.state is TaskState.COMPLETED
    assert watcher.log == b"one\ntwo\nthree and more\n"


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
async def test_a_watch_of_an_ended_task_tells_the_log_and_ends(hive: Hive, ann: SessionRecord, size: int) -> None:
    hive.assign()
    await hive.end(log=bytes(size), exit_code=1)
    watcher = Watcher(hive, ann)
    last = await watcher.to_the_end()
    assert last.state is TaskState.FAILED
    assert watcher.log == bytes(size)


@pytest.mark.parametrize("offset", [0, 3, 8])
async def test_a_watch_goes_on_where_the_watcher_left_off(hive: Hive, ann: SessionRecord, offset: int) -> None:
    log = hive.assign()
    log.write(b"one\ntwo\n")
    watcher = Watcher(hive, ann, offset)
    await watcher.next()
    await watcher.until_log(8 - offset)
    log.write(b"three\n", close=True)
    await hive.end(log=b"one\ntwo\nthree\n")
    await watcher.to_the_end()
    assert watcher.log == b"one\ntwo\nthree\n"[offset:]


async def test_an_offset_in_another_attempts_log_begins_the_log_anew(hive: Hive, ann: SessionRecord) -> None:
    hive.assign()
    await hive.end(log=b"whole log\n")
    watcher = Watcher(hive, ann, offset=4, attempt=7)
    assert (await watcher.to_the_end()).attempt == 1
    assert watcher.log == b"whole log\n"


async def test_an_offset_past_the_log_tells_it_from_its_beginning(hive: Hive, ann: SessionRecord) -> None:
    hive.assign()
    await hive.end(log=b"short")
    watcher = Watcher(hive, ann, 100)
    assert "from its beginning" in (await watcher.to_the_end()).note
    assert watcher.log == b"short"


async def test_a_new_attempt_begins_the_log_anew_and_says_so(hive: Hive, ann: SessionRecord) -> None:
    hive.assign().write(b"lost output\n")
    watcher = Watcher(hive, ann)
    await watcher.until_log(12)
    hive.lose()
    assert (await watcher.next()).state is TaskState.PENDING
    hive.assign(LEADER).write(b"second\n", close=True)
    event = await watcher.next()
    assert "attempt 2 begins" in event.note
    watcher.log = event.log
    await watcher.until_log(7)
    await hive.end(log=b"second\n")
    assert (await watcher.to_the_end()).state is TaskState.COMPLETED
    assert watcher.log == b"second\n"


async def test_a_worker_that_cannot_be_reached_is_told_and_asked_again(hive: Hive, ann: SessionRecord) -> None:
    hive.network.dead.add(WORKER.node_id)
    log = hive.assign()
    watcher = Watcher(hive, ann)
    assert (await watcher.next()).state is TaskState.RUNNING
    assert "the log cannot be read now: refused the connection" in (await watcher.next()).note
    hive.network.dead.clear()
    log.write(b"back\n")
    await watcher.until_log(5)
    assert watcher.log == b"back\n"
    await watcher.events.aclose()


async def test_the_end_is_told_though_the_log_is_out_of_reach(hive: Hive, ann: SessionRecord) -> None:
    hive.assign()
    await hive.end(log=b"unreachable")
    hive.network.dead.add(WORKER.node_id)
    last = await Watcher(hive, ann).to_the_end()
    assert last.state is TaskState.COMPLETED
    assert "the rest of the log cannot be read" in last.note


async def test_a_stopped_task_is_watched_until_its_worker_has_given_the_log(hive: Hive, ann: SessionRecord) -> None:
    log = hive.assign()
    log.write(b"working\n")
    watcher = Watcher(hive, ann)
    await watcher.until_log(8)
    await hive.tasks.stop(ann, "t", call())
    event = await watcher.next()
    assert (event.state, event.final) == (TaskState.STOPPED, False)
    log.write(b"killed\n", close=True)
    await hive.end(log=b"working\nkilled\n")
    assert (await watcher.to_the_end()).state is TaskState.STOPPED
    assert watcher.log == b"working\nkilled\n"


async def test_a_task_stopped_before_it_ran_ends_its_watch(hive: Hive, ann: SessionRecord) -> None:
    watcher = Watcher(hive, ann)
    await watcher.next()
    await hive.tasks.stop(ann, "t", call())
    last = await watcher.to_the_end()
    assert (last.state, watcher.log) == (TaskState.STOPPED, b"")


async def test_a_slow_watcher_holds_the_worker_back(hive: Hive, ann: SessionRecord) -> None:
    read: list[int] = []

    class Endless(AttemptLog):
        async def read(self, offset: int, follow: bool) -> AsyncIterator[bytes]:
            while True:
                read.append(1)
                yield bytes(300_000)

    keeper = hive.network.workers[WORKER.node_id]
    hive.assign()
    for key in keeper.logs:
        keeper.logs[key] = Endless()
    watcher = Watcher(hive, ann)
    await watcher.next()
    await watcher.until_log(300_000)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(read) < 20
    await watcher.events.aclose()


async def test_a_watcher_who_leaves_leaves_nothing_running(hive: Hive, ann: SessionRecord) -> None:
    before = len(asyncio.all_tasks())
    hive.assign().write(b"some")
    watcher = Watcher(hive, ann)
    await watcher.until_log(4)
    assert len(asyncio.all_tasks()) == before + 1
    await watcher.events.aclose()
    assert len(asyncio.all_tasks()) == before
    assert not hive.agreement.has_listeners()


async def test_a_watcher_that_is_cancelled_while_it_waits_leaves_nothing_running(
    hive: Hive, ann: SessionRecord
) -> None:
    before = len(asyncio.all_tasks())
    hive.assign()
    watcher = Watcher(hive, ann)
    await watcher.next()
    waiting = asyncio.create_task(watcher.next())
    for _ in range(5):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(asyncio.all_tasks()) == before
    assert not hive.agreement.has_listeners()


async def test_a_negative_offset_is_refused(hive: Hive, ann: SessionRecord) -> None:
    with pytest.raises(HiveError) as caught:
        await Watcher(hive, ann, -1).next()
    assert caught.value.code is Code.INVALID_ARGUMENT
