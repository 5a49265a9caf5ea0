"""A node on its way to another hive, whose owner asked for it: out of the one, and into the other or nowhere."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.runtime.cluster import HiveCluster
from hivenode.runtime.joining import JoinDesk
from hivenode.runtime.ports import ClusterAnswer, HivePhase, PeerAddress

DEADLINE_S = 20.0
ME, LEADER = NodeId("a" * 26), NodeId("b" * 26)
HERE, THERE = "1" * 32, "2" * 32


class _Move:
    """A machine without the log of its hive, that is being moved: the leader has been asked to take it out."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer: asyncio.Future[ClusterAnswer] = asyncio.get_running_loop().create_future()
        self.left = self.moved = 0
        # Only what the owner's word leads to is looked at.
        local: Any = SimpleNamespace(node_id=ME, hive_id=lambda: HERE, replica=None, leader=self._leader)
        peers: Any = SimpleNamespace(introduce=self._introduce, manage_hive=self._manage_hive)
        self.cluster = HiveCluster(
            local=local,
            peers=peers,
            connected=set,
            keeper=lambda: None,
            left=self._leaves,
            moves=self._moves,
            desk=JoinDesk(lambda: 0, lambda: 0),
        )
        self.call = asyncio.ensure_future(self.cluster.move("10.0.0.1:5", True, DEADLINE_S))

    async def _leader(self, _deadline_s: float) -> PeerAddress:
        return PeerAddress(node_id=LEADER, addresses=())

    async def _introduce(self, _address: str, _deadline_s: float) -> Any:
        return SimpleNamespace(hive_id=THERE, phase=HivePhase.MEMBER)

    async def _manage_hive(self, *_order: object) -> ClusterAnswer:
        self.asked.set()
        return await self.answer

    def _leaves(self) -> None:
        self.left += 1

    def _moves(self, *_where: str) -> None:
        self.moved += 1

    async def is_asked(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.asked.wait()

    async def is_broken_off(self) -> None:
        self.call.cancel()
        await asyncio.wait({self.call}, timeout=DEADLINE_S)
        assert self.call.cancelled()


async def test_one_that_is_taken_out_after_its_owner_broke_the_move_off_leaves() -> None:
    """Else it stays up without a hive: it is out of the one, and nobody brings it into the other."""
    move = _Move()
    await move.is_asked()
    await move.is_broken_off()
    move.cluster.taken_out()
    assert (move.left, move.moved) == (1, 0)


async def test_one_that_heard_that_it_is_out_before_its_owner_broke_the_move_off_leaves() -> None:
    move = _Move()
    await move.is_asked()
    move.cluster.taken_out()
    assert move.left == 0
    await move.is_broken_off()
    assert (move.left, move.moved) == (1, 0)


async def test_one_that_hears_that_it_is_out_on_its_way_does_not_leave_for_good() -> None:
    move = _Move()
    await move.is_asked()
    move.cluster.taken_out()
    move.answer.set_result(ClusterAnswer(node=ME))
    assert await move.call == THERE
    move.cluster.taken_out()
    assert (move.left, move.moved) == (0, 1)


@pytest.mark.parametrize(("code", "moved"), [(Code.INVALID_ARGUMENT, 1), (Code.OUTCOME_UNKNOWN, 0)])
async def test_one_that_nobody_can_do_without_goes_all_the_same_and_one_that_is_refused_stays(
    code: Code, moved: int
) -> None:
    move = _Move()
    await move.is_asked()
    move.answer.set_exception(HiveError(code, "not now"))
    await asyncio.wait({move.call}, timeout=DEADLINE_S)
    assert move.moved == moved
    assert isinstance(move.call.exception(), HiveError) == (not moved)
    move.cluster.taken_out()
    assert move.left == 1 - moved
