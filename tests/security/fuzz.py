"""Mutations of valid inputs, and what came of them: one harness for the tests and the bench."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from tests.security.decoders import Decoder

WARM_SHARE = 0.2
"""Of all inputs of a decoder, before its memory is looked at first: caches and pools are full by then."""
GROWTH_BYTES_MAX = 16 << 20
"""What a decoder may have taken between then and the end; a leak of 1 KiB an input shows after 16,000."""
INPUT_BYTES_MAX = 4_096
_EDGES = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\x9f\xff",
    b"\x1b" + b"\xff" * 8,
    b"\x3b" + b"\xff" * 8,
    b"\x9b" + b"\x7f" * 8,
)
"""Lengths and numbers at the ends of what can be written."""


@dataclass(kw_only=True)
class Findings:
    """What a decoder did with its inputs. `bugs` are the first of each kind that it should not have raised."""

    decoder: str
    inputs: int = 0
    taken: int = 0
    seconds: float = 0.0
    grown_bytes: int = 0
    bugs: dict[str, bytes] = field(default_factory=dict)


def mutations(decoder: Decoder, seed: int) -> Iterator[bytes]:
    """Endless inputs; the same for the same seed."""
    draw = random.Random(seed)
    while True:
        data = bytearray(draw.choice(decoder.seeds))
        for _ in range(draw.choice((0, 1, 1, 1, 2, 3, 5, 9))):
            _mutate(data, draw, decoder)
        yield bytes(data[:INPUT_BYTES_MAX])


def _mutate(data: bytearray, draw: random.Random, decoder: Decoder) -> None:
    at = draw.randrange(len(data) + 1)
    match draw.randrange(9):
        case 0 if at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        case 1 if at < len(data):
            data[at] = draw.randrange(256)
        case 2 if at < len(data):
            data[at] = (data[at] + draw.choice((-1, 1))) % 256
        case 3:
            del data[at : at + draw.randrange(1, 9)]
        case 4:
            data[at:at] = draw.randbytes(draw.randrange(1, 9))
        case 5:
            data[at : at + draw.choice((0, 1))] = draw.choice(_EDGES)
        case 6:
            del data[at:]
        case 7:
            other = draw.choice(decoder.seeds)
            data[at:] = other[draw.randrange(len(other) + 1) :]
        case _:
            end = min(len(data), at + draw.randrange(1, 64))
            data[at:at] = data[at:end] * draw.choice((1, 2, 20))


def attempt(decoder: Decoder, data: bytes, findings: Findings) -> None:
    """One input."""
    findings.inputs += 1
    try:
        decoder.call(data)
        findings.taken += 1
    except decoder.errors:
        pass
    except Exception as error:
        findings.bugs.setdefault(f"{type(error).__name__}: {str(error)[:200]}", data)


def run(decoder: Decoder, count: int, seed: int) -> Findings:
    """So many inputs, with the time they took and what memory grew meanwhile."""
    findings = Findings(decoder=decoder.name)
    inputs = mutations(decoder, seed)
    process = psutil.Process()
    warm = int(count * WARM_SHARE)
    before = 0
    begun = time.perf_counter()
    for number in range(count):
        if number == warm:
            gc.collect()
            before = process.memory_info().rss
        attempt(decoder, next(inputs), findings)
    findings.seconds = time.perf_counter() - begun
    gc.collect()
    findings.grown_bytes = process.memory_info().rss - before
    return findings
