"""The worker's way to the leader, over real servers and channels."""

from __future__ import annotations

import asyncio
from pathlib import Path

from structlog.testing import capture_logs

from hivenode.blobs.store import DiskBlobStore
from hivenode.worker.agent import Agent
from hivenode.worker.executors.choice import ChosenExecutor
from hivenode.worker.resources import measure_capabilities
from hivenode.worker.settings import WorkerSettings
from hivenode.worker.uplink import Uplink
from tests.integration.transport.parts import DEADLINE_S, Node, nodes
from tests.integration.worker.test_agent import TwoNodes

BREAKS = 4


async def _stands(leader: Node) -> None:
    """The next stream has brought more than its hello."""
    async with asyncio.timeout(DEADLINE_S):
        session = await leader.ports.sessions.get()
        await session.events.get()


async def test_a_stream_that_stood_ends_the_row_of_failures(tmp_path: Path) -> None:
    """Else a worker that has been up for long waits long for a new leader, with its tasks."""
    blobs = DiskBlobStore(tmp_path / "blobs", 0)
    agent = Agent(
        settings=WorkerSettings(heartbeat_s=0.05),
        chosen=ChosenExecutor(executor=None, docker_status="", note="none is wanted"),
        measured=measure_capabilities(location="", slots=1),
        blobs=blobs,
        copies=TwoNodes(blobs),
        data_dir=tmp_path,
    )
    await agent.start()
    async with nodes(2) as (leader, worker):
        uplink = Uplink(agent=agent, leadership=worker.ports, peers=worker.peers)
        with capture_logs() as logs:
            running = asyncio.create_task(uplink.run())
            for _ in range(BREAKS):
                await _stands(leader)
                link = worker.peers.link_to(leader.address)
                link.drop(await link.connect(DEADLINE_S))
            await _stands(leader)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    rows = [line["failures"] for line in logs if line["event"] == "no stream to the leader"]
    assert rows == [1] * BREAKS
    await agent.aclose()
