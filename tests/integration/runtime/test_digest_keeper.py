"""Voters on real disks compare their states: a member whose disk went wrong stops, and the others go on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import lmdb
import pytest

from hivenode.errors import InvariantError
from hivenode.pool.commands import OpenSession, Transfer
from hivenode.storage.sealed_row import seal
from hivenode.storage.state_store import StateStore
from tests.support.replicas import DIGEST_EVERY, Member, leader_of, propose, register, three, until


def spoil(folder: Path, amount: int) -> None:
    """Changes a balance, as a processor would that computed it wrongly before it was written with its checksum."""
    state = StateStore(folder)
    ((key, value),) = [row for row in state.scan(b"") if b"user:alice" in row[0] and row[1].endswith(b"\x03\xe8")]
    state.close()
    with lmdb.open(str(folder), max_dbs=2, map_size=1 << 30) as environment:
        main = environment.open_db(b"main")
        with environment.begin(write=True, db=main) as transaction:
            transaction.put(key, seal(key, value[:-2] + amount.to_bytes(2, "big")))


async def transfers(leader: Member, first: int, count: int) -> None:
    for number in range(first, first + count):
        reply = await propose(leader, Transfer(session_id="s1", receiver="bob", amount=1), key=f"k{number}")
        assert not reply.refused, reply.message


async def agreed(member: Member, index: int) -> None:
    """Waits until the member's state was found right as of `index`."""
    while member.digests is None or member.digests.agreed_index < index:
        if member.keeping is not None and member.keeping.done():
            member.keeping.result()
        await asyncio.sleep(0.01)


async def opened(leader: Member) -> None:
    await register(leader, "alice")
    await register(leader, "bob")
    await propose(leader, OpenSession(session_id="s1", username="alice", lifetime_ms=3_600_000))


async def test_members_that_agree_say_so_and_go_on(tmp_path: Path) -> None:
    async with three(tmp_path) as members, asyncio.timeout(60):
        leader = await leader_of(members)
        await opened(leader)
        await transfers(leader, 0, 2 * DIGEST_EVERY)
        for member in members:
            await agreed(member, 2 * DIGEST_EVERY)


@pytest.mark.parametrize("of_leader", [False, True])
async def test_a_member_with_another_state_stops_and_the_others_go_on(tmp_path: Path, of_leader: bool) -> None:
    async with three(tmp_path) as members, asyncio.timeout(60):
        leader = await leader_of(members)
        await opened(leader)
        for member in members:
            await member.reaches(leader)
        victim = leader if of_leader else next(member for member in members if member is not leader)
        await until(lambda: not victim.state.dirty)
        await victim.crash()
        spoil(victim.folder / "state", 1_003)
        members = [victim.again().start() if member is victim else member for member in members]
        victim = next(member for member in members if member.keeping is not None and member.id == victim.id)
        if of_leader:
            await leader_of(members)
            await victim.reaches(await leader_of(members))
            (await leader_of(members)).replica.transfer_leader(victim.id)
            await until(lambda: victim.replica.leads)
        leader = await leader_of(members)
        await transfers(leader, 0, DIGEST_EVERY)
        assert victim.keeping is not None
        with pytest.raises(InvariantError, match="differs from that of the majority"):
            await victim.keeping
        await victim.crash()
        rest = [member for member in members if member is not victim]
        successor = await leader_of(rest)
        await transfers(successor, 0, DIGEST_EVERY + 1)
        for member in rest:
            await member.reaches(successor)
            assert member.keeping is not None
            assert not member.keeping.done()


async def test_without_a_majority_all_stop(tmp_path: Path) -> None:
    async with three(tmp_path) as members, asyncio.timeout(60):
        leader = await leader_of(members)
        await opened(leader)
        for member in members:
            await member.reaches(leader)
        await until(lambda: not any(member.state.dirty for member in members))
        for number, member in enumerate(members):
            await member.crash()
            spoil(member.folder / "state", 1_001 + number)
        members = [member.again().start() for member in members]
        leader = await leader_of(members)
        await transfers(leader, 0, DIGEST_EVERY)
        for member in members:
            assert member.keeping is not None
            with pytest.raises(InvariantError, match="none has a majority"):
                await member.keeping
