"""What waits for the replica's task: when proposals that came while others were being agreed on are appended."""

from __future__ import annotations

import asyncio

from hivenode.pool.commands import RegisterUser
from hivenode.runtime.inbox import GATHER_MS, GATHERED_MAX, Inbox, Proposal

NOW_MS = 1_000


async def _proposal() -> Proposal:
    body = RegisterUser(username="alice", password_hash="x", email="")
    return Proposal(body, "test", "", 0, asyncio.get_running_loop().create_future())


async def test_the_first_wakes_the_replica_and_those_after_it_only_when_they_are_enough() -> None:
    inbox = Inbox()
    woken = [number for number in range(GATHERED_MAX + 1) if inbox.propose(await _proposal(), NOW_MS + number)]
    assert woken == [0, GATHERED_MAX - 1]


async def test_proposals_gather_until_the_oldest_has_waited_long_enough() -> None:
    inbox = Inbox()
    inbox.propose(await _proposal(), NOW_MS)
    inbox.propose(await _proposal(), NOW_MS + GATHER_MS - 1)
    assert inbox.deadline_ms == NOW_MS + GATHER_MS
    assert not inbox.has_gathered(NOW_MS + GATHER_MS - 1)
    assert inbox.has_gathered(NOW_MS + GATHER_MS)


async def test_a_new_gathering_begins_with_its_own_first_proposal() -> None:
    inbox = Inbox()
    inbox.propose(await _proposal(), NOW_MS)
    inbox.proposals.clear()
    assert inbox.deadline_ms is None
    assert inbox.propose(await _proposal(), NOW_MS + 100)
    assert not inbox.has_gathered(NOW_MS + 100)


async def test_enough_proposals_wait_for_nothing() -> None:
    inbox = Inbox()
    for _ in range(GATHERED_MAX - 1):
        inbox.propose(await _proposal(), NOW_MS)
    assert not inbox.has_gathered(NOW_MS)
    inbox.propose(await _proposal(), NOW_MS)
    assert inbox.has_gathered(NOW_MS)
