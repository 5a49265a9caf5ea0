"""Ledger entries: what moved, when, why, and the hash that chains each entry to all before it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from hivenode.encoding.records import Record, encode_record

ENTRY_DOMAIN: Final = b"hivenode ledger entry v1\0"
"""Goes before the hashed bytes, so that the hash of an entry is never the hash of something else."""
NO_HASH: Final = bytes(32)
"""The `prev_hash` of the first entry."""


@unique
class EntryKind(Enum):
    """Why CPT moved."""

    GENESIS = "genesis"
    """The whole supply comes into the treasury; only ever the first entry."""
    GRANT = "grant"
    """From the treasury to a new user."""
    TRANSFER = "transfer"
    HOLD = "hold"
    """A task's greatest cost goes into its escrow."""
    POST = "post"
    """A task's escrow is settled with a payment; the rest goes back."""
    VOID = "void"
    """A task's escrow goes back whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting(Record):
    """Whole CPT into (positive) or out of (negative) an account."""

    KIND = 200
    account: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry(Record):
    """One entry.

    Args:
        height: counts from 1 without a gap.
        prev_hash: `entry_hash` of the entry before, `NO_HASH` at height 1.
        time_ms: the agreed clock.
        postings: sum to 0, but for the genesis; each account once, none with 0.
        reference: what it is about: `<user>/<task id>`, or the place in the log as `log:<index>`.
        origin: on whose word: `user:<name>`, or `hive` for what follows from the hive's rules.
    """

    KIND = 201
    height: int
    prev_hash: bytes
    time_ms: int
    kind: EntryKind
    postings: tuple[Posting, ...]
    reference: str
    origin: str


def entry_hash(entry_bytes: bytes) -> bytes:
    """The 32-byte hash of an entry's canonical bytes; by `prev_hash` inside it covers the whole prefix."""
    return hashlib.sha256(ENTRY_DOMAIN + entry_bytes).digest()


def hash_of(entry: LedgerEntry) -> bytes:
    """`entry_hash` of the entry."""
    return entry_hash(encode_record(entry))
