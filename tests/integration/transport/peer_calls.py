"""What the tests of calls between daemons share: an attempt's key, what comes soon, and how a call fails."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from hivenode.errors import HiveError
from hivenode.runtime.ports import AttemptKey
from tests.integration.transport.parts import DEADLINE_S, Node

KEY = AttemptKey(user="u", task_id="task-001", attempt=1)


async def soon(queue: asyncio.Queue[Any]) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        return await queue.get()


async def failure_of(awaited: Any) -> HiveError:
    with pytest.raises(HiveError) as caught:
        async with asyncio.timeout(DEADLINE_S):
            await awaited
    return caught.value


async def raw_failure(node: Node, method: str, request: Any, **carried: str) -> grpc.aio.AioRpcError:
    """The failure of one bare call to the peer port."""
    metadata = [(key.replace("_", "-"), value) for key, value in carried.items()]
    async with node.peer_channel as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/hive.PeerService/{method}")(
                request.SerializeToString(), metadata=metadata, timeout=DEADLINE_S
            )
    return caught.value


def code_of(error: grpc.aio.AioRpcError) -> int:
    return int(str(dict(error.trailing_metadata() or ())["hive-error-code"]))
