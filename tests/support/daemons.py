"""Real daemons as processes, on loopback or each on a host of its own (`tests.support.namespaces`).

`hive(folder)` starts some, waits until they are one hive with all its voters, and ends them. Each daemon keeps its own data
directory, so it can be killed and started again. What a daemon logged is shown with the test that failed (`logs_of_the_living`).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc

from hivenode.pb import hive_pb2
from hivenode.worker.part import STARTING_NOTE
from tests.support.namespaces import Host
from tests.support.parts import require

ROOT = Path(__file__).parents[2]
HIVE_DEADLINE_S = 60.0
"""Three machines are one hive within six seconds; a busy test machine may need ten times that."""
ANSWER_DEADLINE_S = 30.0
CALL_DEADLINE_S = 5.0
STOP_DEADLINE_S = 15.0
"""The promise is 10 s; a test of that promise measures, this bound only ends the wait."""
LOOK_S = 0.05
"""Another process shows what it has become only when it is asked."""
TAIL_LINES = 60
LOOPBACK = ("--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--mdns-interface", "127.0.0.1")
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 110 << 20),
    ("grpc.max_send_message_length", 110 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", int(CALL_DEADLINE_S * 1_000)),  # How long a connection may take to stand.
    ("grpc.max_reconnect_backoff_ms", 200),
)
NOT_THERE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""What a daemon that is not up yet, or that just died, answers."""

Value = TypeVar("Value")
_living: list[Daemon] = []


class NotYetError(Exception):
    """What was waited for did not come."""


def wait_for(what: str, look: Callable[[], Value | None], *, deadline_s: float = HIVE_DEADLINE_S) -> Value:
    """Looks again and again until there is something to see; a daemon that does not answer shows nothing."""
    deadline = time.monotonic() + deadline_s
    last = ""
    while time.monotonic() < deadline:
        try:
            seen = look()
        except grpc.RpcError as error:
            if error.code() not in NOT_THERE:
                raise
            last = str(error)
        else:
            if seen is not None:
                return seen
        time.sleep(LOOK_S)
    raise NotYetError(f"{what} did not happen within {deadline_s:g} s. {last}")


def logs_of_the_living() -> list[tuple[str, str]]:
    """Name and end of log of every daemon that a test has not ended yet."""
    return [(daemon.name, daemon.log_tail()) for daemon in _living]


def clean_environment(folder: Path) -> dict[str, str]:
    """The environment without any setting of hivenode, with a place for logins in `folder`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HIVENODE_")}
    return clean | {"HIVENODE_CONFIG_DIR": str(folder / "config")}


@dataclass(eq=False)
class Daemon:
    """One daemon. `flags` follow `start --data-dir …`; on a `host` a program there carries calls in and out."""

    name: str
    folder: Path
    flags: Sequence[str] = LOOPBACK
    host: Host | None = None
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    _channel: grpc.Channel | None = None
    _door: subprocess.Popen[bytes] | None = None
    _door_folder: Path | None = None
    _node_id: str = ""
    _dialled: str = ""
    _told: bool = False
    _killed: bool = False

    @property
    def data_dir(self) -> Path:
        return self.folder / self.name

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def environment(self) -> dict[str, str]:
        # On loopback a hive of another run must not be met; a host of its own network meets nobody else.
        group = {"HIVENODE_MDNS_GROUP": f"test-{os.getpid()}"} if self.host is None else {}
        return clean_environment(self.folder) | group | self.settings

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "hivenode", "start", "--data-dir", str(self.data_dir), *self.flags]

    def start(self) -> None:
        """Starts the process; `answer` waits until it can be asked."""
        assert not self.alive, f"{self.name} runs already"
        # A daemon that was killed has left its old address behind.
        (self.data_dir / "daemon.json").unlink(missing_ok=True)
        self._close_channel()
        argv = self.command if self.host is None else self.host.argv(self.command)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=self.environment,
                start_new_session=True,
            )
        self._told = self._killed = False
        if self not in _living:
            _living.append(self)

    def published(self) -> dict[str, str]:
        """What the daemon left in its data directory for the command line."""

        def look() -> dict[str, str] | None:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.log_tail()}")
            path = self.data_dir / "daemon.json"
            return json.loads(path.read_text()) if path.exists() else None

        return wait_for(f"the start of {self.name}", look, deadline_s=ANSWER_DEADLINE_S)

    @property
    def api(self) -> str:
        return self.published()["api_address"]

    @property
    def peer_address(self) -> str:
        return self.published()["peer_address"]

    @property
    def node_id(self) -> str:
        if not self._node_id:
            self._node_id = self.published()["node_id"]
        return self._node_id

    @property
    def channel(self) -> grpc.Channel:
        """A channel to this life of the daemon; it is open until the next life begins, so that calls see the death."""
        if self._channel is not None and self._has_moved():
            self._close_channel()
        if self._channel is None:
            target = self.api if self.host is None else self._open_door(self.host)
            self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
            self._dialled = self.api
        return self._channel

    def dial(self, address: str) -> None:
        """For a daemon that cannot write down where it listens."""
        self._close_channel()
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._dialled = address

    def _has_moved(self) -> bool:
        """Whether the daemon began anew by itself, as when its hive dissolved: with free ports it listens elsewhere then."""
        try:
            written = json.loads((self.data_dir / "daemon.json").read_text())
        except (FileNotFoundError, ValueError):
            return False
        return bool(written["api_address"] != self._dialled)

    def _open_door(self, host: Host) -> str:
        """A Unix socket, which namespaces of the network share, that leads to the daemon's API on its host."""
        if self._door_folder is None:
            # Not pytest's folder: the path of a socket may have 107 bytes.
            self._door_folder = Path(tempfile.mkdtemp(prefix="hn-door-"))
            argv = [sys.executable, "-m", "tests.support.programs.door", str(self._door_folder / "s"), self.api]
            self._door = subprocess.Popen(host.argv(argv), stdin=subprocess.DEVNULL, cwd=ROOT)
            path = self._door_folder / "s"
            wait_for("the door", lambda: path.exists() or None, deadline_s=ANSWER_DEADLINE_S)
        return f"unix:{self._door_folder}/s"

    def status(self, *, timeout_s: float = CALL_DEADLINE_S) -> hive_pb2.GetStatusResponse:
        handle = self.channel.unary_unary(
            "/hive.HiveService/GetStatus",
            request_serializer=hive_pb2.GetStatusRequest.SerializeToString,
            response_deserializer=hive_pb2.GetStatusResponse.FromString,
        )
        answer: hive_pb2.GetStatusResponse = handle(hive_pb2.GetStatusRequest(), timeout=timeout_s)
        return answer

    def answer(self) -> hive_pb2.GetStatusResponse:
        """Waits until the daemon answers."""
        return wait_for(f"an answer of {self.name}", self.status, deadline_s=ANSWER_DEADLINE_S)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and the process is gone."""
        assert self.process is not None
        self._killed = True
        self.process.kill()
        self.process.wait(STOP_DEADLINE_S)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.tell_to_end()
        return self.ended()

    def ended(self) -> int:
        """Waits for the end that was asked for; the exit code."""
        assert self.process is not None
        return self.process.wait(STOP_DEADLINE_S)

    def forget_all_but_its_key(self) -> None:
        for path in self.data_dir.iterdir():
            if path.name not in ("node.key", "node.pem"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def redial(self) -> None:
        """The daemon began anew by itself: with free ports it listens elsewhere now."""
        self._close_channel()

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._door is not None:
            # The door goes where the daemon listened; with free ports that is somewhere else in the next life.
            self._door.kill()
            self._door.wait(STOP_DEADLINE_S)
            self._door = None
        if self._door_folder is not None:
            shutil.rmtree(self._door_folder, ignore_errors=True)
            self._door_folder = None

    def log_tail(self) -> str:
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def tell_to_end(self) -> None:
        """SIGTERM, once."""
        if self.process is not None and self.alive and not self._told:
            self._told = True
            self.process.terminate()
            # A daemon that a test has paused takes no SIGTERM before it goes on.
            self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends the process, in order where it still can, and waits until it is gone. It keeps its data."""
        self.tell_to_end()
        self._close_channel()
        if self in _living:
            _living.remove(self)
        if self.process is None or self._killed:
            return
        try:
            self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_DEADLINE_S)
            raise AssertionError(f"{self.name} did not stop within {STOP_DEADLINE_S:g} s:\n{self.log_tail()}") from None
        assert self.process.returncode == 0, f"{self.name} stopped with {self.process.returncode}:\n{self.log_tail()}"


@dataclass
class Hive:
    """Daemons that are, or shall become, one hive. On loopback they look at each other's announcements alone."""

    folder: Path
    group: str = field(default_factory=lambda: f"test-{secrets.token_hex(6)}")
    daemons: list[Daemon] = field(default_factory=list)

    def __iter__(self) -> Iterator[Daemon]:
        return iter(self.daemons)

    def __getitem__(self, index: int) -> Daemon:
        return self.daemons[index]

    @property
    def running(self) -> list[Daemon]:
        return [daemon for daemon in self.daemons if daemon.alive]

    def add(
        self,
        *flags: str,
        host: Host | None = None,
        settings: dict[str, str] | None = None,
        name: str = "",
    ) -> Daemon:
        """Starts one more daemon. On a host of its own it needs no addresses; on loopback it takes free ones."""
        all_flags = (*(() if host is not None else LOOPBACK), *flags)
        made = Daemon(
            name=name or f"node{len(self.daemons)}",
            folder=self.folder,
            flags=all_flags,
            host=host,
            settings=({} if host is not None else {"HIVENODE_MDNS_GROUP": self.group}) | (settings or {}),
        )
        self.daemons.append(made)
        made.start()
        return made

    def agreed(self) -> Daemon | None:
        """The leader, once all running daemons name the same hive and leader; None before."""
        reports = [(daemon, daemon.status()) for daemon in self.running]
        named = {(report.hive_id, report.leader_node_id) for _, report in reports}
        if len(named) != 1:
            return None
        ((hive_id, leader_id),) = named
        if not hive_id or not leader_id:
            return None
        return next((daemon for daemon, report in reports if report.node_id == leader_id), None)

    def wait(
        self,
        *,
        nodes: int | None = None,
        voters: int | None = None,
        workers: int | None = None,
        deadline_s: float = HIVE_DEADLINE_S,
    ) -> Daemon:
        """Waits for one hive in which so many nodes are listed, vote, and have a place for tasks; returns its leader."""
        count = len(self.running)
        wanted_nodes = count if nodes is None else nodes
        wanted_voters = voters_wanted(wanted_nodes) if voters is None else voters

        def look() -> Daemon | None:
            leader = self.agreed()
            if leader is None:
                return None
            report = leader.status()
            voting = [member for member in report.members if member.voter and member.alive]
            if report.nodes < wanted_nodes or len(voting) < wanted_voters:
                return None
            if workers and sum(runs_tasks(daemon.status()) for daemon in self.running) < workers:
                return None
            return leader

        return wait_for(f"one hive of {wanted_nodes} nodes and {wanted_voters} voters", look, deadline_s=deadline_s)

    def leader(self) -> Daemon:
        """Waits until the running daemons agree on a leader."""
        return wait_for("a leader that all know", self.agreed)

    def followers(self) -> list[Daemon]:
        leader = self.leader()
        return [daemon for daemon in self.running if daemon is not leader]

    def of(self, node_id: str) -> Daemon:
        return next(daemon for daemon in self.daemons if daemon.node_id == node_id)

    def close(self) -> None:
        """Ends all; raises what the first said that did not end well."""
        with contextlib.ExitStack() as stack:
            for daemon in self.daemons:
                stack.callback(daemon.close)
                daemon.tell_to_end()


def voters_wanted(nodes: int) -> int:
    """How many vote in a hive of so many."""
    return 1 if nodes < 3 else 3 if nodes < 7 else 5


def runs_tasks(report: hive_pb2.GetStatusResponse) -> bool:
    """Whether the daemon has found what it runs tasks in. Skips the test where it never will."""
    tries = report.executor_note in ("", STARTING_NOTE)
    require(bool(report.executor) or tries, f"what runs tasks ({report.executor_note})")
    return bool(report.executor)


@contextlib.contextmanager
def hive(
    folder: Path,
    count: int = 3,
    *flags: str,
    workers: int | None = None,
    hosts: Sequence[Host] = (),
    settings: dict[str, str] | None = None,
) -> Iterator[Hive]:
    """`count` daemons that have become one hive and, if `workers`, so many of which are ready to run tasks.

    `{n}` in a flag becomes the daemon's number.
    """
    made = Hive(folder=folder)
    try:
        for index in range(count):
            made.add(
                *(flag.replace("{n}", str(index)) for flag in flags),
                host=hosts[index] if hosts else None,
                settings=settings,
            )
        made.wait(workers=workers)
        yield made
    finally:
        made.close()
