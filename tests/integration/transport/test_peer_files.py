"""What daemons fetch and compare from each other: blobs, snapshots, digests and logs."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from hivenode.consensus import MemberId
from hivenode.errors import Code
from hivenode.pb import hive_pb2
from hivenode.pool.records import BlobRef, TaskState
from hivenode.runtime.digests import DigestReport, Verdict
from hivenode.runtime.ports import AttemptKey, TaskEvent
from hivenode.runtime.stores import SnapshotRef
from hivenode.runtime.streams import closing
from hivenode.transport import peer_service, router
from hivenode.transport.interceptors import intake
from hivenode.transport.interceptors.calls import Context
from hivenode.transport.peer_link import SERVICE
from tests.integration.transport.client import Client
from tests.integration.transport.parts import DEADLINE_S, nodes
from tests.integration.transport.peer_calls import KEY, failure_of


async def _pieces(data: bytes, count: int = 3) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield data


def _blob(data: bytes) -> BlobRef:
    return BlobRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


async def test_a_blob_goes_there_and_comes_back_whole() -> None:
    async with nodes(2) as (a, b):
        data = bytes(range(256)) * 9_000
        blob = _blob(data * 3)
        await a.peers.store_blob(b.address, blob, _pieces(data))
        assert b.ports.files[blob.sha256] == data * 3
        fetched = [piece async for piece in a.peers.fetch_blob(b.address, blob)]
        assert b"".join(fetched) == data * 3
        assert max(map(len, fetched)) <= 1 << 20


async def test_a_blob_that_is_not_what_its_name_says_is_refused() -> None:
    async with nodes(2) as (a, b):
        blob = BlobRef(sha256="0" * 64, size_bytes=3)
        error = await failure_of(a.peers.store_blob(b.address, blob, _pieces(b"1")))
        assert error.code is Code.BLOB_CORRUPT
        # Refused in the midst of the sending, the answer still says why.
        error = await failure_of(a.peers.store_blob(b.address, blob, _pieces(bytes(1 << 20), 64)))
        assert error.code is Code.BLOB_TOO_LARGE


async def test_a_snapshot_comes_from_any_offset_and_its_holder_knows_who_asks() -> None:
    async with nodes(2) as (a, b):
        data = bytes(range(256)) * 9_000
        ref = SnapshotRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        b.ports.snapshots[ref.sha256] = data
        for offset in (0, 1_000_000):
            fetched = [piece async for piece in a.peers.fetch_snapshot(b.address, ref, offset)]
            assert b"".join(fetched) == data[offset:]
        assert b.ports.snapshot_readers == [a.identity.node_id] * 2
        error = await failure_of(
            anext(a.peers.fetch_snapshot(b.address, SnapshotRef(sha256="0" * 64, size_bytes=1), 0))
        )
        assert error.code is Code.BLOB_NOT_FOUND
        b.admitted = False
        error = await failure_of(anext(a.peers.fetch_snapshot(b.address, ref, 0)))
        assert error.code is Code.NOT_A_MEMBER


async def test_a_digest_reaches_the_leader_and_its_verdict_comes_back() -> None:
    async with nodes(2) as (a, b):
        member = MemberId(f"{a.identity.node_id}.1")
        report = DigestReport(version=1, member_id=member, index=1_024, digest=bytes(32))
        assert await a.peers.compare_digest(b.address, report, DEADLINE_S) is Verdict.DIFFERS
        assert b.ports.reports == [(a.identity.node_id, report)]
        short = DigestReport(version=1, member_id=member, index=1_024, digest=b"")
        error = await failure_of(a.peers.compare_digest(b.address, short, DEADLINE_S))
        assert error.code is Code.INVALID_ARGUMENT


async def test_a_blob_that_is_not_there_is_not_found() -> None:
    async with nodes(2) as (a, b):
        error = await failure_of(anext(a.peers.fetch_blob(b.address, _blob(b"1"))))
        assert error.code is Code.BLOB_NOT_FOUND


async def test_a_log_is_read_and_an_unknown_attempt_is_not_found() -> None:
    async with nodes(2) as (a, b):
        b.ports.log_pieces = (b"one\n", b"two\n")
        assert [piece async for piece in a.peers.read_log(b.address, KEY, 0, True)] == [b"one\n", b"two\n"]
        unknown = AttemptKey(user="u", task_id="x", attempt=1)
        error = await failure_of(anext(a.peers.read_log(b.address, unknown, 0, False)))
        assert error.code is Code.TASK_NOT_FOUND


async def test_a_stream_whose_reader_leaves_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(*_: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1 << 20)
                begun.set()  # The first piece has gone, and the next waits for its reader.
        finally:
            ended.set()

    async with nodes(2) as (a, b):
        monkeypatch.setattr(b.ports, "read_log", endless)
        gc.disable()  # What closes it some time later is no matter.
        try:
            reading = a.peers.read_log(b.address, KEY, 0, True)
            await anext(reading)
            async with asyncio.timeout(DEADLINE_S), closing(reading):
                await begun.wait()
            async with asyncio.timeout(DEADLINE_S):
                await ended.wait()
        finally:
            gc.enable()


async def _write_that_ends_first(context: Context, message: Any) -> None:
    """Sends as `write` does. The call is cancelled too when its caller leaves, and that would mostly hide how the write ended."""
    writing = asyncio.ensure_future(intake.write(context, message))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await writing


@pytest.mark.parametrize("by", ["peer", "user"])
async def test_a_reader_that_leaves_is_no_incident(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serving: list[asyncio.Task[Any]] = []
    piece = bytes(1 << 20)  # As much as may be on its way: the write of the next one waits for its reader.

    async def endless(*_: Any) -> AsyncIterator[Any]:
        task = asyncio.current_task()
        assert task is not None
        while True:
            yield (
                piece
                if by == "peer"
                else TaskEvent(state=TaskState.RUNNING, attempt=1, note="", log=piece, final=False)
            )
            if not serving:
                serving.append(task)

    monkeypatch.setattr(peer_service if by == "peer" else router, "write", _write_that_ends_first)
    async with nodes(2) as (a, b):
        monkeypatch.setattr(b.ports, "read_log" if by == "peer" else "watch", endless)
        client = Client(b.server.api_address)
        metadata = [("authorization", f"Bearer {await client.log_in()}")]
        with capture_logs() as logs:
            if by == "peer":
                connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
                request = hive_pb2.ReadLogRequest(user="u", task_id="task-001", attempt=1, follow=True)
                read: Any = connection.unary_stream(SERVICE + "ReadLog")
                stream = read(request.SerializeToString(), metadata=connection.metadata)
            else:
                stream = client.method("WatchTask")(hive_pb2.WatchTaskRequest(task_id="t"), metadata=metadata)
            async with asyncio.timeout(DEADLINE_S):
                while not serving:
                    await stream.read()
                stream.cancel()
                await asyncio.wait(serving)
        assert [line for line in logs if line["event"] == "call_failed"] == []
        await client.channel.close()


async def test_a_download_fails_when_its_source_dies() -> None:
    async with nodes(2) as (a, b):
        gate = asyncio.Event()

        async def stuck(key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]:
            yield b"one\n"
            await gate.wait()

        b.ports.read_log = stuck  # type: ignore[method-assign]
        pieces = a.peers.read_log(b.address, KEY, 0, True)
        assert await anext(pieces) == b"one\n"
        await b.server.stop(0)
        error = await failure_of(anext(pieces))
        assert error.code is Code.NODE_OFFLINE


async def test_a_node_without_a_hive_serves_no_inner_call() -> None:
    async with nodes(2) as (a, b):
        a.ports.hive = b.ports.hive = ""
        error = await failure_of(anext(a.peers.fetch_blob(b.address, _blob(b"1"))))
        assert error.code is Code.WRONG_HIVE
