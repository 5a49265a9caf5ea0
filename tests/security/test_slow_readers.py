"""Streamed answers of which nothing is taken: each holds some pieces, so their number has a bound, and others are served."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest

from hivenode.pb import hive_pb2
from hivenode.transport.channels import API_STREAMS_MAX
from hivenode.transport.peer_link import SERVICE
from hivenode.transport.receptions import DOWNLOADS_MAX
from hivenode.transport.tls import channel_options, fetch_certificate
from tests.e2e.user import HIVE, User, zip_of
from tests.security.test_floods import memory_watched
from tests.security.test_rogue import Rogue
from tests.support.daemons import Daemon, hive

STREAMS = 512
DEADLINE_S = 60.0
SMALL_WINDOWS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", -1),
)
"""No pings beside the calls either: many calls of which nothing moves would have a connection closed for too many."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with hive(tmp_path_factory.mktemp("slow"), 1, "--executor", "process") as made:
        yield made[0]


def _with_result(daemon: Daemon) -> tuple[User, hive_pb2.TaskDetail]:
    """A user whose task `t` has left a result that cannot be packed small."""
    user = User.new(daemon)
    user.upload("t", zip_of({"main.py": "import os\nopen('o', 'wb').write(os.urandom(16 << 20))\n"}))
    return user, user.ended("t")


async def _ended(calls: Sequence[Any], count: int) -> Counter[str]:
    """How those ended that did, when so many have."""
    async with asyncio.timeout(DEADLINE_S):
        ending = asyncio.as_completed([call.code() for call in calls])
        return Counter([(await next(ending)).name for _ in range(count)])


async def _download(channel: grpc.aio.Channel, user: User) -> int:
    """The bytes of a user's result."""
    download: Any = channel.unary_stream(f"{HIVE}DownloadResult", None, hive_pb2.ResultPiece.FromString)
    request = hive_pb2.DownloadResultRequest(task_id="t").SerializeToString()
    metadata = (("authorization", f"Bearer {user.token}"),)
    return sum([len(piece.data) async for piece in download(request, metadata=metadata, timeout=DEADLINE_S)])


def test_results_that_nobody_takes_have_a_bound(daemon: Daemon) -> None:
    (attacker, _), (user, detail) = _with_result(daemon), _with_result(daemon)
    request = hive_pb2.DownloadResultRequest(task_id="t").SerializeToString()

    async def attack() -> None:
        channels = [
            grpc.aio.insecure_channel(daemon.api, options=SMALL_WINDOWS)
            for _ in range(-(-STREAMS // (API_STREAMS_MAX - 1)))
        ]
        downloads: list[Any] = [channel.unary_stream(f"{HIVE}DownloadResult") for channel in channels]
        metadata = (("authorization", f"Bearer {attacker.token}"),)
        calls = [downloads[number % len(channels)](request, metadata=metadata) for number in range(STREAMS)]
        ended = await _ended(calls, STREAMS - DOWNLOADS_MAX // 4)
        assert ended == {"RESOURCE_EXHAUSTED": STREAMS - DOWNLOADS_MAX // 4}
        assert await _download(channels[0], user) == detail.result_bytes
        for call in calls:
            call.cancel()
        assert await _download(channels[0], attacker) > 0
        for channel in channels:
            await channel.close()

    with memory_watched(daemon):
        asyncio.run(attack())


def test_blobs_that_no_worker_takes_have_a_bound(daemon: Daemon) -> None:
    _, detail = _with_result(daemon)
    request = hive_pb2.FetchBlobRequest(sha256=detail.result_sha256, size_bytes=detail.result_bytes).SerializeToString()

    async def attack() -> None:
        credentials, pinned = channel_options(await fetch_certificate(daemon.peer_address, DEADLINE_S))
        fetches: list[Any] = []
        tickets, channels = [], []
        for _ in range(3):
            rogue = Rogue(daemon.status().hive_id)
            await rogue.join(daemon)
            tickets.append((await rogue.connection(daemon)).metadata)
            await rogue.peers.aclose()
            channels.append(
                grpc.aio.secure_channel(daemon.peer_address, credentials, options=(*SMALL_WINDOWS, *pinned))
            )
            fetches.append(channels[-1].unary_stream(f"{SERVICE}FetchBlob"))
        calls = [
            fetch(request, metadata=ticket)
            for fetch, ticket in list(zip(fetches, tickets, strict=True))[:2]
            for _ in range(STREAMS // 2 - 6)
        ]
        refused = len(calls) - 2 * (DOWNLOADS_MAX // 4)
        assert await _ended(calls, refused) == {"RESOURCE_EXHAUSTED": refused}
        taken = 0
        async for data in fetches[2](request, metadata=tickets[2]):
            taken += len(hive_pb2.BlobPiece.FromString(data).data)
        assert taken == detail.result_bytes
        for channel in channels:
            await channel.close()

    with memory_watched(daemon):
        asyncio.run(attack())
