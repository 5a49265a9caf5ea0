"""Users, sessions, grants and transfers."""

from __future__ import annotations

import pytest

from hivenode.errors import Code, HiveError
from hivenode.ledger.accounts import TREASURY
from hivenode.pool import invariants, queries, validation
from hivenode.pool.commands import (
    ChangePassword,
    CloseSession,
    CreateHive,
    OpenSession,
    RegisterUser,
    SetUserRole,
    Sweep,
    Transfer,
)
from hivenode.pool.events import HiveCreated, SessionClosed
from hivenode.pool.records import UserRole
from tests.unit.pool.driver import GRANT, START_MS, SUPPLY, Hive


def register(name: str, email: str = "") -> RegisterUser:
    return RegisterUser(username=name, password_hash="$argon2id$x", email=email)


def test_birth_puts_the_whole_supply_into_the_treasury_once() -> None:
    hive = Hive()
    assert hive.event(HiveCreated).hive_id == "ab" * 16
    assert queries.account_balance(hive.view, TREASURY) == SUPPLY == queries.total_cpt(hive.view)
    hive.refused(CreateHive(hive_id="cd" * 16, supply=5, signup_grant=0, grants_per_day_max=0), Code.INVALID_ARGUMENT)


def test_nothing_is_done_before_the_hive_is_created() -> None:
    hive = Hive(created=False)
    hive.refused(register("alice"), Code.INVALID_ARGUMENT)
    assert queries.hive(hive.view) is None


def test_new_user_receives_the_grant_from_the_treasury() -> None:
    hive = Hive()
    reply = hive.do(register("alice", "alice@example.org"))
    assert reply.number == GRANT == hive.balance("alice")
    user = queries.user(hive.view, "ALICE")
    assert user is not None
    assert (user.username, user.user_id, user.email) == ("alice", reply.text, "alice@example.org")
    assert queries.account_balance(hive.view, TREASURY) == SUPPLY - GRANT
    assert queries.counts(hive.view).users == 1


def test_name_that_differs_only_in_case_is_taken() -> None:
    hive = Hive()
    hive.do(register("Straße"))
    hive.refused(register("STRASSE"), Code.USER_EXISTS)
    user = queries.user(hive.view, "strasse")
    assert user is not None
    assert user.username == "Straße"
    assert hive.balance("STRASSE") == GRANT


def test_grants_stop_at_the_cap_of_the_day_and_start_again_on_the_next() -> None:
    hive = Hive(grants_per_day=2)
    grants = [hive.do(register(name)).number for name in ("a", "b", "c")]
    assert grants == [GRANT, GRANT, 0]
    hive.later(86_400_000)
    assert hive.do(register("d")).number == GRANT
    invariants.check(hive.view)


def test_grant_is_nothing_when_the_treasury_is_poorer_than_it() -> None:
    hive = Hive(grant=SUPPLY - 1)
    assert hive.do(register("a")).number == SUPPLY - 1
    assert hive.do(register("b")).number == 0


def test_session_stands_until_its_time_is_over_and_is_swept_then() -> None:
    hive = Hive()
    session = hive.user("alice")
    hive.user("bob")
    found = queries.session(hive.view, session)
    assert found is not None
    assert found.username == "alice"
    hive.later(86_400_000)
    hive.refused(Transfer(session_id=session, receiver="bob", amount=1), Code.INVALID_SESSION)
    assert queries.session(hive.view, session) is None
    assert hive.do(Sweep(keep_tasks_ms=0, rows_max=100)).number == 2
    assert {event.session_id for event in hive.events if isinstance(event, SessionClosed)} == {
        "session-of-alice",
        "session-of-bob",
    }
    invariants.check(hive.view)


def test_closed_session_ends_everywhere() -> None:
    hive = Hive()
    session = hive.user("alice")
    hive.do(CloseSession(session_id=session))
    assert hive.event(SessionClosed).session_id == session
    hive.refused(CloseSession(session_id=session), Code.INVALID_SESSION)


def test_session_over_the_bound_closes_the_oldest() -> None:
    hive = Hive()
    oldest = hive.user("alice")
    for number in range(63):
        hive.later(1)
        hive.login("alice", f"more-{number}")
    assert queries.session(hive.view, oldest) is not None
    hive.later(1)
    hive.login("Alice", "one-too-many")
    assert hive.event(SessionClosed).session_id == oldest
    assert queries.session(hive.view, oldest) is None
    invariants.check(hive.view)


def test_session_for_nobody_or_with_a_taken_id_is_refused() -> None:
    hive = Hive()
    session = hive.user("alice")
    hive.refused(OpenSession(session_id="x" * 16, username="bob", lifetime_ms=5_000), Code.USER_NOT_FOUND)
    hive.refused(OpenSession(session_id=session, username="alice", lifetime_ms=5_000), Code.INVALID_ARGUMENT)
    hive.refused(OpenSession(session_id="y", username="a\0lice", lifetime_ms=5_000), Code.USER_NOT_FOUND)


def test_transfer_moves_whole_cpt_and_answers_the_new_balance() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.user("bob")
    assert hive.do(Transfer(session_id=alice, receiver="BOB", amount=300)).number == GRANT - 300
    assert (hive.balance("alice"), hive.balance("bob")) == (GRANT - 300, GRANT + 300)
    assert queries.total_cpt(hive.view) == SUPPLY


@pytest.mark.parametrize(
    ("receiver", "amount", "code"),
    [
        ("bob", 0, Code.INVALID_AMOUNT),
        ("bob", -5, Code.INVALID_AMOUNT),
        ("bob", 1 << 63, Code.INVALID_AMOUNT),
        ("bob", GRANT + 1, Code.INSUFFICIENT_BALANCE),
        ("carol", 1, Code.USER_NOT_FOUND),
        ("x" * 100_000, 1, Code.USER_NOT_FOUND),
        ("ALICE", 1, Code.INVALID_ARGUMENT),
    ],
)
def test_transfer_that_must_not_be_is_refused(receiver: str, amount: int, code: Code) -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.user("bob")
    reply = hive.refused(Transfer(session_id=alice, receiver=receiver, amount=amount), code)
    assert len(reply.message) < 300


def test_clock_never_runs_back() -> None:
    hive = Hive()
    hive.now_ms -= 5_000
    hive.do(register("alice"))
    assert queries.clock_ms(hive.view) == START_MS
    user = queries.user(hive.view, "alice")
    assert user is not None
    assert user.created_ms == START_MS


@pytest.mark.parametrize(
    "name", ["", "-a", "a b", "a:b", "a/b", "a\0b", "a\n", "x" * 65, "\uff21lice", "a\ud800", "😀", "ΐ" * 24]
)
def test_user_name_out_of_its_bounds_is_refused(name: str) -> None:
    with pytest.raises(HiveError) as error:
        validation.check_username(name)
    assert error.value.code is Code.INVALID_ARGUMENT
    assert "user name" in error.value.message


@pytest.mark.parametrize("name", ["a", "9", "alice.b-c_d@e+f", "小明", "Zoë", "x" * 64])
def test_user_name_within_its_bounds_is_taken(name: str) -> None:
    validation.check_username(name)


@pytest.mark.parametrize("email", ["a", "@b", "a@", "a@b@c", "a b@c", "a@b\n", "x" * 250 + "@y.org"])
def test_email_that_is_none_is_refused(email: str) -> None:
    with pytest.raises(HiveError):
        validation.check_email(email)


def change(session: str, **changes: object) -> ChangePassword:
    fields: dict[str, object] = {
        "session_id": session,
        "checked_hash": "$argon2id$x",
        "password_hash": "$argon2id$y",
        "new_session_id": "after the change",
        "lifetime_ms": 86_400_000,
    }
    return ChangePassword(**{**fields, **changes})  # type: ignore[arg-type]


def test_changed_password_ends_every_session_of_the_user_and_opens_one() -> None:
    hive = Hive()
    alice, bob = hive.user("alice"), hive.user("bob")
    other = hive.login("ALICE", "on another machine")
    assert hive.do(change(alice)).text == "after the change"
    ended = {event.session_id for event in hive.events if isinstance(event, SessionClosed)}
    assert ended == {alice, other}
    assert queries.session(hive.view, "after the change") is not None
    assert queries.session(hive.view, bob) is not None
    user = queries.user(hive.view, "alice")
    assert user is not None
    assert user.password_hash == "$argon2id$y"
    invariants.check(hive.view)


def test_password_is_changed_only_from_the_one_that_was_checked() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.refused(change(alice, checked_hash="$argon2id$z"), Code.INVALID_PASSWORD)
    hive.refused(change(alice, password_hash=""), Code.INVALID_ARGUMENT)
    hive.refused(change(alice, new_session_id=alice), Code.INVALID_ARGUMENT)
    hive.refused(change("nobody's"), Code.INVALID_SESSION)


def test_roles_are_given_by_admins_alone() -> None:
    hive = Hive()
    alice, bob = hive.user("alice"), hive.user("bob")
    hive.refused(SetUserRole(session_id=alice, username="alice", role=UserRole.ADMIN), Code.PERMISSION_DENIED)
    hive.make_admin("alice", alice)
    assert hive.do(SetUserRole(session_id=alice, username="BOB", role=UserRole.OPERATOR)).text == "bob"
    assert hive.role("bob") is UserRole.OPERATOR
    hive.refused(SetUserRole(session_id=bob, username="bob", role=UserRole.ADMIN), Code.PERMISSION_DENIED)
    hive.refused(SetUserRole(session_id=alice, username="carol", role=UserRole.USER), Code.USER_NOT_FOUND)
    hive.do(SetUserRole(session_id=alice, username="alice", role=UserRole.USER))
    hive.refused(SetUserRole(session_id=alice, username="alice", role=UserRole.ADMIN), Code.PERMISSION_DENIED)
    invariants.check(hive.view)


def test_a_role_includes_those_before_it() -> None:
    assert [[role.includes(other) for other in UserRole] for role in UserRole] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
