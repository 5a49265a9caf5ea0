"""Elections: pre-vote, vote, and who may have one (paper §5.2, §5.4.1; thesis §4.2.3, §9.6).

Rules:
- A vote is given once a term, to a candidate whose log is at least as good, and the answer waits until it is durable.
- A voter that heard its leader within the shortest election timeout ignores candidates, unless the leader sent them.
- The candidate's configuration says whose votes count. A member answers whatever it thinks itself to be: the entry that
  made it a voter may not have reached it yet, and without its answer the hive could be stuck for ever. The vote of one
  that is a learner in the candidate's configuration is neither asked for nor counted.
- Requests and answers name the last committed entry. A candidate that learns so of a change of its configuration gives
  up, because it counted by the old one.
- A request for real votes waits for the candidate's own term and vote: a candidate that forgot both in a crash must not
  be elected by answers to its earlier life, which may have had a longer log.
"""

from __future__ import annotations

from hivenode.consensus.config import Role
from hivenode.consensus.messages import VoteRequest, VoteResponse
from hivenode.consensus.quorum import VoteResult, vote_result
from hivenode.consensus.state import RaftState


def campaign(state: RaftState, *, transfer: bool = False) -> None:
    """Stands for election if this member may; starts with a pre-vote unless the leader itself asked for it."""
    if state.is_leader:
        return
    # A change that is committed but not applied may say that this member is a voter no more.
    if not state.can_campaign or state.log.has_unapplied_conf_change():
        state.reset_election_timer()
        return
    if state.config.pre_vote and not transfer:
        state.become_pre_candidate()
        state.votes[state.me] = True
        if not _tally(state):
            _ask(state, pre_vote=True, transfer=False)
    else:
        _stand(state, transfer=transfer)


def _stand(state: RaftState, *, transfer: bool) -> None:
    state.become_candidate()
    _ask(state, pre_vote=False, transfer=transfer)


def _ask(state: RaftState, *, pre_vote: bool, transfer: bool) -> None:
    say = state.outbox.append if pre_vote else state.say_when_durable
    commit, commit_term = state.log.last_committed()
    for member in sorted((state.conf.voters | state.conf.voters_outgoing) - {state.me}):
        say(
            VoteRequest(
                to=member,
                from_=state.me,
                term=state.term + 1 if pre_vote else state.term,
                pre_vote=pre_vote,
                last_index=state.log.last_index(),
                last_term=state.log.last_term(),
                transfer=transfer,
                commit=commit,
                commit_term=commit_term,
            )
        )


def own_vote_is_durable(state: RaftState) -> None:
    """A candidate's vote for itself is on disk: from here on it counts."""
    if state.role is Role.CANDIDATE and state.durable_vote == (state.term, state.me):
        state.votes[state.me] = True
        _tally(state)


def _tally(state: RaftState) -> bool:
    """Acts on the votes so far; returns whether they decided."""
    match vote_result(state.conf, state.votes):
        case VoteResult.WON if state.role is Role.PRE_CANDIDATE:
            _stand(state, transfer=False)
        case VoteResult.WON if state.me in state.votes:
            state.become_leader()
        case VoteResult.LOST:
            # The higher term, if there is one, came with the refusal; this one just waits for its next turn.
            state.become_follower(state.term, None)
        case _:
            return False
    return True


def handle_vote_response(state: RaftState, message: VoteResponse) -> None:
    """Counts a vote or a pre-vote, if it belongs to the election that is going on."""
    _learn_commit(state, message)
    wanted = Role.PRE_CANDIDATE if message.pre_vote else Role.CANDIDATE
    if state.role is not wanted or not state.conf.is_voter(message.from_):
        return
    state.votes.setdefault(message.from_, message.granted)
    _tally(state)


def _learn_commit(state: RaftState, message: VoteRequest | VoteResponse) -> None:
    """Takes over what another knows to be committed, if this log has that entry (leader completeness, log matching)."""
    log = state.log
    if state.is_leader or message.commit <= log.committed or not log.matches(message.commit, message.commit_term):
        return
    log.commit_to(message.commit)
    if state.role is not Role.FOLLOWER and log.has_unapplied_conf_change():
        state.become_follower(state.term, None)


def answer(state: RaftState, request: VoteRequest, *, granted: bool) -> None:
    """Answers a candidate, as soon as what the answer rests on is durable."""
    commit, commit_term = state.log.last_committed()
    state.say_when_durable(
        VoteResponse(
            to=request.from_,
            from_=state.me,
            term=request.term if granted else state.term,
            pre_vote=request.pre_vote,
            granted=granted,
            commit=commit,
            commit_term=commit_term,
        )
    )


def handle_vote_request(state: RaftState, message: VoteRequest) -> None:
    """Answers a candidate of this term, or a pre-candidate of this or a later one."""
    _learn_commit(state, message)
    free = (
        state.vote == message.from_
        or (state.vote is None and state.leader is None)
        or (message.pre_vote and message.term > state.term)
    )
    granted = free and state.log.is_up_to_date(message.last_index, message.last_term)
    answer(state, message, granted=granted)
    if granted and not message.pre_vote:
        state.vote = message.from_
        state.reset_election_timer()
