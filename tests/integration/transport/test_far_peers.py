"""A peer at the other end of the world, or one that is busy: all that is said to it takes its time, and it is reached."""

from __future__ import annotations

import asyncio

import pytest

from hivenode.cli.peer import connect
from hivenode.cli.settings import Settings
from hivenode.config import split_address
from hivenode.errors import Code
from hivenode.runtime.ports import PeerAddress
from tests.integration.transport.parts import DEADLINE_S, nodes
from tests.integration.transport.peer_calls import failure_of
from tests.integration.transport.silent import silent
from tests.support.relay import relay

WAY_S = 0.15
"""Half a round trip between continents, one of them by way of a satellite or a mobile phone."""


async def test_a_peer_that_is_far_away_is_reached() -> None:
    taken: list[asyncio.Task[None]] = []
    async with nodes(2) as (a, b), relay(b.server.peer_address, "127.0.0.1", taken, delay_s=WAY_S) as address:
        link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(address,)))
        assert (await link.connect(DEADLINE_S)).address == address
        assert len(taken) == 2, "one connection for its certificate, and the one that stands"


async def test_a_dial_goes_on_without_the_caller_that_began_it() -> None:
    """Each caller has less time than a dial takes; they reach the peer together."""
    taken: list[asyncio.Task[None]] = []
    async with nodes(2) as (a, b), relay(b.server.peer_address, "127.0.0.1", taken, delay_s=WAY_S) as address:
        link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(address,)))
        assert (await failure_of(link.connect(WAY_S))).code is Code.NODE_OFFLINE
        assert (await link.connect(DEADLINE_S)).address == address
        assert len(taken) == 2


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
    async with nodes(2) as (a, b), silent(1) as (there, mute):
        async with relay(b.server.peer_address, "127.0.0.1") as address:
            pass
        link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(address, *mute)))
        dialling = asyncio.ensure_future(link.connect(DEADLINE_S))
        async with asyncio.timeout(DEADLINE_S):
            await there.one_came.wait()
        async with relay(b.server.peer_address, "127.0.0.1", shown_port=split_address(address)[1]):
            assert (await dialling).address == address
            assert len(there.taken) == 1
        await there.all_ended()


async def test_a_command_reaches_a_daemon_that_is_far_away() -> None:
    async with nodes(1) as (node,), relay(node.server.peer_address, "127.0.0.1", delay_s=WAY_S) as address:
        peer = await asyncio.to_thread(connect, Settings(peer=f"{node.id}@{address}"))
        peer.close()
        assert peer.address == address
