"""A leader that hands over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hivenode.runtime.cluster import HiveCluster
from hivenode.runtime.joining import JoinDesk
from hivenode.runtime.local import node_of
from hivenode.runtime.replica import Replica
from tests.support.replicas import Member, at_rest, three


def _cluster_of(member: Member, members: list[Member]) -> HiveCluster:
    # Of the node only the replica matters here.
    local: Any = SimpleNamespace(replica=member.replica)
    nothing: Any = None
    return HiveCluster(
        local=local,
        peers=nothing,
        connected=lambda: {node_of(it.id) for it in members},
        keeper=lambda: None,
        left=lambda: None,
        moves=lambda *_where: None,
        desk=JoinDesk(lambda: 0, lambda: 0),
    )


def _listeners(replica: Replica) -> int:
    return len(replica._conf_listeners)


async def test_nothing_listens_to_who_leads_after_the_hand_over_that_waited_for_it(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        for _ in range(3):
            leader = await at_rest(members)
            before = _listeners(leader.replica)
            assert await _cluster_of(leader, members).hand_over()
            assert not leader.replica.leads
            assert _listeners(leader.replica) == before
