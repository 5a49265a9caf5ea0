"""Consensus messages between daemons: their order, the connection that carries them, and who is heard."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from hivenode.consensus import Heartbeat, MemberId
from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code
from hivenode.pb import hive_pb2
from hivenode.runtime.ports import Introduction, PeerAddress
from tests.integration.transport.parts import DEADLINE_S, nodes
from tests.integration.transport.peer_calls import code_of, failure_of, soon


def _heartbeat(commit: int, context: bytes = b"") -> Heartbeat:
    return Heartbeat(to=MemberId("b.1"), from_=MemberId("a.1"), term=1, commit=commit, context=context)


async def test_messages_arrive_in_order_with_the_proven_caller() -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(b.address)
        sent = [_heartbeat(number) for number in range(500)]
        for message in sent:
            a.peers.send(b.id, message)
        assert [await soon(b.ports.received) for _ in sent] == [(a.id, message) for message in sent]
        assert await soon(b.ports.connected) == a.id


async def test_a_message_to_an_unknown_address_is_dropped_until_one_is_learned() -> None:
    async with nodes(2) as (a, b):
        a.peers.send(b.id, _heartbeat(1))
        a.peers.learn(b.address)
        async with asyncio.timeout(DEADLINE_S):
            while b.ports.received.empty():
                a.peers.send(b.id, _heartbeat(2))
                await asyncio.sleep(0.01)


async def test_both_sides_learn_of_connection_and_of_an_orderly_stop() -> None:
    async with nodes(2) as (a, b):
        connected: asyncio.Queue[NodeId] = asyncio.Queue()
        lost: asyncio.Queue[tuple[NodeId, bool]] = asyncio.Queue()
        a.peers.on_peer_connected = connected.put_nowait
        a.peers.on_peer_lost = lambda node, reset: lost.put_nowait((node, reset))
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        assert await soon(connected) == b.id
        await soon(b.ports.received)
        await b.server.stop(DEADLINE_S)
        assert await soon(lost) == (b.id, False)
        assert await soon(b.ports.lost) == (a.id, False)


async def test_a_peer_that_says_goodbye_is_not_lost_by_reset() -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        await soon(b.ports.received)
        await a.peers.aclose()
        assert await soon(b.ports.lost) == (a.id, False)


async def test_who_ends_its_stream_itself_is_told_that_it_is_over() -> None:
    """Else the node that it led to would count as connected for good."""
    async with nodes(2) as (a, b):
        lost: asyncio.Queue[tuple[NodeId, bool]] = asyncio.Queue()
        a.peers.on_peer_lost = lambda node, reset: lost.put_nowait((node, reset))
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        await soon(b.ports.received)
        a.peers.cut_off(b.id)
        assert await soon(lost) == (b.id, False)
        await soon(b.ports.lost)
        assert lost.empty()


async def test_a_stream_that_is_broken_off_twice_is_told_to_be_over_once() -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        await soon(b.ports.received)
        b.server.cut_off(a.id)
        await asyncio.sleep(0)  # It tidies up now.
        b.server.cut_off(a.id)
        assert (await soon(b.ports.lost))[0] == a.id
        assert b.ports.lost.empty()


async def test_a_connection_that_is_cut_is_lost_by_reset() -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        await soon(b.ports.received)
        connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
        await connection.channel.close()
        assert await soon(b.ports.lost) == (a.id, True)


async def test_a_peer_that_comes_back_at_another_address_is_found_at_once() -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        await soon(b.ports.received)
        await b.server.stop(0)
        b.server = b.make_server("127.0.0.1:0")
        await b.server.start()
        a.peers.learn(b.address)
        async with asyncio.timeout(DEADLINE_S):
            while b.ports.received.empty():
                a.peers.send(b.id, _heartbeat(2))
                await asyncio.sleep(0.01)


async def test_a_connection_that_breaks_while_it_is_proven_anew_is_dialled_afresh() -> None:
    async with nodes(2) as (a, b):
        link = a.peers.link_to(b.address)
        connection = await link.connect(DEADLINE_S)
        asked, introduction = asyncio.Event(), b.ports.introduction

        def broken_now() -> Introduction:
            b.ports.introduction = introduction  # type: ignore[method-assign]
            link.drop(connection)  # As another call on it does, which finds it broken.
            asked.set()
            return introduction()

        b.ports.introduction = broken_now  # type: ignore[method-assign]
        connection.refused = True
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        async with asyncio.timeout(DEADLINE_S):
            await asked.wait()
            while b.ports.received.empty():
                a.peers.send(b.id, _heartbeat(2))
                await asyncio.sleep(0.01)


async def test_malformed_messages_end_the_stream() -> None:
    async with nodes(2) as (a, b):
        connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
        stream = connection.stream_stream("/hive.PeerService/Messages")(metadata=connection.metadata)
        await stream.write(hive_pb2.RaftFrame(messages=[b"\x80"]).SerializeToString())
        assert await stream.read() == b""  # the acknowledgement of the stream
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert code_of(caught.value) == Code.INVALID_ARGUMENT


async def test_a_probe_tells_a_refused_dial_from_a_taken_one() -> None:
    async with nodes(2) as (a, b):
        error = await failure_of(a.peers.probe(b.id, 1))
        assert error.code is Code.NODE_OFFLINE
        a.peers.learn(b.address)
        assert await a.peers.probe(b.id, DEADLINE_S) is True
        await b.server.stop(0)
        assert await a.peers.probe(b.id, DEADLINE_S) is False


@pytest.mark.parametrize("nonsense", ["nonsense", "a..b:1"])
async def test_a_probe_of_a_peer_that_names_nonsense_as_its_address_asks_the_others(nonsense: str) -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(PeerAddress(node_id=b.id, addresses=(nonsense,)))
        assert (await failure_of(a.peers.probe(b.id, DEADLINE_S))).code is Code.NODE_OFFLINE
        a.peers.learn(PeerAddress(node_id=b.id, addresses=(nonsense, b.server.peer_address)))
        assert await a.peers.probe(b.id, DEADLINE_S) is True


async def test_messages_of_a_node_without_voter_right_are_refused_before_they_are_read() -> None:
    async with nodes(2) as (a, b):
        b.ports.unheard.add(a.id)
        connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
        stream = connection.stream_stream("/hive.PeerService/Messages")(metadata=connection.metadata)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert code_of(caught.value) == Code.PERMISSION_DENIED
        assert b.ports.connected.empty()


async def test_a_peer_that_is_not_heard_yet_keeps_its_connection() -> None:
    async with nodes(2) as (a, b):
        b.ports.unheard.add(a.id)
        connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S):
            while b.ports.refused_messages < 3:
                a.peers.send(b.id, _heartbeat(1))
                await asyncio.sleep(0.01)
            b.ports.unheard.clear()
            while b.ports.received.empty():
                a.peers.send(b.id, _heartbeat(2))
                await asyncio.sleep(0.01)
        assert await a.peers.link_to(b.address).connect(DEADLINE_S) is connection


async def test_a_peer_that_loses_its_voter_right_is_not_heard_any_more() -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        await soon(b.ports.received)
        b.ports.unheard.add(a.id)
        a.peers.send(b.id, _heartbeat(2))
        assert (await soon(b.ports.lost))[0] == a.id
        assert b.ports.received.empty()
        b.ports.unheard.clear()
        async with asyncio.timeout(DEADLINE_S):
            while b.ports.received.empty():
                a.peers.send(b.id, _heartbeat(3))
                await asyncio.sleep(0.01)
