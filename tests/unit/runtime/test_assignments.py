"""What the leader orders of its workers, and which attempts it takes for lost: the table of `runtime.assignments`, row by row."""

from __future__ import annotations

from collections.abc import Iterable

from hivenode.encoding.node_record import NodeId
from hivenode.membership.suspicion import Standing, SuspicionConfig
from hivenode.pool.commands import EndAttempt, RemoveNode, StopTask
from hivenode.pool.records import AttemptOutcome, TaskState
from hivenode.runtime.assignments import PROBE_INTERVAL_MS, Assignments, Findings, command_of
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    AttemptOrder,
    CloseOrder,
    RosterOrder,
    StopOrder,
    WorkerOrder,
)
from tests.unit.pool.driver import RESULT, Hive, node_id

LEADER = node_id(1)
TIMES = SuspicionConfig()
NOTHING = Findings((), ())


class Stream:
    """What a worker was told."""

    def __init__(self) -> None:
        self.told: list[WorkerOrder] = []
        self.ended = False

    def tell(self, order: WorkerOrder) -> None:
        self.told.append(order)

    def end(self) -> None:
        self.ended = True

    def orders(self) -> list[WorkerOrder]:
        """What came since the last look."""
        told, self.told = self.told, []
        return told


class Stage:
    """A hive with one user and one worker, and what its leader makes of them."""

    def __init__(self) -> None:
        self.hive = Hive()
        self.session = self.hive.user("alice")
        self.worker: NodeId = self.hive.node(7)
        self.assignments: Assignments[Stream] = Assignments(LEADER, TIMES)
        self.now_ms = 1_000_000

    def open(self, *has: AttemptKey) -> Stream:
        stream = Stream()
        self.assignments.opened(self.hive.view, self.worker, stream, has, self.now_ms)
        return stream

    def assign(self, name: str, *, applied: bool = True) -> AttemptKey:
        self.hive.submit(self.session, name)
        self.hive.assign("alice", name, self.worker)
        if applied:
            self.applied()
        return key_of(name)

    def run(self, name: str, *, applied: bool = True) -> AttemptKey:
        key = self.assign(name, applied=applied)
        self.hive.start("alice", name, self.worker)
        return key

    def stop(self, name: str) -> None:
        self.hive.do(StopTask(session_id=self.session, task_id=name))

    def applied(self) -> bool:
        """Hears the events of the newest entry."""
        return self.assignments.applied(self.hive.view, self.hive.events)

    def look(self, after_ms: int = 0) -> Findings:
        self.now_ms += after_ms
        return self.assignments.look(self.hive.view, self.now_ms)


def key_of(name: str, attempt: int = 1) -> AttemptKey:
    return AttemptKey(user="alice", task_id=name, attempt=attempt)


def lost(findings: Findings) -> list[tuple[str, str]]:
    return [(loss.task_id, loss.reason) for loss in findings.losses]


def keys(orders: Iterable[WorkerOrder], kind: type[AttemptOrder] | type[CloseOrder]) -> list[AttemptKey]:
    return [order.key for order in orders if isinstance(order, kind)]


def test_what_is_assigned_is_ordered_once_and_again_on_the_next_stream_that_comes_without_it() -> None:
    stage = Stage()
    stream = stage.open()
    key = stage.assign("t")
    stage.applied()
    assert stage.look() == NOTHING
    assert keys(stream.orders(), AttemptOrder) == [key]
    again = stage.open()
    assert stream.ended
    assert keys(again.orders(), AttemptOrder) == [key]
    assert stage.open(key).orders() == []


def test_an_assignment_whose_event_was_not_heard_is_found_by_the_look() -> None:
    stage = Stage()
    stream = stage.open()
    key = stage.assign("t", applied=False)
    assert stage.look() == NOTHING
    assert keys(stream.orders(), AttemptOrder) == [key]


def test_what_runs_on_a_worker_that_knows_nothing_of_it_is_lost_until_that_is_agreed() -> None:
    stage = Stage()
    stage.run("t")
    stage.open()
    findings = stage.look()
    assert lost(findings) == [("t", "the worker was restarted")]
    assert stage.look() == NOTHING, "it is being proposed"
    stage.assignments.loss_ended(findings.losses[0])  # It could not be agreed on.
    again = stage.look()
    assert again == findings
    stage.hive.do(again.losses[0])
    stage.assignments.loss_ended(again.losses[0])
    assert stage.applied(), "the task can be placed again"
    assert stage.look() == NOTHING
    assert stage.hive.task("alice", "t").state is TaskState.PENDING


def test_a_loss_that_was_not_agreed_on_is_given_up_when_the_worker_comes_back_with_the_attempt() -> None:
    stage = Stage()
    key = stage.run("t")
    stage.open()
    findings = stage.look()
    stage.open(key)
    stage.assignments.loss_ended(findings.losses[0])
    assert stage.look() == NOTHING


def test_what_a_worker_says_hello_with_and_is_not_its_own_is_discarded_and_what_was_stopped_is_stopped() -> None:
    stage = Stage()
    running, stopped, foreign = stage.run("runs"), stage.run("stopped"), key_of("gone")
    stage.stop("stopped")
    stream = stage.open(running, stopped, foreign)
    assert stream.orders() == [StopOrder(key=stopped, discard=False), StopOrder(key=foreign, discard=True)]
    assert stage.look() == NOTHING


def test_a_stop_is_told_at_once_and_an_end_is_acknowledged() -> None:
    stage = Stage()
    stream = stage.open()
    key = stage.run("t")
    stream.orders()
    stage.stop("t")
    stage.applied()
    assert stream.orders() == [StopOrder(key=key, discard=False)]
    stage.hive.end("alice", "t", stage.worker)
    assert stage.applied()
    assert stream.orders() == [CloseOrder(key=key)]
    assert stage.look() == NOTHING


def test_a_task_that_was_stopped_before_its_order_went_out_is_not_lost() -> None:
    stage = Stage()
    stream = stage.open()
    key = stage.assign("t", applied=False)
    events = stage.hive.events
    stage.stop("t")
    stage.assignments.applied(stage.hive.view, (*events, *stage.hive.events))
    assert stream.orders() == [StopOrder(key=key, discard=False)]
    assert stage.look() == NOTHING, "the worker answers for what it never heard of as well"


def test_a_refused_end_is_closed_and_the_attempt_is_lost_if_it_is_open_still() -> None:
    stage = Stage()
    stream = stage.open()
    key = stage.run("t")
    stream.orders()
    stage.assignments.report_refused(stage.worker, stream, key)
    assert stream.orders() == [CloseOrder(key=key)]
    assert lost(stage.look()) == [("t", "the worker was restarted")]


def test_a_refusal_on_an_earlier_stream_changes_nothing() -> None:
    stage = Stage()
    key = stage.run("t")
    earlier = stage.open(key)
    stream = stage.open(key)
    stage.assignments.report_refused(stage.worker, earlier, key)
    assert (earlier.orders(), stream.orders(), stage.look()) == ([], [], NOTHING)


def test_a_worker_whose_stream_broke_is_dialled_each_second_and_lost_when_it_stays_silent() -> None:
    stage = Stage()
    key = stage.run("t")
    stream = stage.open(key)
    assert stage.look() == NOTHING
    assert stage.assignments.closed(stage.worker, stream)
    assert stage.look() == Findings((), (stage.worker,))
    assert stage.look(PROBE_INTERVAL_MS - 1) == NOTHING
    assert stage.assignments.next_look_ms() == stage.now_ms + 1
    assert stage.look(1) == Findings((), (stage.worker,))
    findings = stage.look(TIMES.lost_ms)
    assert lost(findings) == [("t", "the worker was silent for 11 s")]
    assert stage.assignments.next_look_ms() is None
    stage.assignments.loss_ended(findings.losses[0])
    assert lost(stage.look()) == [("t", "the worker is gone")]


def test_a_worker_whose_machine_refuses_is_lost_after_the_grace() -> None:
    stage = Stage()
    stream = stage.open(stage.run("t"))
    stage.assignments.closed(stage.worker, stream)
    stage.look()
    stage.assignments.refused(stage.worker, stage.now_ms)
    assert stage.look(TIMES.refused_grace_ms - 1) == NOTHING
    assert lost(stage.look(1)) == [("t", "the worker's daemon is gone")]


def test_a_silent_worker_is_given_nothing_and_its_stream_ends_when_it_is_lost() -> None:
    stage = Stage()
    stream = stage.open(stage.run("t"))
    assert list(stage.assignments.live()) == [stage.worker]
    stage.look(TIMES.suspect_ms)
    assert stage.assignments.standing(stage.worker) is Standing.SUSPECT
    assert stage.assignments.live() == {}
    stage.assignments.heard(stage.worker, stream, stage.now_ms)
    assert list(stage.assignments.live()) == [stage.worker]
    assert lost(stage.look(TIMES.lost_ms)) == [("t", "the worker was silent for 10 s")]
    assert stream.ended
    assert stage.assignments.stream(stage.worker) is None


def test_the_end_of_an_earlier_stream_is_not_the_end_of_the_worker() -> None:
    stage = Stage()
    earlier = stage.open()
    stream = stage.open()
    assert not stage.assignments.closed(stage.worker, earlier)
    stage.assignments.heard(stage.worker, earlier, stage.now_ms + TIMES.lost_ms)
    assert stage.assignments.stream(stage.worker) is stream


def test_a_new_leader_waits_for_workers_that_it_has_not_heard_yet() -> None:
    stage = Stage()
    stream = stage.open(stage.run("t"))
    stage.assignments.reset()
    assert stream.ended
    assert stage.look() == Findings((), (stage.worker,))
    assert lost(stage.look(TIMES.lost_ms)) == [("t", "the worker was silent for 10 s")]


def test_all_workers_hear_that_a_node_is_out() -> None:
    stage = Stage()
    stream = stage.open()
    stage.hive.node(8)
    stage.hive.do(RemoveNode(node_id=node_id(8), reason="sold"))
    stage.applied()
    assert stream.orders() == [RosterOrder()]


def test_a_worker_without_a_second_copy_is_the_holder_itself() -> None:
    ended = AttemptEnded(
        key=key_of("t"),
        outcome=AttemptOutcome.EXITED,
        exit_code=0,
        reason="",
        result=RESULT,
        log=None,
        holders=(),
    )
    command = command_of(node_id(7), ended)
    assert isinstance(command, EndAttempt)
    assert command.output_holders == (node_id(7),)
