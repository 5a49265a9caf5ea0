"""Blobs across nodes, each with a real store; the wire between them is a function call."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hivenode.blobs.copies import WORKERS_ASKED, PeerBlobCopies
from hivenode.blobs.store import DiskBlobStore
from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.pool.records import BlobRef
from hivenode.runtime.ports import PeerAddress
from tests.support.peer_disks import PeerDisks, address

LARGE = 1 << 30
DATA = os.urandom(2_500_000)
BLOB = BlobRef(sha256=hashlib.sha256(DATA).hexdigest(), size_bytes=len(DATA))


async def cut(data: bytes) -> AsyncIterator[bytes]:
    yield data


class Nodes:
    """Some nodes; `me` is the one whose copies are under test."""

    def __init__(self, root: Path) -> None:
        self.network = PeerDisks()
        for name in ("me", "b", "c", "d"):
            self.network.stores[name] = DiskBlobStore(root / name, 0)
        self.candidates: list[PeerAddress] = [address(name) for name in ("me", "b", "c", "d")]
        self.voters = {"me", "b", "c", "d"}

    @property
    def mine(self) -> DiskBlobStore:
        return self.network.stores["me"]

    def copies(self, stall_s: float = 30.0) -> PeerBlobCopies:
        return PeerBlobCopies(
            self.mine, self.network, NodeId("me"), lambda: self.candidates, self.voters.__contains__, stall_s=stall_s
        )

    async def give(self, name: str, data: bytes = DATA) -> None:
        await self.network.stores[name].put(cut(data), size_bytes_max=LARGE)

    def damage(self, name: str) -> None:
        self.network.stores[name].path(BLOB).write_bytes(bytes(BLOB.size_bytes))


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    for store in made.network.stores.values():
        await store.aclose()


async def refusal(call: Callable[[], object]) -> HiveError:
    with pytest.raises(HiveError) as caught:
        await call()  # type: ignore[misc]
    return caught.value


async def test_a_blob_is_copied_to_the_first_candidate(nodes: Nodes) -> None:
    await nodes.give("me")
    assert await nodes.copies().replicate(BLOB, preferred=(), deadline_s=10) == ("me", "b")
    assert nodes.network.stores["b"].path(BLOB).read_bytes() == DATA
    assert nodes.network.calls == ["b"]


async def test_a_preferred_node_goes_before_the_candidates(nodes: Nodes) -> None:
    await nodes.give("me")
    assert await nodes.copies().replicate(BLOB, preferred=(address("d"),), deadline_s=10) == ("me", "d")


async def test_a_dead_or_silent_node_is_left_for_the_next(nodes: Nodes) -> None:
    await nodes.give("me")
    nodes.network.dead.add("b")
    nodes.network.silent.add("c")
    assert await nodes.copies(stall_s=0.5).replicate(BLOB, preferred=(), deadline_s=10) == ("me", "d")
    assert nodes.network.calls == ["b", "c", "d"]


async def test_a_hive_of_one_is_content_with_one_copy(nodes: Nodes) -> None:
    await nodes.give("me")
    nodes.candidates = [address("me")]
    assert await nodes.copies().replicate(BLOB, preferred=(), deadline_s=10) == ("me",)


async def test_too_few_copies_say_why(nodes: Nodes) -> None:
    await nodes.give("me")
    nodes.network.dead.update("bcd")
    error = await refusal(lambda: nodes.copies().replicate(BLOB, preferred=(), deadline_s=10))
    assert error.code is Code.TOO_FEW_COPIES
    assert "node c: refused the connection" in error.message


async def test_replication_ends_at_its_deadline(nodes: Nodes) -> None:
    await nodes.give("me")
    nodes.network.silent.update("bcd")
    async with asyncio.timeout(5):
        error = await refusal(lambda: nodes.copies().replicate(BLOB, preferred=(), deadline_s=0.1))
    assert error.code is Code.TOO_FEW_COPIES
    assert nodes.network.calls == ["b"]


async def test_workers_that_refuse_do_not_stop_the_only_voter(nodes: Nodes) -> None:
    await nodes.give("me")
    nodes.voters = {"me"}
    nodes.network.dead.update("bc")
    copies = nodes.copies()
    assert await copies.replicate(BLOB, preferred=(), deadline_s=10) == ("me", "d")
    nodes.network.dead.add("d")
    assert await copies.replicate(BLOB, preferred=(), deadline_s=10) == ("me",)
    assert await copies.replicate(BLOB, preferred=(), deadline_s=10) == ("me",)
    assert nodes.network.calls == ["b", "c", "d", "d"]


async def test_workers_that_are_silent_cost_the_only_voter_no_more_than_half_of_the_time(nodes: Nodes) -> None:
    await nodes.give("me")
    nodes.voters = {"me"}
    nodes.network.silent.update("bcd")
    async with asyncio.timeout(5):
        assert await nodes.copies().replicate(BLOB, preferred=(), deadline_s=0.2) == ("me",)
    assert nodes.network.calls == ["b"]


async def test_a_stranger_with_many_workers_is_asked_a_few_times(nodes: Nodes) -> None:
    await nodes.give("me")
    nodes.voters = {"me"}
    nodes.candidates = [address(f"w{n}") for n in range(1_000)]
    nodes.network.dead.update(peer.node_id for peer in nodes.candidates)
    assert await nodes.copies().replicate(BLOB, preferred=(), deadline_s=10) == ("me",)
    assert len(nodes.network.calls) == WORKERS_ASKED


async def test_a_second_node_with_voter_right_is_wanted_where_there_is_one(nodes: Nodes) -> None:
    await nodes.give("me")
    nodes.voters = {"me", "d"}
    nodes.network.dead.update("bcd")
    error = await refusal(lambda: nodes.copies().replicate(BLOB, preferred=(), deadline_s=10))
    assert error.code is Code.TOO_FEW_COPIES


async def test_a_worker_wants_another_to_have_its_results(nodes: Nodes) -> None:
    await nodes.give("me")
    nodes.voters = set()
    nodes.network.dead.update("bcd")
    error = await refusal(lambda: nodes.copies().replicate(BLOB, preferred=(), deadline_s=10))
    assert error.code is Code.TOO_FEW_COPIES


async def test_what_is_not_here_cannot_be_copied(nodes: Nodes) -> None:
    error = await refusal(lambda: nodes.copies().replicate(BLOB, preferred=(), deadline_s=10))
    assert error.code is Code.BLOB_NOT_FOUND


async def test_a_blob_is_fetched_from_the_first_holder_that_gives_it_whole(nodes: Nodes) -> None:
    await nodes.give("b")
    nodes.damage("b")
    await nodes.give("d")
    nodes.network.dead.add("c")
    await nodes.copies().fetch(BLOB, [address(name) for name in ("me", "b", "c", "d")], 10)
    assert nodes.mine.path(BLOB).read_bytes() == DATA
    assert nodes.network.calls == ["b", "c", "d"]


async def test_a_blob_that_is_here_is_not_fetched(nodes: Nodes) -> None:
    await nodes.give("me")
    await nodes.copies().fetch(BLOB, [address("b")], 10)
    assert nodes.network.calls == []


async def test_a_blob_that_no_holder_has_is_not_found(nodes: Nodes) -> None:
    for holders in ([], [address("b"), address("c")]):
        error = await refusal(lambda holders=holders: nodes.copies().fetch(BLOB, holders, 10))  # type: ignore[misc]
        assert error.code is Code.BLOB_NOT_FOUND


async def test_a_holder_that_is_away_makes_it_worth_asking_again(nodes: Nodes) -> None:
    nodes.network.dead.add("b")
    error = await refusal(lambda: nodes.copies().fetch(BLOB, [address("b"), address("c")], 10))
    assert error.code is Code.NODE_OFFLINE


async def test_a_silent_holder_is_left_for_the_next(nodes: Nodes) -> None:
    await nodes.give("c")
    nodes.network.silent.add("b")
    await nodes.copies(stall_s=0.5).fetch(BLOB, [address("b"), address("c")], 10)
    assert nodes.mine.has(BLOB)


async def test_fetches_of_the_same_blob_share_one_transfer(nodes: Nodes) -> None:
    await nodes.give("b")
    copies = nodes.copies()
    await asyncio.gather(*(copies.fetch(BLOB, [address("b")], 10) for _ in range(20)))
    assert nodes.network.calls == ["b"]


async def test_who_shares_a_fetch_that_fails_asks_its_own_holders(nodes: Nodes) -> None:
    await nodes.give("c")
    nodes.network.dead.add("b")
    copies = nodes.copies()
    first, second = await asyncio.gather(
        copies.fetch(BLOB, [address("b")], 10), copies.fetch(BLOB, [address("c")], 10), return_exceptions=True
    )
    assert isinstance(first, HiveError)
    assert second is None


async def test_one_who_leaves_a_shared_fetch_does_not_end_it(nodes: Nodes) -> None:
    await nodes.give("c")
    nodes.network.silent.add("b")
    copies = nodes.copies(stall_s=0.5)
    impatient = asyncio.create_task(copies.fetch(BLOB, [address("b"), address("c")], 10))
    patient = asyncio.create_task(copies.fetch(BLOB, [address("b"), address("c")], 10))
    await asyncio.wait_for(nodes.network.waiting.wait(), 10)
    impatient.cancel()
    await patient
    assert nodes.network.calls == ["b", "c"]


async def test_a_fetch_ends_at_its_deadline_and_leaves_nothing_running(nodes: Nodes) -> None:
    nodes.network.silent.add("b")
    copies = nodes.copies()
    before = len(asyncio.all_tasks())
    error = await refusal(lambda: copies.fetch(BLOB, [address("b")], 0.05))
    assert error.code is Code.NODE_OFFLINE
    await copies.aclose()
    assert len(asyncio.all_tasks()) == before
