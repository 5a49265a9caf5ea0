"""What a task needs of the package index: read, checked, and installed once for all tasks that ask for the same.

Rules
- A requirement is a name with extras, versions and a marker. Options, addresses and paths are refused, for they would let a task
  send this machine's `pip` anywhere.
- Wheels only: building a package runs its code, and that would be outside of the sandbox.
- What cannot be had is the task's own fault (INVALID_TASK); an index that cannot be reached is this machine's
  (INSUFFICIENT_RESOURCES), and the task may run elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement

from hivenode.errors import Code, HiveError
from hivenode.worker.workspace import measure

REQUIREMENTS_MAX: Final = 100
TEXT_BYTES_MAX: Final = 64 * 1024
INSTALL_DEADLINE_S: Final = 300.0
"""Enough for some hundred MB; a task's own time limit does not run yet."""
INSTALLED_BYTES_MAX: Final = 4 << 30
CACHED_MAX: Final = 16
"""Sets kept; the least recently used go first."""
_UNFINISHED: Final = "building-"
"""What a folder is called that is being made, or removed."""
_OUTPUT_BYTES_MAX: Final = 1 << 20
_UNREACHABLE: Final = re.compile(
    r"connection (broken|error|refused|reset|aborted)|NewConnectionError|ConnectTimeout|ReadTimeout|Max retries"
    r"|Name or service not known|name resolution|Could not fetch URL|SSLError|ProxyError|50[0-9] (Server|Service|Bad)",
    re.IGNORECASE,
)
_NOT_TO_BE_HAD: Final = re.compile(
    r"No matching distribution|Could not find a version|ResolutionImpossible|conflicting dependencies"
    r"|requires a different Python",
    re.IGNORECASE,
)


def parse_requirements(data: bytes) -> tuple[str, ...]:
    """The lines of a `requirements.txt` in one form and order.

    Raises:
        HiveError: INVALID_TASK, with the line and what is wrong with it.
    """
    if len(data) > TEXT_BYTES_MAX:
        raise HiveError(Code.INVALID_TASK, f"requirements.txt has more than {TEXT_BYTES_MAX} bytes.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise HiveError(Code.INVALID_TASK, "requirements.txt is not UTF-8 text.") from None
    found: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        bare = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not bare:
            continue
        try:
            requirement = Requirement(bare)
        except (InvalidRequirement, RecursionError):
            raise _bad_line(number, bare) from None
        if requirement.url is not None or bare.startswith("-"):
            raise _bad_line(number, bare)
        found.add(str(requirement))
    if len(found) > REQUIREMENTS_MAX:
        raise HiveError(Code.INVALID_TASK, f"requirements.txt names more than {REQUIREMENTS_MAX} packages.")
    return tuple(sorted(found))


def _bad_line(number: int, line: str) -> HiveError:
    return HiveError(
        Code.INVALID_TASK,
        f"requirements.txt, line {number}: {line[:80]!a} is not a plain requirement such as 'name>=1.2'; "
        "options, addresses and paths are not allowed.",
    )


class PackageCache:
    """Installed sets of requirements in a folder of this daemon.

    Args:
        folder: where the sets lie.
        environment: added to the environment of `pip`, such as `PIP_INDEX_URL`.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = dict(environment or {})
        self._installing: dict[str, asyncio.Task[Path]] = {}
        self._used: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def installed(self, requirements: tuple[str, ...]) -> AsyncIterator[Path]:
        """A folder for PYTHONPATH that holds the requirements, kept at least until the block ends.

        Those who ask for the same at the same time share one installation.

        Raises:
            HiveError: INVALID_TASK or INSUFFICIENT_RESOURCES, see the rules above.
        """
        key = hashlib.sha256("\n".join((sys.version, *requirements)).encode()).hexdigest()[:32]
        self._used[key] = self._used.get(key, 0) + 1
        try:
            yield await self._path(key, requirements)
        finally:
            self._used[key] -= 1
            if not self._used[key]:
                del self._used[key]

    def clear_leftovers(self) -> None:
        """Removes what an earlier life of this daemon was making, or removing, when it died. Blocks; before anything else."""
        for left in self._folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)

    async def aclose(self) -> None:
        """Ends installations that still run."""
        tasks = list(self._installing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _path(self, key: str, requirements: tuple[str, ...]) -> Path:
        place = self._folder / key
        if await asyncio.to_thread(_touch, place):
            return place
        task = self._installing.get(key)
        if task is None:
            task = asyncio.ensure_future(self._install(place, requirements))
            self._installing[key] = task
            task.add_done_callback(lambda done: self._installed(key, done))
        # A task that is stopped meanwhile leaves the installation to the others that wait for it.
        return await asyncio.shield(task)

    def _installed(self, key: str, task: asyncio.Task[Path]) -> None:
        del self._installing[key]
        if not task.cancelled():
            task.exception()  # Looked at here: all that waited for it may have been stopped.

    async def _install(self, place: Path, requirements: tuple[str, ...]) -> Path:
        if importlib.util.find_spec("pip") is None:
            raise HiveError(Code.INSUFFICIENT_RESOURCES, "This machine has no pip, so it cannot install requirements.")
        await self._evict()
        building = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=_UNFINISHED, dir=self._folder))
        try:
            code, output = await self._pip(building, requirements)
            if code != 0:
                raise _failure(output)
            await asyncio.to_thread(_settle, building, place)
        finally:
            await asyncio.to_thread(shutil.rmtree, building, ignore_errors=True)
        return place

    async def _pip(self, target: Path, requirements: tuple[str, ...]) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "pip",
                "install",
                "--only-binary=:all:",
                "--no-input",
                "--disable-pip-version-check",
            ),
            *(
                "--no-warn-script-location",
                "--progress-bar=off",
                "--retries=2",
                "--timeout=20",
                "--root-user-action=ignore",
            ),
            *("--target", str(target), "--", *requirements),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=target,
            env=dict(os.environ) | self._environment | {"PYTHONNOUSERSITE": "1"},
            start_new_session=True,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), INSTALL_DEADLINE_S)
        except TimeoutError:
            raise HiveError(
                Code.INSUFFICIENT_RESOURCES, f"pip did not install the requirements within {INSTALL_DEADLINE_S:g} s."
            ) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode or 0, output[-_OUTPUT_BYTES_MAX:].decode("utf-8", "replace")

    async def _evict(self) -> None:
        """Makes room for one more set."""
        sets = await asyncio.to_thread(self._by_use)
        unused = [(used, place) for used, place in sets if place.name not in self._used]
        gone: list[Path] = []
        # Looked at and taken away within one step of the event loop: who asks from now on finds it gone, and has it made anew.
        for used, place in unused[: max(0, len(sets) - CACHED_MAX + 1)]:
            removed = place.with_name(f"{_UNFINISHED}{secrets.token_hex(8)}")
            with contextlib.suppress(OSError):  # Another installation took it, or the next one will.
                if place.stat().st_mtime == used:
                    place.rename(removed)
                    gone.append(removed)
        await asyncio.to_thread(_remove_all, gone)

    def _by_use(self) -> list[tuple[float, Path]]:
        """The sets that there are and when each was used, the least recently used first."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        used: list[tuple[float, Path]] = []
        for place in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # It was taken away meanwhile.
                if place.is_dir() and not place.name.startswith(_UNFINISHED):
                    used.append((place.stat().st_mtime, place))
        return sorted(used)


def _remove_all(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _touch(place: Path) -> bool:
    """Notes that a set is used now; False when it is not there."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    return True


def _settle(building: Path, place: Path) -> None:
    """Bounds a new set, lets every user read it, and puts it into its place at once."""
    measured = measure(building, INSTALLED_BYTES_MAX)
    if measured.excess:
        raise HiveError(Code.INVALID_TASK, f"The requirements are too large: {measured.excess}.")
    building.chmod(0o755)
    for parent, folders, files in os.walk(building):
        for name in (*folders, *files):
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o755 | (0o755 if path.is_dir() else 0o444))
    try:
        building.rename(place)
    except OSError:
        if not place.is_dir():  # Else another daemon of this machine was faster.
            raise


def _failure(output: str) -> HiveError:
    """Whose fault a failed installation is, with pip's last word."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    said = (errors or lines or ["pip said nothing"])[-1].removeprefix("ERROR:").strip()[:300].rstrip(".")
    if _NOT_TO_BE_HAD.search(output) and not _UNREACHABLE.search(output):
        return HiveError(Code.INVALID_TASK, f"The requirements cannot be installed: {said}.")
    return HiveError(Code.INSUFFICIENT_RESOURCES, f"This machine could not install the requirements: {said}.")
