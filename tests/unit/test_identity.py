"""What a node keeps of itself: its key and the certificate that its peer port shows."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hivenode.errors import Code, HiveError
from hivenode.identity import CERTIFICATE_FILE, KEY_FILE, fingerprint, load_certificate, load_identity


def test_key_and_certificate_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    identity, certificate = load_identity(tmp_path), load_certificate(tmp_path)
    assert load_identity(tmp_path).node_id == identity.node_id
    assert load_certificate(tmp_path) == certificate
    for name in (KEY_FILE, CERTIFICATE_FILE):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_certificate_is_p256_and_valid_on_a_board_without_a_clock(tmp_path: Path) -> None:
    certificate = load_certificate(tmp_path)
    shown = x509.load_pem_x509_certificate(certificate.pem)
    key = shown.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert shown.not_valid_before_utc == datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    assert shown.not_valid_after_utc.year == 9999
    assert certificate.sha256 == fingerprint(ssl.PEM_cert_to_DER_cert(certificate.pem.decode()))


def test_secrets_are_not_in_what_is_printed(tmp_path: Path) -> None:
    identity, certificate = load_identity(tmp_path), load_certificate(tmp_path)
    assert certificate.key_pem.decode() not in repr(certificate)
    assert identity.seed.hex() not in repr(identity)
    assert repr(identity.seed) not in repr(identity)


@pytest.mark.parametrize("damage", [b"", b"nonsense", "other"])
def test_a_damaged_certificate_is_refused_with_what_to_do(tmp_path: Path, damage: bytes | str) -> None:
    first = load_certificate(tmp_path)
    path = tmp_path / CERTIFICATE_FILE
    if damage == "other":
        (tmp_path / "other").mkdir()
        path.write_bytes(load_certificate(tmp_path / "other").key_pem + first.pem)
    else:
        assert isinstance(damage, bytes)
        path.write_bytes(damage)
    with pytest.raises(HiveError) as caught:
        load_certificate(tmp_path)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert str(path) in caught.value.message
