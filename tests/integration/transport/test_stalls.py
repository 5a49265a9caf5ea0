"""A proven node that neither takes nor brings anything is cut off after a while, and has only so many calls at once."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest

from hivenode.consensus import AppendRequest, Entry, MemberId
from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.transport import message_stream, node_calls, peer_service
from hivenode.transport.interceptors import intake
from hivenode.transport.interceptors.calls import refuse
from hivenode.transport.peer_link import SERVICE, Connection
from hivenode.transport.statuses import code_in
from tests.integration.transport.client import Client
from tests.integration.transport.parts import DEADLINE_S, Node, World, nodes, stored

STALL_S = 0.3
"""Instead of a minute."""


async def _connection(caller: Node, callee: Node) -> Connection:
    return await caller.peers.link_to(callee.address).connect(DEADLINE_S)


async def _ends_with(call: Any, code: Code) -> None:
    async with asyncio.timeout(DEADLINE_S):
        assert await call.code() is not grpc.StatusCode.OK
    assert code_in(tuple(await call.trailing_metadata() or ())) is code


async def _read_all(call: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await call.read() is not grpc.aio.EOF:
            pass


async def _lets_go(callee: Node) -> None:
    """Nothing of the calls is left."""
    under_way = [task for tasks in callee.server._node_calls._under_way.values() for task in tasks]
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*under_way, return_exceptions=True)


def _refusals(monkeypatch: pytest.MonkeyPatch, where: str) -> asyncio.Event:
    """Set when a call is refused there."""
    refused = asyncio.Event()

    async def noted(context: Any, error: HiveError) -> NoReturn:
        refused.set()
        await refuse(context, error)

    monkeypatch.setattr(where, noted)
    return refused


async def test_who_takes_no_piece_of_a_blob_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "WRITE_STALL_S", STALL_S)
    refused = _refusals(monkeypatch, "hivenode.transport.peer_service.refuse")
    async with nodes(2) as (a, b):
        data = bytes(64 << 20)
        name = hashlib.sha256(data).hexdigest()
        b.ports.files[name] = data
        connection = await _connection(a, b)
        request = hive_pb2.FetchBlobRequest(sha256=name, size_bytes=len(data)).SerializeToString()
        fetch: Any = connection.channel.unary_stream(SERVICE + "FetchBlob")
        call = fetch(request, metadata=connection.metadata)
        async with asyncio.timeout(DEADLINE_S):
            await refused.wait()
        # What was under way comes first, and then the end.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_all(call)
        assert code_in(tuple(caught.value.trailing_metadata() or ())) is Code.OVERLOADED
        await _lets_go(b)


async def test_who_brings_no_piece_of_a_blob_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_service, "STALL_S", STALL_S)
    async with nodes(2) as (a, b):
        connection = await _connection(a, b)
        for pieces in (0, 1):
            call: Any = connection.channel.stream_unary(SERVICE + "StoreBlob")(metadata=connection.metadata)
            piece = hive_pb2.StoreBlobPiece(sha256="0" * 64, size_bytes=1 << 20, data=b"x")
            for _ in range(pieces):
                await call.write(piece.SerializeToString())
            await _ends_with(call, Code.OVERLOADED)
        await _lets_go(b)
        assert not b.ports.files


async def test_who_brings_a_blob_drop_by_drop_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_service, "STALL_S", STALL_S)
    refused = _refusals(monkeypatch, "hivenode.transport.peer_service.refuse")
    async with nodes(2) as (a, b):
        connection = await _connection(a, b)
        call: Any = connection.channel.stream_unary(SERVICE + "StoreBlob")(metadata=connection.metadata)
        piece = hive_pb2.StoreBlobPiece(sha256="0" * 64, size_bytes=1 << 20, data=b"x").SerializeToString()

        async def trickle() -> None:
            while not refused.is_set():
                await call.write(piece)
                await asyncio.sleep(STALL_S / 4)  # The pace of whoever means harm.

        trickling = asyncio.ensure_future(trickle())
        async with asyncio.timeout(DEADLINE_S):
            await refused.wait()
        await asyncio.gather(trickling, return_exceptions=True)
        await _lets_go(b)
        assert not b.ports.files


async def test_a_node_has_only_so_many_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_calls, "VOTER_CALLS_MAX", 3)
    async with nodes(3) as (a, b, c):
        connection = await _connection(a, b)
        streams: list[Any] = []
        for _ in range(3):
            stream: Any = connection.channel.stream_stream(SERVICE + "Messages")(metadata=connection.metadata)
            assert await stream.read() is not grpc.aio.EOF
            streams.append(stream)
        one_more: Any = connection.channel.stream_stream(SERVICE + "Messages")(metadata=connection.metadata)
        await _ends_with(one_more, Code.OVERLOADED)
        other = await _connection(c, b)
        welcome: Any = other.channel.stream_stream(SERVICE + "Messages")(metadata=other.metadata)
        assert await welcome.read() is not grpc.aio.EOF
        for stream in (*streams, welcome):
            stream.cancel()


async def test_a_peer_that_takes_no_message_is_given_up_and_dialled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_stream, "WRITE_STALL_S", STALL_S)
    async with nodes(2) as (a, b):
        lost: asyncio.Queue[NodeId] = asyncio.Queue()
        a.peers.on_peer_lost = lambda node, reset: lost.put_nowait(node)
        stands_still, hear = asyncio.Event(), b.server._peer_server._hear_messages

        async def hang(frames: Any, caller: NodeId) -> bool:
            await stands_still.wait()
            return await hear(frames, caller)

        b.server._peer_server._hear_messages = hang  # type: ignore[method-assign]
        entry = Entry(term=1, index=1, data=bytes(1 << 20))
        ids = {"to": MemberId(f"{b.id}.1"), "from_": MemberId(f"{a.id}.1"), "term": 1}
        message = AppendRequest(**ids, prev_index=0, prev_term=0, entries=(entry,), commit=0)  # type: ignore[arg-type]
        a.peers.learn(b.address)
        for _ in range(64):
            a.peers.send(b.id, message)
        async with asyncio.timeout(DEADLINE_S):
            assert await lost.get() == b.id
        stands_still.set()
        b.server._peer_server._hear_messages = hear  # type: ignore[method-assign]
        async with asyncio.timeout(DEADLINE_S):
            while b.ports.received.empty():
                a.peers.send(b.id, message)
                await asyncio.sleep(0.01)


async def test_a_node_that_is_cut_off_loses_the_calls_that_it_brought_for_others() -> None:
    world = World()
    async with nodes(2, world) as (leader, worker):
        user = Client(leader.server.api_address)
        token = await user.log_in()
        connection = await _connection(worker, leader)
        request = nodepool_pb2.TransferRequest(receiver_username="testuser", amount=1).SerializeToString()
        transfer: Any = connection.channel.unary_unary("/nodepool.UserService/Transfer")
        async with world.holding():
            call = transfer(request, metadata=(*connection.metadata, ("authorization", f"Bearer {token}")))
        async with asyncio.timeout(DEADLINE_S):
            leader.server.cut_off(worker.id)
            assert await call.code() is not grpc.StatusCode.OK
        await user.channel.close()


async def test_who_takes_nothing_of_a_result_is_cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(intake, "WRITE_STALL_S", STALL_S)
    refused = _refusals(monkeypatch, "hivenode.transport.router.refuse")
    world = World()
    async with nodes(1, world) as (only,):
        user = Client(only.server.api_address)
        token = await user.log_in()
        world.result = stored(tmp_path / "result", 64 << 20)
        call: Any = user.method("DownloadResult")(
            hive_pb2.DownloadResultRequest(task_id="t1"), metadata=[("authorization", f"Bearer {token}")]
        )
        assert await call.read() is not grpc.aio.EOF
        async with asyncio.timeout(DEADLINE_S):
            await refused.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_all(call)
        assert code_in(tuple(caught.value.trailing_metadata() or ())) is Code.OVERLOADED
        await user.channel.close()
