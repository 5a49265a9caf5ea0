"""The master part of the daemon: what users do with their tasks. Fills `ports.Tasks`.

Rules:
1. A user sees and touches no tasks but their own: every look-up starts from the session's user.
2. What changes something is proposed at the leader; what is read is read here, after a read barrier.
3. The state of a task is always told. What lies elsewhere (the log of a running attempt, a result) may be out of reach, and is
   then an error of its own that says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from hivenode.archives import ArchiveLimits
from hivenode.config import Config
from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.master.deadlines import Deadline
from hivenode.master.outputs import Outputs
from hivenode.master.submission import RELEASE_SPARES_S, OwnBlobs, Submissions
from hivenode.master.watching import Watching
from hivenode.pool import pricing, queries
from hivenode.pool.commands import StopTask
from hivenode.pool.events import BlobReleased, Event
from hivenode.pool.keys import fold
from hivenode.pool.records import SessionRecord, TaskRecord, TaskSpec, TaskState
from hivenode.runtime.ports import (
    Agreement,
    BlobCopies,
    Caller,
    Leadership,
    PeerNetwork,
    StoredFile,
    Submitted,
    TaskEvent,
    TaskRunner,
    TaskView,
    UsageReport,
)
from hivenode.runtime.requests import accepted, keep_ms

VIEWS_MAX: Final = 1_000
"""Tasks in one listing: the newest, as many as a person may scroll through."""
_LISTS_WAIT_S: Final = 5.0
"""A list is not told from a node that is cut off; an election takes less than this."""
_REASONS_MAX: Final = 64
"""Waiting tasks of one listing for which the reason is worked out; each costs a look at all nodes."""
_LOOKS_MAX: Final = 3
"""An attempt may be closed between the look at the state and the call to the worker; more often than this it is no race."""


class HiveTasks:
    """Fills `ports.Tasks`.

    Args:
        agreement, leadership: the hive as this node sees it.
        peers: how workers and holders are reached.
        store, copies: this node's blobs, and blobs across nodes.
        me: this node.
        runner: this node's worker part; None when it runs no tasks.
        config: the largest upload.
        why: says in a sentence what a pending task waits for, or what is not known of one that should run, as far as this
            node can know; empty for nothing to say.
        limits: what an archive may be.
    """

    def __init__(
        self,
        *,
        agreement: Agreement,
        leadership: Leadership,
        peers: PeerNetwork,
        store: OwnBlobs,
        copies: BlobCopies,
        me: NodeId,
        runner: TaskRunner | None,
        config: Config,
        why: Callable[[TaskRecord], str],
        limits: ArchiveLimits | None = None,
    ) -> None:
        self._agreement = agreement
        self._leadership = leadership
        self._why = why
        self._submissions = Submissions(
            agreement=agreement,
            leadership=leadership,
            store=store,
            copies=copies,
            upload_bytes_max=config.upload_mib_max << 20,
            limits=limits if limits is not None else ArchiveLimits(),
        )
        self._outputs = Outputs(agreement=agreement, peers=peers, store=store, copies=copies, me=me, runner=runner)
        self._watching = Watching(
            agreement=agreement, leadership=leadership, outputs=self._outputs, note_of=self._note_of
        )
        self._unsubscribe: Callable[[], None] | None = None
        self._released: set[str] = set()
        self._wake = asyncio.Event()
        self._releasing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to delete the blobs of swept tasks from this node."""
        self._unsubscribe = self._agreement.subscribe(self._on_events)
        self._releasing = asyncio.create_task(self._release(), name="released blobs")

    async def aclose(self) -> None:
        """Ends what `start` began, and inspections. A failure in it is raised here."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await self._submissions.aclose()
        releasing, self._releasing = self._releasing, None
        if releasing is not None:
            releasing.cancel()
            await asyncio.wait((releasing,))
            if not releasing.cancelled() and (error := releasing.exception()) is not None:
                raise error

    async def submit(
        self,
        session: SessionRecord,
        task_id: str,
        data: bytes | AsyncIterator[bytes],
        spec: TaskSpec,
        caller: Caller,
    ) -> Submitted:
        """Checks and stores the archive, copies it to a second node, commits the task. An empty id is given one.

        Raises:
            HiveError: INVALID_ARGUMENT, INVALID_TASK, INSUFFICIENT_BALANCE, TASK_EXISTS, DEPENDENCY_FAILED, BLOB_TOO_LARGE,
                DISK_FULL, TOO_FEW_COPIES, and what `Agreement.propose` raises.
        """
        return await self._submissions.submit(session, task_id, data, spec, caller)

    async def view(self, session: SessionRecord, task_id: str, caller: Caller) -> TaskView:
        """The task as it stands; linearizable. Raises TASK_NOT_FOUND, NO_LEADER."""
        await self._leadership.read_barrier(caller.deadline_s)
        return self._view_of(self._task(session, task_id))

    async def records(self, session: SessionRecord) -> Sequence[TaskRecord]:
        """The tasks of `views` without a word on why they wait, which costs far more to find than the tasks."""
        await self._leadership.leader(_LISTS_WAIT_S)
        return queries.tasks_of(self._agreement.view(), session.username, limit=VIEWS_MAX)

    async def views(self, session: SessionRecord) -> Sequence[TaskView]:
        """The user's newest tasks, newest first, as this node has them: it is behind by no more than the time in which a
        follower notices that it hears no leader. Raises NO_LEADER."""
        tasks = await self.records(session)
        views: list[TaskView] = []
        reasons = 0
        for task in tasks:
            reasons += task.state is TaskState.PENDING
            shown = task.state is not TaskState.PENDING or reasons <= _REASONS_MAX
            views.append(self._view_of(task) if shown else TaskView(record=task, note="waits in the queue"))
        return views

    async def log(self, session: SessionRecord, task_id: str, caller: Caller) -> bytes:
        """stdout and stderr of the newest attempt so far, in the order written, whole lines.

        Raises:
            HiveError: TASK_NOT_FOUND, NODE_OFFLINE (the worker does not answer), BLOB_TOO_LARGE, BLOB_NOT_FOUND, NO_LEADER.
        """
        deadline = Deadline.after(caller.deadline_s)
        asked: TaskRecord | None = None
        for _ in range(_LOOKS_MAX):
            await self._leadership.read_barrier(deadline.left_s())
            task = self._task(session, task_id)
            if not task.attempt_open:
                return await self._outputs.closed_log(task, deadline)
            if not task.started_ms:
                return b""
            if task == asked:
                break
            asked = task
            try:
                return await self._outputs.open_log(task, deadline)
            except HiveError as error:
                if error.code is not Code.TASK_NOT_FOUND:
                    raise
        raise HiveError(Code.NODE_OFFLINE, "the worker does not know the attempt any more: ask again in a moment")

    async def result(self, session: SessionRecord, task_id: str, caller: Caller) -> StoredFile:
        """The result ZIP, brought to this node's disk first.

        Raises:
            HiveError: TASK_NOT_FOUND; TASK_NOT_FINISHED; TASK_CANCELLED or TASK_FAILED when the task left none;
                BLOB_NOT_FOUND, NODE_OFFLINE, DISK_FULL, NO_LEADER.
        """
        deadline = Deadline.after(caller.deadline_s)
        await self._leadership.read_barrier(deadline.left_s())
        return await self._outputs.result(self._task(session, task_id), deadline)

    async def stop(self, session: SessionRecord, task_id: str, caller: Caller) -> TaskView:
        """Stops a task for good. Raises TASK_NOT_FOUND, INVALID_ARGUMENT (it has ended), and what `propose` raises."""
        reply = await self._agreement.propose(
            StopTask(session_id=session.session_id, task_id=task_id),
            deadline_s=caller.deadline_s,
            owner=session.username,
            key=caller.idempotency_key,
            keep_ms=keep_ms(caller),
        )
        accepted(reply)
        return self._view_of(self._task(session, task_id))

    def watch(self, session: SessionRecord, task_id: str, attempt: int, log_offset: int) -> AsyncIterator[TaskEvent]:
        """States and log pieces as they come, until the task has ended and its log is whole."""
        return self._watching.watch(session.username, task_id, attempt, log_offset)

    async def report_running(
        self, session: SessionRecord, node_id: str, task_id: str, usage: UsageReport, caller: Caller
    ) -> int:
        """CPT that the attempt which the node holds has earned so far. Raises STALE_ATTEMPT, NO_LEADER."""
        await self._leadership.read_barrier(caller.deadline_s)
        view = self._agreement.view()
        entry = queries.node(view, node_id)
        if entry is not None and entry.owner and fold(entry.owner) == fold(session.username):
            for task in queries.open_attempts_of(view, node_id):
                if task.task_id == task_id and task.state is TaskState.RUNNING:
                    minutes = pricing.started_minutes(task.started_ms, queries.clock_ms(view))
                    return min(task.held, minutes * task.cost_per_minute)
        raise HiveError(Code.STALE_ATTEMPT, "your node holds no running attempt of this task")

    def _task(self, session: SessionRecord, task_id: str) -> TaskRecord:
        task = queries.task(self._agreement.view(), session.username, task_id)
        if task is None:
            raise HiveError(Code.TASK_NOT_FOUND, f"you have no task {task_id[:128]}")
        return task

    def _view_of(self, task: TaskRecord) -> TaskView:
        return TaskView(record=task, note=self._note_of(task))

    def _note_of(self, task: TaskRecord) -> str:
        match task.state:
            case TaskState.PENDING:
                again = f"; attempt {task.attempt} was given up: {task.reason}" if task.attempt and task.reason else ""
                return self._why(task) + again
            case TaskState.ASSIGNED:
                return self._why(task) or f"node {task.node_id} prepares it"
            case TaskState.RUNNING:
                return self._why(task) or f"runs on node {task.node_id}"
            case _:
                return task.reason

    def _on_events(self, events: tuple[Event, ...]) -> None:
        released = [event.sha256 for event in events if isinstance(event, BlobReleased)]
        if released:
            self._released.update(released)
            self._wake.set()

    async def _release(self) -> None:
        """Deletes released blobs one after the other; what a full disk or a crash leaves, the sweep finds."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._released:
                with contextlib.suppress(OSError):
                    await self._submissions.release(self._released.pop(), spare_younger_s=RELEASE_SPARES_S)
