"""The bootstrap list with the machine's own resolver, which knows `localhost` everywhere."""

from __future__ import annotations

import asyncio

import pytest

from hivenode.discovery.bootstrap import BootstrapFinder, parse_host_port
from hivenode.discovery.finder import Candidate
from hivenode.errors import Code, HiveError

DEADLINE_S = 10.0


async def test_names_and_addresses_are_emitted_with_their_port() -> None:
    found: asyncio.Queue[Candidate] = asyncio.Queue()
    finder = BootstrapFinder(["localhost:7001", "127.0.0.9", "[::1]:7003", "no-such-name.invalid:1"], 50052)
    await finder.start(found.put_nowait)
    wanted = {"127.0.0.1:7001", "127.0.0.9:50052", "[::1]:7003"}
    async with asyncio.timeout(DEADLINE_S):
        while wanted:
            wanted.discard((await found.get()).address)
    await finder.aclose()


async def test_a_finder_that_has_found_enough_begins_anew_when_asked() -> None:
    found: asyncio.Queue[Candidate] = asyncio.Queue()
    finder = BootstrapFinder(["127.0.0.9:1"], 50052)
    await finder.start(found.put_nowait)
    async with asyncio.timeout(DEADLINE_S):
        await found.get()
        finder.enough(True)
        finder.enough(False)
        finder.enough(True)
        assert found.empty()
        finder.enough(False)
        await found.get()
    await finder.aclose()


@pytest.mark.parametrize(
    "text", ["", ":1", "host:0", "host:70000", "host:x", "a:b:c", "[::1", "[::1]x", "fe80::1", "x" * 254, "h\0st:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(HiveError) as caught:
        parse_host_port(text, 50052)
    assert caught.value.code is Code.INVALID_ARGUMENT
