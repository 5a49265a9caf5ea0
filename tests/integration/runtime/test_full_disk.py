"""A disk that has no room, for the log or for the agreed state: the member hands over, and ends when it is told to."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest

from hivenode.errors import HiveError
from hivenode.pool.commands import RegisterUser
from hivenode.storage import state_store
from tests.support.replicas import DEADLINE_S, Member, at_rest, leader_of, propose, register, three, until

FEW_KEYS = 20
LITTLE_ROOM_BYTES = 64 << 10


async def _ended(member: Member) -> None:
    """Waits for the end of a member that was told to stop."""
    assert member.task is not None
    done, _ = await asyncio.wait((member.task,), timeout=DEADLINE_S)
    assert done


async def _write(member: Member, name: str, size: int = 1) -> None:
    """A write that takes room; it need not be done."""
    with suppress(HiveError):
        await propose(member, RegisterUser(username=name, password_hash="x" * size, email=""), deadline_s=1.0)


async def test_a_member_whose_log_has_no_room_ends_when_it_is_told_to(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await at_rest(members)
        log = leader.log
        used_bytes, _ = log.sizes()
        leader.writer.submit(log._environment.set_mapsize, used_bytes).result()
        writing = asyncio.create_task(_write(leader, "alice", 1 << 20))
        await until(lambda: leader.replica.writing.disk_full)
        await leader.replica.stop()
        await _ended(leader)
        await writing
        heir = await leader_of([member for member in members if member is not leader])
        await register(heir, "bob")


async def test_a_leader_whose_agreed_state_has_no_room_hands_over_and_ends_when_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_store, "ACTIVE_KEYS_MAX", FEW_KEYS)
    async with three(tmp_path) as members:
        first = await at_rest(members)
        full = next(member for member in members if member is not first)
        third = next(member for member in members if member not in (first, full))
        await full.crash()
        with monkeypatch.context() as patched:
            patched.setattr(state_store, "MAP_BYTES", LITTLE_ROOM_BYTES)
            full = full.again().start()
        await full.reaches(first)
        first.replica.transfer_leader(full.id)
        await until(lambda: full.replica.leads)
        for tag in range(20):
            if full.replica.leads:
                await asyncio.gather(*(_write(full, f"user{tag}x{number}") for number in range(50)))
        await until(lambda: not full.replica.leads)
        heir = await leader_of([first, third])
        await register(heir, "bob")
        assert full.state.overfull
        await full.replica.stop()
        await _ended(full)


async def test_what_breaks_the_flusher_stops_a_member_that_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with three(tmp_path) as members:
        leader = await at_rest(members)
        monkeypatch.setattr(state_store, "ACTIVE_KEYS_MAX", 0)
        leader.state.put(b"a key that no map takes" * 100, b"")
        writing = asyncio.create_task(_write(leader, "bob"))
        await _ended(leader)
        assert leader.task is not None
        assert isinstance(leader.task.exception(), lmdb.BadValsizeError)
        await writing
