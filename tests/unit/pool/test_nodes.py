"""Admission by signed record, removal, foreign workers."""

from __future__ import annotations

import dataclasses

from hivenode.encoding.records import encode_record
from hivenode.errors import Code
from hivenode.pool import invariants, queries
from hivenode.pool.commands import AdmitNode, DropForeignWorkers, RegisterForeignWorker, RemoveNode, UnregisterNode
from hivenode.pool.events import AttemptRevoked, NodeChanged, NodeRemoved
from hivenode.pool.nodes import FOREIGN_DROPPED_MAX
from hivenode.pool.records import NodeKind, NodeRights, TaskState
from tests.unit.pool.driver import START_MS, Hive, capabilities, node_id, signed_record


def admission(number: int, *, sequence: int = 1, rights: NodeRights = NodeRights.VOTER, **offer: object) -> AdmitNode:
    record = signed_record(number, sequence=sequence, offer=capabilities(**offer))
    return AdmitNode(signed_record=encode_record(record), rights=rights)


def foreign(session: str, name: str = "their-box", **offer: object) -> RegisterForeignWorker:
    return RegisterForeignWorker(session_id=session, node_id=name, capabilities=capabilities(**offer), port=9000)


def test_node_with_a_signed_record_is_admitted() -> None:
    hive = Hive()
    assert hive.do(admission(1)).text == node_id(1)
    assert hive.event(NodeChanged).node_id == node_id(1)
    entry = hive.entry_of(1)
    assert (entry.kind, entry.rights, entry.owner, entry.sequence) == (NodeKind.HIVE, NodeRights.VOTER, "", 1)
    assert queries.counts(hive.view).nodes == 1


def test_newer_record_updates_a_node_and_keeps_its_rights_and_counts() -> None:
    hive = Hive()
    hive.do(admission(1))
    hive.later(1_000)
    hive.do(admission(1, sequence=3, rights=NodeRights.WORKER, memory_gb=64))
    entry = hive.entry_of(1)
    assert (entry.capabilities.memory_gb, entry.rights, entry.joined_ms) == (64, NodeRights.VOTER, START_MS)
    assert queries.counts(hive.view).nodes == 1
    for sequence in (2, 3):
        hive.do(admission(1, sequence=sequence, memory_gb=1))
        assert hive.events == ()
        assert hive.entry_of(1) == entry


def test_record_that_is_forged_expired_oversized_or_rubbish_is_refused() -> None:
    hive = Hive()
    good = signed_record(1)
    forged = dataclasses.replace(good, signature=bytes(64))
    hive.refused(AdmitNode(signed_record=encode_record(forged), rights=NodeRights.VOTER), Code.PEER_REJECTED)
    hive.refused(AdmitNode(signed_record=b"rubbish", rights=NodeRights.VOTER), Code.PEER_REJECTED)
    hive.refused(AdmitNode(signed_record=bytes(20_000), rights=NodeRights.VOTER), Code.INVALID_ARGUMENT)
    hive.refused(admission(1, slots=5_000), Code.INVALID_ARGUMENT)
    hive.refused(admission(1, hostname="h" * 256), Code.INVALID_ARGUMENT)
    hive.now_ms = START_MS * 2
    hive.refused(AdmitNode(signed_record=encode_record(good), rights=NodeRights.VOTER), Code.PEER_REJECTED)


def test_removed_node_loses_its_attempts_and_they_are_placed_again() -> None:
    hive = Hive()
    alice = hive.user("alice")
    node = hive.node(1)
    for name in ("a", "b"):
        hive.submit(alice, name)
        hive.assign("alice", name, node)
    hive.do(RemoveNode(node_id=node, reason="unplugged"))
    assert [event.task_id for event in hive.events if isinstance(event, AttemptRevoked)] == ["a", "b"]
    assert hive.event(NodeRemoved).node_id == node
    assert hive.task("alice", "a").state is TaskState.PENDING
    assert hive.task("alice", "a").reason == "unplugged"
    assert queries.node(hive.view, node) is None
    hive.refused(RemoveNode(node_id=node, reason=""), Code.NODE_NOT_FOUND)
    invariants.check(hive.view)


def test_removed_node_comes_back_with_another_log_only() -> None:
    hive = Hive()
    node = hive.node(1)
    assert not queries.was_removed(hive.view, node, "i1")
    entry = queries.node(hive.view, node)
    assert entry is not None
    hive.do(RemoveNode(node_id=node, reason="sold"))
    assert queries.was_removed(hive.view, node, entry.incarnation)
    hive.refused(admission(1, sequence=2), Code.NODE_REMOVED)
    record = signed_record(1, sequence=3, incarnation="another")
    hive.do(AdmitNode(signed_record=encode_record(record), rights=NodeRights.VOTER))
    assert not queries.was_removed(hive.view, node, entry.incarnation)
    assert queries.node(hive.view, node) is not None
    invariants.check(hive.view)


def test_foreign_worker_belongs_to_the_user_who_registered_it() -> None:
    hive = Hive()
    alice, bob = hive.user("alice"), hive.user("bob")
    hive.do(foreign(alice))
    entry = queries.node(hive.view, "their-box")
    assert entry is not None
    assert (entry.kind, entry.owner, entry.port) == (NodeKind.FOREIGN, "alice", 9000)
    hive.do(foreign(alice, memory_gb=2))
    hive.refused(foreign(bob), Code.NODE_EXISTS)
    hive.refused(UnregisterNode(session_id=bob, node_id="their-box"), Code.PERMISSION_DENIED)
    hive.refused(UnregisterNode(session_id=bob, node_id="no-box"), Code.NODE_NOT_FOUND)
    hive.do(UnregisterNode(session_id=alice, node_id="their-box"))
    assert queries.nodes(hive.view) == []
    invariants.check(hive.view)


def test_foreign_worker_never_takes_the_id_of_a_node_but_gives_way_to_its_key() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.do(foreign(alice, node_id(1)))
    hive.do(admission(1))
    assert hive.entry_of(1).kind is NodeKind.HIVE
    hive.refused(foreign(alice, node_id(1)), Code.NODE_EXISTS)
    hive.refused(UnregisterNode(session_id=alice, node_id=node_id(1)), Code.PERMISSION_DENIED)
    invariants.check(hive.view)


def test_foreign_workers_are_dropped_whoever_they_belong_to_and_nodes_never() -> None:
    hive = Hive()
    alice, bob = hive.user("alice"), hive.user("bob")
    hive.do(admission(1))
    hive.do(foreign(alice, "hers"))
    hive.do(foreign(bob, "his"))
    hive.do(foreign(bob, "stays"))
    reply = hive.do(DropForeignWorkers(node_ids=("hers", "his", "none", node_id(1), "a\0b")))
    assert (reply.number, {entry.node_id for entry in queries.nodes(hive.view)}) == (2, {node_id(1), "stays"})
    assert [event.node_id for event in hive.events if isinstance(event, NodeRemoved)] == ["hers", "his"]
    too_many = tuple(f"n{number}" for number in range(FOREIGN_DROPPED_MAX + 1))
    hive.refused(DropForeignWorkers(node_ids=too_many), Code.INVALID_ARGUMENT)
    invariants.check(hive.view)


def test_foreign_worker_out_of_bounds_is_refused() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.refused(foreign(alice, "x" * 129), Code.INVALID_ARGUMENT)
    hive.refused(foreign(alice, memory_gb=-1), Code.INVALID_ARGUMENT)
    hive.refused(dataclasses.replace(foreign(alice), port=70_000), Code.INVALID_ARGUMENT)
    hive.refused(foreign("nobody"), Code.INVALID_SESSION)
