"""Counts primes, twin primes and gaps segment by segment: some seconds of one core, as an example of a task.

The whole task is this folder. What it writes under output/ comes back as its result.
"""

from __future__ import annotations

import csv
import json
import math
import time
from itertools import pairwise
from pathlib import Path

START = 1_000_000_000
SEGMENT = 1_000_000
SEGMENTS = 140


def small_primes(limit: int) -> list[int]:
    """All primes up to `limit`, by the sieve of Eratosthenes."""
    sieve = bytearray([1]) * (limit + 1)
    sieve[0:2] = b"\0\0"
    for number in range(2, math.isqrt(limit) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit + 1, number)))
    return [number for number, prime in enumerate(sieve) if prime]


def primes_between(low: int, high: int, divisors: list[int]) -> list[int]:
    """The primes from `low` up to, not including, `high`."""
    sieve = bytearray([1]) * (high - low)
    for divisor in divisors:
        first = max(divisor * divisor, -(-low // divisor) * divisor)
        if first >= high:
            continue
        sieve[first - low :: divisor] = bytes(len(range(first, high, divisor)))
    return [low + offset for offset, prime in enumerate(sieve) if prime]


def main() -> None:
    begun = time.perf_counter()
    output = Path("output")
    output.mkdir(exist_ok=True)
    divisors = small_primes(math.isqrt(START + SEGMENT * SEGMENTS))
    total = twins = widest = 0
    last = 0
    with (output / "primes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["from", "to", "primes", "twins", "widest_gap", "largest"])
        for number in range(SEGMENTS):
            low = START + number * SEGMENT
            found = primes_between(low, low + SEGMENT, divisors)
            gaps = [after - before for before, after in pairwise([last, *found] if last else found)]
            table.writerow([low, low + SEGMENT, len(found), gaps.count(2), max(gaps), found[-1]])
            total, twins, widest, last = total + len(found), twins + gaps.count(2), max(widest, *gaps), found[-1]
            print(f"{number + 1:3}/{SEGMENTS}  {total:9,} primes  {twins:7,} twins  largest {last:,}", flush=True)
    summary = {
        "from": START,
        "to": START + SEGMENT * SEGMENTS,
        "primes": total,
        "twins": twins,
        "widest_gap": widest,
        "largest": last,
        "seconds": round(time.perf_counter() - begun, 2),
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"done in {summary['seconds']} s: {total:,} primes, {twins:,} pairs of twins, widest gap {widest}")


if __name__ == "__main__":
    main()
