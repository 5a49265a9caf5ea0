"""A test for each statement of sections 3.8, 3.10, 4.1 to 4.3, 6.4 and 9.6 of "Consensus: Bridging Theory and Practice"
(Ongaro, 2014); each cites its section."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hivenode.consensus import (
    AppendRequest,
    ConfChange,
    ConfState,
    DropReason,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InvalidConfChangeError,
    MemberId,
    Message,
    ProposalDropped,
    RaftConfig,
    ReadDropped,
    ReadIndexRequest,
    ReadIndexResponse,
    Role,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    apply_change,
    decode_conf_change,
    encode_conf_change,
)
from tests.raft.network import Network, ids, voters
from tests.raft.solo import A, B, C, Solo, ack, grant, heartbeat, vote_request

# 3.8 Persisted state and server restarts


def test_3_8_a_member_never_votes_twice_in_a_term_across_a_restart() -> None:
    """§3.8: servers persist their current term and vote; this is necessary to prevent voting twice in one term."""
    solo = Solo()
    solo.step(vote_request(B, 1))
    solo.restart()
    (answer,) = solo.step(vote_request(C, 1))
    assert isinstance(answer, VoteResponse)
    assert not answer.granted


def test_3_8_a_vote_that_was_not_written_was_not_sent() -> None:
    """§3.8: a server persists its vote before it answers, so a crash before that leaves nobody who counts it."""
    solo = Solo()
    solo.raw.step(vote_request(B, 1))
    ready = solo.raw.ready()
    assert not any(isinstance(m, VoteResponse) for m in ready.messages)
    solo.restart()
    (answer,) = solo.step(vote_request(C, 1))
    assert isinstance(answer, VoteResponse)
    assert answer.granted


def test_3_8_a_candidate_asks_for_votes_only_when_its_term_and_vote_are_written() -> None:
    """§3.8: answers to a candidate's earlier life must not elect a later one that forgot its term."""
    solo = Solo()
    solo.raw.campaign()
    ready = solo.raw.ready()
    assert ready.must_sync
    assert not any(isinstance(m, VoteRequest) for m in ready.messages)
    assert {m.to for m in ready.messages_after_persist if isinstance(m, VoteRequest)} == {B, C}


def test_3_8_a_restarted_member_keeps_term_vote_log_and_applies_from_where_its_state_is() -> None:
    """§3.8: a server that restarts recovers its persistent state; the commit index is recomputed or read back."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.propose("a", b"1", b"2")
    before = net.raw("b").status()
    net.restart("b")
    after = net.raw("b").status()
    assert (after.term, after.commit, after.applied, after.conf) == (
        before.term,
        before.commit,
        before.applied,
        before.conf,
    )
    net.run(3000)
    assert net.state("b") == [b"1", b"2"]


def test_3_8_all_members_may_crash_at_once() -> None:
    """§3.8: the cluster survives the restart of all servers."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.propose("a", b"kept")
    for name in "abc":
        net.crash(name)
    for name in "abc":
        net.start(name)
    net.run_until(lambda: bool(net.leaders()))
    net.run(1000)
    assert [net.state(name) for name in "abc"] == [[b"kept"]] * 3


def test_3_8_a_commit_index_that_was_not_synced_is_made_good_by_the_applied_index() -> None:
    """§3.8: the commit index may be volatile; what a server applied was committed."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.propose("a", b"1")
    node = net.nodes[B]
    net.crash("b")
    node.disk.log.set_hard_state(replace(node.disk.log.initial_state()[0], commit=0))
    net.start("b")
    assert net.raw("b").status().commit == node.disk.applied == 2


# 3.10 Leadership transfer


def test_3_10_the_target_leads_at_once_and_has_everything() -> None:
    """§3.10: the prior leader brings the target's log up to date and sends TimeoutNow; stickiness does not hinder it."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.isolate("b")
    net.propose("a", b"1", b"2")
    net.heal()
    net.raw("a").transfer_leader(B)
    took = net.run_until(lambda: net.leaders() == ["b"], 1000)
    assert took < 500
    net.run(200)
    assert net.state("b") == [b"1", b"2"]


def test_3_10_proposals_are_refused_while_leadership_is_transferred() -> None:
    """§3.10: the prior leader stops accepting new client requests."""
    solo = Solo()
    solo.lead()
    solo.raw.transfer_leader(B)
    with pytest.raises(ProposalDropped) as refusal:
        solo.raw.propose(b"x")
    assert refusal.value.reason is DropReason.TRANSFER


def test_3_10_a_transfer_that_takes_an_election_timeout_is_given_up() -> None:
    """§3.10: if leadership transfer does not complete after about an election timeout, the prior leader resumes."""
    solo = Solo()
    solo.lead()
    solo.raw.transfer_leader(B)
    solo.tick(1000)
    assert solo.raw.propose(b"x") == 2


def test_3_10_a_target_is_told_to_stand_only_when_it_has_the_whole_log() -> None:
    """§3.10: the target must have all committed entries before its election starts."""
    solo = Solo()
    solo.lead()
    solo.step(ack(B, 1, 1))
    solo.raw.propose(b"x")
    solo.raw.transfer_leader(B)
    assert not [m for m in solo.drain() if isinstance(m, TimeoutNow)]
    assert [m.to for m in solo.step(ack(B, 1, 2)) if isinstance(m, TimeoutNow)] == [B]


@pytest.mark.parametrize("target", ["a", "l", "stranger"])
def test_3_10_leadership_goes_to_another_voter_only(target: str) -> None:
    """§3.10: the target must be able to win an election."""
    solo = Solo(conf=ConfState(voters=frozenset(ids("a", "b")), learners=frozenset(ids("l"))))
    solo.lead()
    with pytest.raises(ProposalDropped) as refusal:
        solo.raw.transfer_leader(MemberId(target))
    assert refusal.value.reason is DropReason.NOT_A_VOTER


# 4.1 Safety of membership changes


def change(voters: str = "", learners: str = "", remove: str = "") -> ConfChange:
    return ConfChange(add_voters=ids(*voters), add_learners=ids(*learners), remove=ids(*remove))


def test_4_1_one_change_at_a_time() -> None:
    """§4.1: a server must not start another change before the last one's entry has committed (here: is applied)."""
    solo = Solo()
    solo.lead()
    solo.step(ack(B, 1, 1), ack(C, 1, 1))
    solo.raw.propose_conf_change(change(voters="d"))
    with pytest.raises(ProposalDropped) as refusal:
        solo.raw.propose_conf_change(change(voters="e"))
    assert refusal.value.reason is DropReason.CHANGE_PENDING


def test_4_1_a_new_leader_changes_nothing_before_it_has_committed_in_its_own_term() -> None:
    """§4.1, and the bug report of 2015 on single-server changes: a leader first commits an entry of its own term."""
    solo = Solo(terms=[1, 1], term=1)
    solo.lead()
    with pytest.raises(ProposalDropped) as refusal:
        solo.raw.propose_conf_change(change(voters="d"))
    assert refusal.value.reason is DropReason.CHANGE_PENDING
    solo.step(ack(B, 2, 3))
    solo.raw.propose_conf_change(change(voters="d"))


def test_4_1_a_configuration_takes_effect_where_its_entry_is_applied() -> None:
    """§4.1: here, as in etcd's raft, at applying, so that a configuration never has to be taken back."""
    solo = Solo("")
    solo.lead()
    solo.raw.propose_conf_change(change(voters="b"))
    solo.persist()
    assert solo.raw.status().conf.voters == {A}
    solo.finish()
    solo.drain()
    assert solo.raw.status().conf.voters == {A, B}


@pytest.mark.parametrize("bad", [change(remove="abc"), change(voters="a", remove="a"), ConfChange()])
def test_4_1_a_change_that_does_not_fit_is_refused_before_it_is_appended(bad: ConfChange) -> None:
    """§4.1: what is in the log must be applicable everywhere."""
    solo = Solo()
    solo.lead()
    solo.step(ack(B, 1, 1))
    with pytest.raises(ProposalDropped) as refusal:
        solo.raw.propose_conf_change(bad)
    assert refusal.value.reason is DropReason.INVALID_CHANGE


# 4.2 Availability


def test_4_2_1_a_new_server_catches_up_as_learner_and_is_promoted() -> None:
    """§4.2.1: a new server joins as a non-voting member, and counts only once it has caught up."""
    net = Network(voters("a", "b", "c"), others=ids("d"))
    net.elect("a")
    net.propose("a", b"1", b"2")
    net.raw("a").propose_conf_change(change(learners="d"))
    net.run(1000)
    assert net.state("d") == [b"1", b"2"]
    net.isolate("b", "c")
    net.propose("a", b"3")
    assert net.raw("a").status().commit < net.raw("a").status().last_index, "a learner's copy does not count"
    net.heal()
    net.run(3000)
    leader = net.leader()
    net.raw(leader).propose_conf_change(change(voters="d"))
    net.run(1000)
    assert net.raw("d").status().conf.voters == set(ids("a", "b", "c", "d"))


def test_4_2_1_a_learner_never_stands_for_election() -> None:
    """§4.2.1: non-voting members take no part in elections of their own."""
    solo = Solo(conf=ConfState(voters=frozenset({B, C}), learners=frozenset({A})), pre_vote=True)
    solo.step(heartbeat(1))
    for _ in range(20):
        assert solo.tick(2000) == []
    solo.raw.campaign()
    solo.step(TimeoutNow(to=A, from_=B, term=1))
    assert solo.role is Role.FOLLOWER
    assert solo.raw.status().leader is None


def test_4_2_1_a_learners_vote_is_neither_asked_for_nor_counted() -> None:
    """§4.2.1: non-voting members are not counted towards majorities."""
    solo = Solo(conf=ConfState(voters=frozenset({A, B, C}), learners=frozenset(ids("l"))))
    requests = [m for m in solo.time_out() if isinstance(m, VoteRequest)]
    assert {m.to for m in requests} == {B, C}
    solo.step(grant(replace(requests[0], to=MemberId("l"))))
    assert solo.role is Role.CANDIDATE


def test_4_2_1_a_member_that_does_not_know_yet_that_it_votes_still_answers() -> None:
    """§4.1: servers answer requests from servers that are not part of their configuration; or a hive could be stuck.

    A lone voter promotes its learner, commits that by itself, and crashes before the learner hears of it. From then on
    it needs the learner's vote.
    """
    net = Network(ConfState(voters=frozenset({A}), learners=frozenset({B})))
    net.elect("a")
    net.run(500)
    net.isolate("b")
    net.raw("a").propose_conf_change(change(voters="b"))
    net.settle()
    assert net.raw("a").status().conf.voters == {A, B}
    net.crash("a")
    net.heal()
    net.start("a")
    net.run_until(lambda: net.leaders() == ["a"])
    net.run(500)
    assert net.raw("b").status().conf.voters == {A, B}


def test_4_2_2_a_leader_that_is_removed_leads_until_that_is_committed_and_then_steps_down() -> None:
    """§4.2.2: a leader that is not part of C-new steps down once the entry is committed."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.raw("a").propose_conf_change(change(remove="a"))
    net.settle()
    assert net.role("a") is Role.FOLLOWER
    net.run(5000)
    assert net.leader() in ids("b", "c")
    assert net.raw(net.leader()).status().conf.voters == {B, C}
    assert Role.PRE_CANDIDATE not in net.nodes[A].roles[-1:]
    assert net.raw("a").next_deadline() > net.now_ms + 10**9, "who is out never stands"


def test_4_2_2_a_leader_may_manage_a_cluster_that_does_not_include_it_in_a_joint_change() -> None:
    """§4.2.2 and §4.3: the leader replicates entries of a configuration that it is leaving."""
    net = Network(voters("a", "b", "c"), others=ids("d"))
    net.elect("a")
    net.raw("a").propose_conf_change(change(voters="d", remove="a"))
    net.run(5000)
    assert net.raw(net.leader()).status().conf == voters("b", "c", "d")
    assert net.role("a") is not Role.LEADER


def test_4_2_2_a_removed_leader_whose_last_words_were_lost_does_not_hold_the_others_up() -> None:
    """§4.2.2: the others learn from its answer to a vote request that its removal is committed.

    Its own log is longer than theirs, so it cannot vote for them, and it never leads again.
    """
    for pre_vote in (True, False):
        net = Network(voters("a", "b"), configure=lambda config, on=pre_vote: replace(config, pre_vote=on))  # type: ignore[misc]
        net.elect("a")
        index = net.raw("a").propose_conf_change(change(remove="a"))
        net.drop = lambda m: isinstance(m, AppendRequest) and (m.commit >= index or m.prev_index >= index)  # noqa: B023
        for _ in range(3):
            net.handle(A)
            net.wire, batch = [], net.wire
            for message in batch:
                net.deliver(message)
            net.handle(B)
            if net.role("a") is Role.LEADER:
                net.raw("a").propose(b"more")
        net.settle()
        assert net.role("a") is Role.FOLLOWER
        assert net.raw("a").status().last_index > net.raw("b").status().last_index
        assert net.raw("b").status().conf.voters == {A, B}
        net.heal()
        net.run_until(lambda: net.leaders() == ["b"])  # noqa: B023
        net.run(100)
        assert net.raw("b").status().conf.voters == {B}


def test_4_2_3_a_voter_with_a_leader_ignores_candidates_and_keeps_its_term() -> None:
    """§4.2.3: if a server receives a RequestVote within the minimum election timeout of hearing from a current leader,
    it does not update its term or grant its vote."""
    solo = Solo(check_quorum=True)
    solo.step(heartbeat(1))
    solo.tick(999)
    assert solo.step(vote_request(C, 5)) == []
    assert solo.term == 1
    solo.tick(1)
    (answer,) = solo.step(vote_request(C, 5))
    assert isinstance(answer, VoteResponse)
    assert answer.granted


def test_4_2_3_an_election_that_the_leader_asked_for_is_not_ignored() -> None:
    """§4.2.3 and §3.10: a special flag in the request says that the leader permits the disruption."""
    solo = Solo(check_quorum=True)
    solo.step(heartbeat(1))
    (answer,) = solo.step(replace(vote_request(C, 2), transfer=True))
    assert isinstance(answer, VoteResponse)
    assert answer.granted


def test_4_2_3_a_lost_leader_ends_the_own_lease_at_once_and_no_others() -> None:
    """§4.2.3: the lease is an observation of one's own; who saw the leader's process go need not wait it out."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.crash("a")
    net.raw("b").leader_lost()
    assert net.raw("b").status().leader is None
    net.run(200)
    assert net.leaders() == [], "c has not seen it, and still sticks to its leader"
    net.raw("c").leader_lost()
    took = net.run_until(lambda: bool(net.leaders()), 400)
    assert took <= 200


def test_4_2_3_a_leader_that_is_heard_again_is_followed_again() -> None:
    """§4.2.3: a reset connection to a living leader must not cost an election."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.raw("b").leader_lost()
    net.run(2000)
    assert net.leaders() == ["a"]
    assert net.raw("b").status().leader == "a"
    assert net.raw("a").status().term == 1


# 4.3 Arbitrary changes by joint consensus


def test_4_3_entries_need_both_majorities_while_the_configuration_is_joint() -> None:
    """§4.3: agreement requires separate majorities from both the old and new configurations."""
    joint = ConfState(voters=frozenset(ids("a", "b", "c")), voters_outgoing=frozenset(ids("a", "d", "e")))
    solo = Solo(conf=joint)
    solo.lead()
    solo.step(ack(B, 1, 1), ack(C, 1, 1))
    assert solo.raw.status().commit == 0
    solo.step(ack(MemberId("d"), 1, 1))
    assert solo.raw.status().commit == 1


def test_4_3_elections_need_both_majorities_while_the_configuration_is_joint() -> None:
    """§4.3: this holds for elections, too."""
    joint = ConfState(voters=frozenset(ids("a", "b", "c")), voters_outgoing=frozenset(ids("d", "e", "f")))
    solo = Solo(conf=joint)
    requests = {m.to: m for m in solo.time_out() if isinstance(m, VoteRequest)}
    solo.step(*(grant(requests[name]) for name in ids("b", "c", "d")))
    assert solo.role is Role.CANDIDATE
    solo.step(grant(requests[MemberId("e")]))
    assert solo.raw.status().role is Role.LEADER


def test_4_3_a_change_of_several_is_joint_and_left_by_itself() -> None:
    """§4.3: once C-old,new has been committed, it is safe for the leader to create an entry describing C-new."""
    net = Network(voters("a"), others=ids("b", "c"))
    net.elect("a")
    index = net.raw("a").propose_conf_change(change(voters="bc"))
    net.run(1000)
    changes = [e for e in net.entries("a") if e.kind is EntryKind.CONF_CHANGE]
    assert [e.index for e in changes] == [index, index + 1]
    assert decode_conf_change(changes[1].data).leaves_joint
    for name in "abc":
        assert net.raw(name).status().conf == voters("a", "b", "c")


def test_4_3_a_new_leader_leaves_the_joint_configuration_that_it_finds() -> None:
    """§4.3: if the leader fails in the joint configuration, another one ends the change."""
    net = Network(voters("a", "b", "c"), others=ids("d", "e"))
    net.elect("a")
    net.raw("a").propose_conf_change(change(voters="de", remove="b"))
    net.drop = lambda m: (
        isinstance(m, AppendRequest)
        and any(e.kind is EntryKind.CONF_CHANGE and decode_conf_change(e.data).leaves_joint for e in m.entries)
    )
    net.run(400)
    assert net.raw("a").status().conf.is_joint
    net.crash("a")
    net.heal()
    net.run(10_000)
    assert net.raw(net.leader()).status().conf == voters("a", "c", "d", "e")


def test_4_3_an_outgoing_voter_becomes_a_learner_only_when_the_joint_configuration_is_left() -> None:
    """§4.3: while joint, it still votes in the old half."""
    joint = apply_change(voters("a", "b", "c"), change(voters="d", learners="c"))
    assert joint == ConfState(
        voters=frozenset(ids("a", "b", "d")),
        voters_outgoing=frozenset(ids("a", "b", "c")),
        learners_next=frozenset(ids("c")),
        auto_leave=True,
    )
    assert apply_change(joint, ConfChange()) == ConfState(
        voters=frozenset(ids("a", "b", "d")), learners=frozenset(ids("c"))
    )
    with pytest.raises(InvalidConfChangeError):
        apply_change(joint, change(voters="e"))


def test_4_3_a_change_survives_encoding() -> None:
    """§4.3: a configuration change is an entry like any other."""
    whole = ConfChange(add_voters=ids("v.1", "w.1"), add_learners=ids("l.1"), remove=ids("r.1"), context=b"why")
    assert decode_conf_change(encode_conf_change(whole)) == whole
    with pytest.raises(ValueError, match="configuration change"):
        decode_conf_change(encode_conf_change(whole).replace(b"\x01", b"\x02", 1))


# 6.2, 6.4 Finding out that one is deposed; processing read-only queries


def test_6_2_a_leader_without_a_quorum_steps_down() -> None:
    """§6.2: a leader steps down if an election timeout elapses without a successful round of heartbeats to a majority."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.isolate("a")
    took = net.run_until(lambda: net.role("a") is not Role.LEADER, 5000)
    assert took <= 2100


def test_6_4_a_read_waits_until_an_entry_of_the_own_term_is_committed() -> None:
    """§6.4, step 1: if the leader has not yet committed an entry from its current term, it waits until it has."""
    solo = Solo()
    solo.lead()
    solo.raw.read_index(b"r")
    assert not any(isinstance(m, Heartbeat) and m.context for m in solo.drain())
    assert any(isinstance(m, Heartbeat) and m.context for m in solo.step(ack(B, 1, 1)))


def confirm(beat: Message) -> HeartbeatResponse:
    assert isinstance(beat, Heartbeat)
    return HeartbeatResponse(to=beat.from_, from_=beat.to, term=beat.term, context=beat.context)


def test_6_4_waiting_reads_share_one_round_and_a_round_in_flight_takes_no_new_one() -> None:
    """§6.4: the leader may amortize the cost by using a single round of heartbeats for any number of queries."""
    solo = Solo()
    solo.lead()
    solo.step(ack(B, 1, 1), ack(C, 1, 1))
    solo.raw.read_index(b"1")
    solo.raw.read_index(b"2")
    first = [m for m in solo.drain() if isinstance(m, Heartbeat)]
    assert len(first) == 2
    solo.raw.read_index(b"3")
    assert not solo.raw.has_ready(), "the round in flight began before this read"
    solo.raw.step(confirm(first[0]))
    ready = solo.raw.ready()
    assert [r.context for r in ready.read_states] == [b"1", b"2"]
    (second,) = [m for m in ready.messages if isinstance(m, Heartbeat)]
    assert second.to == first[0].to, "who answered first is asked alone: with the leader that is a quorum"
    solo.raw.advance(ready)
    solo.raw.step(confirm(first[1]))
    assert not solo.raw.has_ready(), "a late answer to an old round confirms nothing"
    solo.raw.step(confirm(second))
    assert [r.context for r in solo.raw.ready().read_states] == [b"3"]


def test_6_4_a_lost_round_is_repeated_with_the_heartbeats() -> None:
    """§6.4, step 3: the leader needs acknowledgments from a majority, whichever heartbeat brings them."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.drop = lambda m: isinstance(m, Heartbeat)
    net.raw("a").read_index(b"r")
    net.settle()
    assert net.nodes[A].read_states == []
    net.heal()
    net.run(300)
    assert [r.context for r in net.nodes[A].read_states] == [b"r"]


def test_6_4_a_deposed_leader_answers_no_read() -> None:
    """§6.4, step 3: the leader must make sure it hasn't been superseded by a leader of which it is unaware."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.isolate("a")
    net.raw("b").leader_lost()
    net.raw("c").leader_lost()
    net.run_until(lambda: len(net.leaders()) == 2)
    assert net.role("a") is Role.LEADER, "it does not know yet"
    net.raw("a").read_index(b"r")
    net.run(500)
    net.heal()
    net.run(3000)
    assert net.nodes[A].read_states == []


def test_6_4_a_follower_asks_the_leader_for_the_index_of_its_read() -> None:
    """§6.4: the follower asks the leader for a current readIndex, then serves the query from its own state machine."""
    net = Network(ConfState(voters=frozenset(ids("a", "b", "c")), learners=frozenset(ids("l"))))
    net.elect("a")
    net.propose("a", b"1")
    for name in ("b", "l"):
        net.raw(name).read_index(b"r")
        net.settle()
        (read,) = net.nodes[MemberId(name)].read_states
        assert (read.context, read.index) == (b"r", 2)


def test_6_4_a_round_that_asked_somebody_silent_is_confirmed_by_another_at_the_next_heartbeat() -> None:
    """§6.4: any majority confirms; who answered the last round is asked first, and all with the next heartbeats."""
    solo = Solo()
    solo.lead()
    solo.step(ack(B, 1, 1), ack(C, 1, 1))
    solo.raw.read_index(b"1")
    solo.step(*(confirm(m) for m in solo.drain() if isinstance(m, Heartbeat) and m.to == B))
    solo.raw.read_index(b"2")
    assert [m.to for m in solo.drain() if isinstance(m, Heartbeat)] == [B]
    beats = [m for m in solo.tick(150) if isinstance(m, Heartbeat)]
    assert [m.to for m in beats] == [B, C]
    solo.raw.step(confirm(beats[1]))
    assert [r.context for r in solo.raw.ready().read_states] == [b"2"]


def test_6_4_a_question_from_one_who_is_a_quorum_with_the_leader_needs_no_round() -> None:
    """§6.4: what confirms a leader is a majority in its term since the read came; asker and leader of three are one."""
    solo = Solo("bc")
    solo.lead()
    solo.step(ack(B, 1, 1))
    (answer,) = solo.step(ReadIndexRequest(to=A, from_=B, term=1, context=b"r"))
    assert answer == ReadIndexResponse(to=B, from_=A, term=1, context=b"r", index=1)


def test_6_4_a_question_from_one_who_is_no_quorum_with_the_leader_waits_for_a_round() -> None:
    """§6.4: of five voters, asker and leader are not enough; a third has to confirm."""
    solo = Solo("bcde")
    solo.lead()
    for voter in (B, C):
        solo.step(ack(voter, 1, 1))
    sent = solo.step(ReadIndexRequest(to=A, from_=B, term=1, context=b"r"))
    assert {m.to for m in sent if isinstance(m, Heartbeat)} == {B, C, *ids("d", "e")}
    assert not any(isinstance(m, ReadIndexResponse) for m in sent)


def test_6_4_a_read_without_a_leader_is_refused() -> None:
    """§6.4: there is nobody to ask."""
    with pytest.raises(ReadDropped) as refusal:
        Solo().raw.read_index(b"r")
    assert refusal.value.reason is DropReason.NO_LEADER


def test_6_4_reads_that_wait_are_bounded() -> None:
    """§6.4: a leader that cannot confirm reads takes only so many."""
    solo = Solo(config=RaftConfig(member_id=A, pre_vote=False, max_pending_reads=3))
    solo.lead()
    for at in range(3):
        solo.raw.read_index(b"%d" % at)
    with pytest.raises(ReadDropped) as refusal:
        solo.raw.read_index(b"more")
    assert refusal.value.reason is DropReason.TOO_MANY_READS
    solo.step(ReadIndexRequest(to=A, from_=B, term=1, context=b"more"))


def test_6_4_a_lone_voter_reads_at_once() -> None:
    """§6.4: it is its own majority."""
    solo = Solo("")
    solo.lead()
    solo.raw.read_index(b"r")
    assert [(r.context, r.index) for r in solo.raw.ready().read_states] == [(b"r", 1)]


# 9.6 Preventing disruptions when a server rejoins the cluster


def test_9_6_a_pre_candidate_changes_neither_term_nor_vote() -> None:
    """§9.6: a candidate only increments its term if it first learns from a majority that they would vote for it."""
    solo = Solo(pre_vote=True)
    for _ in range(5):
        requests = [m for m in solo.time_out() if isinstance(m, VoteRequest)]
        assert {(m.to, m.term, m.pre_vote) for m in requests} == {(B, 1, True), (C, 1, True)}
    assert solo.hard_state == HardState()
    solo.step(grant(requests[0]))
    assert (solo.role, solo.term) == (Role.CANDIDATE, 1)


def test_9_6_a_pre_vote_is_given_without_being_recorded() -> None:
    """§9.6: a pre-vote commits the voter to nothing, so it may be given to several candidates."""
    solo = Solo(pre_vote=True, check_quorum=True)
    for who in (B, C):
        (answer,) = solo.step(vote_request(who, 1, pre_vote=True))
        assert isinstance(answer, VoteResponse)
        assert (answer.granted, answer.term, answer.pre_vote) == (True, 1, True)
    assert solo.hard_state == HardState()


@pytest.mark.parametrize("reason", ["worse log", "leader heard"])
def test_9_6_a_pre_vote_is_refused_as_a_vote_would_be(reason: str) -> None:
    """§9.6: the log must be good enough, and the voter must not have heard a leader for a baseline election timeout."""
    solo = Solo(pre_vote=True, check_quorum=True, terms=[1], term=1)
    if reason == "worse log":
        (answer,) = solo.step(vote_request(B, 2, 0, 0, pre_vote=True))
        assert isinstance(answer, VoteResponse)
        assert not answer.granted
    else:
        solo.step(heartbeat(1))
        assert solo.step(vote_request(C, 2, 1, 1, pre_vote=True)) == []


def test_9_6_a_server_that_returns_from_a_partition_disturbs_nobody() -> None:
    """§9.6: a partitioned server's term does not grow, so its return forces no leader to step down."""
    net = Network(voters("a", "b", "c"))
    net.elect("a")
    net.isolate("c")
    net.run(30_000)
    assert net.raw("c").status().term == 1
    net.heal()
    net.run(5000)
    assert net.leaders() == ["a"]
    assert net.raw("a").status().term == 1


def test_9_6_an_old_pre_vote_does_not_count_in_a_later_one() -> None:
    """§9.6: answers belong to the election that asked for them."""
    solo = Solo(pre_vote=True)
    old = [m for m in solo.time_out() if isinstance(m, VoteRequest)]
    solo.step(heartbeat(1))
    solo.time_out()
    solo.step(grant(old[0]))
    assert solo.role is Role.PRE_CANDIDATE
    assert solo.term == 1


def test_9_6_a_pre_candidate_that_is_behind_learns_the_later_term() -> None:
    """§9.6: a refused pre-candidate with a good log but an old term is told, or nobody could ever be elected."""
    net = Network(voters("a", "b"))
    net.crash("b")
    net.nodes[B].disk.log.set_hard_state(HardState(term=9))
    net.nodes[A].disk.log.append([Entry(term=1, index=1)])
    net.nodes[A].disk.log.set_hard_state(HardState(term=1))
    net.restart("a")
    net.start("b")
    net.run_until(lambda: net.leaders() == ["a"])
    assert net.raw("a").status().term == 10
