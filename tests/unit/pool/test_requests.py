"""Remembered requests."""

from __future__ import annotations

import pytest

from hivenode.encoding.records import Record
from hivenode.errors import Code
from hivenode.pool import invariants, keys, requests
from hivenode.pool.commands import OpenSession, RegisterUser, StopTask, Sweep, Transfer
from tests.unit.pool.driver import GRANT, Hive, submission


def test_repeated_transfer_gets_its_old_reply_and_moves_nothing() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.user("bob")
    command = Transfer(session_id=alice, receiver="bob", amount=10)
    first = hive.send(command, owner="alice", key="k")
    again = hive.send(command, owner="alice", key="k")
    assert not first.repeated
    assert again.repeated
    assert again.reply == first.reply
    assert again.events == ()
    assert hive.balance("bob") == GRANT + 10


def test_refusal_is_remembered_too() -> None:
    hive = Hive()
    alice = hive.user("alice")
    command = Transfer(session_id=alice, receiver="bob", amount=10)
    assert hive.send(command, owner="alice", key="k").reply.code == Code.USER_NOT_FOUND
    hive.user("bob")
    again = hive.send(command, owner="alice", key="k")
    assert again.repeated
    assert again.reply.code == Code.USER_NOT_FOUND


def test_request_without_a_key_is_done_every_time() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.user("bob")
    for _ in range(2):
        hive.do(Transfer(session_id=alice, receiver="bob", amount=10))
    assert hive.balance("bob") == GRANT + 20


def test_same_key_of_another_owner_is_another_request() -> None:
    hive = Hive()
    alice, bob = hive.user("alice"), hive.user("bob")
    hive.send(Transfer(session_id=alice, receiver="bob", amount=10), owner="alice", key="k")
    assert not hive.send(Transfer(session_id=bob, receiver="alice", amount=5), owner="bob", key="k").repeated
    assert hive.balance("bob") == GRANT + 5


@pytest.mark.parametrize(
    "other",
    [
        Transfer(session_id="session-of-alice", receiver="bob", amount=11),
        Transfer(session_id="session-of-alice", receiver="carol", amount=10),
        Transfer(session_id="session-of-bob", receiver="bob", amount=10),
        StopTask(session_id="session-of-alice", task_id="t"),
        RegisterUser(username="dave", password_hash="x", email=""),
    ],
)
def test_same_key_for_another_request_is_a_conflict(other: Record) -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.user("bob")
    hive.send(Transfer(session_id=alice, receiver="bob", amount=10), owner="alice", key="k")
    assert hive.send(other, owner="alice", key="k").reply.code == Code.IDEMPOTENCY_CONFLICT
    assert hive.balance("bob") == GRANT + 10


def test_retry_with_another_session_of_the_same_user_is_the_same_request() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.user("bob")
    second = hive.login("alice", "second-session")
    hive.send(Transfer(session_id=alice, receiver="bob", amount=10), owner="alice", key="k")
    assert hive.send(Transfer(session_id=second, receiver="bob", amount=10), owner="alice", key="k").repeated


def test_retry_after_the_session_ended_still_says_that_it_was_done() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.user("bob")
    command = Transfer(session_id=alice, receiver="bob", amount=10)
    hive.send(command, owner="alice", key="k", keep_ms=2 * 86_400_000)
    hive.later(86_400_001)
    again = hive.send(command, owner="alice", key="k")
    assert again.repeated
    assert again.reply.code == Code.SUCCESS


def test_retried_login_and_registration_with_fresh_salt_and_session_id_get_the_first_reply() -> None:
    hive = Hive()
    one = RegisterUser(username="alice", password_hash="salt-1", email="")
    two = RegisterUser(username="alice", password_hash="salt-2", email="")
    first = hive.send(one, owner="r", key="k1")
    assert hive.send(two, owner="r", key="k1") == type(first)(reply=first.reply, events=(), repeated=True)
    hive.send(OpenSession(session_id="s-1", username="alice", lifetime_ms=5_000), owner="r", key="k2")
    again = hive.send(OpenSession(session_id="s-2", username="alice", lifetime_ms=5_000), owner="r", key="k2")
    assert again.reply.text == "s-1"


def test_same_key_for_another_task_is_a_conflict() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.send(submission(alice, "t", time_limit_s=60), owner="alice", key="k")
    assert hive.send(submission(alice, "t", time_limit_s=60), owner="alice", key="k").repeated
    for other in (submission(alice, "u", time_limit_s=60), submission(alice, "t", time_limit_s=61)):
        assert hive.send(other, owner="alice", key="k").reply.code == Code.IDEMPOTENCY_CONFLICT


def test_request_is_forgotten_after_its_time_and_done_anew() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.user("bob")
    command = Transfer(session_id=alice, receiver="bob", amount=10)
    hive.send(command, owner="alice", key="k", keep_ms=1_000)
    hive.later(999)
    assert hive.send(command, owner="alice", key="k").repeated
    hive.later(1)
    assert not hive.send(command, owner="alice", key="k").repeated
    invariants.check(hive.view)


def test_expired_requests_go_with_later_entries_and_with_the_sweep() -> None:
    hive = Hive()
    hive.user("alice")
    for number in range(20):
        hive.send(Sweep(keep_tasks_ms=0, rows_max=1), owner="alice", key=str(number), keep_ms=10)
    hive.later(10)
    hive.send(Sweep(keep_tasks_ms=0, rows_max=5))
    assert len(list(hive.view.scan(keys.REQUESTS))) == 20 - requests.DROPPED_PER_ENTRY_MAX - 5
    invariants.check(hive.view)


def test_owner_with_too_many_remembered_requests_is_refused_and_nothing_is_done() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.user("bob")
    hive.view.put(keys.by_text(keys.REQUEST_COUNTS, "alice"), keys.number(requests.REMEMBERED_MAX))
    transfer = Transfer(session_id=alice, receiver="bob", amount=10)
    reply = hive.send(transfer, owner="alice", key="k", keep_ms=requests.SHORT_MS + 1).reply
    assert reply.code == Code.RATE_LIMITED
    assert hive.balance("bob") == GRANT
    assert not hive.send(transfer, owner="alice", key="auto:k", keep_ms=requests.SHORT_MS).reply.refused


def test_only_long_kept_requests_count_for_their_owner() -> None:
    hive = Hive()
    hive.user("alice")
    counter = keys.by_text(keys.REQUEST_COUNTS, "alice")
    for key, keep_ms in (("short", 1_000), ("long", requests.SHORT_MS + 1)):
        hive.send(Sweep(keep_tasks_ms=0, rows_max=1), owner="alice", key=key, keep_ms=keep_ms)
        invariants.check(hive.view)
    assert hive.view.get(counter) == keys.number(1)
    hive.later(requests.SHORT_MS + 1)
    hive.send(Sweep(keep_tasks_ms=0, rows_max=10))
    assert hive.view.get(counter) in (None, keys.number(0))
    invariants.check(hive.view)


def test_request_with_a_shorter_time_is_forgotten_before_an_older_one() -> None:
    hive = Hive()
    for key, keep_ms in (("long", 1_000), ("short", 10), ("middle", 500)):
        hive.send(Sweep(keep_tasks_ms=0, rows_max=1), owner="a", key=key, keep_ms=keep_ms)
    left = []
    for ms in (9, 1, 490, 500):
        hive.later(ms)
        hive.send(Sweep(keep_tasks_ms=0, rows_max=1))
        invariants.check(hive.view)
        left.append(len(list(hive.view.scan(keys.REQUESTS))))
    assert left == [3, 2, 1, 0]
    assert hive.view.get(keys.OLDEST_REQUEST) is None


def test_request_whose_time_is_over_is_done_anew_also_before_it_is_dropped() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.user("bob")
    command = Transfer(session_id=alice, receiver="bob", amount=10)
    for number in range(2 * requests.DROPPED_PER_ENTRY_MAX + 1):
        hive.send(command, owner="alice", key=f"k{number:02}", keep_ms=10)
    hive.later(10)
    last = f"k{2 * requests.DROPPED_PER_ENTRY_MAX:02}"
    assert not hive.send(command, owner="alice", key=last).repeated
    invariants.check(hive.view)


def test_a_sweep_of_no_rows_is_refused_and_changes_nothing() -> None:
    hive = Hive()
    hive.user("alice")
    hive.later(10 * 86_400_000)
    hive.refused(Sweep(keep_tasks_ms=0, rows_max=0), Code.INVALID_ARGUMENT)
