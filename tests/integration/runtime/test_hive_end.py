"""A member that asks the others whether its hive is still there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hivenode.encoding.node_record import NodeId
from hivenode.errors import InvariantError
from hivenode.runtime import hive_end
from hivenode.runtime.hive_end import HiveEnd, Tombstones
from hivenode.runtime.ports import PeerAddress

DEADLINE_S = 5.0


async def test_a_question_that_breaks_an_invariant_ends_the_others_and_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hive_end, "SEEK_PAUSE_S", 0.0)
    ended = list[str]()

    async def introduce(address: str, deadline_s: float) -> Any:
        if address == "broken":
            raise InvariantError("what must hold does not")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(address)

    member = PeerAddress(node_id=NodeId("m"), addresses=("silent", "broken", "mute"))
    # Only what the member is told of, and whom it asks, is looked at.
    local: Any = SimpleNamespace(hive_id=lambda: "h", knows_leader=lambda: False, hive_nodes=lambda: (member,))
    peers: Any = SimpleNamespace(introduce=introduce)
    end = HiveEnd(
        local=local,
        peers=peers,
        tombstones=Tombstones(tmp_path),
        restart=lambda aside: None,
        stop=lambda reason: None,
        changed=lambda: None,
        start=lambda work: None,
    )
    with pytest.raises(InvariantError):
        async with asyncio.timeout(DEADLINE_S):
            await end.run()
    assert sorted(ended) == ["mute", "silent"]
