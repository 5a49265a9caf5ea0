"""Hostile bytes at every decoder: nothing but the errors that its line in the registry allows, and no memory kept."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hivenode.encoding.canonical import Value, encode
from hivenode.transport.statuses import MalformedError
from tests.security.decoders import Decoder, decoders
from tests.security.fuzz import Findings, attempt, mutations

ROOT = Path(__file__).parents[2]
INPUTS = 400
"""Of each decoder here; `make fuzz` tries a million in all."""
OF_CANONICAL_VALUES = (
    "log command",
    "Raft message",
    "worker event",
    "worker order",
    "configuration change",
    "claim",
    "recovery record",
    "node record",
    "snapshot reference",
    "log row",
)
READS = re.compile(r"(decode|open|read|parse|inspect)(_|$)")
"""How functions of the product are called that read bytes."""
EXEMPT = {
    "canonical.read_number": "a part of canonical.decode",
    "channels.open_channel": "opens a connection",
    "durable_files.read_document": "reads a file of this node's own data directory",
    "keys.open_attempt": "makes a key of the agreed state",
    "lmdb_disk.open_environment": "opens this node's own database",
    "state_store.open_state": "opens this node's own database",
}
KEPT: dict[str, list[bytes]] = {
    "nvidia-smi's answer": [
        b"RTX,\x1f24576, 2520\n",
        "RTX, ²4576, 2520\n".encode(),
        b"RTX, " + b"9" * 5_000 + b", 1\n",
    ],
}
"""Inputs that once raised what they should not."""
NAMES = sorted(decoders())


def _bugs(findings: Findings) -> str:
    return "; ".join(f"{said} from {data!r}" for said, data in findings.bugs.items())


@pytest.mark.parametrize("name", NAMES)
def test_valid_values_are_taken(name: str) -> None:
    decoder = decoders()[name]
    for seed in decoder.seeds:
        try:
            decoder.call(seed)
        except decoder.errors as error:
            # A handler may refuse what was asked of it, once it has read it.
            assert name == "API request", repr(error)
            assert not isinstance(error, MalformedError), repr(error)


@pytest.mark.parametrize("name", NAMES)
def test_mutated_values_raise_nothing_but_what_is_allowed(name: str) -> None:
    decoder = decoders()[name]
    findings = Findings(decoder=name)
    for data in KEPT.get(name, []):
        attempt(decoder, data, findings)
    inputs = mutations(decoder, seed=random.Random(name).randrange(1 << 30))
    for _ in range(INPUTS):
        attempt(decoder, next(inputs), findings)
    assert not findings.bugs, _bugs(findings)


VALUES: st.SearchStrategy[Value] = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=14),
    max_leaves=30,
)


@pytest.mark.parametrize("name", OF_CANONICAL_VALUES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=VALUES, number=st.integers(0, 200))
def test_any_canonical_value_is_read_or_refused(name: str, value: Value, number: int) -> None:
    decoder = decoders()[name]
    findings = Findings(decoder=name)
    attempt(decoder, encode(value), findings)
    # And as the fields of something that is known: most decoders look at the first numbers.
    fields = list(value) if isinstance(value, list) else [value]
    attempt(decoder, encode([number, 1, *fields]), findings)
    attempt(decoder, encode([number, *fields]), findings)
    assert not findings.bugs, _bugs(findings)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    findings = Findings(decoder=name)
    attempt(decoders()[name], data, findings)
    assert not findings.bugs, _bugs(findings)


def test_a_decoder_that_raises_something_else_is_found() -> None:
    decoder = Decoder(name="broken", reads=(), seeds=(b"seed",), errors=(ValueError,), call=lambda data: data[0:1][5])
    findings = Findings(decoder="broken")
    attempt(decoder, b"x", findings)
    assert list(findings.bugs) == ["IndexError: index out of range"]


def _readers() -> Iterator[str]:
    """`module.function` of every public function of the product that is named like a decoder and takes bytes or text."""
    for path in sorted((ROOT / "hivenode").rglob("*.py")):
        if path.parent.name == "pb":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and READS.match(node.name) and node.args.args:
                annotation: Any = node.args.args[0].annotation
                if annotation is not None and ast.unparse(annotation) in ("bytes", "str", "Path"):
                    yield f"{path.stem}.{node.name}"


def test_no_decoder_is_forgotten() -> None:
    known = {read for decoder in decoders().values() for read in decoder.reads}
    assert set(_readers()) - known == EXEMPT.keys()
