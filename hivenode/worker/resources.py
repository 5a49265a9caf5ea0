"""What this machine has, measured at start, and how busy it is, for heartbeats."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
import zlib
from dataclasses import dataclass
from typing import Final

import psutil
import structlog

from hivenode.encoding.node_record import Capabilities
from hivenode.runtime.ports import WorkerHeartbeat

SLOTS_PER_CORE: Final = 2
HOSTNAME_CHARACTERS_MAX: Final = 64
"""Linux's own bound."""

_log = structlog.get_logger(__name__)

_GIB: Final = 1 << 30
_SMALL_MEMORY_BYTES: Final = 512 << 20
"""A machine with at least this much counts as one with 1 GB: such boards are sold as that."""
_ROUND_S: Final = 0.012
_ROUNDS: Final = 3
"""36 ms in all. The best round counts, for the others were disturbed."""
_SCORE_PER_MIB_S: Final = 4.0
"""One core of a desktop of the 2020s deflates some 30 MiB/s of the test text: 120 points, and eight of them make the 1000 of
the API document's example."""
_SAMPLE_BYTES: Final = 32 * 1024
_GPU_DEADLINE_S: Final = 2.0
_GPU_FIELDS: Final = "name,memory.total,clocks.max.sm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """The largest graphics card. `score` is its highest clock in MHz: rough, but the same everywhere; 0 says none."""

    name: str
    memory_gb: int
    score: int


NO_GPU: Final = Gpu(name="", memory_gb=0, score=0)


def measure_capabilities(*, location: str, slots: int) -> Capabilities:
    """What this machine offers, before an executor is chosen.

    Blocks for some 50 ms, or up to 2 s more when a graphics driver hangs. Never fails.

    Args:
        location: where the owner says it stands, or empty.
        slots: attempts at once; 0 takes two for each core, since tasks also wait.
    """
    cores = available_cores()
    gpu = _find_gpu()
    return Capabilities(
        hostname=socket.gethostname()[:HOSTNAME_CHARACTERS_MAX],
        cpu_cores=cores,
        memory_gb=_memory_gb(),
        cpu_score=max(1, round(_core_score() * cores)),
        gpu_score=gpu.score,
        gpu_memory_gb=gpu.memory_gb,
        gpu_name=gpu.name,
        location=location,
        docker_status="",
        executor="",
        executor_note="",
        slots=slots or SLOTS_PER_CORE * cores,
    )


def available_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than there are."""
    with contextlib.suppress(AttributeError):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, psutil.cpu_count() or 1)


class Usage:
    """How busy the machine is, to say with every heartbeat."""

    def __init__(self) -> None:
        self._last = WorkerHeartbeat(cpu_percent=0, memory_percent=0)
        self._blind = False

    def look(self) -> WorkerHeartbeat:
        """Since the last look; does not wait. When the system tells nothing, as with no file left to open, what it told last:
        whether the machine is there must not hang on how busy it is."""
        try:
            cpu_percent, memory_percent = psutil.cpu_percent(interval=None), psutil.virtual_memory().percent
        except OSError as error:
            if not self._blind:
                _log.warning(
                    "the system does not tell how busy it is; the last figures are said again", reason=str(error)
                )
            self._blind = True
        else:
            self._last = WorkerHeartbeat(cpu_percent=round(cpu_percent), memory_percent=round(memory_percent))
            self._blind = False
        return self._last


def _memory_gb() -> int:
    total = psutil.virtual_memory().total
    return max(total // _GIB, 1 if total >= _SMALL_MEMORY_BYTES else 0)


def _core_score() -> float:
    """Points of one core: how fast it deflates a fixed text, which is C code and the same under every Python."""
    words = [b"%d" % n for n in range(997)]
    source = random.Random(0)
    sample = b" ".join(source.choices(words, k=_SAMPLE_BYTES // 4))[:_SAMPLE_BYTES]
    best = 0.0
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        count = 0
        while (spent := time.perf_counter() - started) < _ROUND_S:
            zlib.compress(sample, 6)
            count += 1
        best = max(best, count * len(sample) / spent / (1 << 20))
    return best * _SCORE_PER_MIB_S


def _find_gpu() -> Gpu:
    program = shutil.which("nvidia-smi")
    if program is None:
        return NO_GPU
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_GPU_DEADLINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return NO_GPU
    return parse_gpus(answer.stdout.decode("utf-8", "replace")) if answer.returncode == 0 else NO_GPU


_DIGITS_MAX: Final = 9
"""No card has a million GiB."""


def parse_gpus(text: str) -> Gpu:
    """The card with the most memory in `nvidia-smi`'s answer: one line each, `name, MiB, MHz`."""
    best = NO_GPU
    for line in text.splitlines():
        name, _, numbers = line.partition(",")
        memory, _, clock = numbers.partition(",")
        mib = _number(memory)
        if mib is None:
            continue
        gpu = Gpu(name=name.strip()[:80], memory_gb=round(mib / 1024), score=_number(clock) or 1)
        best = max(best, gpu, key=lambda g: (g.memory_gb, g.score))
    return best


def _number(text: str) -> int | None:
    """A number as a driver prints it; None for anything else, as `[N/A]`."""
    digits = text.strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX else None
