"""A worker that sends more log than it may, and a user of the same hand who watches the task and reads nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from hivenode.encoding.node_record import NodeRecord, handshake_message
from hivenode.encoding.records import encode_record
from hivenode.pb import hive_pb2
from hivenode.runtime.ports import AttemptOrder, AttemptStarted, WorkerHello, WorkerLink
from hivenode.runtime.streams import closing
from hivenode.transport.channels import PIECE_ANSWER_BYTES_MAX
from hivenode.transport.peer_link import callee_purpose, read_record
from hivenode.transport.receptions import WATCHES_MAX
from hivenode.transport.tls import server_credentials
from tests.e2e.user import HIVE, User, zip_of
from tests.integration.transport.parts import capabilities
from tests.security.test_floods import memory_watched
from tests.security.test_rogue import Rogue, address_of, now_ms
from tests.security.test_slow_readers import SMALL_WINDOWS
from tests.support.daemons import Daemon, hive

DEADLINE_S = 180.0
"""Of an attack that keeps a core busy for 7 s: on a machine that has much else to do it takes over a minute."""
LOOKS = 100
"""So many calls of another user's come and go, and nothing more of the log is taken meanwhile."""


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with hive(tmp_path_factory.mktemp("logs"), 1, "--executor", "none") as made:
        yield made[0]


class LoggingRogue(Rogue):
    """Serves the logs of its attempts, in pieces of so many bytes and without end."""

    def __init__(self, hive_id: str, piece_bytes: int) -> None:
        super().__init__(hive_id)
        self.address = ""
        self.reads = 0
        self.pieces = 0
        self._piece = hive_pb2.LogPiece(data=bytes(piece_bytes)).SerializeToString()

    def statement(self) -> NodeRecord:
        strong = dataclasses.replace(capabilities(), slots=1_000, memory_gb=4_000, cpu_cores=1_000)
        return dataclasses.replace(super().statement(), addresses=(self.address,), capabilities=strong)

    async def _challenge(self, data: bytes, context: Any) -> bytes:
        request = hive_pb2.ChallengeRequest.FromString(data)
        message = handshake_message(
            nonce=request.caller_nonce,
            signer=self.id,
            other=read_record(request.caller_record, now_ms())[1].node_id,
            hive_id=self.hive_id,
            certificate_sha256=self.certificate.sha256,
            purpose=callee_purpose("i", ()),
        )
        answer = hive_pb2.ChallengeResponse(
            callee_record=encode_record(self.record()),
            callee_nonce=bytes(64),
            hive_id=self.hive_id,
            signature=self.identity.sign(message),
            phase="member",
            instance="i",
        )
        return bytes(answer.SerializeToString())

    async def _prove(self, data: bytes, context: Any) -> bytes:
        return bytes(hive_pb2.ProveResponse(ticket="t").SerializeToString())

    async def _read_log(self, data: bytes, context: Any) -> None:
        self.reads += 1
        while True:
            await context.write(self._piece)
            self.pieces += 1

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = grpc.aio.server(options=(("grpc.max_send_message_length", -1),))
        methods: dict[str, Any] = {
            "Challenge": grpc.unary_unary_rpc_method_handler(self._challenge),
            "Prove": grpc.unary_unary_rpc_method_handler(self._prove),
            "ReadLog": grpc.unary_stream_rpc_method_handler(self._read_log),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("hive.PeerService", methods),))
        credentials = server_credentials(self.certificate, lambda: None)
        self.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)
            await self.peers.aclose()

    async def take_task(self, daemon: Daemon) -> WorkerLink:
        """Says hello and begins the attempt that it is given."""
        link = await self.peers.open_worker_link(address_of(daemon))
        await link.send(WorkerHello(boot_id="b", capabilities=self.statement().capabilities, open=()))
        async with closing(link.orders()) as orders:
            async for order in orders:
                if isinstance(order, AttemptOrder):
                    await link.send(AttemptStarted(key=order.key))
                    return link
        raise AssertionError("no task came")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("watches", "piece_bytes", "reads"),
    [(12, 100 << 20, 24), (WATCHES_MAX // 4, PIECE_ANSWER_BYTES_MAX - 100, WATCHES_MAX // 4)],
    ids=["messages of any size, which are refused and asked for again", "messages as large as they may be"],
)
def test_a_log_without_end_that_nobody_reads_has_a_bound(
    daemon: Daemon, watches: int, piece_bytes: int, reads: int
) -> None:
    user, other = User.new(daemon), User.new(daemon)
    user.upload("t", zip_of({"main.py": ""}), memory_gb=100)

    async def attack() -> None:
        rogue = LoggingRogue(daemon.status().hive_id, piece_bytes)
        async with rogue.serving(), grpc.aio.insecure_channel(daemon.api, options=SMALL_WINDOWS) as channel:
            await rogue.join(daemon)
            async with asyncio.timeout(DEADLINE_S):
                link = await rogue.take_task(daemon)
                watch: Any = channel.unary_stream(f"{HIVE}WatchTask")
                request = hive_pb2.WatchTaskRequest(task_id="t").SerializeToString()
                metadata = (("authorization", f"Bearer {user.token}"),)
                calls = [watch(request, metadata=metadata) for _ in range(watches)]
                told = None
                while rogue.reads < reads or told != rogue.pieces:
                    told = rogue.pieces
                    for _ in range(LOOKS):
                        assert await asyncio.to_thread(other.balance) > 0
            for call in calls:
                call.cancel()
            await link.aclose()

    with memory_watched(daemon):
        asyncio.run(attack())
