"""The shell of the core: bounds, deadlines, messages that mean harm, quorums, and the order of Readys."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivenode.consensus import (
    NEVER_MS,
    AppendRequest,
    AppendResponse,
    ConfChange,
    ConfState,
    DropReason,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    InvalidConfChangeError,
    MemberId,
    Message,
    ProgressState,
    ProposalDropped,
    RaftConfig,
    ReadIndexRequest,
    ReadIndexResponse,
    Role,
    Snapshot,
    SnapshotMeta,
    SnapshotOffer,
    SnapshotStatus,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    apply_change,
    conf_fault,
    encode_conf_change,
)
from hivenode.consensus.quorum import VoteResult, committed_index, vote_result
from hivenode.errors import Code, HiveError, InvariantError
from tests.raft.network import Network, ids, voters
from tests.raft.solo import A, B, C, Solo, ack, heartbeat, vote_request

# Configuration


@pytest.mark.parametrize(
    "wrong",
    [
        {"member_id": MemberId("")},
        {"election_timeout_ms": (100, 200)},
        {"election_timeout_ms": (1000, 1000)},
        {"heartbeat_interval_ms": 0},
        {"max_inflight_appends": 0},
        {"leader_lost_delay_ms": -1},
        {"max_pending_reads": -5},
    ],
)
def test_a_configuration_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    config = replace(RaftConfig(member_id=A), **wrong)  # type: ignore[arg-type]
    with pytest.raises(HiveError) as refusal:
        config.validate()
    assert refusal.value.code is Code.INVALID_ARGUMENT


# Time


def test_time_that_runs_back_is_taken_as_standing_still() -> None:
    solo = Solo()
    solo.raw.tick(500)
    deadline = solo.raw.next_deadline()
    solo.raw.tick(100)
    assert solo.raw.next_deadline() == deadline


def test_nothing_is_due_before_the_deadline_and_something_at_it() -> None:
    solo = Solo(pre_vote=True, check_quorum=True)
    for _ in range(5):
        deadline = solo.raw.next_deadline()
        solo.raw.tick(deadline - 1)
        assert not solo.raw.has_ready()
        solo.raw.tick(deadline)
        assert solo.raw.has_ready()
        solo.drain()


def test_a_lone_leader_and_a_member_without_a_hive_wake_for_nothing() -> None:
    solo = Solo("", check_quorum=True)
    solo.lead()
    assert solo.raw.next_deadline() == NEVER_MS
    assert Solo(conf=ConfState()).raw.next_deadline() == NEVER_MS


def test_a_learner_forgets_a_silent_leader() -> None:
    solo = Solo(conf=ConfState(voters=frozenset({B}), learners=frozenset({A})))
    solo.step(heartbeat(1))
    solo.tick(solo.raw.next_deadline() - solo.now_ms)
    assert solo.raw.status().leader is None
    assert solo.raw.next_deadline() == NEVER_MS


# Bounds


def test_proposals_are_refused_while_too_much_is_uncommitted() -> None:
    config = RaftConfig(member_id=A, pre_vote=False, max_uncommitted_bytes=500)
    solo = Solo(config=config)
    solo.lead()
    solo.step(ack(B, 1, 1))
    solo.raw.propose(b"x" * 400)
    with pytest.raises(ProposalDropped) as refusal:
        solo.raw.propose(b"x" * 400)
    assert refusal.value.reason is DropReason.LOG_FULL
    solo.drain()
    solo.step(ack(B, 1, 2))
    assert solo.raw.propose(b"x" * 1000) == 3, "one proposal is always taken, however large"


def test_no_more_appends_are_out_than_allowed_and_each_is_limited() -> None:
    config = RaftConfig(member_id=A, pre_vote=False, max_inflight_appends=3, max_append_bytes=200)
    solo = Solo(config=config)
    solo.lead()
    solo.step(ack(B, 1, 1), ack(C, 1, 1))
    for _ in range(20):
        solo.raw.propose(b"x" * 100)
    sent = [m for m in solo.drain() if isinstance(m, AppendRequest) and m.to == B]
    assert [len(m.entries) for m in sent] == [1, 1, 1]
    more = [m for m in solo.step(ack(B, 1, 2)) if isinstance(m, AppendRequest) and m.to == B]
    assert [e.index for m in more for e in m.entries] == [5]


def test_a_full_window_whose_messages_were_all_lost_is_found_out_by_a_heartbeat() -> None:
    net = Network(voters("a", "b"), configure=lambda config: replace(config, max_inflight_appends=2))
    net.elect("a")
    net.isolate("b")
    for at in range(5):
        net.propose("a", b"%d" % at)
    net.heal()
    net.run(400)
    assert net.state("b") == [b"0", b"1", b"2", b"3", b"4"]


def test_one_late_append_does_not_have_the_window_sent_again_for_each_that_overtook_it() -> None:
    solo = Solo(config=RaftConfig(member_id=A, pre_vote=False, check_quorum=False, max_append_bytes=1))
    raw = solo.lead()
    solo.step(ack(B, solo.term, 1))
    first, *overtaking = [raw.propose(b"%d" % number) for number in range(8)]
    solo.drain()
    refusals = [replace(ack(B, solo.term, index - 1), reject=True, hint_index=1, hint_term=1) for index in overtaking]
    # The late one arrives behind the others, and the first refusal makes it known again.
    assert [m.prev_index for m in solo.step(refusals[0]) if isinstance(m, AppendRequest) and m.to == B] == [1]
    after = [m for m in solo.step(ack(B, solo.term, first)) if isinstance(m, AppendRequest) and m.to == B]
    assert [m.prev_index for m in after if m.entries] == [first, first + 1]
    assert [m for m in solo.step(*refusals[1:]) if isinstance(m, AppendRequest) and m.to == B] == []
    # With each step forward twice as many are out again.
    after = [m for m in solo.step(ack(B, solo.term, first + 1)) if isinstance(m, AppendRequest) and m.to == B]
    assert [m.prev_index for m in after if m.entries] == [first + 2, first + 3, first + 4]


def test_what_is_handed_out_for_applying_is_limited() -> None:
    config = RaftConfig(member_id=A, pre_vote=False, max_committed_bytes_per_ready=300)
    solo = Solo("", config=config)
    solo.lead()
    for _ in range(10):
        solo.raw.propose(b"x" * 100)
    sizes = []
    while solo.raw.has_ready():
        solo.persist()
        assert solo.ready is not None
        sizes.append(len(solo.ready.committed_entries))
        solo.finish()
    assert max(sizes) == 2
    assert len(solo.committed) == 11


# Ready


def test_one_ready_is_out_at_a_time() -> None:
    solo = Solo("")
    solo.raw.campaign()
    ready = solo.raw.ready()
    assert not solo.raw.has_ready()
    with pytest.raises(InvariantError):
        solo.raw.ready()
    with pytest.raises(InvariantError):
        solo.raw.advance(replace(ready))
    solo.raw.advance(ready)


def test_a_commit_index_alone_asks_for_no_sync() -> None:
    solo = Solo()
    solo.step(heartbeat(1))
    solo.step(
        AppendRequest(to=A, from_=B, term=1, prev_index=0, prev_term=0, entries=(Entry(term=1, index=1),), commit=0)
    )
    solo.raw.step(heartbeat(1, commit=1))
    ready = solo.raw.ready()
    assert ready.hard_state is not None
    assert not ready.must_sync


def test_a_heartbeat_is_answered_at_once_in_a_term_that_is_durable_and_not_before() -> None:
    solo = Solo()
    solo.raw.step(heartbeat(4))
    first = solo.raw.ready()
    assert [type(m) for m in first.messages_after_persist] == [HeartbeatResponse]
    solo.raw.advance(first)
    solo.raw.step(heartbeat(4))
    assert [type(m) for m in solo.raw.ready().messages] == [HeartbeatResponse]


# Snapshots


def test_a_reported_snapshot_failure_is_tried_again_and_a_success_goes_on_after_it() -> None:
    solo = Solo(terms=[1, 1, 1], term=1, commit=3)
    solo.drain()
    solo.log.create_snapshot(3, voters("a", "b", "c"))
    solo.log.compact(3)
    solo.lead()
    reject = AppendResponse(to=A, from_=B, term=2, index=3, reject=True)
    assert any(isinstance(m, SnapshotOffer) for m in solo.step(reject))
    assert solo.raw.status().progress[B].state is ProgressState.SNAPSHOT
    solo.raw.report_snapshot(B, False)
    assert solo.drain() == []
    beat = HeartbeatResponse(to=A, from_=B, term=2)
    assert any(isinstance(m, SnapshotOffer) for m in solo.step(beat)), "tried again at the next sign of life"
    solo.step(SnapshotStatus(to=A, from_=B, term=2, ok=True))
    assert solo.raw.status().progress[B].state is ProgressState.PROBE
    sent = solo.step(AppendResponse(to=A, from_=B, term=2, index=3))
    assert [m.prev_index for m in sent if isinstance(m, AppendRequest)] == [3]


def test_a_snapshot_that_comes_while_a_change_is_being_applied_does_not_mix_with_it() -> None:
    """The change belongs to the configuration before the snapshot, which is taken over only when it is installed."""
    solo = Solo(conf=voters("b", "c"))
    change = Entry(
        term=1,
        index=1,
        kind=EntryKind.CONF_CHANGE,
        data=encode_conf_change(ConfChange(add_voters=ids("a", "d"))),
    )
    solo.raw.step(AppendRequest(to=A, from_=B, term=1, prev_index=0, prev_term=0, entries=(change,), commit=1))
    solo.persist()
    solo.finish()
    solo.persist()
    joint = ConfState(voters=frozenset(ids("b", "e")), voters_outgoing=frozenset(ids("b", "c")), auto_leave=True)
    snapshot = Snapshot(meta=SnapshotMeta(index=9, term=1, conf=joint))
    solo.raw.step(SnapshotOffer(to=A, from_=B, term=1, snapshot=snapshot))
    solo.finish()
    assert solo.raw.status().conf.voters == set(ids("a", "b", "c", "d"))
    solo.drain()
    assert solo.raw.status().conf == joint
    assert solo.raw.status().applied == 9


def test_a_member_whose_log_is_being_replaced_does_not_stand() -> None:
    solo = Solo(terms=[1], term=1)
    snapshot = Snapshot(meta=SnapshotMeta(index=9, term=1, conf=voters("a", "b", "c")))
    solo.raw.step(SnapshotOffer(to=A, from_=B, term=1, snapshot=snapshot))
    solo.raw.campaign()
    assert solo.role is Role.FOLLOWER


def test_a_member_that_cannot_be_reached_is_probed() -> None:
    solo = Solo()
    solo.lead()
    solo.step(ack(B, 1, 1))
    solo.raw.report_unreachable(B)
    assert solo.raw.status().progress[B].state is ProgressState.PROBE
    solo.raw.report_unreachable(MemberId("stranger"))
    solo.raw.report_snapshot(MemberId("stranger"), True)


# Messages that mean harm

MEMBERS = st.sampled_from(ids("a", "b", "c", "stranger"))
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 4, 7, 1 << 62, 1 << 63, 1 << 80])
ENTRIES = st.lists(st.builds(Entry, term=NUMBERS, index=NUMBERS, data=st.binary(max_size=3)), max_size=3).map(tuple)
CONFS = st.builds(ConfState, voters=st.frozensets(MEMBERS), learners=st.frozensets(st.just(MemberId("l"))))
CONTEXTS = st.sampled_from([b"", b"\x00" * 7 + b"\x01", b"r"])
TO = {"to": st.sampled_from([A, A, A, B]), "from_": MEMBERS, "term": NUMBERS}
SNAPSHOTS = st.builds(Snapshot, meta=st.builds(SnapshotMeta, index=NUMBERS, term=NUMBERS, conf=CONFS))
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(VoteRequest, **TO, pre_vote=st.booleans(), last_index=NUMBERS, last_term=NUMBERS, transfer=st.booleans()),
    st.builds(VoteResponse, **TO, pre_vote=st.booleans(), granted=st.booleans()),
    st.builds(AppendRequest, **TO, prev_index=NUMBERS, prev_term=NUMBERS, entries=ENTRIES, commit=NUMBERS),
    st.builds(AppendResponse, **TO, index=NUMBERS, reject=st.booleans(), hint_index=NUMBERS, hint_term=NUMBERS),
    st.builds(Heartbeat, **TO, commit=NUMBERS, context=CONTEXTS),
    st.builds(HeartbeatResponse, **TO, context=CONTEXTS),
    st.builds(SnapshotOffer, **TO, snapshot=SNAPSHOTS),
    st.builds(SnapshotStatus, **TO, ok=st.booleans()),
    st.builds(TimeoutNow, **TO),
    st.builds(ReadIndexRequest, **TO, context=CONTEXTS),
    st.builds(ReadIndexResponse, **TO, context=CONTEXTS, index=NUMBERS),
)


@settings(max_examples=400, deadline=None)
@given(messages=st.lists(MESSAGES, min_size=1, max_size=12), role=st.sampled_from(list(Role)))
def test_no_message_raises_or_breaks_an_invariant(messages: list[Message], role: Role) -> None:
    solo = Solo(terms=[1, 2], term=2, commit=1, pre_vote=role is Role.PRE_CANDIDATE, check_quorum=True)
    solo.drain()
    if role is Role.LEADER:
        solo.lead()
    elif role is not Role.FOLLOWER:
        solo.time_out()
    kept = [(e.index, e.term) for e in solo.committed]
    for message in messages:
        solo.step(message)
        solo.raw.validate_state()
    assert [(e.index, e.term) for e in solo.committed][: len(kept)] == kept


def test_an_append_that_would_rewrite_a_committed_entry_is_dropped_and_counted() -> None:
    solo = Solo(terms=[1, 1], term=1, commit=2)
    wrong = Entry(term=2, index=2)
    solo.step(AppendRequest(to=A, from_=B, term=2, prev_index=1, prev_term=1, entries=(wrong,), commit=2))
    assert solo.terms() == [1, 1]
    longer = (Entry(term=1, index=3), Entry(term=2, index=4))
    assert solo.raw.status().conflicts_refused == 0, "what lies before the commit index is not even looked at"
    solo.step(AppendRequest(to=A, from_=B, term=2, prev_index=2, prev_term=1, entries=longer, commit=2))
    solo.step(heartbeat(2, commit=9))
    assert solo.raw.status().conflicts_refused == 1


# Quorums and configurations, against counting by hand


@given(
    incoming=st.frozensets(st.sampled_from("abcdef"), min_size=1),
    outgoing=st.frozensets(st.sampled_from("abcdef")),
    matches=st.fixed_dictionaries({name: st.integers(0, 5) for name in "abcdef"}),
    votes=st.dictionaries(st.sampled_from("abcdef"), st.booleans()),
)
def test_quorums_are_what_counting_gives(
    incoming: frozenset[str], outgoing: frozenset[str], matches: dict[str, int], votes: dict[str, bool]
) -> None:
    conf = ConfState(voters=frozenset(ids(*incoming)), voters_outgoing=frozenset(ids(*outgoing)))
    halves = [half for half in (incoming, outgoing) if half]

    def held(index: int) -> bool:
        return all(sum(matches[name] >= index for name in half) * 2 > len(half) for half in halves)

    assert committed_index(conf, lambda member: matches[member]) == max(i for i in range(6) if held(i))
    cast = {MemberId(name): vote for name, vote in votes.items()}
    won = all(sum(votes.get(name) is True for name in half) * 2 > len(half) for half in halves)
    lost = any(sum(votes.get(name) is not False for name in half) * 2 <= len(half) for half in halves)
    expected = VoteResult.WON if won else VoteResult.LOST if lost else VoteResult.PENDING
    assert vote_result(conf, cast) is expected


NAMES = st.lists(st.sampled_from(ids(*"abcdef")), unique=True, max_size=3)


@given(
    st.lists(st.builds(ConfChange, add_voters=NAMES.map(tuple), add_learners=NAMES.map(tuple), remove=NAMES.map(tuple)))
)
def test_any_sequence_of_changes_keeps_a_sound_configuration(changes: list[ConfChange]) -> None:
    conf = voters("a")
    for change in itertools.chain(changes, [ConfChange()]):
        before = conf
        try:
            conf = apply_change(conf, change)
        except InvalidConfChangeError:
            continue
        assert conf_fault(conf) is None
        assert conf.voters
        if change.leaves_joint:
            assert not conf.is_joint
            assert conf.members() == before.members() - (before.voters_outgoing - before.voters - before.learners_next)
        else:
            assert conf.is_joint or len(before.voters ^ conf.voters) <= 1, "without joint consensus one voter at most"
            assert set(change.add_voters) <= conf.voters
            assert set(change.add_learners) <= conf.learners | conf.learners_next


# A commit index that waits for company


def _leader_that_delays_commits() -> Solo:
    """It leads b and c, which have all that it has."""
    solo = Solo(config=RaftConfig(member_id=A, pre_vote=False, check_quorum=False, commit_delay_ms=10))
    solo.lead()
    last = solo.raw.status().last_index
    solo.step(ack(B, solo.term, last), ack(C, solo.term, last))
    solo.tick(10)
    return solo


def test_a_commit_index_rides_on_the_next_append() -> None:
    solo = _leader_that_delays_commits()
    solo.raw.propose(b"one")
    solo.drain()
    first = solo.raw.status().last_index
    assert solo.step(ack(B, solo.term, first)) == []
    solo.raw.propose(b"two")
    sent = [message for message in solo.drain() if isinstance(message, AppendRequest)]
    assert [(len(append.entries), append.commit) for append in sent] == [(1, first), (1, first)]
    assert solo.tick(10) == []


def test_a_commit_index_goes_alone_when_no_append_comes() -> None:
    solo = _leader_that_delays_commits()
    solo.raw.propose(b"one")
    solo.drain()
    first = solo.raw.status().last_index
    assert solo.step(ack(B, solo.term, first), ack(C, solo.term, first)) == []
    assert solo.tick(9) == []
    sent = solo.tick(1)
    assert [(type(message), message.to) for message in sent] == [(AppendRequest, B), (AppendRequest, C)]
    assert all(isinstance(message, AppendRequest) and message.commit == first for message in sent)
    assert solo.tick(10) == []


def test_a_commit_index_goes_at_once_when_a_followers_read_waits_for_it() -> None:
    solo = _leader_that_delays_commits()
    solo.raw.propose(b"one")
    solo.drain()
    first = solo.raw.status().last_index
    solo.step(ack(B, solo.term, first), ack(C, solo.term, first))
    sent = solo.step(ReadIndexRequest(to=A, from_=B, term=solo.term, context=b"r"))
    assert [message.index for message in sent if isinstance(message, ReadIndexResponse)] == [first]
    assert {message.to: message.commit for message in sent if isinstance(message, AppendRequest)} == {
        B: first,
        C: first,
    }


def test_that_a_change_of_the_configuration_is_committed_goes_at_once() -> None:
    solo = _leader_that_delays_commits()
    solo.raw.propose_conf_change(ConfChange(remove=(A,)))
    solo.drain()
    change = solo.raw.status().last_index
    sent = solo.step(ack(B, solo.term, change), ack(C, solo.term, change))
    assert solo.role is Role.FOLLOWER
    assert {message.to for message in sent if isinstance(message, AppendRequest) and message.commit == change} == {B, C}


# While a Ready is out


def test_heartbeats_and_their_answers_go_out_while_the_disk_writes_and_acknowledgements_do_not() -> None:
    leader = Solo()
    raw = leader.lead()
    raw.propose(b"one")
    ready = raw.ready()
    assert raw.meanwhile().messages == ()
    raw.propose(b"two")
    raw.tick(leader.now_ms + 1_000)
    assert {type(message) for message in raw.meanwhile().messages} == {Heartbeat}
    raw.advance(ready)
    with pytest.raises(InvariantError):
        raw.meanwhile()


def test_of_what_waits_for_a_slow_disk_each_member_is_told_the_newest_of_its_kind() -> None:
    """What comes while the disk writes is bounded by the members, however long that lasts."""
    solo = Solo(term=1)
    raw = solo.raw
    raw.step(_append(1, 1))
    solo.persist()
    for index in range(2, 51):
        raw.step(_append(1, index))
    raw.step(_append(1, 5))  # it comes late, or twice, and says nothing new
    for index in range(60, 70):
        raw.step(_append(1, index))
        raw.step(heartbeat(1))
    assert len([m for m in raw.meanwhile().messages if isinstance(m, HeartbeatResponse)]) == 10
    for _ in range(10):
        for candidate in (B, C):
            raw.step(vote_request(candidate, 2, pre_vote=True))
            raw.step(vote_request(candidate, 1))
    assert [m.index for m in solo.finish() if isinstance(m, AppendResponse)] == [1]
    told = solo.persist() + solo.finish()
    answers = [m for m in told if isinstance(m, AppendResponse)]
    assert [(m.index, m.reject, m.hint_index) for m in answers] == [(50, False, 0), (68, True, 50)]
    votes = [(m.to, m.pre_vote) for m in told if isinstance(m, VoteResponse)]
    assert sorted(votes) == [(B, False), (B, True), (C, False), (C, True)]
    assert len(told) == len(answers) + len(votes)


def test_what_a_leader_of_a_term_that_is_not_durable_yet_is_told_is_the_newest_too() -> None:
    solo = Solo(term=1)
    raw = solo.raw
    raw.step(_append(1, 1))
    solo.persist()
    raw.step(_append(1, 2))
    for term in (2, 3):
        for context in (b"1", b"2", b"3"):
            raw.step(replace(heartbeat(term), context=context))
    raw.step(AppendRequest(to=A, from_=B, term=3, prev_index=1, prev_term=1, entries=(), commit=0))
    solo.finish()
    told = solo.persist() + solo.finish()
    assert told == [
        HeartbeatResponse(to=B, from_=A, term=3, context=b"3"),
        AppendResponse(to=B, from_=A, term=3, index=1),
    ]


def _append(term: int, index: int) -> AppendRequest:
    """One entry at this place, after another of the same term."""
    entries = (Entry(term=term, index=index),)
    return AppendRequest(
        to=A, from_=B, term=term, prev_index=index - 1, prev_term=min(index - 1, term), entries=entries, commit=0
    )


def test_a_leader_whose_disk_takes_nothing_asks_the_best_voter_to_take_over_and_does_not_stand_meanwhile() -> None:
    solo = Solo()
    raw = solo.lead()
    raw.propose(b"one")
    ready = raw.ready()
    last = raw.status().last_index
    raw.step(ack(C, solo.term, last))
    raw.disk_stalled()
    asked = raw.meanwhile()
    assert [(type(message), message.to) for message in asked.messages if isinstance(message, TimeoutNow)] == [
        (TimeoutNow, C)
    ]
    assert asked.soft_state is not None
    assert asked.soft_state.role is Role.FOLLOWER
    for _ in range(20):
        raw.tick(raw.next_deadline() - 1)
        raw.disk_stalled()
    assert raw.meanwhile().messages == ()
    assert raw.status().role is Role.FOLLOWER
    raw.advance(ready)


def test_the_only_voter_leads_on_and_answers_reads_while_its_disk_takes_nothing() -> None:
    solo = Solo(conf=ConfState(voters=frozenset({A}), learners=frozenset({B})))
    raw = solo.lead()
    raw.propose(b"one")
    ready = raw.ready()
    raw.disk_stalled()
    raw.read_index(b"read")
    shown = raw.meanwhile()
    assert shown.soft_state is None
    assert [state.context for state in shown.read_states] == [b"read"]
    assert raw.status().role is Role.LEADER
    raw.advance(ready)
