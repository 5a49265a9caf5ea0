"""This node's identity: an Ed25519 key in the data directory, the node id made from it, and signatures with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nacl.exceptions
import nacl.signing

from hivenode.encoding.node_record import NodeId, NodeRecord, SignedNodeRecord, node_id_of, sign_record
from hivenode.errors import Code, HiveError

KEY_FILE: Final = "node.key"
_SEED_BYTES: Final = 32


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature (64 bytes) holds; malformed keys and signatures simply do not."""
    try:
        nacl.signing.VerifyKey(public_key).verify(message, signature)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError, nacl.exceptions.TypeError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Identity:
    """The node's key pair. Never logged: its repr shows the node id alone."""

    _key: nacl.signing.SigningKey

    @property
    def public_key(self) -> bytes:
        return bytes(self._key.verify_key)

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for libraries that sign tokens."""
        return bytes(self._key)

    @property
    def node_id(self) -> NodeId:
        return node_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature (64 bytes)."""
        return bytes(self._key.sign(message).signature)

    def sign_record(self, record: NodeRecord) -> SignedNodeRecord:
        return sign_record(record, self.sign)

    def __repr__(self) -> str:
        return f"Identity({self.node_id})"


def load_identity(data_dir: Path) -> Identity:
    """The identity kept in `data_dir`, made at the first call; the file has mode 0600.

    Raises:
        HiveError: INVALID_ARGUMENT when the file is damaged, since a new key would silently be another node.
    """
    path = data_dir / KEY_FILE
    try:
        seed = path.read_bytes()
    except FileNotFoundError:
        key = nacl.signing.SigningKey.generate()
        write_secret(path, bytes(key))
        return Identity(key)
    if len(seed) != _SEED_BYTES:
        raise HiveError(
            Code.INVALID_ARGUMENT,
            f"{path} is damaged ({len(seed)} bytes, {_SEED_BYTES} are wanted): restore it from a backup, "
            "or remove the data directory to start as a new node",
        )
    return Identity(nacl.signing.SigningKey(seed))


def write_secret(path: Path, data: bytes) -> None:
    """Writes a 0600 file that is either complete and on disk, or absent."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
