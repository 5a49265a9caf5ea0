"""Watching a task: its states and its log as they come, until it has ended and its log is whole.

Rules:
1. A watch wakes for two things only: an event of agreed state that names its task, and a piece of log from the worker. Both set
   one flag, so what comes while the watcher is busy is one wake-up; log pieces wait in a short line that holds the worker
   back when the watcher is slow.
2. The log that counts is that of the newest attempt. A new attempt begins it anew, and the note says so.
3. While the attempt runs the log is followed at the worker; when the attempt is closed the rest is read from the kept blob, from
   the place to which the watcher has it. So nothing is lost or told twice where the two meet.
4. A worker that cannot be reached is asked again after a pause that grows; the state is told all the same, and the note says
   what is not known.

| attempt | follower | log comes from |
|---|---|---|
| none, or not started | none | nowhere |
| open and started | one | the worker |
| closed, task goes on (given up) | none | nowhere |
| closed, task ended | none | the blob; then the stream ends |
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from hivenode.errors import Code, HiveError
from hivenode.master.deadlines import Deadline
from hivenode.master.outputs import Outputs
from hivenode.pool import queries
from hivenode.pool.events import AttemptAssigned, AttemptClosed, AttemptRevoked, Event, StateReplaced, TaskChanged
from hivenode.pool.records import TaskRecord
from hivenode.runtime.ports import Agreement, Leadership, TaskEvent
from hivenode.runtime.streams import closing

_PIECES_MAX: Final = 4
"""Pieces that wait for a slow watcher, before the worker is held back; together they are one event's."""
_EVENT_BYTES_MAX: Final = 256 << 10
"""One event's log: small beside a message of gRPC, large beside its cost."""
_PIECE_BYTES_MAX: Final = _EVENT_BYTES_MAX // _PIECES_MAX
_BARRIER_S: Final = 10.0
_REST_S: Final = 600.0
"""For bringing the whole log here after the end, as for a download."""
_RETRY_MIN_S: Final = 0.2
_RETRY_MAX_S: Final = 10.0
"""Pauses between calls to a worker that does not answer: soon at first, since it may just have been restarted."""


class _Watch:
    """One watcher's state; `sent` counts the bytes of the newest attempt's log that the watcher has."""

    def __init__(self, outputs: Outputs, sent: int) -> None:
        self.sent = sent
        self.trouble = ""
        self.wake = asyncio.Event()
        self._outputs = outputs
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(_PIECES_MAX)
        self._follower: asyncio.Task[None] | None = None

    def follow(self, task: TaskRecord) -> None:
        """Begins to follow the log of the open attempt, unless that goes on already; a broken follower is raised here."""
        if self._follower is None:
            self._follower = asyncio.create_task(self._run(task, self.sent), name=f"log of {task.task_id}")
            self._follower.add_done_callback(lambda _: self.wake.set())
        elif self._follower.done():
            self._follower.result()

    def waiting(self) -> bytes:
        """Takes the pieces that have come."""
        pieces: list[bytes] = []
        while not self._pieces.empty():
            pieces.append(self._pieces.get_nowait())
        data = b"".join(pieces)
        self.sent += len(data)
        return data

    async def stop_following(self) -> None:
        """Ends the follower; pieces that came before stay."""
        follower, self._follower = self._follower, None
        self.trouble = ""
        if follower is not None:
            follower.cancel()
            await asyncio.wait((follower,))
            if not follower.cancelled() and (error := follower.exception()) is not None:
                raise error

    async def _run(self, task: TaskRecord, offset: int) -> None:
        pause_s = _RETRY_MIN_S
        while True:
            try:
                async with closing(self._outputs.attempt_log(task, offset, follow=True)) as pieces:
                    async for piece in pieces:
                        offset += len(piece)
                        self.trouble, pause_s = "", _RETRY_MIN_S
                        for start in range(0, len(piece), _PIECE_BYTES_MAX):
                            await self._pieces.put(piece[start : start + _PIECE_BYTES_MAX])
                            self.wake.set()
                return  # The log is whole; the end of the attempt will be agreed on.
            except HiveError as error:
                if error.code is not Code.TASK_NOT_FOUND:
                    self.trouble = f"the log cannot be read now: {error.message}"
                    self.wake.set()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)


class Watching:
    """Serves watchers from this node's agreed state.

    Args:
        note_of: the sentence that goes with a task as it stands.
    """

    def __init__(
        self, *, agreement: Agreement, leadership: Leadership, outputs: Outputs, note_of: Callable[[TaskRecord], str]
    ) -> None:
        self._agreement = agreement
        self._leadership = leadership
        self._outputs = outputs
        self._note_of = note_of

    async def watch(self, username: str, task_id: str, attempt: int, log_offset: int) -> AsyncIterator[TaskEvent]:
        """As `ports.Tasks.watch`. Raises TASK_NOT_FOUND, NO_LEADER."""
        if log_offset < 0:
            raise HiveError(Code.INVALID_ARGUMENT, "the log offset must not be negative")
        await self._leadership.read_barrier(_BARRIER_S)
        task = self._task(username, task_id)
        # What the watcher has of an earlier attempt's log is no place in this one.
        watch = _Watch(self._outputs, log_offset if attempt in (0, task.attempt) else 0)

        def listener(events: tuple[Event, ...]) -> None:
            if any(_names(event, task.user, task.task_id) for event in events):
                watch.wake.set()

        unsubscribe = self._agreement.subscribe(listener)
        try:
            async with closing(self._events(watch, task)) as told:
                async for event in told:
                    yield event
        finally:
            unsubscribe()
            await watch.stop_following()

    async def _events(self, watch: _Watch, task: TaskRecord) -> AsyncIterator[TaskEvent]:
        attempt = task.attempt
        told: tuple[object, ...] | None = None
        while True:
            watch.wake.clear()
            task = self._task(task.user, task.task_id)
            renewed = ""
            if task.attempt != attempt:
                if attempt:
                    renewed = f"attempt {task.attempt} begins, and the log with it"
                    await watch.stop_following()
                    watch.waiting()
                    watch.sent = 0
                attempt = task.attempt
            if task.state.ended and not task.attempt_open:
                break
            if not task.attempt_open:
                await watch.stop_following()
            elif task.started_ms:
                watch.follow(task)
            note = renewed or watch.trouble or self._note_of(task)
            log = watch.waiting()
            if log or renewed or (task.state, note) != told:
                told = (task.state, note)
                yield TaskEvent(state=task.state, attempt=task.attempt, note=note, log=log, final=False)
            else:
                await watch.wake.wait()
        await watch.stop_following()
        async with closing(self._last_events(watch, task)) as last:
            async for event in last:
                yield event

    async def _last_events(self, watch: _Watch, task: TaskRecord) -> AsyncIterator[TaskEvent]:
        """The rest of the log, and the end."""
        note = self._note_of(task)
        log = watch.waiting()
        if log:
            yield TaskEvent(state=task.state, attempt=task.attempt, note=note, log=log, final=False)
        if task.log is not None:
            if watch.sent > task.log.size_bytes:  # The watcher's place was in the log of an attempt that was given up.
                watch.sent = 0
                note = f"the log is told from its beginning; {note}" if note else "the log is told from its beginning"
            rest = self._outputs.closed_log_from(task, task.log, watch.sent, Deadline.after(_REST_S))
            try:
                async with closing(rest) as pieces:
                    async for piece in pieces:
                        for start in range(0, len(piece), _EVENT_BYTES_MAX):
                            part = piece[start : start + _EVENT_BYTES_MAX]
                            yield TaskEvent(state=task.state, attempt=task.attempt, note=note, log=part, final=False)
            except HiveError as error:
                note = f"the rest of the log cannot be read: {error.message}"
        yield TaskEvent(state=task.state, attempt=task.attempt, note=note, log=b"", final=True)

    def _task(self, username: str, task_id: str) -> TaskRecord:
        task = queries.task(self._agreement.view(), username, task_id)
        if task is None:
            raise HiveError(Code.TASK_NOT_FOUND, f"you have no task {task_id[:128]}")
        return task


def _names(event: Event, user: str, task_id: str) -> bool:
    match event:
        case TaskChanged() | AttemptAssigned() | AttemptRevoked() | AttemptClosed():
            return event.task_id == task_id and event.user == user
        case StateReplaced():
            return True
        case _:
            return False
