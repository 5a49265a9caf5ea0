"""A peer at the other end of the world, or one that is busy: all that is said to it takes its time, and it is reached."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Iterator

import pytest

from hivenode.cli.peer import connect
from hivenode.cli.settings import Settings
from hivenode.errors import Code, HiveError
from hivenode.runtime.ports import PeerAddress
from hivenode.transport.peer_link import REDIAL_PAUSE_S
from tests.integration.transport.parts import DEADLINE_S, HIVE, nodes
from tests.integration.transport.peer_calls import failure_of
from tests.integration.transport.silent import silent
from tests.support.relay import relay

WAY_S = 0.15
"""Half a round trip between continents, one of them by way of a satellite or a mobile phone."""


async def test_a_peer_that_is_far_away_is_reached() -> None:
    async with nodes(2) as (a, b), relay(b.server.peer_address, "127.0.0.1", delay_s=WAY_S) as address:
        link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(address,)))
        assert (await link.connect(DEADLINE_S)).address == address


async def test_callers_of_whom_none_has_the_time_for_a_dial_reach_the_peer_together() -> None:
    async with nodes(2) as (a, b), relay(b.server.peer_address, "127.0.0.1", delay_s=WAY_S) as address:
        link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(address,)))
        assert (await failure_of(link.connect(WAY_S))).code is Code.NODE_OFFLINE
        reached = None
        async with asyncio.timeout(DEADLINE_S):
            while reached is None:
                with contextlib.suppress(HiveError):
                    reached = await link.connect(WAY_S)
        assert reached.address == address


async def test_callers_that_end_while_others_wait_for_the_same_dial_end_alone() -> None:
    async with nodes(2) as (a, b), relay(b.server.peer_address, "127.0.0.1", delay_s=WAY_S) as address:
        link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(address,)))
        first, second = (asyncio.ensure_future(link.connect(DEADLINE_S)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).address == address


async def test_an_address_that_refused_is_tried_again_while_another_is_silent() -> None:
    """A daemon that begins anew refuses for a moment, and is found before addresses that say nothing have had their time."""
    shown = socket.socket()
    shown.bind(("127.0.0.1", 0))  # It refuses until it listens.
    address = f"127.0.0.1:{shown.getsockname()[1]}"
    async with nodes(2) as (a, b), silent(1) as (there, mute):
        link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(address, *mute)))
        dialling = asyncio.ensure_future(link.connect(DEADLINE_S))
        async with asyncio.timeout(DEADLINE_S):
            await there.one_came.wait()
        async with relay(b.server.peer_address, "127.0.0.1", shown=shown):
            assert (await dialling).address == address
        await there.all_ended()


async def test_who_was_refused_and_has_no_time_to_prove_itself_anew_hears_the_refusal() -> None:
    async with nodes(2) as (a, b), relay(b.server.peer_address, "127.0.0.1", delay_s=WAY_S) as address:
        peer = PeerAddress(node_id=b.id, addresses=(address,))
        (await a.peers.link_to(peer).connect(DEADLINE_S)).renew("x" * 43, HIVE)
        error = await failure_of(a.peers.members(peer, 5 * WAY_S))  # The refusal takes two of them, a proof four more.
        assert error.code is Code.PEER_REJECTED


async def test_a_command_reaches_a_daemon_that_is_far_away() -> None:
    async with nodes(1) as (node,), relay(node.server.peer_address, "127.0.0.1", delay_s=WAY_S) as address:
        peer = await asyncio.to_thread(connect, Settings(peer=f"{node.id}@{address}"))
        peer.close()
        assert peer.address == address


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What hangs on the garbage collector stays."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("refuses", ["Challenge", "Prove"])
async def test_a_dial_that_is_refused_leaves_no_connection_open(refuses: str) -> None:
    taken: list[asyncio.Task[None]] = []
    async with nodes(2) as (a, b), relay(b.server.peer_address, "127.0.0.1", taken) as address:
        if refuses == "Prove":
            b.ports.hive = "another hive"
        other = a.id if refuses == "Challenge" else b.id
        link = a.peers.link_to(PeerAddress(node_id=other, addresses=(address,)))
        for _ in range(3):
            assert (await failure_of(link.connect(DEADLINE_S))).code in (Code.PEER_REJECTED, Code.WRONG_HIVE)
            await asyncio.sleep(2 * REDIAL_PAUSE_S)  # The loop may wake a little early.
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait(taken)
        assert len(taken) >= 4


@pytest.mark.usefixtures("no_collector")
async def test_the_failure_of_a_dial_goes_with_who_waited_for_it() -> None:
    gc.collect()
    async with nodes(2) as (a, b):
        link = a.peers.link_to(PeerAddress(node_id=a.id, addresses=b.address.addresses))
        with contextlib.suppress(HiveError):
            await link.connect(DEADLINE_S)
        await asyncio.sleep(0)  # The dial's own callbacks have it until then.
        kept = [it for it in gc.get_objects() if isinstance(it, HiveError) and it.__traceback__ is not None]
        assert kept == []
