"""Real programs through three real daemons, in the sandbox and in Docker: ends, output, results, stops, losses."""

from __future__ import annotations

import time
from collections.abc import Iterator

import docker
import psutil
import pytest

from tests.e2e.user import User, zip_of
from tests.support.daemons import Daemon, Hive, hive, wait_for

STOP_PROMISE_S = 2.0
STARTED = "started\n"
SLEEPER = "print('started', flush=True)\nimport time\ntime.sleep(600)\n"
WORKS_FOR_SECONDS = "print('started', flush=True)\nimport time\ntime.sleep(4)\nprint('done')\n"
SILENT = "import time\ntime.sleep(600)\n"


@pytest.fixture(scope="module", params=["sandbox", pytest.param("docker", marks=pytest.mark.docker)])
def three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    """Three daemons with two slots each, whose tasks run in the sandbox or in an engine of this session."""
    flags = ["--executor", str(request.param), "--slots", "2", "--location", "place{n}"]
    if request.param == "docker":
        flags += ["--docker-host", str(request.getfixturevalue("docker_host"))]
    with hive(tmp_path_factory.mktemp("tasks"), 3, *flags, workers=3) as made:
        yield made


@pytest.fixture
def user(three: Hive) -> User:
    """A new account, who asks a follower."""
    return User.new(three.followers()[0])


def test_exit_code_three_is_failed_with_the_code(user: User) -> None:
    user.upload("t", "import sys\nprint('before')\nsys.exit(3)\n")
    detail = user.ended("t")
    assert (detail.state, detail.exit_code) == ("FAILED", 3)
    assert user.poll("t").status == "FAILED"
    assert user.logs("t") == "before\n"


def test_script_that_is_no_python_is_failed_and_its_wrong_line_is_in_the_log(user: User) -> None:
    user.upload("t", "print('before')\nthis is no python\n")
    assert user.ended("t").state == "FAILED"
    assert "line 2" in user.logs("t")
    assert "SyntaxError" in user.logs("t")


def test_exception_is_failed_and_its_traceback_is_in_the_log(user: User) -> None:
    user.upload("t", "raise RuntimeError('no luck')\n")
    assert user.ended("t").state == "FAILED"
    assert "RuntimeError: no luck" in user.logs("t")


def test_silent_task_is_stopped_within_two_seconds_and_stays_stopped(three: Hive, user: User) -> None:
    user.upload("t", SILENT)
    user.until("t", lambda state, _: state == "RUNNING")
    begun = time.monotonic()
    user.stop("t")
    detail = user.ended("t")
    took_s = time.monotonic() - begun
    assert (detail.state, user.poll("t").status) == ("STOPPED", "STOPPED")
    assert took_s < STOP_PROMISE_S, f"stopped after {took_s:.1f} s"
    # All slots are free again: as many programs as there are slots run at once, and the stopped one is left alone.
    names = [f"after{index}" for index in range(6)]
    for name in names:
        user.upload(name, SLEEPER)
    for name in names:
        user.said(name, STARTED)
    for name in names:
        user.stop(name)
    for name in names:
        assert user.ended(name).state == "STOPPED"
    for daemon in three:
        assert user.at(daemon).detail("t").state == "STOPPED"


def test_pending_task_that_is_stopped_never_runs_and_costs_nothing(user: User) -> None:
    before = user.balance()
    user.upload("t", "print('ran')\n", memory_gb=0, location="nowhere")
    seen = user.poll("t")
    assert (seen.status, bool(seen.message)) == ("PENDING", True), "a task that waits says why"
    user.stop("t")
    assert user.ended("t").state == "STOPPED"
    assert user.balance() == before


def test_ten_thousand_lines_arrive_complete(user: User) -> None:
    user.upload("t", "for n in range(10_000):\n    print('line', n)\n")
    assert user.ended("t").state == "COMPLETED"
    wanted = [f"line {n}" for n in range(10_000)]
    assert user.logs("t").splitlines() == wanted
    assert list(user.poll("t").output) == wanted


def test_output_arrives_while_the_task_runs_from_both_streams(three: Hive, user: User) -> None:
    program = "import sys\nprint('to stdout', flush=True)\nprint('to stderr', file=sys.stderr, flush=True)\n"
    user.upload("t", program + "import time\ntime.sleep(600)\n")
    user.said("t", "to stderr\n")
    for daemon in three:
        here = user.at(daemon)
        assert {"to stdout", "to stderr"} == set(here.poll("t").output)
        assert here.poll("t").status == "RUNNING"
        assert set(here.logs("t").splitlines()) == {"to stdout", "to stderr"}
    user.stop("t")
    assert user.ended("t").state == "STOPPED"
    assert set(user.logs("t").splitlines()) == {"to stdout", "to stderr"}


def test_unfinished_last_line_is_not_lost(user: User) -> None:
    user.upload("t", "import sys, os\nsys.stdout.write('no newline')\nsys.stdout.flush()\nos._exit(0)\n")
    assert user.ended("t").state == "COMPLETED"
    assert user.logs("t") == "no newline"


def test_result_holds_what_the_task_wrote_and_its_log(three: Hive, user: User) -> None:
    program = """
import pathlib
print(pathlib.Path('given/data.txt').read_text())
pathlib.Path('output').mkdir(exist_ok=True)
pathlib.Path('output/answer.txt').write_text('42')
pathlib.Path('beside.bin').write_bytes(bytes(range(256)) * 1000)
"""
    user.upload("t", zip_of({"job/main.py": program, "job/given/data.txt": "input"}))
    assert user.ended("t").state == "COMPLETED"
    for daemon in three:
        files = user.at(daemon).result("t")
        by_name = {name.rpartition("/")[2]: data for name, data in files.items()}
        assert by_name["answer.txt"] == b"42"
        assert by_name["beside.bin"] == bytes(range(256)) * 1000
        assert b"input\n" in [data for name, data in files.items() if "log" in name], sorted(files)
        assert "data.txt" not in by_name
        assert "main.py" not in by_name
    # A download destroys nothing.
    assert user.result("t") == user.result("t")


@pytest.mark.parametrize("entry", ["main.py", "app.py", "run.py", "start.py", "top/app.py"])
def test_each_documented_entry_point_is_found(user: User, entry: str) -> None:
    user.upload("t", zip_of({entry: "print(__file__.rpartition('/')[2])\n"}))
    assert user.ended("t").state == "COMPLETED"
    assert user.logs("t").strip() == entry.rpartition("/")[2]


def test_first_documented_entry_point_wins(user: User) -> None:
    user.upload("t", zip_of({name: f"print('{name}')\n" for name in ("start.py", "run.py", "app.py")}))
    assert user.ended("t").state == "COMPLETED"
    assert user.logs("t") == "app.py\n"


def test_time_limit_ends_a_task_as_failed(user: User) -> None:
    user.upload("t", SILENT, time_limit_s=1)
    assert user.ended("t").state == "FAILED"
    assert "longer than its 1 s" in user.detail("t").note


def test_task_has_no_network_and_cannot_read_the_machine(three: Hive, user: User) -> None:
    program = """
import os, socket
try:
    socket.create_connection(('127.0.0.1', %d), timeout=2)
    print('connected')
except OSError:
    print('no network')
try:
    open('/etc/shadow').read()
    print('read')
except OSError:
    print('no shadow')
print('root' if os.access('/', os.W_OK) else 'read-only')
"""
    port = int(three[0].api.rpartition(":")[2])
    user.upload("t", program % port)
    assert user.ended("t").state == "COMPLETED"
    assert user.logs("t").split("\n")[:3] == ["no network", "no shadow", "read-only"]


def test_dead_worker_means_the_task_runs_again_elsewhere_with_one_result(three: Hive, user: User) -> None:
    runner = _runs_on_a_follower(three, user)
    asker = user.at(next(daemon for daemon in three.followers() if daemon is not runner))
    assert asker.detail("t").attempt == 1
    runner.kill()
    try:
        again = asker.until("t", lambda state, log: state == "RUNNING" and asker.detail("t").attempt == 2)
        assert again.node_id != runner.node_id
        end = asker.ended("t")
        assert (end.state, end.attempt, end.cpt_held, end.cpt_paid) == ("COMPLETED", 2, 0, end.cost_per_minute)
        assert asker.logs("t") == "started\ndone\n"
    finally:
        runner.start()
        three.wait(workers=3)
    # The one that came back knows this end and makes no second one.
    after = user.at(runner).detail("t")
    assert (after.state, after.attempt, after.result_sha256) == ("COMPLETED", 2, end.result_sha256)


def _runs_on_a_follower(three: Hive, user: User) -> Daemon:
    """Fills the leader's slots and submits `t`, which runs some seconds; the follower that took it."""
    leader = three.leader()
    place = f"place{three.daemons.index(leader)}"
    for name in ("filler1", "filler2"):
        user.upload(name, WORKS_FOR_SECONDS, location=place)
    for name in ("filler1", "filler2"):
        assert user.said(name, STARTED).node_id == leader.node_id
    user.upload("t", WORKS_FOR_SECONDS)
    detail = user.said("t", STARTED)
    assert detail.node_id != leader.node_id
    return three.of(detail.node_id)


def test_killed_daemon_leaves_no_program_running(three: Hive, user: User, request: pytest.FixtureRequest) -> None:
    runner = three.followers()[1]
    user.upload("t", SLEEPER, location=f"place{three.daemons.index(runner)}", retries=0)
    user.said("t", STARTED)
    if "docker" in request.node.name:
        engine = docker.APIClient(base_url=request.getfixturevalue("docker_host"))
        ours = {each["Id"] for each in engine.containers()}
        runner.kill()
        runner.start()
        # The engine outlives its client: the next life of the daemon clears up.
        wait_for("no container of the dead daemon", lambda: not ours & {c["Id"] for c in engine.containers()} or None)
        engine.close()
    else:
        assert runner.process is not None
        programs = psutil.Process(runner.process.pid).children(recursive=True)
        assert programs
        runner.kill()
        wait_for("no program of the dead daemon", lambda: not any(each.is_running() for each in programs) or None)
        runner.start()
    three.wait(workers=3)
    assert user.ended("t").state == "FAILED"
    assert user.detail("t").cpt_paid == 0, "what fails by the hive's fault costs nothing"
