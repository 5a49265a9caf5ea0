"""Rules of nodes: admission by signed record, removal, and foreign workers."""

from __future__ import annotations

import dataclasses
from typing import Final

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import NodeId, NodeRecord, SignedNodeRecord, open_record
from hivenode.encoding.records import decode_record, encode_record
from hivenode.encoding.state_view import ReadView, StateView
from hivenode.errors import Code, HiveError
from hivenode.pool import keys, validation
from hivenode.pool.commands import (
    AdmitNode,
    DropForeignWorkers,
    RegisterForeignWorker,
    RemoveNode,
    Reply,
    UnregisterNode,
)
from hivenode.pool.context import DONE, Context, bump, count, done
from hivenode.pool.events import NodeChanged, NodeRemoved
from hivenode.pool.records import NodeEntry, NodeKind, NodeRights
from hivenode.pool.tasks import give_up_attempt, node_tails, task_at

REMOVED_MAX: Final = 4_096
"""Removals remembered. A node of an older one that comes back with its old log is the same member with all its votes, which is
safe: what is remembered only spares the hive a node that its owner meant to be rid of."""
FOREIGN_WORKERS_MAX: Final = 1_000
"""Foreign workers of one user: they cost the hive a row each and are given nothing."""

FOREIGN_DROPPED_MAX: Final = 256
"""Foreign workers that one entry takes off the list."""


def find_node(view: ReadView, node_id: str) -> NodeEntry | None:
    """The node with this id, or None."""
    if not keys.sound(node_id):
        return None
    row = view.get(keys.by_text(keys.NODES, node_id))
    return None if row is None else decode_record(NodeEntry, row)


def removed_incarnation(view: ReadView, node_id: str) -> str | None:
    """The incarnation with which a node was removed for good; None when it was not."""
    row = view.get(keys.by_text(keys.REMOVED_NODES, node_id)) if keys.sound(node_id) else None
    return None if row is None else row.decode()


def write_node(view: StateView, entry: NodeEntry) -> None:
    view.put(keys.by_text(keys.NODES, entry.node_id), encode_record(entry))


def admit_node(ctx: Context, command: AdmitNode) -> Reply:
    """A node of the hive, new or with a newer record; a record that is not newer changes nothing. Reply: text = its id."""
    record = _open(ctx, command.signed_record)
    refuse_denied(ctx.view, record.node_id)
    _refuse_removed(ctx, record)
    known = find_node(ctx.view, record.node_id)
    if known is not None and known.kind is NodeKind.FOREIGN:
        # Only the key's holder can show this record, so whoever wrote the id before without a key has to give way.
        bump(ctx.view, keys.by_user(keys.FOREIGN_COUNTS, known.owner), -1)
    elif known is not None and record.sequence <= known.sequence:
        return dataclasses.replace(DONE, text=record.node_id)
    kept = known if known is not None and known.kind is NodeKind.HIVE else None
    entry = NodeEntry(
        node_id=record.node_id,
        kind=NodeKind.HIVE,
        owner=kept.owner if kept else "",
        rights=kept.rights if kept else command.rights,
        capabilities=record.capabilities,
        addresses=record.addresses,
        incarnation=record.incarnation,
        sequence=record.sequence,
        port=0,
        joined_ms=kept.joined_ms if kept else ctx.now_ms,
        completed=kept.completed if kept else 0,
        failed=kept.failed if kept else 0,
        signed_record=command.signed_record,
    )
    write_node(ctx.view, entry)
    if known is None:
        bump(ctx.view, keys.NODES_COUNTER, 1)
    ctx.view.delete(keys.by_text(keys.APPROVALS, record.node_id))
    ctx.events.append(NodeChanged(node_id=record.node_id))
    return dataclasses.replace(DONE, text=record.node_id)


def _refuse_removed(ctx: Context, record: NodeRecord) -> None:
    """Who was removed with the log that it has comes back with an empty one only: as another member."""
    removed = removed_incarnation(ctx.view, record.node_id)
    if removed is None:
        return
    if removed == record.incarnation:
        raise HiveError(
            Code.NODE_REMOVED, "The node was removed from the hive; it can come back with an empty data directory."
        )
    forget_removal(ctx.view, record.node_id)


def _remember_removal(ctx: Context, entry: NodeEntry) -> None:
    forget_removal(ctx.view, entry.node_id)
    at = keys.number(ctx.index)
    ctx.view.put(keys.by_text(keys.REMOVED_NODES, entry.node_id), entry.incarnation.encode())
    ctx.view.put(keys.by_text(keys.REMOVED_AT, entry.node_id), at)
    ctx.view.put(keys.REMOVED_ORDER + at + entry.node_id.encode(), b"")
    if bump(ctx.view, keys.REMOVED_COUNTER, 1) > REMOVED_MAX:
        oldest, _ = next(iter(ctx.view.scan(keys.REMOVED_ORDER)))
        forget_removal(ctx.view, oldest[len(keys.REMOVED_ORDER) + len(at) :].decode())


def forget_removal(view: StateView, node_id: str) -> None:
    """The node may come back with the log that it had."""
    view.delete(keys.by_text(keys.REMOVED_NODES, node_id))
    at = view.get(keys.by_text(keys.REMOVED_AT, node_id))
    if at is not None:
        view.delete(keys.by_text(keys.REMOVED_AT, node_id))
        view.delete(keys.REMOVED_ORDER + at + node_id.encode())
        bump(view, keys.REMOVED_COUNTER, -1)


def is_denied(view: ReadView, node_id: str) -> bool:
    """Whether the node is kept out until it is approved."""
    return keys.sound(node_id) and view.get(keys.by_text(keys.DENIED, node_id)) is not None


def refuse_denied(view: ReadView, node_id: str) -> None:
    """Raises NODE_REMOVED for a node that is kept out."""
    if is_denied(view, node_id):
        raise HiveError(Code.NODE_REMOVED, "This node is kept out of the hive: an operator denied or revoked it.")


def _open(ctx: Context, signed_record: bytes) -> NodeRecord:
    if len(signed_record) > validation.RECORD_BYTES_MAX:
        raise HiveError(
            Code.INVALID_ARGUMENT, f"A node record has at most {validation.RECORD_BYTES_MAX} bytes; this has more."
        )
    try:
        record = open_record(decode_record(SignedNodeRecord, signed_record), ctx.verify)
    except DecodeError as error:
        raise HiveError(Code.PEER_REJECTED, f"The node record does not hold: {validation.shown(str(error))}.") from None
    validation.check_node_record(record)
    if record.expires_ms <= ctx.now_ms:
        raise HiveError(Code.PEER_REJECTED, "The node record has expired; the node must sign a new one.")
    return record


def remove_node(ctx: Context, command: RemoveNode) -> Reply:
    """A node leaves for good; its open attempts, at most as many as it ever had slots, are lost."""
    entry = find_node(ctx.view, command.node_id)
    if entry is None:
        raise HiveError(Code.NODE_NOT_FOUND, f"There is no node {validation.shown(command.node_id)}.")
    reason = validation.cut_reason(command.reason) or "The node left the hive."
    for tail in [tail for tail, _ in node_tails(ctx.view, entry.node_id)]:
        give_up_attempt(ctx, task_at(ctx.view, tail), reason, revoke=True)
    if entry.kind is NodeKind.HIVE:
        _remember_removal(ctx, entry)
    _remove(ctx, entry)
    return DONE


def _remove(ctx: Context, entry: NodeEntry) -> None:
    ctx.view.delete(keys.by_text(keys.NODES, entry.node_id))
    bump(ctx.view, keys.NODES_COUNTER, -1)
    if entry.kind is NodeKind.FOREIGN:
        bump(ctx.view, keys.by_user(keys.FOREIGN_COUNTS, entry.owner), -1)
    ctx.events.append(NodeRemoved(node_id=entry.node_id))


def register_foreign_worker(ctx: Context, command: RegisterForeignWorker) -> Reply:
    """A worker that is no hivenode, for the session's user; the same id again by the same user is a change."""
    owner = ctx.sender_of(command.session_id)
    validation.check_node_id(command.node_id)
    validation.check_capabilities(command.capabilities)
    validation.check_number("port", command.port)
    known = find_node(ctx.view, command.node_id)
    if known is not None and (known.kind is not NodeKind.FOREIGN or known.owner != owner):
        raise HiveError(Code.NODE_EXISTS, f"The node id {command.node_id} belongs to another.")
    if known is None:
        if count(ctx.view, keys.by_user(keys.FOREIGN_COUNTS, owner)) >= FOREIGN_WORKERS_MAX:
            raise HiveError(Code.RATE_LIMITED, f"A user can have at most {FOREIGN_WORKERS_MAX} workers of this kind.")
        bump(ctx.view, keys.by_user(keys.FOREIGN_COUNTS, owner), 1)
        bump(ctx.view, keys.NODES_COUNTER, 1)
    entry = NodeEntry(
        node_id=NodeId(command.node_id),
        kind=NodeKind.FOREIGN,
        owner=owner,
        rights=NodeRights.WORKER,
        capabilities=command.capabilities,
        addresses=(),
        incarnation="",
        sequence=0,
        port=command.port,
        joined_ms=ctx.now_ms if known is None else known.joined_ms,
        completed=0,
        failed=0,
        signed_record=b"",
    )
    write_node(ctx.view, entry)
    ctx.events.append(NodeChanged(node_id=command.node_id))
    return DONE


def unregister_node(ctx: Context, command: UnregisterNode) -> Reply:
    """Takes a foreign worker of the session's user off the list."""
    owner = ctx.sender_of(command.session_id)
    entry = find_node(ctx.view, command.node_id)
    if entry is None:
        raise HiveError(Code.NODE_NOT_FOUND, f"There is no node {validation.shown(command.node_id)}.")
    if entry.kind is not NodeKind.FOREIGN or entry.owner != owner:
        raise HiveError(Code.PERMISSION_DENIED, f"The node {command.node_id} is not yours to take off the list.")
    _remove(ctx, entry)
    return DONE


def drop_foreign_workers(ctx: Context, command: DropForeignWorkers) -> Reply:
    """Takes foreign workers off the list. Reply: number = how many."""
    if len(command.node_ids) > FOREIGN_DROPPED_MAX:
        raise HiveError(Code.INVALID_ARGUMENT, f"One entry names {FOREIGN_DROPPED_MAX} workers at most.")
    dropped = 0
    for node_id in command.node_ids:
        entry = find_node(ctx.view, node_id)
        if entry is not None and entry.kind is NodeKind.FOREIGN:
            _remove(ctx, entry)
            dropped += 1
    return done(number=dropped)
