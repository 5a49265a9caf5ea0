"""A daemon that dies at once leaves nothing running for long, and its next life removes the rest."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import docker
import psutil

from hivenode.worker.cgroups import Cgroups, GroupLimits
from hivenode.worker.executors.docker import DockerExecutor
from hivenode.worker.executors.sandbox import SandboxExecutor
from tests.support.parts import require

DEADLINE_S = 30.0
PROGRAM = Path(__file__).parents[2] / "support/programs/run_forever.py"
ROOT = Path(__file__).parents[3]


async def _kill_midway(kind: str, cache: Path, name: str, folder: Path, docker_host: str) -> list[psutil.Process]:
    """Starts a task in a process of its own and kills that with SIGKILL; what it had started below itself."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), kind, str(cache), name, str(folder), docker_host),
        stdout=asyncio.subprocess.PIPE,
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    said = (await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)).decode().strip()
    require(said == "up", f"a working {kind} ({said})")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    await asyncio.wait_for(process.wait(), DEADLINE_S)
    return children


async def test_sandbox_dies_with_its_daemon(cache: Path, tmp_path: Path) -> None:
    name = f"left-{os.getpid()}"
    children = await _kill_midway("sandbox", cache, name, tmp_path, "")
    assert children
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=DEADLINE_S)
    assert alive == []
    executor = SandboxExecutor(cache, name)
    await executor.probe()
    await executor.clean_leftovers()
    await executor.aclose()
    assert _groups(name) == []


async def test_containers_of_an_earlier_life_are_removed(cache: Path, tmp_path: Path, docker_host: str) -> None:
    name = f"left-{os.getpid()}"
    await _kill_midway("docker", cache, name, tmp_path, docker_host)
    client = docker.APIClient(base_url=docker_host)
    try:
        labelled = {"label": f"hivenode.node={name}"}
        assert len(client.containers(all=True, filters=labelled)) == 1
        executor = DockerExecutor(cache, name, docker_host)
        assert (await executor.probe()).usable
        await executor.clean_leftovers()
        await executor.aclose()
        assert client.containers(all=True, filters=labelled) == []
    finally:
        client.close()


def _groups(name: str) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"*/hivenode-{name}"))


def test_the_late_end_of_an_earlier_life_takes_no_control_groups_from_this_one() -> None:
    """A life that another one follows is not waited for without bounds."""
    name = f"late-{os.getpid()}"
    earlier, this = Cgroups(name), Cgroups(name)
    require(bool(this.controllers), "control groups that it lets this process make")
    earlier.close()
    this.clean_leftovers()
    earlier.close()
    group = this.create("run", GroupLimits(memory_bytes=64 << 20, pids_max=16, cpus=1.0))
    assert all(file.exists() for file in group.join_files())
    group.remove()
    this.close()
