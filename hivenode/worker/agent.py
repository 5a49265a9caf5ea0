"""The worker's agent: takes the leader's orders, keeps the attempts, and tells their starts and ends until they are closed.

Rules
- Orders may come twice and in any order after a change of leader; what is known already changes nothing.
- A start or an end is said at once when there is a link to a leader, and again after the hello on every new link, the start
  first, until a close order says that the end is committed. So a leader may die at any moment without a report being lost.
- Nothing is resumed after a restart of the daemon: the new boot id and an empty list in the hello say that all is gone.
- Everything is bounded: `slots` attempts run, and at most four times as many are open; an order beyond is answered with a fault.

| state of an attempt | order              | stop            | stop, discard   | close           |
|---------------------|--------------------|-----------------|-----------------|-----------------|
| unknown             | begun              | ended STOPPED is said | ignored   | ignored         |
| open                | said again so far  | ended by STOPPED | killed, forgotten | killed, forgotten |
| ended               | both said again    | both said again | forgotten       | forgotten       |
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, assert_never

from hivenode.encoding.node_record import Capabilities
from hivenode.errors import Code, HiveError
from hivenode.pool.records import AttemptOutcome
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    AttemptOrder,
    AttemptStarted,
    BlobCopies,
    BlobStore,
    CloseOrder,
    RosterOrder,
    StopOrder,
    WorkerEvent,
    WorkerHello,
    WorkerLink,
    WorkerOrder,
)
from hivenode.worker.attempt import Attempt, AttemptWork
from hivenode.worker.executors.choice import ChosenExecutor
from hivenode.worker.requirements import PackageCache
from hivenode.worker.resources import Usage
from hivenode.worker.settings import WorkerSettings
from hivenode.worker.workspace import clear_folder

OPEN_PER_SLOT: Final = 4
"""Attempts open for each slot: running, waiting, or ended and not yet closed. The leader orders no more than slots."""
_CLOSE_DEADLINE_S: Final = 5.0
"""For all running tasks to be killed at the daemon's end: of its 10 s the parts have 8.5, and the worker begins within 2."""


class Agent:
    """The worker part of a daemon; fills `ports.TaskRunner`.

    Args:
        settings: what the owner lets it use.
        chosen: the executor, or none and why.
        measured: what the machine offers (`measure_capabilities`); its `slots` are the attempts that run at once.
        blobs: this node's blobs; on the file system of `data_dir`.
        copies: blobs across nodes.
        data_dir: work folders go to `work` in it, installed requirements to `packages`.
        roster_changed: called when the leader says that a node is not in the hive any more.
    """

    def __init__(
        self,
        *,
        settings: WorkerSettings,
        chosen: ChosenExecutor,
        measured: Capabilities,
        blobs: BlobStore,
        copies: BlobCopies,
        data_dir: Path,
        roster_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._roster_changed = roster_changed
        self.boot_id: Final = secrets.token_hex(16)
        self._settings = settings
        self._chosen = chosen
        self._usage = Usage()
        self._work_folder = data_dir / "work"
        self._packages = PackageCache(data_dir / "packages", settings.pip_environment)
        self._attempts: dict[AttemptKey, Attempt] = {}
        self._tasks: dict[AttemptKey, asyncio.Task[None]] = {}
        self._outbox: asyncio.Queue[WorkerEvent] | None = None
        self._broken: asyncio.Future[None] | None = None
        executor = chosen.executor
        self._capabilities = replace(
            measured,
            docker_status=chosen.docker_status,
            executor="" if executor is None else executor.name,
            executor_note=chosen.note,
            slots=0 if executor is None else measured.slots,
        )
        self._work: AttemptWork | None = None
        if executor is not None:
            self._work = AttemptWork(
                settings=settings,
                executor=executor,
                blobs=blobs,
                copies=copies,
                folder=self._work_folder,
                packages=self._packages,
                slots=asyncio.Semaphore(measured.slots),
                cpu_cores=measured.cpu_cores,
                say=self._say,
            )

    async def start(self) -> None:
        """Removes what an earlier life of this daemon left: tasks, containers, folders. Before anything else."""
        self._broken = asyncio.get_running_loop().create_future()
        if self._chosen.executor is not None:
            await self._chosen.executor.clean_leftovers()
        await asyncio.to_thread(clear_folder, self._work_folder)
        await asyncio.to_thread(self._packages.clear_leftovers)
        self._usage.look()  # The first only begins the measurement.

    async def aclose(self) -> None:
        """Kills what runs and waits for it, bounded; the executor is closed too."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_DEADLINE_S)
        for attempt in self._attempts.values():
            if attempt.log is not None:
                attempt.log.close()
        await self._packages.aclose()
        if self._chosen.executor is not None:
            await self._chosen.executor.aclose()

    # --- what it tells ---------------------------------------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        return self._capabilities

    def hello(self) -> WorkerHello:
        return WorkerHello(boot_id=self.boot_id, capabilities=self.capabilities(), open=tuple(self._attempts))

    async def read_log(self, key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """The log of an open attempt from `offset`; with `follow` until it is complete. Raises TASK_NOT_FOUND.

        A closed attempt's log is a blob, which the agreed state names.
        """
        attempt = self._attempts.get(key)
        if attempt is None:
            raise HiveError(Code.TASK_NOT_FOUND, f"Attempt {key.attempt} of the task {key.task_id} is not open here.")
        if follow:
            await attempt.log_there.wait()
        if attempt.log is None:
            return
        async for piece in attempt.log.read(offset, follow):
            yield piece

    # --- the link to the leader ------------------------------------------------------------------------------------

    async def serve(self, link: WorkerLink) -> None:
        """Speaks with a leader until the link ends: hello, what is not closed yet, then events, orders and heartbeats.

        Raises:
            HiveError: the link broke.
            Exception: what broke the agent itself (a broken invariant), so that its owner hears of it.
        """
        outbox: asyncio.Queue[WorkerEvent] = asyncio.Queue()
        outbox.put_nowait(self.hello())
        self._outbox = outbox
        for attempt in self._attempts.values():
            self._say_again(attempt)
        parts: set[asyncio.Future[None]] = {
            asyncio.ensure_future(self._send(link, outbox)),
            asyncio.ensure_future(self._take_orders(link)),
        }
        watched = parts | ({self._broken} if self._broken is not None else set())
        try:
            done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            if self._outbox is outbox:
                self._outbox = None
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _send(self, link: WorkerLink, outbox: asyncio.Queue[WorkerEvent]) -> None:
        """Events as they come. A heartbeat goes out when it is due, and not only when nothing else does."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._settings.heartbeat_s
        while True:
            event: WorkerEvent | None = None
            if loop.time() < due:  # What is there already is taken without a wait, and no timeout comes between.
                # Not `wait_for`: told to go in the moment when an event comes, it would go on for ever (Python before 3.12).
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        event = await outbox.get()
            await link.send(event or self._usage.look())
            if event is None:
                due = loop.time() + self._settings.heartbeat_s  # From now: on a slow link an event goes between two.

    async def _take_orders(self, link: WorkerLink) -> None:
        async for order in link.orders():
            await self.handle(order)

    # --- orders ----------------------------------------------------------------------------------------------------

    async def handle(self, order: WorkerOrder) -> None:
        """Takes an order; returns at once, for the work is the attempt's own."""
        match order:
            case AttemptOrder():
                self._begin(order)
            case StopOrder():
                self._stop(order.key, discard=order.discard)
            case CloseOrder():
                self._forget(order.key)
            case RosterOrder():
                self._roster_changed()
            case _:
                assert_never(order)

    def _begin(self, order: AttemptOrder) -> None:
        known = self._attempts.get(order.key)
        if known is not None:
            self._say_again(known)
        elif self._work is None:
            self._say(_end(order.key, AttemptOutcome.WORKER_FAULT, f"This machine takes no tasks. {self._chosen.note}"))
        elif len(self._attempts) >= OPEN_PER_SLOT * self._capabilities.slots:
            self._say(_end(order.key, AttemptOutcome.WORKER_FAULT, "This machine is busy with other tasks."))
        else:
            attempt = Attempt(order=order)
            self._attempts[order.key] = attempt
            task = asyncio.ensure_future(self._work.live(attempt))
            self._tasks[order.key] = task
            task.add_done_callback(lambda done: self._done(attempt, done))

    def _stop(self, key: AttemptKey, *, discard: bool) -> None:
        attempt = self._attempts.get(key)
        if discard:
            self._forget(key)
        elif attempt is None:
            # Its slot at the leader would stay taken if nothing were said.
            self._say(_end(key, AttemptOutcome.STOPPED, "The attempt is not known on this machine."))
        elif attempt.ended is None:
            attempt.stop.set()
        else:
            self._say_again(attempt)

    def _forget(self, key: AttemptKey) -> None:
        attempt = self._attempts.get(key)
        if attempt is None:
            return
        attempt.discard = True
        attempt.stop.set()
        if key not in self._tasks:
            self._drop(attempt)

    def _done(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """The attempt's coroutine is over: it has ended, or the daemon is closing, or something is broken."""
        del self._tasks[attempt.key]
        if attempt.discard:
            self._drop(attempt)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)

    def _drop(self, attempt: Attempt) -> None:
        with contextlib.suppress(KeyError):
            del self._attempts[attempt.key]
        if attempt.log is not None:
            attempt.log.close()

    def _say_again(self, attempt: Attempt) -> None:
        # A start that was said without a link, or on one that broke, may never have been agreed on: it comes before the end.
        if attempt.started:
            self._say(AttemptStarted(key=attempt.key))
        if attempt.ended is not None:
            self._say(attempt.ended)

    def _say(self, event: AttemptStarted | AttemptEnded) -> None:
        """Queues an event for the leader; without one it is kept with its attempt, and said on the next link."""
        if self._outbox is not None:
            self._outbox.put_nowait(event)


def _end(key: AttemptKey, outcome: AttemptOutcome, reason: str) -> AttemptEnded:
    return AttemptEnded(key=key, outcome=outcome, exit_code=None, reason=reason, result=None, log=None, holders=())
