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
_SIMPLE = 0xE0
_FALSE, _TRUE, _NULL = 0xF4, 0xF5, 0xF6
_U64_MAX: Final = (1 << 64) - 1


class DecodeError(ValueError):
    """The bytes are not the canonical encoding of any value, or not of the wanted record."""


_SHORT_HEADS: Final = {
    major: tuple(bytes((major | number,) if number < 24 else (major | 24, number)) for number in range(0x100))
    for major in (_UINT, _NINT, _BYTES, _TEXT, _ARRAY)
}
"""Nearly all numbers and lengths are short, and every message, row and record has some."""


def head_bytes(major: int, number: int) -> bytes:
    """The first bytes of a value: its type in the three high bits, and its number or length in the shortest form.

    Raises:
        ValueError: the number has more than 64 bits.
    """
    if number < 0x100:
        return _SHORT_HEADS[major][number]
    if number < 0x10000:
        return struct.pack(">BH", major | 25, number)
    if number < 0x100000000:
        return struct.pack(">BI", major | 26, number)
    if number <= _U64_MAX:
        return struct.pack(">BQ", major | 27, number)
    raise ValueError("an integer has more than 64 bits")


def _write(out: bytearray, value: Value) -> None:
    kind = type(value)
    if kind is int:
        number: int = value  # type: ignore[assignment]  # narrowed by the exact type, which keeps bool apart
        if number >= 0:
            out += head_bytes(_UINT, number)
        else:
            out += head_bytes(_NINT, -1 - number)
    elif kind is str:
        data = value.encode("utf-8")  # type: ignore[union-attr]
        out += head_bytes(_TEXT, len(data))
        out += data
    elif kind is bytes:
        out += head_bytes(_BYTES, len(value))  # type: ignore[arg-type]
        out += value  # type: ignore[arg-type]
    elif value is None:
        out.append(_NULL)
    elif kind is bool:
        out.append(_TRUE if value else _FALSE)
    elif kind is list or kind is tuple:
        out += head_bytes(_ARRAY, len(value))  # type: ignore[arg-type]
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


def read_number(data: bytes, position: int, info: int) -> tuple[int, int]:
    """The number after a type byte whose low bits are `info` (24 or more), and the position behind it.

    Raises:
        DecodeError: the bytes end before it does, or it is not in the shortest form.
    """
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
            number, position = read_number(data, position, number)
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


def refuse_many(data: bytes, items_max: int) -> None:
    """Raises DecodeError when there are more items in a value, its arrays among them; takes a step for each up to that number.

    An item may be one byte, and reading it takes some hundred times as long as copying that byte.
    """
    position, left = 0, items_max
    while position < len(data):
        left -= 1
        if left < 0:
            raise DecodeError(f"the value has more than {items_max} items")
        number, major = data[position] & 0x1F, data[position] & 0xE0
        position += 1
        if number > 23 and major < _SIMPLE:
            number, position = read_number(data, position, number)
        if major in (_TEXT, _BYTES):
            position += number


def decode(data: bytes) -> Value:
    """The value of canonical bytes; arrays become lists.

    Raises:
        DecodeError: anything but the canonical bytes of one value.
    """
    (value,), position = _items(data, 0, 1, 0)
    if position != len(data):
        raise DecodeError("there are bytes after the value")
    return value
