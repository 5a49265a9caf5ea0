"""What waits for the replica's task: when proposals that came while others were being agreed on are appended."""

from __future__ import annotations

import asyncio

from hivenode.pool.commands import RegisterUser
from hivenode.runtime.inbox import CROWD, GATHER_MS, GATHERED_MAX, QUIET_MS, Inbox, Proposal

NOW_MS = 1_000


async def _proposal() -> Proposal:
    body = RegisterUser(username="alice", password_hash="x", email="")
    return Proposal(body, "test", "", 0, asyncio.get_running_loop().create_future())


def _take(inbox: Inbox) -> None:
    inbox.proposals.clear()


async def test_the_first_wakes_the_replica_and_those_after_it_only_when_they_are_enough() -> None:
    inbox = Inbox()
    woken = [number for number in range(GATHERED_MAX + 1) if inbox.propose(await _proposal(), NOW_MS + number)]
    assert woken == [0, GATHERED_MAX - 1]


async def test_what_comes_alone_waits_for_nothing() -> None:
    inbox = Inbox()
    assert inbox.gathered(NOW_MS, idle=True) == 0
    for _ in range(CROWD - 1):
        inbox.propose(await _proposal(), NOW_MS)
    assert inbox.gathered(NOW_MS, idle=True) == CROWD - 1
    _take(inbox)
    inbox.propose(await _proposal(), NOW_MS)
    assert inbox.gathered(NOW_MS, idle=True) == 1


async def test_while_others_are_agreed_on_proposals_gather_until_none_comes() -> None:
    inbox = Inbox()
    inbox.propose(await _proposal(), NOW_MS)
    inbox.propose(await _proposal(), NOW_MS + QUIET_MS - 1)
    assert inbox.deadline_ms == NOW_MS + 2 * QUIET_MS - 1
    assert inbox.gathered(NOW_MS + 2 * QUIET_MS - 2, idle=False) == 0
    assert inbox.gathered(NOW_MS + 2 * QUIET_MS - 1, idle=False) == 2


async def test_proposals_that_keep_coming_gather_no_longer_than_the_oldest_may_wait() -> None:
    inbox = Inbox()
    for now_ms in range(NOW_MS, NOW_MS + GATHER_MS):
        inbox.propose(await _proposal(), now_ms)
        assert inbox.gathered(now_ms, idle=False) == 0
    assert inbox.deadline_ms == NOW_MS + GATHER_MS
    assert inbox.gathered(NOW_MS + GATHER_MS, idle=False) == GATHER_MS


async def test_after_a_round_of_many_proposals_gather_though_none_are_agreed_on() -> None:
    inbox = Inbox()
    for _ in range(CROWD):
        inbox.propose(await _proposal(), NOW_MS)
    assert inbox.gathered(NOW_MS, idle=True) == CROWD
    _take(inbox)
    inbox.propose(await _proposal(), NOW_MS)
    assert inbox.gathered(NOW_MS, idle=True) == 0
    assert inbox.gathered(NOW_MS + QUIET_MS, idle=True) == 1


async def test_many_are_forgotten_when_few_come_for_some_rounds() -> None:
    inbox = Inbox()
    for _ in range(GATHERED_MAX):
        inbox.propose(await _proposal(), NOW_MS)
    for _ in range(40):
        assert inbox.gathered(NOW_MS + GATHER_MS, idle=True)
        _take(inbox)
        inbox.propose(await _proposal(), NOW_MS)
    assert inbox.gathered(NOW_MS, idle=True) == 1


async def test_a_new_gathering_begins_with_its_own_first_proposal() -> None:
    inbox = Inbox()
    inbox.propose(await _proposal(), NOW_MS)
    _take(inbox)
    assert inbox.deadline_ms is None
    assert inbox.propose(await _proposal(), NOW_MS + 100)
    assert inbox.gathered(NOW_MS + 100, idle=False) == 0


async def test_enough_proposals_wait_for_nothing() -> None:
    inbox = Inbox()
    for _ in range(GATHERED_MAX - 1):
        inbox.propose(await _proposal(), NOW_MS)
    assert inbox.gathered(NOW_MS, idle=False) == 0
    inbox.propose(await _proposal(), NOW_MS)
    assert inbox.gathered(NOW_MS, idle=False) == GATHERED_MAX
