"""How far a node's work is trusted, from 0 to 100: a tie-breaker in placement and a figure for people, never a right.

A node starts with 30 when Docker answers on it and with 10 when not. What is left up to 100 is earned by work: after
`c` ended attempts and `f` faults the share `c / (c + 20 + 10 f)`. So the first tasks count most, twenty bring half of what can
be earned, and one fault weighs as much as ten good ends bring.
"""

from __future__ import annotations

from typing import Final

from hivenode.pool.records import NodeEntry

TRUST_MAX: Final = 100
_WITH_DOCKER: Final = 30
_WITHOUT_DOCKER: Final = 10
_HALF_WAY_COMPLETED: Final = 20
_FAULT_WEIGHT: Final = 10
_DOCKER_ANSWERS: Final = frozenset({"running", "available", "enabled", "ready", "ok", "active", "healthy"})
"""What documented clients and this daemon write when the engine answers."""


def trust_level(entry: NodeEntry) -> int:
    """0 to 100, from Docker state and completed work, in whole numbers."""
    docker = entry.capabilities.docker_status.strip().lower() in _DOCKER_ANSWERS
    start = _WITH_DOCKER if docker else _WITHOUT_DOCKER
    doubt = _HALF_WAY_COMPLETED + _FAULT_WEIGHT * entry.failed
    return start + (TRUST_MAX - start) * entry.completed // (entry.completed + doubt)
