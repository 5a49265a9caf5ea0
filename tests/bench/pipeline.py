"""How long a task takes on its way through three daemons."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.bench.figures import percentile
from tests.bench.setting import NO_LIMIT, Setting, funded_users, three
from tests.e2e.user import User
from tests.support.daemons import Hive, wait_for
from tests.support.docker_engine import docker_engine

TRIVIAL = "print('done')\n"
BATCH = 100
UPLOADERS = 8
SANDBOX_MS, DOCKER_MS = 250.0, 700.0
BATCH_S = 5.0
TASKS_A_USER = 150
"""A task of the usual time limit holds 5 CPT of a new user's 1,000 and costs 1."""


def sandbox(setting: Setting) -> None:
    with three(setting, "sandbox", "--executor", "sandbox", workers=3) as made:
        _single(setting, made, "sandbox", SANDBOX_MS)


def docker(setting: Setting) -> None:
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        print("no Docker engine can be started here: that takes root and dockerd")
        return
    with docker_engine() as url:
        flags = ("--executor", "docker", "--docker-host", url)
        with three(setting, "docker", *flags, workers=3) as made:
            _single(setting, made, "docker", DOCKER_MS)


def _single(setting: Setting, made: Hive, name: str, most_ms: float) -> None:
    """One trivial task after the other, through each daemon in turn."""
    (user,) = funded_users(made.leader(), 1)
    for index, daemon in enumerate(made):
        user.at(daemon).upload(f"warm{index}", TRIVIAL)
        user.at(daemon).ended(f"warm{index}")
    times_ms = []
    for number in range(min(setting.tasks, TASKS_A_USER)):
        asked = user.at(made[number % len(made.daemons)])
        begun = time.perf_counter()
        asked.upload(f"t{number}", TRIVIAL)
        _completed(asked, f"t{number}")
        times_ms.append((time.perf_counter() - begun) * 1_000)
    p99 = percentile(times_ms, 0.99)
    what = f"trivial task, upload → COMPLETED, any of three, {name}"
    setting.report.at_most(what, "ms", times_ms, most_ms, f"p50; p99 {p99:.0f} ms")


def _completed(user: User, task_id: str) -> None:
    """Follows the task until the hive says that it is done."""
    for update in user.watch(task_id):
        if update.final:
            assert update.state == "COMPLETED", f"{task_id} is {update.state}: {update.note}"
            return
    raise AssertionError(f"the watch of {task_id} ended before the task")


def batch(setting: Setting) -> None:
    """100 trivial tasks on the one worker of three nodes, from the first upload to the last COMPLETED."""
    with _one_worker(setting) as made:
        runs = [_one_batch(made) for _ in range(min(setting.runs, 3))]
    note = f"uploaded within {max(uploaded_s for uploaded_s, _ in runs):.1f} s"
    times_s = [completed_s for _, completed_s in runs]
    setting.report.at_most(f"{BATCH} trivial tasks on one worker, sandbox", "s", times_s, BATCH_S, note)


def _one_batch(made: Hive) -> tuple[float, float]:
    """Seconds until all are uploaded, and until all are completed."""
    user = User.new(made.leader())

    def upload(number: int) -> None:
        user.at(made[number % len(made.daemons)]).upload(f"b{number}", TRIVIAL)

    begun = time.perf_counter()
    with ThreadPoolExecutor(UPLOADERS) as pool:
        list(pool.map(upload, range(BATCH)))
        uploaded_s = time.perf_counter() - begun
        list(pool.map(lambda number: _completed(user, f"b{number}"), range(BATCH)))
    return uploaded_s, time.perf_counter() - begun


@contextlib.contextmanager
def _one_worker(setting: Setting) -> Iterator[Hive]:
    made = Hive(folder=setting.place("batch"))
    try:
        for executor in ("sandbox", "none", "none"):
            made.add("--executor", executor, settings=NO_LIMIT)
        made.wait()
        wait_for("a place for tasks", lambda: made[0].status().executor == "sandbox" or None)
        yield made
    finally:
        made.close()
