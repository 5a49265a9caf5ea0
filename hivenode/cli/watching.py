"""Following a task: its log as it is written and its states, over broken connections and changes of leader.

The daemon is told how many bytes of the log are here already, and goes on from there. A task that the hive lost and starts
again begins a new log: then the count begins again as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from hivenode.cli.peer import HIVE, Peer, pauses, repeatable
from hivenode.errors import HiveError
from hivenode.pb import hive_pb2

_SILENCE_S_MAX: Final = 60.0
"""How long a lost connection may fail to come back; a hive has a new leader long before."""


def task_detail(peer: Peer, task_id: str) -> hive_pb2.TaskDetail:
    return peer.call(f"{HIVE}GetTask", hive_pb2.GetTaskRequest(task_id=task_id), hive_pb2.TaskDetail)


class Watch:
    """One watched task.

    Args:
        peer: who is asked.
        task_id: whose log and states.
        on_log: takes each new piece of the log.
        on_note: takes a sentence when something happened that a person wants to know.
    """

    def __init__(
        self, peer: Peer, task_id: str, on_log: Callable[[bytes], None], on_note: Callable[[str], None]
    ) -> None:
        self._peer: Final = peer
        self._task_id: Final = task_id
        self._on_log: Final = on_log
        self._on_note: Final = on_note
        self._offset = 0
        # The attempt whose log the offset counts; 0 while it is not known.
        self._attempt = 0

    def run(self) -> hive_pb2.TaskDetail:
        """Returns the task when it has ended and its whole log was handed on.

        Raises:
            HiveError: the task is not there, or the connection was lost for `_SILENCE_S_MAX`.
        """
        while True:
            failure: HiveError | None = None
            try:
                if self._follow():
                    return task_detail(self._peer, self._task_id)
            except HiveError as error:
                if not repeatable(error):
                    raise
                failure = error
            self._reconnect(failure)

    def _follow(self) -> bool:
        """One stream; whether it came to the task's end."""
        request = hive_pb2.WatchTaskRequest(task_id=self._task_id, log_offset=self._offset, attempt=self._attempt)
        for update in self._peer.stream(f"{HIVE}WatchTask", request, hive_pb2.TaskUpdate):
            if update.attempt != self._attempt:
                if self._attempt:
                    self._begin_again(update.note)
                self._attempt = update.attempt
            if update.log:
                self._offset += len(update.log)
                self._on_log(update.log)
            if update.final:
                return True
        return False

    def _begin_again(self, note: str) -> None:
        self._offset = 0
        self._on_note(f"{self._task_id} starts again from its beginning" + (f": {note}" if note else ""))

    def _reconnect(self, failure: HiveError | None) -> None:
        """Waits until the task can be asked for again."""
        deadline = time.monotonic() + _SILENCE_S_MAX
        for _ in pauses(deadline):
            try:
                task_detail(self._peer, self._task_id)
            except HiveError as error:
                if not repeatable(error):
                    raise
                failure = error
                continue
            return
        if failure is not None:
            raise failure
