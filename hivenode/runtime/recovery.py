"""Recovery of a hive whose quorum is lost for good, on the stopped log of one surviving machine.

Rules
1. Nothing is recovered while a quorum answers, or could be started: then nothing is lost, and the hive only waits.
2. Every member that is not here is either shown (its data directory is at hand) or declared dead by name. Nobody is forgotten.
3. A member that answers is not dead.
4. The log that goes on is the greatest of those at hand by (term, index) of its last entry (Raft §5.4.1). All of it counts:
   what was acknowledged lies in some log, and which of its last entries were is not known any more.
5. The log, the new voter set, and the new epoch are written in one transaction. The former members are in another epoch by then,
   and no peer call crosses from one to the other (`encoding.recovery`).

The new entries are committed as they are written: this machine is the quorum of the next epoch. They leave a joint configuration
when the log ended in one, make this member the only voter, note the recovery, and remove the machines declared dead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hivenode.consensus import (
    ConfChange,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    LogView,
    MemberId,
    decode_conf_change,
    encode_conf_change,
)
from hivenode.consensus.confchange import InvalidConfChangeError, apply_change
from hivenode.encoding.node_record import NodeId, Verify
from hivenode.encoding.records import Record, encode_record
from hivenode.encoding.recovery import RECOVERY_DOMAIN, RecoveryRecord, SignedRecovery, next_epoch
from hivenode.encoding.state_view import StateView
from hivenode.errors import Code, HiveError, ensure
from hivenode.identity import verify_signature
from hivenode.pool.commands import Envelope, NoteRecovery, RemoveNode
from hivenode.pool.state_machine import apply
from hivenode.runtime.local import member_id_of, node_of
from hivenode.runtime.stores import LogWrite

_READ_BYTES: Final = 1 << 20


class Signer(Protocol):
    """A machine's key."""

    @property
    def node_id(self) -> NodeId: ...

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...


class ReplayedState(StateView, Protocol):
    """What of a stopped member's agreed state is needed to apply the rest of its log."""

    applied_index: int
    conf: ConfState

    def finish_entry(self, index: int, term: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTail:
    """Where a member's log ends, and the configuration at its end."""

    hive_id: str
    member_id: MemberId
    last_term: int
    last_index: int
    hard_state: HardState
    conf: ConfState

    @property
    def node_id(self) -> NodeId:
        return node_of(self.member_id)

    @property
    def place(self) -> tuple[int, int]:
        return self.last_term, self.last_index


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlan:
    """What a recovery will do. `may_be_lost` is for the operator to read."""

    tail: LogTail
    dead: tuple[NodeId, ...]
    left_aside: tuple[NodeId, ...]
    may_be_lost: str


def catch_up(log: LogView, state: ReplayedState, verify: Verify = verify_signature) -> None:
    """Applies to the agreed state, in memory alone, what a stopped log has beyond it, whether or not it was ever committed.

    Raises: InvariantError when the agreed state contradicts itself, or the log does not reach back to it.
    """
    ensure(state.applied_index >= log.first_index() - 1, "the log begins after the agreed state ends")
    while state.applied_index < log.last_index():
        for entry in log.entries(state.applied_index + 1, log.last_index() + 1, _READ_BYTES):
            if entry.kind is EntryKind.CONF_CHANGE:
                # One that is not valid changes nothing, as at a member that applies it.
                with contextlib.suppress(InvalidConfChangeError):
                    state.conf = apply_change(state.conf, decode_conf_change(entry.data))
            elif entry.data:
                apply(state, entry.index, entry.data, verify)
            state.finish_entry(entry.index, entry.term)


def tail_of(log: LogView, *, hive_id: str, node_id: NodeId, incarnation: str, conf: ConfState) -> LogTail:
    """Where a stopped log ends; `conf` is the configuration there."""
    last = log.last_index()
    return LogTail(
        hive_id=hive_id,
        member_id=member_id_of(node_id, incarnation),
        last_term=log.term(last),
        last_index=last,
        hard_state=log.initial_state()[0],
        conf=conf,
    )


def members_of(conf: ConfState) -> frozenset[NodeId]:
    """The machines that hold the log."""
    return frozenset(node_of(member) for member in conf.members())


def plan_recovery(
    mine: LogTail, shown: Sequence[LogTail], dead: frozenset[NodeId], answering: frozenset[NodeId]
) -> RecoveryPlan:
    """Decides by the rules above.

    Args:
        shown: the ends of other members' stopped logs.
        dead: the machines that the operator declares dead.
        answering: the members whose daemons answer.
    Raises: HiveError INVALID_ARGUMENT, with what the operator has to do.
    """
    if not mine.hive_id or mine.member_id not in mine.conf.members():
        raise _refusal("this data directory holds no log of a hive: recover on a machine that was voter or learner")
    for other in shown:
        if other.hive_id != mine.hive_id:
            raise _refusal(f"the log of {other.node_id} is of another hive, or of another epoch: {other.hive_id}")
        if other.place > mine.place:
            raise _refusal(
                f"the log of {other.node_id} reaches further (term {other.last_term}, entry {other.last_index}): "
                "recover with its data directory"
            )
    here = {mine.member_id, *(other.member_id for other in shown)}
    living = here | {member for member in mine.conf.members() if node_of(member) in answering}
    halves = [half for half in (mine.conf.voters, mine.conf.voters_outgoing) if half]
    if all(2 * len(half & living) > len(half) for half in halves):
        raise _refusal("a quorum answers, or is here to be started: start the daemons, and nothing is lost")
    if alive := sorted(dead & answering):
        raise _refusal(f"{', '.join(alive)} answers, so it is not dead: stop it first, or let it be")
    if mine.node_id in dead:
        raise _refusal("the machine that the hive goes on with cannot be dead")
    members = members_of(mine.conf)
    aside = {other.node_id for other in shown}
    if unnamed := sorted(members - dead - aside - {mine.node_id}):
        raise _refusal(f"say of each other member that it is dead, or show its data directory: {', '.join(unnamed)}")
    return RecoveryPlan(
        tail=mine,
        dead=tuple(sorted(dead)),
        left_aside=tuple(sorted((members & aside) - dead)),
        may_be_lost=_may_be_lost(mine.conf, len([member for member in mine.conf.voters if member in here])),
    )


def _refusal(message: str) -> HiveError:
    return HiveError(Code.INVALID_ARGUMENT, message)


def _may_be_lost(conf: ConfState, voters_here: int) -> str:
    if len(conf.voters) == 1:
        return "what was acknowledged with copies=1; what was acknowledged with copies=2 is here"
    quorum = len(conf.voters) // 2 + 1
    if voters_here + quorum > len(conf.voters):
        return "nothing that was acknowledged"
    return (
        f"what was acknowledged by {quorum} of {len(conf.voters)} voters that are all among the dead: "
        "the last moments before the loss, and all that was written while this machine was away"
    )


def recovery_write(plan: RecoveryPlan, identity: Signer, *, tag: str, wall_ms: int) -> tuple[str, LogWrite]:
    """The hive's id in the next epoch, and what to write in one transaction with it.

    Args:
        identity: of the machine that goes on.
        tag: 8 random hexadecimal digits.
    """
    tail = plan.tail
    term = max(tail.hard_state.term, tail.last_term) + 1
    hive_id = next_epoch(tail.hive_id, tag)
    record = encode_record(
        RecoveryRecord(
            hive_id=hive_id,
            former_hive_id=tail.hive_id,
            recovered_by=identity.node_id,
            public_key=identity.public_key,
            revoked=plan.dead,
            index=tail.last_index,
            term=tail.last_term,
            decided_ms=wall_ms,
        )
    )
    signed = SignedRecovery(record=record, signature=identity.sign(RECOVERY_DOMAIN + record))
    commands: list[Record] = [NoteRecovery(signed_recovery=encode_record(signed))]
    commands += [RemoveNode(node_id=node, reason="The machine was declared dead.") for node in plan.dead]
    bodies = [(EntryKind.CONF_CHANGE, encode_conf_change(change)) for change in _changes(tail)]
    bodies += [(EntryKind.NORMAL, _envelope(command, wall_ms)) for command in commands]
    entries = tuple(
        Entry(term=term, index=tail.last_index + nth, kind=kind, data=data)
        for nth, (kind, data) in enumerate(bodies, 1)
    )
    return hive_id, LogWrite(hard_state=HardState(term=term, vote=None, commit=entries[-1].index), entries=entries)


def _changes(tail: LogTail) -> list[ConfChange]:
    """From the last configuration to the one with this member alone, each in its own entry."""
    conf, changes = tail.conf, []
    if conf.is_joint:
        changes.append(ConfChange())
        conf = apply_change(conf, changes[-1])
    others = tuple(sorted(conf.members() - {tail.member_id}))
    promoted = () if tail.member_id in conf.voters else (tail.member_id,)
    if others or promoted:
        changes.append(ConfChange(add_voters=promoted, remove=others))
        conf = apply_change(conf, changes[-1])
    if conf.is_joint:
        changes.append(ConfChange())
    return changes


def _envelope(command: Record, wall_ms: int) -> bytes:
    return encode_record(
        Envelope(time_ms=wall_ms, request_owner="", request_key="", keep_ms=0, command=encode_record(command))
    )
