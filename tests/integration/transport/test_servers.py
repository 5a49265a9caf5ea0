"""Binding, refusing to bind, stopping, and which connections are kept."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import pytest

from hivenode.config import split_address
from hivenode.errors import Code, HiveError
from hivenode.pb import hive_pb2
from hivenode.transport.channels import PING_STRIKES_MAX
from hivenode.transport.limits import Limits
from hivenode.transport.servers import ApiServer
from tests.integration.transport.client import Client
from tests.integration.transport.parts import DEADLINE_S, Node, World, nodes
from tests.support.http2 import http2

SHORT_MS = 300


def _server(node: Node, listen: str, peer_listen: str, insecure: bool) -> ApiServer:
    node.server = ApiServer(
        listen=listen, peer_listen=peer_listen, insecure=insecure, ports=node.server_ports(), peers=node.peers
    )
    return node.server


async def test_port_zero_takes_free_ports_and_says_which() -> None:
    node = Node(World())
    await node.start()
    try:
        ports = {split_address(address)[1] for address in (node.server.api_address, node.server.peer_address)}
        assert len(ports) == 2
        assert 0 not in ports
    finally:
        await node.stop()


@pytest.mark.parametrize("taken", ["--listen", "--peer-listen"])
async def test_a_taken_port_is_named_with_what_to_do(taken: str) -> None:
    node = Node(World())
    with socket.socket() as blocker:
        blocker.bind(("127.0.0.1", 0))
        blocker.listen()
        address = f"127.0.0.1:{blocker.getsockname()[1]}"
        listen, peer = (address, "127.0.0.1:0") if taken == "--listen" else ("127.0.0.1:0", address)
        with pytest.raises(HiveError) as caught:
            await _server(node, listen, peer, False).start()
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert address in caught.value.message
    assert f"`{taken} " in caught.value.message
    await node.stop()


async def test_two_daemons_never_share_a_port() -> None:
    first, second = Node(World()), Node(World())
    await first.start()
    try:
        with pytest.raises(HiveError):
            await _server(second, first.server.api_address, "127.0.0.1:0", False).start()
    finally:
        await first.stop()
        await second.stop()


async def test_plain_text_off_loopback_needs_the_word() -> None:
    node = Node(World())
    with pytest.raises(HiveError) as caught:
        await _server(node, "0.0.0.0:0", "127.0.0.1:0", False).start()
    assert "--insecure" in caught.value.message
    await _server(node, "0.0.0.0:0", "127.0.0.1:0", True).start()
    await node.stop()


async def test_a_connection_without_a_call_is_closed_after_a_while() -> None:
    async with nodes(1, limits=Limits(idle_ms=SHORT_MS)) as (node,), http2(node.server.api_address) as connection:
        async with asyncio.timeout(DEADLINE_S):
            await connection.closed()
        assert b"connection idle" in connection.farewell


async def test_a_connection_that_pings_without_end_is_closed_and_one_that_pings_a_little_is_not() -> None:
    async with nodes(1) as (node,), http2(node.server.api_address) as connection, asyncio.timeout(DEADLINE_S):
        for _ in range(PING_STRIKES_MAX):
            assert await connection.ping()
        assert not all([await connection.ping() for _ in range(PING_STRIKES_MAX)])
        assert b"too_many_pings" in connection.farewell


async def test_a_server_takes_so_many_connections_and_the_next_one_when_one_is_closed() -> None:
    async with nodes(1, limits=Limits(connections=2)) as (node,):
        first, second, third = (Client(node.server.api_address) for _ in range(3))
        for client in (first, second):
            await client.call("GetStatus", hive_pb2.GetStatusRequest())
        error = await third.failing("GetStatus", hive_pb2.GetStatusRequest())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        await first.channel.close()
        again: Any = third.method("GetStatus")
        assert await again(hive_pb2.GetStatusRequest(), timeout=DEADLINE_S, wait_for_ready=True)
        for client in (second, third):
            await client.channel.close()
