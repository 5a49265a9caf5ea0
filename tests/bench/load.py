"""A client process that keeps calls in flight: `python -m tests.bench.load`, its order as JSON on stdin, latencies on stdout.

Every loop has a connection of its own, as so many programs would. Requests are ready bytes, so that the client costs little
beside what it measures.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from tests.bench.figures import percentile

CALL_DEADLINE_S = 30.0
ROOM_S = 60.0
"""How much longer than its order says the process may take: it starts, and its last calls end."""
TRY_S = 0.25
"""A try that is not answered in this time is given up for another: it may wait for a leader that is dead."""
PAUSE_S = 0.01
GIVEN_UP_S = 60.0
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
)


Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Caller:
    """One loop: requests with their metadata, sent in turn, and how a good answer begins."""

    turns: tuple[tuple[bytes, Metadata], ...]
    begins: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a run had: calls a second, and each call's time."""

    rate: float
    latencies_s: tuple[float, ...]
    failures: int
    failure: str

    def ms(self, share: float) -> float:
        return percentile(self.latencies_s, share) * 1_000


def run_load(
    targets: Sequence[str], method: str, callers: Sequence[Caller], *, seconds: float, warm_s: float = 0.5
) -> Load:
    """Runs a client process; the callers are spread over the targets. Raises RuntimeError when every call failed."""
    order = {
        "targets": list(targets),
        "method": method,
        "seconds": seconds,
        "warm_s": warm_s,
        "callers": [
            {
                "turns": [(base64.b64encode(request).decode(), metadata) for request, metadata in caller.turns],
                "begins": base64.b64encode(caller.begins).decode(),
            }
            for caller in callers
        ],
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=seconds + warm_s + ROOM_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the client failed: {done.stderr[-2000:]}")
    answer = json.loads(done.stdout)
    if not answer["latencies_s"]:
        raise RuntimeError(f"no call of {method} succeeded: {answer['failure']}")
    return Load(
        rate=len(answer["latencies_s"]) / answer["seconds"],
        latencies_s=tuple(answer["latencies_s"]),
        failures=answer["failures"],
        failure=answer["failure"],
    )


def next_write_s(target: str, method: str, caller: Caller, kill: Callable[[], None]) -> float:
    """Seconds from a kill until a write through `target` succeeds, asked again and again; the connection stands before.

    Raises TimeoutError when none does.
    """
    return asyncio.run(_next_write_s(target, method, caller, kill))


async def _next_write_s(target: str, method: str, caller: Caller, kill: Callable[[], None]) -> float:
    turns = itertools.cycle(caller.turns)
    async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
        call: Any = channel.unary_unary(method)
        request, metadata = next(turns)
        await call(request, metadata=metadata, timeout=CALL_DEADLINE_S)
        killed = time.perf_counter()
        await asyncio.to_thread(kill)
        while time.perf_counter() < killed + GIVEN_UP_S:
            request, metadata = next(turns)
            try:
                answer = await call(request, metadata=metadata, timeout=TRY_S)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(PAUSE_S)
                continue
            if answer.startswith(caller.begins):
                return time.perf_counter() - killed
    raise TimeoutError(f"no write through {target} succeeded within {GIVEN_UP_S:g} s")


class _Run:
    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.latencies: list[float] = []
        self.failures = 0
        self.failure = ""
        begun = time.perf_counter()
        self.counted_from = begun + order["warm_s"]
        self.end = self.counted_from + order["seconds"]
        self.last = self.end

    async def loop(self, number: int, caller: dict[str, Any]) -> None:
        target = self.order["targets"][number % len(self.order["targets"])]
        begins = base64.b64decode(caller["begins"])
        turns = itertools.cycle(
            [
                (base64.b64decode(request), tuple((key, value) for key, value in metadata))
                for request, metadata in caller["turns"]
            ]
        )
        async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
            call: Any = channel.unary_unary(self.order["method"])
            while (start := time.perf_counter()) < self.end:
                request, metadata = next(turns)
                try:
                    answer = await call(request, metadata=metadata, timeout=CALL_DEADLINE_S)
                except grpc.aio.AioRpcError as error:
                    self.failures, self.failure = self.failures + 1, f"{error.code().name} {error.details()}"
                    continue
                now = time.perf_counter()
                if not answer.startswith(begins):
                    self.failures, self.failure = self.failures + 1, repr(answer[:200])
                elif start >= self.counted_from:
                    self.latencies.append(now - start)
                    self.last = max(self.last, now)


async def _main() -> None:
    order = json.load(sys.stdin)
    run = _Run(order)
    await asyncio.gather(*(run.loop(number, caller) for number, caller in enumerate(order["callers"])))
    answer = {
        "latencies_s": run.latencies,
        "seconds": run.last - run.counted_from,
        "failures": run.failures,
        "failure": run.failure,
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    asyncio.run(_main())
