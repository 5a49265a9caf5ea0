"""Who may join the hive, and with which rights: its trust mode, join tokens, approvals, and those that are kept out.

Rules
1. The mode is set once, by the founder, in a hive that has nothing yet; without it the mode is `lan`.
2. A token is kept as a hash only: of a public key. Who joins signs with the private key, which is the token's secret, so that
   the secret is never sent, and what is kept lets nobody in.
3. An approval waits for its node for `APPROVAL_MS`, and is used up by its admission. For a node that is in it counts at once.
4. A node that was denied or revoked is kept out, with whatever log, until it is approved.
5. Rights only grow. Who shall have fewer is revoked, and may come back.
6. Who is taken out by a leader's decision goes only if nobody went so since: two that are let go by two leaders, neither of which
   knows of the other's entry, may be one too many. Entries of before this rule are applied as ever, and do not count.
"""

from __future__ import annotations

import dataclasses
from typing import Final, assert_never

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import SignedNodeRecord, open_record
from hivenode.encoding.records import decode_record, encode_record
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError, ensure
from hivenode.pool import dissolving, keys, nodes, validation
from hivenode.pool.commands import (
    ApproveNode,
    CreateJoinToken,
    DenyNode,
    RemoveNode,
    Reply,
    RevokeNode,
    SetTrust,
    TakeOutNode,
)
from hivenode.pool.context import DONE, Context, bump, count, done
from hivenode.pool.events import NodeChanged, NodeRevoked
from hivenode.pool.records import ApprovalRecord, JoinTokenRecord, NodeKind, NodeRights, TrustMode, WayOut

TOKENS_MAX: Final = 64
"""Tokens that have not expired; one is good for any number of machines."""
TOKEN_LIFETIME_MS_MAX: Final = 30 * 24 * 3_600_000
APPROVALS_MAX: Final = 256
APPROVAL_MS: Final = 24 * 3_600_000
"""A machine that was approved and does not come within a day is approved again when it does."""
DENIED_MAX: Final = 4_096
"""Some hundred bytes each; whoever can make more keys than that is not kept out by naming them: use `token` or `approve`."""


def trust_mode(view: ReadView) -> TrustMode:
    row = view.get(keys.TRUST)
    return TrustMode.LAN if row is None else TrustMode(row.decode())


def join_token(view: ReadView, key_hash: str, now_ms: int) -> JoinTokenRecord | None:
    """The token whose public key has this hash; None when there is none or it has expired."""
    row = view.get(keys.by_text(keys.JOIN_TOKENS, key_hash)) if keys.sound(key_hash) else None
    found = None if row is None else decode_record(JoinTokenRecord, row)
    return found if found is not None and found.expires_ms > now_ms else None


def approval(view: ReadView, node_id: str, now_ms: int) -> NodeRights | None:
    """The rights with which a node may come in that is not in yet."""
    row = view.get(keys.by_text(keys.APPROVALS, node_id)) if keys.sound(node_id) else None
    found = None if row is None else decode_record(ApprovalRecord, row)
    return found.rights if found is not None and found.expires_ms > now_ms else None


def set_trust(ctx: Context, command: SetTrust) -> Reply:
    if ctx.view.get(keys.TRUST) is not None and trust_mode(ctx.view) is not command.mode:
        raise HiveError(Code.PERMISSION_DENIED, "The hive's trust mode was set when it was formed.")
    if ctx.view.get(keys.TRUST) is None and not dissolving.is_virgin(ctx.view):
        raise HiveError(Code.PERMISSION_DENIED, "The trust mode is set before the hive has users or tasks.")
    ctx.view.put(keys.TRUST, command.mode.value.encode())
    return DONE


def create_join_token(ctx: Context, command: CreateJoinToken) -> Reply:
    """Keeps a token's hash. Reply: number = its expiry in ms."""
    validation.check_hash(command.key_hash)
    if not 0 < command.lifetime_ms <= TOKEN_LIFETIME_MS_MAX:
        raise HiveError(Code.INVALID_ARGUMENT, f"A token is valid for {TOKEN_LIFETIME_MS_MAX // 3_600_000} h at most.")
    kept = [(key, decode_record(JoinTokenRecord, row)) for key, row in ctx.view.scan(keys.JOIN_TOKENS)]
    if sum(record.expires_ms > ctx.now_ms for _, record in kept) >= TOKENS_MAX:
        raise HiveError(Code.RATE_LIMITED, f"At most {TOKENS_MAX} tokens can be valid at once.")
    for key, record in kept:
        if record.expires_ms <= ctx.now_ms:
            ctx.view.delete(key)
    expires_ms = ctx.now_ms + command.lifetime_ms
    record = JoinTokenRecord(rights=command.rights, created_ms=ctx.now_ms, expires_ms=expires_ms)
    ctx.view.put(keys.by_text(keys.JOIN_TOKENS, command.key_hash), encode_record(record))
    return done(number=expires_ms)


def approve_node(ctx: Context, command: ApproveNode) -> Reply:
    """Lets a node in when it asks next, or gives one that is in the right to vote. Reply: text = its id."""
    validation.check_node_id(command.node_id)
    known = nodes.find_node(ctx.view, command.node_id)
    if known is not None and known.kind is NodeKind.HIVE:
        if known.rights is NodeRights.VOTER and command.rights is NodeRights.WORKER:
            raise HiveError(Code.INVALID_ARGUMENT, "The node may vote already; who shall have fewer rights is revoked.")
        if command.rights is NodeRights.VOTER and not _may_vote(ctx, known.signed_record):
            raise HiveError(Code.INVALID_ARGUMENT, "Its owner started the node as a worker, which never votes.")
        nodes.write_node(ctx.view, dataclasses.replace(known, rights=command.rights))
        ctx.events.append(NodeChanged(node_id=known.node_id))
        return done(text=known.node_id)
    kept = [(key, decode_record(ApprovalRecord, row)) for key, row in ctx.view.scan(keys.APPROVALS)]
    if sum(record.expires_ms > ctx.now_ms for _, record in kept) >= APPROVALS_MAX:
        raise HiveError(Code.RATE_LIMITED, f"At most {APPROVALS_MAX} approvals can wait for their machines.")
    for key, record in kept:
        if record.expires_ms <= ctx.now_ms:
            ctx.view.delete(key)
    record = ApprovalRecord(rights=command.rights, expires_ms=ctx.now_ms + APPROVAL_MS)
    ctx.view.put(keys.by_text(keys.APPROVALS, command.node_id), encode_record(record))
    if nodes.is_denied(ctx.view, command.node_id):
        ctx.view.delete(keys.by_text(keys.DENIED, command.node_id))
        bump(ctx.view, keys.DENIED_COUNTER, -1)
    nodes.forget_removal(ctx.view, command.node_id)
    return done(text=command.node_id)


def deny_node(ctx: Context, command: DenyNode) -> Reply:
    """Keeps out a node that is not in. Reply: text = its id."""
    validation.check_node_id(command.node_id)
    known = nodes.find_node(ctx.view, command.node_id)
    if known is not None and known.kind is NodeKind.HIVE:
        raise HiveError(Code.NODE_EXISTS, "The node is in the hive; who shall go is revoked.")
    _keep_out(ctx, command.node_id)
    ctx.events.append(NodeRevoked(node_id=command.node_id))
    return done(text=command.node_id)


def revoke_node(ctx: Context, command: RevokeNode) -> Reply:
    """Takes a node out at once, and keeps it out; its open attempts are lost."""
    entry = nodes.find_node(ctx.view, command.node_id)
    if entry is None or entry.kind is not NodeKind.HIVE:
        raise HiveError(Code.NODE_NOT_FOUND, f"There is no node {validation.shown(command.node_id)}.")
    _keep_out(ctx, command.node_id)
    nodes.remove_node(ctx, RemoveNode(node_id=command.node_id, reason=command.reason))
    ctx.events.append(NodeRevoked(node_id=command.node_id))
    return done(text=command.node_id)


def take_out_node(ctx: Context, command: TakeOutNode) -> Reply:
    """A node goes as it was decided, unless another one went since then. Reply: text = its id."""
    validation.check_number("log index", command.decided_at)
    if count(ctx.view, keys.TAKEN_OUT) > command.decided_at:
        raise HiveError(Code.OVERLOADED, "Another node was taken out at the same time; ask again in a moment.")
    match command.way:
        case WayOut.REMOVED:
            nodes.remove_node(ctx, RemoveNode(node_id=command.node_id, reason=command.reason))
        case WayOut.REVOKED:
            revoke_node(ctx, RevokeNode(node_id=command.node_id, reason=command.reason))
        case WayOut.DENIED:
            deny_node(ctx, DenyNode(node_id=command.node_id))
        case _:
            assert_never(command.way)
    ctx.view.put(keys.TAKEN_OUT, keys.number(ctx.index))
    return done(text=command.node_id)


def _keep_out(ctx: Context, node_id: str) -> None:
    if nodes.is_denied(ctx.view, node_id):
        return
    if count(ctx.view, keys.DENIED_COUNTER) >= DENIED_MAX:
        raise HiveError(Code.RATE_LIMITED, f"At most {DENIED_MAX} nodes can be kept out by name.")
    ctx.view.delete(keys.by_text(keys.APPROVALS, node_id))
    ctx.view.put(keys.by_text(keys.DENIED, node_id), keys.number(ctx.now_ms))
    bump(ctx.view, keys.DENIED_COUNTER, 1)


def _may_vote(ctx: Context, signed_record: bytes) -> bool:
    try:
        return open_record(decode_record(SignedNodeRecord, signed_record), ctx.verify).role.may_vote
    except DecodeError:
        ensure(False, "a node's record in the agreed state does not hold")
        raise
