"""What a task costs: the documented formula in whole numbers, so that every replica comes to the same CPT.

`base = max(1, int(memory_gb + cpu_score/100 + gpu_score/100 + gpu_memory_gb))` per started minute, times 1.0, 1.2 or 1.5 by
priority, rounded down.
"""

from __future__ import annotations

from typing import Final

from hivenode.pool.records import Priority, TaskSpec

MINUTE_MS: Final = 60_000
_MINUTE_S: Final = 60
_PERCENT: Final = {Priority.NORMAL: 100, Priority.HIGH: 120, Priority.URGENT: 150}


def cost_per_minute(spec: TaskSpec) -> int:
    """CPT for each started minute of the task; at least 1."""
    needs = spec.needs
    hundredths = 100 * (needs.memory_gb + needs.gpu_memory_gb) + needs.cpu_score + needs.gpu_score
    return max(1, hundredths // 100) * _PERCENT[spec.priority] // 100


def hold_for(spec: TaskSpec) -> int:
    """CPT held at submission: the cost of every started minute of the time limit."""
    return cost_per_minute(spec) * -(-spec.time_limit_s // _MINUTE_S)


def started_minutes(from_ms: int, to_ms: int) -> int:
    """How many minutes were started between two times in ms; at least 1."""
    return max(1, -(-(to_ms - from_ms) // MINUTE_MS))
