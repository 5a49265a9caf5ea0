"""What was measured: repeated runs of one quantity, their median and spread, and how they are shown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table.

    Args:
        runs: the quantity as each run had it.
        reach: the number to reach, as text; empty when it stands there for comparison.
        met: whether the median (or what `reach` speaks of) does; None for a comparison.
    """

    name: str
    unit: str
    runs: tuple[float, ...]
    reach: str = ""
    met: bool | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "runs": list(self.runs),
            "median": self.median,
            "least": min(self.runs),
            "most": max(self.runs),
            "reach": self.reach,
            "met": self.met,
            "note": self.note,
        }


@dataclass
class Report:
    """All lines, in the order measured."""

    figures: list[Figure] = field(default_factory=list)

    def at_least(self, name: str, unit: str, runs: Sequence[float], least: float, note: str = "") -> None:
        met = statistics.median(runs) >= least
        self._add(Figure(name=name, unit=unit, runs=tuple(runs), reach=f"≥ {least:,g}", met=met, note=note))

    def at_most(self, name: str, unit: str, runs: Sequence[float], most: float, note: str = "") -> None:
        met = statistics.median(runs) <= most
        self._add(Figure(name=name, unit=unit, runs=tuple(runs), reach=f"≤ {most:,g}", met=met, note=note))

    def slowest(self, name: str, unit: str, runs: Sequence[float], most: float, note: str = "") -> None:
        """A bound on the worst of all runs."""
        self._add(
            Figure(
                name=name, unit=unit, runs=tuple(runs), reach=f"slowest < {most:,g}", met=max(runs) < most, note=note
            )
        )

    def compare(self, name: str, unit: str, runs: Sequence[float], note: str = "") -> None:
        self._add(Figure(name=name, unit=unit, runs=tuple(runs), note=note))

    def _add(self, figure: Figure) -> None:
        self.figures.append(figure)
        print(line(figure), flush=True)


HEAD = f"{'what':58} {'runs':>4} {'median':>9} {'least':>9} {'most':>9}  {'unit':8} reach"


def line(figure: Figure) -> str:
    """A line under `HEAD`."""
    numbers = " ".join(
        f"{value:>9,.{_digits(value)}f}" for value in (figure.median, min(figure.runs), max(figure.runs))
    )
    mark = "" if figure.met is None else "yes" if figure.met else "NO"
    tail = "  ".join(part for part in (f"{figure.reach} {mark}".strip(), figure.note) if part)
    return f"{figure.name:58} {len(figure.runs):>4} {numbers}  {figure.unit:8} {tail}".rstrip()


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1 if value >= 10 else 2
