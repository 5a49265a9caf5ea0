"""What a run in the sandbox gives back when the machine has nothing left to give."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from hivenode.pool.records import AttemptOutcome
from hivenode.worker.cgroups import Cgroups
from hivenode.worker.executors.protocol import ExecutionLimits, ExecutionRequest
from hivenode.worker.executors.sandbox import SandboxExecutor
from hivenode.worker.task_log import TaskLog


async def test_a_run_for_which_there_is_one_pipe_left_and_no_second_gives_the_first_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that is out of files has two fewer after each task."""
    mounts = tmp_path / "mounts"
    mounts.touch()
    executor = SandboxExecutor(tmp_path, "pipes")
    executor._root, executor._cgroups = tmp_path, Cgroups("pipes", mounts, mounts)
    folder = tmp_path / "task"
    folder.mkdir()
    log = TaskLog(tmp_path / "log", 1_024)
    limits = ExecutionLimits(
        memory_bytes=64 << 20, cpus=1.0, pids_max=8, disk_bytes=1 << 20, tmp_bytes=1 << 20, time_limit_s=1.0
    )
    request = ExecutionRequest(
        name="run", folder=folder, entry="main.py", packages=None, limits=limits, log=log, stop=asyncio.Event()
    )
    pipe, left = os.pipe, iter([True])

    def last_pipe() -> tuple[int, int]:
        if next(left, False):
            return pipe()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "pipe", last_pipe)
    result = await executor.run(request)
    monkeypatch.undo()
    assert result.outcome is AttemptOutcome.WORKER_FAULT
    assert next(left, None) is None
    assert set(os.listdir("/proc/self/fd")) == before
    log.close()
