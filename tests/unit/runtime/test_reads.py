"""Reads at one member: which answer counts for which of them."""

from __future__ import annotations

import asyncio

import pytest

from hivenode.consensus import ReadState
from hivenode.errors import Code, HiveError
from hivenode.runtime.reads import QUESTIONS_MAX, READ_RETRY_MS, Reads


class Asked:
    """A leader that notes what it is asked."""

    def __init__(self) -> None:
        self.is_there = True
        self.is_busy = False
        self.questions: list[bytes] = []
        self.reads = Reads("member.1", self.ask)
        self.now_ms = 0

    def ask(self, context: bytes) -> None:
        if not self.is_there:
            raise HiveError(Code.NO_LEADER, "nobody leads")
        if self.is_busy:
            raise HiveError(Code.OVERLOADED, "too many reads wait already")
        self.questions.append(context)

    def read(self) -> asyncio.Future[None]:
        read: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reads.add(read)
        self.reads.ask(self.now_ms)
        return read

    def later(self, ms: int = READ_RETRY_MS) -> None:
        self.now_ms += ms
        self.reads.ask(self.now_ms)

    def answer(self, number: int, *, index: int = 1, applied: int = 1) -> None:
        self.reads.confirm(ReadState(context=self.questions[number], index=index), applied)


@pytest.fixture
def leader() -> Asked:
    return Asked()


async def test_an_answer_that_takes_longer_than_the_next_question_counts(leader: Asked) -> None:
    read = leader.read()
    for _ in range(QUESTIONS_MAX - 1):
        leader.later()
    assert len(leader.questions) == QUESTIONS_MAX
    leader.answer(0)
    assert read.done()


async def test_an_answer_to_a_question_of_long_ago_counts_no_more(leader: Asked) -> None:
    read = leader.read()
    for _ in range(QUESTIONS_MAX):
        leader.later()
    leader.answer(0)
    assert not read.done()
    leader.answer(1)
    assert read.done()


async def test_a_question_that_was_lost_is_asked_again_and_its_answer_counts_for_all_before_it(leader: Asked) -> None:
    first = leader.read()
    leader.later(1)
    second = leader.read()
    assert len(leader.questions) == 1, "who comes while a question is under way waits for the next"
    leader.later()
    leader.answer(1)
    assert first.done()
    assert second.done()
    leader.later()
    leader.answer(0)
    assert len(leader.questions) == 2, "nobody waits any more"


@pytest.mark.parametrize("asked", [False, True], ids=["waits", "is asked for already"])
async def test_an_answer_does_not_count_for_a_read_that_came_after_its_question(leader: Asked, asked: bool) -> None:
    """And it leaves the later question to the later read, be that out by then or not."""
    first = leader.read()
    leader.later(1)
    second = leader.read()
    if asked:
        leader.later()
    leader.answer(0)
    assert first.done()
    assert not second.done()
    leader.later(1)
    leader.answer(1)
    assert second.done()


async def test_a_read_waits_until_what_it_was_told_is_applied(leader: Asked) -> None:
    read = leader.read()
    leader.answer(0, index=7, applied=6)
    assert not read.done()
    leader.reads.applied(6)
    assert not read.done()
    leader.reads.applied(7)
    assert read.done()


async def test_what_an_earlier_leader_was_asked_is_asked_of_the_next_one(leader: Asked) -> None:
    read = leader.read()
    leader.reads.ask_anew()
    leader.answer(0)
    assert not read.done(), "an answer of the earlier one"
    leader.later(0)
    leader.answer(1)
    assert read.done()


async def test_a_read_without_a_leader_is_asked_as_soon_as_there_is_one(leader: Asked) -> None:
    leader.is_there = False
    read = leader.read()
    leader.is_there = True
    leader.later(0)
    leader.answer(0)
    assert read.done()


async def test_what_a_leader_was_asked_counts_when_it_takes_no_further_question(leader: Asked) -> None:
    first = leader.read()
    leader.is_busy = True
    leader.later()
    second = leader.read()
    leader.answer(0)
    assert first.done()
    assert not second.done()
    leader.is_busy = False
    leader.later(0)
    leader.answer(1)
    assert second.done()


async def test_nobody_is_asked_for_reads_whose_callers_have_gone(leader: Asked) -> None:
    leader.read().cancel()
    leader.later()
    assert len(leader.questions) == 1
    leader.read()
    assert len(leader.questions) == 2
