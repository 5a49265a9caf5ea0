"""A stranger on the wire gets nowhere at any call of the peer protocol.

The methods come from the descriptors, so that a new one cannot be forgotten: it is closed to strangers, or named here as open.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from hivenode.config import split_address
from hivenode.encoding.records import encode_record
from hivenode.errors import Code
from hivenode.pb import hive_pb2
from hivenode.transport import tickets
from hivenode.transport.statuses import code_in
from tests.integration.transport.parts import DEADLINE_S, HIVE, Node, World, nodes
from tests.support.requests import good_request

SERVICE = hive_pb2.DESCRIPTOR.services_by_name["PeerService"]
OPEN = frozenset({"Challenge", "Prove"})
"""They are how a node proves itself; what they give to whom is tested below and in the transport's own tests."""
ACROSS_HIVES = frozenset({"Invite", "Join"})
"""For any node that proved its key, also of another hive; who is let in is decided behind them."""
CLOSED = sorted(method.name for method in SERVICE.methods if method.name not in OPEN)
INNER = sorted(set(CLOSED) - ACROSS_HIVES)
ALL = sorted(method.name for method in SERVICE.methods)


@asynccontextmanager
async def _pair() -> AsyncIterator[tuple[Node, Node]]:
    async with nodes(2, World()) as (a, b):
        yield a, b


async def _refusal(channel: grpc.aio.Channel, method: str, metadata: dict[str, str]) -> grpc.aio.AioRpcError:
    """What a good request is answered that carries this metadata; the test fails when it is taken."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _ask(channel, method, tuple(metadata.items()))
    return caught.value


async def _ask(channel: grpc.aio.Channel, method: str, carried: tuple[tuple[str, str], ...]) -> None:
    descriptor = SERVICE.methods_by_name[method]
    request = good_request(descriptor.input_type).SerializeToString()
    path = f"/hive.PeerService/{method}"
    if descriptor.client_streaming and descriptor.server_streaming:
        both: Any = channel.stream_stream(path)(metadata=carried, timeout=DEADLINE_S)
        await _read_all(both)
    elif descriptor.client_streaming:
        sending: Any = channel.stream_unary(path)(iter([request]), metadata=carried, timeout=DEADLINE_S)
        await sending
    elif descriptor.server_streaming:
        reading: Any = channel.unary_stream(path)
        await _read_all(reading(request, metadata=carried, timeout=DEADLINE_S))
    else:
        invoke: Any = channel.unary_unary(path)
        await invoke(request, metadata=carried, timeout=DEADLINE_S)


async def _read_all(call: Any) -> None:
    async for _ in call:
        pass


def _code(error: grpc.aio.AioRpcError) -> Code | None:
    return code_in(tuple(error.trailing_metadata() or ()))


async def _ticket(caller: Node, callee: Node) -> str:
    connection = await caller.peers.link_to(callee.address).connect(DEADLINE_S)
    return dict(connection.metadata)["hive-peer-ticket"]


def _heard_nothing(node: Node) -> bool:
    """Whether nothing of all the calls came through to the ports behind the transport."""
    ports = node.ports
    return (
        ports.received.empty()
        and ports.sessions.empty()
        and not (ports.orders or ports.reports or ports.snapshot_readers or ports.files or ports.joined)
    )


def test_the_open_methods_are_methods() -> None:
    assert set(ALL) >= OPEN | ACROSS_HIVES


@pytest.mark.parametrize("method", CLOSED)
async def test_no_ticket(method: str) -> None:
    async with _pair() as (_, b), b.peer_channel as channel:
        assert _code(await _refusal(channel, method, {"hive-id": HIVE})) is Code.PEER_REJECTED
        assert _heard_nothing(b)


@pytest.mark.parametrize("method", CLOSED)
async def test_a_ticket_that_was_made_up(method: str) -> None:
    async with _pair() as (_, b), b.peer_channel as channel:
        carried = {"hive-id": HIVE, "hive-peer-ticket": "x" * 43}
        assert _code(await _refusal(channel, method, carried)) is Code.PEER_REJECTED
        assert _heard_nothing(b)


@pytest.mark.parametrize("method", CLOSED)
async def test_a_ticket_of_another_node(method: str) -> None:
    """What one node gave is worth nothing at the next: a member that is asked cannot go on with what it was shown."""
    async with nodes(3, World()) as (a, b, c), c.peer_channel as channel:
        carried = {"hive-id": HIVE, "hive-peer-ticket": await _ticket(a, b)}
        assert _code(await _refusal(channel, method, carried)) is Code.PEER_REJECTED
        assert _heard_nothing(c)


@pytest.mark.parametrize("method", CLOSED)
async def test_an_expired_ticket(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "TICKET_LIFETIME_MS", 0)
    async with _pair() as (a, b), b.peer_channel as channel:
        carried = {"hive-id": HIVE, "hive-peer-ticket": await _ticket(a, b)}
        assert _code(await _refusal(channel, method, carried)) is Code.PEER_REJECTED
        assert _heard_nothing(b)


@pytest.mark.parametrize("method", CLOSED)
async def test_a_ticket_that_was_revoked(method: str) -> None:
    async with _pair() as (a, b), b.peer_channel as channel:
        carried = {"hive-id": HIVE, "hive-peer-ticket": await _ticket(a, b)}
        b.server.cut_off(a.id)
        assert _code(await _refusal(channel, method, carried)) is Code.PEER_REJECTED
        assert _heard_nothing(b)


@pytest.mark.parametrize("method", INNER)
async def test_another_hive(method: str) -> None:
    async with _pair() as (a, b), b.peer_channel as channel:
        ticket = await _ticket(a, b)
        for hive_id in ("f" * 32, ""):
            carried = {"hive-id": hive_id, "hive-peer-ticket": ticket}
            assert _code(await _refusal(channel, method, carried)) is Code.WRONG_HIVE
        assert _heard_nothing(b)


@pytest.mark.parametrize("method", INNER)
async def test_a_proven_key_that_is_not_in_the_hive(method: str) -> None:
    async with _pair() as (a, b), b.peer_channel as channel:
        carried = {"hive-id": HIVE, "hive-peer-ticket": await _ticket(a, b)}
        b.admitted = False
        assert _code(await _refusal(channel, method, carried)) is Code.NOT_A_MEMBER
        assert _heard_nothing(b)


@pytest.mark.parametrize("method", ALL)
async def test_plain_text(method: str) -> None:
    async with _pair() as (a, b):
        carried = {"hive-id": HIVE, "hive-peer-ticket": await _ticket(a, b)}
        async with grpc.aio.insecure_channel(b.server.peer_address) as channel:
            error = await _refusal(channel, method, carried)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert _heard_nothing(b)


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2])
async def test_downgraded_tls(maximum: ssl.TLSVersion) -> None:
    """No call is asked under TLS 1.2: the handshake itself fails, whatever would follow."""
    async with _pair() as (_, b):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = maximum
        host, port = split_address(b.server.peer_address)
        dialling = asyncio.open_connection(host, port, ssl=context)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await dialling


async def test_a_proof_that_is_said_again() -> None:
    async with _pair() as (a, b), b.peer_channel as channel:
        ask: Any = channel.unary_unary("/hive.PeerService/Challenge")
        prove: Any = channel.unary_unary("/hive.PeerService/Prove")
        request = hive_pb2.ChallengeRequest(
            caller_record=encode_record(a.ports.record()), caller_nonce=bytes(32), hive_id=HIVE
        )
        answer = hive_pb2.ChallengeResponse.FromString(await ask(request.SerializeToString(), timeout=DEADLINE_S))
        proof = a.signature_for(b, answer.callee_nonce, b.certificate.sha256).SerializeToString()
        assert hive_pb2.ProveResponse.FromString(await prove(proof, timeout=DEADLINE_S)).ticket
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await prove(proof, timeout=DEADLINE_S)
        assert _code(caught.value) is Code.PEER_REJECTED


async def test_a_proof_meant_for_another_node() -> None:
    async with nodes(3, World()) as (a, b, c), b.peer_channel as channel:
        ask: Any = channel.unary_unary("/hive.PeerService/Challenge")
        prove: Any = channel.unary_unary("/hive.PeerService/Prove")
        request = hive_pb2.ChallengeRequest(
            caller_record=encode_record(a.ports.record()), caller_nonce=bytes(32), hive_id=HIVE
        )
        answer = hive_pb2.ChallengeResponse.FromString(await ask(request.SerializeToString(), timeout=DEADLINE_S))
        proof = a.signature_for(c, answer.callee_nonce, c.certificate.sha256)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await prove(proof.SerializeToString(), timeout=DEADLINE_S)
        assert _code(caught.value) is Code.PEER_REJECTED


async def test_a_program_that_is_no_node_gets_nothing_to_prove() -> None:
    async with _pair() as (_, b), b.peer_channel as channel:
        ask: Any = channel.unary_unary("/hive.PeerService/Challenge")
        request = hive_pb2.ChallengeRequest(caller_nonce=bytes(32))
        answer = hive_pb2.ChallengeResponse.FromString(await ask(request.SerializeToString(), timeout=DEADLINE_S))
        assert answer.callee_nonce == b""


async def test_a_worker_reads_nobodys_log() -> None:
    async with _pair() as (a, b), b.peer_channel as channel:
        carried = {"hive-id": HIVE, "hive-peer-ticket": await _ticket(a, b)}
        b.voter = False
        assert _code(await _refusal(channel, "ReadLog", carried)) is Code.PERMISSION_DENIED
