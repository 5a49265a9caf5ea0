"""Exit codes, and the one way a failure is told: one sentence on stderr, or one JSON document on stdout."""

from __future__ import annotations

from enum import IntEnum, unique
from typing import Final

from hivenode.cli.output import print_json, say
from hivenode.errors import Code, HiveError, Outcome


@unique
class Exit(IntEnum):
    """What the process ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4


_UNREACHABLE: Final = frozenset({Code.NODE_OFFLINE, Code.NO_LEADER, Code.SHUTTING_DOWN})

_NEXT_STEP: Final = {
    Code.INVALID_SESSION: "log in with `hivenode user login NAME`",
    Code.NO_LEADER: "`hivenode status` tells which machines are missing",
    Code.NOT_A_MEMBER: "`hivenode status` tells whether it has found its hive",
    Code.OUTCOME_UNKNOWN: "look whether it was done before you ask again",
    Code.INSUFFICIENT_BALANCE: "`hivenode ledger balance` tells what you have",
    Code.TASK_NOT_FOUND: "`hivenode task ls` lists your tasks",
    Code.TASK_NOT_FINISHED: "`hivenode task logs -f ID` follows it to its end",
    Code.INTERNAL_ERROR: "the daemon's log has the details",
}
"""What a person can do next, for the codes whose message comes from afar."""


def exit_of(error: HiveError) -> Exit:
    """The one rule from an error to an exit code."""
    if error.code in _UNREACHABLE:
        return Exit.UNREACHABLE
    return Exit.REFUSED if error.outcome is Outcome.REFUSED else Exit.FAILED


def sentence(error: HiveError) -> str:
    """The message, with the next step where the message itself names no command."""
    step = _NEXT_STEP.get(error.code)
    text = error.message.rstrip(". ")
    if step is None or "`hivenode " in text:
        return text
    # A daemon speaks to programs here, of metadata that people do not see.
    return f"{'your session has ended' if error.code is Code.INVALID_SESSION else text}: {step}"


def tell(error: HiveError, as_json: bool) -> None:
    """Prints the failure for a program or for a person."""
    if as_json:
        document = {
            "code": int(error.code),
            "name": error.code.name,
            "message": sentence(error),
            "outcome": error.outcome.value,
        }
        print_json({"error": document})
    else:
        say(f"hivenode: {sentence(error)}", err=True)
