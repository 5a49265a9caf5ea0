"""Canonical bytes: one value has exactly one encoding, so that bytes can be hashed, signed and compared.

The format is the core deterministic subset of CBOR (RFC 8949 §4.2.1) restricted to null, booleans, integers of at most
64 bits, byte strings, UTF-8 text and definite-length arrays. There are no maps, floats or tags: a record is an array whose
first items say its kind and version (`records.py`). `decode` accepts canonical input only: a longer than needed length,
an unknown type, trailing bytes or too deep nesting is an error, never a guess.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

Value: TypeAlias = "None | bool | int | bytes | str | Sequence[Value]"

DEPTH_MAX: Final = 16
"""Deepest nesting; agreed records use four levels, so this stops only hostile input before Python's stack does."""

_UINT, _NINT, _BYTES, _TEXT, _ARRAY = 0x00, 0x20, 0x40, 0x60, 0x80
_FALSE, _TRUE, _NULL = 0xF4, 0xF5, 0xF6
_U64_MAX: Final = (1 << 64) - 1


class DecodeError(ValueError):
    """The bytes are not the canonical encoding of any value, or not of the wanted record."""


def _head(out: bytearray, major: int, number: int) -> None:
    if number < 24:
        out.append(major | number)
    elif number < 0x100:
        out.append(major | 24)
        out.append(number)
    elif number < 0x10000:
        out += struct.pack(">BH", major | 25, number)
    elif number < 0x100000000:
        out += struct.pack(">BI", major | 26, number)
    elif number <= _U64_MAX:
        out += struct.pack(">BQ", major | 27, number)
    else:
        raise ValueError("an integer has more than 64 bits")


def _write(out: bytearray, value: Value) -> None:
    kind = type(value)
    if kind is int:
        number: int = value  # type: ignore[assignment]  # narrowed by the exact type, which keeps bool apart
        if number >= 0:
            _head(out, _UINT, number)
        else:
            _head(out, _NINT, -1 - number)
    elif kind is str:
        data = value.encode("utf-8")  # type: ignore[union-attr]
        _head(out, _TEXT, len(data))
        out += data
    elif kind is bytes:
        _head(out, _BYTES, len(value))  # type: ignore[arg-type]
        out += value  # type: ignore[arg-type]
    elif value is None:
        out.append(_NULL)
    elif kind is bool:
        out.append(_TRUE if value else _FALSE)
    elif kind is list or kind is tuple:
        _head(out, _ARRAY, len(value))  # type: ignore[arg-type]
        for item in value:  # type: ignore[union-attr]
            _write(out, item)
    else:
        raise TypeError(f"{kind.__name__} has no canonical encoding")


def encode(value: Value) -> bytes:
    """The canonical bytes of a value.

    Args:
        value: null, bool, int (64 bits and a sign), bytes, str, or a list or tuple of these.
    Raises:
        TypeError: a type with no encoding. ValueError: an integer over 64 bits.
    """
    out = bytearray()
    _write(out, value)
    return bytes(out)


def _number(data: bytes, position: int, info: int) -> tuple[int, int]:
    """The number after a type byte whose low bits are `info` (24 or more), and the position behind it."""
    if info > 27:
        raise DecodeError("indefinite lengths are not canonical")
    width = 1 << (info - 24)
    end = position + width
    if end > len(data):
        raise DecodeError("the bytes end too early")
    number = int.from_bytes(data[position:end], "big")
    smallest = 24 if width == 1 else 1 << (4 * width)
    if number < smallest:
        raise DecodeError("a number is written longer than it needs")
    return number, end


def _items(data: bytes, position: int, count: int, depth: int) -> tuple[list[Value], int]:
    """So many values from a position on, and the position behind them.

    Only an array costs another call: every message and record is read here, and calls are what reading costs.
    """
    if count and depth > DEPTH_MAX:
        raise DecodeError("the value is nested too deeply")
    items: list[Value] = []
    size = len(data)
    # Each item takes at least a byte, so a huge count in a short input is refused before anything is built.
    if count > size - position:
        raise DecodeError("the bytes end too early")
    for _ in range(count):
        if position >= size:
            raise DecodeError("the bytes end too early")
        first = data[position]
        position += 1
        number, major = first & 0x1F, first & 0xE0
        if number > 23:
            number, position = _number(data, position, number)
        if major == _UINT:
            items.append(number)
        elif major in (_TEXT, _BYTES):
            end = position + number
            if end > size:
                raise DecodeError("the bytes end too early")
            piece = data[position:end]
            position = end
            if major == _BYTES:
                items.append(piece)
                continue
            try:
                items.append(piece.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DecodeError("text is not UTF-8") from error
        elif major == _ARRAY:
            array, position = _items(data, position, number, depth + 1)
            items.append(array)
        elif major == _NINT:
            items.append(-1 - number)
        elif first == _NULL:
            items.append(None)
        elif first in (_FALSE, _TRUE):
            items.append(first == _TRUE)
        else:
            raise DecodeError(f"the type byte {first:#04x} is not allowed")
    return items, position


def decode(data: bytes) -> Value:
    """The value of canonical bytes; arrays become lists.

    Raises:
        DecodeError: anything but the canonical bytes of one value.
    """
    (value,), position = _items(data, 0, 1, 0)
    if position != len(data):
        raise DecodeError("there are bytes after the value")
    return value
