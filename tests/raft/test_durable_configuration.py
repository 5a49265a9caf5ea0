"""What a member must know durably of the configuration before it may stand for election after a crash (thesis §4.1)."""

from __future__ import annotations

import random

import pytest

from hivenode.consensus import (
    AppendRequest,
    ConfChange,
    ConfState,
    Entry,
    EntryKind,
    MemberId,
    MemoryLog,
    RaftConfig,
    RawNode,
    Role,
    Snapshot,
    SnapshotMeta,
    SnapshotOffer,
    decode_conf_change,
    encode_conf_change,
)

A, B, C = MemberId("a"), MemberId("b"), MemberId("c")


def carry_out(raw: RawNode, log: MemoryLog) -> None:
    """Does what Readys say on a disk that loses what need not be synced, and keeps no agreed state."""
    while raw.has_ready():
        ready = raw.ready()
        if ready.must_sync:
            log.append(ready.entries)
            if ready.hard_state is not None:
                log.set_hard_state(ready.hard_state)
        for entry in ready.committed_entries:
            if entry.kind is EntryKind.CONF_CHANGE:
                raw.apply_conf_change(decode_conf_change(entry.data))
        raw.advance(ready)


def test_a_founder_that_lost_its_agreed_state_does_not_elect_itself_alone() -> None:
    """It grew its hive to three and crashed; by the configuration of before it would need nobody's vote."""
    log = MemoryLog(ConfState(voters=frozenset({A})))
    raw = RawNode(RaftConfig(member_id=A), log, random.Random(1), 0, 0)
    raw.campaign()
    carry_out(raw, log)
    raw.propose_conf_change(ConfChange(add_voters=(B, C)))
    carry_out(raw, log)
    assert raw.status().conf.voters == {A, B, C}

    again = RawNode(RaftConfig(member_id=A), log, random.Random(2), 0, 0)
    carry_out(again, log)
    again.tick(5_000)
    carry_out(again, log)
    assert again.status().role is not Role.LEADER
    assert again.status().conf.members() == {A, B, C}


def test_a_newcomer_takes_a_log_that_founds_itself_and_no_other() -> None:
    founding = Entry(term=1, index=1, kind=EntryKind.CONF_CHANGE, data=encode_conf_change(ConfChange(add_voters=(A,))))
    for entry, taken in ((founding, True), (Entry(term=1, index=1), False)):
        log = MemoryLog()
        raw = RawNode(RaftConfig(member_id=B), log, random.Random(1), 0, 0)
        request = AppendRequest(to=B, from_=A, term=2, prev_index=0, prev_term=0, entries=(entry,), commit=1)
        raw.step(request)
        carry_out(raw, log)
        assert (log.last_index() == 1) is taken
        assert (raw.status().conf.voters == {A}) is taken


@pytest.mark.parametrize("commit", [0, 3])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_late_offer_takes_nothing_from_a_newcomer_that_has_a_log_by_now(commit: int, index: int) -> None:
    """It has no configuration before it applies the first entry, and may have acknowledged more than the snapshot has."""
    log = MemoryLog()
    raw = RawNode(RaftConfig(member_id=B), log, random.Random(1), 0, 0)
    founding = Entry(term=1, index=1, kind=EntryKind.CONF_CHANGE, data=encode_conf_change(ConfChange(add_voters=(A,))))
    entries = (founding, Entry(term=1, index=2), Entry(term=1, index=3))
    raw.step(AppendRequest(to=B, from_=A, term=1, prev_index=0, prev_term=0, entries=entries, commit=commit))
    ready = raw.ready()
    log.append(ready.entries)
    raw.advance(ready)
    meta = SnapshotMeta(index=index, term=min(index, 1), conf=ConfState(voters=frozenset({A})))
    raw.step(SnapshotOffer(to=B, from_=A, term=1, snapshot=Snapshot(meta=meta)))
    raw.validate_state()
    found = raw.status()
    assert (found.last_index, found.commit) == (3, max(commit, index))
    carry_out(raw, log)
    assert raw.status().conf.members() == ({A} if found.commit else frozenset())
