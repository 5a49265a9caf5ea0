"""Node records: what a node says of itself, signed with its Ed25519 key, so that addresses are hints with an author.

`node_id` is derived from the public key and never from an address (`node_id_of`). A record counts only while it has not
expired, and a newer `sequence` replaces an older one.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique
from functools import lru_cache
from typing import Final, NewType, TypeAlias

from hivenode.encoding.canonical import DecodeError, encode
from hivenode.encoding.records import Record, RecordFamily, encode_record

NodeId = NewType("NodeId", str)
"""26 characters of base32: 130 bits of the hash of the node's public key."""

NODE_ID_CHARACTERS: Final = 26
KEPT_IDS: Final = 4_096
"""More than a hive has nodes."""
FINGERPRINT_BYTES: Final = 32
"""SHA-256 of a certificate."""
RECORD_DOMAIN: Final = b"hivenode node record v1\0"
"""Goes before the signed bytes, so that a signature over a record can never be one over something else."""

Verify: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) → whether the signature holds."""


@unique
class Role(Enum):
    """What the owner lets a machine do."""

    AUTO = "auto"
    POOL = "pool"
    WORKER = "worker"
    MASTER = "master"

    @property
    def may_vote(self) -> bool:
        """Whether the machine may hold the log and stand for leader."""
        return self is not Role.WORKER

    @property
    def runs_tasks(self) -> bool:
        """Whether the machine takes tasks when it has a safe executor."""
        return self in (Role.AUTO, Role.WORKER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities(Record):
    """What a machine offers to tasks; the figures of `RegisterWorkerNodeRequest` with the executor it would use.

    `slots` is how many attempts run at once; 0 says that the node takes no tasks, and `executor_note` says why.
    """

    KIND = 2
    hostname: str
    cpu_cores: int
    memory_gb: int
    cpu_score: int
    gpu_score: int
    gpu_memory_gb: int
    gpu_name: str
    location: str
    docker_status: str
    executor: str
    executor_note: str
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord(Record):
    """A node's own statement. `addresses` are `host:port` of its peer port, best first; `incarnation` names its log.

    `certificate_sha256` is the hash of the certificate (DER) that the peer port shows: 32 bytes, or none in a record of
    version 1, which speaks for no certificate.
    """

    KIND = 1
    VERSION = 2
    node_id: NodeId
    public_key: bytes
    incarnation: str
    role: Role
    addresses: tuple[str, ...]
    capabilities: Capabilities
    sequence: int
    expires_ms: int
    version: str
    certificate_sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecordV1(Record):
    """What nodes said before the peer port spoke TLS; logs of that time still hold it."""

    KIND = 1
    node_id: NodeId
    public_key: bytes
    incarnation: str
    role: Role
    addresses: tuple[str, ...]
    capabilities: Capabilities
    sequence: int
    expires_ms: int
    version: str


_RECORDS: Final = RecordFamily(NodeRecord, NodeRecordV1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedNodeRecord(Record):
    """The canonical bytes of a `NodeRecord` with the node's signature over them."""

    KIND = 3
    record: bytes
    signature: bytes


def node_id_of(public_key: bytes) -> NodeId:
    """The id of the node that has this Ed25519 public key (32 bytes)."""
    return _id_of_digest(hashlib.sha256(b"hivenode node id v1\0" + public_key).digest())


@lru_cache(KEPT_IDS)
def _id_of_digest(digest: bytes) -> NodeId:
    # The same nodes' records are opened again and again, and to write base32 takes several times as long as to hash.
    return NodeId(base64.b32encode(digest).decode("ascii").lower()[:NODE_ID_CHARACTERS])


def sign_record(record: NodeRecord, sign: Callable[[bytes], bytes]) -> SignedNodeRecord:
    """Signs a record with the node's key; `sign` takes the message and returns 64 bytes."""
    data = encode_record(record)
    return SignedNodeRecord(record=data, signature=sign(RECORD_DOMAIN + data))


def open_record(signed: SignedNodeRecord, verify: Verify) -> NodeRecord:
    """The record inside, after checking that its author is the node it speaks of.

    Raises:
        DecodeError: not a record, an id that is not the key's, or a signature that does not hold.
    """
    record = _RECORDS.decode(signed.record)
    if isinstance(record, NodeRecordV1):
        fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        record = NodeRecord(**fields, certificate_sha256=b"")
    if not isinstance(record, NodeRecord) or len(record.certificate_sha256) not in (0, FINGERPRINT_BYTES):
        raise DecodeError("this is no node record")
    if node_id_of(record.public_key) != record.node_id:
        raise DecodeError("the node id does not belong to the public key")
    if not verify(record.public_key, RECORD_DOMAIN + signed.record, signed.signature):
        raise DecodeError("the signature of the node record does not hold")
    return record


def handshake_message(
    *, nonce: bytes, signer: NodeId, other: NodeId, hive_id: str, certificate_sha256: bytes, purpose: str
) -> bytes:
    """What a node signs to prove who it is to one other node, once, in one hive (empty `hive_id`: none yet).

    `certificate_sha256` is of the callee's certificate, on either side: who stands between two nodes has another one.
    """
    return b"hivenode handshake v2\0" + encode([purpose, nonce, signer, other, hive_id, certificate_sha256])
