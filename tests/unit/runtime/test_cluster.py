"""A node that goes, as its owner asked: out of its hive, and into another one or nowhere; one way at a time, and for good."""

from __future__ import annotations

import asyncio
import errno
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
        self.disk_refuses = False
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
        self.call = asyncio.ensure_future(self.move())

    async def move(self) -> str:
        return await self.cluster.move("10.0.0.1:5", True, DEADLINE_S)

    async def leave(self) -> str:
        await self.cluster.leave(DEADLINE_S)
        return ""

    async def second(self, way: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await getattr(self, way)()

    async def is_at_leave(self) -> None:
        """As if the first call had been to leave, and not to move."""
        await self.is_asked()
        await self.is_broken_off()
        self.asked.clear()
        self.answer = asyncio.get_running_loop().create_future()
        self.call = asyncio.ensure_future(self.leave())
        await self.is_asked()

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
        if self.disk_refuses:
            raise OSError(errno.ENOSPC, "No space left on device")
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


@pytest.mark.parametrize("hears", ["before", "after", "never"])
@pytest.mark.parametrize("second", ["move", "leave"])
async def test_a_second_way_out_is_refused_while_the_node_is_on_its_way_to_another_hive(
    second: str, hears: str
) -> None:
    """The end of the second one had the node leave for good, though the first one had brought it to the other hive."""
    move = _Move()
    await move.is_asked()
    if hears == "before":
        move.cluster.taken_out()
    with pytest.raises(HiveError, match="on its way to another hive") as refusal:
        await move.second(second)
    assert refusal.value.code is Code.INVALID_ARGUMENT
    if hears == "after":
        move.cluster.taken_out()
    assert (move.left, move.moved) == (0, 0)
    move.answer.set_result(ClusterAnswer(node=ME))
    assert await move.call == THERE
    # Until the life ends.
    with pytest.raises(HiveError, match="on its way to another hive"):
        await move.second(second)
    move.cluster.taken_out()
    assert (move.left, move.moved) == (0, 1)


@pytest.mark.parametrize("hears", ["before", "after", "never"])
@pytest.mark.parametrize("second", ["move", "leave"])
async def test_a_second_way_out_is_refused_while_the_node_leaves(second: str, hears: str) -> None:
    move = _Move()
    await move.is_at_leave()
    if hears == "before":
        move.cluster.taken_out()
    with pytest.raises(HiveError, match="is leaving its hive"):
        await move.second(second)
    if hears == "after":
        move.cluster.taken_out()
    move.answer.set_result(ClusterAnswer(node=ME))
    await move.call
    with pytest.raises(HiveError, match="is leaving its hive"):
        await move.second(second)
    move.cluster.taken_out()
    assert (move.left, move.moved) == (1, 0)


@pytest.mark.parametrize("first", ["move", "leave"])
@pytest.mark.parametrize("ends", ["is refused", "is broken off"])
@pytest.mark.parametrize("second", ["move", "leave"])
async def test_after_one_that_failed_another_is_possible(first: str, ends: str, second: str) -> None:
    move = _Move()
    await move.is_asked()
    if first == "leave":
        await move.is_at_leave()
    if ends == "is refused":
        move.answer.set_exception(HiveError(Code.INSUFFICIENT_RESOURCES, "the others could not decide"))
        with pytest.raises(HiveError, match="could not decide"):
            await move.call
    else:
        await move.is_broken_off()
    assert (move.left, move.moved) == (0, 0)
    move.answer = asyncio.get_running_loop().create_future()
    move.answer.set_result(ClusterAnswer(node=ME))
    await move.second(second)
    assert (move.left, move.moved) == ((0, 1) if second == "move" else (1, 0))


@pytest.mark.parametrize("code", [Code.NODE_NOT_FOUND, Code.NODE_REMOVED, Code.OUTCOME_UNKNOWN])
@pytest.mark.parametrize("way", ["move", "leave"])
async def test_one_that_another_call_took_out_beside_goes_on_its_way(way: str, code: Code) -> None:
    """As `cluster remove` does with its id. The leader has nothing to take out any more, and what was wanted of it is done."""
    move = _Move()
    await move.is_asked()
    if way == "leave":
        await move.is_at_leave()
    move.cluster.taken_out()
    move.answer.set_exception(HiveError(code, "the hive has no such node"))
    await move.call
    assert (move.left, move.moved) == ((0, 1) if way == "move" else (1, 0))


async def test_one_that_is_out_and_cannot_note_where_it_is_to_go_leaves() -> None:
    """Else it stays up without a hive."""
    move = _Move()
    move.disk_refuses = True
    await move.is_asked()
    move.answer.set_result(ClusterAnswer(node=ME))
    with pytest.raises(OSError, match="No space left"):
        await move.call
    assert (move.left, move.moved) == (1, 0)


async def test_one_that_has_left_goes_nowhere() -> None:
    move = _Move()
    await move.is_asked()
    await move.is_broken_off()
    move.cluster.taken_out()
    with pytest.raises(HiveError, match="is leaving its hive"):
        await move.move()
    assert (move.left, move.moved) == (1, 0)
