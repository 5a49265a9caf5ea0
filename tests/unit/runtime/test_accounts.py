"""Accounts over the production state machine: users, sessions, tokens and money."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import nacl.signing
import pytest
from nacl.pwhash import argon2id

from hivenode.config import Config, load_config
from hivenode.encoding.claim import ClaimPurpose
from hivenode.encoding.node_record import Role
from hivenode.errors import Code, HiveError
from hivenode.identity import Identity
from hivenode.pool import invariants, queries
from hivenode.pool.commands import CloseSession, LogIn, OpenSession, RefreshSession, RegisterUser, RemoveNode
from hivenode.pool.records import NodeRights, UserRole
from hivenode.runtime.accounts import REGISTERING_ADDRESSES, HiveAccounts
from hivenode.runtime.claim_code import CODE_FILE, ClaimCode
from hivenode.runtime.passwords import PasswordHashing
from hivenode.runtime.ports import Caller
from hivenode.runtime.tokens import TokenSigner
from tests.support.local_agreement import GRANT, HIVE_ID, LocalAgreement, LocalReplica, node_record

LEADER = Identity(nacl.signing.SigningKey(b"1" * 32))
STRANGER = Identity(nacl.signing.SigningKey(b"2" * 32))
DAY_MS = 86_400_000
HOUR_MS = 3_600_000


_keys = itertools.count()


def call(key: str = "", origin: str = "ip:10.0.0.1") -> Caller:
    return Caller(origin=origin, idempotency_key=key or f"auto:{next(_keys)}", deadline_s=20.0)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(data_dir=tmp_path)


@pytest.fixture
async def hive() -> AsyncIterator[LocalAgreement]:
    made = LocalAgreement(LEADER)
    yield made
    invariants.check(made.view())


@pytest.fixture
async def accounts(hive: LocalAgreement, config: Config) -> AsyncIterator[HiveAccounts]:
    made = HiveAccounts(hive, hive, LEADER, config, clock_ms=hive.now_ms)
    yield made
    await made.aclose()


@pytest.fixture
async def guarded(hive: LocalAgreement, tmp_path: Path) -> AsyncIterator[HiveAccounts]:
    """Those of a hive that takes two wrong passwords a minute, with ann among them."""
    config = load_config(data_dir=tmp_path, wrong_passwords_per_minute_max=2)
    made = HiveAccounts(hive, hive, LEADER, config, clock_ms=hive.now_ms)
    await made.register("ann", "secret", "", call())
    yield made
    await made.aclose()


@pytest.fixture
async def token(accounts: HiveAccounts) -> str:
    await accounts.register("Ann", "secret", "ann@example.org", call())
    return await accounts.login("ann", "secret", call())


async def code_of(awaitable: object) -> Code:
    with pytest.raises(HiveError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.code


async def test_who_registers_can_log_in_and_has_the_grant(accounts: HiveAccounts) -> None:
    user_id = await accounts.register("Ann", "secret", "", call())
    token = await accounts.login("ann", "secret", call())
    session = await accounts.authenticate(token)
    assert user_id
    assert session.username == "Ann"
    assert session.expires_ms - session.created_ms == DAY_MS
    assert await accounts.balance(session, "", call()) == GRANT
    assert await accounts.balance(session, "ANN", call()) == GRANT


async def test_a_name_is_taken_in_any_case(accounts: HiveAccounts, token: str) -> None:
    assert await code_of(accounts.register("aNN", "other", "", call())) is Code.USER_EXISTS


async def test_a_repeated_registration_is_the_same_success(accounts: HiveAccounts) -> None:
    first = await accounts.register("Ann", "secret", "", call("k"))
    assert await accounts.register("Ann", "secret", "", call("k")) == first
    assert await accounts.register("Bob", "secret", "", call("k")) != first
    assert await code_of(accounts.register("Ann", "secret", "", call("other"))) is Code.USER_EXISTS


@pytest.mark.parametrize(
    ("name", "password", "email"),
    [
        ("", "secret", ""),
        ("a\0b", "secret", ""),
        ("ann", "", ""),
        ("ann", "x" * 1_025, ""),
        ("ann", "\ud800", ""),
        ("ann", "secret", "no address"),
    ],
)
async def test_what_cannot_be_a_user_is_refused(accounts: HiveAccounts, name: str, password: str, email: str) -> None:
    with pytest.raises(HiveError) as caught:
        await accounts.register(name, password, email, call())
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "secret" not in caught.value.message


async def test_wrong_password_and_unknown_user_are_one_refusal(accounts: HiveAccounts, token: str) -> None:
    messages: set[str] = set()
    for name, password in (("ann", "wrong"), ("nobody", "secret"), ("\0", "secret"), ("x" * 1_000, "secret")):
        with pytest.raises(HiveError) as caught:
            await accounts.login(name, password, call())
        assert caught.value.code is Code.INVALID_PASSWORD
        messages.add(caught.value.message)
    assert len(messages) == 1


async def test_an_unknown_user_costs_the_work_of_a_wrong_password(
    accounts: HiveAccounts, hive: LocalAgreement, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One verification of an Argon2id hash with the same cost, and the same questions to the hive."""
    verified: list[tuple[str, bytes]] = []
    verify = argon2id.verify

    def note(password_hash: bytes, password: bytes) -> bool:
        verified.append((password_hash.decode().rpartition("$")[0].rpartition("$")[0], password))
        return bool(verify(password_hash, password))

    monkeypatch.setattr(argon2id, "verify", note)
    work: list[object] = []
    for name in ("ann", "nobody"):
        verified.clear()
        barriers, proposals = hive.barriers, len(hive.proposals)
        assert await code_of(accounts.login(name, "wrong", call())) is Code.INVALID_PASSWORD
        work.append((list(verified), hive.barriers - barriers, len(hive.proposals) - proposals))
    assert work[0] == work[1]
    assert work[0] == ([("$argon2id$v=19$m=32768,t=2,p=1", b"wrong")], 1, 0)


async def test_a_long_line_before_the_hashing_is_refused_at_once() -> None:
    passwords = PasswordHashing()
    calls = [asyncio.create_task(passwords.hash("secret", 0.05)) for _ in range(80)]
    refusals = [done for done in await asyncio.gather(*calls, return_exceptions=True) if isinstance(done, HiveError)]
    assert len(refusals) >= 16
    assert {refusal.code for refusal in refusals} == {Code.OVERLOADED}
    await passwords.aclose()


async def test_passwords_are_hashed_off_the_loop_by_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many log in, at most two hashes are made at a time, and none on the event loop's thread."""
    at_work, most, threads = 0, 0, set[int]()
    verify, lock = argon2id.verify, threading.Lock()

    def note(password_hash: bytes, password: bytes) -> bool:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
            threads.add(threading.get_ident())
        try:
            return bool(verify(password_hash, password))
        finally:
            with lock:
                at_work -= 1

    monkeypatch.setattr(argon2id, "verify", note)
    passwords = PasswordHashing()
    known = await passwords.hash("secret", 10)
    assert all(await asyncio.gather(*(passwords.matches("secret", known, 60) for _ in range(20))))
    assert 1 <= most <= 2
    assert threading.get_ident() not in threads
    await passwords.aclose()


async def test_registrations_and_logins_are_limited_by_address(hive: LocalAgreement, tmp_path: Path) -> None:
    config = load_config(data_dir=tmp_path, registrations_per_minute_max=1, logins_per_minute_max=2)
    accounts = HiveAccounts(hive, hive, LEADER, config, clock_ms=hive.now_ms)
    await accounts.register("ann", "secret", "", call())
    assert await code_of(accounts.register("bob", "secret", "", call())) is Code.RATE_LIMITED
    await accounts.register("bob", "secret", "", call(origin="ip:10.0.0.2"))
    await accounts.login("ann", "secret", call())
    await accounts.login("ann", "secret", call())
    assert await code_of(accounts.login("bob", "secret", call())) is Code.RATE_LIMITED
    await accounts.login("ann", "secret", call(origin="ip:10.0.0.3"))
    hive.clock_ms += 60_000
    await accounts.login("ann", "secret", call())
    await accounts.aclose()


async def test_a_worker_that_makes_up_addresses_registers_and_logs_in_no_more_than_one_address(
    hive: LocalAgreement, tmp_path: Path
) -> None:
    config = load_config(data_dir=tmp_path, registrations_per_minute_max=1, logins_per_minute_max=1)
    accounts = HiveAccounts(hive, hive, LEADER, config, clock_ms=hive.now_ms)
    calls = (replace(call(origin=f"ip:10.0.1.{number}"), through="worker") for number in range(4))
    await accounts.register("ann", "secret", "", next(calls))
    assert await code_of(accounts.register("bob", "secret", "", next(calls))) is Code.RATE_LIMITED
    await accounts.login("ann", "secret", next(calls))
    assert await code_of(accounts.login("ann", "secret", next(calls))) is Code.RATE_LIMITED
    await accounts.login("ann", "secret", replace(call(origin="ip:10.0.1.9"), through="other"))
    await accounts.aclose()


async def test_the_registrations_of_all_addresses_are_limited_together(hive: LocalAgreement, tmp_path: Path) -> None:
    config = load_config(data_dir=tmp_path, registrations_per_minute_max=1)
    accounts = HiveAccounts(hive, hive, LEADER, config, clock_ms=hive.now_ms)
    for number in range(REGISTERING_ADDRESSES):
        await accounts.register(f"u{number}", "secret", "", call(origin=f"ip:10.0.1.{number}"))
    assert await code_of(accounts.register("more", "secret", "", call(origin="ip:10.0.2.1"))) is Code.RATE_LIMITED
    hive.clock_ms += 60_000 // REGISTERING_ADDRESSES
    await accounts.register("more", "secret", "", call(origin="ip:10.0.2.2"))
    await accounts.aclose()


@pytest.mark.parametrize("moved_ms", [-HOUR_MS, HOUR_MS])
async def test_a_clock_of_the_wall_that_is_set_gives_no_tries_and_takes_none(
    hive: LocalAgreement, tmp_path: Path, moved_ms: int
) -> None:
    config = load_config(
        data_dir=tmp_path,
        registrations_per_minute_max=2,
        logins_per_minute_max=4,
        wrong_passwords_per_minute_max=1,
    )
    accounts = HiveAccounts(hive, hive, LEADER, config, clock_ms=lambda: 0)
    await accounts.register("ann", "secret", "", call())
    await accounts.login("ann", "secret", call())
    assert await code_of(accounts.login("ann", "wrong", call())) is Code.INVALID_PASSWORD
    hive.clock_ms += moved_ms
    assert await code_of(accounts.login("ann", "secret", call())) is Code.RATE_LIMITED
    await accounts.register("bob", "secret", "", call())
    assert await code_of(accounts.register("carl", "secret", "", call())) is Code.RATE_LIMITED
    await accounts.login("bob", "secret", call())
    assert await code_of(accounts.login("bob", "secret", call())) is Code.RATE_LIMITED
    await accounts.aclose()


@pytest.mark.parametrize("name", ["ann", "nobody"])
async def test_wrong_passwords_of_one_account_are_limited_from_all_addresses_together(
    hive: LocalAgreement, guarded: HiveAccounts, name: str
) -> None:
    for number in range(4):
        await guarded.login("Ann", "secret", call(origin=f"ip:10.0.1.{number}"))  # right ones are not counted
    tries = [await code_of(guarded.login(name, "wrong", call(origin=f"ip:10.0.0.{n}"))) for n in range(3)]
    assert tries == [Code.INVALID_PASSWORD, Code.INVALID_PASSWORD, Code.RATE_LIMITED]
    assert await code_of(guarded.login(name, "secret", call(origin="ip:10.0.0.9"))) is Code.RATE_LIMITED
    hive.clock_ms += 60_000
    assert await code_of(guarded.login(name, "wrong", call())) is Code.INVALID_PASSWORD


async def test_many_tries_at_once_are_no_way_round_the_limit(guarded: HiveAccounts) -> None:
    tries = await asyncio.gather(*(code_of(guarded.login("ann", f"wrong {n}", call())) for n in range(6)))
    assert sorted(tries) == sorted([Code.INVALID_PASSWORD] * 2 + [Code.RATE_LIMITED] * 4)


async def test_a_try_that_found_the_line_full_is_not_counted(
    guarded: HiveAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a stranger who fills the line has a right password counted as wrong, and its user locked out."""
    with monkeypatch.context() as full:
        full.setattr("hivenode.runtime.passwords._WAITING_MAX", 0)
        tries = [await code_of(guarded.login("ann", "secret", call())) for _ in range(4)]
    assert tries == [Code.OVERLOADED] * 4
    await guarded.login("ann", "secret", call())
    tries = [await code_of(guarded.login("ann", "wrong", call())) for _ in range(3)]
    assert tries == [Code.INVALID_PASSWORD, Code.INVALID_PASSWORD, Code.RATE_LIMITED]


async def test_a_try_whose_caller_hung_up_is_counted(guarded: HiveAccounts, monkeypatch: pytest.MonkeyPatch) -> None:
    checking = asyncio.Event()

    async def check(*_: object) -> bool:
        checking.set()
        await asyncio.Event().wait()
        return False

    with monkeypatch.context() as slow:
        slow.setattr(PasswordHashing, "matches", check)
        for _ in range(2):
            checking.clear()
            login = asyncio.create_task(guarded.login("ann", "wrong", call()))
            await checking.wait()
            login.cancel()
            await asyncio.gather(login, return_exceptions=True)
    assert await code_of(guarded.login("ann", "wrong", call())) is Code.RATE_LIMITED


async def test_a_repeated_login_is_the_same_session(accounts: HiveAccounts, token: str) -> None:
    first = await accounts.authenticate(await accounts.login("ann", "secret", call("k")))
    again = await accounts.authenticate(await accounts.login("ann", "secret", call("k")))
    assert first == again


async def test_logout_ends_a_token_everywhere(hive: LocalAgreement, accounts: HiveAccounts, token: str) -> None:
    await accounts.logout(token, call())
    await accounts.logout(token, call())
    assert await code_of(accounts.authenticate(token)) is Code.INVALID_SESSION


async def test_a_session_ends_by_the_agreed_clock(hive: LocalAgreement, accounts: HiveAccounts, token: str) -> None:
    hive.clock_ms += DAY_MS
    await accounts.authenticate(token)
    hive.run(RegisterUser(username="bob", password_hash="x", email=""))  # moves the agreed clock
    assert await code_of(accounts.authenticate(token)) is Code.INVALID_SESSION


async def test_a_token_past_its_time_is_refused_though_the_agreed_clock_stands(
    hive: LocalAgreement, accounts: HiveAccounts, token: str
) -> None:
    hive.clock_ms += DAY_MS + 60_000
    assert await code_of(accounts.authenticate(token)) is Code.INVALID_SESSION


async def test_refresh_gives_a_new_session_and_closes_the_old(accounts: HiveAccounts, token: str) -> None:
    new = await accounts.refresh(token, call("k"))
    assert (await accounts.authenticate(new)).username == "Ann"
    assert await code_of(accounts.authenticate(token)) is Code.INVALID_SESSION
    assert await accounts.refresh(token, call("k")) == new
    assert await code_of(accounts.refresh(token, call("other"))) is Code.INVALID_SESSION


async def test_a_refresh_of_unknown_outcome_can_be_repeated(
    hive: LocalAgreement, accounts: HiveAccounts, token: str
) -> None:
    hive.fail_next = HiveError(Code.OUTCOME_UNKNOWN, "perhaps")
    assert await code_of(accounts.refresh(token, call("k"))) is Code.OUTCOME_UNKNOWN
    new = await accounts.refresh(token, call("k"))
    assert (await accounts.authenticate(new)).username == "Ann"
    assert await code_of(accounts.authenticate(token)) is Code.INVALID_SESSION


async def test_a_changed_password_ends_all_sessions_but_the_new_one(accounts: HiveAccounts, token: str) -> None:
    elsewhere = await accounts.login("ann", "secret", call())
    new = await accounts.change_password(token, "secret", "better secret", call("k"))
    assert (await accounts.authenticate(new)).username == "Ann"
    for old in (token, elsewhere):
        assert await code_of(accounts.authenticate(old)) is Code.INVALID_SESSION
    assert await code_of(accounts.login("ann", "secret", call())) is Code.INVALID_PASSWORD
    await accounts.login("ann", "better secret", call())


async def test_a_changed_password_can_be_asked_for_again_but_by_nobody_else(
    hive: LocalAgreement, accounts: HiveAccounts, token: str
) -> None:
    hive.fail_next = HiveError(Code.OUTCOME_UNKNOWN, "perhaps")
    assert await code_of(accounts.change_password(token, "secret", "better", call("k"))) is Code.OUTCOME_UNKNOWN
    new = await accounts.change_password(token, "secret", "better", call("k"))
    assert (await accounts.authenticate(new)).username == "Ann"
    # Who has the old token alone, and guesses the key, gets nothing.
    assert await code_of(accounts.change_password(token, "secret", "worse", call("k"))) is Code.INVALID_PASSWORD
    assert await code_of(accounts.change_password(token, "secret", "worse", call("j"))) is Code.INVALID_SESSION


async def test_a_changed_password_is_no_refresh_for_who_has_the_old_token(accounts: HiveAccounts, token: str) -> None:
    await accounts.change_password(token, "secret", "better", call("k"))
    assert await code_of(accounts.refresh(token, call("k"))) is Code.INVALID_SESSION


async def test_a_refresh_is_no_changed_password(accounts: HiveAccounts, token: str) -> None:
    await accounts.refresh(token, call("k"))
    assert await code_of(accounts.change_password(token, "secret", "secret", call("k"))) is Code.INVALID_SESSION
    await accounts.login("ann", "secret", call())


async def test_a_password_is_not_changed_without_the_old_one(accounts: HiveAccounts, token: str) -> None:
    assert await code_of(accounts.change_password(token, "wrong", "better", call())) is Code.INVALID_PASSWORD
    assert await code_of(accounts.change_password(token, "secret", "", call())) is Code.INVALID_ARGUMENT
    await accounts.login("ann", "secret", call())


async def test_a_login_with_the_old_password_that_comes_late_opens_nothing(
    hive: LocalAgreement, accounts: HiveAccounts, token: str
) -> None:
    """The password is changed after it was checked and before the session is agreed on."""
    user = queries.user(hive.view(), "ann")
    assert user is not None
    await accounts.change_password(token, "secret", "better", call())
    late = LogIn(session_id="late", username="ann", checked_hash=user.password_hash, lifetime_ms=DAY_MS)
    assert (await hive.propose(late, deadline_s=1)).code == Code.INVALID_PASSWORD


async def test_a_refresh_that_comes_after_the_logout_opens_nothing(
    hive: LocalAgreement, accounts: HiveAccounts, token: str
) -> None:
    session = await accounts.authenticate(token)
    await accounts.logout(token, call())
    late = RefreshSession(session_id=session.session_id, new_session_id="late", lifetime_ms=DAY_MS)
    assert (await hive.propose(late, deadline_s=1)).code == Code.INVALID_SESSION


async def test_a_claim_makes_an_admin_who_gives_roles(
    hive: LocalAgreement, accounts: HiveAccounts, token: str, tmp_path: Path
) -> None:
    await accounts.register("bob", "secret", "", call())
    session = await accounts.authenticate(token)
    assert accounts.role_of(session) is UserRole.USER
    assert await code_of(accounts.set_role(session, "bob", UserRole.OPERATOR, call())) is Code.PERMISSION_DENIED
    code = ClaimCode(tmp_path, LEADER, hive.hive_id, hive.now_ms)
    await code.renew()
    claim = await code.redeem((tmp_path / CODE_FILE).read_text().strip(), ClaimPurpose.ADMIN, "ann")
    assert await accounts.claim_admin(session, claim, call("k")) == "Ann"
    assert await accounts.claim_admin(session, claim, call("k")) == "Ann"
    assert await code_of(accounts.claim_admin(session, claim, call("j"))) is Code.PERMISSION_DENIED
    assert accounts.role_of(session) is UserRole.ADMIN
    assert await accounts.set_role(session, "BOB", UserRole.OPERATOR, call()) == "bob"
    assert await accounts.balance(session, "bob", call()) == GRANT


async def test_only_the_key_of_a_node_with_voter_right_makes_tokens(
    hive: LocalAgreement, accounts: HiveAccounts, token: str
) -> None:
    session = await accounts.authenticate(token)
    forged = TokenSigner(STRANGER).sign(session, HIVE_ID)
    assert await code_of(accounts.authenticate(forged)) is Code.INVALID_SESSION
    hive.admit(STRANGER, NodeRights.WORKER, node_record(STRANGER, role=Role.WORKER))
    assert await code_of(accounts.authenticate(forged)) is Code.INVALID_SESSION
    hive.run(RemoveNode(node_id=STRANGER.node_id, reason=""))
    hive.admit(STRANGER, NodeRights.VOTER, replace(node_record(STRANGER), incarnation="another"))
    assert await accounts.authenticate(forged) == session
    hive.run(RemoveNode(node_id=STRANGER.node_id, reason="revoked"))
    assert await code_of(accounts.authenticate(forged)) is Code.INVALID_SESSION
    assert await accounts.authenticate(token) == session


async def test_a_token_for_another_hive_or_session_is_refused(
    hive: LocalAgreement, accounts: HiveAccounts, token: str
) -> None:
    session = await accounts.authenticate(token)
    hive.run(RegisterUser(username="bob", password_hash="x", email=""))
    hive.run(OpenSession(session_id="of bob", username="bob", lifetime_ms=DAY_MS))
    bobs = queries.session(hive.view(), "of bob")
    assert bobs is not None
    mixed = type(bobs)(
        session_id=bobs.session_id, username=session.username, created_ms=1, expires_ms=session.expires_ms
    )
    for forged in (TokenSigner(LEADER).sign(session, "22" * 16), TokenSigner(LEADER).sign(mixed, HIVE_ID), "", "x.y.z"):
        assert await code_of(accounts.authenticate(forged)) is Code.INVALID_SESSION


async def test_a_follower_that_lags_looks_again_after_one_barrier(
    hive: LocalAgreement, config: Config, token: str
) -> None:
    replica = LocalReplica(hive.log)
    follower = HiveAccounts(replica, replica, STRANGER, config, clock_ms=hive.now_ms)
    assert (await follower.authenticate(token)).username == "Ann"
    assert replica.barriers == 1
    assert (await follower.authenticate(token)).username == "Ann"
    assert replica.barriers == 1
    hive.run(CloseSession(session_id=(await follower.authenticate(token)).session_id))
    replica.catch_up()
    assert await code_of(follower.authenticate(token)) is Code.INVALID_SESSION
    await follower.aclose()


async def test_money_moves_once_for_one_key(accounts: HiveAccounts, token: str) -> None:
    await accounts.register("bob", "secret", "", call())
    session = await accounts.authenticate(token)
    assert await accounts.transfer(session, "bob", 100, call("k")) == GRANT - 100
    assert await accounts.transfer(session, "bob", 100, call("k")) == GRANT - 100
    assert await code_of(accounts.transfer(session, "bob", 200, call("k"))) is Code.IDEMPOTENCY_CONFLICT
    assert await accounts.balance(session, "", call()) == GRANT - 100


async def test_what_a_transfer_cannot_be_is_refused(accounts: HiveAccounts, token: str) -> None:
    session = await accounts.authenticate(token)
    assert await code_of(accounts.transfer(session, "bob", 1, call())) is Code.USER_NOT_FOUND
    assert await code_of(accounts.transfer(session, "ann", 0, call())) is Code.INVALID_AMOUNT
    await accounts.register("bob", "secret", "", call())
    assert await code_of(accounts.transfer(session, "bob", GRANT + 1, call())) is Code.INSUFFICIENT_BALANCE
    await accounts.logout(token, call())
    assert await code_of(accounts.transfer(session, "bob", 1, call())) is Code.INVALID_SESSION


async def test_balances_of_others_are_not_told(accounts: HiveAccounts, token: str) -> None:
    await accounts.register("bob", "secret", "", call())
    session = await accounts.authenticate(token)
    for name in ("bob", "nobody"):
        assert await code_of(accounts.balance(session, name, call())) is Code.PERMISSION_DENIED


async def test_failures_of_the_agreement_pass_through(hive: LocalAgreement, accounts: HiveAccounts, token: str) -> None:
    await accounts.register("bob", "secret", "", call())
    session = await accounts.authenticate(token)
    for code in (Code.NO_LEADER, Code.OUTCOME_UNKNOWN):
        hive.fail_next = HiveError(code, "so it is")
        assert await code_of(accounts.transfer(session, "bob", 5, call("k"))) is code
    assert await accounts.transfer(session, "bob", 5, call("k")) == GRANT - 5


async def test_no_password_shows_in_what_is_proposed_or_kept(hive: LocalAgreement, accounts: HiveAccounts) -> None:
    await accounts.register("ann", "my-pass-phrase", "", call())
    token = await accounts.login("ann", "my-pass-phrase", call())
    shown = repr(hive.proposals) + repr(vars(accounts)) + repr(hive.view().rows())
    assert "my-pass-phrase" not in shown
    assert token not in shown
