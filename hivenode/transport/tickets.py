"""What the callee remembers of those who called: open challenges and given tickets, both bounded and expiring."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError

CHALLENGES_MAX: Final = 4_096
CHALLENGE_LIFETIME_MS: Final = 30_000
"""Prove follows Challenge at once; half a minute covers a machine that swaps."""
TICKETS_MAX: Final = 4_096
"""Several for each node of a large hive; who loses one proves itself again unasked."""
TICKETS_PER_NODE_MAX: Final = 8
"""A node uses one for each life of its daemon, and a few while connections break and calls race. Anybody can make a key and
prove it, so what one key holds must not push out the tickets of others."""
ORIGIN_TICKETS_MAX: Final = TICKETS_MAX // 4
"""Of all keys of strangers that proved themselves from one address, or one /64 of IPv6."""
STRANGERS_TICKETS_MAX: Final = TICKETS_MAX * 3 // 4
"""Of all strangers together: the rest is kept for members, which may share an address with a stranger that makes keys."""
TICKET_LIFETIME_MS: Final = 3_600_000
"""A ticket that leaked is worth an hour; a new one costs one round trip."""
TICKET_BYTES: Final = 32
_STRANGERS: Final = "strangers"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenChallenge:
    """A nonce that waits for its signature."""

    caller: NodeId
    public_key: bytes
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ticket:
    caller: NodeId
    holders: tuple[str, ...]
    expires_ms: int


class Tickets:
    """Challenges and tickets of one daemon; they die with it.

    Args:
        hive_id: the hive that this node is in, empty for none.
        now_ms: a clock that never runs back.
        origin_tickets_max: tickets of one address.
    """

    def __init__(
        self, hive_id: Callable[[], str], now_ms: Callable[[], int], origin_tickets_max: int = ORIGIN_TICKETS_MAX
    ) -> None:
        self._hive_id = hive_id
        self._now_ms = now_ms
        self._origin_tickets_max = origin_tickets_max
        self._challenges: OrderedDict[bytes, OpenChallenge] = OrderedDict()
        self._tickets: OrderedDict[str, _Ticket] = OrderedDict()
        self._given: dict[
            str, dict[str, None]
        ] = {}  # by node, by a stranger's address, and of all strangers; oldest first

    def open_challenge(self, caller: NodeId, public_key: bytes) -> bytes:
        """A nonce for the caller to sign once."""
        while len(self._challenges) >= CHALLENGES_MAX:
            self._challenges.popitem(last=False)
        nonce = secrets.token_bytes(TICKET_BYTES)
        self._challenges[nonce] = OpenChallenge(
            caller=caller, public_key=public_key, expires_ms=self._now_ms() + CHALLENGE_LIFETIME_MS
        )
        return nonce

    def take_challenge(self, nonce: bytes, caller: NodeId) -> OpenChallenge:
        """The challenge of a nonce, which counts once. Raises PEER_REJECTED."""
        found = self._challenges.pop(nonce, None)
        if found is None or found.caller != caller or found.expires_ms <= self._now_ms():
            raise HiveError(Code.PEER_REJECTED, "the challenge is not known here: ask for a new one")
        return found

    def give(self, caller: NodeId, origin: str) -> str:
        """A ticket for a caller that has proven itself. Its own oldest makes room; for a stranger then the oldest of its address
        and of all strangers; and only then the oldest of all.

        Args:
            origin: a stranger's address, by its `origin_key`; empty for a member.
        """
        bounds: tuple[tuple[str, int], ...] = ((caller, TICKETS_PER_NODE_MAX),)
        if origin:
            bounds = (*bounds, (origin, self._origin_tickets_max), (_STRANGERS, STRANGERS_TICKETS_MAX))
        for holder, most in bounds:
            while len(own := self._given.get(holder, {})) >= most:
                self._end(next(iter(own)))
        while len(self._tickets) >= TICKETS_MAX:
            self._end(next(iter(self._tickets)))
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        holders = tuple(holder for holder, _ in bounds)
        for holder in holders:
            self._given.setdefault(holder, {})[ticket] = None
        self._tickets[ticket] = _Ticket(caller=caller, holders=holders, expires_ms=self._now_ms() + TICKET_LIFETIME_MS)
        return ticket

    def revoke(self, caller: NodeId) -> None:
        """A node's tickets and challenges end."""
        for ticket in tuple(self._given.get(caller, ())):
            self._end(ticket)
        for nonce in [nonce for nonce, opened in self._challenges.items() if opened.caller == caller]:
            del self._challenges[nonce]

    def holder(self, ticket: str) -> NodeId:
        """Who holds a ticket. Raises PEER_REJECTED."""
        found = self._tickets.get(ticket)
        if found is None or found.expires_ms <= self._now_ms():
            if found is not None:
                self._end(ticket)
            raise HiveError(Code.PEER_REJECTED, "the ticket is not known here: prove yourself again")
        return found.caller

    def check(self, ticket: str, hive_id: str) -> NodeId:
        """Who holds a ticket, in this node's own hive. Raises PEER_REJECTED, WRONG_HIVE."""
        caller = self.holder(ticket)
        mine = self._hive_id()
        if hive_id != mine or not mine:
            raise HiveError(
                Code.WRONG_HIVE, f"this node is in hive {mine or 'none'}, the caller in {hive_id or 'none'}"
            )
        return caller

    def _end(self, ticket: str) -> None:
        """A ticket is good no more, and its places among others are free."""
        for holder in self._tickets.pop(ticket).holders:
            own = self._given[holder]
            del own[ticket]
            if not own:
                del self._given[holder]
