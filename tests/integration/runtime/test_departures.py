"""Two machines that are taken out by two leaders, of which the second has not applied what the first one decided."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hivenode.consensus import Message
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError
from hivenode.pool import queries
from hivenode.pool.commands import AdmitNode, Reply
from hivenode.pool.records import NodeRights, WayOut
from hivenode.runtime.departures import departure
from tests.support.replicas import Member, at_rest, leader_of, others, propose, three, until
from tests.unit.pool.driver import node_id, signed_record


def _decides_as_it_takes_over(member: Member, number: int, way: WayOut) -> asyncio.Future[Reply]:
    """As an owner asks whose call waits for a leader: before the leader has applied its first own entry."""
    decided: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    asking: list[asyncio.Task[None]] = []

    async def ask(decided_at: int) -> None:
        decided.set_result(await propose(member, departure(node_id(number), way, decided_at)))

    def leadership_changed() -> None:
        if member.replica.leads and not asking:
            asking.append(asyncio.create_task(ask(member.replica.applied_index)))

    member.replica.on_leadership(leadership_changed)
    return decided


@pytest.mark.parametrize("way", [WayOut.REMOVED, WayOut.REVOKED])
async def test_of_two_that_two_leaders_let_go_one_stays(tmp_path: Path, way: WayOut) -> None:
    async with three(tmp_path) as members:
        leader = await at_rest(members)
        for number in (7, 8):
            admission = AdmitNode(signed_record=encode_record(signed_record(number)), rights=NodeRights.VOTER)
            assert not (await propose(leader, admission)).refused
        await at_rest(members)
        successors = others(members, leader)
        decided = [_decides_as_it_takes_over(member, 8, way) for member in successors]

        def hears_nothing(message: Message) -> None:
            """So that what it sends is on the others' disks, and it does not know."""

        leader.replica.receive = hears_nothing  # type: ignore[method-assign]
        first = departure(node_id(7), way, leader.replica.applied_index)
        unknown = asyncio.create_task(propose(leader, first))
        index = leader.replica.applied_index + 1
        await until(lambda: all(member.log.last_index() >= index for member in successors))
        await leader.crash()
        with pytest.raises(HiveError):
            await unknown
        successor = await leader_of(successors)
        reply = await decided[successors.index(successor)]
        assert reply.code == Code.OVERLOADED
        known = {entry.node_id for entry in queries.nodes(successor.replica.view())}
        assert known == {node_id(8)}, "what the first leader decided holds"
        again = departure(node_id(8), way, successor.replica.applied_index)
        assert not (await propose(successor, again)).refused
