"""Rules of claims: a machine's signed word for a user makes the user an admin, or the one who receives what it earns.

A claim is taken once: each of a node's claims expires later than those that were taken before it. The hive knows who owns the
machine by nothing else, so a claim for an admin counts from nodes with voter right alone; those are trusted with the log anyway.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.claim import Claim, ClaimPurpose, check_claim, read_claim
from hivenode.encoding.node_record import NodeRecord, SignedNodeRecord
from hivenode.encoding.records import decode_record
from hivenode.encoding.recovery import base_of
from hivenode.errors import Code, HiveError, ensure
from hivenode.ledger import chain
from hivenode.ledger.accounts import node_account, user_account
from hivenode.ledger.entries import EntryKind
from hivenode.pool import keys, validation
from hivenode.pool.commands import ClaimAdmin, ClaimNode, Reply
from hivenode.pool.context import Context, count, done
from hivenode.pool.events import NodeChanged
from hivenode.pool.nodes import find_node, write_node
from hivenode.pool.records import HiveRecord, NodeEntry, NodeKind, NodeRights, UserName, UserRole
from hivenode.pool.users import find_user, write_user

CLAIM_BYTES_MAX: Final = 1_024
"""A claim with every text at its bound is smaller."""
CLAIM_LIFETIME_MS_MAX: Final = 3_600_000
"""One that would stand for longer was signed by a clock that runs ahead, and would keep later ones out."""


def _refuse(message: str) -> HiveError:
    return HiveError(Code.PERMISSION_DENIED, message)


def _take(ctx: Context, session_id: str, data: bytes, purpose: ClaimPurpose) -> tuple[UserName, NodeEntry]:
    """The user and the machine of a claim that holds, which is remembered as taken. The caller refuses nothing after it."""
    sender = ctx.sender_of(session_id)
    if len(data) > CLAIM_BYTES_MAX:
        raise HiveError(Code.INVALID_ARGUMENT, f"A claim has at most {CLAIM_BYTES_MAX} bytes; this has more.")
    try:
        claim, signed = read_claim(data)
        entry = find_node(ctx.view, claim.node_id)
        if entry is None or entry.kind is not NodeKind.HIVE:
            raise HiveError(Code.NODE_NOT_FOUND, f"There is no machine {validation.shown(claim.node_id)} in this hive.")
        check_claim(signed, _key_of(entry), ctx.verify)
    except DecodeError as error:
        raise _refuse(f"The claim does not hold: {validation.shown(str(error))}.") from None
    _check(ctx, claim, sender, purpose)
    if purpose is ClaimPurpose.ADMIN and entry.rights is not NodeRights.VOTER:
        raise _refuse("Only the owner of a machine with voter right becomes an admin.")
    ctx.view.put(keys.by_text(keys.CLAIMS, entry.node_id), keys.number(claim.expires_ms))
    return sender, entry


def _key_of(entry: NodeEntry) -> bytes:
    return decode_record(NodeRecord, decode_record(SignedNodeRecord, entry.signed_record).record).public_key


def _check(ctx: Context, claim: Claim, sender: UserName, purpose: ClaimPurpose) -> None:
    row = ctx.view.get(keys.HIVE)
    ensure(row is not None, "a claim comes to a hive that does not exist")
    if base_of(claim.hive_id) != decode_record(HiveRecord, row or b"").hive_id or claim.purpose is not purpose:
        raise _refuse("The claim is for something else.")
    if keys.fold(claim.username) != keys.fold(sender):
        raise _refuse("The claim is for another user.")
    if claim.expires_ms <= ctx.now_ms:
        raise _refuse("The claim has expired: ask the machine for a new one; its clock may be behind the hive's.")
    if claim.expires_ms > ctx.now_ms + CLAIM_LIFETIME_MS_MAX:
        raise _refuse("The clock of the machine runs ahead of the hive's: set it right first.")
    if claim.expires_ms <= count(ctx.view, keys.by_text(keys.CLAIMS, claim.node_id)):
        raise _refuse("The claim was used already: ask the machine for a new one.")


def claim_admin(ctx: Context, command: ClaimAdmin) -> Reply:
    """The session's user becomes an admin. Reply: text = the user's name."""
    sender, _ = _take(ctx, command.session_id, command.signed_claim, ClaimPurpose.ADMIN)
    user = find_user(ctx.view, sender)
    ensure(user is not None, "a session belongs to a user who is not there")
    if user is not None:
        write_user(ctx.view, dataclasses.replace(user, role=UserRole.ADMIN))
    return done(text=sender)


def claim_node(ctx: Context, command: ClaimNode) -> Reply:
    """The session's user owns the machine: what it earned unclaimed is the user's, and what it earns from now on."""
    sender, entry = _take(ctx, command.session_id, command.signed_claim, ClaimPurpose.NODE)
    account = node_account(entry.node_id)
    earned = chain.balance(ctx.view, account)
    if earned:
        chain.post(
            ctx.view,
            time_ms=ctx.now_ms,
            kind=EntryKind.TRANSFER,
            postings=((account, -earned), (user_account(sender), earned)),
            reference=f"log:{ctx.index}",
            origin=account,
        )
    write_node(ctx.view, dataclasses.replace(entry, owner=sender))
    ctx.events.append(NodeChanged(node_id=entry.node_id))
    return done(number=earned, text=entry.node_id)
