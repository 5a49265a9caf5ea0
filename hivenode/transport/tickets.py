"""What the callee remembers of those who called: given tickets and spent challenges, both bounded and expiring.

A challenge that waits for its proof is not remembered: its nonce says for which key it is and from when, under a code that this
process alone can make. So whoever asks for any number of them pushes out nobody else's. One is remembered from when it was proven
until it expires, so that it counts once.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hivenode.encoding.node_record import NodeId, node_id_of
from hivenode.errors import Code, HiveError

CHALLENGE_LIFETIME_MS: Final = 30_000
"""Prove follows Challenge at once; half a minute covers a machine that swaps."""
CHALLENGES_SPENT_MAX: Final = 16_384
"""Proven ones that are remembered. To push one out as many have to be proven within half a minute, and with it go all challenges
that are older: a machine that has waited for seconds with its proof begins anew."""
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
_CHALLENGE: Final = struct.Struct(">QQ32s")
"""Its number in this process, when it expires in ms since `_zero_ms`, and the caller's public key."""
_PAST_MS_MAX: Final = 1 << 60
"""How far back that moment may lie: so far that the years of a machine do not show."""
_CODE_BYTES: Final = 16
CHALLENGE_BYTES: Final = _CHALLENGE.size + _CODE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenChallenge:
    """A challenge that is proven by a signature of this key.

    Args:
        number: counts the challenges of this process.
    """

    number: int
    public_key: bytes
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ticket:
    caller: NodeId
    holders: tuple[str, ...]
    expires_ms: int


class TicketExpiredError(HiveError):
    """A ticket that this process gave is an hour old: nothing is wrong with who holds it."""

    def __init__(self, caller: NodeId) -> None:
        super().__init__(Code.PEER_REJECTED, "the ticket has expired: prove yourself again")
        self.caller: Final = caller


class Tickets:
    """Challenges and tickets of one daemon; they die with it. See the module.

    Args:
        hive_id: the hive that this node is in, empty for none.
        clock_ms: monotonic, in ms.
        origin_tickets_max: tickets of one address.
    """

    def __init__(
        self, hive_id: Callable[[], str], clock_ms: Callable[[], int], origin_tickets_max: int = ORIGIN_TICKETS_MAX
    ) -> None:
        self._hive_id = hive_id
        self._clock_ms = clock_ms
        # A challenge counts its time from a random moment of the past: nobody shall learn how long the machine runs.
        self._zero_ms = clock_ms() - secrets.randbelow(_PAST_MS_MAX)
        self._origin_tickets_max = origin_tickets_max
        self._secret = secrets.token_bytes(hashlib.blake2b.MAX_KEY_SIZE)
        self._challenges = 0
        self._spent: OrderedDict[int, int] = OrderedDict()  # Number → expiry in ms, the one spent first at the front.
        self._numbers_gone = 0  # All challenges up to this number are spent or too old.
        self._tickets: OrderedDict[str, _Ticket] = OrderedDict()
        self._given: dict[
            str, dict[str, None]
        ] = {}  # by node, by a stranger's address, and of all strangers; oldest first

    def open_challenge(self, public_key: bytes) -> bytes:
        """A nonce of `CHALLENGE_BYTES` for the caller that has this key (32 bytes) to sign once."""
        self._challenges += 1
        expires_ms = self._clock_ms() + CHALLENGE_LIFETIME_MS
        body = _CHALLENGE.pack(self._challenges, expires_ms - self._zero_ms, public_key)
        return body + self._code_of(body)

    def challenge_of(self, nonce: bytes, caller: NodeId) -> OpenChallenge:
        """The challenge with this nonce, which is the caller's and not spent. Raises PEER_REJECTED."""
        body, code = nonce[: _CHALLENGE.size], nonce[_CHALLENGE.size :]
        if hmac.compare_digest(code, self._code_of(body)):
            number, expires_ms, public_key = _CHALLENGE.unpack(body)
            expires_ms += self._zero_ms
            is_over = number <= self._numbers_gone or number in self._spent or expires_ms <= self._clock_ms()
            if not is_over and node_id_of(public_key) == caller:
                return OpenChallenge(number=number, public_key=public_key, expires_ms=expires_ms)
        raise HiveError(Code.PEER_REJECTED, "the challenge is not known here: ask for a new one")

    def spend(self, challenge: OpenChallenge) -> None:
        """A challenge was proven, and counts no more."""
        self._spent[challenge.number] = challenge.expires_ms
        clock_ms = self._clock_ms()
        while len(self._spent) > CHALLENGES_SPENT_MAX or (self._spent and next(iter(self._spent.values())) <= clock_ms):
            number, _ = self._spent.popitem(last=False)
            self._numbers_gone = max(self._numbers_gone, number)

    def _code_of(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, digest_size=_CODE_BYTES, key=self._secret).digest()

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
        self._tickets[ticket] = _Ticket(
            caller=caller, holders=holders, expires_ms=self._clock_ms() + TICKET_LIFETIME_MS
        )
        return ticket

    def revoke(self, caller: NodeId) -> None:
        """A node's tickets end; it can prove itself again, as any stranger can."""
        for ticket in tuple(self._given.get(caller, ())):
            self._end(ticket)

    def holder(self, ticket: str) -> NodeId:
        """Who holds a ticket. Raises PEER_REJECTED; TicketExpiredError until newer tickets have taken the place of that one."""
        found = self._tickets.get(ticket)
        if found is not None and found.expires_ms <= self._clock_ms():
            raise TicketExpiredError(found.caller)
        if found is None:
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
