"""Tasks in Docker containers, on whatever engine `DOCKER_HOST` or the default socket leads to.

Theory of operation. The client library blocks, so every call runs in a thread of this executor's own two pools: a small one for
short calls, and one with a thread for each running task, which reads the container's output to its end, then waits for the
container, then looks at it once. A run is five calls: create, attach, start, wait, inspect. Removing the container comes
after the result and is nobody's wait.

The image is this machine's root file system (`environments.py`), imported once and named by its version; nothing is pulled.
Containers bear the node's name in a label, by which a later life of the daemon finds and removes what this one left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import docker
from docker.errors import DockerException, ImageNotFound
from docker.types import LogConfig, Mount, Ulimit
from docker.utils.socket import SocketError, frames_iter
from requests.exceptions import RequestException

from hivenode.errors import HiveError
from hivenode.pool.records import AttemptOutcome
from hivenode.worker.environments import (
    PACKAGES_FOLDER,
    PYTHON_IN_ROOT,
    TASK_FOLDER,
    TASK_USER_ID,
    RootFileSystem,
    task_environment,
)
from hivenode.worker.executors.protocol import (
    DOCKER_DISABLED,
    DOCKER_ENABLED,
    ExecutionRequest,
    ExecutionResult,
    ExecutorReadiness,
)
from hivenode.worker.executors.supervision import OUTPUT_DRAIN_S, STOP_GRACE_S, fault, first_cause, judge, within
from hivenode.worker.executors.trial import try_executor
from hivenode.worker.task_log import TaskLog
from hivenode.worker.workspace import give_tree

RUNS_MAX: Final = 128
"""Tasks at once, each with a reading thread; more than any slots setting."""

_IMAGE: Final = "hivenode-task"
_NODE_LABEL: Final = "hivenode.node"
_ATTEMPT_LABEL: Final = "hivenode.attempt"
_CALL_THREADS: Final = 8
_CALL_DEADLINE_S: Final = 60
"""Of one call on the socket: an import of 40 MB on a slow disk takes seconds, all others milliseconds."""
_DEFAULT_SOCKET: Final = "unix:///var/run/docker.sock"
_ANSWER_DEADLINE_S: Final = 3
"""An engine that does not answer a ping in 3 s is no engine to run tasks on."""
_END_DEADLINE_S: Final = 10.0
_OPEN_FILES_MAX: Final = 1_024
_SHARED_MEMORY_BYTES: Final = 16 << 20
_OVERHEAD_PROCESSES: Final = 2
"""The container's init process, and one to spare."""
_TROUBLE: Final = (DockerException, RequestException, OSError, SocketError)
_LAUNCH: Final = 'exec "$@" 2>&1'
"""One stream for both, or the engine would carry them side by side and lose their order."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    exit_code: int
    memory_exceeded: bool


class DockerExecutor:
    """Runs tasks in containers.

    Args:
        cache: a folder of this daemon for the root file system.
        name: of this daemon; labels its containers.
        docker_host: the engine's URL, or None for `DOCKER_HOST` and the default socket.
    """

    name: Final = "docker"

    def __init__(self, cache: Path, name: str, docker_host: str | None) -> None:
        self._cache = cache
        self._name = name
        self._docker_host = docker_host or os.environ.get("DOCKER_HOST") or None
        self._calls = ThreadPoolExecutor(_CALL_THREADS, "docker-call")
        self._reads = ThreadPoolExecutor(RUNS_MAX, "docker-run")
        self._client: docker.APIClient | None = None
        self._image = ""
        self._init = True
        self._running = 0
        self._removals: set[asyncio.Task[None]] = set()

    async def probe(self) -> ExecutorReadiness:
        try:
            self._client = await self._call(self._connect)
        except _TROUBLE:
            where = self._docker_host or "the default socket"
            note = f"No Docker engine answers at {where}."
            return ExecutorReadiness(usable=False, note=note, docker_status=DOCKER_DISABLED)
        try:
            self._image = await self._call(self._make_image)
            trouble = await self._try()
        except (HiveError, *_TROUBLE) as error:
            trouble = _said(error)
        if trouble:
            note = f"The Docker engine answers, but a trial container did not run ({trouble})."
            return ExecutorReadiness(usable=False, note=note, docker_status=DOCKER_DISABLED)
        return ExecutorReadiness(usable=True, note="", docker_status=DOCKER_ENABLED)

    async def run(self, request: ExecutionRequest) -> ExecutionResult:
        client = self._client
        if client is None or not self._image:
            return fault("No Docker engine was made ready.")
        if self._running >= RUNS_MAX:
            return fault("Too many tasks run at once.")
        self._running += 1
        container = ""
        try:
            creating = asyncio.ensure_future(self._call(lambda: self._create(client, request)))
            try:
                container = await asyncio.shield(creating)
            except asyncio.CancelledError:
                container = await creating  # Bounded by the call's own deadline; without the id nobody could remove it.
                raise
            return await self._supervise(client, container, request)
        except _TROUBLE as error:
            return fault(f"The Docker engine failed: {_said(error)}")
        finally:
            self._running -= 1
            if container:
                self._remove_later(client, container)

    async def clean_leftovers(self) -> None:
        client = self._client
        if client is None:
            return
        with contextlib.suppress(*_TROUBLE):
            found = await self._call(
                lambda: client.containers(all=True, quiet=True, filters={"label": f"{_NODE_LABEL}={self._name}"})
            )
            await asyncio.gather(*(self._remove(client, each["Id"]) for each in found))

    async def aclose(self) -> None:
        if self._removals:
            await asyncio.wait(set(self._removals), timeout=_END_DEADLINE_S)
        if self._client is not None:
            self._client.close()
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._reads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._calls, function)

    def _connect(self) -> docker.APIClient:
        _check_socket(self._docker_host)
        quick = docker.APIClient(base_url=self._docker_host, timeout=_ANSWER_DEADLINE_S)
        try:
            quick.ping()
            version = quick.api_version
        finally:
            quick.close()
        return docker.APIClient(
            base_url=self._docker_host,
            version=version,
            timeout=_CALL_DEADLINE_S,
            max_pool_size=RUNS_MAX * 2 + _CALL_THREADS,
        )

    def _make_image(self) -> str:
        """The image's name; imports it when the engine has none of this version."""
        system = RootFileSystem(self._cache)
        name = f"{_IMAGE}:{system.version}"
        client = self._client
        if client is None:
            raise OSError("no engine was found")
        try:
            client.inspect_image(name)  # type: ignore[no-untyped-call]
        except ImageNotFound:
            system.build()
            with (
                contextlib.closing(system),
                tempfile.NamedTemporaryFile(dir=self._cache, prefix="image-", suffix=".tar") as file,
            ):
                system.write_tar(file)
                file.flush()
                client.import_image_from_file(
                    file.name, repository=_IMAGE, tag=system.version, changes=["LABEL hivenode=1"]
                )
        return name

    async def _try(self) -> str:
        """The trial run; once more without an init process where the engine has none."""
        trouble = await try_executor(self, self._cache)
        if trouble and "docker-init" in trouble:
            self._init = False
            trouble = await try_executor(self, self._cache)
        return trouble

    def _create(self, client: docker.APIClient, request: ExecutionRequest) -> str:
        user, group = (TASK_USER_ID, TASK_USER_ID) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
        if os.geteuid() == 0:
            give_tree(request.folder, user, group)
        limits = request.limits
        mounts = [Mount(TASK_FOLDER, str(request.folder), type="bind")]
        if request.packages is not None:
            mounts.append(Mount(PACKAGES_FOLDER, str(request.packages), type="bind", read_only=True))
        host = client.create_host_config(
            mounts=mounts,
            network_mode="none",
            read_only=True,
            tmpfs={"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={limits.tmp_bytes}"},
            shm_size=_SHARED_MEMORY_BYTES,
            init=self._init,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mem_limit=limits.memory_bytes,
            memswap_limit=limits.memory_bytes,
            nano_cpus=int(min(limits.cpus, os.cpu_count() or 1) * 1_000_000_000),
            pids_limit=limits.pids_max + _OVERHEAD_PROCESSES,
            ulimits=[
                Ulimit(name="core", soft=0, hard=0),
                Ulimit(name="nofile", soft=_OPEN_FILES_MAX, hard=_OPEN_FILES_MAX),
                Ulimit(name="fsize", soft=limits.disk_bytes, hard=limits.disk_bytes),
            ],
            log_config=LogConfig(type="none"),  # The engine keeps no second copy of what a task prints.
        )
        created = client.create_container(
            self._image,
            ["/bin/sh", "-c", _LAUNCH, "task", PYTHON_IN_ROOT, request.entry],
            hostname="task",
            user=f"{user}:{group}",
            environment=task_environment(packages=request.packages is not None),
            working_dir=TASK_FOLDER,
            labels={_NODE_LABEL: self._name, _ATTEMPT_LABEL: request.name},
            host_config=host,
        )
        return str(created["Id"])

    async def _supervise(self, client: docker.APIClient, container: str, request: ExecutionRequest) -> ExecutionResult:
        loop = asyncio.get_running_loop()
        output = await self._call(lambda: client.attach_socket(container, {"stdout": 1, "stderr": 1, "stream": 1}))
        ended: asyncio.Future[_Ended] | None = None
        try:
            await self._call(lambda: client.start(container))
            ended = loop.run_in_executor(self._reads, _follow, client, container, output, request)
            cause = await first_cause(ended, request)
            if cause is not AttemptOutcome.EXITED:
                await self._kill(client, container, "SIGTERM")
                await within(ended, STOP_GRACE_S)
            if not ended.done():
                await self._kill(client, container, "SIGKILL")
            if not await within(ended, _END_DEADLINE_S):
                return fault("The container did not end although it was killed.")
            result = ended.result()
            return await judge(request, cause, result.exit_code, memory_exceeded=result.memory_exceeded)
        finally:
            if ended is None or not ended.done():
                # Cancelled, or it would not start: the reading thread ends with the container.
                await asyncio.shield(self._kill(client, container, "SIGKILL"))
            if ended is not None:
                await asyncio.wait({ended}, timeout=OUTPUT_DRAIN_S)
                if ended.done() and not ended.cancelled():
                    ended.exception()  # Looked at, whoever else raises here.
            _close_output(output)

    async def _kill(self, client: docker.APIClient, container: str, signal_name: str) -> None:
        with contextlib.suppress(*_TROUBLE):  # It may have ended by itself in this moment.
            await self._call(lambda: client.kill(container, signal_name))

    def _remove_later(self, client: docker.APIClient, container: str) -> None:
        task = asyncio.ensure_future(self._remove(client, container))
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    async def _remove(self, client: docker.APIClient, container: str) -> None:
        with contextlib.suppress(*_TROUBLE):  # What stays is found by its label at the next start.
            await self._call(lambda: client.remove_container(container, v=True, force=True))


def _follow(client: docker.APIClient, container: str, output: Any, request: ExecutionRequest) -> _Ended:
    """The life of a container, in a thread: all of its output, then its end."""
    _copy_output(output, request.log)
    client.wait(container, timeout=int(request.limits.time_limit_s) + _CALL_DEADLINE_S)
    state = client.inspect_container(container)["State"]
    if state["ExitCode"] == 128 and state.get("Error"):
        raise DockerException(str(state["Error"]))
    return _Ended(exit_code=int(state["ExitCode"]), memory_exceeded=bool(state["OOMKilled"]))


def _copy_output(output: Any, log: TaskLog) -> None:
    for _, data in frames_iter(output, tty=False):  # type: ignore[no-untyped-call]
        log.append(data)


def _close_output(output: Any) -> None:
    """Closes the stream and the socket behind it, which the library took from its pool and forgot."""
    connection = getattr(output, "_sock", None)
    output.close()
    if connection is not None:
        connection.close()


def _check_socket(url: str | None) -> None:
    """Knocks at a local engine's socket; cheaper than the library's own way, which leaves a socket open when it fails."""
    place = (url or _DEFAULT_SOCKET).removeprefix("http+")
    if place.startswith("unix:"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(_ANSWER_DEADLINE_S)
            knock.connect("/" + place.removeprefix("unix:").lstrip("/"))


def _said(error: Exception) -> str:
    """An error as a bounded piece of a sentence."""
    explanation = getattr(error, "explanation", None)
    return str(explanation or error).strip().replace("\n", " ")[:300].rstrip(".")
