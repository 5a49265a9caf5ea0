"""Strangers' connections never take the last file of a daemon."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from hivenode.config import split_address
from hivenode.discovery.interfaces import WATCH_INTERVAL_S
from tests.e2e.user import User
from tests.support.daemons import Daemon, Hive

FILES = 1_024
"""What most systems give a program."""
FILES_LEFT_MIN = 128
SILENT = 700
"""To each of both ports: together more than there are files."""


@dataclass(eq=False)
class _Bounded(Daemon):
    """A daemon that may open as many files as most systems give, and finds half of it set."""

    @property
    def command(self) -> list[str]:
        return ["prlimit", f"--nofile={FILES // 2}:{FILES}", *super().command]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Hive(folder=tmp_path)
    flags = ("--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--no-mdns", "--executor", "none")
    daemon = _Bounded(name="node0", folder=tmp_path, flags=flags)
    made.daemons.append(daemon)
    daemon.start()
    try:
        made.wait()
        yield daemon
    finally:
        made.close()


def test_connections_of_strangers_leave_files_for_the_daemon(daemon: Daemon) -> None:
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    assert process.rlimit(psutil.RLIMIT_NOFILE) == (FILES, FILES)
    user, other = User.new(daemon), User.new(daemon)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * SILENT), hard))
    with contextlib.ExitStack() as closing:
        closing.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for address in (daemon.api, daemon.peer_address):
            for _ in range(SILENT):
                closing.enter_context(socket.create_connection(split_address(address), timeout=5.0))
        most = 0
        until = time.monotonic() + 1.5 * WATCH_INTERVAL_S  # the addresses are looked at meanwhile
        while time.monotonic() < until:
            most = max(most, process.num_fds())
            user.transfer(other.name, 1)
            time.sleep(0.1)
    assert FILES // 4 < most <= FILES - FILES_LEFT_MIN
    assert daemon.alive
    assert User.new(daemon).balance() > 0
