"""The peer port's TLS: what it negotiates, and that nobody stands between two nodes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from hivenode.config import split_address
from hivenode.errors import Code, HiveError
from hivenode.identity import make_certificate
from hivenode.pb import hive_pb2
from hivenode.transport.tls import fetch_certificate
from tests.integration.transport.parts import DEADLINE_S, HIVE, Node, nodes


def _trusting(maximum: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = maximum
    context.set_alpn_protocols(["h2"])
    return context


@asynccontextmanager
async def _middleman(node: Node, folder: Path) -> AsyncIterator[str]:
    """Somebody on the wire: ends the TLS of whoever dials with a certificate of its own, and passes all on to the node."""
    own = make_certificate()
    path = folder / "middleman.pem"
    path.write_bytes(own.key_pem + own.pem)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(path)
    serving.set_alpn_protocols(["h2"])
    host, port = split_address(node.server.peer_address)
    passing: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, ssl.SSLError):
                while data := await reader.read(65_536):
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = _trusting(ssl.TLSVersion.TLSv1_3)
        to_reader, to_writer = await asyncio.open_connection(host, port, ssl=inner)
        for one in (copy(reader, to_writer), copy(to_reader, writer)):
            task = asyncio.create_task(one)
            passing.add(task)
            task.add_done_callback(passing.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=serving)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)


async def test_the_peer_port_speaks_nothing_under_tls_1_3() -> None:
    async with nodes(1) as (node,):
        host, port = split_address(node.server.peer_address)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(host, port, ssl=_trusting(ssl.TLSVersion.TLSv1_2))
        _, writer = await asyncio.open_connection(host, port, ssl=_trusting(ssl.TLSVersion.TLSv1_3))
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        writer.transport.abort()


async def test_the_peer_port_answers_no_plain_text() -> None:
    async with nodes(1) as (node,), grpc.aio.insecure_channel(node.server.peer_address) as channel:
        for method in ("/hive.HiveService/GetStatus", "/hive.PeerService/Challenge"):
            invoke: Any = channel.unary_unary(method)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await invoke(b"", timeout=DEADLINE_S)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_node_does_not_take_a_plain_text_port_for_a_peer() -> None:
    async with nodes(2) as (a, b):
        with pytest.raises(HiveError) as caught:
            await a.peers.introduce(b.server.api_address, DEADLINE_S)
        assert caught.value.code in (Code.PEER_REJECTED, Code.NODE_OFFLINE)


async def test_somebody_between_two_nodes_is_found_out(tmp_path: Path) -> None:
    async with nodes(2) as (a, b), _middleman(b, tmp_path) as address:
        with pytest.raises(HiveError) as caught:
            await a.peers.introduce(address, DEADLINE_S)
        assert caught.value.code is Code.PEER_REJECTED


async def test_a_middleman_cannot_use_the_proof_of_the_caller(tmp_path: Path) -> None:
    """A caller that was told of the middleman's certificate by a forged record signs for that one: worth nothing at the node."""
    async with nodes(2) as (a, b):
        challenge = hive_pb2.ChallengeRequest(
            caller_record=a.ports.encoded_record(), caller_nonce=bytes(32), hive_id=HIVE
        )
        async with b.peer_channel as channel:
            ask: Any = channel.unary_unary("/hive.PeerService/Challenge")
            prove: Any = channel.unary_unary("/hive.PeerService/Prove")
            answer = hive_pb2.ChallengeResponse.FromString(await ask(challenge.SerializeToString(), timeout=DEADLINE_S))
            signed = a.signature_for(b, answer.callee_nonce, make_certificate().sha256)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await prove(signed.SerializeToString(), timeout=DEADLINE_S)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_node_with_a_new_certificate_is_met_again_at_its_old_address() -> None:
    async with nodes(2) as (a, b):
        address = b.server.peer_address
        first = await fetch_certificate(address, DEADLINE_S)
        assert (await a.peers.introduce(address, DEADLINE_S)).record.node_id == b.id
        await b.server.stop(0)
        b.show_certificate(make_certificate())
        b.server = b.make_server(address)
        await b.server.start()
        assert await fetch_certificate(address, DEADLINE_S) != first
        assert (await a.peers.introduce(address, DEADLINE_S)).record.node_id == b.id
