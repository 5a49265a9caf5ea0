from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hivenode.cli.app import cli
from tests.unit.cli.small_hive import SmallHive

Invoke = Callable[..., Result]


@pytest.fixture
def hive() -> Iterator[SmallHive]:
    small = SmallHive()
    small.start()
    yield small
    small.stop()


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    return tmp_path / "config"


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, config_dir: Path, tmp_path: Path) -> Invoke:
    """Runs a command line in an empty folder, with nothing of this machine's own settings."""
    for name in ("HIVENODE_PEER", "HIVENODE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HIVENODE_CONFIG_DIR", str(config_dir))
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def run(*arguments: str, stdin: str = "") -> Result:
        return runner.invoke(cli, list(arguments), input=stdin)

    return run


@pytest.fixture
def at_hive(hive: SmallHive, invoke: Invoke) -> Invoke:
    """Commands of a user who is logged in at the hive."""

    def run(*arguments: str, stdin: str = "") -> Result:
        return invoke("--peer", hive.address, *arguments, stdin=stdin)

    assert run("user", "register", "alice", stdin="correct horse\n").exit_code == 0
    assert run("user", "login", "alice", stdin="correct horse\n").exit_code == 0
    return run
