"""A leader and a follower, each with its own disk and its own copy of agreed state, through the whole life of a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hivenode.blobs.store import DiskBlobStore
from hivenode.errors import Code, HiveError
from hivenode.pool import invariants, queries
from hivenode.pool.records import TaskSpec, TaskState
from hivenode.runtime.accounts import HiveAccounts
from tests.support.local_agreement import GRANT, LocalReplica
from tests.support.master_hive import LEADER, SCRIPT, WORKER, Hive, call


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncIterator[Hive]:
    made = Hive(tmp_path)
    yield made
    await made.aclose()
    invariants.check(made.agreement.view())


async def test_a_follower_serves_everything_of_a_task_that_the_leader_took(hive: Hive) -> None:
    leader = HiveAccounts(hive.agreement, hive.agreement, LEADER, hive.config, clock_ms=hive.agreement.now_ms)
    replica = LocalReplica(hive.agreement.log)
    follower = HiveAccounts(replica, replica, WORKER, hive.config, clock_ms=hive.agreement.now_ms)
    tasks = hive.rooms(replica, WORKER)

    await leader.register("ann", "secret", "", call())
    token = await leader.login("ann", "secret", call())
    session = await leader.authenticate(token)
    await hive.tasks.submit(session, "t", SCRIPT, TaskSpec(), call())

    there = await follower.authenticate(token)
    assert there == session
    assert (await tasks.view(there, "t", call())).record.state is TaskState.PENDING
    seen: list[bytes] = []
    states: list[TaskState] = []

    async def watch() -> None:
        async for event in tasks.watch(there, "t", 0, 0):
            seen.append(event.log)
            states.append(event.state)

    watching = asyncio.create_task(watch())
    log = hive.assign(WORKER)
    log.write(b"Hello, HiveMind!\n", close=True)
    assert await tasks.log(there, "t", call()) == b"Hello, HiveMind!\n"
    await hive.end(log=b"Hello, HiveMind!\n", result=b"zip")
    replica.catch_up()
    await asyncio.wait_for(watching, 10)
    assert b"".join(seen) == b"Hello, HiveMind!\n"
    assert states[-1] is TaskState.COMPLETED

    for rooms, who in ((tasks, there), (hive.tasks, session)):
        assert (await rooms.result(who, "t", call())).path.read_bytes() == b"zip"
    assert await follower.balance(there, "", call()) == GRANT - 1

    await leader.logout(token, call())
    replica.catch_up()
    with pytest.raises(HiveError) as caught:
        await follower.authenticate(token)
    assert caught.value.code is Code.INVALID_SESSION
    for accounts in (leader, follower):
        await accounts.aclose()


async def test_data_and_its_task_outlive_the_node_that_took_it(hive: Hive, tmp_path: Path) -> None:
    session = hive.user("ann")
    await hive.tasks.submit(session, "t", SCRIPT, TaskSpec(), call())
    data = hive.task().data
    await hive.store(LEADER).aclose()
    again = DiskBlobStore(tmp_path / LEADER.node_id, 0)
    hive.network.stores[LEADER.node_id] = again
    assert again.path(data).read_bytes() == SCRIPT
    assert hive.store(WORKER).path(data).read_bytes() == SCRIPT
    restarted = hive.rooms(hive.agreement, LEADER)
    assert (await restarted.submit(session, "t", SCRIPT, TaskSpec(), call())).copies == 2


async def test_many_users_submit_the_same_script_at_once(hive: Hive) -> None:
    sessions = [hive.user(f"user{number}") for number in range(20)]
    done = await asyncio.gather(*(hive.tasks.submit(who, "t", SCRIPT, TaskSpec(), call()) for who in sessions))
    assert {submitted.copies for submitted in done} == {2}
    assert len(await hive.store(LEADER).held()) == 1
    assert queries.counts(hive.agreement.view()).tasks_pending == 20
