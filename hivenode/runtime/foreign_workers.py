"""Workers that users registered by the documented call: how many the leader takes, what they reported, who is silent too long.

They cost the hive a row each, which it reads whenever it lists its machines, and are given nothing. Anybody may register, so
their number is bounded in all and not for each user alone. The leader sees to it before it is agreed on: as a rule of the command
itself it would change what logs of released versions mean. Calls that are broken off may take it over the bound by as many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError
from hivenode.pool.events import Event
from hivenode.pool.nodes import FOREIGN_DROPPED_MAX
from hivenode.pool.records import NodeEntry, NodeKind
from hivenode.runtime.node_watch import NodeWatch

HIVE_MAX: Final = 1_024
"""Of all users."""
USER_MAX: Final = 256
"""Of one user, so that it takes four to fill the list."""
KEEP_MS: Final = 24 * 3_600_000
"""Who has reported nothing for this long is taken off the list; documented workers report every 30 s.

Reports are in the leader's memory, so another leader counts anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The last word of a worker: by the clock of the wall, and by the monotonic one."""

    wall_ms: int
    heard_ms: int
    status: str


class ForeignWorkers:
    """See the module. `clock_ms` is monotonic."""

    def __init__(self, clock_ms: Callable[[], int], wall_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._wall_ms = wall_ms
        self._owners = NodeWatch(_owner)
        self._coming: Counter[str] = Counter()  # By user.
        self._reports: dict[str, Report] = {}
        self._led_since_ms: int | None = None

    def applied(self, events: tuple[Event, ...]) -> None:
        """To be told of all that happens in the hive."""
        self._owners.applied(events)

    @contextmanager
    def place(self, view: ReadView, user: str, node_id: str) -> Iterator[None]:
        """A place on the list while the block agrees on the worker. Raises RATE_LIMITED when there is none."""
        owners = self._owners.kept(view)
        if node_id in owners:
            yield
            return
        if len(owners) + self._coming.total() >= HIVE_MAX:
            raise HiveError(
                Code.RATE_LIMITED,
                f"the hive lists {HIVE_MAX} workers of this kind, and takes no more: its operators make room",
            )
        if sum(owner == user for owner in owners.values()) + self._coming[user] >= USER_MAX:
            raise HiveError(Code.RATE_LIMITED, f"a user can have at most {USER_MAX} workers of this kind")
        self._coming[user] += 1
        try:
            yield
        finally:
            self._coming[user] -= 1
            if not self._coming[user]:
                del self._coming[user]

    def heard(self, node_id: str, status: str) -> None:
        """A worker on the list reported."""
        self._reports[node_id] = Report(wall_ms=self._wall_ms(), heard_ms=self._clock_ms(), status=status)

    def report(self, node_id: str) -> Report | None:
        return self._reports.get(node_id)

    def silent(self, view: ReadView, leads: bool) -> tuple[str, ...]:
        """Workers to be taken off the list, at most as many as one entry drops; to be asked again and again, leading or not."""
        owners, now = self._owners.kept(view), self._clock_ms()
        self._reports = {node: report for node, report in self._reports.items() if node in owners}
        if not leads:
            self._led_since_ms = None
            return ()
        if self._led_since_ms is None:
            self._led_since_ms = now
        since, reports = self._led_since_ms, self._reports
        last_ms = {node: max(since, reports[node].heard_ms) if node in reports else since for node in owners}
        return tuple(node for node, heard_ms in last_ms.items() if now - heard_ms >= KEEP_MS)[:FOREIGN_DROPPED_MAX]


def _owner(entry: NodeEntry) -> str | None:
    return entry.owner if entry.kind is NodeKind.FOREIGN else None
