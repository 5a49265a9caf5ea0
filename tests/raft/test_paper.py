"""A test for each statement of sections 5 to 8 of "In Search of an Understandable Consensus Algorithm" (Ongaro,
Ousterhout, 2014, extended version), in the paper's order; each cites its section."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest

from hivenode.consensus import (
    AppendRequest,
    AppendResponse,
    ConfChange,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    MemberId,
    Message,
    RaftConfig,
    Role,
    Snapshot,
    SnapshotMeta,
    SnapshotOffer,
    VoteRequest,
    VoteResponse,
)
from tests.raft.network import Network, ids, preset, voters, without_pre_vote
from tests.raft.solo import A, B, C, Solo, ack, grant, heartbeat, log_of, vote_request


def append(
    term: int, prev_index: int, prev_term: int, entries: tuple[Entry, ...] = (), commit: int = 0, leader: MemberId = B
) -> AppendRequest:
    return AppendRequest(
        to=A, from_=leader, term=term, prev_index=prev_index, prev_term=prev_term, entries=entries, commit=commit
    )


M = TypeVar("M")


def of_kind(messages: list[Message], kind: type[M]) -> list[M]:
    return [message for message in messages if isinstance(message, kind)]


# 5.1 Raft basics


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_5_1_a_member_takes_a_larger_term_and_becomes_follower(role: Role) -> None:
    """§5.1: if one server's current term is smaller than the other's, it updates; a candidate or leader steps down."""
    solo = Solo()
    if role is Role.LEADER:
        solo.lead()
    elif role is Role.CANDIDATE:
        solo.time_out()
    assert solo.role is role
    solo.step(append(7, 0, 0))
    assert solo.role is Role.FOLLOWER
    assert solo.term == 7
    assert solo.hard_state.term == 7


def test_5_1_a_request_with_a_stale_term_is_rejected() -> None:
    """§5.1: if a server receives a request with a stale term number, it rejects the request."""
    solo = Solo(terms=[1, 1], term=5)
    answers = solo.step(append(4, 2, 1, (Entry(term=4, index=3),), commit=3), vote_request(C, 4, 9, 4))
    assert solo.terms() == [1, 1]
    assert solo.raw.status().commit == 0
    assert not [m for m in answers if isinstance(m, VoteResponse) and m.granted]


def test_5_1_a_stale_leader_is_told_the_later_term() -> None:
    """§5.1: current terms are exchanged whenever servers communicate."""
    solo = Solo(term=5, check_quorum=True, pre_vote=True)
    (answer,) = of_kind(solo.step(heartbeat(4)), AppendResponse)
    assert answer.term == 5


# 5.2 Leader election


def test_5_2_a_server_begins_as_follower() -> None:
    """§5.2: when servers start up, they begin as followers."""
    assert Solo().role is Role.FOLLOWER


def test_5_2_a_leader_sends_heartbeats_to_all_periodically() -> None:
    """§5.2: leaders send periodic heartbeats to all followers in order to maintain their authority."""
    solo = Solo()
    solo.lead()
    for _ in range(3):
        assert {m.to for m in of_kind(solo.tick(150), Heartbeat)} == {B, C}


def test_5_2_a_follower_remains_one_while_it_hears_a_leader() -> None:
    """§5.2: a server remains in follower state as long as it receives valid RPCs from a leader or candidate."""
    solo = Solo(pre_vote=True, check_quorum=True)
    for _ in range(100):
        solo.step(heartbeat(1))
        solo.tick(150)
    assert solo.role is Role.FOLLOWER


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_5_2_a_timeout_begins_an_election_in_the_next_term(role: Role) -> None:
    """§5.2: on a timeout a follower or candidate increments its term, votes for itself and asks all others in parallel."""
    solo = Solo()
    if role is Role.CANDIDATE:
        solo.time_out()
    term = solo.term
    requests = of_kind(solo.time_out(), VoteRequest)
    assert solo.role is Role.CANDIDATE
    assert solo.hard_state == HardState(term=term + 1, vote=A, commit=0)
    assert {(m.to, m.term) for m in requests} == {(B, term + 1), (C, term + 1)}


@pytest.mark.parametrize(
    ("peers", "granted", "refused", "role"),
    [
        ("", "", "", Role.LEADER),
        ("bc", "b", "", Role.LEADER),
        ("bc", "b", "c", Role.LEADER),
        ("bc", "", "b", Role.CANDIDATE),
        ("bc", "", "bc", Role.FOLLOWER),
        ("bcde", "bc", "", Role.LEADER),
        ("bcde", "bc", "de", Role.LEADER),
        ("bcde", "b", "cd", Role.CANDIDATE),
        ("bcde", "b", "cde", Role.FOLLOWER),
        ("bcd", "b", "", Role.CANDIDATE),
    ],
)
def test_5_2_a_candidate_wins_with_a_majority_of_the_full_cluster(
    peers: str, granted: str, refused: str, role: Role
) -> None:
    """§5.2: a candidate wins an election if it receives votes from a majority of the servers for the same term."""
    solo = Solo(peers)
    requests = {m.to: m for m in of_kind(solo.time_out(), VoteRequest)}
    for name in granted:
        solo.step(grant(requests[MemberId(name)]))
    for name in refused:
        solo.step(grant(requests[MemberId(name)], granted=False))
    assert solo.role is role


def test_5_2_a_repeated_vote_counts_once() -> None:
    """§5.2: each server votes for at most one candidate, so its answers count as one."""
    solo = Solo("bcde")
    request = next(m for m in of_kind(solo.time_out(), VoteRequest) if m.to == B)
    solo.step(grant(request), grant(request), grant(request))
    assert solo.role is Role.CANDIDATE


def test_5_2_a_member_votes_for_at_most_one_candidate_a_term_first_come_first_served() -> None:
    """§5.2: each server will vote for at most one candidate in a given term, on a first-come-first-served basis."""
    solo = Solo()
    first, second, again, later = (
        of_kind(solo.step(vote_request(who, term)), VoteResponse)[0] for who, term in [(B, 1), (C, 1), (B, 1), (C, 2)]
    )
    assert (first.granted, second.granted, again.granted, later.granted) == (True, False, True, True)


def test_5_2_a_candidate_that_hears_a_leader_of_its_term_returns_to_follower() -> None:
    """§5.2: a candidate recognizes a leader whose term is at least as large as its own."""
    solo = Solo()
    solo.time_out()
    solo.step(append(solo.term, 0, 0))
    assert solo.role is Role.FOLLOWER
    assert solo.raw.status().leader == B


def test_5_2_a_candidate_ignores_a_leader_of_a_smaller_term() -> None:
    """§5.2: if the term in the RPC is smaller, the candidate rejects it and continues."""
    solo = Solo(term=3)
    solo.time_out()
    solo.step(append(3, 0, 0))
    assert solo.role is Role.CANDIDATE


def test_5_2_election_timeouts_are_chosen_at_random_from_the_interval() -> None:
    """§5.2: election timeouts are chosen randomly from a fixed interval, anew at the start of each election."""
    solo = Solo()
    waits = set()
    for _ in range(200):
        waits.add(solo.raw.next_deadline() - solo.now_ms)
        solo.time_out()
    assert len(waits) > 150
    assert min(waits) >= 1000
    assert max(waits) <= 2000


def test_5_2_split_votes_are_rare_and_resolved_quickly() -> None:
    """§5.2: randomized timeouts spread the servers out, so that in most cases a single one times out."""
    terms = []
    for seed in range(30):
        net = Network(voters(*"abcde"), seed=seed, configure=without_pre_vote)
        net.run_until(lambda net=net: bool(net.leaders()), 10_000)  # type: ignore[misc]
        terms.append(net.raw(net.leader()).status().term)
    assert sum(term > 1 for term in terms) <= 3


# 5.3 Log replication


def test_5_3_a_leader_appends_a_proposal_and_sends_it_to_all_in_parallel() -> None:
    """§5.3: the leader appends the command to its log as a new entry, then issues AppendEntries to each other server."""
    solo = Solo()
    solo.lead()
    solo.step(ack(B, 1, 1), ack(C, 1, 1))
    assert solo.raw.propose(b"x") == 2
    sent = of_kind(solo.drain(), AppendRequest)
    entry = Entry(term=1, index=2, data=b"x")
    assert {(m.to, m.prev_index, m.prev_term, m.entries) for m in sent} == {(to, 1, 1, (entry,)) for to in (B, C)}
    assert solo.terms() == [1, 1]


@pytest.mark.parametrize(
    ("peers", "acks", "committed"),
    [
        ("", "", True),
        ("bc", "", False),
        ("bc", "b", True),
        ("bcde", "b", False),
        ("bcde", "bd", True),
        ("bcd", "b", False),
    ],
)
def test_5_3_an_entry_is_committed_once_a_majority_has_it(peers: str, acks: str, committed: bool) -> None:
    """§5.3: a log entry is committed once the leader that created it has replicated it on a majority."""
    solo = Solo(peers)
    solo.lead()
    solo.step(*(ack(MemberId(name), 1, 1) for name in peers))
    solo.raw.propose(b"x")
    solo.drain()
    solo.step(*(ack(MemberId(name), 1, 2) for name in acks))
    assert (solo.raw.status().commit == 2) is committed
    assert ([e.data for e in solo.committed][1:] == [b"x"]) is committed


@pytest.mark.parametrize("terms", [[], [2], [1, 2], [1, 1, 2]])
def test_5_3_committing_commits_all_preceding_entries(terms: list[int]) -> None:
    """§5.3: this also commits all preceding entries in the leader's log, including entries created by previous leaders."""
    solo = Solo(terms=terms, term=2)
    solo.lead()
    solo.raw.propose(b"x")
    solo.drain()
    solo.step(ack(B, 3, len(terms) + 2))
    assert [e.term for e in solo.committed] == [*terms, 3, 3]


def test_5_3_a_follower_applies_in_log_order_what_it_learns_is_committed() -> None:
    """§5.3: once a follower learns that a log entry is committed, it applies the entry, in log order."""
    solo = Solo()
    entries = tuple(log_of([1, 1, 1]))
    solo.step(append(1, 0, 0, entries, commit=1))
    assert [e.index for e in solo.committed] == [1]
    solo.step(heartbeat(1, commit=3))
    assert [e.index for e in solo.committed] == [1, 2, 3]


def test_5_3_the_leader_tells_the_commit_index_in_later_appends() -> None:
    """§5.3: the leader includes the highest index it knows to be committed in future AppendEntries RPCs."""
    solo = Solo()
    solo.lead()
    told = [m.commit for m in of_kind(solo.step(ack(B, 1, 1)), AppendRequest) if m.to == B]
    assert told == [1]


@pytest.mark.parametrize(
    ("prev_index", "prev_term", "fits"),
    [(0, 0, True), (1, 1, True), (2, 2, True), (1, 2, False), (2, 1, False), (3, 3, False)],
)
def test_5_3_a_follower_refuses_entries_that_do_not_follow_its_log(prev_index: int, prev_term: int, fits: bool) -> None:
    """§5.3: if the follower does not find an entry with the same index and term, it refuses the new entries."""
    solo = Solo(terms=[1, 2], term=3)
    (answer,) = of_kind(solo.step(append(3, prev_index, prev_term)), AppendResponse)
    assert answer.reject is not fits


@pytest.mark.parametrize(
    ("prev", "sent", "result"),
    [
        ((2, 2), [3], [1, 2, 3]),
        ((1, 1), [3, 4], [1, 3, 4]),
        ((0, 0), [1], [1, 2]),
        ((0, 0), [3], [3]),
        ((0, 0), [1, 2], [1, 2]),
        ((0, 0), [1, 2, 3], [1, 2, 3]),
    ],
)
def test_5_3_conflicting_entries_are_overwritten_and_others_kept(
    prev: tuple[int, int], sent: list[int], result: list[int]
) -> None:
    """§5.3: conflicting entries in follower logs are overwritten with entries from the leader's log."""
    solo = Solo(terms=[1, 2], term=4)
    entries = tuple(Entry(term=t, index=prev[0] + i, data=b"%d.%d" % (t, prev[0] + i)) for i, t in enumerate(sent, 1))
    solo.step(append(4, *prev, entries))
    assert solo.terms() == result


S1 = MemberId("s1")
FIGURE_7 = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("name", sorted(FIGURE_7))
def test_5_3_a_leader_brings_every_follower_of_figure_7_to_its_own_log(name: str) -> None:
    """§5.3, figure 7: the leader finds the latest entry where the logs agree and sends everything after that point."""
    net = Network(voters("l", "x", "y"), configure=without_pre_vote)
    leader_log = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    preset(net.nodes[MemberId("l")], leader_log, term=7)
    preset(net.nodes[MemberId("x")], FIGURE_7[name], term=7)
    # The third one's vote is needed where the follower's log is the better one.
    preset(net.nodes[MemberId("y")], [1, 1, 1], term=7)
    for member in ("l", "x", "y"):
        net.start(member)
    net.elect("l")
    net.run(1000)
    assert net.entries("x") == net.entries("l")
    assert [e.term for e in net.entries("l")] == [*leader_log, 8]


def test_5_3_a_rejected_leader_skips_a_whole_term_a_round() -> None:
    """§5.3, end: one AppendEntries RPC will be required for each term with conflicting entries, not one an entry."""
    net = Network(voters("l", "x", "y"), configure=without_pre_vote)
    preset(net.nodes[MemberId("l")], [1] * 3 + [5] * 200, term=6)
    preset(net.nodes[MemberId("x")], [1] * 3 + [2] * 150 + [3] * 150, term=6)
    preset(net.nodes[MemberId("y")], [1], term=6)
    for member in ("l", "x", "y"):
        net.start(member)
    net.elect("l")
    net.run(1000)
    assert net.entries("x") == net.entries("l")
    rejections = [m for m in net.sent if isinstance(m, AppendResponse) and m.reject and m.from_ == "x"]
    assert len(rejections) <= 3


def test_5_3_a_leader_never_overwrites_or_deletes_its_own_entries() -> None:
    """§5.3, leader append-only: a leader never overwrites or deletes entries in its log."""
    solo = Solo(terms=[1, 1], term=1)
    solo.lead()
    solo.step(append(2, 2, 1, (Entry(term=1, index=3, data=b"other"),), leader=C))
    assert solo.role is Role.LEADER
    assert solo.terms() == [1, 1, 2]


def test_5_3_a_leader_retries_until_a_slow_follower_has_everything() -> None:
    """§5.3: if followers crash or run slowly, or packets are lost, the leader retries indefinitely."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.isolate("c")
    net.propose("a", *(b"%d" % i for i in range(20)))
    net.run(5000)
    assert net.state("b") == net.state("a")
    assert net.state("c") == []
    net.heal()
    net.run(3000)
    assert net.state("c") == net.state("a")


def test_5_3_every_single_lost_append_is_made_good() -> None:
    """§5.3: AppendEntries are retried even if the very last one of a burst was lost."""
    for lost in range(6):
        net = Network(voters("a", "b", "c"))
        net.elect("a")
        count = 0

        def drop(message: Message, lost: int = lost) -> bool:
            nonlocal count
            if isinstance(message, AppendRequest) and message.to == "b":
                count += 1
                return count == lost + 1
            return False

        net.drop = drop
        for i in range(4):
            net.propose("a", b"%d" % i)
        net.run(1000)
        assert net.state("b") == [b"0", b"1", b"2", b"3"]


# 5.4 Safety


@pytest.mark.parametrize(
    ("own", "last_index", "last_term", "granted"),
    [
        ([1], 1, 1, True),
        ([1], 1, 2, True),
        ([1, 1], 1, 1, False),
        ([1, 1], 1, 2, True),
        ([2], 2, 1, False),
        ([2, 2], 1, 1, False),
        ([], 0, 0, True),
    ],
)
def test_5_4_1_a_vote_goes_only_to_a_log_that_is_at_least_as_good(
    own: list[int], last_index: int, last_term: int, granted: bool
) -> None:
    """§5.4.1: the voter denies its vote if its own log is more up-to-date than that of the candidate."""
    solo = Solo(terms=own, term=2)
    (answer,) = of_kind(solo.step(vote_request(B, 3, last_index, last_term)), VoteResponse)
    assert answer.granted is granted


def test_5_4_1_a_vote_request_tells_about_the_candidates_log() -> None:
    """§5.4.1: the RequestVote RPC includes information about the candidate's log."""
    solo = Solo(terms=[1, 2, 2], term=2)
    assert {(m.last_index, m.last_term) for m in of_kind(solo.time_out(), VoteRequest)} == {(3, 2)}


@pytest.mark.parametrize(("acked", "commit"), [(1, 0), (2, 0), (3, 3)])
def test_5_4_2_only_entries_of_the_own_term_are_committed_by_counting(acked: int, commit: int) -> None:
    """§5.4.2: Raft never commits log entries from previous terms by counting replicas."""
    solo = Solo(terms=[1, 2], term=2)
    solo.lead()
    solo.step(ack(B, 3, acked))
    assert solo.raw.status().commit == commit


def test_5_4_2_figure_8_an_old_entry_on_a_majority_is_not_taken_for_committed() -> None:
    """§5.4.2, figure 8: an entry of term 2 on a majority can still be overwritten by S5, so S1 must not commit it."""
    names = ("s1", "s2", "s3", "s4", "s5")
    net = Network(voters(*names), configure=without_pre_vote)
    logs = {"s1": [1, 2], "s2": [1, 2], "s3": [1], "s4": [1], "s5": [1, 3]}
    for name, log in logs.items():
        preset(net.nodes[MemberId(name)], log, term=3)
        net.start(name)
    # (c) S1 leads term 4 and sends term 2's entry to S3; its own term's entry reaches nobody.
    net.drop = lambda m: isinstance(m, AppendRequest) and any(e.term == 4 for e in m.entries)
    net.isolate("s5")
    net.elect("s1")
    for name in ids("s2", "s3"):
        second = tuple(net.entries("s1")[1:2])
        net.deliver(AppendRequest(to=name, from_=S1, term=4, prev_index=1, prev_term=1, entries=second, commit=0))
    net.settle()
    assert [e.term for e in net.entries("s3")] == [1, 2]
    assert net.raw("s1").status().commit == 0
    # (d) S1 is gone; S5 wins with the votes of S3 and S4 and overwrites the entry of term 2.
    net.heal()
    net.crash("s1")
    net.crash("s2")
    net.raw("s5").campaign()
    net.settle()
    net.elect("s5")
    net.run(1000)
    assert [e.term for e in net.entries("s3")][:2] == [1, 3]
    assert net.state("s3") == net.state("s4") == net.state("s5")


def test_5_4_3_a_new_leader_has_all_committed_entries() -> None:
    """§5.4.3, leader completeness: every later leader stores what was committed."""
    for seed in range(10):
        net = Network(voters(*"abcde"), seed=seed)
        net.run_until(lambda net=net: bool(net.leaders()))  # type: ignore[misc]
        net.propose(net.leader(), b"kept")
        for _ in range(2):
            net.crash(net.leader())
            net.run_until(lambda net=net: bool(net.leaders()))  # type: ignore[misc]
            net.run(500)
            assert net.state(net.leader()) == [b"kept"]


# 5.5 Follower and candidate crashes


def test_5_5_a_request_that_comes_twice_does_no_harm() -> None:
    """§5.5: Raft RPCs are idempotent: a follower ignores entries that are already present in its log."""
    solo = Solo()
    request = append(1, 0, 0, tuple(log_of([1, 1])))
    longer = append(1, 0, 0, tuple(log_of([1, 1, 1])))
    answers = [of_kind(solo.step(once), AppendResponse) for once in (longer, request, request)]
    assert [m.index for answer in answers for m in answer] == [3, 2, 2]
    assert solo.terms() == [1, 1, 1]
    solo.step(heartbeat(1, commit=1), heartbeat(1, commit=1), request)
    assert [e.index for e in solo.committed] == [1]


def test_5_5_a_restarted_follower_catches_up() -> None:
    """§5.5: if the crashed server restarts, the RPCs will complete successfully."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.crash("b")
    net.propose("a", b"1", b"2")
    net.start("b")
    net.run(2000)
    assert net.state("b") == [b"1", b"2"]


# 5.6 Timing and availability


def test_5_6_a_steady_leader_is_kept_when_messages_are_fast() -> None:
    """§5.6: with broadcast time far below the election timeout Raft elects and maintains a steady leader."""
    net = Network(voters(*"abcde"))
    net.run_until(lambda: bool(net.leaders()))
    leader, term = net.leader(), net.raw(net.leader()).status().term
    net.run(60_000)
    assert net.leaders() == [leader]
    assert net.raw(leader).status().term == term


def test_5_6_a_majority_makes_progress_and_a_minority_does_not() -> None:
    """§5.6 and §5.1: five servers tolerate two failures; a minority commits nothing."""
    net = Network(voters(*"abcde"))
    net.elect("a")
    net.isolate("a", "b")
    net.propose("a", b"lost")
    net.run(6000)
    (winner,) = [name for name in net.leaders() if name in ids("c", "d", "e")]
    net.propose(winner, b"kept")
    assert net.state("a") == net.state("b") == []
    net.heal()
    net.run(3000)
    assert [net.state(name) for name in "abcde"] == [[b"kept"]] * 5


# 6 Cluster membership changes


def test_6_a_removed_server_does_not_disturb_the_others() -> None:
    """§6: servers disregard RequestVote RPCs when they believe a current leader exists."""
    net = Network(voters("a", "b", "c", "d"), configure=without_pre_vote_but_sticky)
    net.elect("a")
    net.isolate("d")
    net.raw("a").propose_conf_change(ConfChange(remove=ids("d")))
    net.settle()
    net.heal()
    term = net.raw("a").status().term
    # d never hears that it was removed, and stands for election again and again, in ever higher terms.
    net.run(20_000)
    assert net.raw("d").status().term > term
    assert net.leaders() == ["a"]
    assert net.raw("a").status().term == term


def without_pre_vote_but_sticky(config: RaftConfig) -> RaftConfig:
    return replace(config, pre_vote=False)


# 7 Log compaction


def test_7_a_follower_that_is_too_far_behind_gets_a_snapshot() -> None:
    """§7: the leader must occasionally send snapshots to followers that lag behind."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.isolate("c")
    net.propose("a", *(b"%d" % i for i in range(10)))
    net.nodes[A].disk.compact()
    net.propose("a", b"after")
    net.heal()
    net.run(3000)
    assert net.state("c") == net.state("a")
    assert any(isinstance(m, SnapshotOffer) for m in net.sent)
    assert net.nodes[C].disk.log.first_index() == net.nodes[A].disk.log.first_index()


def test_7_a_snapshot_of_a_prefix_does_not_remove_what_follows() -> None:
    """§7: with a snapshot that describes a prefix of its log, entries following the snapshot are still valid."""
    solo = Solo(terms=[1, 1, 1, 1], term=1)
    meta = SnapshotMeta(index=2, term=1, conf=voters("a", "b", "c"))
    (answer,) = of_kind(solo.step(SnapshotOffer(to=A, from_=B, term=1, snapshot=Snapshot(meta=meta))), AppendResponse)
    assert answer.index == 2
    assert solo.terms() == [1, 1, 1, 1]
    assert [e.index for e in solo.committed] == [1, 2]


def test_7_a_snapshot_replaces_a_log_that_conflicts_with_it() -> None:
    """§7: the follower discards its entire log; it is all superseded by the snapshot."""
    solo = Solo(terms=[1, 1, 1, 1], term=1)
    meta = SnapshotMeta(index=3, term=2, conf=voters("a", "b", "c", "d"))
    (answer,) = of_kind(solo.step(SnapshotOffer(to=A, from_=B, term=2, snapshot=Snapshot(meta=meta))), AppendResponse)
    assert answer.index == 3
    assert solo.log.first_index() == 4
    assert solo.terms() == []
    assert solo.raw.status().conf == meta.conf


# 8 Client interaction


def test_8_a_leader_commits_an_empty_entry_at_the_start_of_its_term() -> None:
    """§8: Raft handles this by having each leader commit a blank no-op entry into the log at the start of its term."""
    solo = Solo(terms=[1], term=1)
    solo.lead()
    solo.step(ack(B, 2, 2))
    assert [(e.term, e.data) for e in solo.committed] == [(1, b"1.1"), (2, b"")]


def test_8_a_leader_answers_a_read_only_after_a_majority_answered_its_heartbeat() -> None:
    """§8: a leader must check whether it has been deposed before processing a read-only request."""
    solo = Solo()
    solo.lead()
    solo.step(ack(B, 1, 1))
    solo.raw.read_index(b"r")
    ready = solo.raw.ready()
    assert ready.read_states == ()
    (beat,) = [m for m in ready.messages if isinstance(m, Heartbeat) and m.to == B]
    solo.raw.advance(ready)
    solo.raw.step(HeartbeatResponse(to=A, from_=B, term=1, context=beat.context))
    assert [(r.context, r.index) for r in solo.raw.ready().read_states] == [(b"r", 1)]


# Figure 2: what must be on stable storage before a server responds


def test_figure_2_term_and_vote_are_durable_before_the_vote_is_sent() -> None:
    """Figure 2: currentTerm and votedFor are updated on stable storage before responding to RPCs."""
    solo = Solo()
    solo.raw.step(vote_request(B, 1))
    ready = solo.raw.ready()
    assert ready.messages == ()
    assert ready.hard_state == HardState(term=1, vote=B, commit=0)
    assert ready.must_sync
    assert [type(m) for m in ready.messages_after_persist] == [VoteResponse]


def test_figure_2_entries_are_durable_before_they_are_acknowledged() -> None:
    """Figure 2: log entries are updated on stable storage before responding to RPCs."""
    solo = Solo()
    solo.raw.step(append(1, 0, 0, tuple(log_of([1])), commit=1))
    ready = solo.raw.ready()
    assert ready.messages == ()
    assert [e.index for e in ready.entries] == [1]
    assert ready.committed_entries == ()
    assert [type(m) for m in ready.messages_after_persist] == [AppendResponse]


def test_figure_2_a_leader_sends_before_its_own_disk_but_counts_itself_only_after() -> None:
    """Thesis §10.2.1: the leader may write to its own disk in parallel, but an entry it has not written doesn't count."""
    solo = Solo()
    solo.lead()
    solo.step(ack(B, 1, 1), ack(C, 1, 1))
    solo.raw.propose(b"x")
    assert {m.to for m in solo.persist() if isinstance(m, AppendRequest)} == {B, C}
    solo.raw.step(ack(B, 1, 2))
    assert solo.raw.status().commit == 1
    solo.finish()
    assert solo.raw.status().commit == 2


def test_figure_2_a_quorum_of_others_commits_without_the_leaders_disk_but_it_applies_only_what_it_holds() -> None:
    """Thesis §10.2.1: the entry may even be committed before the leader has written it; applying waits for the disk."""
    solo = Solo()
    solo.lead()
    solo.step(ack(B, 1, 1), ack(C, 1, 1))
    solo.raw.propose(b"x")
    solo.persist()
    solo.raw.step(ack(B, 1, 2))
    solo.raw.step(ack(C, 1, 2))
    assert solo.raw.status().commit == 2
    assert [e.data for e in solo.committed] == [b""]
    solo.finish()
    solo.drain()
    assert [e.data for e in solo.committed] == [b"", b"x"]


def test_figure_2_a_single_voter_commits_only_when_its_disk_holds_the_entry() -> None:
    """Figure 2: the leader's own stable storage counts as one of the majority, and as no more than its disk has."""
    solo = Solo("")
    solo.raw.campaign()
    solo.persist()
    assert solo.raw.status().role is Role.CANDIDATE
    solo.finish()
    assert solo.raw.status().role is Role.LEADER
    solo.drain()
    solo.raw.propose(b"x")
    solo.persist()
    solo.raw.propose(b"not written yet")
    assert solo.raw.status().commit == 1
    solo.finish()
    assert solo.raw.status().commit == 2
