"""Answers that are no messages, or in words that are not known here, fail the call and end nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hivenode.cli.peer import connect
from hivenode.cli.settings import Settings
from hivenode.consensus import MemberId
from hivenode.errors import Code
from hivenode.pb import hive_pb2
from hivenode.pool.records import BlobRef
from hivenode.runtime.digests import DigestReport
from hivenode.runtime.ports import ClusterAction, ClusterOrder, PeerAddress, WorkerHello
from hivenode.runtime.stores import SnapshotRef
from tests.integration.transport.nonsense import NO_MESSAGE, always, answering, member_that_answers
from tests.integration.transport.parts import DEADLINE_S, HIVE, Node, capabilities, nodes
from tests.integration.transport.peer_calls import KEY, failure_of

PENDING = ClusterOrder(action=ClusterAction.PENDING)


async def _first_order(a: Node, leader: PeerAddress) -> Any:
    link = await a.peers.open_worker_link(leader)
    try:
        await link.send(WorkerHello(boot_id="b", capabilities=capabilities(), open=()))
        return await anext(aiter(link.orders()))
    finally:
        await link.aclose()


CALLS: dict[str, Callable[[Node, PeerAddress], Awaitable[Any]]] = {
    "Work": _first_order,
    "Invite": lambda a, peer: a.peers.invite(peer, HIVE, DEADLINE_S),
    "Join": lambda a, peer: a.peers.join(peer, HIVE, a.ports.record(), DEADLINE_S),
    "FetchBlob": lambda a, peer: anext(a.peers.fetch_blob(peer, BlobRef(sha256="0" * 64, size_bytes=1))),
    "FetchSnapshot": lambda a, peer: anext(a.peers.fetch_snapshot(peer, SnapshotRef(sha256="0" * 64, size_bytes=1), 0)),
    "ManageHive": lambda a, peer: a.peers.manage_hive(peer, PENDING, DEADLINE_S),
    "ListMembers": lambda a, peer: a.peers.members(peer, DEADLINE_S),
    "CompareDigest": lambda a, peer: a.peers.compare_digest(
        peer, DigestReport(version=1, member_id=MemberId("a.1"), index=1, digest=bytes(32)), DEADLINE_S
    ),
    "ReadLog": lambda a, peer: anext(a.peers.read_log(peer, KEY, 0, follow=False)),
}


@pytest.mark.parametrize("method", sorted(CALLS))
async def test_an_answer_that_is_no_message_is_a_failure_of_the_peer(method: str) -> None:
    async with nodes(2) as (a, b), member_that_answers(NO_MESSAGE, b) as peer:
        error = await failure_of(CALLS[method](a, peer))
        assert error.code is Code.PEER_REJECTED
        assert peer.node_id in error.message


async def test_a_machine_that_waits_for_rights_of_a_newer_version_is_a_failure_of_the_call() -> None:
    waiting = hive_pb2.PendingNode(node_id="n", wants="observer")
    answer = hive_pb2.ManageHiveResponse(pending=[waiting]).SerializeToString()
    async with nodes(2) as (a, b), member_that_answers(answer, b) as peer:
        error = await failure_of(a.peers.manage_hive(peer, PENDING, DEADLINE_S))
        assert error.code is Code.PEER_REJECTED
        assert "observer" in error.message


async def test_a_command_tells_that_whoever_is_there_answers_nonsense() -> None:
    async with nodes(1) as (node,), answering(node.certificate, {"Challenge": always(NO_MESSAGE)}) as address:
        error = await failure_of(asyncio.to_thread(connect, Settings(peer=f"{node.id}@{address}")))
        assert error.code is Code.PEER_REJECTED
        assert f"{address} answers what is no ChallengeResponse" in error.message
