"""The same seed gives the same run, byte for byte, whatever the order of hashes in the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60


def run_traced(trace: Path, hash_seed: str, seed: int) -> bytes:
    """A run in a process of its own; returns its trace."""
    command = [sys.executable, "-m", "simulations", "run", "--nodes", "5", "--seed", str(seed), "--hours", "0.02"]
    done = subprocess.run(
        [*command, "--faults", "all", "--trace", str(trace)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return trace.read_bytes()


def test_same_seed_gives_the_same_trace_under_two_hash_seeds(tmp_path: Path) -> None:
    first = run_traced(tmp_path / "first", "1", 42)
    second = run_traced(tmp_path / "second", "2", 42)
    assert len(first) > 100_000
    assert first == second
