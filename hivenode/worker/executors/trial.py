"""The trial of an executor: a real run of a program that does next to nothing. Whether a machine can, only trying tells."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from pathlib import Path
from typing import Final

from hivenode.pool.records import AttemptOutcome
from hivenode.worker.executors.protocol import ExecutionLimits, ExecutionRequest, Executor
from hivenode.worker.task_log import TaskLog
from hivenode.worker.workspace import remove_tree

_PROGRAM: Final = "import json, sys\nopen('made', 'w').close()\nprint('ready')\n"
_EXPECTED: Final = b"ready\n"
_LIMITS: Final = ExecutionLimits(
    memory_bytes=256 << 20, cpus=1.0, pids_max=32, disk_bytes=1 << 20, tmp_bytes=1 << 20, time_limit_s=20.0
)
"""20 s: the first container on a cold disk takes some; a sandbox that works takes 50 ms."""


async def try_executor(executor: Executor, folder: Path) -> str:
    """Runs the trial program in a folder of its own below `folder`; returns what was wrong, or an empty text."""
    place = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="trial-", dir=folder))
    try:
        task = place / "task"
        task.mkdir()
        (task / "main.py").write_text(_PROGRAM)
        os.chmod(task, 0o755)
        os.chmod(task / "main.py", 0o644)
        log = TaskLog(place / "log", 65_536)
        try:
            result = await executor.run(
                ExecutionRequest(
                    name=f"trial-{secrets.token_hex(4)}",
                    folder=task,
                    entry="main.py",
                    packages=None,
                    limits=_LIMITS,
                    log=log,
                    stop=asyncio.Event(),
                )
            )
        finally:
            log.close()
        output = log.path.read_bytes()
        if result.outcome is AttemptOutcome.EXITED and result.exit_code == 0 and output == _EXPECTED:
            return ""
        said = output.decode("utf-8", "replace").strip().split("\n")[-1][:200]
        return (result.reason or said or "a trial run printed nothing").rstrip(".")
    finally:
        await asyncio.to_thread(remove_tree, place)
