"""Runs a task that never ends in an executor, so that a test can kill this process as a machine's fault would.

Usage: run_forever.py KIND CACHE NAME FOLDER DOCKER_HOST; prints `up` once the task has said so.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from hivenode.worker.executors.docker import DockerExecutor
from hivenode.worker.executors.protocol import ExecutionLimits, ExecutionRequest, Executor
from hivenode.worker.executors.sandbox import SandboxExecutor
from hivenode.worker.task_log import TaskLog


async def main(kind: str, cache: Path, name: str, folder: Path, docker_host: str) -> None:
    executor: Executor = DockerExecutor(cache, name, docker_host) if kind == "docker" else SandboxExecutor(cache, name)
    readiness = await executor.probe()
    if not readiness.usable:
        print(readiness.note, flush=True)
        return
    task = folder / "task"
    task.mkdir()
    (task / "main.py").write_text("print('up')\nimport time\ntime.sleep(4242)\n")
    log = TaskLog(folder / "log", 1 << 20)
    limits = ExecutionLimits(
        memory_bytes=128 << 20, cpus=1.0, pids_max=16, disk_bytes=1 << 20, tmp_bytes=1 << 20, time_limit_s=4242.0
    )
    request = ExecutionRequest(
        name="forever",
        folder=task,
        entry="main.py",
        packages=None,
        limits=limits,
        log=log,
        stop=asyncio.Event(),
    )
    running = asyncio.create_task(executor.run(request))
    async for _ in log.read(0, follow=True):
        print("up", flush=True)
        break
    await running


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5]))
