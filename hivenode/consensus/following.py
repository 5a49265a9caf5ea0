"""What a follower does with what its leader sends: entries, heartbeats, snapshots (paper §5.3, §7).

Rules:
- An append that fits is answered with the index up to which the logs now agree, once that is durable.
- An append that does not fit is answered with a hint that skips whole terms, so that repair takes a round a term.
- A committed entry is never rewritten: an append that would is dropped and counted, and so is a commit index beyond the
  log's end. Both mean that some disk forgot or some member lied.
- A snapshot that the log already covers only moves the commit index.
- A newcomer has no configuration, and entries that change one mean nothing without it. So it refuses even the append
  that follows index 0, which nobody else would, and thereby asks for a snapshot, be it the founding one at index 0, which it
  takes only as long as its log is empty.
  A log that begins with a change of the configuration founds itself from nothing: that one a newcomer takes whole.
"""

from __future__ import annotations

from hivenode.consensus.messages import (
    AppendRequest,
    AppendResponse,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    SnapshotOffer,
)
from hivenode.consensus.state import RaftState


def handle_append(state: RaftState, message: AppendRequest) -> None:
    """Takes a leader's entries, or says where to look for the place at which the logs part."""
    log = state.log
    if message.prev_index < log.committed:
        _accept(state, message, log.committed)
        return
    if _needs_snapshot(state, message) or not log.matches(message.prev_index, message.prev_term):
        _reject(state, message)
        return
    conflict = log.conflict_index(message.entries)
    if conflict:
        if conflict <= log.committed:
            state.conflicts_refused += 1
            return
        log.append(message.entries[conflict - message.prev_index - 1 :])
    last = message.prev_index + len(message.entries)
    log.commit_to(min(message.commit, last))
    _accept(state, message, last)


def _needs_snapshot(state: RaftState, message: AppendRequest) -> bool:
    """Whether this member has neither a configuration nor a log that gives it one, nor is just being given that."""
    if state.conf.members() or state.log.last_index() > 0:
        return False
    founds = message.prev_index == 0 and message.entries and message.entries[0].kind is EntryKind.CONF_CHANGE
    return not founds


def _accept(state: RaftState, message: AppendRequest | SnapshotOffer, index: int) -> None:
    state.say_when_durable(AppendResponse(to=message.from_, from_=state.me, term=state.term, index=index))


def _reject(state: RaftState, message: AppendRequest) -> None:
    hint = min(message.prev_index, state.log.last_index())
    hint_index, hint_term = state.log.find_conflict_by_term(hint, message.prev_term)
    state.say_when_durable(
        AppendResponse(
            to=message.from_,
            from_=state.me,
            term=state.term,
            index=message.prev_index,
            reject=True,
            hint_index=hint_index,
            hint_term=hint_term,
        )
    )


def handle_heartbeat(state: RaftState, message: Heartbeat) -> None:
    """Learns the commit index, and answers with the context."""
    if message.commit <= state.log.last_index():
        state.log.commit_to(message.commit)
    else:
        # The leader tells only what this member once acknowledged, so the log has lost its end.
        state.conflicts_refused += 1
    answer = HeartbeatResponse(to=message.from_, from_=state.me, term=state.term, context=message.context)
    # The answer speaks in this term, so it waits for the term to be durable, but not for entries.
    if state.durable_vote == (state.term, state.vote):
        state.outbox.append(answer)
    else:
        state.say_when_durable(answer)


def _is_newcomer(state: RaftState) -> bool:
    """Whether this member has nothing at all. One that has a log may have acknowledged it, and gets its configuration from it."""
    log = state.log
    return not state.conf.members() and log.last_index() == 0 and log.pending_snapshot is None


def handle_snapshot(state: RaftState, message: SnapshotOffer) -> None:
    """Replaces the log by a snapshot, unless the log covers it."""
    meta = message.snapshot.meta
    log = state.log
    newcomer = _is_newcomer(state)
    if meta.index > log.committed or newcomer:
        if log.matches(meta.index, meta.term) and not newcomer:
            log.commit_to(meta.index)
        else:
            # Its configuration is taken over when it is installed: changes from before it may still be being applied.
            log.restore(message.snapshot)
    _accept(state, message, log.committed)


def answer_stale_leader(state: RaftState, leader: AppendRequest | Heartbeat | SnapshotOffer) -> None:
    """Tells a leader of an earlier term that its time is over.

    With pre-vote a member that came back with a higher term cannot make others follow by a vote; without this answer the
    old leader would never learn the higher term and the member would never hear a leader.
    """
    state.say_when_durable(AppendResponse(to=leader.from_, from_=state.me, term=state.term, index=0))
