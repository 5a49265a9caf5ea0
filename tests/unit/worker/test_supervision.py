"""How long a task's end is waited for, and by whom."""

from __future__ import annotations

import asyncio
from itertools import count

from hivenode.worker.executors.supervision import within
from tests.support import virtual_loop

DEADLINE_S = 60.0


def test_who_is_told_to_go_in_the_moment_when_the_task_ends_goes() -> None:
    """Else the daemon's end waits for the result to be packed, and copied to another machine."""

    async def main() -> None:
        for steps in count():
            ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            waiting = asyncio.create_task(within(ended, DEADLINE_S))
            await asyncio.sleep(0)
            ended.set_result(0)
            for _ in range(steps):
                await asyncio.sleep(0)
            if not waiting.cancel():
                assert await waiting
                break
            await asyncio.wait({waiting})
            assert waiting.cancelled(), f"after {steps} turns of the loop"
        assert steps > 1  # Else it was never told between the end and the going on.

    virtual_loop.run(main())


def test_what_is_not_done_in_time_goes_on() -> None:
    async def main() -> None:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        assert not await within(ended, DEADLINE_S)
        assert not ended.cancelled()

    virtual_loop.run(main())
