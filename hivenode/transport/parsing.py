"""Requests and answers out of their bytes, none of which unpacks to much more than it had.

An entry of a list takes two bytes on the wire and sixteen or more in memory, also when nothing is in it, and protobuf builds all
before anybody can count. So the fields of a large message are counted first.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from hivenode.errors import Code, HiveError
from hivenode.transport.bounds import entries_max
from hivenode.transport.statuses import MalformedError

COUNTED_FROM_BYTES: Final = 64 << 10
"""What is smaller holds 32,768 fields at the most, which harm nobody."""
UNKNOWN_FIELDS_MAX: Final = 256
"""More than our table knows, which clients of another version may send."""
ANSWER_FIELDS_MAX: Final = 64 << 10
"""Of a node's answer, whose fields the table does not name. A hive has 4,096 nodes at the most, and Join names each thrice."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX: Final = 10
_DEPTH_MAX: Final = 8
"""Deeper than any request goes."""


def parse(kind: type[Any], data: bytes) -> Any:
    """The message of a kind in these bytes; its fields are not looked at yet.

    Raises:
        MalformedError: it is none, or has more fields than any of its kind may have.
    """
    try:
        if len(data) >= COUNTED_FROM_BYTES:
            _count(data, 0, len(data), kind.DESCRIPTOR, fields_max(kind.DESCRIPTOR), 0)
        return kind.FromString(data)
    except DecodeError as error:
        raise MalformedError(f"this is no {kind.DESCRIPTOR.full_name}") from error


def parse_answer(kind: type[Any], data: bytes, whose: str) -> Any:
    """The message of a kind that a node answers with; its fields are not looked at yet.

    Raises:
        HiveError: PEER_REJECTED when it is none, or has more fields than `ANSWER_FIELDS_MAX`.
    """
    try:
        if len(data) >= COUNTED_FROM_BYTES:
            _count(data, 0, len(data), kind.DESCRIPTOR, ANSWER_FIELDS_MAX, 0)
        return kind.FromString(data)
    except (DecodeError, MalformedError) as error:
        raise HiveError(Code.PEER_REJECTED, f"{whose} answers what is no {kind.DESCRIPTOR.name}") from error


@cache
def fields_max(descriptor: Any) -> int:
    """How many fields a message may have on the wire, with those of the messages in it."""
    return UNKNOWN_FIELDS_MAX + sum(
        entries_max(descriptor, field) * (1 + (fields_max(field.message_type) if field.message_type else 0))
        for field in descriptor.fields
    )


def _count(data: bytes, position: int, end: int, descriptor: Any, left: int, depth: int) -> int:
    """Goes over the fields of a message and returns how many more there may be. Raises DecodeError, MalformedError.

    What is in a field is passed over, so this takes a step a field and ends when they are too many.
    """
    if depth > _DEPTH_MAX:
        raise DecodeError("nested too deeply")
    fields = descriptor.fields_by_number
    while position < end:
        left -= 1
        if left < 0:
            raise MalformedError(f"a {descriptor.full_name} must not have so many fields.")
        tag, position = _varint(data, position, end)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, position = _varint(data, position, end)
        elif wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        elif wire_type == _BYTES:
            size, position = _varint(data, position, end)
            field = fields.get(tag >> 3)
            if position + size > end:
                raise DecodeError("a field ends behind its message")
            if field is not None and field.type == FieldDescriptor.TYPE_MESSAGE:
                left = _count(data, position, position + size, field.message_type, left, depth + 1)
            position += size
        else:
            raise DecodeError("groups are not taken")
    return left


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A number, and the position behind it."""
    number = 0
    for shift in range(_VARINT_BYTES_MAX):
        if position >= end:
            break
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return number, position
    raise DecodeError("a number does not end")
