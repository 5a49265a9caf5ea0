"""What the servers of a daemon allow at the most, in one place, since a test has to reach it sooner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hivenode.transport.channels import CONNECTIONS_MAX
from hivenode.transport.tickets import ORIGIN_TICKETS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one daemon.

    Args:
        connections: to each of its two servers.
        origin_tickets: tickets of one address.
    """

    connections: int = CONNECTIONS_MAX
    origin_tickets: int = ORIGIN_TICKETS_MAX


LIMITS: Final = Limits()
