"""Who is refused is named in the log, so that a machine that tries what it must not is found; but not for each of its tries, nor
under each of its keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import structlog

AGAIN_S: Final = 60.0
"""The same of the same node is said again after this time."""
NAMED_MAX: Final = 256
"""Lines in that time. Whoever has many keys could say one with each, and the log is on the disk that the hive writes to."""

TEXT_CHARACTERS_MAX: Final = 128
"""Of each text that a line repeats; of a list, the first `ITEMS_MAX`."""
ITEMS_MAX: Final = 4

_log = structlog.get_logger(__name__)


class Refusals:
    """What was said of whom, and when; `clock_s` is monotonic."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._said_s: dict[tuple[str, str], float] = {}  # The one said longest ago at the front.
        self._more_s = -AGAIN_S

    def name(self, node: str, what: str, **about: Any) -> None:
        """Logs a warning that something was refused to a node, at most once in `AGAIN_S`, and of all `NAMED_MAX`.

        Args:
            node: who asked, as far as it is proven.
            what: of which kind it was, in a few words that are the same each time.
            about: what else a person wants to know; never a secret.
        """
        now_s, key = self._clock_s(), (node, what)
        while self._said_s and now_s - next(iter(self._said_s.values())) >= AGAIN_S:
            del self._said_s[next(iter(self._said_s))]
        if key in self._said_s:
            return
        if len(self._said_s) >= NAMED_MAX:
            if now_s - self._more_s >= AGAIN_S:
                self._more_s = now_s
                _log.warning("more nodes are refused than are named", named=NAMED_MAX, within_s=AGAIN_S)
            return
        self._said_s[key] = now_s
        _log.warning("refused a node", node=node, what=what, **{key: _cut(value) for key, value in about.items()})


def _cut(value: Any) -> Any:
    """What others have said, as a line of the log may repeat it."""
    if isinstance(value, str) and len(value) > TEXT_CHARACTERS_MAX:
        return value[:TEXT_CHARACTERS_MAX] + "…"
    if isinstance(value, tuple | list):
        return tuple(map(_cut, value[:ITEMS_MAX])) + (("…",) if len(value) > ITEMS_MAX else ())
    return value
