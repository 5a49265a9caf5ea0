"""What all executors do alike while a task runs: wait for the first reason to end it, and judge the end.

Theory of operation. A run has one owner, the coroutine in `Executor.run`. It starts the task, calls `first_cause`, which waits
for the first of five things, and then ends the task if that has not happened by itself: SIGTERM, a short grace, SIGKILL to all
of it. Only when every process is dead and the output is read to its end is the outcome judged, by `judge`.

| first thing                       | outcome         |
|-----------------------------------|-----------------|
| the program ended                 | EXITED          |
| the stop event                    | STOPPED         |
| the time limit                    | TIMED_OUT       |
| the log is full / cannot be written | OUTPUT_EXCEEDED / WORKER_FAULT |
| the folder is over its bound / no file is free to look at it with | DISK_EXCEEDED / WORKER_FAULT |

An out-of-memory kill, told by the executor, goes before EXITED: a program can lose a child to it and still exit 0.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

from hivenode.errors import OUT_OF_FILES
from hivenode.pool.records import AttemptOutcome
from hivenode.worker.executors.protocol import ExecutionRequest, ExecutionResult
from hivenode.worker.task_log import TaskLog
from hivenode.worker.workspace import Measured, measure

STOP_GRACE_S: Final = 0.7
"""Between SIGTERM and SIGKILL: enough to write a last file; a silent task must be gone within 2 s of the user's word."""
OUTPUT_DRAIN_S: Final = 5.0
"""How long output may still come after the last process died; only what sits in a pipe is left then."""
DISK_INTERVAL_S: Final = 0.5
"""Between two looks at the working folder. One look at a small tree costs some 50 µs."""
LOOKS_MAX: Final = 20
"""Tries of one look while this machine is out of files. A task may be the cause, and would have no bound meanwhile."""
_READ_BYTES: Final = 256 * 1024


async def first_cause(ended: asyncio.Future[Any], request: ExecutionRequest) -> AttemptOutcome:
    """Waits until the task has ended or must be ended.

    Args:
        ended: done when the program has ended by itself; is not cancelled here.
        request: the run with its limits.
    """
    stop = asyncio.ensure_future(request.stop.wait())
    halted = asyncio.ensure_future(request.log.halted.wait())
    disk = asyncio.ensure_future(_disk_excess(request))
    try:
        done, _ = await asyncio.wait(
            {ended, stop, halted, disk},
            timeout=request.limits.time_limit_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
        for waiter in (stop, halted, disk):
            waiter.cancel()
        await asyncio.gather(stop, halted, disk, return_exceptions=True)
    if ended in done:
        return AttemptOutcome.EXITED
    if stop in done:
        return AttemptOutcome.STOPPED
    if halted in done:
        return AttemptOutcome.OUTPUT_EXCEEDED
    if disk not in done:
        return AttemptOutcome.TIMED_OUT
    error = disk.exception()
    is_blind = isinstance(error, OSError) and error.errno in OUT_OF_FILES
    return AttemptOutcome.WORKER_FAULT if is_blind else AttemptOutcome.DISK_EXCEEDED


async def _disk_excess(request: ExecutionRequest) -> None:
    """Returns when the folder is over its bound. Raises OSError: a task that shuts its folder against a look is ended."""
    while True:
        await asyncio.sleep(DISK_INTERVAL_S)
        if (await _measured(request)).excess:
            return


async def _measured(request: ExecutionRequest) -> Measured:
    """A look at the folder, again and again for a while where this machine is out of files. Raises OSError."""
    for left in reversed(range(LOOKS_MAX)):
        try:
            return await asyncio.to_thread(measure, request.folder, request.limits.disk_bytes)
        except OSError as error:
            if error.errno not in OUT_OF_FILES or not left:
                raise
        await asyncio.sleep(DISK_INTERVAL_S)
    raise AssertionError  # never reached: the last look returns or raises


async def judge(
    request: ExecutionRequest, cause: AttemptOutcome, exit_code: int | None, *, memory_exceeded: bool
) -> ExecutionResult:
    """The outcome of a run whose processes are all dead."""
    limits = request.limits
    if cause is AttemptOutcome.STOPPED:
        return ExecutionResult(outcome=cause, exit_code=exit_code, reason="The task was stopped.")
    if request.log.failure:
        return fault(request.log.failure)
    if memory_exceeded:
        reason = f"The task needed more than its {limits.memory_bytes} bytes of memory, and a process of it was killed."
        return ExecutionResult(outcome=AttemptOutcome.OUT_OF_MEMORY, exit_code=exit_code, reason=reason)
    if cause is AttemptOutcome.TIMED_OUT:
        reason = f"The task ran longer than its {limits.time_limit_s:g} s."
        return ExecutionResult(outcome=cause, exit_code=exit_code, reason=reason)
    if request.log.exceeded:
        reason = f"The task wrote more than {request.log.size_bytes} bytes of output."
        return ExecutionResult(outcome=AttemptOutcome.OUTPUT_EXCEEDED, exit_code=exit_code, reason=reason)
    blind = fault("This machine had no file free to look at the task's folder with.")
    if cause is AttemptOutcome.WORKER_FAULT:
        return blind
    try:
        measured = await _measured(request)
    except OSError as error:
        if error.errno in OUT_OF_FILES:
            return blind
        raise
    if measured.excess or cause is AttemptOutcome.DISK_EXCEEDED:
        reason = f"The task used too much disk: {measured.excess or 'it did so for a moment'}."
        return ExecutionResult(outcome=AttemptOutcome.DISK_EXCEEDED, exit_code=exit_code, reason=reason)
    reason = "" if exit_code == 0 else f"The program ended with exit code {exit_code}."
    return ExecutionResult(outcome=AttemptOutcome.EXITED, exit_code=exit_code, reason=reason)


def fault(reason: str) -> ExecutionResult:
    """This machine could not do it."""
    return ExecutionResult(outcome=AttemptOutcome.WORKER_FAULT, exit_code=None, reason=reason)


class OutputPipe:
    """A pipe whose reading end goes to a log as it fills. Used on the event loop; close it in the end.

    One pipe for stdout and stderr keeps the order in which they were written.
    """

    def __init__(self, log: TaskLog) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._reading, self._take)

    def started(self) -> None:
        """The child has its copy: without closing ours the end would never show."""
        os.close(self.writing)
        self.writing = -1

    async def drain(self) -> bool:
        """Waits for the end of the output; False when something still holds the pipe open after the deadline."""
        return await within(self._finished, OUTPUT_DRAIN_S)

    def close(self) -> None:
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1
        if self._reading >= 0:
            self._loop.remove_reader(self._reading)
            os.close(self._reading)
            self._reading = -1
        self._finished.cancel()

    def _take(self) -> None:
        try:
            data = os.read(self._reading, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._log.append(data)
            return
        self._loop.remove_reader(self._reading)
        if not self._finished.done():
            self._finished.set_result(None)


async def within(future: asyncio.Future[Any], deadline_s: float) -> bool:
    """Waits at most so long; whether it was done in time. It goes on, whatever becomes of who waits."""
    # Not `wait_for`: told to go in the moment when it is done, its caller would go on (Python before 3.12).
    done, _ = await asyncio.wait({future}, timeout=deadline_s)
    return bool(done)
