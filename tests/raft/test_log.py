"""The log: durable part and tail against a plain list, under random appends, writes, snapshots and compactions."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hivenode.consensus import (
    Compacted,
    ConfState,
    Entry,
    HardState,
    MemoryLog,
    Snapshot,
    SnapshotMeta,
    Unavailable,
)
from hivenode.consensus.log import RaftLog
from hivenode.errors import InvariantError
from tests.raft.network import voters
from tests.raft.solo import log_of

ALL = 1 << 30


class LogMachine(RuleBasedStateMachine):
    """A follower's log; the model is one dict of all entries and what is written of them."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryLog(voters("a"))
        self.log = RaftLog(self.disk, committed=0, applied=0)
        self.model: dict[int, Entry] = {}
        self.base = (0, 0)
        self.term = 1
        self.out: tuple[Entry, ...] | None = None
        self.out_snapshot: Snapshot | None = None

    @rule(step=st.integers(0, 2))
    def term_grows(self, step: int) -> None:
        self.term += step

    @rule(back=st.integers(0, 4), count=st.integers(1, 5))
    def entries_are_appended_or_overwritten(self, back: int, count: int) -> None:
        last = self.log.last_index()
        first = max(last + 1 - back, self.log.committed + 1)
        if first <= last:
            self.term += 1
        entries = [Entry(term=self.term, index=first + i, data=b"%d" % self.term) for i in range(count)]
        self.log.append(entries)
        for index in [index for index in self.model if index >= first]:
            del self.model[index]
        self.model.update({entry.index: entry for entry in entries})

    @precondition(lambda self: self.out is None and self.out_snapshot is None)
    @rule()
    def the_tail_is_handed_out(self) -> None:
        self.out, self.out_snapshot = tuple(self.log.tail), self.log.pending_snapshot

    @precondition(lambda self: self.out is not None)
    @rule()
    def the_tail_is_written(self) -> None:
        if self.out_snapshot is not None:
            self.disk.apply_snapshot(self.out_snapshot)
            self.log.stable_snapshot_to(self.out_snapshot.meta.index)
            self.log.applied_to(self.out_snapshot.meta.index)
        if self.out:
            self.disk.append(self.out)
            self.log.stable_to(self.out[-1].index, self.out[-1].term)
        self.out = self.out_snapshot = None

    @rule(step=st.integers(1, 6))
    def the_commit_index_grows(self, step: int) -> None:
        self.log.commit_to(min(self.log.committed + step, self.log.last_index()))

    @precondition(lambda self: self.out is None)
    @rule(max_bytes=st.sampled_from([1, 70, ALL]))
    def what_is_committed_and_durable_is_applied(self, max_bytes: int) -> None:
        entries = self.log.applicable(max_bytes)
        assert bool(entries) == self.log.has_applicable
        for entry in entries:
            assert entry.index == self.log.applied + 1
            assert self.disk.term(entry.index) == entry.term, "what is applied is on disk"
            self.log.applied_to(entry.index)

    @precondition(lambda self: self.out is None and self.log.pending_snapshot is None)
    @rule(keep=st.integers(0, 3))
    def the_log_is_compacted(self, keep: int) -> None:
        if self.log.applied < self.disk.first_index():
            return
        self.disk.create_snapshot(self.log.applied, voters("a"))
        upto = max(self.log.applied - keep, self.base[0])
        if upto > self.base[0]:
            self.base = (upto, self.model[upto].term)
        self.disk.compact(upto)
        for index in [index for index in self.model if index <= upto]:
            del self.model[index]

    @rule(ahead=st.integers(1, 5))
    def a_snapshot_replaces_the_log(self, ahead: int) -> None:
        index = self.log.last_index() + ahead
        self.log.restore(Snapshot(meta=SnapshotMeta(index=index, term=self.term, conf=voters("a"))))
        self.base, self.model = (index, self.term), {}

    @invariant()
    def the_log_equals_the_model(self) -> None:
        assert self.log.fault() is None
        first, last = self.log.first_index(), self.log.last_index()
        assert first == self.base[0] + 1
        assert last == max(self.model, default=self.base[0])
        assert self.log.term(self.base[0]) == self.base[1]
        assert self.log.slice(first, last + 1, ALL) == [self.model[i] for i in range(first, last + 1)]
        for index in self.model:
            assert self.log.matches(index, self.model[index].term)
        with pytest.raises(Unavailable):
            self.log.term(last + 1)
        if self.base[0] > 0:
            with pytest.raises(Compacted):
                self.log.term(self.base[0] - 1)

    @invariant()
    def hints_skip_only_what_cannot_match(self) -> None:
        last = self.log.last_index()
        for term in range(self.base[1], self.term + 1):
            index, found = self.log.find_conflict_by_term(last, term)
            assert all(self.model[i].term > term for i in range(index + 1, last + 1))
            assert found <= term


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_entries_are_limited_by_size_but_never_to_none() -> None:
    log = MemoryLog()
    log.append(log_of([1] * 5))
    one = log.entries(1, 2, 1)[0].size_bytes
    assert [len(log.entries(1, 6, size)) for size in (0, one, 2 * one, 2 * one + 1, ALL)] == [1, 1, 2, 2, 5]


def test_a_page_that_spans_disk_and_tail_is_limited_as_a_whole() -> None:
    disk = MemoryLog()
    disk.append(log_of([1] * 3))
    log = RaftLog(disk, committed=0, applied=0)
    log.append([Entry(term=1, index=4), Entry(term=1, index=5)])
    size = sum(entry.size_bytes for entry in log.slice(1, 5, ALL))
    assert [e.index for e in log.slice(1, 6, size)] == [1, 2, 3, 4]
    assert [e.index for e in log.slice(2, 6, 1)] == [2]


def test_a_write_of_entries_that_were_rewritten_meanwhile_makes_nothing_durable() -> None:
    log = RaftLog(MemoryLog(), committed=0, applied=0)
    log.append(log_of([1, 1, 1]))
    log.append([Entry(term=2, index=2)])
    log.stable_to(3, 1)
    assert log.durable_index() == 0
    log.stable_to(2, 2)
    assert log.durable_index() == 2


def test_a_committed_entry_is_never_rewritten() -> None:
    log = RaftLog(MemoryLog(), committed=0, applied=0)
    log.append(log_of([1, 1]))
    log.commit_to(1)
    with pytest.raises(InvariantError):
        log.append([Entry(term=2, index=1)])


@pytest.mark.parametrize(("commit", "applied"), [(3, 0), (0, 3)])
def test_a_start_on_a_log_that_lost_committed_entries_is_refused(commit: int, applied: int) -> None:
    disk = MemoryLog(hard_state=HardState(term=1, commit=commit))
    disk.append(log_of([1, 1]))
    with pytest.raises(InvariantError, match="lost"):
        RaftLog(disk, committed=commit, applied=applied)


def test_a_start_with_a_state_behind_the_logs_beginning_is_refused() -> None:
    disk = MemoryLog()
    disk.append(log_of([1, 1, 1]))
    disk.create_snapshot(3, ConfState())
    disk.compact(3)
    with pytest.raises(InvariantError, match="lags"):
        RaftLog(disk, committed=3, applied=2)
    assert RaftLog(disk, committed=3, applied=3).first_index() == 4


def test_storage_refuses_a_gap_and_an_uncovered_compaction() -> None:
    disk = MemoryLog()
    disk.append(log_of([1]))
    with pytest.raises(InvariantError):
        disk.append([Entry(term=1, index=3)])
    with pytest.raises(InvariantError):
        disk.compact(1)
