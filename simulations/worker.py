"""A simulated worker: it runs attempts for virtual time, reports them until they are closed, and loses them in a crash.

It speaks to the leader over one stream, as `hivenode.worker.agent` does: hello with all that is open, what is not closed
yet once more, then events as they come and a heartbeat when one is due.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hivenode.pool.records import AttemptOutcome, BlobRef
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    AttemptOrder,
    AttemptStarted,
    CloseOrder,
    RosterOrder,
    StopOrder,
    WorkerHeartbeat,
    WorkerHello,
)
from simulations.engine import MS, SECOND
from simulations.network import Stream

if TYPE_CHECKING:
    from simulations.node import Node

HEARTBEAT_US: Final = 2 * SECOND
RECONNECT_US: Final = 500 * MS
SETUP_US: Final = (20 * MS, 400 * MS)
STOP_US: Final = (5 * MS, 300 * MS)
FAULT_PER_MILLE: Final = 30
"""Attempts that the machine cannot run."""
FAILED_PER_MILLE: Final = 100
"""Programs that end with another code than 0."""


@dataclass(slots=True, eq=False)
class _Attempt:
    key: AttemptKey
    started: bool = False
    forgotten: bool = False
    """Nobody wants its end any more; it is open until it is killed."""
    ended: AttemptEnded | None = None


def result_of(key: AttemptKey) -> BlobRef:
    """The output that this attempt, and no other, would have."""
    digest = hashlib.sha256(f"{key.user}/{key.task_id}/{key.attempt}".encode()).hexdigest()
    return BlobRef(sha256=digest, size_bytes=1_000)


class Worker:
    """The worker part of one node's daemon; it lives as long as the process."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._engine = node.world.engine
        self._attempts: dict[AttemptKey, _Attempt] = {}
        self._stream: Stream | None = None

    @property
    def connected(self) -> bool:
        """Whether its stream to a leader stands, as far as it knows."""
        return self._stream is not None

    @property
    def holds_attempts(self) -> bool:
        return bool(self._attempts)

    def runs(self, key: AttemptKey) -> bool:
        """Whether it has an attempt that has not ended, and whose end is wanted."""
        attempt = self._attempts.get(key)
        return attempt is not None and attempt.ended is None and not attempt.forgotten

    # --- the stream ------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Looks for a leader until there is a stream to it."""
        leader = self._node.leader_node()
        if leader is not None and leader.alive:
            self._node.search.found()
            self._stream = self._node.streams.open(leader, self._take, self._closed)
            self._say_hello(self._stream)
        else:
            # A machine that does not take the connection is forgotten as leader.
            self._node.search.leader = None
            self._node.search.seek()
            self._node.at(self._engine.now_us + RECONNECT_US, self.connect)

    def _say_hello(self, stream: Stream) -> None:
        boot_id = f"{self._node.name}/{self._node.boots}"
        hello = WorkerHello(boot_id=boot_id, capabilities=self._node.capabilities, open=tuple(self._attempts))
        stream.send(0, hello)
        for attempt in self._attempts.values():
            self._say_again(attempt)
        self._node.at(self._engine.now_us + HEARTBEAT_US, lambda: self._beat(stream))

    def _beat(self, stream: Stream) -> None:
        if self._stream is stream:
            stream.send(0, WorkerHeartbeat(cpu_percent=0, memory_percent=0))
            self._node.at(self._engine.now_us + HEARTBEAT_US, lambda: self._beat(stream))

    def _closed(self, reset: bool) -> None:
        self._stream = None
        self._node.search.leader = None
        self._node.at(self._engine.now_us + RECONNECT_US, self.connect)

    def _say(self, event: AttemptStarted | AttemptEnded) -> None:
        if self._stream is not None:
            self._stream.send(0, event)

    def _say_again(self, attempt: _Attempt) -> None:
        if attempt.started:
            self._say(AttemptStarted(key=attempt.key))
        if attempt.ended is not None:
            self._say(attempt.ended)

    # --- orders ----------------------------------------------------------------------------------------------------

    def _take(self, order: Any) -> None:
        match order:
            case AttemptOrder():
                self._begin(order.key)
            case StopOrder():
                self._stop(order.key, discard=order.discard)
            case CloseOrder():
                self._forget(order.key)
            case RosterOrder():
                pass  # Simulated light nodes believe the leader that they found.

    def _begin(self, key: AttemptKey) -> None:
        known = self._attempts.get(key)
        if known is not None:
            self._say_again(known)
            return
        attempt = _Attempt(key)
        self._attempts[key] = attempt
        if key not in self._node.world.doubtful_orders:
            self._node.world.checks.ordered(self._node.name, key)
        self._node.at(self._engine.now_us + self._engine.between(*SETUP_US), lambda: self._start(attempt))

    def _start(self, attempt: _Attempt) -> None:
        if attempt.ended is not None or attempt.forgotten or attempt.key not in self._attempts:
            return
        if self._engine.chance(FAULT_PER_MILLE):
            self._end(attempt, AttemptOutcome.WORKER_FAULT, None)
            return
        attempt.started = True
        self._say(AttemptStarted(key=attempt.key))
        exit_code = 1 if self._engine.chance(FAILED_PER_MILLE) else 0
        run_us = self._engine.between(*self._node.world.settings.run_us)
        self._node.at(self._engine.now_us + run_us, lambda: self._end(attempt, AttemptOutcome.EXITED, exit_code))

    def _stop(self, key: AttemptKey, *, discard: bool) -> None:
        attempt = self._attempts.get(key)
        if discard:
            self._forget(key)
        elif attempt is None:
            self._say(_ended(key, AttemptOutcome.STOPPED, None))
        elif attempt.ended is None:
            delay_us = self._engine.between(*STOP_US)
            self._node.at(self._engine.now_us + delay_us, lambda: self._end(attempt, AttemptOutcome.STOPPED, None))
        else:
            self._say_again(attempt)

    def _forget(self, key: AttemptKey) -> None:
        attempt = self._attempts.get(key)
        if attempt is None or attempt.forgotten:
            return
        attempt.forgotten = True
        delay_us = 0 if attempt.ended is not None else self._engine.between(*STOP_US)

        def drop() -> None:
            del self._attempts[key]

        self._node.at(self._engine.now_us + delay_us, drop)

    def _end(self, attempt: _Attempt, outcome: AttemptOutcome, exit_code: int | None) -> None:
        if attempt.ended is None and not attempt.forgotten and attempt.key in self._attempts:
            attempt.ended = _ended(attempt.key, outcome, exit_code)
            self._say(attempt.ended)


def _ended(key: AttemptKey, outcome: AttemptOutcome, exit_code: int | None) -> AttemptEnded:
    result = result_of(key) if exit_code == 0 else None
    return AttemptEnded(key=key, outcome=outcome, exit_code=exit_code, reason="", result=result, log=None, holders=())
