"""The coordinator: the leader's hands. It gives pending tasks to workers, takes their reports, and notices who is gone.

Rules:
- It acts only while this node leads, and holds nothing that a new leader could not learn again: the agreed state says which
  attempts are open, each worker's hello says which it has, and the difference is what is to do (level-triggered).
- It never waits on a tick: applied events, workers' words and deadlines wake it.
- What it wants it proposes; only what came back applied is told to a worker.

| agreed state | worker's hello | done |
|---|---|---|
| ASSIGNED to it | not there | the order is sent (again) |
| RUNNING on it | not there | the attempt is lost: the worker restarted |
| stopped, still open | there | a stop order |
| closed, or another's | there | a stop order that discards |
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final, assert_never

import structlog

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import Record
from hivenode.errors import Code, HiveError, InvariantError
from hivenode.membership.suspicion import Standing, Suspicion, SuspicionConfig
from hivenode.pool import placement, queries
from hivenode.pool.commands import AssignTask, EndAttempt, LoseAttempt, Reply, StartAttempt, Sweep
from hivenode.pool.events import AttemptAssigned, AttemptClosed, AttemptRevoked, Event, NodeRemoved, TaskChanged
from hivenode.pool.placement import LiveNode
from hivenode.pool.records import TaskRecord, TaskState
from hivenode.runtime.local import node_of
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    AttemptOrder,
    AttemptStarted,
    CloseOrder,
    PeerAddress,
    PeerNetwork,
    RosterOrder,
    StopOrder,
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
PROBE_INTERVAL_MS: Final = 1_000
"""A worker that owes an end and has no stream is dialled this often: its daemon may be gone, or on its way back."""
PLAN_LIMIT: Final = 64
"""Tasks placed in one round: they share one fsync."""
SWEEP_INTERVAL_S: Final = 60.0
SWEEP_ROWS_MAX: Final = 256
"""Rows that one sweep removes, so that it never holds up the log."""

_log = structlog.get_logger(__name__)


def _key_of(task: TaskRecord) -> AttemptKey:
    return AttemptKey(user=task.user, task_id=task.task_id, attempt=task.attempt)


class Session:
    """The leader's side of one worker's stream; fills `WorkerSession`."""

    def __init__(self, coordinator: Coordinator, node: NodeId, hello: WorkerHello) -> None:
        self._coordinator = coordinator
        self.node: Final = node
        self.hello: Final = hello
        self.known = set(hello.open)
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
        self._suspicion_config = suspicion or SuspicionConfig()
        self._suspicion = Suspicion(self._suspicion_config)
        self._sessions: dict[NodeId, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._losing: set[AttemptKey] = set()
        self._broken: InvariantError | None = None
        self._probed_ms: dict[NodeId, int] = {}
        self._wake = asyncio.Event()
        self._leading = False
        replica.subscribe(self._applied)
        replica.on_leadership(self._leadership_changed)

    # --- what the rest of the daemon asks --------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        return self._leading

    def live(self) -> dict[NodeId, LiveNode]:
        """Workers that may be given tasks now."""
        own = node_of(self._replica.member_id)
        return {
            node: LiveNode(node_id=node, leads=node == own)
            for node in self._sessions
            if self._suspicion.standing(node) is Standing.ALIVE
        }

    def standing(self, node: NodeId) -> Standing:
        return self._suspicion.standing(node)

    def session(self, node: NodeId) -> Session | None:
        return self._sessions.get(node)

    def why_pending(self, task: TaskRecord) -> str:
        return placement.why_pending(self._replica.view(), self.live(), task)

    def doubt(self, task: TaskRecord) -> str:
        """What is not known of a task that should be running; empty when its worker is heard."""
        if self._suspicion.standing(NodeId(task.node_id)) is Standing.ALIVE:
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
        earlier = self._sessions.pop(node, None)
        if earlier is not None:
            earlier.end()
        session = Session(self, node, hello)
        self._sessions[node] = session
        self._suspicion.heard(node, self._clock_ms())
        self._reconcile(session)
        self._wake.set()
        return session

    def heard(self, session: Session) -> None:
        if self._sessions.get(session.node) is session:
            self._suspicion.heard(session.node, self._clock_ms())

    def session_closed(self, session: Session) -> None:
        if self._sessions.get(session.node) is not session:
            return
        del self._sessions[session.node]
        self._suspicion.reset(session.node)
        self._wake.set()

    async def _probe(self, node: NodeId) -> None:
        try:
            if not await self._peers.probe(node, PROBE_DEADLINE_S):
                self._suspicion.refused(node, self._clock_ms())
        except HiveError:
            return  # Silence says nothing; time will.
        self._wake.set()

    def _reconcile(self, session: Session) -> None:
        """Compares what the worker has with what is agreed; see the table above."""
        view = self._replica.view()
        wanted = {_key_of(task): task for task in queries.open_attempts_of(view, session.node)}
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
                self.spawn(self._lose(task, "the worker was restarted"))

    def _order(self, session: Session, task: TaskRecord) -> None:
        key = _key_of(task)
        session.known.add(key)
        order = AttemptOrder(key=key, data=task.data, holders=self.addresses(task.data_holders), spec=task.spec)
        session.tell(order)

    def addresses(self, nodes: Sequence[str]) -> tuple[PeerAddress, ...]:
        """Where nodes can be called, by what they last said of themselves."""
        view = self._replica.view()
        entries = [entry for entry in (queries.node(view, NodeId(node)) for node in nodes) if entry is not None]
        return tuple(PeerAddress(node_id=entry.node_id, addresses=entry.addresses) for entry in entries)

    # --- reports ---------------------------------------------------------------------------------------------------

    async def agree_report(self, session: Session, event: AttemptStarted | AttemptEnded) -> None:
        """Proposes what a worker reported; a stale report is answered with a close order."""
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
                    # Without a second copy in time the worker at least has its own.
                    output_holders=tuple(event.holders) or (session.node,),
                )
        while (reply := await self._propose(command)) is None:
            if self._sessions.get(session.node) is not session:
                return  # The worker says it again on its next stream, to whoever leads then.
            await asyncio.sleep(RETRY_S)
        if reply.refused and isinstance(event, AttemptEnded):
            _log.info("a late report changed nothing", node=session.node, task=key.task_id, attempt=key.attempt)
            session.known.discard(key)
            session.tell(CloseOrder(key=key))

    async def _lose(self, task: TaskRecord, reason: str) -> None:
        key = _key_of(task)
        if key in self._losing:
            return
        self._losing.add(key)
        _log.warning("attempt lost", task=task.task_id, attempt=task.attempt, node=task.node_id, reason=reason)
        try:
            while not await self._agree_loss(task, reason):
                await asyncio.sleep(RETRY_S)
                if not self._leading or not self._is_gone(NodeId(task.node_id), key):
                    return
        finally:
            self._losing.discard(key)
            self._wake.set()

    async def _agree_loss(self, task: TaskRecord, reason: str) -> bool:
        """Whether it is settled, be it that the attempt was closed otherwise meanwhile."""
        reply = await self._propose(
            LoseAttempt(user=task.user, task_id=task.task_id, attempt=task.attempt, node_id=task.node_id, reason=reason)
        )
        return reply is not None

    def _is_gone(self, node: NodeId, key: AttemptKey) -> bool:
        """Whether an attempt is lost by what is known now: its worker may have come back with it."""
        session = self._sessions.get(node)
        return self._suspicion.standing(node) is Standing.LOST if session is None else key not in session.known

    async def _propose(self, command: Record) -> Reply | None:
        """The reply, or None when it was not or perhaps not agreed: what is still to do is found again in the state."""
        try:
            return await self._replica.propose(command, deadline_s=PROPOSE_DEADLINE_S)
        except HiveError as error:
            _log.info("not agreed now", command=type(command).__name__, reason=error.message)
            return None

    # --- events ----------------------------------------------------------------------------------------------------

    def _applied(self, events: tuple[Event, ...]) -> None:
        if not self._leading:
            return
        for event in events:
            match event:
                case AttemptAssigned():
                    session = self._sessions.get(NodeId(event.node_id))
                    task = queries.task(self._replica.view(), event.user, event.task_id)
                    if session and task and task.attempt == event.attempt and task.state is TaskState.ASSIGNED:
                        self._order(session, task)
                case AttemptRevoked():
                    self._tell(event.node_id, StopOrder(key=self._key(event), discard=False))
                case AttemptClosed():
                    session = self._sessions.get(NodeId(event.node_id))
                    if session is not None:
                        session.known.discard(self._key(event))
                        session.tell(CloseOrder(key=self._key(event)))
                    self._wake.set()
                case TaskChanged():
                    if event.state is TaskState.PENDING:
                        self._wake.set()
                case NodeRemoved():
                    for session in tuple(self._sessions.values()):
                        session.tell(RosterOrder())
                case _:
                    pass  # Users, sessions and blobs are nothing to give to a worker.

    @staticmethod
    def _key(event: AttemptRevoked | AttemptClosed) -> AttemptKey:
        return AttemptKey(user=event.user, task_id=event.task_id, attempt=event.attempt)

    def _tell(self, node: str, order: WorkerOrder) -> None:
        session = self._sessions.get(NodeId(node))
        if session is not None:
            session.tell(order)

    def _leadership_changed(self) -> None:
        leads = self._replica.leads
        if leads == self._leading:
            return
        self._leading = leads
        for session in self._sessions.values():
            session.end()
        self._sessions.clear()
        self._suspicion = Suspicion(self._suspicion_config)
        self._probed_ms.clear()
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
                    self._judge()
                    if await self._place():
                        continue
                await self._sleep()
        finally:
            for task in (sweeper, *self._tasks):
                task.cancel()
            await asyncio.gather(sweeper, *self._tasks, return_exceptions=True)

    async def _sleep(self) -> None:
        deadline = self._suspicion.next_deadline() if self._leading else None
        timeout_s = None if deadline is None else max(0.0, (deadline - self._clock_ms()) / 1_000)
        if timeout_s is not None and self._suspects_owe():
            timeout_s = min(timeout_s, PROBE_INTERVAL_MS / 1_000)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _suspects_owe(self) -> bool:
        return any(
            self._suspicion.standing(NodeId(task.node_id)) is Standing.SUSPECT
            for task in queries.open_attempts(self._replica.view())
        )

    def _judge(self) -> None:
        now = self._clock_ms()
        open_attempts = queries.open_attempts(self._replica.view())
        for node in {NodeId(task.node_id) for task in open_attempts}:
            self._suspicion.expect(node, now)
            absent = node not in self._sessions and self._suspicion.standing(node) is Standing.SUSPECT
            if absent and now - self._probed_ms.get(node, -PROBE_INTERVAL_MS) >= PROBE_INTERVAL_MS:
                self._probed_ms[node] = now
                self.spawn(self._probe(node))
        reasons = {lost.node_id: lost.reason for lost in self._suspicion.judge(now)}
        for node in reasons:
            session = self._sessions.pop(node, None)
            if session is not None:
                session.end()
        for task in open_attempts:
            node = NodeId(task.node_id)
            if self._suspicion.standing(node) is Standing.LOST:
                self.spawn(self._lose(task, reasons.get(node, "the worker is gone")))

    async def _place(self) -> bool:
        """Assigns what can be assigned now; True when anything was, so that the rest is looked at again."""
        live = self.live()
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
