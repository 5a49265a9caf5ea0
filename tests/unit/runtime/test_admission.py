"""How many machines a leader dials to find living twins of those that join."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from hivenode.encoding.node_record import open_record
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError
from hivenode.pool import queries
from hivenode.pool.commands import AdmitNode
from hivenode.pool.records import NodeRights
from hivenode.runtime.admission import CHECKS_MAX, TwinChecks
from hivenode.runtime.ports import Introduction
from tests.unit.pool.driver import Hive, node_id, signed_record, verify


async def test_a_leader_asks_about_few_machines_at_once_and_about_each_once() -> None:
    hive = Hive()
    answer, asked = asyncio.Event(), asyncio.Semaphore(0)
    under_way = most = 0

    async def introduce(_address: str, _deadline_s: float) -> Introduction:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        asked.release()
        await answer.wait()
        under_way -= 1
        raise HiveError(Code.NODE_OFFLINE, "nobody answers")

    peers: Any = SimpleNamespace(introduce=introduce)
    twins = TwinChecks(peers)

    async def check(number: int) -> None:
        record = signed_record(number)
        hive.send(AdmitNode(signed_record=encode_record(record), rights=NodeRights.WORKER))
        joiner = dataclasses.replace(open_record(record, verify), addresses=("elsewhere:1",))
        await twins.refuse_twin(queries.node(hive.view, node_id(number)), joiner)

    checks = [asyncio.ensure_future(check(number)) for number in range(1, 3 * CHECKS_MAX + 1)]
    for _ in range(CHECKS_MAX):
        await asyncio.wait_for(asked.acquire(), 10)
    for number in (1, 3 * CHECKS_MAX):
        with pytest.raises(HiveError) as caught:
            await check(number)
        assert caught.value.code is Code.OVERLOADED
    answer.set()
    await asyncio.gather(*checks)
    assert most == CHECKS_MAX
    await check(1)
