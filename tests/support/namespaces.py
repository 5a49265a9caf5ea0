"""Hosts of one's own: network namespaces on a bridge, which itself lies in a namespace, so that the machine's own network is
never touched. `lan(n)` gives `n` hosts, each with an `eth0` and an address; all is gone when it ends. Those of `far_apart` are
joined by a switch that takes its time.

Names bear the process id of the test run, so that runs side by side do not meet, and what a killed run left behind is told
from what is in use.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.parts import require

PREFIX = "hvt"
NETNS = Path("/run/netns")
COMMAND_DEADLINE_S = 20.0
_numbers = itertools.count()


def _command(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed: {done.stderr.strip()}")


def _run_of(name: str) -> int | None:
    """The process id in a namespace's name, None for a foreign one."""
    parts = name.split("-")
    return int(parts[1]) if len(parts) == 4 and parts[0] == PREFIX and parts[1].isdigit() else None


def _remove_leftovers() -> None:
    """Removes the namespaces of runs whose process is gone."""
    for path in NETNS.iterdir() if NETNS.is_dir() else ():
        pid = _run_of(path.name)
        if pid is not None and not Path(f"/proc/{pid}").exists():
            _remove(path.name)


@dataclass
class Host:
    """One machine of a `lan`."""

    name: str
    address: str
    index: int
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` on this host; the cgroups stay visible, unlike with `ip netns exec`."""
        return ["nsenter", f"--net={NETNS / self.name}", *argv]

    def run(self, argv: Sequence[str], *, timeout_s: float = COMMAND_DEADLINE_S) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; raises when it fails."""
        return subprocess.run(self.argv(argv), capture_output=True, text=True, timeout=timeout_s, check=True)

    def popen(self, argv: Sequence[str], *, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts a command with its three standard streams as pipes; it is killed when the `lan` ends, if it still runs."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(self.argv(argv), stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)
        self._started.append(process)
        return process

    async def start(
        self, argv: Sequence[str], *, env: dict[str, str] | None = None, stderr: int | None = None
    ) -> asyncio.subprocess.Process:
        """Starts a command with stdin and stdout as pipes of the running loop; the caller ends it."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*self.argv(argv), stdin=pipe, stdout=pipe, stderr=stderr, env=env)

    def add_address(self, address: str, *, prefix: int = 24) -> None:
        self.run(["ip", "address", "add", f"{address}/{prefix}", "dev", "eth0"])

    def loss(self, fraction: float) -> None:
        """Drops this share of what comes in, until `heal` of the lan."""
        probability = f"{fraction:.4f}"
        self._iptables("-A", "INPUT", "-i", "eth0", "-m", "statistic", "--mode", "random", "--probability", probability)

    def drop_from(self, other: Host) -> None:
        self._iptables("-A", "INPUT", "-s", other.address)

    def flush(self) -> None:
        self.run(["iptables", "-w", "-F", "INPUT"])

    def link(self, up: bool) -> None:
        """Pulls the cable, or puts it back."""
        self.run(["ip", "link", "set", "eth0", "up" if up else "down"])

    def stop(self) -> None:
        """Kills what `popen` started here and still runs."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=COMMAND_DEADLINE_S)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._started.clear()

    def _iptables(self, *rule: str) -> None:
        self.run(["iptables", "-w", *rule, "-j", "DROP"])


@dataclass
class Lan:
    """Hosts on one bridge. Iterate it or index it for the hosts."""

    hosts: list[Host]

    def __getitem__(self, index: int) -> Host:
        return self.hosts[index]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts)

    def cut(self, a: Host, b: Host, *, one_way: bool = False) -> None:
        """Nothing of `a` reaches `b` any more; unless `one_way`, nor the other way round. Multicast is cut as well."""
        b.drop_from(a)
        if not one_way:
            a.drop_from(b)

    def isolate(self, host: Host) -> None:
        """Cuts a host off from all others."""
        for other in self.hosts:
            if other is not host:
                self.cut(host, other)

    def stop(self) -> None:
        """Kills what `popen` started on the hosts and still runs."""
        for host in self.hosts:
            host.stop()

    def heal(self) -> None:
        """Takes back every `cut`, `isolate` and `loss`."""
        for host in self.hosts:
            host.flush()


@contextmanager
def lan(n: int) -> Iterator[Lan]:
    """`n` hosts with addresses of one /24 that no other network of this process has.

    Skips the test (fails under CI) where there is no root, `ip`, `nsenter` or `iptables`.
    """
    with _hosts(n) as made:
        bridge = made[0].name.removesuffix("h0") + "br"
        _command("ip", "netns", "add", bridge)
        try:
            _command(
                "ip", "-n", bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0"
            )
            _command("ip", "-n", bridge, "link", "set", "br0", "up")
            for host in made:
                _connect(bridge, host)
            yield made
        finally:
            made.stop()
            _remove(bridge)


@contextmanager
def far_apart(n: int, way_s: float) -> Iterator[Lan]:
    """As `lan`, but whatever a host says is on its way for so long, as over the sea.

    Skips the test (fails under CI) without TUN devices as well.
    """
    require(Path("/dev/net/tun").exists(), "/dev/net/tun, for a network that takes its time")
    with _hosts(n) as made:
        argv = [sys.executable, "-m", "tests.support.programs.slow_switch", str(way_s)]
        argv += [f"{host.name}={host.address}" for host in made]
        switch = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert switch.stdout is not None
            assert select.select([switch.stdout], [], [], COMMAND_DEADLINE_S)[0], "the switch does not begin"
            assert switch.stdout.readline() == b"up\n"
            for host in made:
                _bring_up(host)
                _command("ip", "-n", host.name, "route", "add", "224.0.0.0/4", "dev", "eth0")
            yield made
        finally:
            made.stop()
            switch.kill()
            switch.communicate(timeout=COMMAND_DEADLINE_S)


@contextmanager
def _hosts(n: int) -> Iterator[Lan]:
    """`n` hosts that nothing joins yet."""
    require(os.geteuid() == 0, "root, for network namespaces")
    for tool in ("ip", "nsenter", "iptables"):
        require(shutil.which(tool) is not None, f"the program {tool}, for network namespaces")
    _remove_leftovers()
    number = next(_numbers)
    subnet = f"10.{50 + number // 250 % 200}.{1 + number % 250}"
    made = Lan(hosts=[])
    try:
        for index in range(n):
            host = Host(name=f"{PREFIX}-{os.getpid()}-{number}-h{index}", address=f"{subnet}.{index + 1}", index=index)
            _command("ip", "netns", "add", host.name)
            made.hosts.append(host)
        yield made
    finally:
        made.stop()
        for host in made:
            _remove(host.name)


def _remove(namespace: str) -> None:
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, timeout=COMMAND_DEADLINE_S, check=False)


def _connect(bridge: str, host: Host) -> None:
    # Both ends are born inside their namespaces: no name of theirs is ever seen in the machine's own one.
    port = f"port{host.index}"
    _command("ip", "-n", bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    _command("ip", "-n", bridge, "link", "set", port, "master", "br0", "up")
    _bring_up(host)


def _bring_up(host: Host) -> None:
    _command("ip", "-n", host.name, "address", "add", f"{host.address}/24", "broadcast", "+", "dev", "eth0")
    _command("ip", "-n", host.name, "link", "set", "lo", "up")
    _command("ip", "-n", host.name, "link", "set", "eth0", "up")
