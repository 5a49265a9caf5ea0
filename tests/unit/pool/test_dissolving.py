from __future__ import annotations

from hivenode.errors import Code, Outcome, outcome_of
from hivenode.pool import invariants
from hivenode.pool.commands import DissolveHive, OpenSession, RegisterForeignWorker, RegisterUser, Sweep
from hivenode.pool.dissolving import dissolved, is_virgin
from hivenode.pool.events import HiveDissolved
from tests.unit.pool.driver import Hive, capabilities

INTO = DissolveHive(target_hive_id="cd" * 16, target_addresses=("10.0.0.9:50052",))


def test_a_hive_of_machines_alone_dissolves_and_says_where_its_members_go() -> None:
    hive = Hive()
    hive.node(1)
    assert is_virgin(hive.view)
    assert dissolved(hive.view) is None
    assert hive.do(INTO).text == INTO.target_hive_id
    assert hive.event(HiveDissolved).target_hive_id == INTO.target_hive_id
    found = dissolved(hive.view)
    assert found is not None
    assert (found.target_hive_id, found.target_addresses) == (INTO.target_hive_id, INTO.target_addresses)
    invariants.check(hive.view)


def test_after_the_decision_nothing_is_done_and_the_caller_may_ask_again() -> None:
    hive = Hive()
    hive.do(INTO)
    register = RegisterUser(username="ann", password_hash="$argon2id$x", email="")
    for command in (
        register,
        Sweep(keep_tasks_ms=0, rows_max=1),
        OpenSession(session_id="s", username="a", lifetime_ms=1),
    ):
        refusal = hive.refused(command, Code.NOT_A_MEMBER)
        assert outcome_of(Code(refusal.code)) is Outcome.RETRY
    assert is_virgin(hive.view)


def test_the_first_decision_counts() -> None:
    hive = Hive()
    hive.do(INTO)
    assert hive.do(DissolveHive(target_hive_id="ef" * 16, target_addresses=())).text == INTO.target_hive_id
    assert hive.events == ()


def test_a_hive_with_a_user_never_dissolves() -> None:
    hive = Hive()
    session = hive.user("ann")
    assert not is_virgin(hive.view)
    hive.refused(INTO, Code.PERMISSION_DENIED)
    hive.do(RegisterForeignWorker(session_id=session, node_id="box", capabilities=capabilities(), port=1))
    hive.refused(INTO, Code.PERMISSION_DENIED)
    assert dissolved(hive.view) is None


def test_a_decision_without_a_place_to_go_is_refused() -> None:
    hive = Hive()
    hive.refused(DissolveHive(target_hive_id="", target_addresses=()), Code.INVALID_ARGUMENT)
    hive.refused(DissolveHive(target_hive_id="a", target_addresses=("b:1",) * 9), Code.INVALID_ARGUMENT)
