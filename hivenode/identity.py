"""This node's identity: an Ed25519 key in the data directory, the node id made from it, and signatures with it.

The peer port shows a P-256 certificate of its own, which the node's signed record vouches for; TLS libraries take no
Ed25519 certificates as widely. It is valid from 2000 to 9999, since a board without a clock must join too: what counts is the
lifetime of the record.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nacl.exceptions
import nacl.signing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hivenode.durable_files import write_file
from hivenode.encoding.node_record import NodeId, NodeRecord, SignedNodeRecord, node_id_of, sign_record
from hivenode.errors import Code, HiveError

KEY_FILE: Final = "node.key"
CERTIFICATE_FILE: Final = "node.pem"
TLS_NAME: Final = "hivenode"
"""The name in every node's certificate: who dials pins the certificate itself, and TLS wants some name."""
_SEED_BYTES: Final = 32
_VALID_FROM: Final = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_VALID_UNTIL: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


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


def identity_of(seed: bytes) -> Identity:
    """The key pair of 32 secret bytes."""
    return Identity(nacl.signing.SigningKey(seed))


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
        write_file(path, bytes(key))
        return Identity(key)
    if len(seed) != _SEED_BYTES:
        raise HiveError(
            Code.INVALID_ARGUMENT,
            f"{path} is damaged ({len(seed)} bytes, {_SEED_BYTES} are wanted): restore it from a backup, "
            "or remove the data directory to start as a new node",
        )
    return identity_of(seed)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the peer port shows, and its private key. Never logged: its repr shows the fingerprint alone."""

    pem: bytes
    key_pem: bytes

    @property
    def sha256(self) -> bytes:
        """The fingerprint that the node record vouches for: of the DER form, 32 bytes."""
        return fingerprint(x509.load_pem_x509_certificate(self.pem).public_bytes(serialization.Encoding.DER))

    def __repr__(self) -> str:
        return f"Certificate({self.sha256.hex()})"


def fingerprint(der: bytes) -> bytes:
    """SHA-256 of a certificate in DER form."""
    return hashlib.sha256(der).digest()


def make_certificate() -> Certificate:
    """A new self-signed P-256 certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, TLS_NAME)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(TLS_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(made.public_bytes(serialization.Encoding.PEM), secret)


def load_certificate(data_dir: Path) -> Certificate:
    """The certificate kept in `data_dir`, made at the first call; the file has mode 0600.

    Raises:
        HiveError: INVALID_ARGUMENT when the file is damaged, since programs may have been told of the old one.
    """
    path = data_dir / CERTIFICATE_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        made = make_certificate()
        write_file(path, made.key_pem + made.pem)
        return made
    try:
        key = serialization.load_pem_private_key(data, password=None)
        shown = x509.load_pem_x509_certificate(data)
        if key.public_key() != shown.public_key():
            raise ValueError("the key is not the certificate's")
    except ValueError as error:
        raise HiveError(
            Code.INVALID_ARGUMENT,
            f"{path} is damaged ({error}): restore it from a backup, or remove it to show a new certificate",
        ) from error
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(shown.public_bytes(serialization.Encoding.PEM), secret)


def keep_identity(data_dir: Path, seed: bytes, certificate_pem: bytes) -> None:
    """Puts a key (32 bytes) and a certificate with its key (PEM) into a data directory that has none.

    Raises:
        HiveError: INVALID_ARGUMENT when they are damaged; nothing is kept then.
    """
    if len(seed) != _SEED_BYTES:
        raise HiveError(Code.INVALID_ARGUMENT, f"a node key has {_SEED_BYTES} bytes, and this has {len(seed)}")
    write_file(data_dir / CERTIFICATE_FILE, certificate_pem)
    try:
        load_certificate(data_dir)
    except HiveError:
        (data_dir / CERTIFICATE_FILE).unlink()
        raise
    write_file(data_dir / KEY_FILE, seed)
