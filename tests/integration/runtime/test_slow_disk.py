"""A disk that takes its time: it deposes nobody for a moment, and the leader hands over when it lasts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hivenode.consensus import Heartbeat, HeartbeatResponse, MemberId
from hivenode.errors import Code, HiveError
from hivenode.pool import queries
from tests.support.replicas import (
    DEADLINE_S,
    PATIENT_MS,
    Member,
    at_rest,
    count_sent,
    create_hive,
    leader_of,
    others,
    register,
    three,
    until,
)


async def test_a_leader_whose_disk_writes_for_long_sends_heartbeats_meanwhile(tmp_path: Path) -> None:
    async with three(tmp_path, PATIENT_MS) as members:
        leader = await at_rest(members)
        term = leader.replica.status().term
        sent = count_sent(leader)
        with leader.stuck_disk():
            writing = asyncio.create_task(register(leader, "alice"))
            await until(
                lambda: all(member.log.last_index() > leader.log.last_index() for member in others(members, leader))
            )
            sent.clear()
            await until(lambda: sent[Heartbeat] >= 10)
            assert not writing.done()
        assert not (await writing).refused
        assert leader.replica.leads
        assert leader.replica.status().term == term


async def test_a_follower_whose_disk_writes_for_long_answers_heartbeats_meanwhile(tmp_path: Path) -> None:
    async with three(tmp_path, PATIENT_MS) as members:
        leader = await at_rest(members)
        slow, other = others(members, leader)
        sent = count_sent(slow)
        with slow.stuck_disk():
            await register(leader, "alice")
            await until(lambda: other.replica.applied_index == leader.replica.applied_index)
            assert slow.log.last_index() < other.log.last_index()
            sent.clear()
            await until(lambda: sent[HeartbeatResponse] >= 10)
        await slow.reaches(leader)
        assert queries.balance(slow.replica.view(), "alice") == 1000


async def test_a_leader_whose_disk_is_stuck_hands_over_and_does_not_come_back_meanwhile(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        stuck = await at_rest(members)
        rest = others(members, stuck)
        with stuck.stuck_disk():
            writing = asyncio.create_task(register(stuck, "alice"))
            heir = await leader_of(rest)
            await register(heir, "bob")
            with pytest.raises(HiveError) as failure:
                await writing
            assert failure.value.code is Code.OUTCOME_UNKNOWN
            assert not stuck.replica.leads
        await stuck.reaches(heir)
        await heir.replica.read_barrier(DEADLINE_S)
        assert stuck.replica.leader == MemberId(heir.id)
        assert stuck.rows() == heir.rows()


async def test_the_only_voter_whose_disk_is_stuck_refuses_writes_and_does_them_not_later(tmp_path: Path) -> None:
    member = Member("a", tmp_path / "a", {}).birth()
    try:
        member.start(born=True)
        await member.replica.wait_until_leading(DEADLINE_S)
        await create_hive(member)
        with member.stuck_disk():
            writing = asyncio.create_task(register(member, "alice"))
            await until(lambda: member.replica.writing.stalled)
            with pytest.raises(HiveError) as failure:
                await register(member, "bob")
            assert failure.value.code is Code.DISK_FULL
            await member.replica.read_barrier(DEADLINE_S)
        assert not (await writing).refused
        assert not (await register(member, "carol")).refused
        assert queries.user(member.replica.view(), "bob") is None
    finally:
        await member.crash()
