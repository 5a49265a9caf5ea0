"""`python -m tests.bench`: measures three nodes on this machine, prints a table, and writes it as JSON.

Every daemon is a process, and so is every client that makes a load. What is beside a figure for comparison was measured in the
same run by the same client. Nothing here fails for being slow: the table says what is reached.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.bench import calls, cost, flood, fuzz, life, pipeline
from tests.bench.figures import HEAD, Report, line
from tests.bench.setting import Setting

CASES: Final[dict[str, Callable[[Setting], None]]] = {
    "no-op": calls.no_op,
    "balance": calls.balance,
    "lists": calls.lists,
    "transfers": calls.transfers,
    "cost": cost.cost,
    "sandbox": pipeline.sandbox,
    "docker": pipeline.docker,
    "batch": pipeline.batch,
    "failover": life.failover,
    "worker-loss": life.worker_loss,
    "joining": life.joining,
    "idle": life.idle,
    "flood": flood.flood,
    "fuzz": fuzz.fuzz,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(CASES), help="one case (repeatable)")
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"), help="where the figures are written")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: a look, not a measurement")
    options = parser.parse_args()
    report = Report()
    print(HEAD)
    failed = []
    with tempfile.TemporaryDirectory(prefix="hn-bench-") as folder:
        setting = Setting(folder=Path(folder), report=report)
        if options.quick:
            setting = Setting(
                folder=Path(folder), report=report, runs=2, seconds=1.0, tasks=12, failovers=3, trials=2, inputs=20_000
            )
        for name in options.only or CASES:
            try:
                CASES[name](setting)
            except Exception as error:  # The other figures are wanted all the same.
                failed.append(name)
                print(f"{name} could not be measured: {type(error).__name__}: {error}", flush=True)
    missed = [figure for figure in report.figures if figure.met is False]
    options.json.write_text(json.dumps(_document(report, failed), indent=1) + "\n")
    print(f"\n{len(report.figures)} figures, {len(missed)} below what is to be reached; {options.json}")
    for figure in missed:
        print(f"  {line(figure)}")
    raise SystemExit(1 if failed else 0)


def _document(report: Report, failed: list[str]) -> dict[str, object]:
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "not_measured": failed,
        "figures": [figure.as_json() for figure in report.figures],
    }


if __name__ == "__main__":
    main()
