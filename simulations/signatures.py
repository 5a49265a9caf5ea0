"""Stands for signatures: the machines only ever ask whether one holds."""

from __future__ import annotations

import hashlib


def signature_of(public_key: bytes, message: bytes) -> bytes:
    """What the key's owner would sign, 64 bytes; that nobody else can is a matter of good manners here."""
    digest = hashlib.sha256(public_key + message).digest()
    return digest + digest


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return signature == signature_of(public_key, message)
