"""Rate limits by key: token buckets in a bounded table, in the memory of one node."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache
from typing import Final

from hivenode.errors import Code, HiveError

KEYS_MAX: Final = 65_536
"""Buckets kept, some 10 MB; past it the one that was used least recently is forgotten."""
ORIGINS_KEPT: Final = 4_096
"""Addresses whose key is remembered: every call asks for its caller's, and reading an address takes as long as all else of it."""
_MINUTE_MS: Final = 60_000
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
    """A bucket a key: it holds a minute's worth and fills evenly.

    Args:
        what: the subject of the refusal, as "registrations from this address".
        per_minute: how many a minute, and how many at once.
        keys_max: buckets kept.
    """

    def __init__(self, what: str, per_minute: int, *, keys_max: int = KEYS_MAX) -> None:
        self._what = what
        self._full_ms = _MINUTE_MS
        self._cost_ms = _MINUTE_MS / per_minute
        self._per_minute = per_minute
        self._keys_max = keys_max
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, key: str, now_ms: int) -> None:
        """Counts one at a time in ms; a clock that ran back fills nothing. Raises RATE_LIMITED."""
        level_ms, seen_ms = self._buckets.get(key, (float(self._full_ms), now_ms))
        level_ms = min(self._full_ms, level_ms + max(0, now_ms - seen_ms))
        allowed = level_ms >= self._cost_ms
        if allowed:
            level_ms -= self._cost_ms
        self._buckets[key] = (level_ms, now_ms)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._keys_max:
            self._buckets.popitem(last=False)
        if not allowed:
            wait_s = max(1, -(-int(self._cost_ms - level_ms) // 1000))
            raise HiveError(
                Code.RATE_LIMITED,
                f"too many {self._what}: at most {self._per_minute} a minute are taken; try again in {wait_s} s",
            )

    def give_back(self, key: str) -> None:
        """Takes back what `take` counted: what happened does not count."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            level_ms, seen_ms = bucket
            self._buckets[key] = (min(self._full_ms, level_ms + self._cost_ms), seen_ms)
