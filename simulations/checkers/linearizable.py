"""Linearizability of one object: is there one order of its operations that explains all answers and respects time?

The search goes through the history by time and keeps every state that the object can be in, together with which of the
operations that are under way have already taken effect there (Wing and Gong 1993; Lowe 2017, "just-in-time"). When an
operation returns, it must have taken effect, so each possibility is carried on until it has, by any others first; a
possibility that cannot explain the answer dies, and when none is left there is no such order.

An operation whose caller learned nothing is left out of the history when it is known never to have happened, and ends at the
moment by which it is known to have happened. When neither is known, it has no end (`returned_at` None): it may take effect at any
moment after it was called, or never. Each of those doubles what has to be looked at, so a history should have few.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

CONFIGURATIONS_MAX: Final = 50_000
"""More possibilities than any history of a few clients has; reaching it means that the check cannot decide."""

State: TypeAlias = Hashable
Step: TypeAlias = Callable[[State], State | None]
"""The state after the operation with the answer that it got, or None when that answer is impossible in this state."""


class UndecidedError(Exception):
    """The history leaves too many possibilities to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation: `text` is for a person, times are in any unit, and `returned_at` is None when it may never have happened."""

    called_at: int
    returned_at: int | None
    step: Step
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unexplained:
    """The operation that no order explains, and what the object could have been before it."""

    operation: Operation
    states: tuple[State, ...]


def check(history: Sequence[Operation], start: State) -> Unexplained | None:
    """None when the history is linearizable, else the first return that no order explains.

    Raises:
        UndecidedError: there were too many possibilities.
    """
    moments: list[tuple[int, int, int]] = []
    for number, operation in enumerate(history):
        # A call at the moment of a return is not after it: the two may have overlapped.
        moments.append((operation.called_at, 0, number))
        if operation.returned_at is not None:
            moments.append((operation.returned_at, 1, number))
    moments.sort()
    open_now: list[int] = []
    possible: set[tuple[State, frozenset[int]]] = {(start, frozenset())}
    for _, is_return, number in moments:
        if not is_return:
            open_now.append(number)
            continue
        before = possible
        possible = _until_done(history, open_now, possible, number)
        if not possible:
            states = sorted({repr(state) for state, _ in before})
            return Unexplained(operation=history[number], states=tuple(states))
        open_now.remove(number)
    return None


def _until_done(
    history: Sequence[Operation], open_now: Sequence[int], possible: set[tuple[State, frozenset[int]]], number: int
) -> set[tuple[State, frozenset[int]]]:
    """All possibilities in which the operation has taken effect; it is forgotten in them, for it is over."""
    after: set[tuple[State, frozenset[int]]] = set()
    seen = set(possible)
    waiting = list(possible)
    while waiting:
        state, done = waiting.pop()
        if number in done:
            after.add((state, done - {number}))
            continue
        for other in open_now:
            if other in done:
                continue
            new_state = history[other].step(state)
            if new_state is None:
                continue
            reached = (new_state, done | {other})
            if reached not in seen:
                seen.add(reached)
                waiting.append(reached)
        if len(seen) > CONFIGURATIONS_MAX:
            raise UndecidedError(f"more than {CONFIGURATIONS_MAX} possibilities at {history[number].text}")
    return after
