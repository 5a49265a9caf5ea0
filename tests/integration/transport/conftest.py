"""The transport's tests run on the loop that the daemon runs on; and what most of them need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tests.integration.transport.client import Client
from tests.integration.transport.parts import Node, World, nodes


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def world() -> World:
    return World()


@pytest.fixture
async def node(world: World) -> AsyncIterator[Node]:
    async with nodes(1, world) as (only,):
        yield only


@pytest.fixture
async def client(node: Node) -> AsyncIterator[Client]:
    made = Client(node.server.api_address)
    yield made
    await made.channel.close()
