"""Node records: signed by the key that the id comes from, or refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import (
    NODE_ID_CHARACTERS,
    RECORD_DOMAIN,
    NodeId,
    NodeRecordV1,
    Role,
    SignedNodeRecord,
    handshake_message,
    node_id_of,
    open_record,
    sign_record,
)
from hivenode.encoding.records import decode_record, encode_record
from tests.unit.pool.driver import signed_record, verify


def test_signed_record_opens_to_what_was_signed() -> None:
    signed = signed_record(1, sequence=7)
    record = open_record(signed, verify)
    assert record.sequence == 7
    assert record.node_id == node_id_of(record.public_key)
    assert decode_record(type(signed), encode_record(signed)) == signed


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7), in_signature=st.booleans())
def test_record_with_any_bit_changed_is_refused(position: int, bit: int, in_signature: bool) -> None:
    signed = signed_record(1)
    data = bytearray(signed.signature if in_signature else signed.record)
    data[position % len(data)] ^= 1 << bit
    field = "signature" if in_signature else "record"
    with pytest.raises(DecodeError):
        open_record(dataclasses.replace(signed, **{field: bytes(data)}), verify)


def test_record_of_before_tls_is_read_and_vouches_for_no_certificate() -> None:
    key = SigningKey(bytes([1]) * 32)
    record = open_record(signed_record(1, sequence=7), verify)
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(NodeRecordV1)}
    data = encode_record(NodeRecordV1(**fields))
    signed = SignedNodeRecord(record=data, signature=key.sign(RECORD_DOMAIN + data).signature)
    assert open_record(signed, verify) == dataclasses.replace(record, certificate_sha256=b"")


@pytest.mark.parametrize("length", [1, 31, 33])
def test_record_with_a_fingerprint_of_another_length_is_refused(length: int) -> None:
    key = SigningKey(bytes([1]) * 32)
    record = dataclasses.replace(open_record(signed_record(1), verify), certificate_sha256=bytes(length))
    with pytest.raises(DecodeError):
        open_record(sign_record(record, lambda message: key.sign(message).signature), verify)


def test_record_that_speaks_for_another_node_is_refused() -> None:
    key = SigningKey(bytes([2]) * 32)
    record = open_record(signed_record(1), verify)
    theirs = sign_record(record, lambda message: key.sign(message).signature)
    with pytest.raises(DecodeError, match="signature"):
        open_record(theirs, verify)
    mine = dataclasses.replace(record, public_key=bytes(key.verify_key))
    with pytest.raises(DecodeError, match="belong"):
        open_record(sign_record(mine, lambda message: key.sign(message).signature), verify)


def test_signature_over_the_same_bytes_for_another_purpose_is_refused() -> None:
    key = SigningKey(bytes([1]) * 32)
    signed = signed_record(1)
    with pytest.raises(DecodeError):
        open_record(dataclasses.replace(signed, signature=key.sign(signed.record).signature), verify)
    assert verify(bytes(key.verify_key), RECORD_DOMAIN + signed.record, signed.signature)


def test_node_id_is_26_characters_of_the_keys_hash() -> None:
    first, second = node_id_of(bytes(32)), node_id_of(bytes([1]) * 32)
    assert first != second
    assert len(first) == NODE_ID_CHARACTERS
    assert set(first) <= set("abcdefghijklmnopqrstuvwxyz234567")


def test_roles_say_who_votes_and_who_runs_tasks() -> None:
    assert {role for role in Role if role.may_vote} == {Role.AUTO, Role.POOL, Role.MASTER}
    assert {role for role in Role if role.runs_tasks} == {Role.AUTO, Role.WORKER}


def test_handshake_message_differs_in_every_part() -> None:
    base = {
        "nonce": b"n",
        "signer": NodeId("a"),
        "other": NodeId("b"),
        "hive_id": "h",
        "certificate_sha256": b"c",
        "purpose": "p",
    }
    messages = {handshake_message(**base)}  # type: ignore[arg-type]
    for name, value in base.items():
        changed = b"x" if isinstance(value, bytes) else "x"
        messages.add(handshake_message(**{**base, name: changed}))  # type: ignore[arg-type]
    messages.add(handshake_message(**{**base, "signer": "b", "other": "a"}))  # type: ignore[arg-type]
    assert len(messages) == len(base) + 2
