"""The agreed state machine: one log entry in, one reply and some events out, the same at every replica.

Rules:
1. `apply` looks at nothing but the view, the entry and the signature check; whatever bytes come, it never raises for them.
2. A refusal changes nothing but the agreed clock and the memory of requests.
3. Everything is written through the view inside the one application, so it becomes visible at once or not at all.
4. What an entry costs is bounded by what it touches: no rule scans a whole table.

Theory of operation. The envelope's time moves the agreed clock, which never runs back and is the only time there is. Some
remembered requests whose time is over are dropped. A request that is remembered gets its old reply. Otherwise the
command's rule decides: it checks everything, raises `HiveError` to refuse, and only then writes. The reply is remembered.

Tasks:

| state | Assign | Start | End, own doing | End, worker's fault; Lose | Stop | dependency fails |
|---|---|---|---|---|---|---|
| PENDING | ASSIGNED | stale | stale | stale | STOPPED, void | FAILED, void |
| ASSIGNED | stale | RUNNING | COMPLETED or FAILED, post | PENDING, or FAILED, void | STOPPED, void | - |
| RUNNING | stale | RUNNING | COMPLETED or FAILED, post | PENDING, or FAILED, void | STOPPED, post | - |
| STOPPED, attempt open | stale | stale | STOPPED, outputs kept | STOPPED | STOPPED | - |
| COMPLETED, FAILED, STOPPED | stale | stale | stale | stale | refused; STOPPED again | - |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never, cast

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import Verify
from hivenode.encoding.records import decode_record
from hivenode.encoding.state_view import StateView
from hivenode.errors import Code, HiveError
from hivenode.pool import (
    attempts,
    claims,
    dissolving,
    joining,
    keys,
    nodes,
    recoveries,
    requests,
    submission,
    users,
    validation,
)
from hivenode.pool.commands import (
    COMMANDS,
    AdmitNode,
    ApproveNode,
    AssignTask,
    ChangePassword,
    ClaimAdmin,
    ClaimNode,
    CloseSession,
    Command,
    CreateHive,
    CreateJoinToken,
    DenyNode,
    DissolveHive,
    DropForeignWorkers,
    EndAttempt,
    Envelope,
    LogIn,
    LoseAttempt,
    NoteRecovery,
    OpenSession,
    RefreshSession,
    RegisterForeignWorker,
    RegisterUser,
    RemoveNode,
    Reply,
    RevokeNode,
    SetTrust,
    SetUserRole,
    StartAttempt,
    StopTask,
    SubmitTask,
    Sweep,
    TakeOutNode,
    Transfer,
    UnregisterNode,
)
from hivenode.pool.context import Context
from hivenode.pool.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What came of an entry. `repeated` says that the reply is that of an earlier request and nothing was done now."""

    reply: Reply
    events: tuple[Event, ...]
    repeated: bool


def apply(view: StateView, index: int, data: bytes, verify: Verify) -> Applied:
    """Applies one log entry.

    Args:
        view: the agreed state after all entries before this one.
        index: the entry's place in the log.
        data: canonical bytes of an `Envelope`; anything else is refused with INVALID_ARGUMENT.
        verify: checks an Ed25519 signature.
    Raises: InvariantError when agreed state contradicts itself.
    """
    try:
        envelope = decode_record(Envelope, data)
        validation.check_number("time", envelope.time_ms)
    except (DecodeError, HiveError) as error:
        return _refused(Code.INVALID_ARGUMENT, f"This is no log entry: {validation.shown(str(error))}")
    now_ms = users.advance_clock(view, envelope.time_ms)
    requests.drop_expired(view, now_ms, requests.DROPPED_PER_ENTRY_MAX)
    try:
        validation.check_text("request owner", envelope.request_owner)
        validation.check_text("request key", envelope.request_key)
        validation.check_number("reply keeping", envelope.keep_ms)
        command = cast(Command, COMMANDS.decode(envelope.command))
        if envelope.request_key:
            known = requests.recall(view, envelope, command, now_ms)
            if known is not None:
                return Applied(reply=known, events=(), repeated=True)
    except DecodeError as error:
        return _refused(Code.INVALID_ARGUMENT, f"This is no command: {validation.shown(str(error))}")
    except HiveError as error:
        return _refused(error.code, error.message)
    ctx = Context(view, index, now_ms, verify)
    try:
        if view.get(keys.HIVE) is None and not isinstance(command, CreateHive):
            raise HiveError(Code.INVALID_ARGUMENT, "The hive has not been created yet.")
        dissolving.refuse_when_dissolved(view, command)
        reply = _dispatch(ctx, command)
    except HiveError as error:
        reply = Reply(code=int(error.code), message=error.message)
    if envelope.request_key:
        requests.remember(ctx, envelope, command, reply)
    return Applied(reply=reply, events=tuple(ctx.events), repeated=False)


def _refused(code: Code, message: str) -> Applied:
    return Applied(reply=Reply(code=int(code), message=message), events=(), repeated=False)


def _dispatch(ctx: Context, command: Command) -> Reply:
    match command:
        case Transfer():
            return users.transfer(ctx, command)
        case SubmitTask():
            return submission.submit_task(ctx, command)
        case AssignTask():
            return attempts.assign_task(ctx, command)
        case StartAttempt():
            return attempts.start_attempt(ctx, command)
        case EndAttempt():
            return attempts.end_attempt(ctx, command)
        case LoseAttempt():
            return attempts.lose_attempt(ctx, command)
        case StopTask():
            return submission.stop_task(ctx, command)
        case CreateHive():
            return users.create_hive(ctx, command)
        case RegisterUser():
            return users.register_user(ctx, command)
        case OpenSession():
            return users.open_session(ctx, command)
        case CloseSession():
            return users.close_session(ctx, command)
        case AdmitNode():
            return nodes.admit_node(ctx, command)
        case RemoveNode():
            return nodes.remove_node(ctx, command)
        case RegisterForeignWorker():
            return nodes.register_foreign_worker(ctx, command)
        case UnregisterNode():
            return nodes.unregister_node(ctx, command)
        case DropForeignWorkers():
            return nodes.drop_foreign_workers(ctx, command)
        case Sweep():
            return submission.sweep(ctx, command)
        case DissolveHive():
            return dissolving.dissolve_hive(ctx, command)
        case NoteRecovery():
            return recoveries.note_recovery(ctx, command)
        case ChangePassword():
            return users.change_password(ctx, command)
        case SetUserRole():
            return users.set_role(ctx, command)
        case ClaimAdmin():
            return claims.claim_admin(ctx, command)
        case ClaimNode():
            return claims.claim_node(ctx, command)
        case LogIn():
            return users.log_in(ctx, command)
        case RefreshSession():
            return users.refresh_session(ctx, command)
        case SetTrust():
            return joining.set_trust(ctx, command)
        case CreateJoinToken():
            return joining.create_join_token(ctx, command)
        case ApproveNode():
            return joining.approve_node(ctx, command)
        case DenyNode():
            return joining.deny_node(ctx, command)
        case RevokeNode():
            return joining.revoke_node(ctx, command)
        case TakeOutNode():
            return joining.take_out_node(ctx, command)
        case _:
            assert_never(command)
