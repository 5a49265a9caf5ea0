"""Binding, refusing to bind, and stopping."""

from __future__ import annotations

import socket

import pytest

from hivenode.config import split_address
from hivenode.errors import Code, HiveError
from hivenode.transport.servers import ApiServer
from tests.integration.transport.parts import Node, World


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
