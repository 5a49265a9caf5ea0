"""Rate limits by key: token buckets in a bounded table, in the memory of one node."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from sortedcontainers import SortedList

from hivenode.errors import Code, HiveError

KEYS_MAX: Final = 65_536
"""Buckets kept, some 15 MB; past it the one is forgotten that would be full again first."""
ORIGINS_KEPT: Final = 4_096
"""Addresses whose key is remembered: every call asks for its caller's, and reading an address takes as long as all else of it."""
_MINUTE_US: Final = 60_000_000
"""Whole numbers: what of a minute is left over by many small shares would refuse the last of them."""
_FORGOTTEN_AT_ONCE: Final = 2
"""By each call, which adds one at the most: all 65,536 together would take 100 ms of the event loop."""
_PRIVATE_PREFIX: Final = 64
"""A home has a whole /64 of IPv6 addresses, so that is one origin (RFC 6177)."""


@lru_cache(ORIGINS_KEPT)
def origin_key(origin: str) -> str:
    """The key of a caller's address (`ip:1.2.3.4`); an IPv6 address counts as its /64 network."""
    scheme, _, text = origin.partition(":")
    if scheme != "ip":
        return origin
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return origin
    if isinstance(address, ipaddress.IPv4Address):
        return f"ip:{address}"
    if address.ipv4_mapped is not None:
        return f"ip:{address.ipv4_mapped}"
    return f"ip:{ipaddress.ip_network((address, _PRIVATE_PREFIX), strict=False)}"


class RateLimit:
    """A bucket a key: it holds a minute's worth and fills evenly. One that is full says nothing, and is not kept.

    So that nobody can have a bucket forgotten by using many other keys: those that were hardly used go before it.

    Args:
        what: the subject of the refusal, as "registrations from this address".
        per_minute: how many a minute, and how many at once.
        keys_max: buckets kept.
    """

    def __init__(self, what: str, per_minute: int, *, keys_max: int = KEYS_MAX) -> None:
        self._what = what
        self._cost_us = max(1, _MINUTE_US // per_minute)
        self._per_minute = per_minute
        self._keys_max = keys_max
        self._full_at_us: dict[str, int] = {}
        self._by_fullness: SortedList[tuple[int, str]] = SortedList()

    def take(self, key: str, clock_ms: int) -> None:
        """Counts one at a monotonic time in ms; one that ran back fills nothing. Raises RATE_LIMITED."""
        now_us = clock_ms * 1_000
        self._forget_full(now_us)
        missing_us = min(max(self._full_at_us.get(key, now_us) - now_us, 0), _MINUTE_US)
        wait_us = missing_us + self._cost_us - _MINUTE_US
        allowed = wait_us <= 0
        self._put(key, now_us + missing_us + (self._cost_us if allowed else 0))
        if not allowed:
            wait_s = -(-wait_us // 1_000_000)
            raise HiveError(
                Code.RATE_LIMITED,
                f"too many {self._what}: at most {self._per_minute} a minute are taken; try again in {wait_s} s",
            )

    def give_back(self, key: str) -> None:
        """Takes back what `take` counted: what happened does not count."""
        if (full_at_us := self._full_at_us.get(key)) is not None:
            self._put(key, full_at_us - self._cost_us)

    def _put(self, key: str, full_at_us: int) -> None:
        if (before := self._full_at_us.pop(key, None)) is not None:
            self._by_fullness.remove((before, key))
        elif len(self._full_at_us) >= self._keys_max:
            self._forget_first()
        self._full_at_us[key] = full_at_us
        self._by_fullness.add((full_at_us, key))

    def _forget_full(self, now_us: int) -> None:
        for _ in range(_FORGOTTEN_AT_ONCE):
            if self._by_fullness and self._by_fullness[0][0] <= now_us:
                self._forget_first()

    def _forget_first(self) -> None:
        _, key = self._by_fullness.pop(0)
        del self._full_at_us[key]
