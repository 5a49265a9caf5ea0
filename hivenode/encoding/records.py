"""Records: frozen dataclasses as canonical, versioned bytes.

A record is the array `[kind, version, field, field, …]` in the order of the class. The kind number and version belong to
the class for ever: a released layout is never changed, a new one takes the next version in a new class. Decoding checks every
field's type, so what comes from a peer or a damaged disk is a `DecodeError` and never a half-built object.

Field types: int, str, bytes, bool, an Enum (by its value), a record, an optional of these, and `tuple[X, ...]`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, Final, TypeVar, cast

from hivenode.encoding.canonical import DecodeError, Value, decode, encode
from hivenode.encoding.record_codec import Codec, beginning_of, compile_codec

KEPT_RECORDS: Final = 8_192
"""Records kept in memory as they were read: more than the users, nodes and tasks of a LAN that are busy at a time."""
KEPT_BYTES_MAX: Final = 2_048
"""Longer ones are rare and are not kept, so that all together stay below some 50 MB."""


class Record:
    """Base of all records; a subclass is a frozen dataclass declared with `KIND` and `VERSION`."""

    __slots__ = ()
    KIND: ClassVar[int]
    VERSION: ClassVar[int] = 1


R = TypeVar("R", bound=Record)
_codecs: dict[type[Record], Codec] = {}


def _codec(kind: type[Record]) -> Codec:
    found = _codecs.get(kind)
    if found is None:
        found = _codecs[kind] = compile_codec(kind, _codec)
    return found


def encode_record(record: Record) -> bytes:
    """Canonical bytes of a record.

    Raises:
        TypeError: a field holds another type than it says. ValueError: an integer over 64 bits.
    """
    return _codec(type(record))[0](record)


def decode_record(kind: type[R], data: bytes) -> R:
    """The record of exactly this class. Raises `DecodeError` for another kind, version, field count or field type."""
    # The same row is read by every command and query that touches it, and a record never changes.
    record = _kept(kind, data) if len(data) <= KEPT_BYTES_MAX else _decode(kind, data)
    return cast(R, record)


def _decode(kind: type[Record], data: bytes) -> Record:
    try:
        record, end = _codec(kind)[1](data, 0)
    except DecodeError:
        raise
    except IndexError:
        raise DecodeError("the bytes end too early") from None
    except ValueError as error:
        # Text that is not UTF-8, or what the class itself refuses.
        raise DecodeError(f"{kind.__name__}: {error}") from error
    if end != len(data):
        raise DecodeError("the bytes end too early" if end > len(data) else "there are bytes after the record")
    return cast(Record, record)


_kept = cast(Callable[[type[Record], bytes], Record], lru_cache(KEPT_RECORDS)(_decode))


def to_value(record: Record) -> list[Value]:
    """The record as a canonical value, for records inside values."""
    return cast("list[Value]", decode(encode_record(record)))


def from_value(kind: type[R], value: Value) -> R:
    """The record of a canonical value. Raises `DecodeError`, as `decode_record` does."""
    return decode_record(kind, encode(value))


class RecordFamily:
    """The classes that may stand in one place (all log commands, say), told apart by kind and version.

    Args:
        kinds: the classes; two with the same kind and version are a programming error (ValueError).
    """

    def __init__(self, *kinds: type[Record]) -> None:
        self._kinds = {beginning_of(kind): kind for kind in kinds}
        if len({(kind.KIND, kind.VERSION) for kind in kinds}) != len(kinds):
            raise ValueError("two records of a family have the same kind and version")
        self._sizes = sorted({len(beginning) for beginning in self._kinds})

    def decode(self, data: bytes) -> Record:
        """The record of one of the classes. Raises `DecodeError`, also for a kind or version that is not known."""
        for size in self._sizes:
            kind = self._kinds.get(data[:size])
            if kind is not None:
                return decode_record(kind, data)
        raise DecodeError("no record of this family begins so")
