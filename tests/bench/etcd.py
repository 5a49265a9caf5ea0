"""A three-member etcd on loopback, with its own defaults: fsync on, heartbeat 100 ms, election 1,000 ms."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PUT = "/etcdserverpb.KV/Put"
MEMBERS = 3
START_DEADLINE_S = 30.0
END_DEADLINE_S = 10.0
LOOK_S = 0.05
"""Another program shows what it has become only when it is asked."""
ANSWER_DEADLINE_S = 2.0
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def put_request(key: bytes, value: bytes) -> bytes:
    """etcdserverpb.PutRequest: fields 1 and 2, both bytes of under 128."""
    return b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(value)]) + value


@dataclass(eq=False)
class Member:
    """One etcd process. `argv` starts it; it keeps its data, so it can be killed and started again."""

    client: str
    argv: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL, and the process is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(END_DEADLINE_S)
            self.process = None

    def says(self, page: str) -> str:
        """A page of its client port; empty while it does not answer."""
        try:
            with NO_PROXY.open(f"http://{self.client}/{page}", timeout=ANSWER_DEADLINE_S) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return ""

    @property
    def healthy(self) -> bool:
        return '"true"' in self.says("health")

    @property
    def leads(self) -> bool:
        return "\netcd_server_is_leader 1\n" in self.says("metrics")


@dataclass(frozen=True)
class Etcd:
    """Three members."""

    members: list[Member]

    def leader(self) -> Member:
        """The leader, once all three are healthy. Raises TimeoutError."""
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            leaders = [member for member in self.members if member.leads]
            if len(leaders) == 1 and all(member.healthy for member in self.members):
                return leaders[0]
            time.sleep(LOOK_S)
        raise TimeoutError(f"three healthy members of etcd did not come within {START_DEADLINE_S:g} s")

    def followers(self) -> list[Member]:
        leader = self.leader()
        return [member for member in self.members if member is not leader]


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago: etcd takes no port 0, since its members must know each other's before they start."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for taken in sockets:
            taken.bind(("127.0.0.1", 0))
        return [int(taken.getsockname()[1]) for taken in sockets]


@contextlib.contextmanager
def etcd(folder: Path) -> Iterator[Etcd | None]:
    """Three members with their data in this folder; None, with a word, when there is no etcd here."""
    program = shutil.which("etcd")
    if program is None:
        print("there is no etcd here to compare with (Debian: apt-get install etcd-server)")
        yield None
        return
    ports = _free_ports(2 * MEMBERS)
    peers = [f"http://127.0.0.1:{port}" for port in ports[:MEMBERS]]
    clients = [f"127.0.0.1:{port}" for port in ports[MEMBERS:]]
    cluster = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
    made = Etcd([])
    try:
        for number, (peer, client) in enumerate(zip(peers, clients, strict=True)):
            argv = [program, "--name", f"m{number}", "--data-dir", str(folder / f"etcd{number}")]
            argv += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            argv += ["--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}"]
            argv += ["--initial-cluster", cluster, "--initial-cluster-state", "new"]
            member = Member(client, argv, folder / f"etcd{number}.log")
            made.members.append(member)
            member.start()
        made.leader()
        yield made
    finally:
        for member in made.members:
            member.kill()
