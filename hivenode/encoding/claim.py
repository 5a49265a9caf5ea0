"""Claims: what a machine says of a user who has proven to own it, signed with the node's key.

Who can read the machine's data directory finds a one-time code there; who shows the code to the machine's own daemon gets a
claim that names one user and one purpose. The hive takes it from that user alone, once, and only until it expires.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import NodeId, Verify
from hivenode.encoding.records import Record, decode_record

CLAIM_DOMAIN: Final = b"hivenode claim v1\0"
"""Goes before the signed bytes, so that a signature over a claim can never be one over something else."""


@unique
class ClaimPurpose(Enum):
    ADMIN = "admin"
    """The user becomes an admin of the hive."""
    NODE = "node"
    """The user receives what the machine earns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Record):
    """What the machine says. `username` in any case; of one node's claims each expires later than those before."""

    KIND = 6
    purpose: ClaimPurpose
    hive_id: str
    node_id: NodeId
    username: str
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedClaim(Record):
    """The canonical bytes of a `Claim` with the node's signature over them."""

    KIND = 7
    claim: bytes
    signature: bytes


def read_claim(data: bytes) -> tuple[Claim, SignedClaim]:
    """What canonical bytes of a `SignedClaim` say, the signature not checked yet. Raises DecodeError."""
    signed = decode_record(SignedClaim, data)
    return decode_record(Claim, signed.claim), signed


def check_claim(signed: SignedClaim, public_key: bytes, verify: Verify) -> None:
    """Raises DecodeError unless the node with this key signed the claim."""
    if not verify(public_key, CLAIM_DOMAIN + signed.claim, signed.signature):
        raise DecodeError("the signature of the claim does not hold")
