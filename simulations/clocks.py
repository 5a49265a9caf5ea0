"""The clocks of one machine: a monotonic one that runs a little wrong, and a wall clock that is wrong and may jump."""

from __future__ import annotations

from typing import Final

from simulations.engine import Engine
from simulations.marks import Kind

EPOCH_MS: Final = 1_700_000_000_000
"""When simulations begin, in ms since 1970."""
DRIFT_PPM_MAX: Final = 200
"""A bad quartz; a machine that was never tuned loses some 17 s a day by it."""
SKEW_MS_MAX: Final = 2_000
"""How far the wall clocks of a LAN without NTP are apart on the first day."""
_MILLION: Final = 1_000_000


class Clock:
    """A machine's clocks. They survive a restart of its daemon; only the wall clock can be set."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._rate = _MILLION + engine.between(-DRIFT_PPM_MAX, DRIFT_PPM_MAX)
        self._start_ms = engine.between(0, 1_000_000)
        self._wall_offset_ms = EPOCH_MS + engine.between(-SKEW_MS_MAX, SKEW_MS_MAX)

    def monotonic_ms(self) -> int:
        return self._start_ms + self._engine.now_us * self._rate // (_MILLION * 1_000)

    def wall_ms(self) -> int:
        return self._wall_offset_ms + self._engine.now_us // 1_000

    def jump(self, by_ms: int) -> None:
        """Somebody sets the wall clock."""
        self._wall_offset_ms += by_ms
        self._engine.mark(Kind.CLOCK, self._name, number=by_ms)

    def moment_us(self, monotonic_ms: int) -> int:
        """The first moment of virtual time at which `monotonic_ms` has come."""
        return -(-(monotonic_ms - self._start_ms) * _MILLION * 1_000 // self._rate)
