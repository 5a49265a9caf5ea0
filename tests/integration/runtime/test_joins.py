"""Many machines that ask to join at one moment: a hive has no more machines than it takes, whoever leads it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError
from hivenode.pool import queries
from hivenode.pool.commands import AdmitNode
from hivenode.pool.records import NodeRights
from hivenode.runtime.admission import TwinChecks
from hivenode.runtime.joining import JoinDesk
from hivenode.runtime.peer_host import CHANGES_PER_MINUTE_MAX, LocalPeerHost
from hivenode.runtime.ports import NO_CLAIM, Introduction, JoinClaim, JoinOffer
from hivenode.runtime.rate_limit import RateLimit
from tests.support.replicas import DEADLINE_S, PATIENT_MS, Member, create_hive, leader_of, propose, three, until
from tests.unit.pool.driver import START_MS, capabilities, node_id, signed_record

FOUNDER = 99
ROOM = 6
UNASKED = 4
"""With the founder."""
ASKING = 12


async def _silence(_address: str, _deadline_s: float) -> Introduction:
    raise HiveError(Code.NODE_OFFLINE, "nobody answers")


PEERS: Any = SimpleNamespace(introduce=_silence)


async def _born(leader: Member) -> Member:
    """The last of a hive's first commands: nobody is let in before."""
    command = AdmitNode(signed_record=encode_record(signed_record(FOUNDER)), rights=NodeRights.VOTER)
    assert not (await propose(leader, command)).refused
    return leader


def _host(member: Member) -> Any:
    """Of the host only what a join needs: the replica behind it, and the desk."""
    desk = JoinDesk(lambda: 0, lambda: START_MS, nodes_max=ROOM, unasked_max=UNASKED)
    member.replica.subscribe(desk.applied)
    local = SimpleNamespace(
        replica=member.replica,
        clock_ms=lambda: 0,
        node_id="leader",
        addresses=(),
        hive_id=lambda: "h" * 32,
        may_hold_state=lambda node: True,
        note_address=lambda address: None,
    )
    changes = RateLimit("changes", CHANGES_PER_MINUTE_MAX)
    return SimpleNamespace(_local=local, _desk=desk, _twins=TwinChecks(PEERS), _listed=None, _changes=changes)


async def _join(host: Any, number: int, change: int = 0) -> JoinOffer:
    record = signed_record(number, sequence=1 + change, offer=capabilities(cpu_score=change))
    return await LocalPeerHost.accept_join(host, node_id(number), record, JoinClaim(from_lan=True))


def _machines(member: Member) -> int:
    return len(queries.nodes(member.replica.view()))


async def test_machines_that_come_at_one_moment_do_not_go_over_what_the_hive_takes(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await _born(await leader_of(members))
        host = _host(leader)
        ended = await asyncio.gather(*(_join(host, number) for number in range(1, ASKING + 1)), return_exceptions=True)
        assert sum(isinstance(result, JoinOffer) for result in ended) == UNASKED - 1
        refused = [result.code for result in ended if isinstance(result, HiveError)]
        assert refused == [Code.PEER_REJECTED] * (ASKING - UNASKED + 1)
        assert _machines(leader) == UNASKED


async def test_joins_that_are_broken_off_keep_their_places_until_it_is_known_what_came_of_them(tmp_path: Path) -> None:
    async with three(tmp_path, PATIENT_MS) as members:
        leader = await _born(await leader_of(members))
        host = _host(leader)
        with leader.stuck_disk(), members[1].stuck_disk(), members[2].stuck_disk():
            joins = [asyncio.ensure_future(_join(host, number)) for number in range(1, UNASKED)]
            last = leader.replica.status().last_index
            await until(lambda: leader.replica.status().last_index > last)
            for join in joins:
                join.cancel()
            await asyncio.wait(joins)
            with pytest.raises(HiveError) as caught:
                await _join(host, ASKING)
            assert caught.value.code is Code.PEER_REJECTED
        await until(lambda: _machines(leader) == UNASKED)
        with pytest.raises(HiveError):
            await _join(host, ASKING)
        assert _machines(leader) == UNASKED


async def test_a_machine_that_says_something_else_of_itself_without_end_has_a_rate(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await _born(await leader_of(members))
        host = _host(leader)
        await _join(host, 1)

        async def change_without_end() -> None:
            for change in range(1, 10 * CHANGES_PER_MINUTE_MAX):
                await _join(host, 1, change)

        with pytest.raises(HiveError) as caught:
            await change_without_end()
        assert caught.value.code is Code.RATE_LIMITED
        before = leader.replica.applied_index
        with pytest.raises(HiveError):
            await _join(host, 1, 10 * CHANGES_PER_MINUTE_MAX)
        assert leader.replica.applied_index == before
        await _join(host, 2)
        await _join(host, 2, 1)


async def test_a_stranger_with_a_long_name_is_neither_listed_nor_logged(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await _born(await leader_of(members))
        host = _host(leader)
        record = signed_record(1, offer=capabilities(hostname="h" * 10_000))
        with capture_logs() as logs, pytest.raises(HiveError) as caught:
            await LocalPeerHost.accept_join(host, node_id(1), record, NO_CLAIM)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert host._desk.pending(leader.replica.view()) == ()
        assert not [line for line in logs if line["event"] == "refused a node"]


async def test_an_old_record_of_a_machine_costs_no_entry_and_nobodys_share(tmp_path: Path) -> None:
    """Every member has old records of the others, and may bring them."""
    async with three(tmp_path) as members:
        leader = await _born(await leader_of(members))
        host = _host(leader)
        for change in (0, 1):
            await _join(host, 1, change)
        before = leader.replica.status().last_index
        for _ in range(2 * CHANGES_PER_MINUTE_MAX):
            assert (await _join(host, 1, 0)).later_sequence == 2
        assert leader.replica.status().last_index == before
        await _join(host, 1, 2)


async def test_a_new_leader_knows_who_came_in_before_it_takes_in_others(tmp_path: Path) -> None:
    member = Member("a", tmp_path / "a", {}).birth()
    async with asyncio.timeout(DEADLINE_S):
        member.start(born=True)
        await member.replica.wait_until_leading(DEADLINE_S)
        await create_hive(member)
        await _born(member)
        await until(lambda: not member.state.dirty)
        records = [encode_record(signed_record(number)) for number in range(1, UNASKED)]
        commands = [AdmitNode(signed_record=record, rights=NodeRights.WORKER) for record in records]
        await asyncio.gather(*(propose(member, command) for command in commands))
        await member.crash()
        member = member.again()
        host = _host(member)
        joins: list[asyncio.Future[JoinOffer]] = []
        seen: list[int] = []

        def led() -> None:
            if member.replica.leads and not joins:
                seen.append(_machines(member))
                joins.append(asyncio.ensure_future(_join(host, ASKING)))

        member.replica.on_leadership(led)
        member.start()
        try:
            await until(lambda: bool(joins))
            with pytest.raises(HiveError) as caught:
                await joins[0]
            assert caught.value.code is Code.PEER_REJECTED
            assert (seen, _machines(member)) == ([1], UNASKED), "the joins were applied after it led"
        finally:
            await member.crash()
