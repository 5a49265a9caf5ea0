"""What only shows at a terminal: the hidden password, progress that stays off stdout, and text that would act there."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Invoke
from tests.unit.cli.small_hive import SmallHive

DEADLINE_S = 60
SOURCE = Path(__file__).parents[3]
EVIL = "title \x1b]0;t\x07 clipboard \x1b]52;c;aGk=\x07 a colour \x9b31m a bare \r return, turned \u202e round\r\nand a café\t.\n"
HARMLESS = (
    r"title \x1b]0;t\x07 clipboard \x1b]52;c;aGk=\x07 a colour \x9b31m a bare \r return, turned \u202e round"
    "\r\nand a café\t.\n"
)


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo terminal: ours, and the one that a program takes for a person."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def read_until(ours: int, wanted: bytes) -> bytes:
    """What the program shows up to `wanted`; the test's own deadline bounds it."""
    shown = b""
    while wanted not in shown:
        shown += os.read(ours, 4096)
    return shown


@pytest.fixture
def environment(hive: SmallHive, config_dir: Path) -> dict[str, str]:
    return dict(os.environ) | {
        "HIVENODE_PEER": hive.address,
        "HIVENODE_CONFIG_DIR": str(config_dir),
        "TERM": "xterm",
        "COLUMNS": "100",
    }


@pytest.mark.timeout(DEADLINE_S)
def test_password_is_asked_for_twice_and_never_shown(hive: SmallHive, environment: dict[str, str]) -> None:
    command = (sys.executable, "-m", "hivenode", "user", "register", "alice")
    with terminal() as (ours, theirs):
        program = subprocess.Popen(
            command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=environment, start_new_session=True
        )
        shown = read_until(ours, b"Password of alice:")
        os.write(ours, b"correct horse\n")
        shown += read_until(ours, b"Repeat for confirmation:")
        os.write(ours, b"correct horse\n")
        stdout, _ = program.communicate(timeout=DEADLINE_S)
    assert program.returncode == 0
    assert b"correct horse" not in shown + stdout
    assert hive.passwords == {"alice": "correct horse"}


@pytest.mark.timeout(DEADLINE_S)
def test_upload_shows_its_progress_on_stderr_alone(
    hive: SmallHive, environment: dict[str, str], tmp_path: Path
) -> None:
    archive = tmp_path / "large.zip"
    archive.write_bytes(bytes(8 << 20))
    for word in ("register", "login"):
        subprocess.run(
            (sys.executable, "-m", "hivenode", "user", word, "alice"),
            input=b"correct horse\n",
            env=environment,
            check=True,
            capture_output=True,
            timeout=DEADLINE_S,
        )
    command = (sys.executable, "-m", "hivenode", "--json", "task", "run", str(archive), "--id", "large")
    with terminal() as (ours, theirs):
        program = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, env=environment
        )
        read_until(ours, b"uploading")
        stdout, _ = program.communicate(timeout=DEADLINE_S)
    assert program.returncode == 0
    assert stdout == b'{"task_id": "large", "cpt_held": 5, "copies": 2}\n'
    assert len(hive.uploads["large"]) == 8 << 20


def shown_by(environment: dict[str, str], *arguments: str) -> str:
    """All that a command shows at a terminal, on stdout and stderr; the line ends as the terminal makes them."""
    with terminal() as (ours, theirs):
        program = subprocess.Popen(
            (sys.executable, "-m", "hivenode", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=environment | {"PYTHONUTF8": "1"},
            cwd=SOURCE,
        )
        program.wait(timeout=DEADLINE_S)
        os.write(theirs, b"<end>")
        return read_until(ours, b"<end>").decode().removesuffix("<end>")


@pytest.fixture
def evil(hive: SmallHive, at_hive: Invoke, tmp_path: Path) -> SmallHive:
    """A hive whose task wrote what a terminal obeys."""
    script = tmp_path / "main.py"
    script.write_text("")
    assert at_hive("task", "run", str(script)).exit_code == 0
    hive.log = EVIL.encode()
    return hive


@pytest.mark.timeout(DEADLINE_S)
def test_log_cannot_act_at_a_terminal(evil: SmallHive, environment: dict[str, str]) -> None:
    shown = shown_by(environment, "task", "logs", "task-1")
    assert shown == HARMLESS.replace("\n", "\r\n")


@pytest.mark.timeout(DEADLINE_S)
@pytest.mark.parametrize("cut_after", [b"and a caf\xc3", b" round\r"])
def test_followed_log_cannot_act_at_a_terminal_wherever_it_is_cut(
    evil: SmallHive, environment: dict[str, str], cut_after: bytes
) -> None:
    evil.breaks_at = [evil.log.index(cut_after) + len(cut_after)]
    shown = shown_by(environment, "task", "logs", "-f", "task-1")
    assert shown.startswith(HARMLESS.replace("\n", "\r\n"))


def test_log_in_a_file_is_exact(evil: SmallHive, at_hive: Invoke) -> None:
    evil.log += b"\x80\xff\r"
    assert at_hive("task", "logs", "-f", "task-1").stdout_bytes == evil.log


def test_json_holds_nothing_that_a_terminal_obeys(evil: SmallHive, at_hive: Invoke) -> None:
    document = at_hive("task", "logs", "task-1", "--json").stdout
    assert not set(document) & set("\x1b\x07\x9b\r\u202e")
    assert json.loads(document)["logs"] == EVIL


@pytest.mark.timeout(DEADLINE_S)
def test_what_a_daemon_answers_cannot_act_at_a_terminal(evil: SmallHive, environment: dict[str, str]) -> None:
    shown = shown_by(environment, "task", "status", "none \x1b]0;t\x07")
    assert r"you have no task none \x1b]0;t\x07" in shown
    assert "\x1b" not in shown


def test_log_of_the_daemon_cannot_act_at_a_terminal() -> None:
    from hivenode.terminal import harmless_event

    told = harmless_event(None, "info", {"event": "a node", "hostname": EVIL, "port": 7})
    assert told == {"event": "a node", "hostname": HARMLESS, "port": 7}
