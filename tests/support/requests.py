"""All requests of all services, by their descriptors, and values within and out of the bounds of their fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.transport import bounds

INT_BITS = {
    FieldDescriptor.TYPE_INT32: 31,
    FieldDescriptor.TYPE_INT64: 63,
}


def request_descriptors() -> dict[str, Descriptor]:
    """Every message that a caller can send, with those inside it, by full name."""
    found: dict[str, Descriptor] = {}

    def add(descriptor: Descriptor) -> None:
        if descriptor.full_name in found:
            return
        found[descriptor.full_name] = descriptor
        for field in descriptor.fields:
            if field.message_type is not None:
                add(field.message_type)

    for module in (nodepool_pb2, hive_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                add(method.input_type)
    return found


def within(rule: bounds.Rule) -> Iterator[Any]:
    """Values at the bounds of a rule that says no more than bounds, or good values of one that does; the smallest first."""
    match rule:
        case bounds.Text(also=None):
            yield "x" * rule.least
            yield "x" * rule.most
        case bounds.Text():
            good = {bounds.USER.also: ("x", "y" * 64), bounds.EMAIL.also: ("", "a@b", "a@" + "b" * 252)}
            yield from good.get(rule.also, ("127.0.0.1:1", "h" * 290 + ":50052"))
        case bounds.Words():
            yield from (*rule.words, rule.words[0].upper(), *([""] if rule.optional else []))
        case bounds.Data():
            yield b"x" * rule.least
            yield b"x" * rule.most
        case bounds.Number():
            yield rule.least
            yield rule.most
        case bounds.Flag():
            yield from (True, False)
        case bounds.Many():
            yield []
            yield [next(within(rule.each))] * rule.most


def outside(field: FieldDescriptor, rule: bounds.Rule) -> Iterator[Any]:
    """Values just over each bound of a rule, as far as the wire can carry them."""
    match rule:
        case bounds.Text():
            short = "x" * max(rule.least - 1, 0)
            if rule.least:
                yield short
            if not rule.lines:
                yield short + "\0"
                yield short + "\x9f"
            if rule.also is not None:
                yield from (" x", "-")
            yield "x" * (rule.most + 1)
            yield "é" * (rule.most // 2 + 1)
        case bounds.Words():
            yield "no such word"
            if not rule.optional:
                yield ""
        case bounds.Data():
            if rule.least:
                yield b"x" * (rule.least - 1)
            yield b"x" * (rule.most + 1)
        case bounds.Number():
            bits = INT_BITS.get(field.type)
            for value in (rule.least - 1, rule.most + 1):
                if bits is None or -(1 << bits) <= value < 1 << bits:
                    yield value
            if bits is None:
                yield from (float("nan"), float("inf"))
        case bounds.Many():
            yield [next(within(rule.each))] * (rule.most + 1)
            yield from ([value] for value in outside(field, rule.each))


def put(message: Any, name: str, value: Any) -> None:
    """Sets a field of whatever kind."""
    if isinstance(value, list):
        getattr(message, name).extend(value)
    elif isinstance(value, int) and message.DESCRIPTOR.fields_by_name[name].type == FieldDescriptor.TYPE_DOUBLE:
        setattr(message, name, float(value))
    else:
        setattr(message, name, value)


def good_request(descriptor: Descriptor) -> Any:
    """A request with every field within its bounds, as small as they allow."""
    message = GetMessageClass(descriptor)()
    for name, rule in bounds.TABLE[descriptor.full_name].items():
        field = descriptor.fields_by_name[name]
        if isinstance(rule, bounds.Part | bounds.Many) or field.has_presence:
            continue
        put(message, name, next(within(rule)))
    return message


@dataclass(frozen=True)
class Breach:
    """A request with one field out of one of its bounds."""

    name: str
    number: int
    descriptor: Descriptor
    rule: bounds.Rule

    @property
    def request(self) -> Any:
        message = good_request(self.descriptor)
        message.ClearField(self.name)
        values = outside(self.descriptor.fields_by_name[self.name], self.rule)
        put(message, self.name, next(islice(values, self.number, None)))
        return message

    def __str__(self) -> str:
        return f"{self.descriptor.full_name}.{self.name}-{self.number}"


def breaches(descriptor: Descriptor) -> Iterator[Breach]:
    """Every way in which one field alone is out of its bounds."""
    for name, rule in bounds.TABLE[descriptor.full_name].items():
        if isinstance(rule, bounds.Part):
            continue
        for number, _ in enumerate(outside(descriptor.fields_by_name[name], rule)):
            yield Breach(name=name, number=number, descriptor=descriptor, rule=rule)
