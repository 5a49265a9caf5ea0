"""The deadline of a call, as it is spent step by step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the event loop's clock, in s."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment `seconds` from now."""
        return cls(asyncio.get_running_loop().time() + seconds)

    def left_s(self) -> float:
        """Seconds that are left; 0 when it has passed."""
        return max(0.0, self.at - asyncio.get_running_loop().time())
