"""A real Docker engine for a test session: its own socket and folders, no bridge, nothing of the machine's touched.

Use `from tests.support.docker_engine import docker_host` in a `conftest.py`, and `docker_host` as a fixture.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.support.parts import require

START_DEADLINE_S = 30.0
END_DEADLINE_S = 15.0


@contextlib.contextmanager
def docker_engine() -> Iterator[str]:
    """Starts `dockerd` in a folder of its own and ends it, by its process id; gives the URL of its socket."""
    # Not pytest's folder: the path of a socket may have 107 bytes.
    place = Path(tempfile.mkdtemp(prefix="hn-docker-"))
    url = f"unix://{place}/docker.sock"
    with (place / "log").open("wb") as log:
        engine = subprocess.Popen(
            [
                "dockerd",
                *("--host", url, "--data-root", str(place / "data"), "--exec-root", str(place / "exec")),
                *("--pidfile", str(place / "pid"), "--iptables=false", "--ip6tables=false"),
                *("--ip-forward=false", "--bridge=none"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for(url, engine, place / "log")
        yield url
    finally:
        engine.send_signal(signal.SIGTERM)  # It ends its containers and its containerd.
        try:
            engine.wait(END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(engine.pid, signal.SIGKILL)
            engine.wait(END_DEADLINE_S)
        shutil.rmtree(place, ignore_errors=True)


def _wait_for(url: str, engine: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and engine.poll() is None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock, contextlib.suppress(OSError):
            knock.connect(url.removeprefix("unix://"))
            client = docker.APIClient(base_url=url, timeout=10)
            try:
                client.ping()
            finally:
                client.close()
            return
        time.sleep(0.05)  # A foreign program's start shows nowhere but at its socket.
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"dockerd did not start:\n{tail}")


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """The URL of an engine of this session."""
    require(os.geteuid() == 0 and shutil.which("dockerd") is not None, "root and dockerd")
    with docker_engine() as url:
        yield url
