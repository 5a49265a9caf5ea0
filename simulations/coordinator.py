"""The leader's hands in virtual time: places tasks, takes workers' reports, notices who is gone.

It does what `hivenode.runtime.coordinator` does, around the same `Assignments` and placement.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import Record
from hivenode.membership.suspicion import SuspicionConfig
from hivenode.pool import placement, queries
from hivenode.pool.commands import AssignTask, LoseAttempt, Reply, Sweep
from hivenode.pool.events import Event, NodeRevoked
from hivenode.runtime.assignments import RESTARTED, Assignments, command_of
from hivenode.runtime.coordinator import PLAN_LIMIT, PROPOSE_DEADLINE_S, RETRY_S, SWEEP_INTERVAL_S, SWEEP_ROWS_MAX
from hivenode.runtime.ports import AttemptEnded, AttemptKey, AttemptOrder, AttemptStarted, WorkerHello, WorkerOrder
from simulations.calls import Failure, Write, Written
from simulations.checkers.violation import demand
from simulations.engine import MS, SECOND
from simulations.network import Stream

if TYPE_CHECKING:
    from simulations.node import Node
    from simulations.replica import Replica

PROPOSE_DEADLINE_US: Final = int(PROPOSE_DEADLINE_S * SECOND)
RETRY_US: Final = int(RETRY_S * SECOND)
SWEEP_INTERVAL_US: Final = int(SWEEP_INTERVAL_S * SECOND)
PROBE_US: Final = (1 * MS, 20 * MS)
"""How long a refused connection takes."""


class Session:
    """The leader's side of one worker's stream."""

    def __init__(self, leader: Node, worker: Node, stream: Stream) -> None:
        self._leader = leader
        self.node: Final = worker.node_id
        self._stream = stream
        self.over = False

    def tell(self, order: WorkerOrder) -> None:
        if isinstance(order, AttemptOrder) and self._leader.tainted:
            self._leader.world.doubtful_orders.add(order.key)
        self._stream.send(1, order)

    def end(self) -> None:
        self._stream.close(1)


class Coordinator:
    """One for each life of a replica."""

    def __init__(self, node: Node, replica: Replica) -> None:
        self._node = node
        self._engine = node.world.engine
        self._replica = replica
        self._assignments: Assignments[Session] = Assignments(node.node_id, SuspicionConfig())
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
        session = Session(self._node, worker, stream)
        early: list[Any] = []
        is_open = False

        def receive(event: Any) -> None:
            if isinstance(event, WorkerHello):
                self._open(session, event, opened)
            elif is_open:
                self._handle(session, event)
            else:
                early.append(event)

        def opened() -> None:
            nonlocal is_open
            is_open = True
            for event in early:
                self._handle(session, event)

        def closed(reset: bool) -> None:
            session.over = True
            if self._assignments.closed(session.node, session):
                self._wake()

        return receive, closed

    def _open(self, session: Session, hello: WorkerHello, opened: Callable[[], None]) -> None:
        def current(failure: Failure | None) -> None:
            view = self._replica.view
            if failure is not None or not self._leading or queries.node(view, session.node) is None:
                session.end()
            elif not session.over:
                self._assignments.opened(view, session.node, session, hello.open, self._now_ms())
                opened()
                self._wake()

        if self._leading:
            self._replica.read_barrier(self._engine.now_us + PROPOSE_DEADLINE_US, current)
        else:
            session.end()

    def _handle(self, session: Session, event: Any) -> None:
        self._assignments.heard(session.node, session, self._now_ms())
        if isinstance(event, AttemptStarted | AttemptEnded):
            self._report(session, event)

    def _probe(self, node_id: NodeId) -> None:
        """A machine whose daemon is gone refuses; one that is cut off or without power says nothing."""
        worker = self._worker_on(node_id)
        if worker.powered and not worker.alive and self._node.reaches(worker):
            self._assignments.refused(node_id, self._now_ms())
            self._wake()

    def _worker_on(self, node_id: NodeId) -> Node:
        world = self._node.world
        return world.nodes[world.names[node_id]]

    def _now_ms(self) -> int:
        return self._node.clock.monotonic_ms()

    # --- proposals -------------------------------------------------------------------------------------------------

    def _propose(self, command: Record, done: Callable[[Reply | None], None]) -> None:
        def ended(result: Written) -> None:
            done(None if isinstance(result, Failure) else result)

        self._replica.propose(Write(body=command), self._engine.now_us + PROPOSE_DEADLINE_US, ended)

    def _report(self, session: Session, event: AttemptStarted | AttemptEnded) -> None:
        command = command_of(session.node, event)

        def agreed(reply: Reply | None) -> None:
            if reply is None:
                self._node.at(self._engine.now_us + RETRY_US, again)
            elif reply.refused and isinstance(event, AttemptEnded):
                self._assignments.report_refused(session.node, session, event.key)
                self._wake()

        def again() -> None:
            if self._assignments.stream(session.node) is session:
                self._propose(command, agreed)

        self._propose(command, agreed)

    def _lose(self, loss: LoseAttempt) -> None:
        worker = self._worker_on(NodeId(loss.node_id)).worker
        if worker is not None and loss.reason == RESTARTED and not self._node.tainted:
            key = AttemptKey(user=loss.user, task_id=loss.task_id, attempt=loss.attempt)
            demand(not worker.runs(key), f"{self._node.name} loses {key}, which its worker runs")

        def ended() -> None:
            self._assignments.loss_ended(loss)
            self._wake()

        def agreed(reply: Reply | None) -> None:
            if reply is None:
                self._node.at(self._engine.now_us + RETRY_US, ended)
            else:
                ended()

        self._propose(loss, agreed)

    # --- events ----------------------------------------------------------------------------------------------------

    def _applied(self, events: tuple[Event, ...]) -> None:
        if not self._leading:
            return
        for event in events:
            if isinstance(event, NodeRevoked):
                self._cut_off(NodeId(event.node_id))
        if self._assignments.applied(self._replica.view, events):
            self._wake()

    def _cut_off(self, node: NodeId) -> None:
        """As the daemon does with all that goes on with a revoked machine."""
        session = self._assignments.stream(node)
        if session is not None:
            self._assignments.closed(node, session)
            session.end()

    def _leadership_changed(self) -> None:
        leads = self._replica.leads
        if leads == self._leading:
            return
        self._leading = leads
        self._assignments.reset()
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
        findings = self._assignments.look(self._replica.view, self._now_ms())
        for loss in findings.losses:
            self._lose(loss)
        for node in findings.probes:
            self._node.at(self._engine.now_us + self._engine.between(*PROBE_US), partial(self._probe, node))
        self._place()
        self._arm()

    def _arm(self) -> None:
        deadline_ms = self._assignments.next_look_ms() if self._leading else None
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
        deadline_ms = self._assignments.next_look_ms()
        if deadline_ms is not None and deadline_ms <= self._node.clock.monotonic_ms():
            self._look()
        else:
            self._arm()

    def _place(self) -> None:
        if self._placing:
            return
        live = self._assignments.live()
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
