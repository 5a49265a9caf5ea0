"""Submission, attempts, settlement, dependencies, stopping, sweeping."""

from __future__ import annotations

import dataclasses

import pytest

from hivenode.errors import Code
from hivenode.ledger.accounts import escrow_account, node_account
from hivenode.pool import invariants, keys, queries
from hivenode.pool.commands import AssignTask, LoseAttempt, StartAttempt, StopTask, Sweep
from hivenode.pool.events import (
    AttemptAssigned,
    AttemptClosed,
    AttemptRevoked,
    BlobReleased,
    TaskChanged,
)
from hivenode.pool.nodes import write_node
from hivenode.pool.records import AttemptOutcome, BlobRef, Needs, Priority, TaskState
from hivenode.pool.submission import UNENDED_TASKS_MAX
from tests.unit.pool.driver import DATA, GRANT, LOG, RESULT, SUPPLY, Hive, end_of, submission


@pytest.fixture
def hive() -> Hive:
    hive = Hive()
    hive.user("alice")
    hive.user("bob")
    hive.node(1)
    return hive


ALICE = "session-of-alice"


def node_of(hive: Hive) -> str:
    return queries.nodes(hive.view)[0].node_id


def run(hive: Hive, task_id: str, *, attempt: int = 1) -> str:
    node = node_of(hive)
    hive.assign("alice", task_id, node, attempt=attempt)
    hive.start("alice", task_id, node, attempt=attempt)
    return node


def test_submission_holds_the_greatest_cost_in_escrow(hive: Hive) -> None:
    reply = hive.submit(ALICE, "t", needs=Needs(memory_gb=2), priority=Priority.HIGH)
    assert reply.number == 2 * 5
    assert hive.balance("alice") == GRANT - 10
    assert queries.account_balance(hive.view, escrow_account("alice", "t")) == 10
    task = hive.task("ALICE", "t")
    assert (task.state, task.held, task.cost_per_minute, task.attempt) == (TaskState.PENDING, 10, 2, 0)
    assert hive.event(TaskChanged).state is TaskState.PENDING


def test_same_submission_again_is_the_same_success_and_holds_nothing_more(hive: Hive) -> None:
    first = hive.submit(ALICE, "t")
    assert hive.submit(ALICE, "t") == first
    assert hive.balance("alice") == GRANT - first.number


@pytest.mark.parametrize(
    "other",
    [
        submission(ALICE, "t", time_limit_s=10),
        submission(ALICE, "t", data=BlobRef(sha256="1" * 64, size_bytes=100)),
    ],
)
def test_other_content_under_the_same_task_id_is_refused(hive: Hive, other: object) -> None:
    hive.submit(ALICE, "t")
    hive.refused(other, Code.TASK_EXISTS)  # type: ignore[arg-type]


def test_two_users_may_use_the_same_task_id(hive: Hive) -> None:
    hive.submit(ALICE, "t")
    hive.submit("session-of-bob", "t")
    assert hive.task("alice", "t").user == "alice"
    assert hive.task("bob", "t").user == "bob"


def test_submission_beyond_the_balance_names_cost_and_balance(hive: Hive) -> None:
    reply = hive.refused(submission(ALICE, "t", needs=Needs(memory_gb=300)), Code.INSUFFICIENT_BALANCE)
    assert "1500 CPT" in reply.message
    assert f"{GRANT} CPT" in reply.message


@pytest.mark.parametrize(
    "command",
    [
        submission(ALICE, ""),
        submission(ALICE, "x" * 129),
        submission(ALICE, "a\0b"),
        submission(ALICE, "t", needs=Needs(memory_gb=-1)),
        submission(ALICE, "t", needs=Needs(cpu_score=1 << 40)),
        submission(ALICE, "t", time_limit_s=0),
        submission(ALICE, "t", time_limit_s=604_801),
        submission(ALICE, "t", attempts_max=0),
        submission(ALICE, "t", attempts_max=17),
        submission(ALICE, "t", dependencies=("a", "a")),
        submission(ALICE, "t", dependencies=tuple(str(n) for n in range(33))),
        submission(ALICE, "t", data=BlobRef(sha256="D" * 64, size_bytes=1)),
        submission(ALICE, "t", data=BlobRef(sha256="d" * 63, size_bytes=1)),
        submission(ALICE, "t", data=BlobRef(sha256="d" * 64, size_bytes=-1)),
        dataclasses.replace(submission(ALICE, "t"), data_holders=("n",) * 17),
    ],
)
def test_submission_out_of_bounds_is_refused(hive: Hive, command: object) -> None:
    hive.refused(command, Code.INVALID_ARGUMENT)  # type: ignore[arg-type]


def test_submission_without_a_session_that_stands_is_refused(hive: Hive) -> None:
    hive.refused(submission("nobody", "t"), Code.INVALID_SESSION)
    hive.refused(StopTask(session_id="a\0b", task_id="t"), Code.INVALID_SESSION)


def test_user_with_too_many_unended_tasks_is_refused(hive: Hive) -> None:
    hive.view.put(keys.by_user(keys.UNENDED_COUNTS, "alice"), keys.number(UNENDED_TASKS_MAX))
    hive.refused(submission(ALICE, "t"), Code.RATE_LIMITED)


def test_task_that_exits_with_0_is_completed_and_pays_its_started_minutes(hive: Hive) -> None:
    hive.submit(ALICE, "t", needs=Needs(memory_gb=3))
    node = run(hive, "t")
    hive.later(60_001)
    reply = hive.end("alice", "t", node)
    assert (reply.number, reply.text) == (6, "COMPLETED")
    task = hive.task("alice", "t")
    assert (task.state, task.exit_code, task.paid, task.held) == (TaskState.COMPLETED, 0, 6, 0)
    assert (task.result, task.log, task.output_holders) == (RESULT, LOG, (node,))
    assert hive.balance("alice") == GRANT - 6
    assert queries.account_balance(hive.view, node_account(node)) == 6
    assert queries.total_cpt(hive.view) == SUPPLY
    assert hive.event(AttemptClosed).attempt == 1
    assert queries.open_attempts_of(hive.view, node) == []
    invariants.check(hive.view)


def test_claimed_node_earns_into_the_account_of_its_owner(hive: Hive) -> None:
    write_node(hive.view, dataclasses.replace(hive.entry_of(1), owner="bob"))
    hive.submit(ALICE, "t")
    hive.end("alice", "t", run(hive, "t"))
    assert hive.balance("bob") == GRANT + 1


def test_owner_who_runs_the_own_task_pays_nobody_in_the_end(hive: Hive) -> None:
    write_node(hive.view, dataclasses.replace(hive.entry_of(1), owner="alice"))
    hive.submit(ALICE, "t")
    assert hive.end("alice", "t", run(hive, "t")).number == 1
    assert hive.balance("alice") == GRANT
    invariants.check(hive.view)


def test_payment_is_never_more_than_what_is_held(hive: Hive) -> None:
    held = hive.submit(ALICE, "t", time_limit_s=60).number
    node = run(hive, "t")
    hive.later(3_600_000)
    assert hive.end("alice", "t", node).number == held


def test_end_without_a_start_pays_one_minute(hive: Hive) -> None:
    hive.submit(ALICE, "t")
    hive.assign("alice", "t", node_of(hive))
    hive.later(600_000)
    assert hive.end("alice", "t", node_of(hive)).number == 1
    task = hive.task("alice", "t")
    assert task.started_ms == task.ended_ms == hive.now_ms


@pytest.mark.parametrize(
    ("outcome", "exit_code"),
    [
        (AttemptOutcome.EXITED, 3),
        (AttemptOutcome.EXITED, None),
        (AttemptOutcome.TIMED_OUT, None),
        (AttemptOutcome.OUT_OF_MEMORY, 137),
        (AttemptOutcome.DISK_EXCEEDED, None),
        (AttemptOutcome.OUTPUT_EXCEEDED, None),
        (AttemptOutcome.INVALID, None),
    ],
)
def test_task_that_fails_by_its_own_doing_pays_and_keeps_why(
    hive: Hive, outcome: AttemptOutcome, exit_code: int | None
) -> None:
    hive.submit(ALICE, "t")
    reply = hive.end("alice", "t", run(hive, "t"), outcome=outcome, exit_code=exit_code)
    assert (reply.number, reply.text) == (1, "FAILED")
    task = hive.task("alice", "t")
    assert (task.state, task.exit_code, task.paid) == (TaskState.FAILED, exit_code, 1)
    assert task.reason
    assert task.log == LOG
    assert hive.entry_of(1).completed == 1


@pytest.mark.parametrize("outcome", [AttemptOutcome.WORKER_FAULT, AttemptOutcome.STOPPED])
def test_fault_of_the_worker_makes_the_task_pending_again_at_no_cost(hive: Hive, outcome: AttemptOutcome) -> None:
    hive.submit(ALICE, "t")
    node = run(hive, "t")
    assert hive.end("alice", "t", node, outcome=outcome).text == "PENDING"
    task = hive.task("alice", "t")
    assert (task.state, task.attempt, task.attempt_open, task.paid) == (TaskState.PENDING, 1, False, 0)
    assert (task.result, task.started_ms) == (None, 0)
    assert [found.task_id for found in queries.pending_tasks(hive.view, limit=9)] == ["t"]
    assert hive.entry_of(1).failed == 1
    hive.end("alice", "t", run(hive, "t", attempt=2), attempt=2)
    assert hive.task("alice", "t").state is TaskState.COMPLETED
    invariants.check(hive.view)


def test_task_that_the_hive_lost_in_its_last_attempt_fails_at_no_cost(hive: Hive) -> None:
    hive.submit(ALICE, "t", attempts_max=2)
    hive.lose("alice", "t", run(hive, "t"))
    assert {event.attempt for event in hive.events if isinstance(event, AttemptRevoked | AttemptClosed)} == {1}
    assert hive.lose("alice", "t", run(hive, "t", attempt=2), attempt=2).text == "FAILED"
    task = hive.task("alice", "t")
    assert (task.state, task.paid, task.held) == (TaskState.FAILED, 0, 0)
    assert "hive lost" in task.reason
    assert hive.balance("alice") == GRANT
    invariants.check(hive.view)


def test_second_end_of_an_attempt_is_stale_and_pays_nothing(hive: Hive) -> None:
    hive.submit(ALICE, "t")
    node = run(hive, "t")
    hive.end("alice", "t", node)
    hive.refused(end_of("alice", "t", node), Code.STALE_ATTEMPT)


def test_word_of_a_lost_attempt_is_stale_while_the_next_one_runs(hive: Hive) -> None:
    hive.submit(ALICE, "t")
    first = run(hive, "t")
    hive.lose("alice", "t", first)
    second = hive.node(2)
    hive.assign("alice", "t", second, attempt=2)
    for attempt, node in ((1, first), (2, first), (1, second), (3, second)):
        place = {"user": "alice", "task_id": "t", "node_id": node}
        hive.refused(end_of("alice", "t", node, attempt=attempt), Code.STALE_ATTEMPT)
        hive.refused(StartAttempt(attempt=attempt, **place), Code.STALE_ATTEMPT)
        hive.refused(LoseAttempt(attempt=attempt, reason="", **place), Code.STALE_ATTEMPT)
    hive.refused(end_of("nobody", "t", first), Code.STALE_ATTEMPT)


def test_assignment_is_refused_unless_pending_and_next_and_roomy(hive: Hive) -> None:
    hive.submit(ALICE, "t")
    hive.submit(ALICE, "big", needs=Needs(memory_gb=12), time_limit_s=60)
    hive.submit(ALICE, "bigger", needs=Needs(memory_gb=5), time_limit_s=60)
    node = node_of(hive)

    def assign(task_id: str, attempt: int = 1, to: str = node) -> AssignTask:
        return AssignTask(user="alice", task_id=task_id, attempt=attempt, node_id=to)

    hive.refused(assign("t", attempt=2), Code.STALE_ATTEMPT)
    hive.refused(assign("t", to="nowhere"), Code.NODE_NOT_FOUND)
    hive.refused(assign("u"), Code.TASK_NOT_FOUND)
    hive.do(assign("t"))
    assert hive.event(AttemptAssigned).node_id == node
    hive.refused(assign("t"), Code.STALE_ATTEMPT)
    hive.refused(assign("t", attempt=2), Code.STALE_ATTEMPT)
    hive.do(assign("big"))
    hive.refused(assign("bigger"), Code.INSUFFICIENT_RESOURCES)


def test_node_without_a_free_slot_takes_no_more(hive: Hive) -> None:
    node = hive.node(2, slots=1)
    hive.submit(ALICE, "t")
    hive.submit(ALICE, "u")
    hive.assign("alice", "t", node)
    hive.refused(AssignTask(user="alice", task_id="u", attempt=1, node_id=node), Code.INSUFFICIENT_RESOURCES)


def test_start_twice_is_one_start(hive: Hive) -> None:
    hive.submit(ALICE, "t")
    node = run(hive, "t")
    started_ms = hive.task("alice", "t").started_ms
    hive.later(1_000)
    hive.start("alice", "t", node)
    assert hive.task("alice", "t").started_ms == started_ms
    assert hive.events == ()


def test_stop_of_a_pending_task_returns_all(hive: Hive) -> None:
    hive.submit(ALICE, "t")
    assert hive.do(StopTask(session_id=ALICE, task_id="t")).number == 0
    assert hive.balance("alice") == GRANT
    assert hive.task("alice", "t").state is TaskState.STOPPED
    assert queries.pending_tasks(hive.view, limit=9) == []
    assert hive.do(StopTask(session_id=ALICE, task_id="t")).number == 0
    invariants.check(hive.view)


def test_stop_of_a_running_task_pays_until_now_and_revokes_the_attempt(hive: Hive) -> None:
    hive.submit(ALICE, "t")
    node = run(hive, "t")
    hive.later(60_001)
    assert hive.do(StopTask(session_id=ALICE, task_id="t")).number == 2
    assert hive.event(AttemptRevoked).node_id == node
    task = hive.task("alice", "t")
    assert (task.state, task.paid, task.attempt_open, task.result) == (TaskState.STOPPED, 2, True, None)
    assert len(queries.open_attempts_of(hive.view, node)) == 1
    hive.refused(
        StartAttempt(user="alice", task_id="t", attempt=1, node_id=node),
        Code.STALE_ATTEMPT,
    )
    hive.end("alice", "t", node, outcome=AttemptOutcome.STOPPED, exit_code=137)
    task = hive.task("alice", "t")
    assert (task.state, task.paid, task.attempt_open) == (TaskState.STOPPED, 2, False)
    assert (task.exit_code, task.result, task.log) == (137, RESULT, LOG)
    assert hive.event(AttemptClosed).attempt == 1
    hive.refused(end_of("alice", "t", node), Code.STALE_ATTEMPT)
    assert hive.balance("alice") == GRANT - 2
    invariants.check(hive.view)


def test_stop_of_an_assigned_task_costs_nothing_and_its_slot_is_freed_when_the_worker_is_lost(hive: Hive) -> None:
    hive.submit(ALICE, "t")
    node = node_of(hive)
    hive.assign("alice", "t", node)
    assert hive.do(StopTask(session_id=ALICE, task_id="t")).number == 0
    assert hive.event(AttemptRevoked).attempt == 1
    assert hive.lose("alice", "t", node).text == "STOPPED"
    assert hive.events == (AttemptClosed(user="alice", task_id="t", attempt=1, node_id=node),)
    assert queries.open_attempts(hive.view) == []
    assert hive.balance("alice") == GRANT
    invariants.check(hive.view)


def test_stop_of_an_ended_or_unknown_task_is_refused(hive: Hive) -> None:
    hive.submit(ALICE, "t")
    hive.end("alice", "t", run(hive, "t"))
    assert "COMPLETED" in hive.refused(StopTask(session_id=ALICE, task_id="t"), Code.INVALID_ARGUMENT).message
    hive.refused(StopTask(session_id=ALICE, task_id="u"), Code.TASK_NOT_FOUND)
    hive.refused(StopTask(session_id="session-of-bob", task_id="t"), Code.TASK_NOT_FOUND)


def test_task_waits_until_all_its_dependencies_are_completed(hive: Hive) -> None:
    hive.submit(ALICE, "a")
    hive.submit(ALICE, "b")
    hive.submit(ALICE, "c", dependencies=("a", "b"))
    hive.refused(AssignTask(user="alice", task_id="c", attempt=1, node_id=node_of(hive)), Code.STALE_ATTEMPT)
    hive.end("alice", "a", run(hive, "a"))
    assert [task.task_id for task in queries.pending_tasks(hive.view, limit=9)] == ["b"]
    hive.end("alice", "b", run(hive, "b"))
    assert [task.task_id for task in queries.pending_tasks(hive.view, limit=9)] == ["c"]
    hive.submit(ALICE, "d", dependencies=("a",))
    assert len(queries.pending_tasks(hive.view, limit=9)) == 2
    invariants.check(hive.view)


def test_dependents_of_a_failed_task_fail_with_theirs_and_get_their_money_back(hive: Hive) -> None:
    hive.submit(ALICE, "a")
    hive.submit(ALICE, "b", dependencies=("a",))
    hive.submit(ALICE, "c", dependencies=("b",))
    hive.end("alice", "a", run(hive, "a"), exit_code=1)
    for name, cause in (("b", "a"), ("c", "b")):
        task = hive.task("alice", name)
        assert (task.state, task.held, task.paid) == (TaskState.FAILED, 0, 0)
        assert f"task {cause}," in task.reason
    assert hive.balance("alice") == GRANT - 1
    hive.refused(submission(ALICE, "d", dependencies=("b",)), Code.DEPENDENCY_FAILED)
    hive.refused(submission(ALICE, "d", dependencies=("nothing",)), Code.TASK_NOT_FOUND)
    invariants.check(hive.view)


def test_stopped_task_fails_those_that_wait_for_it(hive: Hive) -> None:
    hive.submit(ALICE, "a")
    hive.submit(ALICE, "b", dependencies=("a",))
    hive.do(StopTask(session_id=ALICE, task_id="a"))
    assert hive.task("alice", "b").state is TaskState.FAILED
    assert hive.balance("alice") == GRANT


def test_chain_of_a_thousand_dependents_fails_in_one_entry() -> None:
    rich = Hive(grant=100_000)
    rich.user("alice")
    rich.submit(ALICE, "0")
    for number in range(1, 1_000):
        rich.submit(ALICE, str(number), dependencies=(str(number - 1),))
    rich.do(StopTask(session_id=ALICE, task_id="0"))
    assert queries.counts(rich.view).tasks_ended == 1_000
    assert rich.balance("alice") == 100_000


def test_counts_follow_the_tasks(hive: Hive) -> None:
    for name in ("a", "b", "c"):
        hive.submit(ALICE, name)
    run(hive, "a")
    hive.end("alice", "b", run(hive, "b"))
    counts = queries.counts(hive.view)
    assert (counts.tasks_pending, counts.tasks_running, counts.tasks_ended) == (1, 1, 1)
    assert (counts.users, counts.nodes) == (2, 1)


def test_tasks_of_a_user_come_newest_first(hive: Hive) -> None:
    for name in ("a", "c", "b"):
        hive.later(1)
        hive.submit(ALICE, name)
    assert [task.task_id for task in queries.tasks_of(hive.view, "Alice", limit=2)] == ["b", "c"]
    assert queries.tasks_of(hive.view, "bob", limit=2) == []


def test_sweep_removes_old_ended_tasks_and_releases_blobs_that_nobody_names(hive: Hive) -> None:
    hive.submit(ALICE, "a")
    hive.submit(ALICE, "b")
    hive.end("alice", "a", run(hive, "a"))
    hive.later(999)
    assert hive.do(Sweep(keep_tasks_ms=1_000, rows_max=10)).number == 0
    hive.later(1)
    assert hive.do(Sweep(keep_tasks_ms=1_000, rows_max=10)).number == 1
    assert {event.sha256 for event in hive.events if isinstance(event, BlobReleased)} == {RESULT.sha256, LOG.sha256}
    assert queries.task(hive.view, "alice", "a") is None
    assert queries.blob_references(hive.view, DATA.sha256) == 1
    hive.submit(ALICE, "a")
    invariants.check(hive.view)


def test_sweep_takes_no_more_rows_than_it_may_and_leaves_open_attempts(hive: Hive) -> None:
    for name in ("a", "b", "c"):
        hive.submit(ALICE, name)
    run(hive, "a")
    for name in ("a", "b", "c"):
        hive.do(StopTask(session_id=ALICE, task_id=name))
    assert hive.do(Sweep(keep_tasks_ms=0, rows_max=1)).number == 1
    assert hive.do(Sweep(keep_tasks_ms=0, rows_max=9)).number == 1
    assert hive.task("alice", "a").attempt_open
    hive.refused(Sweep(keep_tasks_ms=0, rows_max=0), Code.INVALID_ARGUMENT)
    invariants.check(hive.view)
