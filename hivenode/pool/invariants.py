"""What must hold of agreed state, checked by reading all of it: for tests, the simulator and `doctor`, never inside `apply`.

Every derived row (index, counter) is computed anew from the records alone and compared with what is there, and the ledger is read
from its genesis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hivenode.encoding.records import decode_record, encode_record
from hivenode.encoding.state_view import ReadView
from hivenode.errors import ensure
from hivenode.ledger import chain
from hivenode.ledger.accounts import ESCROW_PREFIX, escrow_account
from hivenode.ledger.entries import EntryKind
from hivenode.pool import keys, queries
from hivenode.pool.records import NodeEntry, NodeKind, SessionRecord, TaskRecord, TaskState, UserRecord
from hivenode.pool.requests import COUNTED, Remembered
from hivenode.pool.tasks import queue_key
from hivenode.pool.users import session_index

_PRIMARY = (
    keys.HIVE,
    keys.CLOCK,
    keys.GRANTS,
    keys.USERS,
    keys.SESSIONS,
    keys.NODES,
    keys.REMOVED_NODES,
    keys.REMOVED_AT,
    keys.TAKEN_OUT,
    keys.TRUST,
    keys.JOIN_TOKENS,
    keys.APPROVALS,
    keys.DENIED,
    keys.CLAIMS,
    keys.TASKS,
    keys.REQUESTS,
    keys.OLDEST_REQUEST,
    keys.DISSOLVED,
    keys.RECOVERIES,
)

Rows = dict[bytes, bytes]


def check(view: ReadView) -> None:
    """Raises InvariantError that names the first thing which does not hold."""
    known = {table[0] for table in (*keys.TABLES, *chain.TABLES)}
    ensure(len(known) == len(keys.TABLES) + len(chain.TABLES), "two tables have the same first byte")
    for key, _ in view.scan(b""):
        ensure(key[0] in known, f"the key {key!r} is in no table")
    wanted: Rows = {}
    numbers: Counter[bytes] = Counter()
    _check_users(view, wanted, numbers)
    _check_nodes(view, numbers)
    _check_removed(view, wanted, numbers)
    tasks = [decode_record(TaskRecord, row) for _, row in view.scan(keys.TASKS)]
    for task in tasks:
        _check_task(view, task)
        _derive(view, task, wanted, numbers)
    _check_requests(view, wanted, numbers)
    wanted.update({key: keys.number(value) for key, value in numbers.items() if value})
    derived = [table for table in keys.TABLES if table not in _PRIMARY]
    _compare(wanted, {key: row for table in derived for key, row in view.scan(table)})
    _check_money(view, tasks)


def _compare(wanted: Rows, there: Rows) -> None:
    for key in wanted.keys() - there.keys():
        ensure(False, f"the row {key!r} is missing")
    for key in there.keys() - wanted.keys():
        ensure(False, f"the row {key!r} should not be there")
    for key, row in wanted.items():
        ensure(there[key] == row, f"the row {key!r} holds {there[key]!r} and should hold {row!r}")


def _check_users(view: ReadView, wanted: Rows, numbers: Counter[bytes]) -> None:
    for key, row in view.scan(keys.USERS):
        user = decode_record(UserRecord, row)
        ensure(key == keys.by_user(keys.USERS, user.username), "a user is not under the own name")
        numbers[keys.USERS_COUNTER] += 1
    for _, row in view.scan(keys.SESSIONS):
        session = decode_record(SessionRecord, row)
        ensure(queries.user(view, session.username) is not None, "a session belongs to nobody")
        wanted.update(dict.fromkeys(session_index(session), b""))
        numbers[keys.by_user(keys.SESSION_COUNTS, session.username)] += 1


def _check_nodes(view: ReadView, numbers: Counter[bytes]) -> None:
    for key, row in view.scan(keys.NODES):
        entry = decode_record(NodeEntry, row)
        ensure(key == keys.by_text(keys.NODES, entry.node_id), "a node is not under its own id")
        numbers[keys.NODES_COUNTER] += 1
        if entry.kind is NodeKind.FOREIGN:
            numbers[keys.by_user(keys.FOREIGN_COUNTS, entry.owner)] += 1


def _check_removed(view: ReadView, wanted: Rows, numbers: Counter[bytes]) -> None:
    for key, at in view.scan(keys.REMOVED_AT):
        ensure(view.get(keys.REMOVED_NODES + key[1:]) is not None, "the time of a removal that was none")
        wanted[keys.REMOVED_ORDER + at + key[1:]] = b""
        numbers[keys.REMOVED_COUNTER] += 1
    for key, _ in view.scan(keys.DENIED):
        node = queries.node(view, key[1:].decode())
        ensure(node is None or node.kind is NodeKind.FOREIGN, "a node is in the hive and kept out of it")
        numbers[keys.DENIED_COUNTER] += 1


def _check_requests(view: ReadView, wanted: Rows, numbers: Counter[bytes]) -> None:
    oldest = view.get(keys.OLDEST_REQUEST)
    for key, row in view.scan(keys.REQUESTS):
        kept = decode_record(Remembered, row)
        tail = key[1:]
        by_expiry = keys.REQUESTS_BY_EXPIRY + keys.number(kept.expires_ms) + tail
        mark = COUNTED if view.get(by_expiry) == COUNTED else b""
        wanted[by_expiry] = mark
        numbers[keys.REQUEST_COUNTS + tail.partition(b"\0")[0]] += mark == COUNTED
        ensure(keys.number(kept.expires_ms) >= (oldest or b"\xff"), "a request expires before the oldest")


def _check_task(view: ReadView, task: TaskRecord) -> None:
    name = f"the task {task.user}/{task.task_id}"
    state = task.state
    ensure(queries.user(view, task.user) is not None, f"{name} belongs to nobody")
    ensure(0 <= task.attempt <= task.spec.attempts_max, f"{name} has a wrong attempt number")
    ensure(state.ended or task.ended_ms == 0, f"{name} has an end and is {state.value}")
    ensure(task.paid == 0 or state.ended, f"{name} is paid before its end")
    ensure((task.held == 0) == state.ended, f"{name} holds CPT after its end, or none before")
    if state in (TaskState.ASSIGNED, TaskState.RUNNING):
        ensure(task.attempt_open and task.attempt > 0, f"{name} is given to a node without an attempt")
    elif state is not TaskState.STOPPED:
        ensure(not task.attempt_open, f"{name} has an open attempt and is {state.value}")
    if task.attempt_open:
        entry = queries.node(view, task.node_id)
        ensure(entry is not None and entry.kind is NodeKind.HIVE, f"{name} runs on a node that does not exist")
    if state is TaskState.COMPLETED:
        ensure(task.exit_code == 0, f"{name} is COMPLETED with exit code {task.exit_code}")


def _derive(view: ReadView, task: TaskRecord, wanted: Rows, numbers: Counter[bytes]) -> None:
    """Adds the index rows and counts that follow from one task."""
    wanted[keys.task_of_user(task.user, task.submitted_ms, task.task_id)] = b""
    for blob in (task.data, task.result, task.log):
        if blob is not None:
            numbers[keys.by_text(keys.BLOBS, blob.sha256)] += 1
    if task.attempt_open:
        memory = keys.number(task.spec.needs.memory_gb)
        wanted[keys.open_attempt(task.node_id, task.user, task.task_id)] = memory
        numbers[keys.by_user(keys.OPEN_COUNTS, task.user)] += 1
    if task.state.ended:
        numbers[keys.ENDED_COUNTER] += 1
        if not task.attempt_open:
            wanted[keys.ended(task.ended_ms, task.user, task.task_id)] = b""
        return
    numbers[keys.by_user(keys.UNENDED_COUNTS, task.user)] += 1
    if task.state is not TaskState.PENDING:
        numbers[keys.RUNNING_COUNTER] += 1
        return
    numbers[keys.PENDING_COUNTER] += 1
    waits = [name for name in task.spec.dependencies if _waits_for(view, task, name)]
    for dependency in waits:
        wanted[keys.dependent(task.user, dependency, task.task_id)] = b""
    if waits:
        wanted[keys.waiting(task.user, task.task_id)] = keys.number(len(waits))
    else:
        wanted[queue_key(task)] = encode_record(task.spec.needs)


def _waits_for(view: ReadView, task: TaskRecord, dependency: str) -> bool:
    other = queries.task(view, task.user, dependency)
    if other is None or other.state.ended:
        return False
    # The dependency may have been completed and swept, and another task submitted under its id since. One from the same
    # millisecond can be either, so there the index itself is believed.
    indexed = view.get(keys.dependent(task.user, dependency, task.task_id)) is not None
    return other.submitted_ms < task.submitted_ms or (other.submitted_ms == task.submitted_ms and indexed)


def _check_money(view: ReadView, tasks: Iterable[TaskRecord]) -> None:
    """The chain holds, nothing came from nowhere, escrows are what tasks hold, and each hold ended in one post or void."""
    chain.verify_chain(view)
    record = queries.hive(view)
    ensure(queries.total_cpt(view) == (0 if record is None else record.supply), "the CPT do not sum to the supply")
    escrows = {account: amount for account, amount in chain.accounts(view) if account.startswith(ESCROW_PREFIX)}
    held = {escrow_account(task.user, task.task_id): task.held for task in tasks if task.held}
    ensure(escrows == held, "an escrow is not what its task holds")
    open_holds: set[str] = set()
    for entry in chain.entries(view):
        if entry.kind is EntryKind.HOLD:
            ensure(entry.reference not in open_holds, f"{entry.reference} is held twice")
            open_holds.add(entry.reference)
        elif entry.kind in (EntryKind.POST, EntryKind.VOID):
            ensure(entry.reference in open_holds, f"{entry.reference} is settled twice")
            open_holds.discard(entry.reference)
