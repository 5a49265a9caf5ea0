"""Calls for a copy of the agreed state that are broken off, come together, come while the member ends, or take long.

A snapshot of the leader's that comes meanwhile is installed at once, and the copy goes on with the state that it began with.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from hivenode.consensus import HeartbeatResponse
from hivenode.errors import Code, HiveError
from hivenode.pool.events import StateReplaced
from hivenode.runtime.stores import Flush
from tests.support.disks import Disk
from tests.support.replicas import (
    BOUNDS,
    DEADLINE_S,
    PATIENT_MS,
    Member,
    at_rest,
    count_sent,
    leader_of,
    others,
    register,
    three,
    until,
)

TURNS = 20
"""Rounds of the event loop after which every task that could do something has done it."""


BEFORE_ITS_ROWS = "snapshot begun"
WITHOUT_A_NAME = "snapshot written"


class Copies:
    """The copies that a member makes: each waits, as long as it is held, before its first row, or when it has no name yet.

    Or the snapshots that it unpacks, with another step.
    """

    def __init__(self, member: Member, held_at: str = WITHOUT_A_NAME) -> None:
        self._held_at = held_at
        self.begun = 0
        self.ended = 0
        self.at_once = 0
        self.unpacked = 0
        """Snapshots of others that are ready to be installed."""
        self.free = threading.Event()
        member.snapshots._step = self._step

    def _step(self, name: str) -> None:
        if name == self._held_at:
            self.begun += 1
            self.at_once = max(self.at_once, self.begun - self.ended)
            self.free.wait(DEADLINE_S)
            self.ended += 1
        elif name == "state folder complete":
            self.unpacked += 1


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def _falls_behind(member: Member, leader: Member) -> None:
    """Cuts the member off until the leader's log no longer reaches back to its own."""
    member.network.pop(member.id)
    for start in range(0, 2 * BOUNDS.entries_max, 50):
        await asyncio.gather(*(register(leader, f"user{start + number}") for number in range(50)))
    await until(lambda: leader.log.first_index() > member.log.last_index() + 1)
    member.network[member.id] = member


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


async def test_a_copy_that_is_not_over_when_its_member_ends_is_ended(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        copies = Copies(leader, BEFORE_ITS_ROWS)
        call = asyncio.create_task(leader.replica.make_snapshot())
        await until(lambda: copies.begun == 1)
        await leader.replica.stop()
        await until(leader.snapshots._ended.is_set)
        copies.free.set()
        assert leader.task is not None
        await leader.task
        with pytest.raises(HiveError) as refusal:
            await call
        assert refusal.value.code is Code.SHUTTING_DOWN
        assert list((leader.folder / "snapshots").iterdir()) == []


async def test_a_snapshot_that_is_not_unpacked_when_its_member_ends_is_given_up(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await at_rest(members)
        member = others(members, leader)[0]
        unpacking = Copies(member, "state folder made")
        await _falls_behind(member, leader)
        await until(lambda: unpacking.begun == 1)
        untold: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: untold.append(context))
        await member.replica.stop()
        await until(member.snapshots._ended.is_set)
        unpacking.free.set()
        assert member.task is not None
        await member.task
        member.replica._fetcher._at_work = None
        gc.collect()
        assert untold == [], "the end of a node is no failure to tell of"
        assert unpacking.unpacked == 0
        assert [path.name for path in member.folder.glob("state*")] == ["state"]


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


@pytest.mark.parametrize("held_at", [BEFORE_ITS_ROWS, WITHOUT_A_NAME])
async def test_a_member_installs_a_snapshot_while_it_makes_a_copy_which_is_of_the_state_before(
    tmp_path: Path, held_at: str
) -> None:
    async with three(tmp_path, PATIENT_MS) as members:
        leader = await at_rest(members)
        member, third = others(members, leader)
        index, rows = member.replica.applied_index, member.rows()
        copies = Copies(member, held_at)
        call = asyncio.create_task(member.replica.make_snapshot())
        await until(lambda: copies.begun == 1)
        await _falls_behind(member, leader)
        third.network.pop(third.id)
        # The leader and the member that makes a copy are the majority.
        await register(leader, "alice")
        await member.reaches(leader)
        assert any(isinstance(event, StateReplaced) for event in member.events)
        assert not call.done()
        copies.free.set()
        made = await call
        assert made.meta.index == index
        other = Disk(tmp_path / "other")
        other.install(other.take(made))
        assert other.rows() == rows
        other.close()
        third.network[third.id] = third
        again = await member.replica.make_snapshot()
        assert again.meta.index > index
        assert member.log.snapshot().meta == again.meta
        assert member.rows() == leader.rows()


async def test_a_member_votes_while_it_makes_a_copy_and_installs_a_snapshot(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await at_rest(members)
        member, third = others(members, leader)
        copies = Copies(member)
        call = asyncio.create_task(member.replica.make_snapshot())
        await until(lambda: copies.begun == 1)
        await _falls_behind(member, leader)
        await third.reaches(leader)
        await leader.crash()
        assert await leader_of([member, third]) is third
        await register(third, "alice")
        assert not call.done()
        copies.free.set()
        await call


async def test_a_member_that_installed_a_snapshot_while_it_makes_a_copy_ends_after_the_copy(tmp_path: Path) -> None:
    async with three(tmp_path, PATIENT_MS) as members:
        leader = await at_rest(members)
        member = others(members, leader)[0]
        index = member.replica.applied_index
        copies = Copies(member)
        call = asyncio.create_task(member.replica.make_snapshot())
        await until(lambda: copies.begun == 1)
        await _falls_behind(member, leader)
        await member.reaches(leader)
        await member.replica.stop()
        await _turns()
        assert member.task is not None
        assert not member.task.done()
        copies.free.set()
        await member.task
        assert (await call).meta.index == index
        await member.crash()
        again = member.again().start()
        await again.reaches(leader)
        assert again.rows() == leader.rows()


@pytest.mark.parametrize("stops", [False, True])
async def test_a_member_answers_while_a_snapshot_waits_for_a_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stops: bool
) -> None:
    async with three(tmp_path, PATIENT_MS) as members:
        leader = await at_rest(members)
        member = others(members, leader)[0]
        copies, flushing, free = Copies(member), threading.Event(), threading.Event()
        commit = member.state.commit_flush

        def commit_late(flush: Flush) -> None:
            flushing.set()
            free.wait(DEADLINE_S)
            commit(flush)

        monkeypatch.setattr(member.state, "commit_flush", commit_late)
        member.replica.state_writing.want_flush()
        await until(flushing.is_set)
        await _falls_behind(member, leader)
        await until(lambda: copies.unpacked == 1)
        sent = count_sent(member)
        await until(lambda: sent[HeartbeatResponse] >= 10)
        assert not any(isinstance(event, StateReplaced) for event in member.events)
        if stops:
            await member.replica.stop()
            await _turns()
            free.set()
            assert member.task is not None
            await member.task
            assert not any(isinstance(event, StateReplaced) for event in member.events)
        else:
            free.set()
            await member.reaches(leader)
            assert any(isinstance(event, StateReplaced) for event in member.events)
            assert member.rows() == leader.rows()
