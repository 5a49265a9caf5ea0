"""Records: frozen dataclasses as canonical, versioned bytes.

A record is the array `[kind, version, field, field, …]` in the order of the class. The kind number and version belong to
the class for ever: a released layout is never changed, a new one takes the next version in a new class. Decoding checks every
field's type, so what comes from a peer or a damaged disk is a `DecodeError` and never a half-built object.

Field types: int, str, bytes, bool, an Enum (by its value), a record, an optional of these, and `tuple[X, ...]`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar, TypeVar

from hivenode.encoding.canonical import DecodeError, Value, decode, encode

_Encode = Callable[[Any], Value]
_Decode = Callable[[Any], Any]


class Record:
    """Base of all records; a subclass is a frozen dataclass declared with `KIND` and `VERSION`."""

    __slots__ = ()
    KIND: ClassVar[int]
    VERSION: ClassVar[int] = 1


R = TypeVar("R", bound=Record)
_codecs: dict[type[Record], tuple[tuple[tuple[str, _Encode | None], ...], tuple[_Decode, ...]]] = {}


def _exactly(kind: type, name: str) -> _Decode:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise DecodeError(f"{name} is wanted, {type(value).__name__} is there")
        return value

    return check


def _optional(inner: tuple[_Encode | None, _Decode]) -> tuple[_Encode | None, _Decode]:
    write, read = inner
    return (
        (lambda value: None if value is None else write(value)) if write else None,
        lambda value: None if value is None else read(value),
    )


def _sequence(inner: tuple[_Encode | None, _Decode]) -> tuple[_Encode | None, _Decode]:
    write, read = inner

    def read_all(value: Any) -> Any:
        if type(value) is not list:
            raise DecodeError("an array is wanted")
        return tuple([read(item) for item in value])

    return ((lambda value: [write(item) for item in value]) if write else None), read_all


def _enumeration(kind: type[Enum]) -> tuple[_Encode | None, _Decode]:
    def read(value: Any) -> Any:
        if type(value) not in (int, str):
            raise DecodeError(f"{value!r} is no {kind.__name__}")
        try:
            return kind(value)
        except ValueError as error:
            raise DecodeError(f"{value!r} is no {kind.__name__}") from error

    return (lambda value: value.value), read


def _codec_for(hint: Any) -> tuple[_Encode | None, _Decode]:
    """The pair of functions for a type; a None encoder means that the value is written as it is."""
    hint = getattr(hint, "__supertype__", hint)
    hint = getattr(hint, "__supertype__", hint)
    if hint in (int, str, bytes, bool):
        return None, _exactly(hint, hint.__name__)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enumeration(hint)
    if isinstance(hint, type) and issubclass(hint, Record):
        return to_value, lambda value: from_value(hint, value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (kept,) = [argument for argument in arguments if argument is not type(None)]
        return _optional(_codec_for(kept))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence(_codec_for(arguments[0]))
    raise TypeError(f"a record field cannot be {hint!r}")


def _codec(kind: type[Record]) -> tuple[tuple[tuple[str, _Encode | None], ...], tuple[_Decode, ...]]:
    found = _codecs.get(kind)
    if found is None:
        hints = typing.get_type_hints(kind)
        names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        pairs = [_codec_for(hints[name]) for name in names]
        found = (tuple((name, pair[0]) for name, pair in zip(names, pairs, strict=True)), tuple(p[1] for p in pairs))
        _codecs[kind] = found
    return found


def to_value(record: Record) -> list[Value]:
    """The record as a canonical value, for records inside records."""
    kind = type(record)
    out: list[Value] = [kind.KIND, kind.VERSION]
    for name, write in _codec(kind)[0]:
        value = getattr(record, name)
        out.append(value if write is None else write(value))
    return out


def from_value(kind: type[R], value: Any) -> R:
    """The record of a canonical value. Raises `DecodeError` for another kind, version, field count or field type."""
    names, readers = _codec(kind)
    if type(value) is not list or len(value) != len(readers) + 2:
        raise DecodeError(f"these are not the fields of {kind.__name__}")
    if value[0] != kind.KIND or value[1] != kind.VERSION:
        raise DecodeError(f"this is kind {value[0]!r} version {value[1]!r}, not {kind.__name__}")
    fields = {name: read(item) for (name, _), read, item in zip(names, readers, value[2:], strict=True)}
    try:
        return kind(**fields)
    except ValueError as error:
        raise DecodeError(f"{kind.__name__}: {error}") from error


def encode_record(record: Record) -> bytes:
    """Canonical bytes of a record."""
    return encode(to_value(record))


def decode_record(kind: type[R], data: bytes) -> R:
    """The record of exactly this class. Raises `DecodeError`."""
    return from_value(kind, decode(data))


class RecordFamily:
    """The classes that may stand in one place (all log commands, say), told apart by kind and version.

    Args:
        kinds: the classes; two with the same kind and version are a programming error (ValueError).
    """

    def __init__(self, *kinds: type[Record]) -> None:
        self._kinds = {(kind.KIND, kind.VERSION): kind for kind in kinds}
        if len(self._kinds) != len(kinds):
            raise ValueError("two records of a family have the same kind and version")

    def decode(self, data: bytes) -> Record:
        """The record of one of the classes. Raises `DecodeError`, also for a kind or version that is not known."""
        value: Any = decode(data)
        if type(value) is not list or len(value) < 2 or type(value[0]) is not int or type(value[1]) is not int:
            raise DecodeError("this is no record")
        kind = self._kinds.get((value[0], value[1]))
        if kind is None:
            raise DecodeError(f"no record has kind {value[0]} version {value[1]}")
        return from_value(kind, value)
