"""Control groups for sandboxed tasks: memory, processes and cpu of a whole task, where this machine lets the daemon have them.

Rules
- Both kinds are served: version 2, one tree for all controllers, and version 1, a tree for each. A machine may mount both.
- A group is used only for what was really written to it; what no group holds, resource limits of single processes must.
- A task joins its groups before its program starts, so that nothing of it is ever outside.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONTROLLERS: Final = ("memory", "pids", "cpu")
_PERIOD_US: Final = 100_000
"""The kernel's own default period for cpu quotas."""
_QUOTA_US_MIN: Final = 1_000
_REMOVAL_ATTEMPTS: Final = 40
_REMOVAL_PAUSE_S: Final = 0.005
"""A group can be removed when the kernel has buried its last process, mostly at once; 0.2 s in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    memory_bytes: int
    pids_max: int
    cpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Home:
    """A folder under which task groups are made. In version 1 there is one for each controller."""

    version: int
    folder: Path
    controllers: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGroup:
    """The groups of one run."""

    homes: tuple[_Home, ...]
    name: str

    def join_files(self) -> tuple[Path, ...]:
        """Files to which a process writes its id to enter."""
        return tuple(home.folder / self.name / "cgroup.procs" for home in self.homes)

    def memory_exceeded(self) -> bool:
        """Whether the kernel killed a process of the run for want of memory."""
        for home in self.homes:
            if "memory" in home.controllers:
                file = "memory.events" if home.version == 2 else "memory.oom_control"
                with contextlib.suppress(OSError):
                    return _field(home.folder / self.name / file, "oom_kill") > 0
        return False

    def remove(self) -> None:
        """Removes the groups of a run whose processes are dead. Blocking, at most 0.2 s for each."""
        for home in self.homes:
            _remove(home.folder / self.name)


class Cgroups:
    """Finds out at construction where groups can be made, by making some.

    Args:
        name: of this daemon, unique on the machine.
        mounts: the kernel's list of mounts (`/proc/self/mounts`).
        membership: the kernel's list of this process's groups (`/proc/self/cgroup`).
    """

    def __init__(
        self, name: str, mounts: Path = Path("/proc/self/mounts"), membership: Path = Path("/proc/self/cgroup")
    ) -> None:
        self._name = f"hivenode-{name}"
        found: list[_Home] = []
        with contextlib.suppress(OSError):
            found = _find_homes(self._name, mounts.read_text(), membership.read_text())
        self._homes: tuple[_Home, ...] = tuple(found)

    @property
    def controllers(self) -> frozenset[str]:
        """What groups made here really hold down."""
        return frozenset().union(*(home.controllers for home in self._homes))

    def create(self, name: str, limits: GroupLimits) -> TaskGroup:
        """Makes the groups of one run with their limits set. Raises OSError."""
        group = TaskGroup(homes=self._homes, name=name)
        try:
            for home in self._homes:
                folder = home.folder / name
                _make_home(home)
                folder.mkdir()
                for file, value in _settings(home, limits).items():
                    (folder / file).write_text(value)
                _limit_swap(folder, home, limits)
        except OSError:
            group.remove()
            raise
        return group

    def clean_leftovers(self) -> None:
        """Removes groups of runs that an earlier life of this daemon left, killing what is in them."""
        for home in self._homes:
            _make_home(home)
            for folder in home.folder.iterdir():
                if folder.is_dir():
                    _kill(folder)
                    _remove(folder)

    def close(self) -> None:
        for home in self._homes:
            _remove(home.folder)


def _make_home(home: _Home) -> None:
    """Makes it again, when a life of this daemon before this one ended late and took it away. Raises OSError."""
    if not home.folder.is_dir():
        home.folder.mkdir(exist_ok=True)
        if home.version == 2:
            _hand_down(home.folder)


def _find_homes(name: str, mounts: str, membership: str) -> list[_Home]:
    homes: list[_Home] = []
    wanted = set(CONTROLLERS)
    for line in mounts.splitlines():
        _, point, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            home = _version_2_home(Path(point), name, membership)
        elif kind == "cgroup":
            home = _version_1_home(Path(point), name, wanted & set(options.split(",")))
        else:
            continue
        if home is not None and home.controllers & wanted:
            wanted -= home.controllers
            homes.append(home)
    return homes


def _version_1_home(point: Path, name: str, controllers: set[str]) -> _Home | None:
    if not controllers:
        return None
    folder = point / name
    try:
        folder.mkdir(exist_ok=True)
        home = _Home(version=1, folder=folder, controllers=frozenset(controllers))
        _try(home)
    except OSError:
        return None
    return home


def _version_2_home(point: Path, name: str, membership: str) -> _Home | None:
    """Beside the daemon's own group, for a group that has processes can hand nothing down; else at the top."""
    own = next((line[3:] for line in membership.splitlines() if line.startswith("0::")), "/")
    beside = point / own.strip("/") if own.strip("/") else point
    for parent in dict.fromkeys((beside.parent if beside != point else point, point)):
        folder = parent / name
        try:
            _hand_down(parent)
            folder.mkdir(exist_ok=True)
            _hand_down(folder)
            offered = set((folder / "cgroup.subtree_control").read_text().split())
            home = _Home(version=2, folder=folder, controllers=frozenset(offered & set(CONTROLLERS)))
            if home.controllers:
                _try(home)
                return home
            folder.rmdir()
        except OSError:
            continue
    return None


def _hand_down(folder: Path) -> None:
    """Lets the groups below have what controllers there are; one that is refused does not keep back the others."""
    offered = set((folder / "cgroup.controllers").read_text().split())
    given = set((folder / "cgroup.subtree_control").read_text().split())
    for controller in sorted((offered & set(CONTROLLERS)) - given):
        with contextlib.suppress(OSError):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _try(home: _Home) -> None:
    """Makes a group and sets limits, because permissions alone do not tell. Raises OSError."""
    folder = home.folder / f"try-{os.getpid()}"
    folder.mkdir()
    try:
        for file, value in _settings(home, GroupLimits(memory_bytes=64 << 20, pids_max=16, cpus=1.0)).items():
            (folder / file).write_text(value)
    finally:
        folder.rmdir()


def _settings(home: _Home, limits: GroupLimits) -> Mapping[str, str]:
    quota = max(_QUOTA_US_MIN, int(limits.cpus * _PERIOD_US))
    settings: dict[str, str] = {}
    if "memory" in home.controllers:
        settings["memory.max" if home.version == 2 else "memory.limit_in_bytes"] = str(limits.memory_bytes)
    if "pids" in home.controllers:
        settings["pids.max"] = str(limits.pids_max)
    if "cpu" in home.controllers and home.version == 2:
        settings["cpu.max"] = f"{quota} {_PERIOD_US}"
    elif "cpu" in home.controllers:
        settings |= {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota)}
    return settings


def _limit_swap(folder: Path, home: _Home, limits: GroupLimits) -> None:
    """No swap, where the kernel counts it: a task over its memory is to be ended, not to slow the machine down."""
    if "memory" not in home.controllers:
        return
    file, value = (
        ("memory.swap.max", "0") if home.version == 2 else ("memory.memsw.limit_in_bytes", str(limits.memory_bytes))
    )
    with contextlib.suppress(OSError):
        (folder / file).write_text(value)


def _field(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _kill(folder: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "cgroup.procs").read_text().split():
            os.kill(int(line), 9)


def _remove(folder: Path) -> None:
    for attempt in range(_REMOVAL_ATTEMPTS):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if attempt + 1 < _REMOVAL_ATTEMPTS:
                time.sleep(_REMOVAL_PAUSE_S)
        else:
            return
