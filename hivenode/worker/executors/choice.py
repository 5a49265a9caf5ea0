"""Which executor this machine uses: Docker where an engine answers, else the sandbox, else none, and in words why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path

from hivenode.worker.executors.process import ProcessExecutor
from hivenode.worker.executors.protocol import DOCKER_DISABLED, DOCKER_ENABLED, Executor
from hivenode.worker.executors.sandbox import SandboxExecutor


@unique
class ExecutorChoice(Enum):
    """What the owner wants. `AUTO` never runs a task without isolation."""

    AUTO = "auto"
    DOCKER = "docker"
    SANDBOX = "sandbox"
    PROCESS = "process"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings:
    """What the choice rests on.

    Args:
        choice: of the owner.
        cache: a folder for the root file system and the sandbox's program, some 60 MB.
        name: of this daemon, unique on the machine: letters, digits and dashes.
        docker_host: the engine's URL, or None for `DOCKER_HOST` and the default socket.
    """

    choice: ExecutorChoice
    cache: Path
    name: str
    docker_host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenExecutor:
    """`executor` is None when this machine takes no tasks; `note` then says why, and otherwise what is to be known."""

    executor: Executor | None
    note: str
    docker_status: str


async def choose_executor(settings: ExecutorSettings) -> ChosenExecutor:
    """Tries what the settings allow, best first, each by a real run; what is not chosen is closed again."""
    settings.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    notes: list[str] = []
    docker_status = DOCKER_DISABLED
    for executor in _candidates(settings):
        readiness = await executor.probe()
        if readiness.docker_status == DOCKER_ENABLED:
            docker_status = DOCKER_ENABLED
        if readiness.usable:
            return ChosenExecutor(executor=executor, note=readiness.note, docker_status=docker_status)
        notes.append(readiness.note)
        await executor.aclose()
    note = " ".join(notes) or "This machine takes no tasks, because executor = 'none' says so."
    return ChosenExecutor(executor=None, note=note, docker_status=docker_status)


def _candidates(settings: ExecutorSettings) -> list[Executor]:
    wanted: list[Executor] = []
    if settings.choice in (ExecutorChoice.AUTO, ExecutorChoice.DOCKER):
        # Its library takes a tenth of the daemon's start, which who wants no Docker is spared.
        from hivenode.worker.executors.docker import DockerExecutor

        wanted.append(DockerExecutor(settings.cache, settings.name, settings.docker_host))
    if settings.choice in (ExecutorChoice.AUTO, ExecutorChoice.SANDBOX):
        wanted.append(SandboxExecutor(settings.cache, settings.name))
    if settings.choice is ExecutorChoice.PROCESS:
        wanted.append(ProcessExecutor())
    return wanted
