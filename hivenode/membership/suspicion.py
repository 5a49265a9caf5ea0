"""Suspicion: which workers the leader takes for alive, and which for lost. Pure; the leader's memory, never agreed.

Rules:
1. Any word from a worker makes it alive.
2. A broken stream makes it suspect at once. If its machine then refuses a new connection, its daemon is gone: it is lost after
   `refused_grace_ms` without a word, so that one that restarts at once may say hello first.
3. Silence alone makes it suspect after `suspect_ms` and lost after `lost_ms`: the machine is gone, or cut off.
4. A leader that has just been elected knows nothing: it counts every worker that ought to run something as heard at that moment.

| state | heard | reset | refused | silent for suspect_ms | silent for lost_ms |
|---|---|---|---|---|---|
| alive | alive | suspect | - | suspect | - |
| suspect | alive | suspect | lost after the grace | - | lost |
| lost | alive | - | - | - | - |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique

from hivenode.encoding.node_record import NodeId


@unique
class Standing(Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspicionConfig:
    """Times after which silence means something; a worker says something every 2 s."""

    suspect_ms: int = 5_000
    """Two heartbeats lost in a row."""
    lost_ms: int = 10_000
    """The task starts again elsewhere within 15 s of a machine's death, with time left to place and start it."""
    refused_grace_ms: int = 300
    """A supervisor needs longer than this to start a daemon again, and a task must start again within 1 s."""


@dataclass(slots=True)
class _Watched:
    heard_ms: int
    standing: Standing
    refused_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A worker is taken for lost from now on; `reason` is for a person."""

    node_id: NodeId
    reason: str


class Suspicion:
    """What one leader thinks of its workers."""

    def __init__(self, config: SuspicionConfig) -> None:
        self._config = config
        self._watched: dict[NodeId, _Watched] = {}

    def heard(self, node: NodeId, now_ms: int) -> None:
        self._watched[node] = _Watched(heard_ms=now_ms, standing=Standing.ALIVE)

    def expect(self, node: NodeId, now_ms: int) -> None:
        """A worker that ought to be there, but has said nothing to this leader yet."""
        self._watched.setdefault(node, _Watched(heard_ms=now_ms, standing=Standing.SUSPECT))

    def reset(self, node: NodeId) -> None:
        """The worker's stream broke."""
        watched = self._watched.get(node)
        if watched is not None and watched.standing is Standing.ALIVE:
            watched.standing = Standing.SUSPECT

    def refused(self, node: NodeId, now_ms: int) -> None:
        """The worker's machine refused a new connection, and nothing was heard since its stream broke."""
        watched = self._watched.get(node)
        if watched is not None and watched.standing is Standing.SUSPECT and watched.refused_ms is None:
            watched.refused_ms = now_ms

    def forget(self, node: NodeId) -> None:
        self._watched.pop(node, None)

    def standing(self, node: NodeId) -> Standing:
        """LOST also for a worker that was never heard of."""
        watched = self._watched.get(node)
        return Standing.LOST if watched is None else watched.standing

    def next_deadline(self) -> int | None:
        """When `judge` has something to do, in ms; None when nobody is watched."""
        return min((self._due(watched) for watched in self._watched.values() if self._due(watched)), default=None)

    def _due(self, watched: _Watched) -> int:
        match watched.standing:
            case Standing.ALIVE:
                return watched.heard_ms + self._config.suspect_ms
            case Standing.SUSPECT:
                silent = watched.heard_ms + self._config.lost_ms
                gone = silent if watched.refused_ms is None else watched.refused_ms + self._config.refused_grace_ms
                return min(silent, gone)
            case Standing.LOST:
                return 0

    def judge(self, now_ms: int) -> tuple[Lost, ...]:
        """Moves on whoever has been silent for too long; returns those that are lost from now on."""
        lost: list[Lost] = []
        for node, watched in self._watched.items():
            due = self._due(watched)
            if watched.standing is Standing.ALIVE and now_ms >= due:
                watched.standing = Standing.SUSPECT
                due = self._due(watched)
            if watched.standing is Standing.SUSPECT and now_ms >= due:
                watched.standing = Standing.LOST
                gone = watched.refused_ms is not None
                silent_s = (now_ms - watched.heard_ms) // 1_000
                lost.append(
                    Lost(
                        node_id=node,
                        reason="the worker's daemon is gone" if gone else f"the worker was silent for {silent_s} s",
                    )
                )
        return tuple(lost)
