"""The recoveries that a hive went through, kept so that every member can tell those that were left behind."""

from __future__ import annotations

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.recovery import RECOVERIES_MAX, REVOKED_MAX, open_recovery
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError
from hivenode.pool import keys, validation
from hivenode.pool.commands import NoteRecovery, Reply
from hivenode.pool.context import Context, done


def recoveries(view: ReadView) -> tuple[bytes, ...]:
    """The newest ones, oldest first, each as canonical bytes of a `SignedRecovery`."""
    return tuple(row for _, row in view.scan(keys.RECOVERIES))[-RECOVERIES_MAX:]


def note_recovery(ctx: Context, command: NoteRecovery) -> Reply:
    """Keeps the record. Reply: text = the hive's id with its mark."""
    if len(command.signed_recovery) > validation.RECORD_BYTES_MAX:
        raise HiveError(Code.INVALID_ARGUMENT, "The record of a recovery is too long.")
    try:
        record = open_recovery(command.signed_recovery, ctx.verify)
    except DecodeError as error:
        raise HiveError(Code.INVALID_ARGUMENT, f"The recovery does not hold: {validation.shown(str(error))}.") from None
    if len(record.revoked) > REVOKED_MAX:
        raise HiveError(Code.INVALID_ARGUMENT, f"A recovery gives up at most {REVOKED_MAX} machines.")
    ctx.view.put(keys.RECOVERIES + keys.number(ctx.index), command.signed_recovery)
    return done(text=record.hive_id)
