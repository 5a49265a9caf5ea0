"""Where each row of the pool's agreed state lies.

The first byte of a key names its table. Texts are UTF-8 without NUL and end with one when another component follows;
numbers are 8 bytes, big-endian; so keys sort by their components and two rows never share one. User names are folded
(`fold`), because two names that differ only in case are one name. `validation` bounds every text, so that no key is longer
than 511 bytes, which is LMDB's limit.

| table | key | value |
|---|---|---|
| `HIVE`, `CLOCK`, `GRANTS` | | HiveRecord; ms; day and how many grants it saw |
| `COUNTERS` | name | how many |
| `USERS` | user | UserRecord |
| `SESSIONS` | session | SessionRecord |
| `SESSIONS_BY_EXPIRY` | ms, session | |
| `SESSIONS_OF_USER` | user, created ms, session | |
| `SESSION_COUNTS` | user | how many sessions stand in `SESSIONS_OF_USER` |
| `NODES` | node | NodeEntry |
| `REMOVED_NODES` | node | the incarnation with which it was removed |
| `REMOVED_AT` | node | log index of its removal |
| `REMOVED_ORDER` | log index, node | |
| `TAKEN_OUT` | | log index of the last `TakeOutNode` that was not refused |
| `TRUST` | | the hive's TrustMode, when it is not `lan` |
| `JOIN_TOKENS` | hash of its public key | JoinTokenRecord |
| `APPROVALS` | node | ApprovalRecord, of a node that is not in yet |
| `DENIED` | node | ms since when it is kept out |
| `FOREIGN_COUNTS` | user | how many foreign workers the user has |
| `CLAIMS` | node | when the newest claim expires that was taken from the node |
| `TASKS` | user, task | TaskRecord |
| `TASKS_OF_USER` | user, submitted ms, task | |
| `UNENDED_COUNTS` | user | how many tasks have not ended |
| `QUEUE` | placement order, user, task | the task's Needs; pending tasks whose dependencies are done |
| `WAITING` | user, task | how many dependencies have not ended |
| `DEPENDENTS` | user, dependency, task | |
| `OPEN_ATTEMPTS` | node, user, task | GB of memory that the attempt takes |
| `OPEN_COUNTS` | user | how many attempts are open |
| `ENDED` | ended ms, user, task | ended tasks that no worker works on any more |
| `BLOBS` | sha256 | how often tasks name the blob |
| `REQUESTS` | owner, request key | Remembered |
| `REQUESTS_BY_EXPIRY` | ms, owner, request key | whether it counts |
| `REQUEST_COUNTS` | owner | how many are remembered that count |
| `DISSOLVED` | | DissolvedRecord, when the hive has given itself up |
| `RECOVERIES` | log index | SignedRecovery |
| `OLDEST_REQUEST` | | ms before which no remembered request expires |

The ledger has tables of its own (`ledger/chain.py`).
"""

from __future__ import annotations

from typing import Final

HIVE: Final = b"h"
CLOCK: Final = b"c"
GRANTS: Final = b"g"
COUNTERS: Final = b"n"
USERS: Final = b"u"
SESSIONS: Final = b"s"
SESSIONS_BY_EXPIRY: Final = b"S"
SESSIONS_OF_USER: Final = b"x"
SESSION_COUNTS: Final = b"X"
NODES: Final = b"N"
FOREIGN_COUNTS: Final = b"f"
REMOVED_NODES: Final = b"G"
REMOVED_AT: Final = b"i"
REMOVED_ORDER: Final = b"I"
TAKEN_OUT: Final = b"l"
TRUST: Final = b"m"
JOIN_TOKENS: Final = b"k"
APPROVALS: Final = b"v"
DENIED: Final = b"V"
CLAIMS: Final = b"C"
TASKS: Final = b"t"
TASKS_OF_USER: Final = b"T"
UNENDED_COUNTS: Final = b"U"
QUEUE: Final = b"p"
WAITING: Final = b"w"
DEPENDENTS: Final = b"d"
OPEN_ATTEMPTS: Final = b"a"
OPEN_COUNTS: Final = b"A"
ENDED: Final = b"e"
BLOBS: Final = b"b"
REQUESTS: Final = b"r"
REQUESTS_BY_EXPIRY: Final = b"R"
REQUEST_COUNTS: Final = b"q"
OLDEST_REQUEST: Final = b"o"
DISSOLVED: Final = b"D"
RECOVERIES: Final = b"Y"

TABLES: Final = (
    HIVE,
    CLOCK,
    GRANTS,
    COUNTERS,
    USERS,
    SESSIONS,
    SESSIONS_BY_EXPIRY,
    SESSIONS_OF_USER,
    SESSION_COUNTS,
    NODES,
    FOREIGN_COUNTS,
    TASKS,
    REMOVED_NODES,
    REMOVED_AT,
    REMOVED_ORDER,
    TAKEN_OUT,
    TRUST,
    JOIN_TOKENS,
    APPROVALS,
    DENIED,
    CLAIMS,
    TASKS_OF_USER,
    UNENDED_COUNTS,
    QUEUE,
    WAITING,
    DEPENDENTS,
    OPEN_ATTEMPTS,
    OPEN_COUNTS,
    ENDED,
    BLOBS,
    REQUESTS,
    REQUESTS_BY_EXPIRY,
    REQUEST_COUNTS,
    OLDEST_REQUEST,
    DISSOLVED,
    RECOVERIES,
)

USERS_COUNTER: Final = COUNTERS + b"users"
NODES_COUNTER: Final = COUNTERS + b"nodes"
REMOVED_COUNTER: Final = COUNTERS + b"removed"
DENIED_COUNTER: Final = COUNTERS + b"denied"
PENDING_COUNTER: Final = COUNTERS + b"pending"
RUNNING_COUNTER: Final = COUNTERS + b"running"
ENDED_COUNTER: Final = COUNTERS + b"ended"

COMPONENT_BYTES_MAX: Final = 128
"""Longest text in a key that a caller may look up; the bounds of `validation` are not greater."""

_NUL: Final = b"\0"


def fold(username: str) -> str:
    """The form of a user name by which it is unique."""
    return username.casefold()


def sound(text: str) -> bool:
    """Whether a text from anywhere can stand in a key; what cannot is the key of no row."""
    if "\0" in text or len(text) > COMPONENT_BYTES_MAX:
        return False
    try:
        return 0 < len(fold(text).encode("utf-8")) <= COMPONENT_BYTES_MAX
    except UnicodeEncodeError:
        return False


def number(value: int) -> bytes:
    """8 bytes that sort as the number (0 … 2**64 - 1)."""
    return value.to_bytes(8, "big")


def by_text(table: bytes, text: str) -> bytes:
    """The key of a row with one text."""
    return table + text.encode("utf-8")


def by_user(table: bytes, username: str) -> bytes:
    """The key of a row a user."""
    return table + fold(username).encode("utf-8")


def user_prefix(table: bytes, username: str) -> bytes:
    """What the keys of all rows of a user start with, where more components follow."""
    return by_user(table, username) + _NUL


def task_tail(username: str, task_id: str) -> bytes:
    """User and task, as they end every key that names a task."""
    return fold(username).encode("utf-8") + _NUL + task_id.encode("utf-8")


def task(username: str, task_id: str) -> bytes:
    return TASKS + task_tail(username, task_id)


def waiting(username: str, task_id: str) -> bytes:
    return WAITING + task_tail(username, task_id)


def task_of_user(username: str, submitted_ms: int, task_id: str) -> bytes:
    return user_prefix(TASKS_OF_USER, username) + number(submitted_ms) + task_id.encode("utf-8")


def queued(order: int, username: str, task_id: str) -> bytes:
    return QUEUE + number(order) + task_tail(username, task_id)


def ended(ended_ms: int, username: str, task_id: str) -> bytes:
    return ENDED + number(ended_ms) + task_tail(username, task_id)


def after_number(key: bytes) -> bytes:
    """What follows the table and the number in a key of `QUEUE`, `ENDED`, `SESSIONS_BY_EXPIRY` or `REQUESTS_BY_EXPIRY`."""
    return key[9:]


def dependents(username: str, dependency: str) -> bytes:
    """What the keys of all that wait for a task start with."""
    return DEPENDENTS + task_tail(username, dependency) + _NUL


def dependent(username: str, dependency: str, task_id: str) -> bytes:
    return dependents(username, dependency) + task_id.encode("utf-8")


def attempts_of_node(node_id: str) -> bytes:
    """What the keys of all open attempts of a node start with."""
    return OPEN_ATTEMPTS + node_id.encode("utf-8") + _NUL


def open_attempt(node_id: str, username: str, task_id: str) -> bytes:
    return attempts_of_node(node_id) + task_tail(username, task_id)


def session_by_expiry(expires_ms: int, session_id: str) -> bytes:
    return SESSIONS_BY_EXPIRY + number(expires_ms) + session_id.encode("utf-8")


def session_of_user(username: str, created_ms: int, session_id: str) -> bytes:
    return user_prefix(SESSIONS_OF_USER, username) + number(created_ms) + session_id.encode("utf-8")


def request_tail(owner: str, request_key: str) -> bytes:
    """Owner and request key, as they end every key that names a request."""
    return owner.encode("utf-8") + _NUL + request_key.encode("utf-8")
