"""The coordinator over replicas on real disks: what a new leader may say to a worker, and what it may not forget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivenode.consensus import AppendRequest, Heartbeat, Message
from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError, InvariantError
from hivenode.membership.suspicion import SuspicionConfig
from hivenode.pool import queries
from hivenode.pool.commands import AdmitNode, AssignTask, OpenSession, RevokeNode, StartAttempt, StopTask, SubmitTask
from hivenode.pool.records import AttemptOutcome, NodeRights, TaskSpec, TaskState
from hivenode.runtime.coordinator import Coordinator, Session
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    CloseOrder,
    RosterOrder,
    StopOrder,
    WorkerHello,
    WorkerOrder,
)
from tests.support.replicas import DEADLINE_S, Member, create_hive, leader_of, propose, register, three, until
from tests.unit.pool.driver import DATA, capabilities, node_id, signed_record

WORKER = node_id(7)


class Silence:
    """A network on which no worker answers and none refuses."""

    async def probe(self, node: NodeId, deadline_s: float) -> bool:
        raise HiveError(Code.NODE_OFFLINE, "nothing is known")


def key_of(name: str, attempt: int = 1) -> AttemptKey:
    return AttemptKey(user="alice", task_id=name, attempt=attempt)


def hello(*keys: AttemptKey) -> WorkerHello:
    return WorkerHello(boot_id="b" * 32, capabilities=capabilities(), open=keys)


def coordinator_of(member: Member, suspicion: SuspicionConfig | None = None) -> Coordinator:
    network: Any = Silence()
    return Coordinator(
        replica=member.replica,
        peers=network,
        clock_ms=lambda: time.monotonic_ns() // 1_000_000,
        keep_tasks_ms=86_400_000,
        suspicion=suspicion,
    )


async def populate(leader: Member, *names: str, running: bool = True) -> None:
    """A user with tasks that are assigned to the worker, and run there."""
    await register(leader, "alice")
    await propose(leader, OpenSession(session_id="s", username="alice", lifetime_ms=3_600_000))
    await propose(leader, AdmitNode(signed_record=encode_record(signed_record(7)), rights=NodeRights.WORKER))
    for name in names:
        submit = SubmitTask(session_id="s", task_id=name, spec=TaskSpec(), data=DATA, data_holders=())
        assert not (await propose(leader, submit)).refused
        if running:
            await run(leader, name)


async def run(leader: Member, name: str) -> None:
    for kind in (AssignTask, StartAttempt):
        command = kind(user="alice", task_id=name, attempt=1, node_id=WORKER)
        assert not (await propose(leader, command)).refused


async def next_order(session: Session) -> WorkerOrder:
    async with asyncio.timeout(DEADLINE_S):
        return await anext(session.orders())


@asynccontextmanager
async def alone(folder: Path) -> AsyncIterator[Member]:
    network: dict[str, Member] = {}
    member = Member("a", folder / "a", network).birth()
    try:
        member.start(born=True)
        await member.replica.wait_until_leading(DEADLINE_S)
        await create_hive(member)
        yield member
    finally:
        await member.crash()


async def test_a_new_leader_that_lags_does_not_discard_what_its_worker_runs(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        rest = [member for member in members if member is not leader]
        await populate(leader, "t", running=False)
        for member in rest:
            await member.reaches(leader)
        # From here on the others hear of entries and not of their commitment, as when the leader dies in between.
        told, send = leader.replica.applied_index, leader.replica._send

        def muffled(message: Message) -> None:
            if isinstance(message, AppendRequest | Heartbeat):
                message = replace(message, commit=min(message.commit, told))
            send(message)

        leader.replica._send = muffled
        await run(leader, "t")
        index = leader.replica.applied_index
        opened: list[asyncio.Task[Session]] = []

        def worker_comes(member: Member, coordinator: Coordinator) -> None:
            if member.replica.leads and not opened:
                assert member.replica.applied_index < index
                opened.append(asyncio.create_task(coordinator.open_session(WORKER, hello(key_of("t")))))

        for member in rest:
            coordinator = coordinator_of(member)
            member.replica.on_leadership(lambda m=member, c=coordinator: worker_comes(m, c))  # type: ignore[misc]
        await leader.crash()
        successor = await leader_of(rest)
        session = await opened[0]
        await propose(successor, StopTask(session_id="s", task_id="t"))
        assert await next_order(session) == StopOrder(key=key_of("t"), discard=False)


async def test_workers_hear_at_once_that_a_node_is_not_in_the_hive_any_more(tmp_path: Path) -> None:
    async with alone(tmp_path) as member:
        await populate(member)
        await propose(member, AdmitNode(signed_record=encode_record(signed_record(8)), rights=NodeRights.WORKER))
        coordinator = coordinator_of(member)
        coordinator._leadership_changed()
        session = await coordinator.open_session(WORKER, hello())
        await propose(member, RevokeNode(node_id=node_id(8), reason="stolen"))
        assert await next_order(session) == RosterOrder()


async def test_an_end_that_could_not_be_agreed_on_is_agreed_on_later(tmp_path: Path) -> None:
    async with alone(tmp_path) as leader:
        coordinator = coordinator_of(leader)
        coordinator._leadership_changed()
        await populate(leader, "t")
        session = await coordinator.open_session(WORKER, hello(key_of("t")))
        leader.replica.writing.disk_full = True
        ended = AttemptEnded(
            key=key_of("t"),
            outcome=AttemptOutcome.EXITED,
            exit_code=0,
            reason="",
            result=None,
            log=None,
            holders=(),
        )
        await session.handle(ended)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leader.replica.writing.disk_full = False
        assert await next_order(session) == CloseOrder(key=key_of("t"))
        task = queries.task(leader.replica.view(), "alice", "t")
        assert task is not None
        assert task.state is TaskState.COMPLETED


async def test_the_attempt_of_a_restarted_worker_is_lost_also_when_that_cannot_be_agreed_on_at_once(
    tmp_path: Path,
) -> None:
    async with alone(tmp_path) as leader:
        coordinator = coordinator_of(leader)
        coordinator._leadership_changed()
        await populate(leader, "t")
        refusals = 0
        propose_here = leader.replica.propose

        async def counted(command: Any, **how: Any) -> Any:
            nonlocal refusals
            try:
                return await propose_here(command, **how)
            except HiveError:
                refusals += 1
                raise

        leader.replica.propose = counted  # type: ignore[method-assign]
        leader.replica.writing.disk_full = True
        running = asyncio.create_task(coordinator.run())
        try:
            await coordinator.open_session(WORKER, hello())
            await until(lambda: refusals > 0)
            leader.replica.writing.disk_full = False

            def attempts() -> int:
                task = queries.task(leader.replica.view(), "alice", "t")
                return task.attempt if task is not None else 0

            await until(lambda: attempts() == 2)  # It was lost, and given to the worker again.
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_loss_that_cannot_be_agreed_on_is_not_tried_without_pause(tmp_path: Path) -> None:
    async with alone(tmp_path) as leader:
        coordinator = coordinator_of(leader, SuspicionConfig(suspect_ms=1, lost_ms=2))
        coordinator._leadership_changed()
        await populate(leader, "t")
        leader.replica.writing.disk_full = True
        tries = 0
        propose_here = leader.replica.propose

        async def counted(command: Any, **how: Any) -> Any:
            nonlocal tries
            tries += 1
            return await propose_here(command, **how)

        leader.replica.propose = counted  # type: ignore[method-assign]
        running = asyncio.create_task(coordinator.run())
        try:
            await until(lambda: tries > 0)
            end = time.monotonic() + 0.3
            await until(lambda: time.monotonic() > end)
            assert tries <= 2
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_broken_invariant_beside_the_loop_is_raised_by_the_loop(tmp_path: Path) -> None:
    async with alone(tmp_path) as leader:
        coordinator = coordinator_of(leader)

        async def broken() -> None:
            raise InvariantError("agreed state contradicts itself")

        running = asyncio.create_task(coordinator.run())
        coordinator.spawn(broken())
        with pytest.raises(InvariantError):
            async with asyncio.timeout(5.0):
                await running
