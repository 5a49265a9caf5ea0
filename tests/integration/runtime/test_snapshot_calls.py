"""Calls for a copy of the agreed state that are broken off, come together, or come while the member ends."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from hivenode.errors import Code, HiveError
from tests.support.replicas import DEADLINE_S, Member, leader_of, register, three, until

TURNS = 20
"""Rounds of the event loop after which every task that could do something has done it."""


class Copies:
    """The copies that a member makes: each waits, as long as it is held, when it is on disk and has no name yet."""

    def __init__(self, member: Member) -> None:
        self.begun = 0
        self.ended = 0
        self.at_once = 0
        self.free = threading.Event()
        member.snapshots._step = self._step

    def _step(self, name: str) -> None:
        if name == "snapshot written":
            self.begun += 1
            self.at_once = max(self.at_once, self.begun - self.ended)
            self.free.wait(DEADLINE_S)
            self.ended += 1


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def test_a_call_that_is_broken_off_while_the_state_is_written_stops_nobody(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        await register(leader, "alice")
        with leader.stuck_disk():
            call = asyncio.create_task(leader.replica.make_snapshot())
            await until(lambda: not leader.state.dirty)
            call.cancel()
            await asyncio.wait((call,))
        await register(leader, "bob")
        index = leader.replica.applied_index
        made = await leader.replica.make_snapshot()
        assert made.meta.index >= index
        assert leader.task is not None
        assert not leader.task.done()


async def test_calls_while_a_copy_is_made_share_the_next_one_also_when_the_first_is_broken_off(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        copies = Copies(leader)
        first = asyncio.create_task(leader.replica.make_snapshot())
        await until(lambda: copies.begun == 1)
        await register(leader, "alice")
        index = leader.replica.applied_index
        later = [asyncio.create_task(leader.replica.make_snapshot()) for _ in range(3)]
        await _turns()
        first.cancel()
        await asyncio.wait((first,))
        await _turns()
        copies.free.set()
        made = await asyncio.gather(*later)
        assert (copies.begun, copies.ended, copies.at_once) == (2, 2, 1)
        assert {copy.ref for copy in made} == {made[0].ref}
        assert made[0].meta.index >= index
        assert [path.name for path in made[0].path.parent.iterdir()] == [made[0].path.name]


async def test_a_member_ends_after_the_copy_that_it_makes_and_begins_no_other(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        copies = Copies(leader)
        first = asyncio.create_task(leader.replica.make_snapshot())
        await until(lambda: copies.begun == 1)
        second = asyncio.create_task(leader.replica.make_snapshot())
        await _turns()
        await leader.replica.stop()
        await _turns()
        assert leader.task is not None
        assert not leader.task.done()
        copies.free.set()
        await leader.task
        assert (await first).path.exists()
        with pytest.raises(HiveError) as refusal:
            await second
        assert refusal.value.code is Code.SHUTTING_DOWN
        assert copies.begun == 1


async def test_damage_that_a_copy_finds_stops_the_member_although_nobody_waits_for_the_copy(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        await register(leader, "alice")
        await leader.replica.make_snapshot()
        with leader.state._environment.begin(write=True, db=leader.state._main) as transaction:
            transaction.put(b"\xff", b"a row without a seal")
        with leader.stuck_disk():
            call = asyncio.create_task(leader.replica.make_snapshot())
            await _turns()
            call.cancel()
            await asyncio.wait((call,))
        assert leader.task is not None
        await asyncio.wait((leader.task,), timeout=DEADLINE_S)
        assert leader.task.done()
        assert "not what was written" in str(leader.task.exception())
