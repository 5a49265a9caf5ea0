"""The two-node rule on real disks: with one voter the answer waits for the learner's disk, or says that there is one copy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hivenode.consensus import AppendRequest, AppendResponse, ConfChange, Message
from hivenode.pool import queries
from hivenode.runtime.copies import acknowledged_copies
from tests.support.replicas import DEADLINE_S, Member, create_hive, register, until


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[tuple[Member, Member]]:
    """A voter that leads, and a learner that has caught up."""
    network: dict[str, Member] = {}
    leader, learner = Member("a", folder / "a", network).birth(), Member("b", folder / "b", network)
    try:
        leader.start(born=True)
        await leader.replica.wait_until_leading(DEADLINE_S)
        learner.log.bind("h" * 32, None)
        learner.start()
        await create_hive(leader)
        assert (acknowledged_copies.get(), leader.replica.copies) == (1, 1)
        await leader.replica.propose_conf_change(ConfChange(add_learners=(learner.id,)), deadline_s=DEADLINE_S)
        await learner.reaches(leader)
        await until(lambda: leader.replica.copies == 2)
        yield leader, learner
    finally:
        for member in list(network.values()):
            await member.crash()


async def test_what_two_copies_are_said_of_is_in_the_learners_log(tmp_path: Path) -> None:
    async with two(tmp_path) as (leader, learner):
        for number in range(20):
            await register(leader, f"user{number}")
            assert acknowledged_copies.get() == 2
            assert learner.log.last_index() >= leader.replica.applied_index
        assert learner.replica.copies == 2


async def test_the_answer_waits_while_the_learner_is_slow(tmp_path: Path) -> None:
    async with two(tmp_path) as (leader, learner):
        held: list[Message] = []
        send = learner.send

        def slow(message: Message) -> None:
            if isinstance(message, AppendResponse):
                held.append(message)
            else:
                send(message)

        learner.replica._send = slow
        writing = asyncio.create_task(copies_of(leader, "alice"))
        await until(lambda: bool(held) and queries.balance(leader.replica.view(), "alice") == 1000)
        assert not writing.done(), "applied, and not answered"
        learner.replica._send = send
        for message in held:
            send(message)
        assert await writing == 2


async def copies_of(leader: Member, name: str) -> int:
    await register(leader, name)
    return acknowledged_copies.get()


async def test_a_learner_that_acknowledges_nothing_delays_for_two_seconds_at_most(tmp_path: Path) -> None:
    async with two(tmp_path) as (leader, learner):
        receive = learner.replica.receive
        deaf = Deaf(receive)
        learner.replica.receive = deaf.receive  # type: ignore[method-assign]
        began = time.monotonic()
        assert await copies_of(leader, "alice") == 1
        assert time.monotonic() - began < 5
        assert leader.replica.copies == 1, "the learner keeps up, and does not have it"
        learner.replica.receive = receive  # type: ignore[method-assign]
        await learner.reaches(leader)
        await until(lambda: leader.replica.copies == 2)
        assert await copies_of(leader, "bob") == 2


class Deaf:
    """Hears heartbeats and loses entries."""

    def __init__(self, receive: object) -> None:
        self._receive = receive

    def receive(self, message: Message) -> None:
        if not (isinstance(message, AppendRequest) and message.entries):
            self._receive(message)  # type: ignore[operator]


async def test_without_its_learner_the_leader_answers_at_once_and_says_one_copy(tmp_path: Path) -> None:
    async with two(tmp_path) as (leader, learner):
        await learner.crash()
        await until(lambda: leader.replica.copies == 1)
        writes = [copies_of(leader, f"user{number}") for number in range(10)]
        assert await asyncio.gather(*writes) == [1] * 10
        back = learner.again().start()
        await back.reaches(leader)
        await until(lambda: leader.replica.copies == 2)
        assert await copies_of(leader, "later") == 2


async def test_an_answer_that_waits_ends_with_its_callers_deadline_and_says_that_it_is_done(tmp_path: Path) -> None:
    async with two(tmp_path) as (leader, learner):
        deaf = Deaf(learner.replica.receive)
        learner.replica.receive = deaf.receive  # type: ignore[method-assign]
        reply = await register(leader, "alice", deadline_s=0.3)
        assert not reply.refused
        assert acknowledged_copies.get() == 1
        learner.replica.receive = deaf._receive  # type: ignore[method-assign,assignment]
