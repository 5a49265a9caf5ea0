"""What a run leaves for its picture: the moments at which something began or ended at a machine.

The trace is text for a person and a digest for a test; this is the same run as data. Nobody keeps it unless asked to, it
draws nothing from chance and plans nothing, so a run is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final


@unique
class Kind(Enum):
    """What happened; `Mark` says which of its fields mean something."""

    ADDED = "added"
    """There is a machine from now on."""
    STARTS = "starts"
    """A daemon starts."""
    MEMBER = "member"
    """It belongs to the hive, with a log of its own."""
    LIGHT = "light"
    """It belongs to the hive without a log."""
    ROLE = "role"
    """`text` is its role in consensus, `number` its term."""
    CRASHES = "crashes"
    LOSES_POWER = "loses power"
    PAUSED = "stands still"
    RESUMED = "goes on"
    WIPED = "wiped"
    LEFT = "left"
    CLOCK = "clock"
    """Its wall clock was set by `number` ms."""
    DISK = "disk"
    """`text` says what is wrong with its disk, empty when nothing is."""
    CUT = "cut"
    """Nothing goes from `node` to `text` from now on."""
    MENDED = "mended"
    """The way from `node` to `text` is open again."""
    FAULT = "fault"
    """A fault of the name `text` was made."""
    COMMIT = "commit"
    """The entry `number` was applied for the first time, anywhere."""
    CONFIGURATION = "configuration"
    """As of entry `number` the hive has the voters before the bar in `text`, and the learners after it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One moment. `node` is a machine's name, empty when it is about the whole hive."""

    at_us: int
    kind: Kind
    node: str = ""
    text: str = ""
    number: int = 0


_KEPT: ContextVar[list[Mark] | None] = ContextVar("marks", default=None)


def kept_here() -> list[Mark] | None:
    """Where an engine that is made now leaves its marks; None when nobody wants them."""
    return _KEPT.get()


@contextmanager
def kept() -> Iterator[list[Mark]]:
    """The marks of what runs inside the block, also of one that fails.

    A scenario builds its own world, deep inside, so the wish for marks stands around it and not in its arguments.
    """
    marks: list[Mark] = []
    token: Final = _KEPT.set(marks)
    try:
        yield marks
    finally:
        _KEPT.reset(token)
