from __future__ import annotations

import dataclasses
from pathlib import Path

import nacl.signing
import pytest

from hivenode.consensus import (
    ConfChange,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    MemberId,
    decode_conf_change,
    encode_conf_change,
)
from hivenode.consensus.confchange import apply_change
from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import decode_record, encode_record
from hivenode.encoding.recovery import base_of, epoch_of, next_epoch, open_recovery
from hivenode.errors import HiveError
from hivenode.identity import Identity, verify_signature
from hivenode.pool import invariants, queries
from hivenode.pool.commands import COMMANDS, CreateHive, Envelope, NoteRecovery
from hivenode.pool.recoveries import recoveries
from hivenode.runtime.recovery import LogTail, RecoveryPlan, catch_up, plan_recovery, recovery_write
from hivenode.runtime.stores import LogWrite
from hivenode.storage.log_store import LogStore
from hivenode.storage.state_store import StateStore
from tests.unit.pool.driver import Hive

HIVE = "ab" * 16
SURVIVOR = Identity(nacl.signing.SigningKey(b"3" * 32))
ME = MemberId(f"{SURVIVOR.node_id}.i1")


def others(*names: str) -> frozenset[MemberId]:
    return frozenset(MemberId(f"{name}.i1") for name in names)


def nodes(*names: str) -> frozenset[NodeId]:
    return frozenset(NodeId(name) for name in names)


def tail(conf: ConfState, *, member: MemberId = ME, term: int = 5, index: int = 90, hive_id: str = HIVE) -> LogTail:
    return LogTail(
        hive_id=hive_id,
        member_id=member,
        last_term=term,
        last_index=index,
        hard_state=HardState(term=7, vote=ME, commit=80),
        conf=conf,
    )


THREE = ConfState(voters=others("ann", "ben") | {ME})
TWO = ConfState(voters=others("ann"), learners=frozenset({ME}))


def plan(
    mine: LogTail, *shown: LogTail, dead: frozenset[NodeId], answering: frozenset[NodeId] = frozenset()
) -> RecoveryPlan:
    return plan_recovery(mine, shown, dead, answering)


def refusal(mine: LogTail, *shown: LogTail, dead: frozenset[NodeId], answering: frozenset[NodeId] = frozenset()) -> str:
    with pytest.raises(HiveError) as caught:
        plan(mine, *shown, dead=dead, answering=answering)
    return caught.value.message


def test_the_survivor_of_three_goes_on_alone_when_both_others_are_named_dead() -> None:
    found = plan(tail(THREE), dead=nodes("ann", "ben"))
    assert found.dead == ("ann", "ben")
    assert "2 of 3 voters that are all among the dead" in found.may_be_lost


def test_a_quorum_that_answers_or_could_be_started_needs_no_recovery() -> None:
    assert "a quorum answers" in refusal(tail(THREE), dead=nodes("ben"), answering=nodes("ann"))
    ann = tail(THREE, member=MemberId("ann.i1"), index=80)
    assert "a quorum answers" in refusal(tail(THREE), ann, dead=nodes("ben"))
    assert "a quorum answers" in refusal(
        tail(ConfState(voters=frozenset({ME}), learners=others("ann"))), dead=nodes("ann")
    )


def test_nobody_is_forgotten_and_nobody_who_answers_is_dead() -> None:
    five = ConfState(voters=others("ann", "ben", "cat", "dan") | {ME})
    assert "cat, dan" in refusal(tail(five), dead=nodes("ann", "ben"))
    assert "ann answers" in refusal(tail(five), dead=nodes("ann", "ben", "cat", "dan"), answering=nodes("ann"))
    assert "cannot be dead" in refusal(tail(THREE), dead=nodes("ann", "ben") | {SURVIVOR.node_id})


def test_the_greatest_log_at_hand_goes_on_by_term_before_length() -> None:
    five = ConfState(voters=others("ann", "ben", "cat", "dan") | {ME})
    dead = nodes("ben", "cat", "dan")
    longer_but_older = tail(five, member=MemberId("ann.i1"), term=4, index=200)
    found = plan(tail(five), longer_but_older, dead=dead)
    assert found.left_aside == ("ann",)
    newer = tail(five, member=MemberId("ann.i1"), term=6, index=10)
    assert "reaches further" in refusal(tail(five), newer, dead=dead)


def test_logs_of_two_epochs_are_not_compared() -> None:
    older = tail(THREE, member=MemberId("ann.i1"), index=1, hive_id=next_epoch(HIVE, "00000000"))
    assert "another epoch" in refusal(tail(THREE), older, dead=nodes("ben"))
    assert "no log of a hive" in refusal(tail(THREE, hive_id=""), dead=nodes("ann", "ben"))


@pytest.mark.parametrize(
    "conf",
    [
        THREE,
        TWO,
        ConfState(voters=others("ann") | {ME}),
        ConfState(
            voters=others("ann", "ben"),
            voters_outgoing=others("ann") | {ME},
            learners_next=frozenset({ME}),
            auto_leave=True,
        ),
    ],
    ids=["three", "learner", "two voters", "joint"],
)
def test_what_is_written_leaves_this_member_as_the_only_voter_of_a_new_epoch(conf: ConfState) -> None:
    found = plan(tail(conf), dead=frozenset(NodeId(m.partition(".")[0]) for m in conf.members() if m != ME))
    hive_id, write = recovery_write(found, SURVIVOR, tag="0a1b2c3d", wall_ms=1_900_000_000_000)
    assert (hive_id, base_of(hive_id), epoch_of(hive_id)) == (f"{HIVE}+1.0a1b2c3d", HIVE, 1)
    assert epoch_of(next_epoch(hive_id, "1" * 8)) == 2
    assert write.hard_state == HardState(term=8, vote=None, commit=write.entries[-1].index)
    assert [entry.index for entry in write.entries] == list(range(91, 91 + len(write.entries)))
    hive = Hive()
    for entry in write.entries:
        if entry.kind is EntryKind.CONF_CHANGE:
            conf = apply_change(conf, decode_conf_change(entry.data))
        else:
            hive.entry(entry.data)
    assert conf == ConfState(voters=frozenset({ME}))
    (told,) = recoveries(hive.view)
    record = open_recovery(told, verify_signature)
    assert (record.former_hive_id, record.hive_id, record.revoked) == (HIVE, hive_id, found.dead)
    assert record.recovered_by == SURVIVOR.node_id
    invariants.check(hive.view)


def test_a_forged_recovery_is_none() -> None:
    found = plan(tail(TWO), dead=nodes("ann"))
    _, write = recovery_write(found, SURVIVOR, tag="0a1b2c3d", wall_ms=1)
    envelope = next(decode_record(Envelope, e.data) for e in write.entries if e.kind is EntryKind.NORMAL)
    command = COMMANDS.decode(envelope.command)
    assert isinstance(command, NoteRecovery)
    data = bytearray(command.signed_recovery)
    data[len(data) // 2] ^= 1
    with pytest.raises(DecodeError):
        open_recovery(bytes(data), verify_signature)
    hive = Hive()
    assert hive.send(dataclasses.replace(command, signed_recovery=bytes(data))).reply.refused
    assert recoveries(hive.view) == ()


def test_a_stopped_state_is_brought_to_the_end_of_the_log_in_memory_alone(tmp_path: Path) -> None:
    log, state = LogStore(tmp_path / "log"), StateStore(tmp_path / "state")
    create = CreateHive(hive_id=HIVE, supply=1_000, signup_grant=10, grants_per_day_max=10)
    envelope = Envelope(time_ms=1, request_owner="", request_key="", keep_ms=0, command=encode_record(create))
    birth = encode_conf_change(ConfChange(add_voters=(ME,)))
    entries = (
        Entry(term=1, index=1, kind=EntryKind.CONF_CHANGE, data=birth),
        # Whoever is a voter cannot be made one: nothing changes, as at a member that applies it.
        Entry(term=2, index=2, kind=EntryKind.CONF_CHANGE, data=birth),
        Entry(term=2, index=3, kind=EntryKind.NORMAL, data=b""),
        Entry(term=2, index=4, kind=EntryKind.NORMAL, data=encode_record(envelope)),
    )
    log.bind(HIVE, LogWrite(hard_state=HardState(term=2, vote=None, commit=1), entries=entries))
    catch_up(log, state)
    assert (state.applied_index, state.conf) == (4, ConfState(voters=frozenset({ME})))
    assert queries.hive(state) is not None
    state.close()
    log.close()
    again = StateStore(tmp_path / "state")
    assert (again.applied_index, queries.hive(again)) == (0, None)
    again.close()
