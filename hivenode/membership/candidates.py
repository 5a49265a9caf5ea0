"""The table of addresses that may belong to a peer: bounded, each called back in its turn, failures with backoff.

Rules
1. An address that nobody has named before is due at once.
2. An address is in flight from `take_due` until it is answered, or until `call_ms_max` has passed.
3. A failure makes it wait: 250 ms, then twice as long each time, up to 4 s for who seeks a hive, else up to 30 s. A success
   says when it is due again.
4. A full table forgets the address that was named longest ago; one that nobody answered at goes before one that answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hivenode.encoding.node_record import NodeId

CANDIDATES_MAX: Final = 256
"""More than a LAN's discovery domain holds; bounds what a flood of forged announcements can take."""
IN_FLIGHT_MAX: Final = 32
"""Calls that run at the same time; each is a TLS handshake."""
BACKOFF_MS_MIN: Final = 250
BACKOFF_SEEKING_MS_MAX: Final = 4_000
"""For who has no hive yet, or one with nothing in it: its owner waits before the screen for the other machine to come up."""
BACKOFF_SETTLED_MS_MAX: Final = 30_000
"""For who has a hive: nothing waits for what an address that failed so often may once say."""
ADDRESS_CHARACTERS_MAX: Final = 300
"""A host name of 253 characters, brackets, a scope and a port."""


@dataclass(slots=True, kw_only=True)
class Candidate:
    """One address. `due_ms` None: it is not called until it is named again."""

    address: str
    source: str
    named_ms: int
    due_ms: int | None
    called_ms: int | None = None
    in_flight: bool = False
    failures: int = 0
    refused: bool = False
    node_id: NodeId | None = None


class Candidates:
    """The table.

    Args:
        call_ms_max: after so long a call without an answer counts as failed.
    """

    def __init__(self, call_ms_max: int) -> None:
        self._call_ms_max: Final = call_ms_max
        self._rows: Final[dict[str, Candidate]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, address: str, source: str, now_ms: int, *, again_ms: int) -> tuple[NodeId, ...]:
        """Takes in an address; a known one becomes due when its last call is `again_ms` old.

        Returns:
            the nodes that lost a row, because the table was full.
        """
        if not address or len(address) > ADDRESS_CHARACTERS_MAX:
            return ()
        row = self._rows.get(address)
        if row is None:
            gone = self._make_room()
            self._rows[address] = Candidate(address=address, source=source, named_ms=now_ms, due_ms=now_ms)
            return gone
        row.named_ms = now_ms
        if row.called_ms is not None and not row.failures and now_ms - row.called_ms >= again_ms:
            row.due_ms = now_ms
        return ()

    def knows(self, address: str) -> bool:
        return address in self._rows

    def moved(self, address: str, node_id: NodeId) -> tuple[NodeId, ...]:
        """The node that answered at an address before another one did, when it is known nowhere else."""
        before = self._rows[address].node_id
        if before is None or before == node_id or self.answers_elsewhere(before, address):
            return ()
        return (before,)

    def confirm(self, address: str, node_id: NodeId, *, due_ms: int | None, other_due_ms: int | None) -> None:
        """Notes that a node answered at an address, and when it is called again there and at its other addresses."""
        for row in self._rows.values():
            if row.address == address:
                row.in_flight, row.failures, row.refused, row.node_id, row.due_ms = False, 0, False, node_id, due_ms
            elif row.node_id == node_id and not row.failures:
                row.due_ms = other_due_ms

    def fail(self, address: str, refused: bool, now_ms: int, *, backoff_ms_max: int) -> Candidate | None:
        """Notes that nobody was confirmed at an address; its row, when there is one."""
        row = self._rows.get(address)
        if row is None:
            return None
        row.in_flight = False
        row.failures += 1
        row.refused = refused
        row.due_ms = now_ms + min(backoff_ms_max, BACKOFF_MS_MIN << min(row.failures - 1, 16))
        return row

    def answers_elsewhere(self, node_id: NodeId, address: str) -> bool:
        """Whether the node's last call at another address succeeded."""
        return any(r.node_id == node_id and r.address != address and not r.failures for r in self._rows.values())

    def addresses_of(self, node_id: NodeId) -> tuple[str, ...]:
        """The addresses at which a node was confirmed, those that did not fail since first."""
        rows = [row for row in self._rows.values() if row.node_id == node_id]
        return tuple(row.address for row in sorted(rows, key=lambda row: (row.failures, row.address)))

    def hurry(self, now_ms: int) -> None:
        """Makes every address that is not failing due now."""
        for row in self._rows.values():
            if not row.failures:
                row.due_ms = now_ms

    def hurry_node(self, node_id: NodeId, now_ms: int) -> None:
        """Makes the addresses of one node due now."""
        for row in self._rows.values():
            if row.node_id == node_id:
                row.due_ms = now_ms

    def any_young(self) -> bool:
        """Whether an address still waits for its first answer and has not failed often enough to be given up for now."""
        return any(row.node_id is None and not row.refused and row.failures < 3 for row in self._rows.values())

    def expire_calls(self, now_ms: int) -> list[str]:
        """The addresses whose call has had no answer for too long."""
        return [
            row.address
            for row in self._rows.values()
            if row.in_flight and row.called_ms is not None and now_ms - row.called_ms >= self._call_ms_max
        ]

    def take_due(self, now_ms: int) -> list[str]:
        """The addresses to call now; they are in flight from here on."""
        free = IN_FLIGHT_MAX - sum(row.in_flight for row in self._rows.values())
        due = [r for r in self._rows.values() if not r.in_flight and r.due_ms is not None and r.due_ms <= now_ms]
        due.sort(key=lambda row: (row.due_ms, row.address))
        taken = due[: max(0, free)]
        for row in taken:
            row.in_flight, row.called_ms, row.due_ms = True, now_ms, None
        return [row.address for row in taken]

    def next_deadline(self) -> int | None:
        """When `take_due` or `expire_calls` would next return something, in ms."""
        in_flight = [
            row.called_ms + self._call_ms_max
            for row in self._rows.values()
            if row.in_flight and row.called_ms is not None
        ]
        if len(in_flight) >= IN_FLIGHT_MAX:
            return min(in_flight)
        due = [row.due_ms for row in self._rows.values() if not row.in_flight and row.due_ms is not None]
        return min(in_flight + due, default=None)

    def _make_room(self) -> tuple[NodeId, ...]:
        if len(self._rows) < CANDIDATES_MAX:
            return ()
        oldest = min(self._rows.values(), key=lambda row: (row.node_id is not None, row.named_ms, row.address))
        del self._rows[oldest.address]
        if oldest.node_id is None or self.addresses_of(oldest.node_id):
            return ()
        return (oldest.node_id,)
