"""mDNS between real network namespaces, and with a foreign implementation (Avahi)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from zeroconf.asyncio import AsyncZeroconf

from hivenode.discovery import mdns
from hivenode.discovery.finder import Candidate
from hivenode.discovery.mdns import Announcement, MdnsFinder
from tests.support.avahi import avahi, browse
from tests.support.namespaces import Host, Lan, lan

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[3]
DEADLINE_S = 20.0
HIVE_ID = "0123456789abcdef" * 2


def node_id(letter: str) -> str:
    return letter * 26


ANNOUNCEMENT = Announcement(node_id=node_id("z"), hive_id="", version="0.1.0", phase="fresh", port=50052)


class Seeker:
    """A host's `find_peers` program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._found: list[tuple[str, str]] = []

    async def finds(self, *, node: str, address: str | None = None, again: bool = False) -> str:
        """Waits until the node is found (at the address; `again`: from now on); the address."""
        assert self._process.stdout is not None
        for known, at in [] if again else self._found:
            if known == node and address in (None, at):
                return at
        async with asyncio.timeout(DEADLINE_S):
            while line := await self._process.stdout.readline():
                found = json.loads(line)
                self._found.append((found["node_id"], found["address"]))
                if found["node_id"] == node and address in (None, found["address"]):
                    return str(found["address"])
        raise AssertionError("the program ended early")

    async def becomes(self, phase: str, hive_id: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{phase} {hive_id}\n".encode())
        await self._process.stdin.drain()

    async def ends(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            raise


@asynccontextmanager
async def seeker(host: Host, letter: str, port: int = 50052) -> AsyncIterator[Seeker]:
    argv = [sys.executable, "-m", "tests.support.programs.find_peers", node_id(letter), str(port)]
    process = await host.start(argv, env={**os.environ, "PYTHONPATH": str(ROOT)})
    it = Seeker(process)
    try:
        yield it
    finally:
        await it.ends()


async def test_hosts_on_one_lan_find_each_other() -> None:
    with lan(3) as hosts:
        async with seeker(hosts[0], "a") as a, seeker(hosts[1], "b", 50060) as b:
            assert await a.finds(node=node_id("b")) == f"{hosts[1].address}:50060"
            assert await b.finds(node=node_id("a")) == f"{hosts[0].address}:50052"
            async with seeker(hosts[2], "c") as newcomer:
                await a.finds(node=node_id("c"))
                await newcomer.finds(node=node_id("a"))
                await newcomer.finds(node=node_id("b"))


async def test_a_new_phase_is_announced_and_emitted_again() -> None:
    with lan(2) as hosts:
        async with seeker(hosts[0], "a") as a, seeker(hosts[1], "b") as b:
            await a.finds(node=node_id("b"))
            await b.finds(node=node_id("a"))
            await b.becomes("member", HIVE_ID)
            await a.finds(node=node_id("b"), again=True)


async def test_an_address_that_comes_later_is_announced() -> None:
    with lan(2) as hosts:
        async with seeker(hosts[0], "a") as a, seeker(hosts[1], "b"):
            await a.finds(node=node_id("b"))
            later = hosts[1].address.rpartition(".")[0] + ".77"
            hosts[1].add_address(later)
            await a.finds(node=node_id("b"), address=f"{later}:50052")


async def test_a_host_whose_cable_was_out_is_found_when_it_is_back() -> None:
    with lan(2) as hosts:
        hosts[1].run(["ip", "address", "flush", "dev", "eth0"])
        async with seeker(hosts[0], "a") as a, seeker(hosts[1], "b") as b:
            hosts[1].add_address(hosts[1].address)
            await a.finds(node=node_id("b"))
            await b.finds(node=node_id("a"))


async def test_loopback_serves_when_it_is_what_is_configured() -> None:
    with lan(1) as hosts:
        argv = [sys.executable, "-m", "tests.support.programs.find_peers", node_id("a"), "50061", "127.0.0.1"]
        process = await hosts[0].start(argv, env={**os.environ, "PYTHONPATH": str(ROOT)})
        other = [sys.executable, "-m", "tests.support.programs.find_peers", node_id("b"), "50062", "127.0.0.1"]
        second = await hosts[0].start(other, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            assert await Seeker(process).finds(node=node_id("b")) == "127.0.0.1:50062"
        finally:
            await Seeker(process).ends()
            await Seeker(second).ends()


async def test_first_question_asks_for_an_answer_that_every_program_of_the_machine_hears() -> None:
    # Several programs share the port 5353 of a machine (two daemons, or Avahi); what is sent to it alone reaches only one.
    with lan(1) as hosts:
        argv = [sys.executable, "-m", "tests.support.programs.hear_questions"]
        hears = await hosts[0].start(argv, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            assert hears.stdout is not None
            async with asyncio.timeout(DEADLINE_S):
                assert await hears.stdout.readline() == b"ready\n"
                argv = [sys.executable, "-m", "tests.support.programs.find_peers", node_id("a"), "50061", "127.0.0.1"]
                asks = await hosts[0].start(argv, env={**os.environ, "PYTHONPATH": str(ROOT)})
                try:
                    assert await hears.stdout.readline() == b"multicast\n"
                finally:
                    await Seeker(asks).ends()
        finally:
            hears.kill()
            await hears.wait()


async def test_closing_right_after_the_start_leaves_nothing_behind() -> None:
    found: list[Candidate] = []
    finder = MdnsFinder(ANNOUNCEMENT, interfaces=["127.0.0.1"])
    await finder.start(found.append)
    await finder.aclose()
    assert [task.get_name() for task in asyncio.all_tasks()] == [asyncio.current_task().get_name()]  # type: ignore[union-attr]


async def _runs(finder: MdnsFinder) -> AsyncZeroconf:
    """Starts it; what it opened."""
    await finder.start(lambda candidate: None)
    opened = finder._zeroconf
    assert opened is not None
    return opened


async def test_closing_while_an_address_goes_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would answer for this node, with what it was, as long as the process lives."""
    addresses, goodbye, say = ["127.0.0.1"], asyncio.Event(), AsyncZeroconf.async_unregister_all_services

    async def says(instance: AsyncZeroconf) -> None:
        goodbye.set()
        await say(instance)

    monkeypatch.setattr(AsyncZeroconf, "async_unregister_all_services", says)
    monkeypatch.setattr(mdns, "lan_addresses", lambda: tuple(addresses))
    finder = MdnsFinder(ANNOUNCEMENT, watch_interval_s=0.01)
    opened = await _runs(finder)
    addresses.clear()
    async with asyncio.timeout(DEADLINE_S):
        await goodbye.wait()  # It takes a while.
        assert not opened.zeroconf.done
        await finder.aclose()
    assert opened.zeroconf.done


async def test_goodbyes_that_take_too_long_leave_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the one who closes was told to go itself, as a part of the daemon is at its end."""
    monkeypatch.setattr(mdns, "CLOSE_S_MAX", 0.0)
    finder = MdnsFinder(ANNOUNCEMENT, interfaces=["127.0.0.1"])
    opened = await _runs(finder)
    begun = asyncio.Event()
    went_on: list[str] = []

    async def part() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await finder.aclose()
            went_on.append("what else is to be closed")

    running = asyncio.create_task(part())
    await begun.wait()
    running.cancel()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.wait({running})
    assert opened.zeroconf.done
    assert went_on


async def test_avahi_sees_the_service(tmp_path: Path) -> None:
    with lan(2) as hosts:
        async with seeker(hosts[0], "a", 50061), avahi(hosts[1], tmp_path) as env:
            resolved = next(line for line in (await browse(hosts[1], env)).splitlines() if line.startswith("="))
            fields = resolved.split(";")
            assert fields[3:6] == [node_id("a"), "_hivenode._tcp", "local"]
            assert fields[7:9] == [hosts[0].address, "50061"]
            assert '"phase=fresh"' in fields[9]
            assert f'"id={node_id("a")}"' in fields[9]


def test_a_cut_goes_one_way_or_both_and_heals() -> None:
    with lan(2) as hosts:
        a, b = hosts
        assert _reaches(hosts, a, b)
        hosts.cut(a, b)
        assert not _reaches(hosts, a, b)
        hosts.heal()
        assert _reaches(hosts, a, b)
        hosts.isolate(b)
        assert not _reaches(hosts, b, a)


def _reaches(hosts: Lan, source: Host, target: Host) -> bool:
    """Whether a TCP dial is answered; refused is an answer."""
    program = (
        "import socket,sys\ns=socket.socket()\ns.settimeout(1)\n"
        "try: s.connect((sys.argv[1],9))\nexcept ConnectionRefusedError: print('yes')\nexcept OSError: print('no')"
    )
    return source.run([sys.executable, "-c", program, target.address]).stdout.strip() == "yes"
