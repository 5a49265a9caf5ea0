"""One attack takes all that can be taken of a daemon's intake at once, and a user with a session is served all the same."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from hivenode.config import split_address
from hivenode.pb import hive_pb2
from hivenode.transport.channels import CONNECTIONS_MAX
from hivenode.transport.limits import ORIGIN_CONNECTIONS_SHARE
from hivenode.transport.receptions import CLIENT_PLACES_MAX, PLACES_MAX
from tests.e2e.user import HIVE, MASTER, USERS, User
from tests.security.half_sent import MESSAGE_BYTES, HalfSent, half_sent, message_of
from tests.security.test_floods import memory_watched
from tests.support.daemons import Daemon, hive, wait_for
from tests.support.parts import own_address

SHARE = CONNECTIONS_MAX // ORIGIN_CONNECTIONS_SHARE
STRANGERS = 40
"""Connections to each port on which requests of strangers stand half-sent."""
ACCOUNTS = 2
"""As many as there are turns, and slow places, of users with a session."""
CONNECTIONS_OF_ONE = 3
CALLS_OF_ONE = 8
"""On each connection of a stranger or an account."""
CALLS = 30
ATTACK_S = 60.0
MEMORY_BYTES_MAX = 2_112 << 20
"""In MiB, all of it at one moment: uploads 832, strangers' requests 520, users' 416, such as are held 208, an idle daemon 100."""
PIECE_BYTES = 1 << 20
LARGE_BYTES = MESSAGE_BYTES - 1


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with hive(tmp_path, 1, "--executor", "none", "--insecure", "--listen", "0.0.0.0:0") as made:
        yield made[0]


class _Attack:
    """What is begun stands until the block ends: whatever the daemon ends is begun again at once."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._clients: dict[str, list[HalfSent]] = {}
        self._refused: set[str] = set()
        self._news = asyncio.Event()

    async def half_send(
        self, kind: str, address: str, path: str, token: str = "", *, tls: bool = False, part_bytes: int
    ) -> None:
        """Requests on one connection that are begun and never end."""
        client = await self._stack.enter_async_context(half_sent(address, tls=tls))
        self._clients.setdefault(kind, []).append(client)
        metadata = [("authorization", f"Bearer {token}")] if token else []
        standing = asyncio.ensure_future(self._stand(kind, client, path, metadata, part_bytes))
        self._stack.callback(standing.cancel)

    async def _stand(
        self, kind: str, client: HalfSent, path: str, metadata: Sequence[tuple[str, str]], part_bytes: int
    ) -> None:
        while True:
            for _ in range(CALLS_OF_ONE):
                client.stand(path, metadata, part_bytes=part_bytes)
            await client.all_ended()
            self._refused.add(kind)
            self._news.set()

    async def fills_all(self) -> None:
        """Until of each kind one request is there but for its end, and others were refused: there are more than room for them."""
        for clients in self._clients.values():
            whole = [asyncio.ensure_future(client.sent(1)) for client in clients]
            await asyncio.wait(whole, return_when=asyncio.FIRST_COMPLETED)
            for each in whole:
                each.cancel()
        while self._refused < self._clients.keys():
            self._news.clear()
            await self._news.wait()

    async def upload(self, address: str, token: str) -> None:
        """Takes all places for uploads that one account can have: pieces are on the disk, and one more is under way."""
        client = await self._stack.enter_async_context(half_sent(address, tls=False))
        header = hive_pb2.UploadTaskPiece(header=hive_pb2.UploadTaskHeader(task_id="half"))
        piece = hive_pb2.UploadTaskPiece(data=bytes(PIECE_BYTES))
        first = message_of(header.SerializeToString()) + message_of(piece.SerializeToString())
        for _ in range(2 * CLIENT_PLACES_MAX):
            client.stand(
                f"{HIVE}UploadTaskStream", [("authorization", f"Bearer {token}")], first=first, part_bytes=LARGE_BYTES
            )
        await client.sent(CLIENT_PLACES_MAX)

    def connect(self, address: str, count: int) -> None:
        """Connections that say nothing; those past the share are closed."""
        for _ in range(count):
            with suppress(OSError):
                self._stack.enter_context(socket.create_connection(split_address(address), timeout=ATTACK_S))


def _left_over(daemon: Daemon) -> list[Path]:
    return [path for path in Path(daemon.data_dir, "blobs").rglob("*") if path.is_file()]


def test_all_places_of_the_intake_at_once_leave_a_user_with_a_session_its_calls(daemon: Daemon) -> None:
    accounts, user = [User.new(daemon) for _ in range(ACCOUNTS)], User.new(daemon)
    assert ACCOUNTS * CLIENT_PLACES_MAX == PLACES_MAX
    here = f"127.0.0.1:{split_address(daemon.api)[1]}"
    elsewhere = f"{own_address()}:{split_address(daemon.api)[1]}"
    before = _left_over(daemon)

    async def attack() -> None:
        async with AsyncExitStack() as stack, asyncio.timeout(ATTACK_S):
            made = _Attack(stack)
            for account in accounts:
                await made.upload(here, account.token)
            for _ in range(STRANGERS):
                await made.half_send("over the network", elsewhere, f"{USERS}Login", part_bytes=PIECE_BYTES)
                await made.half_send("at the peer port", daemon.peer_address, f"{USERS}Login", tls=True, part_bytes=9)
            for number, account in enumerate(accounts):
                for _ in range(CONNECTIONS_OF_ONE):
                    kind, path = f"of account {number}", f"{MASTER}UploadTask"
                    await made.half_send(kind, here, path, account.token, part_bytes=LARGE_BYTES)
            await made.fills_all()
            for address in (elsewhere, daemon.peer_address):
                await asyncio.to_thread(made.connect, address, SHARE)
            for number in range(CALLS):
                if number == CALLS // 2:
                    daemon.redial()
                assert await asyncio.to_thread(user.balance) > 0

    with memory_watched(daemon, MEMORY_BYTES_MAX):
        asyncio.run(attack())
        assert user.balance() > 0
    wait_for("nothing left of the uploads", lambda: _left_over(daemon) == before or None)
