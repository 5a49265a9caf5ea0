"""Linearizability of one object: is there one order of its operations that explains all answers and respects time?

The search goes through the history by time and keeps every state that the object can be in, together with which of the
operations that are under way have already taken effect there (Wing and Gong 1993; Lowe 2017, "just-in-time"). When an
operation returns, it must have taken effect, so each possibility is carried on until it has, by any others first; a
possibility that cannot explain the answer dies, and when none is left there is no such order.

The order in which writes stand in the log is looked at first: when it explains all, no search is needed. It is an offer and not
trusted: each operation takes effect between its call and its return there too, or the search decides.

An operation whose caller learned nothing is left out of the history when it is known never to have happened, and ends at the
moment by which it is known to have happened. When neither is known, it has no end (`returned_at` None): it may take effect at any
moment after it was called, or never. Each of those doubles what has to be looked at, so a history should have few.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
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
    """One operation: `text` is for a person, times are in any unit, and `returned_at` is None when it may never have happened.

    `place` says where among others a write probably took effect, as an index in a log does; None for a read.
    """

    called_at: int
    returned_at: int | None
    step: Step
    text: str
    place: int | None = None


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
    if _places_explain(history, moments, start):
        return None
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


def _places_explain(history: Sequence[Operation], moments: Sequence[tuple[int, int, int]], start: State) -> bool:
    """Whether all is explained when writes take effect by their places, and the rest as soon as it changes nothing."""
    state, done = start, set[int]()
    writes: list[tuple[int, int]] = []
    reads: list[int] = []
    for _, is_return, number in moments:
        if not is_return:
            place = history[number].place
            if place is not None:
                heappush(writes, (place, number))
            elif history[number].step(state) != state:
                reads.append(number)
            else:
                done.add(number)
            continue
        while number not in done:
            alone = history[number].step(state) if history[number].place is None else None
            if alone is not None:
                state, other = alone, number
            elif writes:
                _, other = heappop(writes)
                after = history[other].step(state)
                if after is None:
                    return False
                state = after
            else:
                return False
            done.add(other)
            done.update(read for read in reads if history[read].step(state) == state)
            reads = [read for read in reads if read not in done]
    return True


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
