"""Recovery epochs: how a hive that lost its quorum for good goes on, and is told apart from what it was.

The id of a hive stays. With each recovery a mark follows it, `<hive id>+<epoch>.<tag>`; the tag is random, so that two recoveries
that were done apart are two. Every check that keeps two hives apart (handshakes, tickets, joins, snapshots) compares the id with
its mark, so histories of two epochs meet nowhere. A signed record says who went on, and whose logs were given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import NodeId, Verify, node_id_of
from hivenode.encoding.records import Record, decode_record

RECOVERY_DOMAIN: Final = b"hivenode recovery v1\0"
RECOVERIES_MAX: Final = 16
"""Recoveries that a node tells of; a hive that needs more has lost its operator first."""
REVOKED_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryRecord(Record):
    """One recovery. `hive_id` and `former_hive_id` bear their marks; the log went on after `index` of `term`."""

    KIND = 4
    hive_id: str
    former_hive_id: str
    recovered_by: NodeId
    public_key: bytes
    revoked: tuple[str, ...]
    index: int
    term: int
    decided_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRecovery(Record):
    """The canonical bytes of a `RecoveryRecord` with the recovering node's signature over them."""

    KIND = 5
    record: bytes
    signature: bytes


def base_of(hive_id: str) -> str:
    """The hive's id without a mark: the same in all its epochs."""
    return hive_id.partition("+")[0]


def epoch_of(hive_id: str) -> int:
    """How many recoveries lie behind this id."""
    mark = hive_id.partition("+")[2].partition(".")[0]
    return int(mark) if mark.isdigit() else 0


def next_epoch(hive_id: str, tag: str) -> str:
    """The id after one more recovery; `tag` is 8 random hexadecimal digits."""
    return f"{base_of(hive_id)}+{epoch_of(hive_id) + 1}.{tag}"


def open_recovery(data: bytes, verify: Verify) -> RecoveryRecord:
    """The record in canonical bytes of a `SignedRecovery`. Raises DecodeError when it is none, or not by whom it says."""
    signed = decode_record(SignedRecovery, data)
    record = decode_record(RecoveryRecord, signed.record)
    if node_id_of(record.public_key) != record.recovered_by:
        raise DecodeError("the node id does not belong to the public key")
    if base_of(record.hive_id) != base_of(record.former_hive_id) or record.hive_id == record.former_hive_id:
        raise DecodeError("the record is not of one hive")
    if not verify(record.public_key, RECOVERY_DOMAIN + signed.record, signed.signature):
        raise DecodeError("the signature of the recovery does not hold")
    return record
