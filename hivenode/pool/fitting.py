"""Whether a task fits on a node: one rule for the plan, for its check in `apply`, and for telling why a task waits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique

from hivenode.encoding.node_record import Capabilities
from hivenode.pool.records import Needs


@unique
class Lack(Enum):
    """What a node has too little of."""

    SLOTS = "free slots"
    MEMORY = "memory"
    CPU_SCORE = "CPU score"
    GPU_SCORE = "GPU score"
    GPU_MEMORY = "GPU memory"
    GPU_NAME = "GPU of this name"
    LOCATION = "nearness"
    FREE_MEMORY = "free memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What open attempts take of a node."""

    attempts: int = 0
    memory_gb: int = 0


def _plain(text: str) -> bytes:
    """The text without regard to the case of ASCII letters; those of other scripts depend on Python's Unicode tables."""
    return text.encode("utf-8").lower()


def lacking(offer: Capabilities, needs: Needs) -> Lack | None:
    """What the node would lack even with nothing running on it; None when the task fits."""
    if offer.slots < 1:
        return Lack.SLOTS
    if needs.memory_gb > offer.memory_gb:
        return Lack.MEMORY
    if needs.cpu_score > offer.cpu_score:
        return Lack.CPU_SCORE
    if needs.gpu_score > offer.gpu_score:
        return Lack.GPU_SCORE
    if needs.gpu_memory_gb > offer.gpu_memory_gb:
        return Lack.GPU_MEMORY
    if needs.gpu_name and _plain(needs.gpu_name) not in _plain(offer.gpu_name):
        return Lack.GPU_NAME
    if needs.location and _plain(needs.location) != _plain(offer.location):
        return Lack.LOCATION
    return None


def misfit(offer: Capabilities, usage: Usage, needs: Needs) -> Lack | None:
    """What the node lacks beside what runs on it; None when the task fits now."""
    lack = lacking(offer, needs)
    if lack is not None:
        return lack
    if usage.attempts >= offer.slots:
        return Lack.SLOTS
    if usage.memory_gb + needs.memory_gb > offer.memory_gb:
        return Lack.FREE_MEMORY
    return None
