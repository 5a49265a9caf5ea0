"""Canonical bytes: one value, one encoding, and nothing else is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivenode.encoding.canonical import DEPTH_MAX, DecodeError, Value, decode, encode

scalars = (
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.binary(max_size=300) | st.text(max_size=300)
)
values: st.SearchStrategy[Any] = st.recursive(scalars, lambda inner: st.lists(inner, max_size=30), max_leaves=60)


def lists_of(value: Any) -> Any:
    return [lists_of(item) for item in value] if isinstance(value, list | tuple) else value


@given(value=values)
def test_value_comes_back_as_it_was_with_its_exact_types(value: Any) -> None:
    back = decode(encode(value))
    assert back == value
    assert repr(back) == repr(value)


@given(data=st.binary(max_size=40))
def test_bytes_that_are_read_are_the_canonical_bytes_of_what_is_read(data: bytes) -> None:
    try:
        value = decode(data)
    except DecodeError:
        return
    assert encode(value) == data


@given(value=values, position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_damaged_bytes_are_another_value_or_an_error_and_never_the_same(value: Any, position: int, bit: int) -> None:
    data = bytearray(encode(value))
    data[position % len(data)] ^= 1 << bit
    try:
        back = decode(bytes(data))
    except DecodeError:
        return
    assert encode(back) == bytes(data)


@given(value=values)
def test_no_prefix_and_no_longer_bytes_are_read(value: Any) -> None:
    data = encode(value)
    for piece in (data[:-1], data + b"\x00"):
        with pytest.raises(DecodeError):
            decode(piece)


@pytest.mark.parametrize(
    ("value", "hexadecimal"),
    [
        # RFC 8949, appendix A.
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (1000, "1903e8"),
        (1000000, "1a000f4240"),
        (18446744073709551615, "1bffffffffffffffff"),
        (-1, "20"),
        (-1000, "3903e7"),
        (-18446744073709551616, "3bffffffffffffffff"),
        (False, "f4"),
        (True, "f5"),
        (None, "f6"),
        (b"\x01\x02\x03\x04", "4401020304"),
        ("IETF", "6449455446"),
        ("水", "63e6b0b4"),
        ([], "80"),
        ([1, [2, 3], [4, 5]], "8301820203820405"),
        (tuple(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ],
)
def test_encoding_is_that_of_the_rfc(value: Value, hexadecimal: str) -> None:
    assert encode(value).hex() == hexadecimal
    assert decode(bytes.fromhex(hexadecimal)) == lists_of(value)


@pytest.mark.parametrize(
    "hexadecimal",
    [
        "",
        "1817",  # 23 in two bytes
        "190018",
        "1a0000ffff",
        "1b00000000ffffffff",
        "3817",
        "580161",  # a length of 1 in two bytes
        "7801" + "61",
        "9801" + "00",
        "5f4101ff",  # indefinite lengths
        "9f00ff",
        "a0",  # a map
        "c000",  # a tag
        "f90000",  # a float
        "f7",  # undefined
        "f820",
        "1c",
        "61ff",  # text that is not UTF-8
        "63eda080",  # a surrogate
        "62c080",  # an overlong form
        "9bffffffffffffffff",  # an array longer than its input
        "5bffffffffffffffff",
        "0000",
    ],
)
def test_input_that_is_not_canonical_is_refused(hexadecimal: str) -> None:
    with pytest.raises(DecodeError):
        decode(bytes.fromhex(hexadecimal))


def test_nesting_is_bounded() -> None:
    assert decode(b"\x81" * DEPTH_MAX + b"\x00") is not None
    for depth in (DEPTH_MAX + 1, 100_000):
        with pytest.raises(DecodeError):
            decode(b"\x81" * depth + b"\x00")


@pytest.mark.parametrize("value", [1.5, {"a": 1}, {1}, object(), bytearray(b"x")])
def test_type_without_an_encoding_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize("value", [1 << 64, -(1 << 64) - 1])
def test_integer_over_64_bits_is_a_value_error(value: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        encode(value)
