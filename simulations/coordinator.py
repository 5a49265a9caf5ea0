"""The leader's hands in virtual time: places tasks, takes workers' reports, notices who is gone.

It does what `hivenode.runtime.coordinator` does, over the same placement, queries and suspicion: level-triggered from the
agreed state and each worker's hello, proposing what it wants, and telling a worker only what came back applied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import Record
from hivenode.membership.suspicion import Standing, Suspicion, SuspicionConfig
from hivenode.pool import placement, queries
from hivenode.pool.commands import AssignTask, EndAttempt, LoseAttempt, Reply, StartAttempt, Sweep
from hivenode.pool.events import AttemptAssigned, AttemptClosed, AttemptRevoked, Event, NodeRevoked, TaskChanged
from hivenode.pool.placement import LiveNode
from hivenode.pool.records import TaskRecord, TaskState
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    AttemptOrder,
    AttemptStarted,
    CloseOrder,
    StopOrder,
    WorkerHeartbeat,
    WorkerHello,
    WorkerOrder,
)
from simulations.calls import Failure, Write, Written
from simulations.engine import MS, SECOND
from simulations.network import Stream

if TYPE_CHECKING:
    from simulations.node import Node
    from simulations.replica import Replica

PROPOSE_DEADLINE_US: Final = 10 * SECOND
RETRY_US: Final = 500 * MS
PLAN_LIMIT: Final = 64
SWEEP_INTERVAL_US: Final = 60 * SECOND
SWEEP_ROWS_MAX: Final = 256
PROBE_US: Final = (1 * MS, 20 * MS)
"""These are the daemon's own bounds (`runtime.coordinator`), and how long a refused connection takes."""


def key_of(task: TaskRecord) -> AttemptKey:
    return AttemptKey(user=task.user, task_id=task.task_id, attempt=task.attempt)


class Session:
    """The leader's side of one worker's stream."""

    def __init__(self, coordinator: Coordinator, worker: Node, stream: Stream, hello: WorkerHello) -> None:
        self.coordinator = coordinator
        self.worker: Final = worker
        self.node: Final = worker.node_id
        self.hello: Final = hello
        self.known = set(hello.open)
        self._stream = stream

    def tell(self, order: WorkerOrder) -> None:
        self._stream.send(1, order)

    def end(self) -> None:
        self._stream.close(1)


class Coordinator:
    """One for each life of a replica."""

    def __init__(self, node: Node, replica: Replica) -> None:
        self._node = node
        self._engine = node.world.engine
        self._replica = replica
        self._suspicion = Suspicion(SuspicionConfig())
        self._sessions: dict[NodeId, Session] = {}
        self._losing: set[AttemptKey] = set()
        self._leading = False
        self._placing = False
        self._woken = False
        self._timer_us = 0
        replica.listeners.append(self._applied)
        replica.leadership_listeners.append(self._leadership_changed)
        node.at(self._engine.now_us + SWEEP_INTERVAL_US, self._sweep)

    # --- workers come and go ---------------------------------------------------------------------------------------

    def accept(self, worker: Node, stream: Stream) -> tuple[Callable[[Any], None], Callable[[bool], None]]:
        """What the leader's end of a new stream does with what comes, and at its end."""
        session: Session | None = None

        def receive(event: Any) -> None:
            nonlocal session
            if isinstance(event, WorkerHello):
                session = self._open(worker, stream, event)
            elif session is not None:
                self._handle(session, event)

        def closed(reset: bool) -> None:
            if session is not None:
                self._closed(session, reset)

        return receive, closed

    def _open(self, worker: Node, stream: Stream, hello: WorkerHello) -> Session | None:
        if not self._leading or queries.node(self._replica.view, worker.node_id) is None:
            stream.close(1)
            return None
        earlier = self._sessions.pop(worker.node_id, None)
        if earlier is not None:
            earlier.end()
        session = Session(self, worker, stream, hello)
        self._sessions[session.node] = session
        self._suspicion.heard(session.node, self._node.clock.monotonic_ms())
        self._reconcile(session)
        self._wake()
        return session

    def _handle(self, session: Session, event: Any) -> None:
        if self._sessions.get(session.node) is session:
            self._suspicion.heard(session.node, self._node.clock.monotonic_ms())
        match event:
            case WorkerHeartbeat():
                pass  # A deadline that it moved is looked at when it comes; looking at all for each word would cost much.
            case AttemptStarted() | AttemptEnded():
                self._report(session, event)

    def _closed(self, session: Session, reset: bool) -> None:
        if self._sessions.get(session.node) is not session:
            return
        del self._sessions[session.node]
        self._suspicion.reset(session.node)
        if reset and self._leading:
            delay_us = self._engine.between(*PROBE_US)
            self._node.at(self._engine.now_us + delay_us, lambda: self._probe(session.worker))
        self._wake()

    def _probe(self, worker: Node) -> None:
        """A machine whose daemon is gone refuses; one that is cut off or without power says nothing."""
        refuses = worker.powered and not worker.alive and self._node.reaches(worker)
        if refuses:
            self._suspicion.refused(worker.node_id, self._node.clock.monotonic_ms())
            self._wake()

    def _reconcile(self, session: Session) -> None:
        view = self._replica.view
        wanted = {key_of(task): task for task in queries.open_attempts_of(view, session.node)}
        for key in session.hello.open:
            task = wanted.get(key)
            if task is None:
                session.tell(StopOrder(key=key, discard=True))
            elif task.state is TaskState.STOPPED:
                session.tell(StopOrder(key=key, discard=False))
        for key, task in wanted.items():
            if key in session.known:
                continue
            if task.state is TaskState.ASSIGNED:
                self._order(session, task)
            else:
                self._lose(task, "the worker was restarted")

    def _order(self, session: Session, task: TaskRecord) -> None:
        key = key_of(task)
        if self._node.tainted:
            self._node.world.doubtful_orders.add(key)
        session.known.add(key)
        session.tell(AttemptOrder(key=key, data=task.data, holders=(), spec=task.spec))

    # --- proposals -------------------------------------------------------------------------------------------------

    def _propose(self, command: Record, done: Callable[[Reply | None], None]) -> None:
        def ended(result: Written) -> None:
            done(None if isinstance(result, Failure) else result)

        self._replica.propose(Write(body=command), self._engine.now_us + PROPOSE_DEADLINE_US, ended)

    def _report(self, session: Session, event: AttemptStarted | AttemptEnded) -> None:
        key = event.key
        command: StartAttempt | EndAttempt
        match event:
            case AttemptStarted():
                command = StartAttempt(user=key.user, task_id=key.task_id, attempt=key.attempt, node_id=session.node)
            case AttemptEnded():
                command = EndAttempt(
                    user=key.user,
                    task_id=key.task_id,
                    attempt=key.attempt,
                    node_id=session.node,
                    outcome=event.outcome,
                    exit_code=event.exit_code,
                    reason=event.reason,
                    result=event.result,
                    log=event.log,
                    output_holders=tuple(event.holders),
                )

        def agreed(reply: Reply | None) -> None:
            if reply is None:
                self._node.at(self._engine.now_us + RETRY_US, again)
            elif reply.refused and isinstance(event, AttemptEnded):
                session.known.discard(key)
                session.tell(CloseOrder(key=key))

        def again() -> None:
            if self._sessions.get(session.node) is session:
                self._propose(command, agreed)

        self._propose(command, agreed)

    def _lose(self, task: TaskRecord, reason: str) -> None:
        key = key_of(task)
        if key in self._losing:
            return
        self._losing.add(key)

        def agreed(reply: Reply | None) -> None:
            self._losing.discard(key)
            if reply is None:
                self._node.at(self._engine.now_us + RETRY_US, self._wake)
            else:
                self._wake()

        command = LoseAttempt(
            user=task.user, task_id=task.task_id, attempt=task.attempt, node_id=task.node_id, reason=reason
        )
        self._propose(command, agreed)

    # --- events ----------------------------------------------------------------------------------------------------

    def _applied(self, events: tuple[Event, ...]) -> None:
        if not self._leading:
            return
        for event in events:
            match event:
                case AttemptAssigned():
                    session = self._sessions.get(NodeId(event.node_id))
                    task = queries.task(self._replica.view, event.user, event.task_id)
                    if session and task and task.attempt == event.attempt and task.state is TaskState.ASSIGNED:
                        self._order(session, task)
                case AttemptRevoked():
                    session = self._sessions.get(NodeId(event.node_id))
                    if session is not None:
                        session.tell(StopOrder(key=_key(event), discard=False))
                case AttemptClosed():
                    session = self._sessions.get(NodeId(event.node_id))
                    if session is not None:
                        session.known.discard(_key(event))
                        session.tell(CloseOrder(key=_key(event)))
                    self._wake()
                case NodeRevoked():
                    revoked = self._sessions.pop(NodeId(event.node_id), None)
                    if revoked is not None:
                        self._suspicion.reset(revoked.node)
                        revoked.end()
                case TaskChanged():
                    if event.state is TaskState.PENDING:
                        self._wake()
                case _:
                    pass

    def _leadership_changed(self) -> None:
        leads = self._replica.leads
        if leads == self._leading:
            return
        self._leading = leads
        for session in self._sessions.values():
            session.end()
        self._sessions.clear()
        self._suspicion = Suspicion(SuspicionConfig())
        self._wake()

    # --- the loop --------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Looks at everything soon, once for all that woke it."""
        if not self._woken:
            self._woken = True
            self._node.at(self._engine.now_us, self._look)

    def _look(self) -> None:
        self._woken = False
        if not self._leading or not self._replica.leads:
            return
        self._judge()
        self._place()
        self._arm()

    def _arm(self) -> None:
        deadline_ms = self._suspicion.next_deadline() if self._leading else None
        if deadline_ms is None:
            return
        moment_us = max(self._node.clock.moment_us(deadline_ms), self._engine.now_us + MS)
        if self._engine.now_us < self._timer_us <= moment_us:
            return
        self._timer_us = moment_us
        self._node.at(moment_us, lambda: self._timer(moment_us))

    def _timer(self, moment_us: int) -> None:
        if self._timer_us != moment_us:
            return
        self._timer_us = 0
        deadline_ms = self._suspicion.next_deadline()
        if deadline_ms is not None and deadline_ms <= self._node.clock.monotonic_ms():
            self._look()
        else:
            self._arm()

    def _judge(self) -> None:
        now_ms = self._node.clock.monotonic_ms()
        open_attempts = queries.open_attempts(self._replica.view)
        for task in open_attempts:
            self._suspicion.expect(NodeId(task.node_id), now_ms)
        reasons = {lost.node_id: lost.reason for lost in self._suspicion.judge(now_ms)}
        for node in reasons:
            session = self._sessions.pop(node, None)
            if session is not None:
                session.end()
        for task in open_attempts:
            node_id = NodeId(task.node_id)
            if self._suspicion.standing(node_id) is Standing.LOST:
                self._lose(task, reasons.get(node_id, "the worker is gone"))

    def _place(self) -> None:
        if self._placing:
            return
        live = {
            node: LiveNode(node_id=node) for node in self._sessions if self._suspicion.standing(node) is Standing.ALIVE
        }
        planned: tuple[AssignTask, ...] = placement.plan(self._replica.view, live, limit=PLAN_LIMIT) if live else ()
        if not planned:
            return
        self._placing = True
        replies: list[Reply | None] = []

        def agreed(reply: Reply | None) -> None:
            replies.append(reply)
            if len(replies) < len(planned):
                return
            self._placing = False
            if None in replies:
                self._node.at(self._engine.now_us + RETRY_US, self._wake)
            if any(reply is not None and not reply.refused for reply in replies):
                self._wake()

        for command in planned:
            self._propose(command, agreed)

    def _sweep(self) -> None:
        self._node.at(self._engine.now_us + SWEEP_INTERVAL_US, self._sweep)
        if self._leading:
            keep_ms = self._node.world.settings.keep_tasks_ms
            self._propose(Sweep(keep_tasks_ms=keep_ms, rows_max=SWEEP_ROWS_MAX), lambda _reply: None)


def _key(event: AttemptRevoked | AttemptClosed) -> AttemptKey:
    return AttemptKey(user=event.user, task_id=event.task_id, attempt=event.attempt)
