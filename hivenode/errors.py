"""The one tree of errors: a code, a rule for asking again, and text that a person understands.

Codes stand in the bands of the API document: 1xxx users and authentication, 2xxx nodes and the hive, 3xxx tasks,
4xxx ledger, 5xxx files. 9999 is never sent on purpose.

Three kinds of failure exist in the project. A *refusal* and an *operational* failure are `HiveError`s; a *broken
invariant* is `InvariantError`, which stops the daemon and is never caught on the way.
"""

from __future__ import annotations

import errno
from enum import Enum, IntEnum, unique
from typing import Final

ERROR_DOMAIN: Final = "hivenode"
OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""What the system says when this process, or the machine, may open no more for now; it says nothing of the file."""


@unique
class Outcome(Enum):
    """What a caller may conclude about the call that failed."""

    REFUSED = "refused"
    """Not done, and asking again in the same words will not do it either."""
    RETRY = "retry"
    """Not done; the same call may be sent again."""
    UNKNOWN = "unknown"
    """Nobody knows whether it was done; ask for the state, or repeat with the same idempotency key."""


@unique
class Code(IntEnum):
    """Wire codes. Released numbers never change."""

    SUCCESS = 0
    USER_NOT_FOUND = 1001
    INVALID_PASSWORD = 1002
    USER_EXISTS = 1003
    INVALID_SESSION = 1004
    PERMISSION_DENIED = 1005
    INVALID_ARGUMENT = 1006
    RATE_LIMITED = 1007
    IDEMPOTENCY_CONFLICT = 1008
    NODE_NOT_FOUND = 2001
    NODE_OFFLINE = 2002
    INSUFFICIENT_RESOURCES = 2003
    NODE_EXISTS = 2004
    NO_LEADER = 2005
    OUTCOME_UNKNOWN = 2006
    WRONG_HIVE = 2007
    PEER_REJECTED = 2008
    OVERLOADED = 2009
    NOT_A_MEMBER = 2010
    SHUTTING_DOWN = 2011
    NODE_REMOVED = 2012
    TASK_NOT_FOUND = 3001
    TASK_FAILED = 3002
    TASK_CANCELLED = 3003
    TASK_EXISTS = 3004
    TASK_NOT_FINISHED = 3005
    INVALID_TASK = 3006
    STALE_ATTEMPT = 3007
    DEPENDENCY_FAILED = 3008
    INSUFFICIENT_BALANCE = 4001
    INVALID_AMOUNT = 4002
    ACCOUNT_NOT_FOUND = 4003
    BLOB_NOT_FOUND = 5001
    BLOB_TOO_LARGE = 5002
    TOO_FEW_COPIES = 5003
    DISK_FULL = 5004
    BLOB_CORRUPT = 5005
    INTERNAL_ERROR = 9999


_RETRY: Final = frozenset(
    {
        Code.RATE_LIMITED,
        Code.NODE_OFFLINE,
        Code.NO_LEADER,
        Code.OVERLOADED,
        Code.SHUTTING_DOWN,
        Code.TOO_FEW_COPIES,
        Code.DISK_FULL,
        Code.TASK_NOT_FINISHED,
        Code.NOT_A_MEMBER,
    }
)
_UNKNOWN: Final = frozenset({Code.OUTCOME_UNKNOWN, Code.INTERNAL_ERROR})


def outcome_of(code: Code) -> Outcome:
    """The one rule from a code to what its caller may conclude."""
    if code in _UNKNOWN:
        return Outcome.UNKNOWN
    return Outcome.RETRY if code in _RETRY else Outcome.REFUSED


class HiveError(Exception):
    """A refusal or an operational failure, with a code and a message for a person.

    Args:
        code: the wire code.
        message: one English sentence that says what is wrong and what to do next; never a secret.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Final = code
        self.message: Final = message

    @property
    def outcome(self) -> Outcome:
        return outcome_of(self.code)


class InvariantError(Exception):
    """What must hold does not: the daemon stops with its own exit code, so that nothing wrong is spread."""


def ensure(condition: bool, message: str) -> None:
    """Raises `InvariantError(message)` unless `condition` holds; unlike `assert` it is never compiled away."""
    if not condition:
        raise InvariantError(message)
