"""The command line against real daemons: exit codes, JSON, starting, stopping, and following a task over the leader's death."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import ROOT, Daemon, Hive, clean_environment, hive, wait_for

DONE, FAILED, USAGE, UNREACHABLE, REFUSED = 0, 1, 2, 3, 4
COMMAND_DEADLINE_S = 60.0
STOP_PROMISE_S = 10.0
LEADERLESS_TOLD_S = 15.0
"""Ten seconds of looking for a leader, two until the old one is missed, and the start of the command itself."""
PASSWORD = "correct horse battery\n"
GRANT_CPT = 1000


@dataclass
class Said:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        return json.loads(lines[0])


@dataclass
class Person:
    """Somebody at a terminal: a folder for logins, and the daemon that is asked."""

    folder: Path
    daemon: Daemon

    def argv(self, *arguments: str) -> list[str]:
        argv = [sys.executable, "-m", "hivenode", "--data-dir", str(self.daemon.data_dir), *arguments]
        return argv if self.daemon.host is None else self.daemon.host.argv(argv)

    @property
    def environment(self) -> dict[str, str]:
        return clean_environment(self.folder)

    def says(self, *arguments: str, stdin: str = "") -> Said:
        done = subprocess.run(
            self.argv(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self.environment,
            timeout=COMMAND_DEADLINE_S,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def log_in(self, name: str) -> None:
        assert self.says("user", "register", name, stdin=PASSWORD).code == DONE
        assert self.says("user", "login", name, stdin=PASSWORD).code == DONE

    def script(self, program: str) -> str:
        path = self.folder / "program.py"
        path.write_text(program)
        return str(path)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    with hive(tmp_path_factory.mktemp("cli"), 3, "--executor", "sandbox", workers=3) as made:
        yield made


@pytest.fixture
def person(three: Hive, tmp_path: Path) -> Person:
    """Somebody at a follower."""
    return Person(tmp_path, three.followers()[0])


def test_status_and_nodes_tell_the_same_in_json_and_for_people(three: Hive, person: Person) -> None:
    document = person.says("status", "--json").json
    assert document["node_id"] == person.daemon.node_id
    assert document["leader_node_id"] == three.leader().node_id
    assert len([member for member in document["members"] if member["voter"]]) == 3
    assert (document["nodes"], document["supply"]) == (3, 1_000_000_000_000)
    for_people = person.says("status")
    assert for_people.code == DONE
    assert document["leader_node_id"][:12] in for_people.out
    person.log_in("nora")
    nodes = person.says("--json", "node", "ls").json["nodes"]
    assert {node["node_id"] for node in nodes} == {daemon.node_id for daemon in three}
    assert all(node["executor"] == "sandbox" and node["alive"] for node in nodes)


def test_hive_whose_majority_hangs_is_told_as_without_leader_before_the_commands_own_end(tmp_path: Path) -> None:
    with hive(tmp_path, 3, "--executor", "none") as hung:
        survivor = hung.followers()[0]
        person = Person(tmp_path, survivor)
        person.log_in("mona")
        program = person.script("print(1)\n")
        silent = [daemon for daemon in hung if daemon is not survivor]
        for daemon in silent:
            daemon.signal(signal.SIGSTOP)
        try:
            for command in (("ledger", "balance"), ("task", "run", program), ("ledger", "transfer", "mona", "1")):
                begun = time.monotonic()
                said = person.says(*command)
                took_s = time.monotonic() - begun
                print(f"{' '.join(command[:2])}: {said.code} after {took_s:.1f} s: {said.err.strip()}")
                assert said.code == UNREACHABLE, said.err
                assert "`hivenode status` tells which machines are missing" in said.err
                assert took_s < LEADERLESS_TOLD_S
        finally:
            for daemon in silent:
                daemon.signal(signal.SIGCONT)


def test_account_from_register_to_logout(person: Person) -> None:
    assert person.says("user", "register", "carol", "--json", stdin=PASSWORD).json == {"username": "carol"}
    again = person.says("user", "register", "carol", "--json", stdin=PASSWORD)
    assert (again.code, again.json["error"]["code"], again.json["error"]["outcome"]) == (REFUSED, 1003, "refused")
    assert person.says("user", "whoami").code == REFUSED
    wrong = person.says("user", "login", "carol", "--json", stdin="wrong\n")
    assert (wrong.code, wrong.json["error"]["name"]) == (REFUSED, "INVALID_PASSWORD")
    login = person.says("user", "login", "carol", "--json", stdin=PASSWORD).json
    assert set(login) == {"username", "hive_id", "expires_ms"}
    kept = [path for path in (person.folder / "config").rglob("*") if path.is_file()]
    assert kept
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert person.says("user", "whoami", "--json").json["username"] == "carol"
    assert person.says("ledger", "balance", "--json").json == {"username": "carol", "balance": GRANT_CPT}
    assert person.says("user", "logout").code == DONE
    assert person.says("ledger", "balance").code == REFUSED


def test_transfer_moves_cpt_and_refusals_end_with_four(three: Hive, person: Person, tmp_path: Path) -> None:
    other = Person(tmp_path / "other", three.leader())
    (tmp_path / "other").mkdir()
    person.log_in("dave")
    other.log_in("erin")
    sent = person.says("ledger", "transfer", "erin", "250", "--json")
    assert sent.json == {"username": "dave", "receiver": "erin", "amount": 250, "balance": GRANT_CPT - 250}
    assert other.says("ledger", "balance", "--json").json["balance"] == GRANT_CPT + 250
    refused = person.says("ledger", "transfer", "erin", "100000", "--json")
    assert (refused.code, refused.json["error"]["name"]) == (REFUSED, "INSUFFICIENT_BALANCE")
    for_people = person.says("ledger", "transfer", "erin", "100000")
    assert for_people.code == REFUSED
    assert for_people.err.startswith("hivenode: ")


def test_task_from_run_to_result(person: Person) -> None:
    person.log_in("frank")
    folder = person.folder / "job"
    folder.mkdir()
    (folder / "main.py").write_text(
        "import os\nos.makedirs('output')\nopen('output/a.txt', 'w').write('made')\nprint('hi')\n"
    )
    ran = person.says(
        "task", "run", str(folder), "--id", "t", "--wait", "--output", str(person.folder / "got"), "--json"
    )
    document = ran.json
    assert (ran.code, document["task"]["state"], document["task"]["exit_code"]) == (DONE, "COMPLETED", 0)
    assert ran.err.splitlines()[-1] == "hi" or "hi" in ran.err
    assert [path.read_text() for path in (person.folder / "got").rglob("a.txt")] == ["made"]
    assert person.says("task", "logs", "t").out == "hi\n"
    assert person.says("task", "logs", "t", "--json").json == {"task_id": "t", "logs": "hi\n"}
    assert person.says("task", "logs", "-f", "t").out == "hi\n"
    assert [task["task_id"] for task in person.says("task", "ls", "--json").json["tasks"]] == ["t"]
    assert person.says("task", "status", "t", "--json").json["state"] == "COMPLETED"
    saved = person.says("task", "result", "t", "--output", str(person.folder / "r.zip"), "--json")
    assert (saved.code, (person.folder / "r.zip").read_bytes()[:2]) == (DONE, b"PK")


def test_failed_task_ends_wait_with_one(person: Person) -> None:
    person.log_in("grace")
    ran = person.says("task", "run", person.script("import sys\nprint('no')\nsys.exit(3)\n"), "--wait", "--json")
    assert (ran.code, ran.json["task"]["state"], ran.json["task"]["exit_code"]) == (FAILED, "FAILED", 3)
    for_people = person.says("task", "run", person.script("import sys\nsys.exit(3)\n"), "--wait")
    assert for_people.code == FAILED
    assert "exit code 3" in for_people.err


def test_task_that_runs_is_stopped_by_a_command(person: Person) -> None:
    person.log_in("heidi")
    assert person.says("task", "run", person.script("import time\ntime.sleep(600)\n"), "--id", "t").code == DONE
    wait_for("RUNNING", lambda: person.says("task", "status", "t", "--json").json["state"] == "RUNNING" or None)
    assert person.says("task", "stop", "t").code == DONE
    wait_for("STOPPED", lambda: person.says("task", "status", "t", "--json").json["state"] == "STOPPED" or None)
    followed = person.says("task", "logs", "-f", "t", "--json")
    assert (followed.code, followed.json["task"]["state"]) == (FAILED, "STOPPED")


def test_refused_upload_tells_the_reason(person: Person) -> None:
    person.log_in("ivan")
    path = person.folder / "bad.py"
    path.write_bytes(b"\x00\x01 no program")
    said = person.says("task", "run", str(path), "--json")
    assert (said.code, said.json["error"]["name"]) == (REFUSED, "INVALID_TASK")
    assert "no Python script" in said.json["error"]["message"]
    unknown = person.says("task", "status", "no-such", "--json")
    assert (unknown.code, unknown.json["error"]["code"]) == (REFUSED, 3001)


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["ledger", "transfer", "x", "-5"],
        ["task", "run", "/no/such/file"],
        ["status", "--peer", "nonsense"],
        ["start", "--listen", "nonsense"],
        ["start", "--role", "emperor"],
    ],
)
def test_wrong_usage_ends_with_two(person: Person, arguments: list[str]) -> None:
    assert person.says(*arguments).code == USAGE
    said = person.says("--json", *arguments)
    assert (said.code, said.json["error"]["name"]) == (USAGE, "INVALID_ARGUMENT")


def test_daemon_that_is_not_there_ends_with_three(person: Person, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        said = person.says("status", "--peer", address, "--json")
    assert (said.code, said.json["error"]["name"]) == (UNREACHABLE, "NODE_OFFLINE")
    nobody = Person(tmp_path, Daemon("nobody", tmp_path)).says("status")
    assert nobody.code == UNREACHABLE
    assert "hivenode start" in nobody.err


def _refused_start(daemon: Daemon, *flags: str) -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "hivenode", "start", "--data-dir", str(daemon.data_dir), *flags],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=daemon.environment,
        timeout=COMMAND_DEADLINE_S,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def test_second_start_on_one_data_directory_is_refused(three: Hive) -> None:
    daemon = three[0]
    said = _refused_start(daemon, *daemon.flags)
    assert said.code == USAGE
    assert str(daemon.data_dir) in said.err
    assert f"process {daemon.process.pid if daemon.process else 0}" in said.err
    assert "--data-dir" in said.err
    assert daemon.status().node_id == daemon.node_id, "the first one is untouched"
    assert daemon.published()["api_address"] == daemon.api


@pytest.mark.parametrize("flag", ["--listen", "--peer-listen"])
def test_taken_port_says_which_and_what_to_do(three: Hive, tmp_path: Path, flag: str) -> None:
    taken = three[0].api
    other = "--peer-listen" if flag == "--listen" else "--listen"
    said = _refused_start(Daemon("late", tmp_path), flag, taken, other, "127.0.0.1:0", "--no-mdns")
    assert said.code == USAGE
    assert taken in said.err
    assert flag in said.err
    assert "Traceback" not in said.err


def test_plain_text_api_off_loopback_needs_a_word(tmp_path: Path) -> None:
    said = _refused_start(
        Daemon("open", tmp_path), "--listen", "0.0.0.0:0", "--peer-listen", "127.0.0.1:0", "--no-mdns"
    )
    assert said.code == USAGE
    assert "--insecure" in said.err


def test_data_directory_is_for_its_owner_alone(three: Hive) -> None:
    for daemon in three:
        assert stat.S_IMODE(daemon.data_dir.stat().st_mode) == 0o700


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_a_busy_daemon_in_time(tmp_path: Path, number: signal.Signals) -> None:
    with hive(tmp_path, 1, "--executor", "sandbox", workers=1) as one:
        person = Person(tmp_path, one[0])
        person.log_in("judy")
        assert person.says("task", "run", person.script("import time\ntime.sleep(600)\n"), "--id", "t").code == DONE
        wait_for("RUNNING", lambda: person.says("task", "status", "t", "--json").json["state"] == "RUNNING" or None)
        follower = subprocess.Popen(
            person.argv("task", "logs", "-f", "t"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=person.environment,
        )
        try:
            begun = time.monotonic()
            one[0].signal(number)
            assert one[0].ended() == 0
            took_s = time.monotonic() - begun
        finally:
            follower.kill()
            follower.wait(COMMAND_DEADLINE_S)
        assert took_s < STOP_PROMISE_S, f"stopped after {took_s:.1f} s"
        assert not (one[0].data_dir / "daemon.json").exists()
        one[0].start()
        one.wait()
        # What was running when the machine went down is not lost.
        assert person.says("task", "status", "t", "--json").json["state"] in ("PENDING", "ASSIGNED", "RUNNING")
        assert person.says("task", "stop", "t").code == DONE


def test_no_signal_kills_a_daemon_that_ends_in_order(tmp_path: Path) -> None:
    with hive(tmp_path, 1, "--no-mdns", "--executor", "none") as one:
        # Again and again until it is gone: the last moments, after the event loop, are as safe as the first.
        one[0].answer()
        while one[0].alive:
            one[0].signal(signal.SIGTERM)
            time.sleep(0.000_2)
        assert one[0].ended() == 0


COUNTS = """
import time
for n in range(40):
    print('line', n, flush=True)
    time.sleep(0.1)
"""


def test_waiting_run_survives_the_death_of_the_leader(three: Hive, person: Person) -> None:
    person.log_in("kate")
    leader = three.leader()
    asked = Person(person.folder, next(daemon for daemon in three.followers()))
    out = (person.folder / "out").open("wb")
    err = (person.folder / "err").open("wb")
    with out, err:
        waiting = subprocess.Popen(
            asked.argv("task", "run", asked.script(COUNTS), "--id", "t", "--wait"),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env=asked.environment,
        )
    try:
        wait_for("the first lines", _has(person.folder / "out", b"line 5\n"))
        leader.kill()
        code = waiting.wait(COMMAND_DEADLINE_S)
    finally:
        waiting.kill()
        waiting.wait(COMMAND_DEADLINE_S)
        if not leader.alive:
            leader.start()
        three.wait(workers=3)
    said = (person.folder / "err").read_text()
    assert code == DONE, said
    assert "COMPLETED" in said
    # If the task was on the machine that died, it began again and so does its log.
    tail = (person.folder / "out").read_text().splitlines()[-40:]
    assert tail == [f"line {n}" for n in range(40)]


def _has(path: Path, words: bytes) -> Callable[[], bool | None]:
    return lambda: (words in path.read_bytes()) or None
