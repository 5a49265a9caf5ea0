"""Root file systems for tasks: a small one, built once from this machine's own Python, that holds nothing else of the machine.

Rules
- It is a copy, not a set of binds: the interpreter may lie where the task's user cannot go (a home folder), and a copy shows
  a task nothing of the machine but what was put there.
- It is named by a hash of what it is made of, built beside its place and renamed into it, so that a crash leaves nothing half
  and a newer Python gets a new one. The same tree serves the sandbox (bound read-only) and Docker (imported as an image).
- Daemons of one user share it: a tree that one of them uses is locked, and no newer one removes it.
- No site-packages: what a task needs beyond the standard library it names in its requirements.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from hivenode.errors import Code, HiveError

RECIPE_VERSION: Final = 1
"""Raised whenever the recipe below changes, so that trees of the old one are not used any more."""
PYTHON_IN_ROOT: Final = "/usr/local/bin/python3"
TASK_FOLDER: Final = "/task"
PACKAGES_FOLDER: Final = "/packages"
TASK_USER_ID: Final = 65534
"""`nobody`, as a task sees itself."""

_TOOL_DEADLINE_S: Final = 30.0
"""`ldd` over all extension modules takes half a second; a machine that needs 30 s is ill."""
_LEFT_OUT_FOLDERS: Final = frozenset(
    {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages"}
)
"""Test suites, and what needs a screen or installs software."""
_LEFT_OUT_MODULES: Final = re.compile(r"(_tkinter|_test\w*|_ctypes_test|_xx\w*|xx\w*)\.")
_LEFT_OUT_FILES: Final = re.compile(r"config-\d|.*\.opt-[12]\.pyc$")
"""Headers for building extensions, and byte code for `-O`."""
_EXTRA_LIBRARIES: Final = (
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
    "libresolv.so.2",
    "libnss_files.so.2",
    "libatomic.so.1",
)
"""What the manylinux rules let a wheel expect of a machine, where this one has it."""
_FOLDERS: Final = (
    "bin",
    "dev",
    "etc",
    "packages",
    "proc",
    "run",
    "sys",
    "task",
    "tmp",
    "usr/bin",
    "usr/local/bin",
    "var/tmp",
)
_FILES: Final = {
    "etc/passwd": f"root:x:0:0:root:/:/bin/sh\ntask:x:{TASK_USER_ID}:{TASK_USER_ID}:task:/task:/bin/sh\n",
    "etc/group": f"root:x:0:\ntask:x:{TASK_USER_ID}:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def task_environment(*, packages: bool) -> dict[str, str]:
    """The environment of every task, whatever runs it.

    Args:
        packages: whether installed requirements are mounted at `/packages`.
    """
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",  # Lines are to be read while the task runs, and none may die in a buffer.
        "PYTHONDONTWRITEBYTECODE": "1",  # Or every imported module of the task would be a new file of the result.
    }
    return environment | ({"PYTHONPATH": PACKAGES_FOLDER} if packages else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """Everything that a tree is made of."""

    interpreter: Path
    library: Path
    library_name: str
    shell: Path


class RootFileSystem:
    """The root file system for tasks on this machine.

    Args:
        cache: a folder of this daemon; trees lie below it in `root-<version>`.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._recipe = _find_recipe()
        self.version: Final = _version_of(self._recipe)
        self._held = -1

    @property
    def path(self) -> Path:
        """Where the tree is once `build` has returned."""
        return self._cache / f"root-{self.version}"

    def build(self) -> Path:
        """Builds the tree unless it is there (a second or two, blocking); removes those of other versions that nobody uses. No
        other daemon removes this one until `close`, or until this one ends.

        Raises:
            HiveError: INSUFFICIENT_RESOURCES when this machine lacks something that it is made of.
            OSError: the disk failed or is full.
        """
        while not self._hold():
            self._build()
        return self.path

    def close(self) -> None:
        """Lets others remove the tree. May be repeated."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def _hold(self) -> bool:
        """Whether the tree is there, and from now on kept."""
        self.close()
        try:
            self._held = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # A file system without locks: as good as it can be there.
                fcntl.flock(self._held, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(self._held), os.stat(self.path)):
                return True
        except FileNotFoundError:
            pass  # Also when it was taken away in this moment.
        self.close()
        return False

    def _build(self) -> None:
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        building = Path(tempfile.mkdtemp(prefix="building-", dir=self._cache))
        try:
            _fill(building, self._recipe)
            building.chmod(0o755)
            building.rename(self.path)
        except OSError:
            if not self.path.is_dir():  # Else another process of this daemon's data directory was faster.
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
        for old in self._cache.glob("root-*"):
            if old != self.path:
                _remove_unused(old)

    def write_tar(self, target: IO[bytes]) -> None:
        """Writes the built tree as an uncompressed tar, owned by root and without times, for `docker import`."""

        def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            return member

        with tarfile.open(fileobj=target, mode="w|") as archive:
            archive.add(self.path, arcname=".", filter=plain)


def _remove_unused(tree: Path) -> None:
    """Removes a tree that no daemon holds."""
    try:
        handle = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # Another one removed it, or will.
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        doomed = tree.with_name(f"root-removed-{secrets.token_hex(8)}")
        tree.rename(doomed)  # Before its content goes: who comes for it now finds none, and not half of it.
        shutil.rmtree(doomed, ignore_errors=True)
    except OSError:
        return  # It is held, or another one removes it.
    finally:
        os.close(handle)


def _find_recipe() -> _Recipe:
    stdlib = Path(sysconfig.get_path("stdlib"))
    base = getattr(sys, "_base_executable", "") or sys.executable
    shell = shutil.which("busybox") or shutil.which("sh") or "/bin/sh"
    return _Recipe(
        interpreter=Path(base).resolve(),
        library=stdlib.resolve(),
        library_name=f"{sys.platlibdir}/{stdlib.name}",
        shell=Path(shell).resolve(),
    )


def _version_of(recipe: _Recipe) -> str:
    """A hash over what tells one tree from another without reading 40 MB: versions, places, sizes and times."""
    seen: list[object] = [RECIPE_VERSION, sys.version, platform.machine(), platform.libc_ver(), recipe.library_name]
    for path in (recipe.interpreter, recipe.library / "os.py", recipe.library / "lib-dynload", recipe.shell):
        seen.append(str(path))
        if path.exists():
            status = path.stat()
            seen += [status.st_size, status.st_mtime_ns]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def _fill(root: Path, recipe: _Recipe) -> None:
    root.chmod(0o755)
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "var/tmp").chmod(0o1777)
    for name, text in _FILES.items():
        (root / name).write_text(text)
    library = root / "usr/local" / recipe.library_name
    shutil.copytree(recipe.library, library, ignore=_left_out, symlinks=False)
    python = root / PYTHON_IN_ROOT.lstrip("/")
    shutil.copy2(recipe.interpreter, python)
    python.chmod(0o755)
    for alias in ("python", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        if not (python.parent / alias).exists():
            (python.parent / alias).symlink_to(python.name)
    (root / "usr/bin/python3").symlink_to("../local/bin/python3")
    programs = [recipe.interpreter, *sorted((recipe.library / "lib-dynload").glob("*.so"))]
    _install_libraries(root, [p for p in programs if not _LEFT_OUT_MODULES.match(p.name)])
    _install_shell(root, recipe.shell)
    _open_modes(root)


def _left_out(folder: str, names: list[str]) -> set[str]:
    return {n for n in names if n in _LEFT_OUT_FOLDERS or _LEFT_OUT_MODULES.match(n) or _LEFT_OUT_FILES.match(n)}


def _install_libraries(root: Path, programs: Iterable[Path]) -> None:
    """Copies the shared libraries that `ldd` names: system ones to their own place, others beside the C library, where the
    loader looks without being told."""
    found = _shared_libraries(programs)
    system = next((p.parent for p in found if p.name.startswith(("libc.so", "libc.musl"))), None)
    if system is None:
        raise HiveError(
            Code.INSUFFICIENT_RESOURCES,
            "The shared libraries of this machine's Python cannot be found ('ldd' names none).",
        )
    found |= {system / name for name in _EXTRA_LIBRARIES if (system / name).exists()}
    for path in sorted(found):
        standard = path.parent == system or path.name.startswith("ld-") or str(path).startswith(("/lib", "/usr/lib"))
        place = root / str(path if standard else system / path.name).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy2(path.resolve(), place)


def _shared_libraries(programs: Iterable[Path]) -> set[Path]:
    """The paths in `ldd`'s answer: `name => /path (0x…)` and the loader's own `/path (0x…)`."""
    try:
        answer = subprocess.run(
            ["ldd", *map(str, programs)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TOOL_DEADLINE_S,
            check=False,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        ).stdout.decode("utf-8", "replace")
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise HiveError(Code.INSUFFICIENT_RESOURCES, f"'ldd' does not work on this machine: {error}.") from error
    return {Path(p) for p in re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", answer, re.MULTILINE)}


def _install_shell(root: Path, shell: Path) -> None:
    """`/bin/sh`, and with busybox the usual small programs, for tasks that start commands."""
    libraries = _shared_libraries([shell])
    for path in libraries:
        place = root / str(path).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy2(path.resolve(), place)
    if shell.name != "busybox":
        shutil.copy2(shell, root / "bin/sh")
        return
    shutil.copy2(shell, root / "bin/busybox")
    applets = subprocess.run(
        [shell, "--list"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TOOL_DEADLINE_S, check=True
    ).stdout.decode("ascii", "ignore")
    for applet in applets.split():
        if applet.isalnum() and applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "usr/bin/env").symlink_to("../../bin/busybox")


def _open_modes(root: Path) -> None:
    """Everybody may read the tree: the task runs as a user who owns nothing of it. No set-id bits."""
    for folder, _, files in os.walk(root):
        if Path(folder).name != "tmp":
            os.chmod(folder, 0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o111 else 0o644)
