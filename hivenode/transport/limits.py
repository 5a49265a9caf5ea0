"""What the servers of a daemon allow at the most, where a test has to reach it sooner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hivenode.transport.channels import CALLS_MAX, CONNECTIONS_MAX
from hivenode.transport.tickets import ORIGIN_TICKETS_MAX

IDLE_MS_MAX: Final = 300_000
"""A connection without a call for so long is closed; its owner connects anew with the next call, and notices nothing."""
STRANGERS_CALLS_MAX: Final = CALLS_MAX * 3 // 4
"""Of all at the peer port that are no members: the rest is kept for these, or a stranger with many addresses would stop the
hive. Programs at the API's own port are no part of it: that server has places of its own."""
ORIGIN_CONNECTIONS_SHARE: Final = 4
"""Of all connections to the peer port, and to the API when other machines may use it in plain text, one address, or one /64
of IPv6, may have a quarter."""
SMALL_PATIENCE_S: Final = 10.0
LARGE_PATIENCE_S: Final = 60.0
"""The documented 100 MB at 14 Mbit/s; on a slower line UploadTaskStream goes on as long as it moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one daemon.

    Args:
        connections: to each of its two servers.
        idle_ms: how long a connection without a call stays.
        strangers_calls: calls under way at the peer port of all that are no members.
        small_patience_s, large_patience_s: in which a small and a large request must have come.
        origin_tickets: tickets of one address.
    """

    connections: int = CONNECTIONS_MAX
    idle_ms: int = IDLE_MS_MAX
    strangers_calls: int = STRANGERS_CALLS_MAX
    small_patience_s: float = SMALL_PATIENCE_S
    large_patience_s: float = LARGE_PATIENCE_S
    origin_tickets: int = ORIGIN_TICKETS_MAX


LIMITS: Final = Limits()
