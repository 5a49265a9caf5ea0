"""A peer with addresses that answer nothing at all, as those of a network that is gone: it is reached at the one that does."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from hivenode.errors import Code, HiveError
from hivenode.identity import make_certificate
from hivenode.runtime.ports import PeerAddress
from hivenode.transport.peer_link import ADDRESSES_MAX, DIAL_TIMEOUT_S
from tests.integration.transport.nonsense import NO_MESSAGE, always, answering
from tests.integration.transport.parts import DEADLINE_S, nodes
from tests.integration.transport.peer_calls import failure_of
from tests.integration.transport.silent import silent
from tests.support.relay import relay


async def test_a_peer_is_reached_behind_more_silent_addresses_than_there_is_time_to_wait_for() -> None:
    count = 9
    async with nodes(2) as (a, b), silent(count) as (there, mute):
        link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(*mute, b.server.peer_address)))
        connection = await link.connect(count * DIAL_TIMEOUT_S * 0.7)
        assert connection.address == link.addresses[0] == b.server.peer_address
        assert sorted(link.addresses[1:]) == sorted(mute)
        await there.all_ended()


async def test_callers_that_cannot_wait_for_all_addresses_reach_the_last_of_them_together() -> None:
    async with nodes(2) as (a, b), silent(ADDRESSES_MAX - 1) as (there, mute):
        peer = PeerAddress(node_id=b.id, addresses=(*mute, b.server.peer_address))
        link = a.peers.link_to(peer)
        reached = None
        for _ in range(ADDRESSES_MAX):
            a.peers.learn(peer)  # As with every record of the peer's.
            with contextlib.suppress(HiveError):
                reached = await link.connect(DIAL_TIMEOUT_S)
                break
        assert reached is not None
        assert reached.address == b.server.peer_address
        await there.all_ended()


async def test_a_peer_that_fell_silent_where_it_was_is_reached_elsewhere_and_nothing_stays_open() -> None:
    shown = socket.socket()
    shown.bind(("127.0.0.1", 0))
    async with nodes(2) as (a, b):
        async with relay(b.server.peer_address, "127.0.0.1", shown=shown.dup()) as address:
            link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(address, b.server.peer_address)))
            connection = await link.connect(DEADLINE_S)
            assert connection.address == address
        link.drop(connection)
        async with silent(0, shown) as (there, _):
            assert (await link.connect(DEADLINE_S)).address == b.server.peer_address
            await there.all_ended()


async def test_a_peer_that_is_given_up_behind_a_silent_address_is_not_reached_behind_it() -> None:
    async with nodes(2) as (a, b), silent(1) as (there, mute):
        link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(*mute, b.server.peer_address)))
        callers = [
            asyncio.ensure_future(failure_of(link.connect(DEADLINE_S))) for _ in range(2)
        ]  # One waits for the other.
        async with asyncio.timeout(DEADLINE_S):
            await there.one_came.wait()
        a.peers.cut_off(b.id)
        assert [(await caller).code for caller in callers] == [Code.NODE_OFFLINE] * 2
        await there.all_ended()


async def test_a_peer_is_reached_beside_an_address_at_which_somebody_answers_nonsense() -> None:
    async with nodes(2) as (a, b), answering(make_certificate(), {"Challenge": always(NO_MESSAGE)}) as address:
        assert (await failure_of(a.peers.introduce(address, DEADLINE_S))).code is Code.PEER_REJECTED
        link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(address, b.server.peer_address)))
        assert (await link.connect(DEADLINE_S)).address == b.server.peer_address
