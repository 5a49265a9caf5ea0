"""Makes the functions that write and read one record class, as Python source made from its fields and compiled once.

A log entry is written once and read at every node, and each row of agreed state is read and written many times more; so
the fields are read straight from the bytes, without the values of `canonical` in between. The format is that of `canonical`,
and so is its strictness: only the shortest form of a number is taken, and only the types that the class names.

Rules:
- A reader takes the bytes and a position, and returns the record and the position behind it. Where the bytes end early it
  either raises IndexError or returns a position behind their end; whoever calls it from outside looks at both.
- Generated source holds no text but field names and numbers; everything else is bound by name in its namespace.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import count
from typing import Any, Final, TypeAlias

from hivenode.encoding.canonical import DecodeError, head_bytes, read_number

Write: TypeAlias = Callable[[Any], bytes]
Read: TypeAlias = Callable[[bytes, int], tuple[Any, int]]
Codec: TypeAlias = tuple[Write, Read]

_UINT, _NINT, _BYTES, _TEXT, _ARRAY = 0x00, 0x20, 0x40, 0x60, 0x80
_TABLED: Final = 256
"""Numbers and lengths below this have their head bytes in a table."""
_MAJORS: Final = {bytes: _BYTES, str: _TEXT}
_TABLES: Final = {
    major: tuple(head_bytes(major, number) for number in range(_TABLED)) for major in (_UINT, _BYTES, _TEXT, _ARRAY)
}


def _head(major: int, number: int) -> bytes:
    return _TABLES[major][number] if number < _TABLED else head_bytes(major, number)


def _write_integer(number: int) -> bytes:
    return head_bytes(_UINT, number) if number >= 0 else head_bytes(_NINT, -1 - number)


def _read_integer(data: bytes, at: int) -> tuple[int, int]:
    """Any integer whose type byte is at `at`, and the position behind it."""
    first = data[at]
    major, number, at = first & 0xE0, first & 0x1F, at + 1
    if major not in (_UINT, _NINT):
        raise DecodeError(f"an integer is wanted, the type byte {first:#04x} is there")
    if number > 23:
        number, at = read_number(data, at, number)
    return (number if major == _UINT else -1 - number), at


def _read_length(data: bytes, at: int, major: int) -> tuple[int, int]:
    """The length of a text, byte string or array whose type byte is at `at`, and the position behind it."""
    first = data[at]
    if first & 0xE0 != major:
        raise DecodeError(f"another type is wanted, the type byte {first:#04x} is there")
    number = first & 0x1F
    return read_number(data, at + 1, number) if number > 23 else (number, at + 1)


def beginning_of(kind: Any) -> bytes:
    """What the bytes of every record of a class begin with: number of items, kind and version."""
    items = len(dataclasses.fields(kind)) + 2
    return head_bytes(_ARRAY, items) + _write_integer(kind.KIND) + _write_integer(kind.VERSION)


def _wrong(name: str, value: object) -> TypeError:
    return TypeError(f"{type(value).__name__} is no value of the field {name}")


class _Source:
    """Lines of one class's functions, and what their names stand for."""

    def __init__(self, codec_of: Callable[[Any], Codec]) -> None:
        self.codec_of: Final = codec_of
        self.names: Final[dict[str, Any]] = {
            "DecodeError": DecodeError,
            "from_bytes": int.from_bytes,
            "head": _head,
            "write_integer": _write_integer,
            "read_integer": _read_integer,
            "read_length": _read_length,
            "wrong": _wrong,
            "UINTS": _TABLES[_UINT],
            "TEXTS": _TABLES[_TEXT],
            "BYTES": _TABLES[_BYTES],
        }
        self._numbers = count()

    def fresh(self, stem: str, value: Any = None) -> str:
        """A new name, bound to `value` unless that is None."""
        name = f"{stem}_{next(self._numbers)}"
        if value is not None:
            self.names[name] = value
        return name


def _resolved(hint: Any) -> Any:
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    return hint


def _optional(hint: Any) -> Any:
    """The type inside an optional, else None."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return None
    kept = [argument for argument in typing.get_args(hint) if argument is not type(None)]
    return kept[0] if len(kept) == 1 else None


def _items(hint: Any) -> Any:
    """The type of the items of a `tuple[X, ...]`, else None."""
    arguments = typing.get_args(hint)
    whole = typing.get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis
    return arguments[0] if whole else None


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)


def _writing(source: _Source, hint: Any, value: str, part: str) -> Iterator[str]:
    """Statements that leave the canonical bytes of the variable `value` in the variable `part`."""
    hint = _resolved(hint)
    if hint is int:
        yield f"if type({value}) is not int: raise wrong('{part}', {value})"
        yield f"{part} = UINTS[{value}] if -1 < {value} < {_TABLED} else write_integer({value})"
    elif hint is str:
        yield f"if type({value}) is not str: raise wrong('{part}', {value})"
        yield f"{part} = {value}.encode()"
        yield f"size = len({part})"
        yield f"{part} = (TEXTS[size] if size < {_TABLED} else head({_TEXT}, size)) + {part}"
    elif hint is bytes:
        yield f"if type({value}) is not bytes: raise wrong('{part}', {value})"
        yield f"size = len({value})"
        yield f"{part} = (BYTES[size] if size < {_TABLED} else head({_BYTES}, size)) + {value}"
    elif hint is bool:
        yield f"if type({value}) is not bool: raise wrong('{part}', {value})"
        yield f"{part} = b'\\xf5' if {value} else b'\\xf4'"
    elif isinstance(hint, type) and issubclass(hint, Enum):
        table = {member: _plain_bytes(member.value) for member in hint}
        yield f"{part} = {source.fresh('bytes_of', table)}[{value}]"
    elif isinstance(hint, type):
        yield f"{part} = {source.fresh('write', source.codec_of(hint)[0])}({value})"
    elif (inner := _optional(hint)) is not None:
        yield f"if {value} is None: {part} = b'\\xf6'"
        yield "else:"
        yield from _indented(_writing(source, inner, value, part))
    elif (inner := _items(hint)) is not None:
        items, item, piece = source.fresh("items"), source.fresh("item"), source.fresh("piece")
        yield f"{items} = [head({_ARRAY}, len({value}))]"
        yield f"for {item} in {value}:"
        yield from _indented(_writing(source, inner, item, piece))
        yield f"    {items}.append({piece})"
        yield f"{part} = b''.join({items})"
    else:
        raise TypeError(f"a record field cannot be {hint!r}")


def _reading(source: _Source, hint: Any, field: str) -> Iterator[str]:
    """Statements that read the value at `data[at]` into the variable `field` and move `at` behind it."""
    hint = _resolved(hint)
    if hint is int:
        yield f"{field} = data[at]"
        yield f"if {field} < 24: at += 1"
        # Eight bytes hold every time; what the end of the bytes cuts off leaves `at` behind it.
        yield f"elif {field} == {_UINT + 27}:"
        yield f"    {field} = from_bytes(data[at + 1 : at + 9])"
        yield f"    if {field} < {1 << 32}: raise DecodeError('a number is written longer than it needs')"
        yield "    at += 9"
        yield f"else: {field}, at = read_integer(data, at)"
    elif hint in _MAJORS:
        major = _MAJORS[hint]
        yield f"size = data[at] - {major}"
        yield "if -1 < size < 24: at += 1"
        yield f"else: size, at = read_length(data, at, {major})"
        yield f"{field} = data[at : at + size]{'.decode()' if hint is str else ''}"
        yield "at += size"
    elif hint is bool:
        yield f"{field} = data[at]"
        yield f"if {field} != 0xF5 and {field} != 0xF4: raise DecodeError('a boolean is wanted')"
        yield f"{field} = {field} == 0xF5"
        yield "at += 1"
    elif isinstance(hint, type) and issubclass(hint, Enum):
        # The first byte tells how long the value is, and the bytes of a member are found in a table as they are.
        table = {_plain_bytes(member.value): member for member in hint}
        yield "size = data[at]"
        yield "if size < 24: size = 1"
        yield f"elif {_TEXT} <= size < {_TEXT + 24}: size -= {_TEXT - 1}"
        yield f"else: raise DecodeError('this is no {hint.__name__}')"
        yield f"{field} = {source.fresh('members', table)}.get(data[at : at + size])"
        yield f"if {field} is None: raise DecodeError('this is no {hint.__name__}')"
        yield "at += size"
    elif isinstance(hint, type):
        yield f"{field}, at = {source.fresh('read', source.codec_of(hint)[1])}(data, at)"
    elif (inner := _optional(hint)) is not None:
        yield "if data[at] == 0xF6:"
        yield f"    {field} = None"
        yield "    at += 1"
        yield "else:"
        yield from _indented(_reading(source, inner, field))
    elif (inner := _items(hint)) is not None:
        items, item, left = source.fresh("items"), source.fresh("item"), source.fresh("left")
        yield f"{left}, at = read_length(data, at, {_ARRAY})"
        yield f"{items} = []"
        # Each item takes at least a byte, so a huge count in a short input ends with the bytes.
        yield f"while {left}:"
        yield from _indented(_reading(source, inner, item))
        yield f"    {items}.append({item})"
        yield f"    {left} -= 1"
        yield f"{field} = tuple({items})"
    else:
        raise TypeError(f"a record field cannot be {hint!r}")


def _plain_bytes(value: object) -> bytes:
    """Canonical bytes of the value of an enumeration's member: a short text or a small natural number."""
    if type(value) is str and len(value.encode()) < 24:
        return head_bytes(_TEXT, len(value.encode())) + value.encode()
    if type(value) is int and 0 <= value < 24:
        return head_bytes(_UINT, value)
    raise TypeError(f"{value!r} is too long for a member of an enumeration in a record")


def compile_codec(kind: Any, codec_of: Callable[[Any], Codec]) -> Codec:
    """Writer and reader of a record class.

    Args:
        kind: the class, a frozen dataclass with `KIND` and `VERSION`.
        codec_of: gives the functions of the classes that stand inside of it.
    Raises:
        TypeError: a field's type has no encoding.
    """
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    beginning = beginning_of(kind)
    source = _Source(codec_of)
    source.names.update(Kind=kind, new=object.__new__, BEGINNING=beginning)
    writing = ["def write(record):", "    if type(record) is not Kind: raise wrong('this class', record)"]
    reading = ["def read(data, at):", f"    if data[at : at + {len(beginning)}] != BEGINNING:"]
    reading += [f"        raise DecodeError('this is no {kind.__name__} of version {kind.VERSION}')"]
    reading += [f"    at += {len(beginning)}"]
    for name in fields:
        writing += [f"    value = record.{name}", *_indented(_writing(source, hints[name], "value", f"w_{name}"))]
        reading += _indented(_reading(source, hints[name], f"r_{name}"))
    writing += [f"    return b''.join((BEGINNING, {''.join(f'w_{name}, ' for name in fields)}))"]
    # As the frozen class's own `__init__` does it, which looks each field up by its name.
    reading += ["    record = new(Kind)"]
    for name in fields:
        source.names[f"set_{name}"] = getattr(kind, name).__set__
        reading += [f"    set_{name}(record, r_{name})"]
    if hasattr(kind, "__post_init__"):
        reading += ["    record.__post_init__()"]
    reading += ["    return record, at"]
    exec("\n".join([*writing, *reading]), source.names)  # noqa: S102 - made above from the class alone.
    return source.names["write"], source.names["read"]
