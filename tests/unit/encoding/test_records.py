"""Records: round trips of every agreed record, and refusal of all that is mistyped."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from enum import Enum
from typing import Any, NewType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivenode.encoding.canonical import DecodeError, encode
from hivenode.encoding.node_record import Capabilities, NodeRecord, SignedNodeRecord
from hivenode.encoding.records import Record, RecordFamily, decode_record, encode_record, from_value, to_value
from hivenode.ledger.entries import LedgerEntry
from hivenode.pool.commands import COMMANDS, Command, Envelope, Reply, SubmitTask, Transfer
from hivenode.pool.records import HiveRecord, NodeEntry, SessionRecord, TaskRecord, UserRecord
from hivenode.pool.requests import Remembered

Name = NewType("Name", str)


class Colour(Enum):
    RED = "red"
    BLUE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf(Record):
    KIND = 9_001
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree(Record):
    KIND = 9_002
    VERSION = 3
    name: Name
    data: bytes
    flag: bool
    colour: Colour
    leaf: Leaf
    maybe: int | None
    maybe_leaf: Leaf | None
    leaves: tuple[Leaf, ...]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Even(Record):
    KIND = 9_003
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("the number is odd")


TREE = Tree(
    name=Name("n"),
    data=b"d",
    flag=True,
    colour=Colour.BLUE,
    leaf=Leaf(number=1),
    maybe=None,
    maybe_leaf=Leaf(number=2),
    leaves=(Leaf(number=3), Leaf(number=4)),
    words=("a", "b"),
)

_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(1 << 64), (1 << 64) - 1),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    bool: st.booleans(),
}


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a record field's type."""
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    if hint in _PLAIN:
        return _PLAIN[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    if isinstance(hint, type) and issubclass(hint, Record):
        return every(hint)
    arguments = [argument for argument in typing.get_args(hint) if argument not in (type(None), Ellipsis)]
    inner = of_type(arguments[0])
    return st.lists(inner, max_size=4).map(tuple) if typing.get_origin(hint) is tuple else st.none() | inner


def every(kind: type[Record]) -> st.SearchStrategy[Record]:
    return st.builds(
        kind, **{name: of_type(hint) for name, hint in typing.get_type_hints(kind).items() if name.islower()}
    )


AGREED: tuple[type[Record], ...] = (
    Capabilities,
    NodeRecord,
    SignedNodeRecord,
    HiveRecord,
    UserRecord,
    SessionRecord,
    NodeEntry,
    TaskRecord,
    Envelope,
    Reply,
    Remembered,
    LedgerEntry,
    *typing.get_args(Command),
)


@pytest.mark.parametrize("kind", AGREED, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_agreed_record_comes_back_as_it_was(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(every(kind))
    encoded = encode_record(record)
    assert decode_record(kind, encoded) == record
    assert encode_record(decode_record(kind, encoded)) == encoded


def test_no_two_agreed_records_share_a_kind() -> None:
    kinds = [(kind.KIND, kind.VERSION) for kind in AGREED]
    assert len(set(kinds)) == len(kinds)


def test_record_is_its_kind_its_version_and_its_fields_in_order() -> None:
    assert to_value(TREE)[:6] == [9_002, 3, "n", b"d", True, 2]
    assert decode_record(Tree, encode_record(TREE)) == TREE


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 9_001),
        (1, 1),
        (0, True),
        (2, b"n"),
        (2, None),
        (3, "d"),
        (4, 1),
        (4, 0),
        (5, "blue"),
        (5, "RED"),
        (5, None),
        (5, b"red"),
        (5, ["red"]),
        (6, None),
        (6, [9_001, 1]),
        (6, [9_001, 1, 1, 1]),
        (6, [9_001, 2, 1]),
        (6, [9_002, 1, 1]),
        (6, [9_001, 1, True]),
        (7, True),
        (7, "1"),
        (8, 5),
        (9, None),
        (9, [5]),
        (9, b""),
        (10, ["a", 1]),
        (10, "ab"),
    ],
)
def test_field_of_another_type_is_refused(place: int, value: Any) -> None:
    fields = to_value(TREE)
    fields[place] = value
    with pytest.raises(DecodeError):
        decode_record(Tree, encode(fields))


@pytest.mark.parametrize("change", ["missing", "extra", "none", "text"])
def test_record_of_another_shape_is_refused(change: str) -> None:
    fields: Any = to_value(TREE)
    shaped = {"missing": fields[:-1], "extra": [*fields, None], "none": None, "text": "Tree"}[change]
    with pytest.raises(DecodeError):
        from_value(Tree, shaped)


def test_value_that_the_record_itself_refuses_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="odd"):
        decode_record(Even, encode([9_003, 1, 3]))


def test_family_tells_its_records_apart_and_refuses_others() -> None:
    family = RecordFamily(Leaf, Even)
    assert family.decode(encode_record(Leaf(number=1))) == Leaf(number=1)
    assert family.decode(encode_record(Even(number=2))) == Even(number=2)
    values: tuple[Any, ...] = (None, [], [9_001], [9_001, 1], [9_001, 2, 1], [True, 1, 1], ["9001", 1, 1], [9_002, 3])
    for value in values:
        with pytest.raises(DecodeError):
            family.decode(encode(value))


def test_two_records_of_one_kind_are_no_family() -> None:
    with pytest.raises(ValueError, match="same kind"):
        RecordFamily(Leaf, Leaf)


def test_field_type_without_an_encoding_is_a_type_error() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Floating(Record):
        KIND = 9_004
        number: float

    with pytest.raises(TypeError):
        encode_record(Floating(number=1.0))


@given(data=st.binary(max_size=60))
def test_command_bytes_that_are_read_are_canonical(data: bytes) -> None:
    try:
        command = COMMANDS.decode(data)
    except DecodeError:
        return
    assert encode_record(command) == data


def test_released_bytes_of_commands_do_not_change() -> None:
    assert encode_record(Transfer(session_id="s", receiver="bob", amount=5)).hex() == "8518720161736362" + "6f6205"
    assert SubmitTask.KIND == 119
