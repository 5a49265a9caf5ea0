"""The life of one attempt: data, files, requirements, run, result, copies.

Theory of operation. An attempt is one coroutine (`AttemptWork.live`) over one record (`Attempt`). It never fails: whatever goes
wrong becomes an outcome, so that the leader always hears an end. A stop reaches every stage: before the run it ends the stage
it finds, during the run the executor ends the task, after it only the copies are left, which are still wanted.

| stage     | what happens                                          | goes wrong as                 |
|-----------|-------------------------------------------------------|-------------------------------|
| waiting   | for a slot                                            |                               |
| preparing | fetch the data, inspect, unpack, install requirements | INVALID / WORKER_FAULT        |
| running   | the executor; AttemptStarted is said just before      | see `executors/supervision`   |
| packing   | result ZIP and log become blobs                       | WORKER_FAULT                  |
| copying   | both blobs to a second node, without holding the slot | told with the copies there are |
| ended     | AttemptEnded is said, at every new link again         |                               |

No result is packed for INVALID and WORKER_FAULT: nothing of the task's own doing is in it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from hivenode import archives
from hivenode.archives import TaskArchive
from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.pool.records import AttemptOutcome, BlobRef
from hivenode.runtime.ports import AttemptEnded, AttemptKey, AttemptOrder, AttemptStarted, BlobCopies, BlobStore
from hivenode.worker.executors.protocol import ExecutionLimits, ExecutionRequest, ExecutionResult, Executor
from hivenode.worker.requirements import PackageCache, parse_requirements
from hivenode.worker.settings import WorkerSettings
from hivenode.worker.task_log import TaskLog
from hivenode.worker.workspace import free_bytes, remove_tree

_COPY_DEADLINE_S: Final = 60.0
"""Of one try to copy; a larger result that makes progress is given more by the one who copies."""
_COPY_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_REASON_CHARACTERS_MAX: Final = 1_000
_NOT_PACKED: Final = (AttemptOutcome.INVALID, AttemptOutcome.WORKER_FAULT)
_GIB: Final = 1 << 30
_T = TypeVar("_T")


@dataclass(slots=True, kw_only=True)
class Attempt:
    """What the worker knows of an attempt until the leader closes it."""

    order: AttemptOrder
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    log_there: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is a log to read, or none will come."""
    discard: bool = False
    started: bool = False
    log: TaskLog | None = None
    ended: AttemptEnded | None = None

    @property
    def key(self) -> AttemptKey:
        return self.order.key


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outputs:
    result: BlobRef | None
    log: BlobRef | None
    note: str


class _StoppedEarlyError(Exception):
    """The stop came before the task ran."""


class AttemptWork:
    """Does attempts.

    Args:
        settings, executor, blobs, copies: see `Agent`.
        folder: work folders are made in it; on the file system of the blobs.
        packages: installed requirements.
        slots: bounds how many attempts run at once.
        cpu_cores: of this machine.
        say: tells the leader, or keeps it until there is one.
    """

    def __init__(
        self,
        *,
        settings: WorkerSettings,
        executor: Executor,
        blobs: BlobStore,
        copies: BlobCopies,
        folder: Path,
        packages: PackageCache,
        slots: asyncio.Semaphore,
        cpu_cores: int,
        say: Callable[[AttemptStarted | AttemptEnded], None],
    ) -> None:
        self._settings = settings
        self._executor = executor
        self._blobs = blobs
        self._copies = copies
        self._folder = folder
        self._packages = packages
        self._slots = slots
        self._cpu_cores = cpu_cores
        self._say = say

    async def live(self, attempt: Attempt) -> None:
        """Takes an attempt from its order to its end. Only cancelling ends it without one."""
        try:
            result, outputs = await self._in_slot(attempt)
        finally:
            if attempt.log is not None:
                attempt.log.finish()
            attempt.log_there.set()
        holders: tuple[NodeId, ...] = ()
        if not attempt.discard:
            holders = await self._copy(attempt, [b for b in (outputs.result, outputs.log) if b is not None])
        reason = " ".join(part for part in (result.reason, outputs.note) if part)
        attempt.ended = AttemptEnded(
            key=attempt.key,
            outcome=result.outcome,
            exit_code=result.exit_code,
            reason=reason[:_REASON_CHARACTERS_MAX],
            result=outputs.result,
            log=outputs.log,
            holders=holders,
        )
        if not attempt.discard:
            self._say(attempt.ended)

    async def _in_slot(self, attempt: Attempt) -> tuple[ExecutionResult, _Outputs]:
        """All that happens while a slot is held, and with the work folder."""
        nothing = _Outputs(result=None, log=None, note="")
        place = self._folder / secrets.token_hex(8)
        try:
            await _unless_stopped(attempt, self._slots.acquire())
        except _StoppedEarlyError:
            return _stopped(), nothing
        try:
            return await self._work(attempt, place)
        except _StoppedEarlyError:
            return _stopped(), nothing
        except HiveError as error:
            own_fault = error.code is Code.INVALID_TASK
            outcome = AttemptOutcome.INVALID if own_fault else AttemptOutcome.WORKER_FAULT
            return ExecutionResult(outcome=outcome, exit_code=None, reason=error.message), nothing
        except OSError as error:
            reason = f"This machine could not run the task: {error.strerror or error}."
            return ExecutionResult(outcome=AttemptOutcome.WORKER_FAULT, exit_code=None, reason=reason), nothing
        finally:
            try:
                await asyncio.shield(asyncio.to_thread(_remove, place))
            finally:
                self._slots.release()

    async def _work(self, attempt: Attempt, place: Path) -> tuple[ExecutionResult, _Outputs]:
        settings = self._settings
        if not self._blobs.has(attempt.order.data):
            fetching = self._copies.fetch(attempt.order.data, attempt.order.holders, settings.fetch_deadline_s)
            await _unless_stopped(attempt, fetching)
        task = place / "task"
        prepared = asyncio.to_thread(self._unpack, self._blobs.path(attempt.order.data), task)
        archive, marks, requirements = await prepared
        async with AsyncExitStack() as stack:
            packages = None
            if requirements:
                entering = stack.enter_async_context(self._packages.installed(requirements))
                packages = await _unless_stopped(attempt, entering)
            attempt.log = TaskLog(place / archives.LOG_NAME, settings.output_bytes)
            attempt.log_there.set()
            if attempt.stop.is_set():
                raise _StoppedEarlyError
            attempt.started = True
            self._say(AttemptStarted(key=attempt.key))
            result = await self._executor.run(self._request(attempt, place, archive, packages, attempt.log))
        attempt.log.finish()
        if attempt.discard or result.outcome in _NOT_PACKED:
            return result, _Outputs(result=None, log=None, note="")
        packed_at = place / "result.zip"
        packed = await asyncio.to_thread(
            archives.pack_result, task, marks, attempt.log.path, packed_at, settings.result_limits
        )
        result_blob, log_blob = await asyncio.gather(
            self._blobs.put_file(packed_at), self._blobs.put_file(attempt.log.path)
        )
        note = ""
        if packed.left_out:
            note = (
                f"{packed.left_out} files are not in the result: links, special or unreadable ones, or over its bounds."
            )
        return result, _Outputs(result=result_blob, log=log_blob, note=note)

    def _unpack(self, data: Path, task: Path) -> tuple[TaskArchive, dict[str, archives.FileMark], tuple[str, ...]]:
        limits = self._settings.archive_limits
        archive = archives.inspect_task(data, limits)
        needed = archive.unpacked_bytes + self._settings.disk_reserve_bytes
        if free_bytes(self._folder) < needed:
            raise HiveError(Code.DISK_FULL, "This machine's disk is too full to begin a task.")
        task.parent.mkdir(mode=0o700)
        task.mkdir()
        task.chmod(0o755)
        archives.unpack_task(data, archive, task, limits)
        requirements: tuple[str, ...] = ()
        if archive.has_requirements:
            requirements = parse_requirements((task / archives.REQUIREMENTS_NAME).read_bytes())
        return archive, dict(archives.mark_files(task, self._settings.result_limits)), requirements

    def _request(
        self, attempt: Attempt, place: Path, archive: TaskArchive, packages: Path | None, log: TaskLog
    ) -> ExecutionRequest:
        settings, spec = self._settings, attempt.order.spec
        limits = ExecutionLimits(
            memory_bytes=spec.needs.memory_gb * _GIB or settings.memory_bytes,
            cpus=settings.cpus or float(self._cpu_cores),
            pids_max=settings.pids_max,
            disk_bytes=settings.disk_bytes,
            tmp_bytes=settings.tmp_bytes,
            time_limit_s=float(spec.time_limit_s),
        )
        return ExecutionRequest(
            name=place.name,
            folder=place / "task",
            entry=archive.entry,
            packages=packages,
            limits=limits,
            log=log,
            stop=attempt.stop,
        )

    async def _copy(self, attempt: Attempt, blobs: list[BlobRef]) -> tuple[NodeId, ...]:
        """Copies blobs to a second node, trying again while there is hope; the nodes that hold all of them."""
        held = await asyncio.gather(*(self._copy_one(attempt, blob) for blob in blobs))
        if not held:
            return ()
        return tuple(node for node in held[0] if all(node in others for others in held[1:]))

    async def _copy_one(self, attempt: Attempt, blob: BlobRef) -> tuple[NodeId, ...]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.copies_deadline_s
        tries = 0
        while not attempt.discard:
            try:
                return await self._copies.replicate(blob, preferred=attempt.order.holders, deadline_s=_COPY_DEADLINE_S)
            except (HiveError, OSError):  # The machine may be out of files for a moment.
                if loop.time() >= deadline:
                    break
            await asyncio.sleep(_COPY_PAUSES_S[min(tries, len(_COPY_PAUSES_S) - 1)])
            tries += 1
        return ()


async def _unless_stopped(attempt: Attempt, work: Awaitable[_T]) -> _T:
    """The value of `work`, which is cancelled when the stop comes first."""
    working = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(attempt.stop.wait())
    try:
        await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _StoppedEarlyError
    finally:
        for task in (working, stop):
            task.cancel()
        await asyncio.gather(working, stop, return_exceptions=True)


def _stopped() -> ExecutionResult:
    return ExecutionResult(
        outcome=AttemptOutcome.STOPPED, exit_code=None, reason="The task was stopped before its program ran."
    )


def _remove(place: Path) -> None:
    """Removes a work folder; what cannot be removed now goes at the daemon's next start."""
    try:
        remove_tree(place)
    except OSError:
        return
