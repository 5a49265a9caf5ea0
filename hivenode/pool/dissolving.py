"""The end of a hive that has nothing in it: two hives that met too late become one, because this one gives itself up.

Rules
1. Only a *virgin* hive dissolves: no user, no task, no foreign worker, and nothing decided about who may join. The check and the
   decision are one log entry, so nothing can come between them.
2. After the decision every command is refused, with a code that says "not done, ask again": nothing is acknowledged that the
   members are about to throw away. The decision is final; the same command again is the same success.
"""

from __future__ import annotations

from hivenode.encoding.records import decode_record, encode_record
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError
from hivenode.ledger import chain
from hivenode.pool import keys, validation
from hivenode.pool.commands import Command, DissolveHive, Reply
from hivenode.pool.context import Context, count, done
from hivenode.pool.events import HiveDissolved
from hivenode.pool.records import DissolvedRecord

ADDRESSES_MAX = 8
"""Of the other hive's members: enough to reach it when some are away."""


def dissolved(view: ReadView) -> DissolvedRecord | None:
    """Into which hive this one was dissolved; None while it stands."""
    row = view.get(keys.DISSOLVED)
    return None if row is None else decode_record(DissolvedRecord, row)


def is_virgin(view: ReadView) -> bool:
    """Whether nothing is lost with this state: it is of machines alone. The first ledger entry is the hive's own birth."""
    counters = (keys.USERS_COUNTER, keys.PENDING_COUNTER, keys.RUNNING_COUNTER, keys.ENDED_COUNTER)
    if any(count(view, key) for key in counters) or chain.head(view)[0] > 1:
        return False
    decisions = (keys.FOREIGN_COUNTS, keys.TRUST, keys.JOIN_TOKENS, keys.APPROVALS, keys.DENIED)
    return all(next(iter(view.scan(table)), None) is None for table in decisions)


def refuse_when_dissolved(view: ReadView, command: Command) -> None:
    """Raises NOT_A_MEMBER for every command but a repeated decision."""
    if isinstance(command, DissolveHive) or (into := dissolved(view)) is None:
        return
    raise HiveError(
        Code.NOT_A_MEMBER,
        f"This hive joins another one, {validation.shown(into.target_hive_id)}, right now; nothing was done, ask again.",
    )


def dissolve_hive(ctx: Context, command: DissolveHive) -> Reply:
    """Gives up this hive. Reply: text = the hive that its members go to, which an earlier decision may have named."""
    validation.check_text("hive id", command.target_hive_id)
    if not command.target_hive_id or len(command.target_addresses) > ADDRESSES_MAX:
        raise HiveError(Code.INVALID_ARGUMENT, f"A hive to go to is named, with at most {ADDRESSES_MAX} addresses.")
    for address in command.target_addresses:
        validation.check_text("address", address)
    known = dissolved(ctx.view)
    if known is not None:
        return done(text=known.target_hive_id)
    if not is_virgin(ctx.view):
        raise HiveError(Code.PERMISSION_DENIED, "This hive has users or tasks, and never gives itself up.")
    record = DissolvedRecord(
        target_hive_id=command.target_hive_id, target_addresses=command.target_addresses, decided_ms=ctx.now_ms
    )
    ctx.view.put(keys.DISSOLVED, encode_record(record))
    ctx.events.append(HiveDissolved(target_hive_id=command.target_hive_id))
    return done(text=command.target_hive_id)
