"""The table of bounds: no field is missing, and each is driven to and over each of its bounds."""

from __future__ import annotations

import pytest

from hivenode.errors import Code, HiveError
from hivenode.pb import hive_pb2
from hivenode.pool.records import Needs
from hivenode.transport import bounds
from hivenode.transport.statuses import MalformedError
from tests.support.requests import Breach, breaches, good_request, put, request_descriptors, within

DESCRIPTORS = request_descriptors()
FIELDS = [(message, field.name) for message, descriptor in DESCRIPTORS.items() for field in descriptor.fields]
BREACHES = [breach for descriptor in DESCRIPTORS.values() for breach in breaches(descriptor)]


@pytest.mark.parametrize(("message", "field"), FIELDS)
def test_every_field_that_a_caller_can_send_has_a_bound(message: str, field: str) -> None:
    assert field in bounds.TABLE[message]


def test_table_names_nothing_that_is_not_there() -> None:
    assert set(bounds.TABLE) == set(DESCRIPTORS)
    for message, fields in bounds.TABLE.items():
        assert set(fields) == set(DESCRIPTORS[message].fields_by_name), message


@pytest.mark.parametrize("message", sorted(DESCRIPTORS))
def test_values_at_the_bounds_are_taken(message: str) -> None:
    bounds.check(good_request(DESCRIPTORS[message]))
    for name, rule in bounds.TABLE[message].items():
        for value in within(rule):
            request = good_request(DESCRIPTORS[message])
            request.ClearField(name)
            put(request, name, value)
            bounds.check(request)


@pytest.mark.parametrize("breach", BREACHES, ids=str)
def test_value_over_a_bound_is_refused_by_the_name_of_its_field(breach: Breach) -> None:
    with pytest.raises(HiveError) as caught:
        bounds.check(breach.request)
    code = getattr(breach.rule, "code", Code.INVALID_ARGUMENT)
    assert caught.value.code is code
    assert isinstance(caught.value, MalformedError) is (code is Code.INVALID_ARGUMENT)
    assert caught.value.message.startswith(breach.name)
    assert len(caught.value.message) < 500


def test_field_inside_of_a_field_is_looked_at_too() -> None:
    piece = hive_pb2.UploadTaskPiece()
    piece.header.options.memory_gb = -1
    with pytest.raises(MalformedError, match="memory_gb must be 0 to"):
        bounds.check(piece)


def test_field_without_a_line_in_the_table_is_refused_when_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        bounds.TABLE, "hive.JoinHiveRequest", {"address": bounds.TABLE["hive.JoinHiveRequest"]["address"]}
    )
    bounds._rules.cache_clear()
    request = hive_pb2.JoinHiveRequest(address="127.0.0.1:1")
    bounds.check(request)
    request.abandon = True
    with pytest.raises(MalformedError, match="abandon is not taken here"):
        bounds.check(request)
    monkeypatch.undo()
    bounds._rules.cache_clear()
    bounds.check(request)


def test_dependency_that_is_named_twice_is_refused() -> None:
    with pytest.raises(MalformedError, match="twice"):
        bounds.spec(Needs(), "", 0, None, ("a", "a"))
