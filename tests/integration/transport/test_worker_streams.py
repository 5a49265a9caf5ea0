"""The stream between a worker and its leader: orders, reports, and how it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.pool.records import AttemptOutcome, BlobRef, TaskSpec
from hivenode.runtime.ports import AttemptEnded, AttemptOrder, AttemptStarted, CloseOrder, WorkerHeartbeat, WorkerHello
from hivenode.transport import peers
from tests.integration.transport.parts import DEADLINE_S, capabilities, nodes
from tests.integration.transport.peer_calls import KEY, failure_of, soon


def _hello() -> WorkerHello:
    return WorkerHello(boot_id="boot", capabilities=capabilities(), open=(KEY,))


async def test_a_worker_and_its_leader_tell_each_other_everything() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await soon(leader.ports.sessions)
        assert (session.worker, session.hello) == (worker.id, _hello())
        blob = BlobRef(sha256="1" * 64, size_bytes=5)
        ended = AttemptEnded(
            key=KEY,
            outcome=AttemptOutcome.EXITED,
            exit_code=-1,
            reason="",
            result=blob,
            log=None,
            holders=(worker.id,),
        )
        for event in (WorkerHeartbeat(cpu_percent=3, memory_percent=4), AttemptStarted(key=KEY), ended):
            await link.send(event)
            assert await soon(session.events) == event
        order = AttemptOrder(key=KEY, data=blob, holders=(leader.address,), spec=TaskSpec())
        session.to_tell.put_nowait(order)
        session.to_tell.put_nowait(CloseOrder(key=KEY))
        orders = link.orders()
        assert [await anext(orders), await anext(orders)] == [order, CloseOrder(key=KEY)]
        await link.aclose()
        async with asyncio.timeout(DEADLINE_S):
            assert await session.ended is False


async def test_a_worker_that_breaks_off_is_told_as_reset() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await soon(leader.ports.sessions)
        await (await worker.peers.link_to(leader.address).connect(DEADLINE_S)).channel.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await session.ended is True


async def test_orders_end_when_the_leader_ends_them_and_raise_when_it_dies() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        (await soon(leader.ports.sessions)).to_tell.put_nowait(None)
        async with asyncio.timeout(DEADLINE_S):
            assert [order async for order in link.orders()] == []
        again = await worker.peers.open_worker_link(leader.address)
        await again.send(_hello())
        await soon(leader.ports.sessions)
        # Without the goodbye of an orderly stop, as when its process dies.
        for server in leader.server._servers:
            await server.stop(0)
        error = await failure_of(anext(again.orders()))
        assert error.code is Code.NODE_OFFLINE
        await again.aclose()


async def test_orders_end_quietly_when_the_leader_stops_in_order() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        await soon(leader.ports.sessions)
        await leader.server.stop(DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S):
            assert [order async for order in link.orders()] == []
        await link.aclose()


async def test_a_worker_says_hello_first() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        error = await failure_of(link.send(AttemptStarted(key=KEY)))
        assert error.code is Code.INVALID_ARGUMENT


async def test_a_report_without_a_stream_is_refused() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await soon(leader.ports.sessions)
        session.to_tell.put_nowait(None)
        async with asyncio.timeout(DEADLINE_S):
            assert [order async for order in link.orders()] == []
            await session.ended
        error = await failure_of(link.send(AttemptStarted(key=KEY)))
        assert error.code is Code.NODE_OFFLINE
        assert session.events.empty()


async def test_a_session_outlives_its_ticket() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        leader.server._tickets.revoke(worker.id)
        await link.send(_hello())
        session = await soon(leader.ports.sessions)
        for memory in range(3):
            leader.server._tickets.revoke(worker.id)
            await link.send(WorkerHeartbeat(cpu_percent=3, memory_percent=memory))
        reported = [await soon(session.events) for _ in range(3)]
        assert [event.memory_percent for event in reported] == [0, 1, 2]
        leader.server._tickets.revoke(worker.id)
        await link.aclose()
        async with asyncio.timeout(DEADLINE_S):
            assert await session.ended is False
        assert session.events.empty()
        assert leader.ports.sessions.empty()


async def test_a_report_on_a_connection_that_another_call_gave_up_is_lost() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        kept = worker.peers.link_to(leader.address)
        kept.drop(await kept.connect(DEADLINE_S))
        await asyncio.sleep(0)  # It closes now.
        assert (await failure_of(link.send(AttemptStarted(key=KEY)))).code is Code.NODE_OFFLINE
        await link.aclose()


async def test_a_worker_whose_proof_is_not_taken_is_refused() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await soon(leader.ports.sessions)
        leader.server._tickets.revoke(worker.id)
        leader.ports.hive = "f" * 32
        error = await failure_of(link.send(AttemptStarted(key=KEY)))
        assert error.code is Code.WRONG_HIVE
        assert session.events.empty()


async def test_a_leader_that_does_not_answer_a_hello_or_a_report_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    never = asyncio.Event()

    async def stuck(*_: Any) -> Any:
        await never.wait()

    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await soon(leader.ports.sessions)
        session.handle = stuck
        monkeypatch.setattr(peers, "REPORT_TIMEOUT_S", 0.2)
        assert (await failure_of(link.send(AttemptStarted(key=KEY)))).code is Code.NODE_OFFLINE
        await link.aclose()
        leader.ports.open_worker_session = stuck  # type: ignore[method-assign, assignment]
        monkeypatch.setattr(peers, "HELLO_TIMEOUT_S", 0.2)
        again = await worker.peers.open_worker_link(leader.address)
        assert (await failure_of(again.send(_hello()))).code is Code.NODE_OFFLINE
        await again.aclose()


async def test_a_report_to_a_busy_leader_is_not_repeated_when_the_stream_has_ended() -> None:
    def busy(node: NodeId) -> bool:
        raise HiveError(Code.OVERLOADED, "not now")

    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await soon(leader.ports.sessions)
        session.to_tell.put_nowait(None)
        async with asyncio.timeout(DEADLINE_S):
            assert [order async for order in link.orders()] == []
            await session.ended
        leader.server._peer_server._admits = busy
        error = await failure_of(link.send(AttemptStarted(key=KEY)))
        assert error.code is Code.NODE_OFFLINE
