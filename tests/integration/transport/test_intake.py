"""What a client may take of a daemon before it has shown who it is, and after: memory, calls, time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.pool.records import BlobRef
from hivenode.runtime.ports import WorkerHeartbeat, WorkerHello
from hivenode.transport.channels import API_STREAMS_MAX
from hivenode.transport.interceptors.intake import (
    BULKY_AT_ONCE_MAX,
    BULKY_OF_ONE_MAX,
    CONNECTION_CALLS_MAX,
    PIECE_BYTES_MAX,
    SMALL_BYTES_MAX,
)
from hivenode.transport.limits import SMALL_PATIENCE_S, Limits
from hivenode.transport.metadata import PEER_TICKET
from hivenode.transport.receptions import CLIENT_PLACES_MAX, PLACES_MAX
from hivenode.transport.routing import ROUTES, Shape
from hivenode.transport.tickets import TICKET_LIFETIME_MS
from tests.integration.transport.client import Client, code_of
from tests.integration.transport.parts import Node, World, capabilities, nodes, stored
from tests.security.half_sent import half_sent

ANSWER_S = 30.0
HELD_S = 4 * ANSWER_S
"""Longer than a test waits for all else: a call that it holds must not end by itself, and make room, on a busy machine."""
SHORT_S = 0.2
STRANGERS = 80
LARGE = sorted(name for name, route in ROUTES.items() if route.large)


@pytest.mark.parametrize("method", LARGE)
async def test_who_shows_no_session_is_refused_before_a_large_request_is_read(client: Client, method: str) -> None:
    # Nothing is ever sent: only a server that looks before it reads can answer.
    call: Any = client.channel.stream_unary(method)(timeout=ANSWER_S)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert code_of(caught.value)[:2] == (grpc.StatusCode.UNAUTHENTICATED, 1004)


async def test_a_request_that_can_only_be_small_must_be(client: Client) -> None:
    request = nodepool_pb2.LoginRequest(username="testuser", password="x" * SMALL_BYTES_MAX)
    error = await client.failing("Login", request)
    assert code_of(error)[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert str(SMALL_BYTES_MAX) in (error.details() or "")


async def test_a_large_archive_of_a_user_is_taken(client: Client) -> None:
    token = await client.log_in()
    request = nodepool_pb2.UploadTaskRequest(task_id="large", task_data=b"x" * (20 << 20))
    answer, _ = await client.call("UploadTask", request, token)
    assert answer.success


async def test_a_piece_of_an_upload_has_a_bound(client: Client) -> None:
    token = await client.log_in()
    (method,) = [name for name, route in ROUTES.items() if route.shape is Shape.UPLOAD]
    call: Any = client.channel.stream_unary(method)(metadata=[("authorization", f"Bearer {token}")], timeout=ANSWER_S)
    await call.write(b"\0" * (PIECE_BYTES_MAX + 1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_health_and_reflection_take_small_requests_alone(client: Client) -> None:
    for make, method in (
        (client.channel.unary_unary, "/grpc.health.v1.Health/Check"),
        (client.channel.unary_unary, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await make(method)(b"\x0a" + b"\xff" * SMALL_BYTES_MAX, timeout=ANSWER_S)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method


def _held(client: Client, token: str, count: int) -> list[asyncio.Task[Any]]:
    """So many transfers at once, which do not end while the world's gate is shut."""
    held = nodepool_pb2.TransferRequest(receiver_username="testuser", amount=1)
    return [
        asyncio.create_task(client.call("Transfer", held, token, timeout_s=HELD_S, hive_idempotency_key=f"k{number}"))
        for number in range(count)
    ]


async def _entered(world: World, calls: list[asyncio.Task[Any]], count: int, users: int = 1) -> None:
    """Waits until so many of the calls are under way, after registrations and logins. Raises what one of them ended with."""
    async with asyncio.timeout(ANSWER_S):
        while len(world.callers) < count + 2 * users:
            world.entered.clear()
            entered = asyncio.ensure_future(world.entered.wait())
            ended, _ = await asyncio.wait({entered, *calls}, return_when=asyncio.FIRST_COMPLETED)
            entered.cancel()
            for call in ended - {entered}:
                call.result()


async def test_calls_over_the_bound_of_a_connection_wait_at_the_program_and_another_is_served(
    node: Node, world: World, client: Client
) -> None:
    token = await client.log_in()
    world.gate = asyncio.Event()
    calls = _held(client, token, 3 * API_STREAMS_MAX)
    other = Client(node.server.api_address)
    try:
        await _entered(world, calls, API_STREAMS_MAX)
        answer, _ = await other.call("GetBalance", nodepool_pb2.GetBalanceRequest(), token)
        assert answer.success
        assert len(world.callers) == API_STREAMS_MAX + 2
    finally:
        world.gate.set()
        answers = await asyncio.gather(*calls)
        await other.channel.close()
    assert all(answer.success for answer, _ in answers)


async def test_one_connection_from_another_machine_with_too_many_calls_is_refused_and_another_is_served(
    node: Node, world: World, client: Client
) -> None:
    token = await client.log_in()
    world.gate = asyncio.Event()
    remote = Client(node.server.peer_address, node.peer_channel)
    calls = _held(remote, token, CONNECTION_CALLS_MAX)
    try:
        await _entered(world, calls, CONNECTION_CALLS_MAX)
        error = await remote.failing("GetBalance", nodepool_pb2.GetBalanceRequest(), token)
        assert code_of(error) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 2009, "retry")
        answer, _ = await client.call("GetBalance", nodepool_pb2.GetBalanceRequest(), token)
        assert answer.success
    finally:
        world.gate.set()
        await asyncio.gather(*calls, return_exceptions=True)
    answer, _ = await remote.call("GetBalance", nodepool_pb2.GetBalanceRequest(), token)
    assert answer.success
    await remote.channel.close()


async def test_nobody_may_wait_for_the_health_to_change(client: Client) -> None:
    watch: Any = client.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=ANSWER_S)
    assert await watch.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_strangers_together_leave_room_for_members(world: World, client: Client) -> None:
    token = await client.log_in()
    async with nodes(2, world, Limits(strangers_calls=3)) as (member, callee):
        connection = await member.peers.link_to(callee.address).connect(ANSWER_S)
        world.gate = asyncio.Event()
        strangers = [Client(callee.server.peer_address, callee.peer_channel) for _ in range(3)]
        calls = [call for each in strangers for call in _held(each, token, 1)]
        await _entered(world, calls, 3)
        one_more = Client(callee.server.peer_address, callee.peer_channel)
        error = await one_more.failing("GetBalance", nodepool_pb2.GetBalanceRequest(), token)
        assert code_of(error) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 2009, "retry")
        metadata = (*connection.metadata, ("authorization", f"Bearer {token}"))
        balance: Any = connection.channel.unary_unary("/nodepool.UserService/GetBalance")
        assert await balance(b"", metadata=metadata, timeout=ANSWER_S)
        world.gate.set()
        await asyncio.gather(*calls)
        for each in (*strangers, one_more):
            await each.channel.close()


@pytest.mark.parametrize("ticket", ["", "x" * 43], ids=["no ticket", "a ticket that nobody gave"])
async def test_a_worker_waits_for_no_request_of_a_stranger(world: World, ticket: str) -> None:
    """In one queue with them it would be read after each of them was waited for."""
    await _a_worker_reports_beside_strangers(world, ticket)


async def test_a_worker_whose_ticket_has_expired_proves_itself_again_beside_strangers(world: World) -> None:
    """The old ticket is good for a turn among members, and for nothing else."""
    await _a_worker_reports_beside_strangers(world, "", later_ms=TICKET_LIFETIME_MS)


async def _a_worker_reports_beside_strangers(world: World, ticket: str, *, later_ms: int = 0) -> None:
    async with nodes(2, world) as (worker, callee), AsyncExitStack() as stack:
        callee.voter = False
        link = await worker.peers.open_worker_link(callee.address)
        stack.push_async_callback(link.aclose)
        await link.send(WorkerHello(boot_id="b", capabilities=capabilities(), open=()))
        session = await callee.ports.sessions.get()
        strangers = [
            await stack.enter_async_context(half_sent(callee.server.peer_address, tls=True)) for _ in range(STRANGERS)
        ]
        for stranger in strangers:
            metadata = [(PEER_TICKET, ticket)] if ticket else []
            stranger.stand("/hive.PeerService/Challenge", metadata, part_bytes=10)
        refused = [asyncio.ensure_future(stranger.all_ended()) for stranger in strangers]
        stack.callback(lambda: [each.cancel() for each in refused])
        async with asyncio.timeout(ANSWER_S):
            await asyncio.wait(refused, return_when=asyncio.FIRST_COMPLETED)  # So there is a queue.
            callee.clock_ahead_ms = later_ms
            heartbeat = WorkerHeartbeat(cpu_percent=3, memory_percent=4)
            await link.send(heartbeat)
            assert await session.events.get() == heartbeat
        assert sum(each.done() for each in refused) < STRANGERS // 2


@pytest.mark.parametrize("port", ["the peer port", "the machine's own port"])
async def test_a_user_with_a_session_waits_for_no_request_of_a_stranger(node: Node, client: Client, port: str) -> None:
    """In one queue with them it would be read after each of them was waited for."""
    token, tls = await client.log_in(), port == "the peer port"
    address = node.server.peer_address if tls else node.server.api_address
    async with AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(half_sent(address, tls=tls)) for _ in range(STRANGERS)]
        for number, stranger in enumerate(strangers):
            # Some show what is no session of anybody's.
            metadata = [("authorization", "Bearer made-up")] if number % 2 else []
            stranger.stand("/nodepool.UserService/GetBalance", metadata, part_bytes=10)
        refused = [asyncio.ensure_future(stranger.all_ended()) for stranger in strangers]
        stack.callback(lambda: [each.cancel() for each in refused])
        async with asyncio.timeout(ANSWER_S):
            await asyncio.wait(refused, return_when=asyncio.FIRST_COMPLETED)  # So there is a queue.
        for _ in range(3):
            answer, _ = await client.call("GetBalance", nodepool_pb2.GetBalanceRequest(), token)
            assert answer.success
        assert sum(each.done() for each in refused) < STRANGERS // 2


@pytest.mark.parametrize("busy", ["the peer port", "the machine's own port"])
async def test_strangers_and_the_programs_of_the_machine_take_no_place_of_each_other(world: World, busy: str) -> None:
    async with nodes(1, world, Limits(strangers_calls=3)) as (node,):
        program = Client(node.server.api_address)
        remote = Client(node.server.peer_address, node.peer_channel)
        token = await program.log_in()
        world.gate = asyncio.Event()
        many, one = (remote, program) if busy == "the peer port" else (program, remote)
        calls = _held(many, token, 3)
        try:
            await _entered(world, calls, 3)
            answer, _ = await one.call("GetBalance", nodepool_pb2.GetBalanceRequest(), token)
            assert answer.success
        finally:
            world.gate.set()
            await asyncio.gather(*calls)
            for each in (program, remote):
                await each.channel.close()


@pytest.mark.parametrize(
    ("method", "short"),
    [
        ("/nodepool.UserService/Login", Limits(small_patience_s=SHORT_S)),
        ("/nodepool.MasterNodeService/UploadTask", Limits(large_patience_s=SHORT_S)),
    ],
)
async def test_a_request_that_does_not_come_ends_though_nobody_waits(world: World, method: str, short: Limits) -> None:
    async with nodes(1, world, short) as (node,):
        program = Client(node.server.api_address)
        token = await program.log_in()
        call: Any = program.channel.stream_unary(method)(
            metadata=[("authorization", f"Bearer {token}")], timeout=SMALL_PATIENCE_S / 2
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert code_of(caught.value) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 2009, "retry")
        await program.channel.close()


async def test_slow_uploads_of_users_take_no_place_of_a_workers_results(world: World) -> None:
    async with nodes(2, world) as (worker, callee):
        callee.voter = False
        program = Client(callee.server.api_address)
        tokens = [await program.log_in(f"user{number}") for number in range(PLACES_MAX // CLIENT_PLACES_MAX)]
        uploads: list[Any] = [
            program.method("UploadTaskStream")(metadata=[("authorization", f"Bearer {token}")])
            for token in tokens
            for _ in range(CLIENT_PLACES_MAX)
        ]
        for upload in uploads:
            await upload.write(hive_pb2.UploadTaskPiece(header=hive_pb2.UploadTaskHeader(task_id="t")))
        await _entered(world, [], PLACES_MAX, len(tokens))
        data = b"a result"
        blob = BlobRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))

        async def pieces() -> AsyncIterator[bytes]:
            yield data

        await worker.peers.store_blob(callee.address, blob, pieces())
        assert callee.ports.files[blob.sha256] == data
        assert not any(upload.done() for upload in uploads)
        for upload in uploads:
            upload.cancel()
        await program.channel.close()


async def test_requests_that_never_come_hold_up_nobody(node: Node, client: Client) -> None:
    token = await client.log_in()
    silent = [Client(node.server.api_address) for _ in range(20)]
    calls: list[Any] = [
        each.channel.stream_unary("/nodepool.UserService/Login")(timeout=ANSWER_S) for each in silent for _ in range(5)
    ]
    try:
        await asyncio.gather(*(call.wait_for_connection() for call in calls))
        for _ in range(20):
            answer, _ = await client.call("GetBalance", nodepool_pb2.GetBalanceRequest(), token)
            assert answer.success
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*(each.channel.close() for each in silent))


async def test_one_user_makes_no_more_than_half_of_the_large_answers(
    world: World, client: Client, tmp_path: Path
) -> None:
    mine, anothers = await client.log_in(), await client.log_in("another")
    world.result = stored(tmp_path / "result", 1 << 20)
    world.gate = asyncio.Event()
    calls = [
        asyncio.create_task(
            client.call("GetTaskLogs", nodepool_pb2.GetTaskLogsRequest(task_id="t"), mine, timeout_s=HELD_S)
        )
        for _ in range(2 * BULKY_AT_ONCE_MAX)
    ]
    await _entered(world, calls, BULKY_OF_ONE_MAX, users=2)
    answer, _ = await client.call("GetTaskResult", nodepool_pb2.GetTaskResultRequest(task_id="t"), anothers)
    assert len(answer.result_data) == 1 << 20
    assert len(world.callers) == BULKY_OF_ONE_MAX + 4
    world.gate.set()
    for taken, _ in await asyncio.gather(*calls):
        assert taken.success


async def test_large_answers_that_nobody_takes_have_a_bound(
    node: Node, world: World, client: Client, tmp_path: Path
) -> None:
    """One of 60 MiB is held for a client, as half of all there is has room for; who takes none keeps nobody else from a call."""
    token = await client.log_in()
    world.result = stored(tmp_path / "result", 60 << 20)
    request = nodepool_pb2.GetTaskResultRequest(task_id="t", token=token).SerializeToString()
    silent = [Client(node.server.api_address) for _ in range(6)]
    calls: list[Any] = [
        each.channel.unary_stream("/nodepool.MasterNodeService/GetTaskResult")(request, timeout=ANSWER_S)
        for each in silent
    ]
    ended = {asyncio.ensure_future(call.code()) for call in calls}
    try:
        refused: set[asyncio.Future[Any]] = set()
        async with asyncio.timeout(ANSWER_S):
            while len(refused) < len(calls) - 1:
                done, ended = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
                refused |= done
        assert {it.result() for it in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        answer, _ = await client.call("GetBalance", nodepool_pb2.GetBalanceRequest(), token)
        assert answer.success
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        for each in silent:
            await each.channel.close()
    async with asyncio.timeout(ANSWER_S):
        while True:
            try:
                taken, _ = await client.call(
                    "GetTaskResult", nodepool_pb2.GetTaskResultRequest(task_id="t", token=token)
                )
            except grpc.aio.AioRpcError as error:
                assert code_of(error)[2] == "retry"
                continue  # What was cancelled is let go of in a moment.
            assert len(taken.result_data) == 60 << 20
            break
