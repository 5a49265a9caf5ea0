"""Remembered requests: a request that comes again gets the reply that it got, and is not done again.

A request is (owner, key). Its reply, a refusal as well, is kept until the agreed clock has gone `keep_ms` further. At most
`REMEMBERED_MAX` of those that are kept for longer than `SHORT_MS` are kept for one owner; the short ones, which peers make for
their own repetitions, are bounded by what the hive can agree on in that time.

What makes two requests the same is what their sender meant, not every byte: a retry that goes through another leader carries a
fresh session id, a fresh salt in the password hash, and other holders of the data. So the key of a Transfer stands for
receiver and amount, that of a SubmitTask for task id, specification and data, and that of a StopTask for the task id, each
with the sender, whom the session says. For all other commands the key stands for the kind of command alone. When the session
of a repetition has ended meanwhile, the owner and the rest have to agree: the answer must not turn from "done" into "not done".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from hivenode.encoding.canonical import Value, encode
from hivenode.encoding.records import Record, decode_record, encode_record, to_value
from hivenode.encoding.state_view import StateView
from hivenode.errors import Code, HiveError
from hivenode.pool import keys
from hivenode.pool.commands import Envelope, Reply, StopTask, SubmitTask, Transfer
from hivenode.pool.context import Context, bump, count, standing_session

REMEMBERED_MAX: Final = 10_000
"""Replies kept for one owner: some megabytes at most, and more requests a day than a person's program makes in earnest."""
SHORT_MS: Final = 120_000
"""A request that is forgotten so soon does not count: some 100 bytes for each write of the last two minutes."""
COUNTED: Final = b"\1"
"""Marks, in the table by expiry, a request that counts for its owner."""
DROPPED_PER_ENTRY_MAX: Final = 8
"""More than one entry can add, so the table shrinks when requests stop, and few enough to cost no entry much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered(Record):
    """A reply that is kept. `sender` is empty when the command shows no session that stood."""

    KIND = 18
    expires_ms: int
    sender: str
    meaning: bytes
    reply: Reply


def meaning_of(command: Record) -> bytes:
    """32 bytes that are the same for all commands that mean the same."""
    fields: list[Value] = [command.KIND]
    if isinstance(command, Transfer):
        fields += [command.receiver, command.amount]
    elif isinstance(command, SubmitTask):
        fields += [command.task_id, to_value(command.spec), to_value(command.data)]
    elif isinstance(command, StopTask):
        fields.append(command.task_id)
    return hashlib.sha256(encode(fields)).digest()


def recall(view: StateView, envelope: Envelope, command: Record, now_ms: int) -> Reply | None:
    """The reply that the request got before, or None when it is new.

    Raises: IDEMPOTENCY_CONFLICT when the key stands for another request; RATE_LIMITED when the owner has too many.
    """
    tail = keys.request_tail(envelope.request_owner, envelope.request_key)
    row = view.get(keys.REQUESTS + tail)
    if row is not None:
        known = decode_record(Remembered, row)
        if known.expires_ms > now_ms:
            if known.meaning != meaning_of(command) or not _same_sender(view, known, command, now_ms):
                raise HiveError(Code.IDEMPOTENCY_CONFLICT, "This idempotency key was used for another request.")
            return known.reply
        _drop(view, known.expires_ms, envelope.request_owner, tail, view.get(_by_expiry(known.expires_ms, tail)) or b"")
    counts = envelope.keep_ms > SHORT_MS
    if counts and count(view, keys.by_text(keys.REQUEST_COUNTS, envelope.request_owner)) >= REMEMBERED_MAX:
        raise HiveError(
            Code.RATE_LIMITED, f"At most {REMEMBERED_MAX} requests are remembered at once; ask again later."
        )
    return None


def _same_sender(view: StateView, known: Remembered, command: Record, now_ms: int) -> bool:
    if not isinstance(command, Transfer | SubmitTask | StopTask) or not known.sender:
        return True
    session = standing_session(view, command.session_id, now_ms)
    return session is None or session.username == known.sender


def remember(ctx: Context, envelope: Envelope, command: Record, reply: Reply) -> None:
    """Keeps a reply for `keep_ms` of the envelope."""
    tail = keys.request_tail(envelope.request_owner, envelope.request_key)
    expires_ms = ctx.now_ms + envelope.keep_ms
    kept = Remembered(expires_ms=expires_ms, sender=ctx.sender, meaning=meaning_of(command), reply=reply)
    ctx.view.put(keys.REQUESTS + tail, encode_record(kept))
    ctx.view.put(_by_expiry(expires_ms, tail), COUNTED if envelope.keep_ms > SHORT_MS else b"")
    oldest = ctx.view.get(keys.OLDEST_REQUEST)
    if oldest is None or oldest > keys.number(expires_ms):
        ctx.view.put(keys.OLDEST_REQUEST, keys.number(expires_ms))
    if envelope.keep_ms > SHORT_MS:
        bump(ctx.view, keys.by_text(keys.REQUEST_COUNTS, envelope.request_owner), 1)


def _by_expiry(expires_ms: int, tail: bytes) -> bytes:
    return keys.REQUESTS_BY_EXPIRY + keys.number(expires_ms) + tail


def _drop(view: StateView, expires_ms: int, owner: str, tail: bytes, mark: bytes) -> None:
    view.delete(keys.REQUESTS + tail)
    view.delete(_by_expiry(expires_ms, tail))
    if mark == COUNTED:
        bump(view, keys.by_text(keys.REQUEST_COUNTS, owner), -1)


def drop_expired(view: StateView, now_ms: int, rows_max: int) -> int:
    """Forgets at most `rows_max` requests whose time is over, oldest first. Returns how many.

    `OLDEST_REQUEST` keeps a time before which none expires. So most entries look at one row here, and a scan begins behind
    the rows that were just removed, which a store that keeps removals apart would have to step over.
    """
    row = view.get(keys.OLDEST_REQUEST)
    if row is None or int.from_bytes(row, "big") > now_ms:
        return 0
    over: list[tuple[int, bytes, bytes]] = []
    oldest: bytes | None = None
    for key, mark in view.scan(keys.REQUESTS_BY_EXPIRY, after=keys.REQUESTS_BY_EXPIRY + row):
        expires_ms = int.from_bytes(key[1:9], "big")
        if expires_ms > now_ms or len(over) >= rows_max:
            oldest = key[1:9]
            break
        over.append((expires_ms, keys.after_number(key), mark))
    for expires_ms, tail, mark in over:
        _drop(view, expires_ms, tail.partition(b"\0")[0].decode("utf-8"), tail, mark)
    if oldest is None:
        view.delete(keys.OLDEST_REQUEST)
    elif oldest != row:
        view.put(keys.OLDEST_REQUEST, oldest)
    return len(over)
