"""What becomes of a node whose forming or joining fails in a way that no other hive can mend."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hivenode.errors import Code, HiveError, InvariantError
from hivenode.runtime.hive_life import HiveLife


async def test_a_founder_whose_disk_is_full_stops_and_says_why() -> None:
    async def be_born(hive_id: str) -> None:
        raise HiveError(Code.DISK_FULL, "the log cannot be written; free some disk space")

    said: list[str] = []
    # Only the way from the disk's refusal to the owner is looked at.
    life: Any = SimpleNamespace(_local=SimpleNamespace(be_born=be_born), _stop=said.append, _members_expected=0)
    life._be_founder = lambda *given: HiveLife._be_founder(life, *given)
    await HiveLife._form(life, "h" * 32, ())
    assert said == ["the hive cannot be formed: the log cannot be written; free some disk space"]


async def test_a_broken_invariant_while_forming_ends_the_life() -> None:
    async def broken() -> None:
        raise InvariantError("the log ends before what was committed")

    work = asyncio.create_task(broken())
    await asyncio.wait({work})
    life: Any = SimpleNamespace(_work={work}, _broken=None, _wake=asyncio.Event())
    HiveLife._ended(life, work)
    assert life._wake.is_set()
    with pytest.raises(InvariantError):
        HiveLife._raise_broken(life)
