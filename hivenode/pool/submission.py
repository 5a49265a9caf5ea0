"""Rules of what users do with tasks: submit and stop; and the sweep of what is past its time."""

from __future__ import annotations

import dataclasses
from typing import Final

from hivenode.errors import Code, HiveError, ensure
from hivenode.ledger import chain
from hivenode.ledger.accounts import escrow_account, user_account
from hivenode.ledger.entries import EntryKind
from hivenode.pool import keys, pricing, validation
from hivenode.pool.commands import Reply, StopTask, SubmitTask, Sweep
from hivenode.pool.context import Context, count, done
from hivenode.pool.events import AttemptRevoked
from hivenode.pool.nodes import find_node
from hivenode.pool.records import TaskId, TaskRecord, TaskState, UserName
from hivenode.pool.requests import drop_expired
from hivenode.pool.tasks import enqueue, find_task, finish, remove, save, settle, task_at
from hivenode.pool.users import drop_expired_sessions

UNENDED_TASKS_MAX: Final = 10_000
"""Tasks of one user that have not ended. One end can fail all of them through their dependencies, in one entry."""


def submit_task(ctx: Context, command: SubmitTask) -> Reply:
    """A new task, its greatest cost held. Reply: number = CPT held, the same again for the same task."""
    user = ctx.sender_of(command.session_id)
    validation.check_task_id(command.task_id)
    validation.check_spec(command.spec)
    validation.check_blob("task data", command.data)
    validation.check_holders(command.data_holders)
    held = pricing.hold_for(command.spec)
    known = find_task(ctx.view, user, command.task_id)
    if known is not None:
        if known.data != command.data or known.spec != command.spec:
            raise HiveError(Code.TASK_EXISTS, f"Another task has the id {command.task_id} already.")
        return done(number=held)
    unended = _check_dependencies(ctx, user, command)
    if count(ctx.view, keys.by_user(keys.UNENDED_COUNTS, user)) >= UNENDED_TASKS_MAX:
        raise HiveError(Code.RATE_LIMITED, f"A user can have at most {UNENDED_TASKS_MAX} tasks that have not ended.")
    balance = chain.balance(ctx.view, user_account(user))
    if balance < held:
        raise HiveError(Code.INSUFFICIENT_BALANCE, f"The task costs up to {held} CPT; the balance is {balance} CPT.")
    task = _new_task(ctx, user, command, held)
    chain.post(
        ctx.view,
        time_ms=ctx.now_ms,
        kind=EntryKind.HOLD,
        postings=((user_account(user), -held), (escrow_account(user, task.task_id), held)),
        reference=f"{user}/{task.task_id}",
        origin=f"user:{user}",
    )
    save(ctx, None, task)
    if not unended:
        enqueue(ctx.view, task)
        return done(number=held)
    ctx.view.put(keys.waiting(user, task.task_id), keys.number(len(unended)))
    for dependency in unended:
        ctx.view.put(keys.dependent(user, dependency, task.task_id), b"")
    return done(number=held)


def _check_dependencies(ctx: Context, user: UserName, command: SubmitTask) -> list[str]:
    """The dependencies that have not ended. Raises TASK_NOT_FOUND or DEPENDENCY_FAILED."""
    unended: list[str] = []
    for dependency in command.spec.dependencies:
        task = find_task(ctx.view, user, dependency)
        if task is None:
            raise HiveError(Code.TASK_NOT_FOUND, f"The task {dependency}, named as a dependency, does not exist.")
        if task.state in (TaskState.FAILED, TaskState.STOPPED):
            raise HiveError(
                Code.DEPENDENCY_FAILED, f"The task {dependency}, named as a dependency, is {task.state.value}."
            )
        if not task.state.ended:
            unended.append(dependency)
    return unended


def _new_task(ctx: Context, user: UserName, command: SubmitTask, held: int) -> TaskRecord:
    return TaskRecord(
        user=user,
        task_id=TaskId(command.task_id),
        spec=command.spec,
        data=command.data,
        data_holders=command.data_holders,
        state=TaskState.PENDING,
        attempt=0,
        attempt_open=False,
        node_id="",
        submitted_ms=ctx.now_ms,
        assigned_ms=0,
        started_ms=0,
        ended_ms=0,
        exit_code=None,
        reason="",
        result=None,
        log=None,
        output_holders=(),
        cost_per_minute=pricing.cost_per_minute(command.spec),
        held=held,
        paid=0,
    )


def stop_task(ctx: Context, command: StopTask) -> Reply:
    """STOPPED at once and for good; the started minutes of a running task are paid. Reply: number = CPT paid."""
    user = ctx.sender_of(command.session_id)
    task = find_task(ctx.view, user, command.task_id)
    if task is None:
        raise HiveError(Code.TASK_NOT_FOUND, f"You have no task {validation.shown(command.task_id)}.")
    if task.state is TaskState.STOPPED:
        return done(number=task.paid)
    if task.state.ended:
        raise HiveError(Code.INVALID_ARGUMENT, f"The task {task.task_id} has ended already: {task.state.value}.")
    node, minutes = None, 0
    if task.state is TaskState.RUNNING:
        node = find_node(ctx.view, task.node_id)
        ensure(node is not None, "a task runs on a node that does not exist")
        minutes = pricing.started_minutes(task.started_ms, ctx.now_ms)
    paid = settle(ctx, task, node, minutes)
    stopped = dataclasses.replace(
        task, state=TaskState.STOPPED, ended_ms=ctx.now_ms, held=0, paid=paid, reason="Stopped by its user."
    )
    finish(ctx, task, stopped)
    if task.attempt_open:
        ctx.events.append(
            AttemptRevoked(user=task.user, task_id=task.task_id, attempt=task.attempt, node_id=task.node_id)
        )
    return done(number=paid)


def sweep(ctx: Context, command: Sweep) -> Reply:
    """Removes what is past its time, at most `rows_max` rows in all. Reply: number = rows removed."""
    validation.check_number("task keeping", command.keep_tasks_ms)
    validation.check_number("rows to sweep", command.rows_max)
    removed = drop_expired_sessions(ctx, command.rows_max)
    removed += drop_expired(ctx.view, ctx.now_ms, command.rows_max - removed)
    over: list[bytes] = []
    for key, _ in ctx.view.scan(keys.ENDED):
        ended_ms = int.from_bytes(key[1:9], "big")
        if ended_ms + command.keep_tasks_ms > ctx.now_ms or removed + len(over) >= command.rows_max:
            break
        over.append(keys.after_number(key))
    for tail in over:
        remove(ctx, task_at(ctx.view, tail))
    return done(number=removed + len(over))
