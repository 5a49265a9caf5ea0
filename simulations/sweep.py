"""Many runs on all cores, and what they come to together."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from simulations.quick_records import quicken
from simulations.run import Plan, Result, run

GARBAGE_THRESHOLDS: Final = (100_000, 50, 50)
"""A run makes few cycles and many objects that live long; looking for garbage less often saves a tenth of the time."""


def _begin(niceness: int) -> None:
    os.nice(niceness)
    spare_garbage()
    quicken()


def spare_garbage() -> None:
    """Makes this process look for garbage seldom."""
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def timed(plan: Plan) -> tuple[Result, float]:
    """One run, and the seconds of processor time that it took."""
    began = time.process_time()
    result = run(plan)
    elapsed_s = max(time.process_time() - began, 1e-6)
    gc.collect()
    return result, elapsed_s


def results(plans: Sequence[Plan], jobs: int, deadline_s: float, niceness: int = 0) -> Iterator[tuple[Result, float]]:
    """Does all runs in `jobs` processes, and gives each as it ends; the processes are gone when this one is done with it.

    Args:
        niceness: how far they stand back for others (nice(2)).

    Raises:
        multiprocessing.TimeoutError: they were not done within `deadline_s`.
    """
    end_s = time.monotonic() + deadline_s
    # Each process begins fresh, so that a run never depends on what this one did before.
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_begin, initargs=(niceness,)) as pool:
        done = pool.imap_unordered(timed, plans)
        for _ in plans:
            yield done.next(max(0.0, end_s - time.monotonic()))


@dataclass(slots=True)
class Total:
    """What runs came to."""

    runs: int = 0
    node_hours: float = 0.0
    processor_s: float = 0.0
    events: int = 0
    faults: int = 0
    elections: int = 0
    commits: int = 0
    calls: int = 0
    checked: int = 0
    failed: list[Result] = field(default_factory=list)

    def add(self, result: Result, processor_s: float) -> None:
        """Counts a run."""
        self.runs += 1
        self.node_hours += result.node_hours
        self.processor_s += processor_s
        self.events += result.events
        self.faults += result.faults
        self.elections += result.elections
        self.commits += result.commits
        self.calls += result.calls
        self.checked += result.checked
        if result.failure:
            self.failed.append(result)

    def summary(self, elapsed_s: float) -> str:
        """Lines for a person.

        Args:
            elapsed_s: by the clock on the wall.
        """
        hours, seconds = max(self.node_hours, 1e-9), max(self.processor_s, 1e-9)
        lines = [
            f"{self.runs} runs, {len(self.failed)} failed, {self.node_hours:.1f} node-hours in {elapsed_s:.0f} s, "
            f"{self.node_hours / elapsed_s:.3f} node-hours/s, {self.events / elapsed_s:,.0f} events/s",
            f"a core: {self.node_hours / seconds * 60:.1f} node-hours/min, {self.events / seconds:,.0f} events/s",
            f"a node-hour: {self.events / hours:,.0f} events, {self.faults / hours:.1f} faults, "
            f"{self.elections / hours:.1f} elections, {self.commits / hours:,.0f} commits, {self.calls / hours:,.0f} calls, "
            f"{self.checked / hours:,.0f} of them in histories",
        ]
        lines += [
            f"  again: {result.plan.command()}" for result in sorted(self.failed, key=lambda result: result.plan.seed)
        ]
        return "\n".join(lines)
