"""Workers that users register: how many are taken, who is silent for too long, and how long their list may be."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import nacl.signing
import pytest

from hivenode.errors import Code, HiveError
from hivenode.identity import Identity
from hivenode.pb import nodepool_pb2
from hivenode.pool import queries
from hivenode.pool.commands import DropForeignWorkers, OpenSession, RegisterForeignWorker, RegisterUser
from hivenode.runtime.foreign_workers import HIVE_MAX, KEEP_MS, USER_MAX, ForeignWorkers
from hivenode.runtime.ports import Caller
from hivenode.runtime.registry import NodeRegistry
from hivenode.transport.services.nodes import LIST_BYTES_MAX, cut
from tests.support.local_agreement import LocalAgreement
from tests.unit.pool.driver import Hive, capabilities


def _workers(hive: Hive) -> ForeignWorkers:
    return ForeignWorkers(lambda: hive.now_ms, lambda: hive.now_ms)


def _register(hive: Hive, workers: ForeignWorkers, session: str, user: str, node_id: str) -> None:
    with workers.place(hive.view, user, node_id):
        offer = capabilities()
        hive.do(RegisterForeignWorker(session_id=session, node_id=node_id, capabilities=offer, port=1))
        workers.applied(hive.events)


def _refusal(hive: Hive, workers: ForeignWorkers, user: str) -> str:
    with pytest.raises(HiveError) as caught, workers.place(hive.view, user, "one more"):
        pass
    assert caught.value.code is Code.RATE_LIMITED
    return caught.value.message


def test_the_workers_of_all_users_are_bounded_and_known_ones_may_change() -> None:
    hive = Hive()
    workers = _workers(hive)
    for number in range(HIVE_MAX // USER_MAX):
        user = f"user{number}"
        session = hive.user(user)
        for worker in range(USER_MAX):
            _register(hive, workers, session, user, f"{user}-{worker}")
        _register(hive, workers, session, user, f"{user}-0")
    assert f"lists {HIVE_MAX} workers" in _refusal(hive, workers, "ada")
    hive.do(DropForeignWorkers(node_ids=("user0-0",)))
    workers.applied(hive.events)
    assert f"a user can have at most {USER_MAX}" in _refusal(hive, workers, "user1")
    with workers.place(hive.view, "ada", "hers"):
        assert "takes no more" in _refusal(hive, workers, "bob")


def test_workers_that_are_being_registered_count() -> None:
    hive = Hive()
    workers = _workers(hive)
    with ExitStack() as calls:
        for number in range(USER_MAX):
            calls.enter_context(workers.place(hive.view, "ada", f"n{number}"))
        assert "a user can have" in _refusal(hive, workers, "ada")
    with workers.place(hive.view, "ada", "n"):
        pass


def test_who_reports_nothing_for_a_day_while_one_node_leads_is_found() -> None:
    hive = Hive()
    workers = _workers(hive)
    session = hive.user("ada")
    for name in ("silent", "speaks"):
        _register(hive, workers, session, "ada", name)
        workers.heard(name, "registered")
    assert workers.silent(hive.view, True) == ()
    hive.later(KEEP_MS - 1)
    workers.heard("speaks", "idle")
    assert workers.silent(hive.view, True) == ()
    hive.later(1)
    assert workers.silent(hive.view, False) == ()
    assert workers.silent(hive.view, True) == ()  # It leads anew: others may have heard the worker meanwhile.
    workers.heard("speaks", "idle")
    hive.later(KEEP_MS)
    workers.heard("speaks", "idle")
    assert workers.silent(hive.view, True) == ("silent",)
    hive.do(DropForeignWorkers(node_ids=("silent",)))
    workers.applied(hive.events)
    assert workers.silent(hive.view, True) == ()
    assert [entry.node_id for entry in queries.nodes(hive.view)] == ["speaks"]


async def test_the_registry_of_the_node_that_leads_takes_them_off_the_list() -> None:
    hive = LocalAgreement(Identity(nacl.signing.SigningKey(b"1" * 32)))
    hive.run(RegisterUser(username="ada", password_hash="x", email=""))
    hive.run(OpenSession(session_id="s", username="ada", lifetime_ms=10 * KEEP_MS))
    session = queries.session(hive.view(), "s")
    assert session is not None
    local: Any = SimpleNamespace(
        propose=hive.propose,
        view=hive.view,
        subscribe=hive.subscribe,
        clock_ms=hive.now_ms,
        wall_ms=hive.now_ms,
        node_id=hive.identity.node_id,
    )
    coordinator: Any = SimpleNamespace(leads=False)
    registry = NodeRegistry(local=local, coordinator=lambda: coordinator, connected=set)
    caller = Caller(origin="", idempotency_key="k", deadline_s=1.0)
    await registry.register_worker(session, "silent", capabilities(), 1, caller)
    assert [node.role for node in await registry.nodes()] == ["voter", "foreign worker"]
    for leads, listed in ((True, 2), (False, 2), (True, 2), (True, 1)):
        coordinator.leads = leads
        hive.clock_ms += KEEP_MS
        await registry.sweep()
        assert len(await registry.nodes()) == listed


def test_the_documented_list_stays_below_what_programs_of_others_take() -> None:
    long = nodepool_pb2.WorkerNodeInfo(node_id="n" * 128, hostname="h" * 255, location="l" * 128, gpu_name="g" * 128)
    everything = nodepool_pb2.GetNodeListResponse(nodes=cut([long] * 10_000))
    assert LIST_BYTES_MAX * 19 // 20 < everything.ByteSize() <= LIST_BYTES_MAX
    assert len(nodepool_pb2.GetNodeListResponse(nodes=cut([long] * 100)).nodes) == 100
