"""Tasks as plain processes of the daemon's own user: NO isolation. Only by explicit word (`executor = "process"`), for machines
whose owner trusts every user of the hive, or that run nothing but hivenode.

Kept all the same: the log, the time limit, stop, the working folder's bound, and resource limits of single processes. Not
kept: the network, other files of the machine, memory and processes of the task as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import Final

from hivenode.pool.records import AttemptOutcome
from hivenode.worker.environments import task_environment
from hivenode.worker.executors.protocol import ExecutionRequest, ExecutionResult, ExecutorReadiness
from hivenode.worker.executors.supervision import STOP_GRACE_S, OutputPipe, fault, first_cause, judge, within

NOTE: Final = "Tasks run without isolation, because executor = 'process' says so."


class ProcessExecutor:
    """Runs tasks as child processes in a session of their own."""

    name: Final = "process"

    async def probe(self) -> ExecutorReadiness:
        return ExecutorReadiness(usable=True, note=NOTE, docker_status="")

    async def run(self, request: ExecutionRequest) -> ExecutionResult:
        output = OutputPipe(request.log)
        environment = task_environment(packages=False) | {"PATH": os.environ.get("PATH", os.defpath)}
        if request.packages is not None:
            environment["PYTHONPATH"] = str(request.packages)
        try:
            process = await asyncio.create_subprocess_exec(
                *_limits(request),
                sys.executable,
                request.entry,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.writing,
                stderr=output.writing,
                cwd=request.folder,
                env=environment,
                start_new_session=True,
            )
            output.started()
            ended = asyncio.ensure_future(process.wait())
            try:
                cause = await first_cause(ended, request)
                if cause is not AttemptOutcome.EXITED:
                    _signal_session(process.pid, signal.SIGTERM)
                    await within(ended, STOP_GRACE_S)
            finally:
                # Also what it left behind in its session; a child that made a session of its own escapes.
                _signal_session(process.pid, signal.SIGKILL)
                await within(ended, STOP_GRACE_S)
            await output.drain()
            code = process.returncode
            exit_code = code if code is None or code >= 0 else 128 - code
            return await judge(request, cause, exit_code, memory_exceeded=False)
        except OSError as error:
            return fault(f"The program could not be started: {error.strerror or error}.")
        finally:
            output.close()

    async def clean_leftovers(self) -> None:
        """Nothing tells a leftover of an earlier life from any other process of this user."""

    async def aclose(self) -> None:
        """Runs end with their own coroutines."""


def _limits(request: ExecutionRequest) -> list[str]:
    limits = request.limits
    return ["prlimit", "--core=0", f"--fsize={limits.disk_bytes}", f"--as={limits.memory_bytes}", "--"]


def _signal_session(session: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, number)
