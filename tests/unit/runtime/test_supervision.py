"""The end of a daemon: parts that are slow, and steps that fail, keep nothing else from ending."""

from __future__ import annotations

import asyncio

from hivenode.runtime.supervision import STEP_S_MIN, Ending, ExitCode, Supervisor

DEADLINE_S = 10.0
SHORT_S = 0.05


class _Slow:
    """A part that, once cancelled, takes until it is let go."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.cancels = 0
        self.let_go = asyncio.Event()
        self.ended = asyncio.Event()

    async def run(self) -> None:
        try:
            self.running.set()
            await asyncio.Event().wait()
        finally:
            while not self.let_go.is_set():
                try:
                    await self.let_go.wait()
                except asyncio.CancelledError:
                    self.cancels += 1
            self.ended.set()


async def _begun(supervisor: Supervisor) -> _Slow:
    part = _Slow()
    supervisor.run(part.run(), "slow")
    async with asyncio.timeout(DEADLINE_S):
        await part.running.wait()
    return part


async def test_a_part_whose_end_was_not_waited_for_is_awaited_with_the_rest() -> None:
    supervisor = Supervisor()
    part = await _begun(supervisor)
    assert not await Ending().step("slow", supervisor.cancel("slow"), SHORT_S)
    ending = asyncio.create_task(supervisor.cancel_all(DEADLINE_S))
    assert not (await asyncio.wait({ending}, timeout=SHORT_S))[0]
    part.let_go.set()
    async with asyncio.timeout(DEADLINE_S):
        await ending
    assert part.ended.is_set()
    assert part.cancels == 0  # It was told once: a second word would break off its own tidying.


async def test_parts_that_do_not_end_are_waited_for_no_longer_than_the_deadline() -> None:
    supervisor = Supervisor()
    part = await _begun(supervisor)
    async with asyncio.timeout(DEADLINE_S / 2):
        await supervisor.cancel_all(SHORT_S)
    assert not part.ended.is_set()
    part.let_go.set()
    async with asyncio.timeout(DEADLINE_S):
        await part.ended.wait()


async def test_a_step_that_fails_or_hangs_keeps_no_later_step_from_being_made() -> None:
    made: list[str] = []

    async def failing() -> None:
        made.append("failing")
        raise OSError("the disk refuses")

    async def good() -> None:
        made.append("good")

    ending, slow = Ending(), _Slow()
    assert not await ending.step("tasks", failing(), DEADLINE_S)
    assert not await ending.step("peers", slow.run(), SHORT_S)
    # Its time is over already, and still it gets a moment.
    assert await ending.step("writer", good(), 0.0)
    assert made == ["failing", "good"]
    slow.let_go.set()
    async with asyncio.timeout(DEADLINE_S):
        await slow.ended.wait()


async def test_time_that_a_step_did_not_need_is_left_to_the_next() -> None:
    ending = Ending()

    assert DEADLINE_S - 1.0 < ending.left_s(DEADLINE_S) <= DEADLINE_S
    assert ending.left_s(0.0) == STEP_S_MIN


async def test_a_part_that_ends_as_if_it_were_cancelled_ends_the_daemon() -> None:
    """A library may raise it where nobody asked for the end; the daemon would live on without the part."""

    async def broken() -> None:
        raise asyncio.CancelledError

    supervisor = Supervisor()
    supervisor.run(broken(), "worker")
    async with asyncio.timeout(DEADLINE_S):
        assert await supervisor.wait() is ExitCode.FAILED


async def test_a_part_that_was_told_to_end_does_not_end_the_daemon_by_it() -> None:
    supervisor = Supervisor()
    part = await _begun(supervisor)
    part.let_go.set()
    await supervisor.cancel("slow")
    supervisor.end(ExitCode.STOPPED)
    assert await supervisor.wait() is ExitCode.STOPPED
