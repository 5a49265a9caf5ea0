"""Task rows and all that follows from them: indices, counters, escrow, and the tasks that wait.

Rules:
1. `save` is the only writer of a task's row; it keeps every index and counter in step with the row.
2. A pending task is either in `QUEUE` (it may be placed) or in `WAITING` (dependencies have not ended), never in both.
3. What an escrow account holds is the task's `held`; `settle` empties it once, when the task ends.
4. A task ends through `finish` alone, which sets free or fails those that wait for it, and theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from hivenode.encoding.records import decode_record, encode_record
from hivenode.encoding.state_view import ReadView, StateView
from hivenode.errors import ensure
from hivenode.ledger import chain
from hivenode.ledger.accounts import escrow_account, node_account, user_account
from hivenode.ledger.entries import EntryKind
from hivenode.pool import keys
from hivenode.pool.context import Context, bump, count
from hivenode.pool.events import AttemptClosed, AttemptRevoked, BlobReleased, TaskChanged
from hivenode.pool.records import BlobRef, NodeEntry, Priority, TaskRecord, TaskState

_BOOST_MS: Final = {Priority.NORMAL: 0, Priority.HIGH: 60_000, Priority.URGENT: 120_000}
"""How much earlier a task counts as submitted: an urgent one passes what is at most two minutes older, so all get their turn."""
_BOOST_MS_MAX: Final = 120_000
_STAGES: Final = {
    TaskState.PENDING: keys.PENDING_COUNTER,
    TaskState.ASSIGNED: keys.RUNNING_COUNTER,
    TaskState.RUNNING: keys.RUNNING_COUNTER,
    TaskState.COMPLETED: keys.ENDED_COUNTER,
    TaskState.FAILED: keys.ENDED_COUNTER,
    TaskState.STOPPED: keys.ENDED_COUNTER,
}


def find_task(view: ReadView, user: str, task_id: str) -> TaskRecord | None:
    """The user's task with this id, or None."""
    if not (keys.sound(user) and keys.sound(task_id)):
        return None
    row = view.get(keys.task(user, task_id))
    return None if row is None else decode_record(TaskRecord, row)


def task_at(view: ReadView, tail: bytes) -> TaskRecord:
    """The task that an index row names by its tail (`keys.task_tail`)."""
    row = view.get(keys.TASKS + tail)
    ensure(row is not None, "a task is in an index and not in its table")
    return decode_record(TaskRecord, row or b"")


def order_of(task: TaskRecord) -> int:
    """The task's place in the queue: ms of its submission less its boost, shifted so that it is never negative."""
    return task.submitted_ms + _BOOST_MS_MAX - _BOOST_MS[task.spec.priority]


def queue_key(task: TaskRecord) -> bytes:
    return keys.queued(order_of(task), task.user, task.task_id)


def node_tails(view: ReadView, node_id: str) -> Iterator[tuple[bytes, int]]:
    """Tail of the task and GB of memory of each open attempt of a node."""
    prefix = keys.attempts_of_node(node_id)
    for key, row in view.scan(prefix):
        yield key[len(prefix) :], int.from_bytes(row, "big")


def save(ctx: Context, old: TaskRecord | None, new: TaskRecord) -> None:
    """Writes a task's row and brings indices and counters in step; `old` is what the row held before."""
    view = ctx.view
    view.put(keys.task(new.user, new.task_id), encode_record(new))
    if old is None:
        view.put(keys.task_of_user(new.user, new.submitted_ms, new.task_id), b"")
        bump(view, keys.by_user(keys.UNENDED_COUNTS, new.user), 1)
        bump(view, _STAGES[new.state], 1)
        bump(view, keys.by_text(keys.BLOBS, new.data.sha256), 1)
    else:
        _move_stage(view, old, new)
        for before, after in ((old.result, new.result), (old.log, new.log)):
            if after is not None and before is None:
                bump(view, keys.by_text(keys.BLOBS, after.sha256), 1)
            else:
                ensure(before == after, "an output of a task was replaced")
    _index_attempt(view, old, new)
    if new.state.ended and not new.attempt_open:
        view.put(keys.ended(new.ended_ms, new.user, new.task_id), b"")
    if old is None or old.state is not new.state:
        ctx.events.append(TaskChanged(user=new.user, task_id=new.task_id, state=new.state, node_id=new.node_id))


def _move_stage(view: StateView, old: TaskRecord, new: TaskRecord) -> None:
    if _STAGES[old.state] != _STAGES[new.state]:
        bump(view, _STAGES[old.state], -1)
        bump(view, _STAGES[new.state], 1)
    if new.state.ended and not old.state.ended:
        bump(view, keys.by_user(keys.UNENDED_COUNTS, new.user), -1)
    if old.state is TaskState.PENDING and new.state is not TaskState.PENDING:
        view.delete(queue_key(old))
        if old.spec.dependencies:
            view.delete(keys.waiting(old.user, old.task_id))
            for dependency in old.spec.dependencies:
                view.delete(keys.dependent(old.user, dependency, old.task_id))
    elif old.state is not TaskState.PENDING and new.state is TaskState.PENDING:
        enqueue(view, new)


def _index_attempt(view: StateView, old: TaskRecord | None, new: TaskRecord) -> None:
    was_open = old is not None and old.attempt_open
    if was_open == new.attempt_open:
        return
    key = keys.open_attempt(new.node_id, new.user, new.task_id)
    if new.attempt_open:
        view.put(key, keys.number(new.spec.needs.memory_gb))
    else:
        view.delete(key)
    bump(view, keys.by_user(keys.OPEN_COUNTS, new.user), 1 if new.attempt_open else -1)


def enqueue(view: StateView, task: TaskRecord) -> None:
    """Lets a pending task be placed. The row bears its needs, so that a plan can pass over what fits nowhere."""
    view.put(queue_key(task), encode_record(task.spec.needs))


def settle(ctx: Context, task: TaskRecord, node: NodeEntry | None, minutes: int) -> int:
    """Empties the task's escrow: pays started minutes to the node's owner, at most what is held, and returns the rest.

    Args:
        node: who worked; None or 0 minutes when the task costs nothing.
    Returns: CPT paid.
    """
    paid = 0 if node is None else min(task.held, minutes * task.cost_per_minute)
    postings = [(escrow_account(task.user, task.task_id), -task.held), (user_account(task.user), task.held - paid)]
    if node is not None:
        postings.append((user_account(node.owner) if node.owner else node_account(node.node_id), paid))
    chain.post(
        ctx.view,
        time_ms=ctx.now_ms,
        kind=EntryKind.POST if paid else EntryKind.VOID,
        postings=postings,
        reference=f"{task.user}/{task.task_id}",
        origin="hive",
    )
    return paid


def finish(ctx: Context, old: TaskRecord, new: TaskRecord) -> None:
    """Saves a task that ends, and sets free (COMPLETED) or fails (else) all that wait for it, and theirs.

    At most the user's unended tasks are touched, which submission bounds.
    """
    save(ctx, old, new)
    ended = [new]
    while ended:
        cause = ended.pop()
        prefix = keys.dependents(cause.user, cause.task_id)
        tails = [keys.task_tail(cause.user, key[len(prefix) :].decode("utf-8")) for key, _ in ctx.view.scan(prefix)]
        for tail in tails:
            task = task_at(ctx.view, tail)
            ensure(task.state is TaskState.PENDING, "a task waits for a dependency and is not pending")
            if cause.state is TaskState.COMPLETED:
                ctx.view.delete(keys.dependent(task.user, cause.task_id, task.task_id))
                if bump(ctx.view, keys.waiting(task.user, task.task_id), -1) == 0:
                    enqueue(ctx.view, task)
                continue
            settle(ctx, task, None, 0)
            failed = dataclasses.replace(
                task,
                state=TaskState.FAILED,
                ended_ms=ctx.now_ms,
                held=0,
                reason=f"The task {cause.task_id}, on which it depends, is {cause.state.value}.",
            )
            save(ctx, task, failed)
            ended.append(failed)


def give_up_attempt(ctx: Context, task: TaskRecord, reason: str, *, revoke: bool) -> None:
    """Closes an open attempt that brought nothing: the task is pending again, or FAILED at no cost when it was the last.

    Args:
        revoke: whether the worker may still run it and shall kill it.
    """
    place = {"user": task.user, "task_id": task.task_id, "node_id": task.node_id}
    if task.state is TaskState.STOPPED:
        save(ctx, task, dataclasses.replace(task, attempt_open=False))
    elif task.attempt < task.spec.attempts_max:
        again = dataclasses.replace(
            task, state=TaskState.PENDING, attempt_open=False, assigned_ms=0, started_ms=0, reason=reason
        )
        save(ctx, task, again)
    else:
        settle(ctx, task, None, 0)
        failed = dataclasses.replace(
            task,
            state=TaskState.FAILED,
            attempt_open=False,
            ended_ms=ctx.now_ms,
            held=0,
            reason=f"The hive lost the task in each of {task.attempt} attempts; it costs nothing. Last: {reason}",
        )
        finish(ctx, task, failed)
    if revoke and task.state is not TaskState.STOPPED:
        ctx.events.append(AttemptRevoked(attempt=task.attempt, **place))
    ctx.events.append(AttemptClosed(attempt=task.attempt, **place))


def remove(ctx: Context, task: TaskRecord) -> None:
    """Takes a task that has ended, and that no worker works on, out of all tables."""
    ensure(task.state.ended and not task.attempt_open, "a task that is not over would be removed")
    view = ctx.view
    view.delete(keys.task(task.user, task.task_id))
    view.delete(keys.task_of_user(task.user, task.submitted_ms, task.task_id))
    view.delete(keys.ended(task.ended_ms, task.user, task.task_id))
    bump(view, keys.ENDED_COUNTER, -1)
    blobs: tuple[BlobRef | None, ...] = (task.data, task.result, task.log)
    for blob in blobs:
        if blob is not None and bump(view, keys.by_text(keys.BLOBS, blob.sha256), -1) == 0:
            ctx.events.append(BlobReleased(sha256=blob.sha256))


def waiting_for(view: ReadView, task: TaskRecord) -> list[str]:
    """The dependencies of a pending task that have not ended; empty when it may be placed."""
    if not task.spec.dependencies or not count(view, keys.waiting(task.user, task.task_id)):
        return []
    return [
        dependency
        for dependency in task.spec.dependencies
        if view.get(keys.dependent(task.user, dependency, task.task_id)) is not None
    ]
