"""What an executor is: the one interface between the worker's agent and whatever runs a task.

A new executor is one class with these five members, one line in `choice.py`, and its name in the shared tests.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from hivenode.pool.records import AttemptOutcome
from hivenode.worker.task_log import TaskLog

DOCKER_ENABLED: Final = "enabled"
"""The word of the API document's own example."""
DOCKER_DISABLED: Final = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionLimits:
    """What a task may use. Every executor that isolates keeps all of them.

    Args:
        memory_bytes: of all its processes together.
        cpus: cores at full use.
        pids_max: processes and threads at once.
        disk_bytes: what its working folder may hold.
        tmp_bytes: its private `/tmp`, which lies in memory and counts there.
        time_limit_s: wall time from the start.
    """

    memory_bytes: int
    cpus: float
    pids_max: int
    disk_bytes: int
    tmp_bytes: int
    time_limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRequest:
    """One run of one task.

    Args:
        name: unique on this machine; letters, digits and dashes.
        folder: the unpacked task; the executor gives it to the user that the task runs as.
        entry: the script, relative to `folder`.
        packages: installed requirements, mounted read-only, or None.
        log: takes stdout and stderr in the order written; the executor appends, the caller closes.
        stop: once set, the task is ended.
    """

    name: str
    folder: Path
    entry: str
    packages: Path | None
    limits: ExecutionLimits
    log: TaskLog
    stop: asyncio.Event


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """How the run ended. All its processes are dead and all that they wrote is in the log.

    `exit_code` is 128 + the signal's number for a program that a signal ended.
    """

    outcome: AttemptOutcome
    exit_code: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorReadiness:
    """What a probe found. `note` is one sentence that a person can act on; `docker_status` goes to the node list."""

    usable: bool
    note: str
    docker_status: str


class Executor(Protocol):
    @property
    def name(self) -> str:
        """`docker`, `sandbox` or `process`."""
        ...

    async def probe(self) -> ExecutorReadiness:
        """Makes ready whatever a run needs and tries one for real. Never raises for what the machine lacks."""
        ...

    async def run(self, request: ExecutionRequest) -> ExecutionResult:
        """Runs a task to its end. A failure of this machine is an outcome too (WORKER_FAULT); cancelling kills the task."""
        ...

    async def clean_leftovers(self) -> None:
        """Ends and removes what an earlier life of this daemon left running."""
        ...

    async def aclose(self) -> None: ...
