"""Hives that answer: which of several is the better one, and a bounded memory of those reported and those that refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.membership.events import PeerConfirmed, PeerPhase

REMEMBERED_MAX: Final = 64
"""Hives remembered at once; a LAN has a handful, and a liar can name as many as it likes."""
RETRY_MS_MIN: Final = 250
RETRY_MS_MAX: Final = 5_000
"""A join that failed for the moment, as while a hive elects a leader, is tried again within a few seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveSeen:
    """What is known of a hive from those of its members that answer; `node_ids` are these, by id."""

    hive_id: str
    members: int
    created_ms: int
    node_ids: tuple[NodeId, ...]
    address: str


@dataclass(slots=True, kw_only=True)
class _Memory:
    touched_ms: int
    reported_ms: int | None = None
    join_after_ms: int = 0
    failures: int = 0


def hives_of(peers: Sequence[PeerConfirmed]) -> list[HiveSeen]:
    """The hives that the given peers belong to, by id."""
    groups: dict[str, list[PeerConfirmed]] = {}
    for facts in sorted(peers, key=lambda facts: facts.node_id):
        if facts.phase is PeerPhase.MEMBER and facts.hive_id:
            groups.setdefault(facts.hive_id, []).append(facts)
    return [
        HiveSeen(
            hive_id=hive_id,
            members=max(facts.members for facts in group),
            created_ms=min(facts.hive_created_ms for facts in group),
            node_ids=tuple(facts.node_id for facts in group),
            address=group[0].address,
        )
        for hive_id, group in sorted(groups.items())
    ]


def best_hive(hives: Sequence[HiveSeen]) -> HiveSeen:
    """The larger, then the older, then the one with the lower id: the same for whoever compares the same facts."""
    return min(hives, key=lambda hive: (-hive.members, hive.created_ms, hive.hive_id))


class ForeignHives:
    """When a hive was last reported, and until when it is not asked again.

    Args:
        report_ms: a hive is reported once in so many ms.
    """

    def __init__(self, report_ms: int) -> None:
        self._report_ms: Final = report_ms
        self._rows: Final[dict[str, _Memory]] = {}

    def may_report(self, hive_id: str, now_ms: int) -> bool:
        """Whether it is time to report a hive; notes that it is."""
        row = self._row(hive_id, now_ms)
        if row.reported_ms is not None and now_ms - row.reported_ms < self._report_ms:
            return False
        row.reported_ms = now_ms
        return True

    def may_join(self, hive_id: str, now_ms: int) -> bool:
        """Whether a hive may be asked now."""
        row = self._rows.get(hive_id)
        return row is None or now_ms >= row.join_after_ms

    def join_failed(self, hive_id: str, now_ms: int, pause_ms: int | None) -> None:
        """Notes a failed join; asks again after `pause_ms`, or when None after 250 ms, then twice as long, up to 5 s."""
        row = self._row(hive_id, now_ms)
        backoff_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(row.failures, 16))
        row.failures += 1
        row.join_after_ms = now_ms + (backoff_ms if pause_ms is None else pause_ms)

    def _row(self, hive_id: str, now_ms: int) -> _Memory:
        row = self._rows.get(hive_id)
        if row is None:
            if len(self._rows) >= REMEMBERED_MAX:
                del self._rows[min(self._rows, key=lambda key: (self._rows[key].touched_ms, key))]
            row = self._rows[hive_id] = _Memory(touched_ms=now_ms)
        row.touched_ms = now_ms
        return row
