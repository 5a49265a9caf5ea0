"""Fetching a snapshot that another one replaces, or that is given up, while a thread still works on its files."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hivenode.consensus import MemberId, Snapshot, SnapshotOffer
from hivenode.runtime.snapshots import SnapshotFetcher, encode_ref
from hivenode.runtime.stores import MadeSnapshot, PreparedState, SnapshotRef
from hivenode.storage.state_store import StateStore
from tests.support.disks import Disk
from tests.support.replicas import DEADLINE_S, until

LOOK_S = 0.3
"""How long one looks for what must not happen."""
TERMS = (1, 2, 3)


class Fetching:
    """A member that fetches what three leaders, one of each term, have copied; its threads can be held at a step."""

    def __init__(self, folder: Path) -> None:
        self.leaders: dict[MemberId, Disk] = {}
        self.made: dict[int, MadeSnapshot] = {}
        for term in TERMS:
            disk = Disk(folder / f"leader{term}")
            disk.fill(100 * term, b"of %d " % term)
            self.leaders[MemberId(f"l.{term}")] = disk
            self.made[term] = disk.snapshots.make()
        self.disk = Disk(folder / "follower")
        self.hold_at = ""
        self.held = threading.Event()
        self.free = threading.Event()
        self.disk.snapshots._step = self._step
        self.fetched: list[MemberId] = []
        self.delivered: list[PreparedState] = []
        self.failed: list[SnapshotOffer] = []
        self.fetcher = SnapshotFetcher(
            storage=self.disk.snapshots, fetch=self._fetch, deliver=self._deliver, failed=self.failed.append
        )

    def offer(self, term: int) -> None:
        made = self.made[term]
        snapshot = Snapshot(meta=made.meta, data=encode_ref(made.ref))
        self.fetcher.offered(
            SnapshotOffer(to=MemberId("f.1"), from_=MemberId(f"l.{term}"), term=term, snapshot=snapshot)
        )

    async def hold(self, term: int, step: str) -> None:
        """Offers the snapshot of a term, and waits until its thread stands at a step."""
        self.hold_at = step
        self.offer(term)
        await until(self.held.is_set)

    def _step(self, name: str) -> None:
        if name == self.hold_at:
            self.hold_at = ""
            self.held.set()
            self.free.wait(DEADLINE_S)

    async def _fetch(self, member: MemberId, ref: SnapshotRef, offset: int) -> AsyncIterator[bytes]:
        self.fetched.append(member)
        async for data in self.leaders[member].snapshots.read(ref.sha256, offset):
            yield data

    async def _deliver(self, offer: SnapshotOffer, prepared: PreparedState) -> None:
        self.delivered.append(prepared)

    def close(self) -> None:
        self.free.set()
        for disk in (self.disk, *self.leaders.values()):
            disk.close()


@pytest.fixture
def fetching(tmp_path: Path) -> Iterator[Fetching]:
    with ExitStack() as stack:
        member = Fetching(tmp_path)
        stack.callback(member.close)
        yield member


@pytest.mark.parametrize("step", ["state folder made", "some rows written", "state folder complete"])
async def test_a_snapshot_that_replaces_another_waits_for_the_thread_that_unpacks_that(
    fetching: Fetching, step: str
) -> None:
    await fetching.hold(1, step)
    fetching.offer(2)
    await asyncio.sleep(0)
    fetching.offer(3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(LOOK_S):
            await until(lambda: len(fetching.fetched) > 1)
    fetching.free.set()
    await until(lambda: fetching.delivered != [])
    (prepared,) = fetching.delivered
    assert prepared.meta == fetching.made[3].meta
    state = StateStore(prepared.folder)
    assert dict(state.scan(b"")) == fetching.leaders[MemberId("l.3")].rows()
    state.close()
    assert fetching.failed == []
    await fetching.fetcher.aclose()


async def test_fetching_ends_after_its_thread_also_when_it_was_replaced(fetching: Fetching) -> None:
    await fetching.hold(1, "some rows written")
    fetching.offer(2)
    closing = asyncio.create_task(fetching.fetcher.aclose())
    done, _ = await asyncio.wait((closing,), timeout=LOOK_S)
    assert not done
    fetching.free.set()
    await closing
    await fetching.fetcher.aclose()
    assert fetching.disk.root.joinpath("state.1").is_dir(), "the thread has come to its end"
    fetching.disk.snapshots.retire()
