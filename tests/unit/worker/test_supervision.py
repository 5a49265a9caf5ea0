"""What a task is ended for, how long its end is waited for, and by whom."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from hivenode.pool.records import AttemptOutcome
from hivenode.worker.executors import supervision
from hivenode.worker.executors.protocol import ExecutionLimits, ExecutionRequest
from hivenode.worker.executors.supervision import DISK_INTERVAL_S, first_cause, within
from hivenode.worker.task_log import TaskLog
from tests.support import virtual_loop
from tests.support.parts import no_files_left

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


async def test_a_task_is_not_ended_for_its_disk_when_the_machine_is_out_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = TaskLog(tmp_path / "log", 1_024)
    limits = ExecutionLimits(
        memory_bytes=1 << 20,
        cpus=1.0,
        pids_max=1,
        disk_bytes=1 << 20,
        tmp_bytes=1 << 20,
        time_limit_s=2 * DISK_INTERVAL_S,
    )
    request = ExecutionRequest(
        name="run", folder=tmp_path, entry="main.py", packages=None, limits=limits, log=log, stop=asyncio.Event()
    )
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with no_files_left():
        assert await first_cause(ended, request) is AttemptOutcome.TIMED_OUT
    patient = replace(request, limits=replace(limits, time_limit_s=DEADLINE_S))
    with monkeypatch.context() as patch, no_files_left():
        patch.setattr(supervision, "DISK_INTERVAL_S", 0.0)
        # It may be the task's own doing, and its folder would have no bound.
        assert await first_cause(ended, patient) is AttemptOutcome.WORKER_FAULT
        ended_by_itself = await supervision.judge(patient, AttemptOutcome.EXITED, 0, memory_exceeded=False)
    ended_for_it = await supervision.judge(patient, AttemptOutcome.WORKER_FAULT, None, memory_exceeded=False)
    assert ended_by_itself == ended_for_it
    assert ended_for_it.outcome is AttemptOutcome.WORKER_FAULT
    (tmp_path / "much").write_bytes(bytes(2 << 20))
    assert await first_cause(ended, patient) is AttemptOutcome.DISK_EXCEEDED
    log.close()


def test_what_is_not_done_in_time_goes_on() -> None:
    async def main() -> None:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        assert not await within(ended, DEADLINE_S)
        assert not ended.cancelled()

    virtual_loop.run(main())
