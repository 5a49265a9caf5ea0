"""Replicas on real disks in one process: agreement, restart from disk, loss of a leader, what proposals end in, snapshots."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from hivenode.consensus import ConfChange, Entry, Heartbeat, HeartbeatResponse, Message, ReadIndexResponse
from hivenode.errors import Code, HiveError
from hivenode.pool import queries
from hivenode.pool.commands import OpenSession, RegisterUser, Transfer
from hivenode.pool.events import StateReplaced
from hivenode.runtime.reads import READ_RETRY_MS
from hivenode.runtime.replica import APPLIED_AT_ONCE
from tests.support.replicas import (
    DEADLINE_S,
    PATIENT_MS,
    Member,
    at_rest,
    count_sent,
    leader_of,
    others,
    propose,
    register,
    three,
    until,
)


async def test_three_members_agree_and_a_follower_reads_what_was_acknowledged(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        reply = await register(leader, "alice")
        assert not reply.refused
        for member in members:
            await member.replica.read_barrier(DEADLINE_S)
            assert queries.balance(member.replica.view(), "alice") == 1000


async def test_members_far_apart_read_what_was_acknowledged(tmp_path: Path) -> None:
    """An answer takes longer than it takes until the question is asked again."""
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        await register(leader, "alice")
        for member in members:
            member.way_s = 0.6 * READ_RETRY_MS / 1_000
        for member in members:
            await member.replica.read_barrier(DEADLINE_S)
            assert queries.balance(member.replica.view(), "alice") == 1000


async def test_a_follower_refuses_to_propose_and_nothing_is_done(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        follower = next(member for member in members if member is not leader)
        with pytest.raises(HiveError) as refusal:
            await register(follower, "alice")
        assert refusal.value.code is Code.NO_LEADER


async def test_what_was_acknowledged_survives_the_crash_of_all_members(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        names = [f"user{number}" for number in range(50)]
        await asyncio.gather(*(register(leader, name) for name in names))
        for member in members:
            await member.crash()
        members = [member.again().start() for member in members]
        leader = await leader_of(members)
        await leader.replica.read_barrier(DEADLINE_S)
        view = leader.replica.view()
        assert [name for name in names if queries.balance(view, name) != 1000] == []
        assert queries.total_cpt(view) == 10**9


async def test_a_transfer_repeated_with_its_key_at_the_next_leader_moves_money_once(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        await register(leader, "alice")
        await register(leader, "bob")
        await propose(leader, OpenSession(session_id="s1", username="alice", lifetime_ms=3_600_000))
        transfer = Transfer(session_id="s1", receiver="bob", amount=10)
        first = await propose(leader, transfer, key="k")
        await leader.crash()
        rest = others(members, leader)
        successor = await leader_of(rest)
        second = await propose(successor, transfer, key="k")
        assert (first.number, second.number) == (990, 990)
        assert queries.balance(successor.replica.view(), "bob") == 1010


async def test_a_proposal_without_a_majority_ends_as_unknown_at_the_deadline(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        for member in others(members, leader):
            await member.crash()
        with pytest.raises(HiveError) as failure:
            await leader.replica.propose(RegisterUser(username="late", password_hash="x", email=""), deadline_s=0.05)
        assert failure.value.code is Code.OUTCOME_UNKNOWN
        with pytest.raises(HiveError) as no_read:
            await leader.replica.read_barrier(0.1)
        assert no_read.value.code is Code.NO_LEADER


async def test_a_proposal_does_not_wait_for_an_earlier_one_that_nobody_answers(tmp_path: Path) -> None:
    # A leader that nobody answers steps down after an election timeout, which may pass before it is asked.
    async with three(tmp_path, PATIENT_MS) as members:
        leader = await at_rest(members)
        for member in others(members, leader):
            await member.crash()
        before = leader.log.last_index()
        first = asyncio.create_task(register(leader, "first"))
        await until(lambda: leader.log.last_index() == before + 1)
        second = asyncio.create_task(register(leader, "second"))
        await until(lambda: leader.log.last_index() == before + 2)
        for task in (first, second):
            assert not task.done()
            task.cancel()


async def register_many(leader: Member, tag: str, count: int = 600) -> None:
    for start in range(0, count, 100):
        names = [f"{tag}{number}" for number in range(start, start + 100)]
        await asyncio.gather(*(register(leader, name) for name in names))


async def compacted(member: Member) -> None:
    """Waits until the log no longer begins with its first entry."""
    await until(lambda: member.log.first_index() > 1)


async def test_a_member_that_was_away_for_longer_than_the_log_reaches_back_catches_up_by_a_snapshot(
    tmp_path: Path,
) -> None:
    async with three(tmp_path) as members, asyncio.timeout(60):
        leader = await leader_of(members)
        away = next(member for member in members if member is not leader)
        await register(leader, "early")
        await away.reaches(leader)
        await away.crash()
        await register_many(leader, "user")
        await compacted(leader)
        assert leader.log.first_index() > away.log.last_index() + 1
        back = away.again()
        back.break_after = 5_000
        back.start()
        await back.reaches(leader)
        assert (len(back.fetched_from), back.fetched_from[0]) == (2, 0)
        assert back.fetched_from[1] >= 5_000, "it goes on where the connection broke"
        assert any(isinstance(event, StateReplaced) for event in back.events)
        assert back.rows() == leader.rows()
        assert back.state.digest == leader.state.digest
        await back.replica.read_barrier(DEADLINE_S)
        assert queries.balance(back.replica.view(), "user42") == 1000
        # It votes again, and has its state after a restart: a majority is needed with another one gone.
        third = next(member for member in members if member not in (leader, away))
        await third.crash()
        await register(leader, "later")
        await back.reaches(leader)
        await back.crash()
        again = back.again().start()
        assert again.folder.joinpath("state.1").is_dir()
        assert not again.folder.joinpath("state").exists()
        await register(leader, "latest")
        await again.reaches(leader)
        assert again.rows() == leader.rows()


async def test_a_newcomer_to_a_compacted_hive_begins_with_a_snapshot(tmp_path: Path) -> None:
    async with three(tmp_path) as members, asyncio.timeout(60):
        leader = await leader_of(members)
        await register_many(leader, "user", 300)
        await compacted(leader)
        newcomer = Member("d", tmp_path / "d", leader.network)
        newcomer.log.bind("h" * 32, None)
        newcomer.start()
        await leader.replica.propose_conf_change(ConfChange(add_learners=(newcomer.id,)), deadline_s=DEADLINE_S)
        await newcomer.reaches(leader)
        assert newcomer.rows() == leader.rows()
        await until(lambda: newcomer.id in newcomer.replica.status().conf.learners)
        await leader.replica.propose_conf_change(ConfChange(add_voters=(newcomer.id,)), deadline_s=DEADLINE_S)
        await register(leader, "after")
        await newcomer.reaches(leader)
        assert newcomer.state.digest == leader.state.digest


async def test_all_members_with_compacted_logs_come_back_from_disk(tmp_path: Path) -> None:
    async with three(tmp_path) as members, asyncio.timeout(60):
        leader = await leader_of(members)
        await register_many(leader, "user")
        for member in members:
            await member.reaches(leader)
            await compacted(member)
            await member.crash()
        members = [member.again() for member in members]
        assert all(member.log.first_index() > 1 for member in members)
        assert all(member.state.applied_index >= member.log.first_index() - 1 for member in members)
        members = [member.start() for member in members]
        leader = await leader_of(members)
        await register(leader, "later")
        for member in members:
            await member.reaches(leader)
            assert member.rows() == leader.rows()
        assert queries.total_cpt(leader.replica.view()) == 10**9


async def test_a_snapshot_whose_holder_dies_is_fetched_from_the_next_leader(tmp_path: Path) -> None:
    async with three(tmp_path) as members, asyncio.timeout(60):
        leader = await leader_of(members)
        away = next(member for member in members if member is not leader)
        await away.crash()
        await register_many(leader, "user")
        await compacted(leader)
        fourth = Member("d", tmp_path / "d", leader.network)
        fourth.log.bind("h" * 32, None)
        fourth.start()
        await leader.replica.propose_conf_change(ConfChange(add_voters=(fourth.id,)), deadline_s=DEADLINE_S)
        back = away.again()
        back.break_after = 3_000
        back.start()
        await back.fetching.wait()
        await leader.crash()
        rest = [member for member in (*members, back, fourth) if member.id in leader.network and member is not away]
        successor = await leader_of(rest)
        await register(successor, "after")
        await back.reaches(successor)
        assert back.rows() == successor.rows()


async def test_an_answer_to_a_read_of_an_earlier_life_confirms_none_of_this_one(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        reader = next(member for member in members if member is not leader)
        await reader.reaches(leader)
        held: list[Message] = []
        send = leader.replica._send

        def delayed(message: Message) -> None:
            if isinstance(message, ReadIndexResponse) and message.to == reader.id:
                held.append(message)
            else:
                send(message)

        leader.replica._send = delayed
        for life in (1, 2):
            await reader.crash()
            reader = reader.again().start()
            leads = asyncio.create_task(reader.replica.wait_for_leader(DEADLINE_S))
            await leads
            asked = len(held)
            reading = asyncio.create_task(reader.replica.read_barrier(0.25))
            await until(lambda n=asked: len(held) > n)  # type: ignore[misc]
            if life == 2:
                # The answer to the first life's question has an index of before what was acknowledged since.
                for message in held[:asked]:
                    reader.replica.receive(message)
            with pytest.raises(HiveError):
                await reading
            await register(leader, f"user{life}")


async def test_a_member_that_applies_much_answers_between_two_pieces_of_it(tmp_path: Path) -> None:
    async with three(tmp_path, PATIENT_MS) as members:
        leader = await at_rest(members)
        member = others(members, leader)[0]
        heartbeat = Heartbeat(to=member.id, from_=leader.id, term=leader.replica.status().term, commit=0)
        sent, answers = count_sent(member), [0]
        apply = member.replica._apply

        def apply_piece(entries: tuple[Entry, ...]) -> None:
            apply(entries)
            answers.append(sent[HeartbeatResponse])
            member.replica.receive(heartbeat)

        member.replica._apply = apply_piece  # type: ignore[method-assign]
        member.network.pop(member.id)
        await asyncio.gather(*(register(leader, f"user{number}") for number in range(5 * APPLIED_AT_ONCE)))
        member.network[member.id] = member
        await member.reaches(leader)
        assert len(answers) > 5
        assert all(before < after for before, after in pairwise(answers[1:]))
