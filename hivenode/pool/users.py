"""Rules of the hive's birth, users, sessions and transfers."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Final

from hivenode.encoding.canonical import encode
from hivenode.encoding.records import decode_record, encode_record
from hivenode.encoding.state_view import ReadView, StateView
from hivenode.errors import Code, HiveError, InvariantError, ensure
from hivenode.ledger import chain
from hivenode.ledger.accounts import TREASURY, user_account
from hivenode.ledger.entries import EntryKind
from hivenode.pool import keys, validation
from hivenode.pool.commands import (
    ChangePassword,
    CloseSession,
    CreateHive,
    LogIn,
    OpenSession,
    RefreshSession,
    RegisterUser,
    Reply,
    SetUserRole,
    Transfer,
)
from hivenode.pool.context import DONE, Context, bump, count, done
from hivenode.pool.events import HiveCreated, SessionClosed
from hivenode.pool.records import HiveRecord, SessionId, SessionRecord, UserName, UserRecord, UserRole

SESSIONS_MAX: Final = 64
"""Open sessions of one user: every device and script of a person, and a bound on what logging in in a loop leaves behind."""
DAY_MS: Final = 86_400_000
_USER_ID_DIGITS: Final = 32


def find_user(view: ReadView, name: str) -> UserRecord | None:
    """The user of this name, in whatever case it is written."""
    if not keys.sound(name):
        return None
    row = view.get(keys.by_user(keys.USERS, name))
    return None if row is None else decode_record(UserRecord, row)


def create_hive(ctx: Context, command: CreateHive) -> Reply:
    """Puts the whole supply into the treasury; once."""
    validation.check_text("hive id", command.hive_id)
    validation.check_number("supply", command.supply)
    validation.check_number("signup grant", command.signup_grant)
    validation.check_number("grants per day", command.grants_per_day_max)
    if ctx.view.get(keys.HIVE) is not None:
        raise HiveError(Code.INVALID_ARGUMENT, "The hive exists already.")
    record = HiveRecord(
        hive_id=command.hive_id,
        created_ms=ctx.now_ms,
        supply=command.supply,
        signup_grant=command.signup_grant,
        grants_per_day_max=command.grants_per_day_max,
    )
    ctx.view.put(keys.HIVE, encode_record(record))
    chain.found(ctx.view, time_ms=ctx.now_ms, supply=command.supply, reference=f"log:{ctx.index}")
    ctx.events.append(HiveCreated(hive_id=command.hive_id))
    return done(number=command.supply, text=command.hive_id)


def register_user(ctx: Context, command: RegisterUser) -> Reply:
    """A new user, with the grant while the day's cap and the treasury allow it."""
    validation.check_username(command.username)
    validation.check_text("password hash", command.password_hash)
    validation.check_email(command.email)
    if find_user(ctx.view, command.username) is not None:
        raise HiveError(Code.USER_EXISTS, f"The user {command.username} already exists.")
    hive_row = ctx.view.get(keys.HIVE)
    ensure(hive_row is not None, "a user registers in a hive that does not exist")
    hive = decode_record(HiveRecord, hive_row or b"")
    seed = encode([hive.hive_id, keys.fold(command.username), ctx.index])
    record = UserRecord(
        username=UserName(command.username),
        user_id=hashlib.sha256(b"hivenode user id v1\0" + seed).hexdigest()[:_USER_ID_DIGITS],
        password_hash=command.password_hash,
        email=command.email,
        role=UserRole.USER,
        created_ms=ctx.now_ms,
    )
    write_user(ctx.view, record)
    bump(ctx.view, keys.USERS_COUNTER, 1)
    return done(number=_grant(ctx, hive, command.username), text=record.user_id)


def _grant(ctx: Context, hive: HiveRecord, username: str) -> int:
    """Gives the signup grant, or nothing past the day's cap (a UTC day of the agreed clock). Returns the CPT given."""
    today = ctx.now_ms // DAY_MS
    row = ctx.view.get(keys.GRANTS)
    given = int.from_bytes(row[8:], "big") if row is not None and int.from_bytes(row[:8], "big") == today else 0
    grant = hive.signup_grant
    if grant == 0 or given >= hive.grants_per_day_max or chain.balance(ctx.view, TREASURY) < grant:
        return 0
    ctx.view.put(keys.GRANTS, keys.number(today) + keys.number(given + 1))
    chain.post(
        ctx.view,
        time_ms=ctx.now_ms,
        kind=EntryKind.GRANT,
        postings=((TREASURY, -grant), (user_account(username), grant)),
        reference=f"log:{ctx.index}",
        origin="hive",
    )
    return grant


def open_session(ctx: Context, command: OpenSession) -> Reply:
    """A session for a user; the one over the bound closes the user's oldest. Reply: text = its id, number = its expiry in ms."""
    user = find_user(ctx.view, command.username)
    if user is None:
        raise HiveError(Code.USER_NOT_FOUND, f"There is no user {validation.shown(command.username)}.")
    _check_new_session(ctx, command.session_id, command.lifetime_ms)
    return _add_session(ctx, user, command.session_id, command.lifetime_ms)


def log_in(ctx: Context, command: LogIn) -> Reply:
    """The same for a user whose password was checked, unless it was changed since. Reply: as of `open_session`."""
    user = find_user(ctx.view, command.username)
    if user is None or user.password_hash != command.checked_hash:
        raise HiveError(Code.INVALID_PASSWORD, "The password was changed by another call meanwhile.")
    _check_new_session(ctx, command.session_id, command.lifetime_ms)
    return _add_session(ctx, user, command.session_id, command.lifetime_ms)


def refresh_session(ctx: Context, command: RefreshSession) -> Reply:
    """Another session in the place of one that stands. Reply: as of `open_session`."""
    user = _sender(ctx, command.session_id)
    _check_new_session(ctx, command.new_session_id, command.lifetime_ms)
    remove_session(ctx, command.session_id)
    return _add_session(ctx, user, command.new_session_id, command.lifetime_ms)


def _sender(ctx: Context, session_id: str) -> UserRecord:
    """The user of a session that stands. Raises INVALID_SESSION."""
    user = find_user(ctx.view, ctx.sender_of(session_id))
    if user is None:
        raise InvariantError("a session belongs to a user who is not there")
    return user


def _check_new_session(ctx: Context, session_id: str, lifetime_ms: int) -> None:
    validation.check_text("session id", session_id)
    validation.check_number("session lifetime", lifetime_ms)
    if ctx.view.get(keys.by_text(keys.SESSIONS, session_id)) is not None:
        raise HiveError(Code.INVALID_ARGUMENT, "A session with this id exists already.")


def _add_session(ctx: Context, user: UserRecord, session_id: str, lifetime_ms: int) -> Reply:
    """Opens a session that was checked; the one over the bound closes the user's oldest."""
    if count(ctx.view, keys.by_user(keys.SESSION_COUNTS, user.username)) >= SESSIONS_MAX:
        oldest = next(sessions_of(ctx.view, user.username), None)
        if oldest is None:
            raise InvariantError("a user's sessions are counted and not there")
        remove_session(ctx, oldest)
    record = SessionRecord(
        session_id=SessionId(session_id),
        username=user.username,
        created_ms=ctx.now_ms,
        expires_ms=ctx.now_ms + lifetime_ms,
    )
    ctx.view.put(keys.by_text(keys.SESSIONS, session_id), encode_record(record))
    for index_key in session_index(record):
        ctx.view.put(index_key, b"")
    bump(ctx.view, keys.by_user(keys.SESSION_COUNTS, user.username), 1)
    return done(number=record.expires_ms, text=record.session_id)


def sessions_of(view: ReadView, username: str) -> Iterator[str]:
    """The ids of a user's sessions, oldest first."""
    prefix = keys.user_prefix(keys.SESSIONS_OF_USER, username)
    for key, _ in view.scan(prefix):
        yield key[len(prefix) + 8 :].decode("utf-8")


def session_index(session: SessionRecord) -> tuple[bytes, bytes]:
    """The keys under which a session is found by its expiry and by its user."""
    return (
        keys.session_by_expiry(session.expires_ms, session.session_id),
        keys.session_of_user(session.username, session.created_ms, session.session_id),
    )


def remove_session(ctx: Context, session_id: str) -> None:
    """Takes a session that is there out of all tables."""
    key = keys.by_text(keys.SESSIONS, session_id)
    row = ctx.view.get(key)
    ensure(row is not None, "a session is in an index and not in its table")
    session = decode_record(SessionRecord, row or b"")
    ctx.view.delete(key)
    for index_key in session_index(session):
        ctx.view.delete(index_key)
    bump(ctx.view, keys.by_user(keys.SESSION_COUNTS, session.username), -1)
    ctx.events.append(SessionClosed(session_id=session_id))


def close_session(ctx: Context, command: CloseSession) -> Reply:
    """Ends a session everywhere."""
    ctx.sender_of(command.session_id)
    remove_session(ctx, command.session_id)
    return DONE


def change_password(ctx: Context, command: ChangePassword) -> Reply:
    """A new password hash; whoever has been logged in as the user is so no more, but for the one who changed it."""
    user = _sender(ctx, command.session_id)
    validation.check_text("password hash", command.password_hash)
    _check_new_session(ctx, command.new_session_id, command.lifetime_ms)
    if user.password_hash != command.checked_hash:
        raise HiveError(Code.INVALID_PASSWORD, "The password was changed by another call meanwhile.")
    for session_id in list(sessions_of(ctx.view, user.username)):
        remove_session(ctx, session_id)
    write_user(ctx.view, dataclasses.replace(user, password_hash=command.password_hash))
    return _add_session(ctx, user, command.new_session_id, command.lifetime_ms)


def write_user(view: StateView, user: UserRecord) -> None:
    view.put(keys.by_user(keys.USERS, user.username), encode_record(user))


def set_role(ctx: Context, command: SetUserRole) -> Reply:
    """A user's new role, by the word of an admin. Reply: text = the user's name."""
    if not _sender(ctx, command.session_id).role.includes(UserRole.ADMIN):
        raise HiveError(Code.PERMISSION_DENIED, "Only an admin gives roles.")
    user = find_user(ctx.view, command.username)
    if user is None:
        raise HiveError(Code.USER_NOT_FOUND, f"There is no user {validation.shown(command.username)}.")
    write_user(ctx.view, dataclasses.replace(user, role=command.role))
    return done(text=user.username)


def drop_expired_sessions(ctx: Context, rows_max: int) -> int:
    """Removes at most `rows_max` sessions whose time is over, oldest first. Returns how many."""
    over: list[str] = []
    for key, _ in ctx.view.scan(keys.SESSIONS_BY_EXPIRY):
        if len(over) >= rows_max or int.from_bytes(key[1:9], "big") > ctx.now_ms:
            break
        over.append(keys.after_number(key).decode("utf-8"))
    for session_id in over:
        remove_session(ctx, session_id)
    return len(over)


def transfer(ctx: Context, command: Transfer) -> Reply:
    """Whole CPT from the session's user to another. Reply: number = the sender's new balance."""
    sender = ctx.sender_of(command.session_id)
    validation.check_amount(command.amount)
    receiver = find_user(ctx.view, command.receiver)
    if receiver is None:
        raise HiveError(Code.USER_NOT_FOUND, f"There is no user {validation.shown(command.receiver)}.")
    if receiver.username == sender:
        raise HiveError(Code.INVALID_ARGUMENT, "A transfer to oneself moves nothing.")
    account = user_account(sender)
    balance = chain.balance(ctx.view, account)
    if balance < command.amount:
        raise HiveError(
            Code.INSUFFICIENT_BALANCE, f"The transfer needs {command.amount} CPT; the balance is {balance} CPT."
        )
    chain.post(
        ctx.view,
        time_ms=ctx.now_ms,
        kind=EntryKind.TRANSFER,
        postings=((account, -command.amount), (user_account(receiver.username), command.amount)),
        reference=f"log:{ctx.index}",
        origin=f"user:{sender}",
    )
    return done(number=balance - command.amount)


def advance_clock(view: StateView, time_ms: int) -> int:
    """The agreed clock in ms after an entry with this time: it never runs back."""
    now_ms = count(view, keys.CLOCK)
    if time_ms > now_ms:
        view.put(keys.CLOCK, keys.number(time_ms))
        return time_ms
    return now_ms
