"""A million hostile inputs, spread over all decoders: how fast, what memory grew, and that nothing else was raised."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from tests.bench.setting import Setting
from tests.security import guided
from tests.security.decoders import decoders
from tests.security.fuzz import GROWTH_BYTES_MAX, Findings, run

GUIDED_SHARE = 0.1
"""Of all inputs, where atheris is installed; it is slower, and finds its way deeper."""
ROOM_S = 600.0
SLOW = {"API request": 0.3, "task archive": 0.3, "logins file": 0.3}
"""Files and event loops cost ten times what the others do; so much of an even share they get."""


def fuzz(setting: Setting) -> None:
    """Every decoder in a process of its own, one after the other."""
    names = sorted(decoders())
    guided_inputs = int(setting.inputs * GUIDED_SHARE) if guided.available() else 0
    unit = (setting.inputs - guided_inputs) / sum(SLOW.get(name, 1.0) for name in names)
    found = [_apart(name, int(unit * SLOW.get(name, 1.0)) + 1, number) for number, name in enumerate(names)]
    total = sum(findings.inputs for findings in found)
    for findings in found:
        grown = f"{findings.taken * 100 // findings.inputs} % taken, memory grew {findings.grown_bytes / 1e6:.1f} MB"
        setting.report.compare(f"fuzz: {findings.decoder}", "inputs/s", [findings.inputs / findings.seconds], grown)
    if guided_inputs:
        begun = time.perf_counter()
        each = guided_inputs // len(names) + 1
        failed = [name for name in names if not _guided(name, each)]
        total += each * len(names)
        rate = each * len(names) / (time.perf_counter() - begun)
        setting.report.compare("fuzz: guided by coverage (atheris)", "inputs/s", [rate], f"failed: {failed or 'none'}")
        if failed:
            raise RuntimeError(f"guided runs failed: {', '.join(failed)}")
    setting.report.at_least("fuzz: inputs in all", "inputs", [total], setting.inputs)
    growth = [findings.grown_bytes / 1e6 for findings in found]
    setting.report.slowest("fuzz: memory grown after warm-up", "MB", growth, GROWTH_BYTES_MAX / 1e6)
    bugs = {findings.decoder: findings.bugs for findings in found if findings.bugs}
    if bugs:
        raise RuntimeError(f"decoders raised what they must not: {bugs!r}")


def _apart(name: str, count: int, seed: int) -> Findings:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.fuzz", name, str(count), str(seed)],
        capture_output=True,
        text=True,
        timeout=ROOM_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the decoder {name} ended its process: {done.stderr[-2000:]}")
    answer = json.loads(done.stdout)
    answer["bugs"] = {said: bytes.fromhex(data) for said, data in answer["bugs"].items()}
    return Findings(**answer)


def _guided(name: str, runs: int) -> bool:
    command = [sys.executable, "-m", "tests.security.guided", name, "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=ROOM_S, check=False)
    if done.returncode:
        print(f"{name}: {done.stderr[-2000:]}")
    return done.returncode == 0


def _main() -> None:
    name, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    findings = run(decoders()[name], count, seed)
    document = {
        "decoder": findings.decoder,
        "inputs": findings.inputs,
        "taken": findings.taken,
        "seconds": findings.seconds,
        "grown_bytes": findings.grown_bytes,
        "bugs": {said: data.hex() for said, data in findings.bugs.items()},
    }
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    _main()
