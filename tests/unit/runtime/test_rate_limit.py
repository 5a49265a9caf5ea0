"""Rate limits on a clock of the test's own."""

from __future__ import annotations

import pytest

from hivenode.errors import Code, HiveError
from hivenode.runtime.rate_limit import RateLimit, origin_key


def allowed(limit: RateLimit, key: str, clock_ms: int) -> bool:
    try:
        limit.take(key, clock_ms)
    except HiveError as error:
        if error.code is not Code.RATE_LIMITED:
            raise
        return False
    return True


def test_a_minute_allows_its_number_at_once_and_then_evenly() -> None:
    limit = RateLimit("logins", 60)
    assert [allowed(limit, "a", 0) for _ in range(61)] == [True] * 60 + [False]
    assert not allowed(limit, "a", 999)
    assert allowed(limit, "a", 1_000)
    assert not allowed(limit, "a", 1_000)
    assert sum(allowed(limit, "a", 10_000_000) for _ in range(100)) == 60


def test_a_bucket_that_was_full_long_ago_and_is_not_forgotten_yet_has_a_minutes_worth() -> None:
    limit = RateLimit("logins", 10)
    for number in range(1_000):
        assert allowed(limit, f"other {number}", 0)
    assert allowed(limit, "z", 0)
    assert sum(allowed(limit, "z", 3_600_000) for _ in range(600)) == 10


def test_keys_do_not_share() -> None:
    limit = RateLimit("logins", 1)
    assert allowed(limit, "a", 0)
    assert allowed(limit, "b", 0)
    assert not allowed(limit, "a", 0)


def test_a_clock_that_runs_back_fills_nothing() -> None:
    limit = RateLimit("logins", 1)
    assert allowed(limit, "a", 60_000)
    assert not allowed(limit, "a", 0)
    assert allowed(limit, "a", 60_000)


def test_the_table_is_bounded() -> None:
    limit = RateLimit("logins", 1, keys_max=2)
    for key in "abc":
        assert allowed(limit, key, 0)
    assert not allowed(limit, "c", 0)
    assert allowed(limit, "a", 0)


def test_other_keys_do_not_have_a_used_up_bucket_forgotten() -> None:
    limit = RateLimit("wrong passwords", 2, keys_max=2)
    assert [allowed(limit, "victim", 0) for _ in range(3)] == [True, True, False]
    assert all(allowed(limit, f"other{number}", 0) for number in range(100))
    assert not allowed(limit, "victim", 0)
    assert allowed(limit, "victim", 30_000)


def test_what_was_given_back_takes_no_place() -> None:
    limit = RateLimit("wrong passwords", 2, keys_max=3)
    assert [allowed(limit, key, 0) for key in ("victim", "victim", "other")] == [True] * 3
    for number in range(100):
        limit.take(f"overloaded{number}", 0)
        limit.give_back(f"overloaded{number}")
    assert [allowed(limit, "other", 0) for _ in range(2)] == [True, False]
    assert not allowed(limit, "victim", 0)


@pytest.mark.parametrize("per_minute", [1, 7, 19, 59, 600, 9_973])
def test_a_minute_has_room_for_its_number_exactly(per_minute: int) -> None:
    limit = RateLimit("logins", per_minute)
    clock_ms = 1_795_000_000_000
    assert [allowed(limit, "a", clock_ms) for _ in range(per_minute + 1)] == [True] * per_minute + [False]


def test_what_was_given_back_fills_the_bucket() -> None:
    limit = RateLimit("wrong passwords", 1)
    for _ in range(3):
        limit.take("a", 0)
        limit.give_back("a")
    limit.give_back("unknown")
    assert allowed(limit, "a", 0)
    assert not allowed(limit, "a", 0)


def test_the_refusal_says_when_to_come_again() -> None:
    limit = RateLimit("registrations from this address", 2)
    limit.take("a", 0)
    limit.take("a", 0)
    with pytest.raises(HiveError, match=r"registrations from this address: at most 2 a minute .* in 30 s"):
        limit.take("a", 0)


@pytest.mark.parametrize(
    ("origin", "key"),
    [
        ("ip:1.2.3.4", "ip:1.2.3.4"),
        ("ip:2001:db8:1:2:3:4:5:6", "ip:2001:db8:1:2::/64"),
        ("ip:fe80::1%eth0", "ip:fe80::/64"),
        ("ip:::ffff:1.2.3.4", "ip:1.2.3.4"),
        ("unix:/x", "unix:/x"),
        ("ip:nonsense", "ip:nonsense"),
    ],
)
def test_an_origin_is_an_address_or_a_home_network(origin: str, key: str) -> None:
    assert origin_key(origin) == key
