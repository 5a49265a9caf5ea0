"""The faster `__init__` of frozen dataclasses takes what the class's own takes, and does the same."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import pytest

from hivenode.consensus import Entry
from hivenode.pool.commands import Reply
from simulations.quick_records import frozen_classes, quick_init


@dataclass(frozen=True, slots=True)
class Base:
    first: int
    second: str = "two"


@dataclass(frozen=True, slots=True)
class Derived(Base):
    third: list[int] = field(default_factory=list)
    fourth: int = field(default=4, kw_only=True)

    def __post_init__(self) -> None:
        if self.first < 0:
            raise ValueError("negative")


def made(kind: Any, *args: Any, **named: Any) -> Any:
    record = object.__new__(kind)
    quick_init(kind)(record, *args, **named)
    return record


def test_fields_and_defaults_are_those_of_the_class() -> None:
    assert made(Derived, 1) == Derived(1)
    assert made(Derived, 1, "b", [3], fourth=5) == Derived(1, "b", [3], fourth=5)
    assert made(Base, second="b", first=1) == Base(1, "b")


def test_a_default_that_is_made_is_made_anew_each_time() -> None:
    assert made(Derived, 1).third is not made(Derived, 1).third


def test_what_the_class_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        made(Derived, -1)
    with pytest.raises(TypeError, match="first"):
        made(Base)
    with pytest.raises(TypeError, match="positional"):
        made(Derived, 1, "b", [], 5)


def test_every_class_of_a_run_takes_the_same_arguments_as_before() -> None:
    kinds = frozen_classes()
    assert {Entry, Reply} <= set(kinds)
    for kind in kinds:
        own, quick = inspect.signature(kind.__init__).parameters, inspect.signature(quick_init(kind)).parameters
        assert [(name, argument.kind) for name, argument in own.items()] == [
            (name, argument.kind) for name, argument in quick.items()
        ], kind
        for name, argument in own.items():
            has_default = argument.default is not inspect.Parameter.empty
            assert has_default == (quick[name].default is not inspect.Parameter.empty), (kind, name)
