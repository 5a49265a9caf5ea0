"""The end of the agent's talk with a leader, whatever is said in that moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from hivenode.blobs.store import DiskBlobStore
from hivenode.encoding.node_record import NodeId
from hivenode.pool.records import BlobRef
from hivenode.runtime.ports import (
    AttemptKey,
    PeerAddress,
    StopOrder,
    WorkerEvent,
    WorkerHeartbeat,
    WorkerHello,
    WorkerOrder,
)
from hivenode.worker.agent import Agent
from hivenode.worker.executors.choice import ChosenExecutor
from hivenode.worker.resources import measure_capabilities
from hivenode.worker.settings import WorkerSettings
from tests.support import virtual_loop

DEADLINE_S = 60.0
WORDS = 20
STEPS_MAX = 10
"""More turns of the loop than a word takes from the agent's queue to its link."""
STRANGE = StopOrder(key=AttemptKey(user="ada", task_id="t1", attempt=1), discard=False)


class _Link:
    """A stream that takes every word, and brings no order."""

    opened = True

    def __init__(self) -> None:
        self.events: asyncio.Queue[WorkerEvent] = asyncio.Queue()

    async def send(self, event: WorkerEvent) -> None:
        self.events.put_nowait(event)

    async def orders(self) -> AsyncIterator[WorkerOrder]:
        await asyncio.Event().wait()
        yield STRANGE

    async def aclose(self) -> None:
        pass


class _SlowLink(_Link):
    """A stream that takes a word in more than the time that the worker has until its next heartbeat."""

    async def send(self, event: WorkerEvent) -> None:
        await asyncio.sleep(1.1 * WorkerSettings().heartbeat_s)
        self.events.put_nowait(event)


class _NoCopies:
    async def replicate(
        self, blob: BlobRef, *, preferred: Sequence[PeerAddress], deadline_s: float
    ) -> tuple[NodeId, ...]:
        raise AssertionError

    async def fetch(self, blob: BlobRef, holders: Sequence[PeerAddress], deadline_s: float) -> None:
        raise AssertionError


def _agent(folder: Path) -> Agent:
    return Agent(
        settings=WorkerSettings(),
        chosen=ChosenExecutor(executor=None, docker_status="", note="none is wanted"),
        measured=measure_capabilities(location="", slots=1),
        blobs=DiskBlobStore(folder / "blobs", 0),
        copies=_NoCopies(),
        data_dir=folder,
    )


@pytest.mark.parametrize("steps", range(STEPS_MAX))
def test_a_talk_ends_at_once_when_it_is_broken_off_while_a_word_goes_out(tmp_path: Path, steps: int) -> None:
    """Else the worker stays with a leader of before, and is never closed at the daemon's end."""

    async def main() -> None:
        agent = _agent(tmp_path)
        link = _Link()
        talk = asyncio.create_task(agent.serve(link))
        assert isinstance(await link.events.get(), WorkerHello)
        await agent.handle(STRANGE)  # What it says to it is on its way from now on.
        for _ in range(steps):
            await asyncio.sleep(0)
        talk.cancel()
        await asyncio.wait({talk}, timeout=DEADLINE_S)
        assert talk.cancelled()

    virtual_loop.run(main())


def test_a_heartbeat_that_is_due_goes_out_before_the_words_that_wait(tmp_path: Path) -> None:
    async def main() -> None:
        agent = _agent(tmp_path)
        link = _SlowLink()
        talk = asyncio.create_task(agent.serve(link))
        assert isinstance(await link.events.get(), WorkerHello)
        for _ in range(WORDS):
            await agent.handle(STRANGE)
        said = [await link.events.get() for _ in range(WORDS)]
        heartbeats = sum(isinstance(event, WorkerHeartbeat) for event in said)
        assert min(heartbeats, WORDS - heartbeats) >= WORDS // 2 - 1  # Nor do the words wait for ever.
        talk.cancel()
        await asyncio.wait({talk})

    virtual_loop.run(main())


async def test_what_an_installation_left_whose_daemon_was_killed_is_removed_by_the_next(tmp_path: Path) -> None:
    """Each may be of some GiB, and nobody counts it."""
    for name in ("building-x1y2", "0123abcd"):
        (tmp_path / "packages" / name / "tinygift").mkdir(parents=True)
    agent = _agent(tmp_path)
    await agent.start()
    assert [place.name for place in (tmp_path / "packages").iterdir()] == ["0123abcd"]
    await agent.aclose()
