"""The one exception by which a checker says that a promise was broken."""

from __future__ import annotations


class Violation(Exception):  # noqa: N818 - it is what happened, not a fault of the simulator.
    """A promise was broken; the text says which, where and how."""


def demand(condition: bool, message: str) -> None:
    """Raises `Violation(message)` unless `condition` holds."""
    if not condition:
        raise Violation(message)
