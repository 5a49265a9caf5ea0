"""The coordinator: the leader's hands. It gives pending tasks to workers, takes their reports, and notices who is gone.

Rules:
- It acts only while this node leads, and holds nothing that a new leader could not learn again: what is to do is the difference
  of the agreed state and what workers say (`runtime.assignments`).
- It never waits on a tick: applied events, workers' words and deadlines wake it.
- What it wants it proposes; only what came back applied is told to a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, assert_never

import structlog

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import Record
from hivenode.errors import Code, HiveError, InvariantError
from hivenode.membership.suspicion import Standing, SuspicionConfig
from hivenode.pool import placement, queries
from hivenode.pool.commands import AssignTask, LoseAttempt, Reply, Sweep
from hivenode.pool.events import Event
from hivenode.pool.records import TaskRecord
from hivenode.runtime.assignments import Assignments, command_of
from hivenode.runtime.local import node_of
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptStarted,
    PeerNetwork,
    WorkerEvent,
    WorkerHeartbeat,
    WorkerHello,
    WorkerOrder,
)
from hivenode.runtime.replica import Replica

ORDERS_MAX: Final = 4_096
"""Orders that wait for one worker; a worker that takes none for so long is disconnected and reconciled anew."""
REPORTS_MAX: Final = 64
"""Reports of one worker that are being agreed on at once."""
PROPOSE_DEADLINE_S: Final = 10.0
"""A command of the coordinator's own is repeated from the state it finds, so it need not wait long."""
RETRY_S: Final = 0.5
"""What could not be agreed on is looked at again after this: a lost majority or a full disk takes longer to mend."""
PROBE_DEADLINE_S: Final = 2.0
"""A machine on a LAN that does not answer a connection in this time is silent, not gone."""
PLAN_LIMIT: Final = 64
"""Tasks placed in one round: they share one fsync."""
SWEEP_INTERVAL_S: Final = 60.0
SWEEP_ROWS_MAX: Final = 256
"""Rows that one sweep removes, so that it never holds up the log."""

_log = structlog.get_logger(__name__)


class Session:
    """The leader's side of one worker's stream; fills `WorkerSession`, and `WorkerStream` of `runtime.assignments`."""

    def __init__(self, coordinator: Coordinator, node: NodeId) -> None:
        self._coordinator = coordinator
        self.node: Final = node
        self._orders: asyncio.Queue[WorkerOrder | None] = asyncio.Queue(ORDERS_MAX)
        self._reports = asyncio.Semaphore(REPORTS_MAX)

    async def handle(self, event: WorkerEvent) -> None:
        """Takes a word of the worker; waits only while too many of its reports are being agreed on."""
        self._coordinator.heard(self)
        match event:
            case WorkerHeartbeat():
                pass  # That it was heard is all that placement wants of it.
            case WorkerHello():
                raise HiveError(Code.PEER_REJECTED, "a worker says hello once a stream")
            case AttemptStarted() | AttemptEnded():
                await self._reports.acquire()
                # Proposals enter the log in the order in which these tasks first run, which is the order made.
                self._coordinator.spawn(self._report(event))
            case _:
                assert_never(event)

    async def _report(self, event: AttemptStarted | AttemptEnded) -> None:
        try:
            await self._coordinator.agree_report(self, event)
        finally:
            self._reports.release()

    def tell(self, order: WorkerOrder) -> None:
        """Queues an order; a worker that takes none is disconnected."""
        try:
            self._orders.put_nowait(order)
        except asyncio.QueueFull:
            self.end()

    def end(self) -> None:
        """Ends the stream from the leader's side."""
        while self._orders.full():
            self._orders.get_nowait()
        self._orders.put_nowait(None)

    async def orders(self) -> AsyncIterator[WorkerOrder]:
        while (order := await self._orders.get()) is not None:
            yield order

    async def closed(self, reset: bool) -> None:
        self._coordinator.session_closed(self)


class Coordinator:
    """See the module. `clock_ms` is monotonic; `keep_tasks_ms` is how long ended tasks are kept."""

    def __init__(
        self,
        *,
        replica: Replica,
        peers: PeerNetwork,
        clock_ms: Callable[[], int],
        keep_tasks_ms: int,
        suspicion: SuspicionConfig | None = None,
    ) -> None:
        self._replica = replica
        self._peers = peers
        self._clock_ms = clock_ms
        self._keep_tasks_ms = keep_tasks_ms
        self._assignments: Assignments[Session] = Assignments(
            node_of(replica.member_id), suspicion or SuspicionConfig()
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: InvariantError | None = None
        self._wake = asyncio.Event()
        self._leading = False
        replica.subscribe(self._applied)
        replica.on_leadership(self._leadership_changed)

    # --- what the rest of the daemon asks --------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        return self._leading

    def standing(self, node: NodeId) -> Standing:
        return self._assignments.standing(node)

    def session(self, node: NodeId) -> Session | None:
        return self._assignments.stream(node)

    def why_pending(self, task: TaskRecord) -> str:
        return placement.why_pending(self._replica.view(), self._assignments.live(), task)

    def doubt(self, task: TaskRecord) -> str:
        """What is not known of a task that should be running; empty when its worker is heard."""
        if self.standing(NodeId(task.node_id)) is Standing.ALIVE:
            return ""
        return f"UNKNOWN: nothing is heard from node {task.node_id}, which should run it; it is waited for before it is lost"

    # --- workers come and go ---------------------------------------------------------------------------------------

    async def open_session(self, node: NodeId, hello: WorkerHello) -> Session:
        """A worker's stream began. Raises NO_LEADER when this node does not lead, NODE_NOT_FOUND for a stranger."""
        if self._leading:
            # A leader that was just elected has perhaps not applied yet what the one before it agreed with this worker.
            await self._replica.read_barrier(PROPOSE_DEADLINE_S)
        if not self._leading:
            raise HiveError(Code.NO_LEADER, "this node does not lead; ask for the leader again")
        if queries.node(self._replica.view(), node) is None:
            raise HiveError(Code.NODE_NOT_FOUND, "this node is not in the hive yet; it must join first")
        session = Session(self, node)
        self._assignments.opened(self._replica.view(), node, session, hello.open, self._clock_ms())
        self._wake.set()
        return session

    def heard(self, session: Session) -> None:
        self._assignments.heard(session.node, session, self._clock_ms())

    def session_closed(self, session: Session) -> None:
        if self._assignments.closed(session.node, session):
            self._wake.set()

    async def _probe(self, node: NodeId) -> None:
        try:
            if not await self._peers.probe(node, PROBE_DEADLINE_S):
                self._assignments.refused(node, self._clock_ms())
        except HiveError:
            return  # Silence says nothing; time will.
        self._wake.set()

    # --- reports ---------------------------------------------------------------------------------------------------

    async def agree_report(self, session: Session, event: AttemptStarted | AttemptEnded) -> None:
        """Proposes what a worker reported; a stale report is answered with a close order."""
        command = command_of(session.node, event)
        while (reply := await self._propose(command)) is None:
            if self.session(session.node) is not session:
                return  # The worker says it again on its next stream, to whoever leads then.
            await asyncio.sleep(RETRY_S)
        if reply.refused and isinstance(event, AttemptEnded):
            _log.info(
                "a late report changed nothing", node=session.node, task=event.key.task_id, attempt=event.key.attempt
            )
            self._assignments.report_refused(session.node, session, event.key)
            self._wake.set()

    async def _lose(self, loss: LoseAttempt) -> None:
        _log.warning("attempt lost", task=loss.task_id, attempt=loss.attempt, node=loss.node_id, reason=loss.reason)
        try:
            if await self._propose(loss) is None:
                await asyncio.sleep(RETRY_S)
        finally:
            self._assignments.loss_ended(loss)
            self._wake.set()

    async def _propose(self, command: Record) -> Reply | None:
        """The reply, or None when it was not or perhaps not agreed: what is still to do is found again in the state."""
        try:
            return await self._replica.propose(command, deadline_s=PROPOSE_DEADLINE_S)
        except HiveError as error:
            _log.info("not agreed now", command=type(command).__name__, reason=error.message)
            return None

    # --- events ----------------------------------------------------------------------------------------------------

    def _applied(self, events: tuple[Event, ...]) -> None:
        if self._leading and self._assignments.applied(self._replica.view(), events):
            self._wake.set()

    def _leadership_changed(self) -> None:
        leads = self._replica.leads
        if leads == self._leading:
            return
        self._leading = leads
        self._assignments.reset()
        self._wake.set()

    # --- the loop --------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs work beside the loop; it ends with the coordinator and its failure is not lost."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, InvariantError):
            self._broken = self._broken or error
            self._wake.set()
        else:
            _log.error("coordinator work failed", exc_info=error)

    async def run(self) -> None:
        """Coordinates until cancelled. Raises InvariantError when agreed state is broken; the daemon must stop."""
        sweeper = asyncio.create_task(self._sweep(), name="sweeper")
        try:
            while True:
                self._wake.clear()
                if self._broken is not None:
                    raise self._broken
                if self._leading and self._replica.leads:
                    self._look()
                    if await self._place():
                        continue
                await self._sleep()
        finally:
            for task in (sweeper, *self._tasks):
                task.cancel()
            await asyncio.gather(sweeper, *self._tasks, return_exceptions=True)

    async def _sleep(self) -> None:
        look_ms = self._assignments.next_look_ms() if self._leading else None
        timeout_s = None if look_ms is None else max(0.0, (look_ms - self._clock_ms()) / 1_000)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _look(self) -> None:
        findings = self._assignments.look(self._replica.view(), self._clock_ms())
        for loss in findings.losses:
            self.spawn(self._lose(loss))
        for node in findings.probes:
            self.spawn(self._probe(node))

    async def _place(self) -> bool:
        """Assigns what can be assigned now; True when anything was, so that the rest is looked at again."""
        live = self._assignments.live()
        if not live:
            return False
        planned: tuple[AssignTask, ...] = placement.plan(self._replica.view(), live, limit=PLAN_LIMIT)
        replies = await asyncio.gather(*(self._propose(command) for command in planned))
        if None in replies:
            asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)
        return any(reply is not None and not reply.refused for reply in replies)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            if self._leading:
                await self._propose(Sweep(keep_tasks_ms=self._keep_tasks_ms, rows_max=SWEEP_ROWS_MAX))
