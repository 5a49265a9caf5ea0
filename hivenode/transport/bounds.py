"""What the fields of a request may be, checked before any port sees them; a refusal names the field and its bound.

What the hive agrees on is bounded by `hivenode.pool.validation`; here are only the fields that never get there.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, TypeVar

from hivenode.config import split_address
from hivenode.encoding.node_record import Capabilities
from hivenode.errors import HiveError
from hivenode.pool.records import DEFAULT_ATTEMPTS_MAX, DEFAULT_TIME_LIMIT_S, Needs, Priority, TaskSpec
from hivenode.pool.validation import (
    NUMBERS,
    check_amount,
    check_capabilities,
    check_email,
    check_node_id,
    check_number,
    check_spec,
    check_task_id,
    check_username,
)
from hivenode.transport.metadata import TOKEN_CHARACTERS_MAX
from hivenode.transport.statuses import MalformedError

UNARY_BYTES_MAX: Final = 100 << 20
"""The documented 100 MB of an archive or result in one message."""
RETRIES_MAX: Final = NUMBERS["attempts"].most - 1
"""What the hive bounds is attempts, of which the first is no retry."""

_BYTES: Final[dict[str, tuple[int, int]]] = {
    # A longer password would only make hashing it a way to keep the daemon busy.
    "password": (1, 1_024),
    "status": (0, 64),
    # A host name has 253 at most.
    "address": (1, 300),
    "token": (0, TOKEN_CHARACTERS_MAX),
}
_PERCENT: Final = (0, 100_000)
"""Usage figures: many cores give more than 100 percent."""

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


def _checked(check: Callable[[T], None], value: T) -> T:
    try:
        check(value)
    except HiveError as error:
        raise MalformedError(error.message) from error
    return value


def text(field: str, value: str) -> str:
    """A text within the bound that this room has for the field, in UTF-8 bytes."""
    least, most = _BYTES[field]
    size = len(value) if value.isascii() else len(value.encode("utf-8"))
    if not least <= size <= most:
        raise MalformedError(f"The {field} must have {least} to {most} bytes; it has {size}.")
    return value


def percent(field: str, value: int) -> int:
    least, most = _PERCENT
    if not least <= value <= most:
        raise MalformedError(f"{field} must be {least} to {most}; it is {value}.")
    return value


def username(value: str) -> str:
    return _checked(check_username, value)


def email(value: str) -> str:
    return _checked(check_email, value)


def task_id(value: str) -> str:
    return _checked(check_task_id, value)


def node_id(value: str) -> str:
    return _checked(check_node_id, value)


def address(value: str) -> str:
    """`host:port` of another machine."""
    text("address", value)
    try:
        split_address(value)
    except ValueError as error:
        raise MalformedError(str(error)) from None
    return value


def port(value: int) -> int:
    return _checked(lambda number: check_number("port", number), value)


def amount(value: int) -> int:
    """Whole CPT. A wrong amount is a refusal that the response carries, so it keeps its own code."""
    check_amount(value)
    return value


def capabilities(value: Capabilities) -> Capabilities:
    return _checked(check_capabilities, value)


def choice(field: str, kind: type[E], value: str) -> E:
    """One of the words of an enum."""
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(str(item.value) for item in kind)
        raise MalformedError(f"The {field} must be one of {names}.") from None


def log_offset(value: int) -> int:
    if value < 0:
        raise MalformedError("log_offset must not be negative.")
    return value


def spec(
    needs: Needs, priority: str, time_limit_s: int, retries: int | None, dependencies: tuple[str, ...]
) -> TaskSpec:
    """What the user asks of a task; empty priority, no time limit and unset retries are the defaults."""
    try:
        wanted = Priority(priority.lower() or Priority.NORMAL.value)
    except ValueError:
        names = ", ".join(item.value for item in Priority)
        raise MalformedError(f"The priority must be one of {names}.") from None
    if retries is not None and not 0 <= retries <= RETRIES_MAX:
        raise MalformedError(f"The retries must be 0 to {RETRIES_MAX}; {retries} were asked for.")
    return _checked(
        check_spec,
        TaskSpec(
            needs=needs,
            priority=wanted,
            time_limit_s=time_limit_s or DEFAULT_TIME_LIMIT_S,
            attempts_max=DEFAULT_ATTEMPTS_MAX if retries is None else retries + 1,
            dependencies=dependencies,
        ),
    )
