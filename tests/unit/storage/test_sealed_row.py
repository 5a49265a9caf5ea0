"""A row of agreed state says whether it is what was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivenode.errors import InvariantError
from hivenode.storage.sealed_row import seal, unseal


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=256))
def test_a_row_comes_back_as_it_was_written(key: bytes, value: bytes) -> None:
    assert unseal(key, seal(key, value)) == value


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=256), st.integers(0, 1 << 20))
def test_every_flipped_bit_is_found(key: bytes, value: bytes, bit: int) -> None:
    row = bytearray(seal(key, value))
    row[bit // 8 % len(row)] ^= 1 << bit % 8
    with pytest.raises(InvariantError, match="is not what was written"):
        unseal(key, bytes(row))


@given(st.binary(max_size=3))
def test_a_row_that_is_too_short_is_found(row: bytes) -> None:
    with pytest.raises(InvariantError):
        unseal(b"k", row)


def test_a_row_of_another_key_is_found() -> None:
    with pytest.raises(InvariantError):
        unseal(b"bob", seal(b"alice", b"1000"))
