"""What only shows at a terminal: the hidden password, and progress that stays off stdout."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.cli.small_hive import SmallHive

DEADLINE_S = 60


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
