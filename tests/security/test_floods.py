"""One daemon under attack: others are served, memory has a bound, and nothing is left behind.

Speed is measured by the bench; here it is only asked whether others' calls succeed at all.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from hivenode.config import split_address
from hivenode.errors import Code
from hivenode.pb import hive_pb2
from hivenode.runtime.ports import WorkerHello
from hivenode.transport.bounds import STREAM_ID_BYTES
from hivenode.transport.codec import encode_worker_event
from hivenode.transport.peer_link import Connection
from hivenode.transport.peer_service import WORKER_STREAMS_MAX
from hivenode.transport.receptions import CLIENT_PLACES_MAX, PLACES_MAX
from hivenode.transport.statuses import code_in
from tests.e2e.user import HIVE, MASTER, USERS, User, zip_of
from tests.integration.transport.parts import capabilities
from tests.security.half_sent import MESSAGE_BYTES, HalfSent, half_sent, message_of
from tests.security.test_rogue import Rogue
from tests.support.daemons import Daemon, hive, wait_for

MEMORY_BYTES_MAX = 1_536 << 20
"""What a daemon may take under any of these attacks: its idle 100 MB, the requests being read and held, and their copies."""
PLACES_MEMORY_BYTES_MAX = 1_856 << 20
"""The same when all places for uploads and for blobs are taken, each by a piece of 100 MiB: 1,600 MiB in pieces alone."""
BODY_BYTES = 100 << 20
SILENT = 500
FLOOD_CALLS = 512
"""Answered before others' calls are looked at; so many are under way all the time."""
HALF_SENT_WORKERS = 16
HALF_SENT_BYTES = 32 << 20
"""Of each stream: 4 streams of each of these workers would take 2 GiB if a daemon waited for their ends."""
LOOK_S = 0.01
ATTACK_CALL_S = 60.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with hive(tmp_path_factory.mktemp("flood"), 1, "--executor", "none") as made:
        yield made[0]


@contextmanager
def memory_watched(daemon: Daemon, most: int = MEMORY_BYTES_MAX) -> Iterator[None]:
    """The daemon's memory stays under its bound, in bytes, while the block runs."""
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    done = threading.Event()
    peaks = [0]

    def watch() -> None:
        while not done.wait(LOOK_S):
            peaks[0] = max(peaks[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert peaks[0] < most, f"{peaks[0] >> 20} MiB"


async def _count(ended: Counter[str], call: Awaitable[Any]) -> None:
    """Notes how a call ends."""
    try:
        await call
        ended["OK"] += 1
    except grpc.aio.AioRpcError as error:
        ended[error.code().name] += 1


def _channel(daemon: Daemon) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        daemon.api, options=(("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    )


async def _bodies(daemon: Daemon, method: str, count: int, token: str = "") -> Counter[str]:
    """So many calls at once with 100 MB in each, from 4 connections; how they ended."""
    body = b"\x12" + b"\x80\x80\x80\x32" + bytes(BODY_BYTES)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    channels = [_channel(daemon) for _ in range(4)]
    ended: Counter[str] = Counter()

    async def one(number: int) -> None:
        call: Any = channels[number % len(channels)].unary_unary(method)
        await _count(ended, call(body, metadata=metadata, timeout=ATTACK_CALL_S))

    await asyncio.gather(*(one(number) for number in range(count)))
    for channel in channels:
        await channel.close()
    return ended


def _spool_is_empty(daemon: Daemon) -> bool | None:
    return not any(Path(daemon.data_dir, "blobs", "tmp").iterdir()) or None


def test_large_bodies_of_strangers_are_not_taken_in(daemon: Daemon) -> None:
    user = User.new(daemon)
    with memory_watched(daemon):
        assert asyncio.run(_bodies(daemon, f"{MASTER}UploadTask", 8)) == {"UNAUTHENTICATED": 8}
        ended = asyncio.run(_bodies(daemon, f"{USERS}Login", 8))
        assert ended.keys() <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
        assert user.balance() > 0


def test_large_uploads_of_one_user_have_a_bound_and_leave_nothing(daemon: Daemon) -> None:
    attacker, user = User.new(daemon), User.new(daemon)
    with memory_watched(daemon):
        ended = asyncio.run(_bodies(daemon, f"{MASTER}UploadTask", 8, attacker.token))
        assert ended["RESOURCE_EXHAUSTED"] >= 1
        assert user.balance() > 0
    wait_for("an empty spool", lambda: _spool_is_empty(daemon))


def test_large_pieces_of_one_users_uploads_have_a_bound(daemon: Daemon) -> None:
    attacker, user = User.new(daemon), User.new(daemon)
    piece = b"\x12" + b"\x80\x80\x80\x32" + bytes(BODY_BYTES)
    ended: Counter[str] = Counter()

    async def upload(channel: grpc.aio.Channel) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield piece

        call: Any = channel.stream_unary(f"{HIVE}UploadTaskStream")
        metadata = (("authorization", f"Bearer {attacker.token}"),)
        await _count(ended, call(pieces(), metadata=metadata, timeout=ATTACK_CALL_S))

    async def attack() -> None:
        async with _channel(daemon) as channel:
            await asyncio.gather(*(upload(channel) for _ in range(24)))

    with memory_watched(daemon):
        asyncio.run(attack())
        assert user.balance() > 0
    assert ended.keys() <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    assert ended.total() == 24


def test_large_requests_of_a_worker_have_a_bound(daemon: Daemon) -> None:
    user = User.new(daemon)
    body = b"\x12" + b"\x80\x80\x80\x32" + bytes(BODY_BYTES)
    ended: Counter[str] = Counter()

    async def one(connection: Connection) -> None:
        call: Any = connection.channel.unary_unary(f"{USERS}Login")
        await _count(ended, call(body, metadata=connection.metadata, timeout=ATTACK_CALL_S))

    async def attack() -> None:
        rogue = Rogue(daemon.status().hive_id)
        await rogue.join(daemon)
        connection = await rogue.connection(daemon)
        await asyncio.gather(*(one(connection) for _ in range(24)))
        await rogue.peers.aclose()

    with memory_watched(daemon):
        asyncio.run(attack())
        assert user.balance() > 0
    assert ended.keys() <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    assert ended.total() == 24


async def _workers_ticket(daemon: Daemon) -> Sequence[tuple[str, str]]:
    """What a new worker of the hive shows with its calls."""
    rogue = Rogue(daemon.status().hive_id)
    await rogue.join(daemon)
    metadata = (await rogue.connection(daemon)).metadata
    await rogue.peers.aclose()
    return metadata


def test_streams_of_workers_that_stand_half_sent_have_a_bound(daemon: Daemon) -> None:
    """A message that never ends is held by whoever waits for it: nobody may wait for one of a worker's for long."""
    user = User.new(daemon)
    hello = WorkerHello(boot_id="b", capabilities=capabilities(), open=())
    frame = hive_pb2.WorkerFrame(event=encode_worker_event(hello), stream=bytes(STREAM_ID_BYTES))
    kinds = {"Messages": b"", "Work": b"", "Report": b"", "a Work that stands": message_of(frame.SerializeToString())}

    async def attack() -> None:
        tickets = [await _workers_ticket(daemon) for _ in range(HALF_SENT_WORKERS)]
        async with AsyncExitStack() as stack:
            clients: dict[str, list[HalfSent]] = {kind: [] for kind in kinds}
            for ticket in tickets:
                for kind, first in kinds.items():
                    client = await stack.enter_async_context(half_sent(daemon.peer_address, tls=True))
                    for _ in range(WORKER_STREAMS_MAX):
                        path = f"/hive.PeerService/{'Work' if first else kind}"
                        client.stand(path, ticket, first=first, part_bytes=HALF_SENT_BYTES)
                    clients[kind].append(client)
            async with asyncio.timeout(ATTACK_CALL_S):
                await asyncio.gather(*(client.settled() for group in clients.values() for client in group))
                assert await asyncio.to_thread(user.balance) > 0
                await asyncio.gather(
                    *(client.all_ended() for kind in ("Messages", "Work", "Report") for client in clients[kind])
                )

    with memory_watched(daemon):
        asyncio.run(attack())
        assert user.balance() > 0


def _half_send(client: HalfSent, path: str, metadata: Sequence[tuple[str, str]], first: Any) -> None:
    """Twice as many streams as one client has places, each with a first message and nearly all of a large one."""
    for _ in range(2 * CLIENT_PLACES_MAX):
        client.stand(path, metadata, first=message_of(first.SerializeToString()), part_bytes=MESSAGE_BYTES - 1)


def test_silent_connections_are_closed_and_hold_up_nobody(daemon: Daemon) -> None:
    host, port = split_address(daemon.api)
    silent = [socket.create_connection((host, port)) for _ in range(SILENT)]
    try:
        with memory_watched(daemon):
            user = User.new(daemon)
            assert user.balance() > 0
            for each in silent:
                # The server says its settings, waits for the client's, and then closes.
                each.settimeout(30.0)
                while each.recv(4_096):
                    pass
    finally:
        for each in silent:
            each.close()


def test_uploads_cut_half_way_leave_nothing(daemon: Daemon) -> None:
    user = User.new(daemon)

    async def cut(number: int) -> None:
        header = hive_pb2.UploadTaskPiece(header=hive_pb2.UploadTaskHeader(task_id=f"cut{number}"))
        taken = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield header.SerializeToString()
            for _ in range(3):
                yield hive_pb2.UploadTaskPiece(data=bytes(1 << 20)).SerializeToString()
            taken.set()
            await asyncio.Event().wait()

        async with _channel(daemon) as channel:
            upload: Any = channel.stream_unary(f"{HIVE}UploadTaskStream")
            call = upload(pieces(), metadata=(("authorization", f"Bearer {user.token}"),), timeout=ATTACK_CALL_S)
            await taken.wait()
            call.cancel()

    async def cut_many() -> None:
        await asyncio.gather(*(cut(number) for number in range(20)))

    with memory_watched(daemon):
        asyncio.run(cut_many())
        assert user.balance() > 0
    wait_for("an empty spool", lambda: _spool_is_empty(daemon))


def test_a_client_that_floods_leaves_others_their_calls(daemon: Daemon) -> None:
    user = User.new(daemon)
    done = threading.Event()
    ended: Counter[str] = Counter()

    async def flood() -> None:
        async with _channel(daemon) as channel:
            call: Any = channel.unary_unary(f"{HIVE}GetStatus")

            async def loop() -> None:
                while not done.is_set():
                    await _count(ended, call(b"", timeout=ATTACK_CALL_S))

            await asyncio.gather(*(loop() for _ in range(FLOOD_CALLS)))

    thread = threading.Thread(target=lambda: asyncio.run(flood()))
    thread.start()
    try:
        with memory_watched(daemon):
            wait_for("the flood", lambda: ended.total() > FLOOD_CALLS or None)
            for _ in range(20):
                assert user.balance() > 0
    finally:
        done.set()
        thread.join()
    assert ended.keys() <= {"OK", "RESOURCE_EXHAUSTED"}


def test_all_places_for_uploads_and_blobs_half_sent_have_a_bound_and_leave_others_their_calls(daemon: Daemon) -> None:
    attackers = [User.new(daemon) for _ in range(PLACES_MAX // CLIENT_PLACES_MAX)]
    user = User.new(daemon)
    header = hive_pb2.UploadTaskPiece(header=hive_pb2.UploadTaskHeader(task_id="half"))
    blob = hive_pb2.StoreBlobPiece(sha256="0" * 64, size_bytes=BODY_BYTES)

    async def upload() -> Code | None:
        async def pieces() -> AsyncIterator[bytes]:
            yield hive_pb2.UploadTaskPiece(header=hive_pb2.UploadTaskHeader(task_id="whole")).SerializeToString()
            yield hive_pb2.UploadTaskPiece(data=zip_of({"main.py": ""})).SerializeToString()

        async with _channel(daemon) as channel:
            call: Any = channel.stream_unary(f"{HIVE}UploadTaskStream")
            sent = call(pieces(), metadata=(("authorization", f"Bearer {user.token}"),), timeout=ATTACK_CALL_S)
            await sent.code()
            return code_in(tuple(await sent.trailing_metadata() or ()))

    async def attack() -> None:
        tickets = [await _workers_ticket(daemon) for _ in range(PLACES_MAX // CLIENT_PLACES_MAX)]
        async with AsyncExitStack() as stack:
            clients = []
            for ticket in tickets:
                client = await stack.enter_async_context(half_sent(daemon.peer_address, tls=True))
                _half_send(client, "/hive.PeerService/StoreBlob", ticket, blob)
                clients.append(client)
            for attacker in attackers:
                client = await stack.enter_async_context(half_sent(daemon.api, tls=False))
                _half_send(client, f"{HIVE}UploadTaskStream", [("authorization", f"Bearer {attacker.token}")], header)
                clients.append(client)
            async with asyncio.timeout(ATTACK_CALL_S):
                await asyncio.gather(*(client.sent(CLIENT_PLACES_MAX) for client in clients))
                for _ in range(20):
                    assert await asyncio.to_thread(user.balance) > 0
                assert await upload() is Code.OVERLOADED
        # The attackers are machines of the hive, and keep no second copy; an upload needs none of theirs.
        assert await upload() is Code.SUCCESS

    with memory_watched(daemon, PLACES_MEMORY_BYTES_MAX):
        asyncio.run(attack())
