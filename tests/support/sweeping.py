"""The first runs of `make sweep`, made beside the other tests: these mostly wait, and the runs stand back for them.

They are a process of their own, since the tests may be shared out to several: the first that comes to know of the test begins it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from simulations.engine import MINUTE
from simulations.run import Plan
from simulations.sweep import Total, results
from tests.support.daemons import ROOT, NotYetError, wait_for

SEEDS: Final = tuple(range(1, 40))
"""With five nodes and half an hour each they are a hundred node-hours."""
ENDS_AFTER_S: Final = 3_600
ENDED_WITHIN_S: Final = 1.0
"""Of having said what they came to."""
NICENESS: Final = 19
_begun: Final[list[subprocess.Popen[bytes]]] = []


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What the runs came to; `failed` are the commands that do the failed ones again."""

    summary: str
    failed: list[str]
    node_hours: float
    faults: int
    elections: int
    commits: int
    checked: int

    @classmethod
    def of(cls, total: Total, elapsed_s: float) -> Outcome:
        return cls(
            summary=total.summary(elapsed_s),
            failed=[result.plan.command() for result in total.failed],
            node_hours=total.node_hours,
            faults=total.faults,
            elections=total.elections,
            commits=total.commits,
            checked=total.checked,
        )


def _session() -> str:
    """The same in all processes that run the tests of one command."""
    return os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f"hivenode-sweep-{_session()}"


def begin() -> None:
    """Starts the runs. A second time, also in another process of the same command, it does nothing."""
    folder = _folder()
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    # Of the process that hands the tests out when there are several; it lives as long as they do.
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.sweeping", str(folder), str(owner)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,
        )
    _begun.append(process)


def end() -> None:
    """Lets go of the runs: they have ended, or end by themselves once the tests are gone."""
    for process in _begun:
        try:
            process.wait(ENDED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.returncode = 0  # Or Python complains that it still runs.


def outcome(deadline_s: float) -> Outcome:
    """What the runs came to. Raises when they are not done in time."""
    begin()
    path = _folder() / "outcome.json"
    try:
        wait_for("the sweep", lambda: path.exists() or None, deadline_s=deadline_s)
    except NotYetError as error:
        raise NotYetError(f"{error}\n{(_folder() / 'log').read_text()}") from error
    return Outcome(**json.loads(path.read_text()))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _work(folder: Path, owner: int) -> None:
    began, total = time.monotonic(), Total()
    plans = [Plan(seed=seed, nodes=5, duration_us=30 * MINUTE, faults="all") for seed in SEEDS]
    for result, processor_s in results(plans, os.cpu_count() or 1, ENDS_AFTER_S, NICENESS):
        total.add(result, processor_s)
        print(result.summary(), flush=True)
        if not _is_alive(owner):
            return
    made = Outcome.of(total, time.monotonic() - began)
    (folder / "outcome.new").write_text(json.dumps(dataclasses.asdict(made)))
    (folder / "outcome.new").rename(folder / "outcome.json")


if __name__ == "__main__":
    _work(Path(sys.argv[1]), int(sys.argv[2]))
