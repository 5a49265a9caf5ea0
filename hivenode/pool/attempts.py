"""Rules of attempts: a task is given to a node, starts there, and ends or is lost.

Rules:
1. Every word about an attempt bears its number and node; one that is not the task's newest open attempt is stale and
   changes nothing.
2. Minutes count from the committed start to the committed end. An end without a start counts as started in the same moment.
3. A task that ends by its own doing pays; what ends by the hive's fault costs nothing and runs again, `attempts_max` times.
4. After a stop the attempt stays open until its worker is heard or given up; then its outputs are attached, and nothing else.
"""

from __future__ import annotations

import dataclasses

from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError, ensure
from hivenode.pool import keys, pricing, validation
from hivenode.pool.commands import AssignTask, EndAttempt, LoseAttempt, Reply, StartAttempt
from hivenode.pool.context import DONE, Context, count, done
from hivenode.pool.events import AttemptAssigned, AttemptClosed
from hivenode.pool.fitting import Usage, misfit
from hivenode.pool.nodes import find_node, write_node
from hivenode.pool.records import AttemptOutcome, NodeEntry, NodeKind, TaskRecord, TaskState
from hivenode.pool.tasks import find_task, finish, give_up_attempt, node_tails, save, settle

_REASONS = {
    AttemptOutcome.TIMED_OUT: "It ran longer than its time limit.",
    AttemptOutcome.OUT_OF_MEMORY: "It used more memory than it asked for.",
    AttemptOutcome.DISK_EXCEEDED: "It wrote more to disk than allowed.",
    AttemptOutcome.OUTPUT_EXCEEDED: "It printed more than allowed.",
    AttemptOutcome.INVALID: "It could not be started.",
    AttemptOutcome.STOPPED: "The worker stopped it unasked.",
    AttemptOutcome.WORKER_FAULT: "The machine could not run it.",
}


def usage_of(view: ReadView, node_id: str) -> Usage:
    """What the open attempts of a node take of it."""
    sizes = [memory_gb for _, memory_gb in node_tails(view, node_id)]
    return Usage(attempts=len(sizes), memory_gb=sum(sizes))


def assign_task(ctx: Context, command: AssignTask) -> Reply:
    """Gives the task's next attempt to a node that has room for it."""
    task = find_task(ctx.view, command.user, command.task_id)
    if task is None:
        raise HiveError(Code.TASK_NOT_FOUND, f"There is no task {validation.shown(command.task_id)}.")
    waits = count(ctx.view, keys.waiting(task.user, task.task_id))
    if task.state is not TaskState.PENDING or command.attempt != task.attempt + 1 or waits:
        raise HiveError(
            Code.STALE_ATTEMPT, f"Attempt {command.attempt} of the task {task.task_id} cannot be assigned now."
        )
    node = find_node(ctx.view, command.node_id)
    if node is None or node.kind is not NodeKind.HIVE:
        raise HiveError(Code.NODE_NOT_FOUND, f"There is no node {validation.shown(command.node_id)} that runs tasks.")
    lack = misfit(node.capabilities, usage_of(ctx.view, node.node_id), task.spec.needs)
    if lack is not None:
        raise HiveError(
            Code.INSUFFICIENT_RESOURCES, f"The node {node.node_id} has too little {lack.value} for the task."
        )
    assigned = dataclasses.replace(
        task,
        state=TaskState.ASSIGNED,
        attempt=command.attempt,
        attempt_open=True,
        node_id=node.node_id,
        assigned_ms=ctx.now_ms,
        started_ms=0,
        reason="",
    )
    save(ctx, task, assigned)
    ctx.events.append(
        AttemptAssigned(user=task.user, task_id=task.task_id, attempt=command.attempt, node_id=node.node_id)
    )
    return DONE


def _open_attempt(ctx: Context, command: StartAttempt | EndAttempt | LoseAttempt) -> TaskRecord:
    """The task whose newest open attempt the command names. Raises STALE_ATTEMPT."""
    task = find_task(ctx.view, command.user, command.task_id)
    if task is None or not task.attempt_open or command.attempt != task.attempt or command.node_id != task.node_id:
        raise HiveError(Code.STALE_ATTEMPT, f"Attempt {command.attempt} is not the open attempt of this task.")
    return task


def start_attempt(ctx: Context, command: StartAttempt) -> Reply:
    """The worker runs the program now; once started, the same word again changes nothing."""
    task = _open_attempt(ctx, command)
    if task.state is TaskState.RUNNING:
        return DONE
    if task.state is not TaskState.ASSIGNED:
        raise HiveError(Code.STALE_ATTEMPT, f"The task is {task.state.value} and does not start any more.")
    save(ctx, task, dataclasses.replace(task, state=TaskState.RUNNING, started_ms=ctx.now_ms))
    return DONE


def end_attempt(ctx: Context, command: EndAttempt) -> Reply:
    """The worker's end of an attempt. Reply: number = CPT paid, text = the task's state."""
    task = _open_attempt(ctx, command)
    if command.exit_code is not None:
        validation.check_number("exit code", command.exit_code)
    validation.check_holders(command.output_holders)
    for field, blob in (("result", command.result), ("log", command.log)):
        if blob is not None:
            validation.check_blob(field, blob)
    node = find_node(ctx.view, task.node_id)
    ensure(node is not None, "an attempt is open on a node that does not exist")
    if node is None:
        return DONE
    if task.state is TaskState.STOPPED:
        save(ctx, task, _with_outputs(task, command))
        _closed(ctx, task)
        return done(number=task.paid, text=task.state.value)
    if command.outcome in (AttemptOutcome.WORKER_FAULT, AttemptOutcome.STOPPED):
        write_node(ctx.view, dataclasses.replace(node, failed=node.failed + 1))
        reason = validation.cut_reason(command.reason) or _REASONS[command.outcome]
        give_up_attempt(ctx, task, reason, revoke=False)
        last = task.attempt >= task.spec.attempts_max
        return done(text=(TaskState.FAILED if last else TaskState.PENDING).value)
    return _end_by_own_doing(ctx, task, node, command)


def _with_outputs(task: TaskRecord, command: EndAttempt) -> TaskRecord:
    return dataclasses.replace(
        task,
        attempt_open=False,
        exit_code=command.exit_code,
        result=command.result,
        log=command.log,
        output_holders=command.output_holders,
    )


def _closed(ctx: Context, task: TaskRecord) -> None:
    ctx.events.append(AttemptClosed(user=task.user, task_id=task.task_id, attempt=task.attempt, node_id=task.node_id))


def _end_by_own_doing(ctx: Context, task: TaskRecord, node: NodeEntry, command: EndAttempt) -> Reply:
    """Pays the started minutes; COMPLETED when the program exited with 0, else FAILED."""
    started_ms = task.started_ms if task.state is TaskState.RUNNING else ctx.now_ms
    paid = settle(ctx, task, node, pricing.started_minutes(started_ms, ctx.now_ms))
    completed = command.outcome is AttemptOutcome.EXITED and command.exit_code == 0
    reason = validation.cut_reason(command.reason)
    if not completed and not reason:
        reason = _REASONS.get(command.outcome, f"It exited with code {command.exit_code}.")
    ended = dataclasses.replace(
        _with_outputs(task, command),
        state=TaskState.COMPLETED if completed else TaskState.FAILED,
        started_ms=started_ms,
        ended_ms=ctx.now_ms,
        reason=reason,
        held=0,
        paid=paid,
    )
    write_node(ctx.view, dataclasses.replace(node, completed=node.completed + 1))
    finish(ctx, task, ended)
    _closed(ctx, task)
    return done(number=paid, text=ended.state.value)


def lose_attempt(ctx: Context, command: LoseAttempt) -> Reply:
    """The worker is gone. Reply: text = the task's state after it."""
    task = _open_attempt(ctx, command)
    reason = validation.cut_reason(command.reason) or "The worker fell silent."
    give_up_attempt(ctx, task, reason, revoke=True)
    after = find_task(ctx.view, task.user, task.task_id)
    return done(text=after.state.value if after is not None else "")
