"""What may be asked of agreed state. Any text may be asked for; what cannot be the name of a row is not there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hivenode.encoding.records import decode_record
from hivenode.encoding.state_view import ReadView
from hivenode.ledger import chain
from hivenode.ledger.accounts import user_account
from hivenode.pool import keys
from hivenode.pool.context import count, standing_session
from hivenode.pool.nodes import find_node, removed_incarnation
from hivenode.pool.records import HiveRecord, NodeEntry, SessionRecord, TaskRecord, UserRecord
from hivenode.pool.tasks import find_task, node_tails, task_at
from hivenode.pool.users import find_user


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveCounts:
    """How many there are now; `tasks_running` counts assigned tasks too."""

    users: int
    nodes: int
    tasks_pending: int
    tasks_running: int
    tasks_ended: int


def hive(view: ReadView) -> HiveRecord | None:
    """The hive's birth and settings; None before its first command."""
    row = view.get(keys.HIVE)
    return None if row is None else decode_record(HiveRecord, row)


def is_born(view: ReadView) -> bool:
    """Whether the hive's first commands are agreed: what it is, whom it trusts, and last its founder."""
    return hive(view) is not None and (count(view, keys.NODES_COUNTER) > 0 or count(view, keys.REMOVED_COUNTER) > 0)


def clock_ms(view: ReadView) -> int:
    """The agreed clock, ms since the epoch."""
    return count(view, keys.CLOCK)


def user(view: ReadView, name: str) -> UserRecord | None:
    """The user of this name, in whatever case it is written."""
    return find_user(view, name)


def session(view: ReadView, session_id: str) -> SessionRecord | None:
    """The session with this id; None also when it has expired by the agreed clock."""
    return standing_session(view, session_id, clock_ms(view))


def balance(view: ReadView, name: str) -> int:
    """Whole CPT of a user; 0 for one that does not exist."""
    found = find_user(view, name)
    return 0 if found is None else chain.balance(view, user_account(found.username))


def account_balance(view: ReadView, account: str) -> int:
    """Whole CPT in an account, by its name (`ledger/accounts.py`)."""
    return chain.balance(view, account)


def total_cpt(view: ReadView) -> int:
    """The sum of all accounts, which is always the supply. Reads every account: for checks."""
    return sum(amount for _, amount in chain.accounts(view))


def accounts(view: ReadView) -> Iterator[tuple[str, int]]:
    """All accounts that are not 0, by name."""
    return chain.accounts(view)


def ledger_head(view: ReadView) -> tuple[int, bytes]:
    """Height and hash of the newest ledger entry."""
    return chain.head(view)


def node(view: ReadView, node_id: str) -> NodeEntry | None:
    """The node with this id."""
    return find_node(view, node_id)


def was_removed(view: ReadView, node_id: str, incarnation: str) -> bool:
    """Whether the node was removed for good with the log of this incarnation."""
    return removed_incarnation(view, node_id) == incarnation


def nodes(view: ReadView) -> list[NodeEntry]:
    """All nodes, by id."""
    return [decode_record(NodeEntry, row) for _, row in view.scan(keys.NODES)]


def task(view: ReadView, user: str, task_id: str) -> TaskRecord | None:
    """The user's task with this id."""
    return find_task(view, user, task_id)


def tasks_of(view: ReadView, user: str, *, limit: int) -> list[TaskRecord]:
    """The user's newest tasks, newest first, at most `limit`."""
    if not keys.sound(user):
        return []
    prefix = keys.user_prefix(keys.TASKS_OF_USER, user)
    found: list[TaskRecord] = []
    for key, _ in view.scan(prefix, reverse=True):
        if len(found) >= limit:
            break
        found.append(task_at(view, keys.task_tail(user, key[len(prefix) + 8 :].decode("utf-8"))))
    return found


def pending_tasks(view: ReadView, *, limit: int) -> list[TaskRecord]:
    """The first `limit` tasks of the queue, in placement order; tasks that wait for others are not in it."""
    found: list[TaskRecord] = []
    for key, _ in view.scan(keys.QUEUE):
        if len(found) >= limit:
            break
        found.append(task_at(view, keys.after_number(key)))
    return found


def open_attempts_of(view: ReadView, node_id: str) -> list[TaskRecord]:
    """The tasks whose newest attempt the node still owes an end."""
    return [task_at(view, tail) for tail, _ in node_tails(view, node_id)] if keys.sound(node_id) else []


def open_attempts(view: ReadView) -> list[TaskRecord]:
    """The tasks whose newest attempt is open, by node."""
    table = keys.OPEN_ATTEMPTS
    return [task_at(view, key[len(table) :].partition(b"\0")[2]) for key, _ in view.scan(table)]


def blob_references(view: ReadView, sha256: str) -> int:
    """How often tasks name the blob as their data, result or log."""
    return count(view, keys.by_text(keys.BLOBS, sha256)) if keys.sound(sha256) else 0


def counts(view: ReadView) -> HiveCounts:
    """The hive's counters; five reads."""
    return HiveCounts(
        users=count(view, keys.USERS_COUNTER),
        nodes=count(view, keys.NODES_COUNTER),
        tasks_pending=count(view, keys.PENDING_COUNTER),
        tasks_running=count(view, keys.RUNNING_COUNTER),
        tasks_ended=count(view, keys.ENDED_COUNTER),
    )
