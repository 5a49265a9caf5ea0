"""The names and bounds of what calls carry in their metadata, and how it is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

AUTHORIZATION: Final = "authorization"
IDEMPOTENCY_KEY: Final = "hive-idempotency-key"
HOPS: Final = "hive-hops"
ORIGIN: Final = "hive-origin"
THROUGH: Final = "hive-through"
"""The node without voter right that says where a forwarded call came from; its word is taken, and counted, as its own."""
HIVE_ID: Final = "hive-id"
PEER_TICKET: Final = "hive-peer-ticket"
ERROR_CODE: Final = "hive-error-code"
OUTCOME: Final = "hive-outcome"
COPIES: Final = "hive-copies"
"""In what trails a write: on how many machines' disks it lies now."""
STATUS_DETAILS: Final = "grpc-status-details-bin"

SAID_ONCE: Final = frozenset({AUTHORIZATION, IDEMPOTENCY_KEY, HOPS, ORIGIN, THROUGH, HIVE_ID, PEER_TICKET})
"""What a call carries once or not at all: one part of the daemon reads the first of a name, and another might read the last."""

HOPS_MAX: Final = 2
"""A call goes to the leader in one hop, or in two when leadership has just moved; more is a circle."""
IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 128
"""A UUID with a prefix has 41; longer keys would only fill the hive's memory of requests."""
TOKEN_CHARACTERS_MAX: Final = 4_096
"""The hive's tokens have some 350 characters."""
MADE_KEY_PREFIX: Final = "auto:"
"""Marks a key that a peer made because the caller gave none."""


def doubled(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The first of the names `SAID_ONCE` that is there twice or more often; empty when none is."""
    seen = set()
    for name, _ in metadata or ():
        if name in seen:
            return name
        if name in SAID_ONCE:
            seen.add(name)
    return ""


def value_of(metadata: Iterable[tuple[str, str | bytes]] | None, name: str) -> str:
    """The first text under a name; empty when there is none."""
    if metadata is not None:
        for key, value in metadata:
            if key == name and isinstance(value, str):
                return value
    return ""
