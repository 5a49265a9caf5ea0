"""Assignments: what the leader's workers have, held against what is agreed. Pure; the leader's memory, never agreed.

The agreed state says which attempts are open, each worker's hello says which it has, and the difference is what is to do. All
of it is looked at anew each time (level-triggered): what could not be agreed on is found again.

| agreed state | its worker | done |
|---|---|---|
| ASSIGNED | has a stream, and was not told | the order is sent |
| RUNNING, or stopped and still open | has a stream, and knows nothing of it | the attempt is lost: the worker restarted |
| open | is lost, as `membership.suspicion` has it | the attempt is lost |
| open | is suspect, and has no stream | its machine is dialled: its daemon may be gone, or on its way back |
| stopped, still open | says hello with it | a stop order |
| closed, or another's | says hello with it | a stop order that discards |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.state_view import ReadView
from hivenode.membership.suspicion import Standing, Suspicion, SuspicionConfig
from hivenode.pool import queries
from hivenode.pool.commands import EndAttempt, LoseAttempt, StartAttempt
from hivenode.pool.events import AttemptAssigned, AttemptClosed, AttemptRevoked, Event, NodeRemoved, TaskChanged
from hivenode.pool.placement import LiveNode
from hivenode.pool.records import TaskRecord, TaskState
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    AttemptOrder,
    AttemptStarted,
    CloseOrder,
    PeerAddress,
    RosterOrder,
    StopOrder,
    WorkerOrder,
)

RESTARTED: Final = "the worker was restarted"
"""Why an attempt is lost that its worker does not have; for persons."""
PROBE_INTERVAL_MS: Final = 1_000
"""A worker that owes an end and has no stream is dialled this often."""


class WorkerStream(Protocol):
    """The leader's end of a stream to a worker. Neither call waits, nor calls back."""

    def tell(self, order: WorkerOrder, /) -> None: ...

    def end(self) -> None: ...


S = TypeVar("S", bound=WorkerStream)


@dataclass(slots=True)
class _Worker(Generic[S]):
    stream: S
    known: set[AttemptKey]
    """What it has said hello with, or was told of since, and did not close."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is to be done: `losses` are proposed, each until `loss_ended`; the machines of `probes` are dialled."""

    losses: tuple[LoseAttempt, ...]
    probes: tuple[NodeId, ...]


class Assignments(Generic[S]):
    """See the module. Args: own: the leader's own node. All times are monotonic."""

    def __init__(self, own: NodeId, config: SuspicionConfig) -> None:
        self._own = own
        self._config = config
        self._suspicion = Suspicion(config)
        self._workers: dict[NodeId, _Worker[S]] = {}
        self._losing: set[AttemptKey] = set()
        self._probed_ms: dict[NodeId, int] = {}
        self._next_probe_ms: int | None = None

    # --- what is known ---------------------------------------------------------------------------------------------

    def live(self) -> dict[NodeId, LiveNode]:
        """Workers that may be given tasks now."""
        return {
            node: LiveNode(node_id=node, leads=node == self._own)
            for node in self._workers
            if self._suspicion.standing(node) is Standing.ALIVE
        }

    def standing(self, node: NodeId) -> Standing:
        return self._suspicion.standing(node)

    def stream(self, node: NodeId) -> S | None:
        """The stream that stands to a worker."""
        worker = self._workers.get(node)
        return None if worker is None else worker.stream

    # --- workers come and go ---------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Leadership came or went: nothing is known of any worker, and all streams end."""
        for worker in self._workers.values():
            worker.stream.end()
        self._workers.clear()
        self._suspicion = Suspicion(self._config)
        self._probed_ms.clear()
        self._next_probe_ms = None

    def opened(self, view: ReadView, node: NodeId, stream: S, has: Iterable[AttemptKey], now_ms: int) -> None:
        """A worker said hello with the attempts that it has. An earlier stream of it ends."""
        earlier = self._workers.pop(node, None)
        if earlier is not None:
            earlier.stream.end()
        worker = self._workers[node] = _Worker(stream, set(has))
        self._suspicion.heard(node, now_ms)
        wanted = {key_of(task): task for task in queries.open_attempts_of(view, node)}
        for key in has:
            task = wanted.get(key)
            if task is None:
                stream.tell(StopOrder(key=key, discard=True))
            elif task.state is TaskState.STOPPED:
                stream.tell(StopOrder(key=key, discard=False))
        for key, task in wanted.items():
            if task.state is TaskState.ASSIGNED and key not in worker.known:
                _order(view, worker, task)

    def heard(self, node: NodeId, stream: S, now_ms: int) -> None:
        if self.stream(node) is stream:
            self._suspicion.heard(node, now_ms)

    def closed(self, node: NodeId, stream: S) -> bool:
        """A stream broke or ended. Returns whether it was the worker's newest, so that there is something to look at."""
        if self.stream(node) is not stream:
            return False
        del self._workers[node]
        self._suspicion.reset(node)
        return True

    def refused(self, node: NodeId, now_ms: int) -> None:
        """The machine of a worker without a stream refused a connection."""
        self._suspicion.refused(node, now_ms)

    # --- what became of attempts -----------------------------------------------------------------------------------

    def applied(self, view: ReadView, events: Iterable[Event]) -> bool:
        """Tells workers what was agreed. Returns whether there is more to look at, or to place."""
        look = False
        for event in events:
            match event:
                case AttemptAssigned(node_id=node):
                    worker = self._workers.get(NodeId(node))
                    task = queries.task(view, event.user, event.task_id)
                    newest = task is not None and task.attempt == event.attempt and task.state is TaskState.ASSIGNED
                    if worker is not None and task is not None and newest and key_of(task) not in worker.known:
                        _order(view, worker, task)
                case AttemptRevoked(node_id=node):
                    worker = self._workers.get(NodeId(node))
                    if worker is not None:
                        worker.known.add(_key_in(event))  # It answers for one that it never heard of as well.
                        worker.stream.tell(StopOrder(key=_key_in(event), discard=False))
                case AttemptClosed(node_id=node):
                    self._close(NodeId(node), _key_in(event))
                    look = True
                case TaskChanged():
                    look = look or event.state is TaskState.PENDING
                case NodeRemoved():
                    for worker in self._workers.values():
                        worker.stream.tell(RosterOrder())
                case _:
                    pass  # Users, sessions and blobs are nothing to give to a worker.
        return look

    def report_refused(self, node: NodeId, stream: S, key: AttemptKey) -> None:
        """A worker's word of an end came too late, or was no good: the worker may forget the attempt."""
        if self.stream(node) is stream:
            self._close(node, key)

    def _close(self, node: NodeId, key: AttemptKey) -> None:
        worker = self._workers.get(node)
        if worker is not None:
            worker.known.discard(key)
            worker.stream.tell(CloseOrder(key=key))

    def loss_ended(self, loss: LoseAttempt) -> None:
        """It was agreed on, or is to be found again."""
        self._losing.discard(AttemptKey(user=loss.user, task_id=loss.task_id, attempt=loss.attempt))

    # --- the look at all of it -------------------------------------------------------------------------------------

    def look(self, view: ReadView, now_ms: int) -> Findings:
        """Holds all open attempts against their workers; orders are sent at once."""
        attempts = queries.open_attempts(view)
        owing = tuple(dict.fromkeys(NodeId(task.node_id) for task in attempts))
        for node in owing:
            self._suspicion.expect(node, now_ms)
        reasons = {lost.node_id: lost.reason for lost in self._suspicion.judge(now_ms)}
        for node in reasons:
            silent = self._workers.pop(node, None)
            if silent is not None:
                silent.stream.end()
        losses = [loss for task in attempts if (loss := self._loss(view, task, reasons)) is not None]
        return Findings(tuple(losses), self._probes(owing, now_ms))

    def _probes(self, owing: Iterable[NodeId], now_ms: int) -> tuple[NodeId, ...]:
        probes: list[NodeId] = []
        next_ms: list[int] = []
        for node in owing:
            if node in self._workers or self._suspicion.standing(node) is not Standing.SUSPECT:
                continue
            if now_ms - self._probed_ms.get(node, now_ms - PROBE_INTERVAL_MS) >= PROBE_INTERVAL_MS:
                self._probed_ms[node] = now_ms
                probes.append(node)
            next_ms.append(self._probed_ms[node] + PROBE_INTERVAL_MS)
        self._next_probe_ms = min(next_ms, default=None)
        return tuple(probes)

    def _loss(self, view: ReadView, task: TaskRecord, reasons: dict[NodeId, str]) -> LoseAttempt | None:
        node, key = NodeId(task.node_id), key_of(task)
        worker = self._workers.get(node)
        if worker is None:
            if self._suspicion.standing(node) is not Standing.LOST:
                return None
            reason = reasons.get(node, "the worker is gone")
        elif key in worker.known:
            return None
        elif task.state is TaskState.ASSIGNED:
            _order(view, worker, task)
            return None
        else:
            reason = RESTARTED
        if key in self._losing:
            return None
        self._losing.add(key)
        return LoseAttempt(
            user=task.user, task_id=task.task_id, attempt=task.attempt, node_id=task.node_id, reason=reason
        )

    def next_look_ms(self) -> int | None:
        """When to look again, if nothing is heard until then; None when time alone changes nothing."""
        moments = [moment for moment in (self._suspicion.next_deadline(), self._next_probe_ms) if moment is not None]
        return min(moments, default=None)


def _order(view: ReadView, worker: _Worker[S], task: TaskRecord) -> None:
    key = key_of(task)
    worker.known.add(key)
    holders = addresses(view, task.data_holders)
    worker.stream.tell(AttemptOrder(key=key, data=task.data, holders=holders, spec=task.spec))


def addresses(view: ReadView, nodes: Sequence[str]) -> tuple[PeerAddress, ...]:
    """Where nodes can be called, by what they last said of themselves."""
    entries = [entry for entry in (queries.node(view, NodeId(node)) for node in nodes) if entry is not None]
    return tuple(PeerAddress(node_id=entry.node_id, addresses=entry.addresses) for entry in entries)


def key_of(task: TaskRecord) -> AttemptKey:
    """The key of a task's newest attempt."""
    return AttemptKey(user=task.user, task_id=task.task_id, attempt=task.attempt)


def _key_in(event: AttemptRevoked | AttemptClosed) -> AttemptKey:
    return AttemptKey(user=event.user, task_id=event.task_id, attempt=event.attempt)


def command_of(node: NodeId, event: AttemptStarted | AttemptEnded) -> StartAttempt | EndAttempt:
    """What a worker's report asks the hive to agree on."""
    key = event.key
    if isinstance(event, AttemptStarted):
        return StartAttempt(user=key.user, task_id=key.task_id, attempt=key.attempt, node_id=node)
    return EndAttempt(
        user=key.user,
        task_id=key.task_id,
        attempt=key.attempt,
        node_id=node,
        outcome=event.outcome,
        exit_code=event.exit_code,
        reason=event.reason,
        result=event.result,
        log=event.log,
        # Without a second copy in time the worker at least has its own.
        output_holders=tuple(event.holders) or (node,),
    )
