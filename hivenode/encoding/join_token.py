"""Join tokens: what the owner of a machine hands to the owner of another one, so that it comes into the hive.

The secret in it is the seed of an Ed25519 key. Who joins signs its own node id and the hive with that key (`join_message`); the
hive keeps only a hash of the public key. So the secret never leaves the machine that joins, and neither a proof that was seen nor
the hive's own state lets another one in. The members are named with their ids: a joiner believes no other one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Final

from hivenode.encoding.canonical import DecodeError, encode
from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import Record, decode_record, encode_record

PREFIX: Final = "hive-join-"
"""By which a token is told from an address."""
TOKEN_CHARACTERS_MAX: Final = 4_096
MEMBERS_MAX: Final = 8
"""Named in a token: enough that one of them is up when it is used."""
SEED_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMember(Record):
    """A member with voter right, and `host:port` of its peer port."""

    KIND = 40
    node_id: NodeId
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken(Record):
    """`seed` is the secret; `rights` as of the hive's own word, told here for the person who reads it."""

    KIND = 41
    hive_id: str
    seed: bytes
    rights: str
    expires_ms: int
    members: tuple[TokenMember, ...]


def write_token(token: JoinToken) -> str:
    """The token as one word."""
    return PREFIX + base64.urlsafe_b64encode(encode_record(token)).decode("ascii").rstrip("=")


def read_token(text: str) -> JoinToken:
    """Raises `DecodeError` for what is no whole token."""
    if not text.startswith(PREFIX) or len(text) > TOKEN_CHARACTERS_MAX:
        raise DecodeError("this is no join token")
    body = text[len(PREFIX) :]
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError("the join token is not whole") from error
    token = decode_record(JoinToken, data)
    if len(token.seed) != SEED_BYTES or not 0 < len(token.members) <= MEMBERS_MAX or not token.hive_id:
        raise DecodeError("the join token is not whole")
    return token


def key_hash(public_key: bytes) -> str:
    """What the hive keeps of a token: 64 hexadecimal digits."""
    return hashlib.sha256(b"hivenode join key v1\0" + public_key).hexdigest()


def join_message(*, hive_id: str, node_id: NodeId) -> bytes:
    """What a joiner signs with the token's key: good for this node in this hive alone. `hive_id` is without its epoch."""
    return b"hivenode join v1\0" + encode([hive_id, node_id])
