"""What a leader does: sends entries, counts acknowledgements, confirms reads, checks its quorum, hands leadership over.

Rules:
- Nothing is sent from inside a handler: handlers note what changed, and `flush` sends once a Ready. So all entries that
  were proposed since the last Ready go out in one append, and a commit rides on it, or goes alone after `commit_delay_ms`.
- The leader counts itself only up to what its own disk holds, and only entries of its own term by counting (§5.4.2).
- No answer of a stranger counts; no index beyond the leader's own log is believed.
"""

from __future__ import annotations

from hivenode.consensus.log import Compacted, SnapshotUnavailable
from hivenode.consensus.messages import (
    AppendRequest,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    MemberId,
    ReadIndexRequest,
    ReadIndexResponse,
    ReadState,
    SnapshotOffer,
    SnapshotStatus,
    TimeoutNow,
)
from hivenode.consensus.progress import Progress, ProgressState
from hivenode.consensus.quorum import VoteResult, committed_index, vote_result
from hivenode.consensus.readonly import PendingRead
from hivenode.consensus.state import NEVER_MS, RaftState


def flush(state: RaftState) -> None:
    """Sends what may be sent since the last time: starts a round of reads, appends, probes, commit indexes."""
    if not state.is_leader or not state.send_due:
        return
    state.send_due = False
    start_reads(state)
    last = state.log.last_index()
    for member, progress in state.progress.items():
        if member == state.me:
            continue
        if progress.probe_due or progress.can_bump_commit(state.commit_due):
            progress.probe_due = False
            _send_append(state, member, progress)
        while progress.next <= last and not progress.is_full and not progress.is_paused:
            if not _send_append(state, member, progress):
                break


def _send_append(state: RaftState, member: MemberId, progress: Progress) -> bool:
    """Sends one append, possibly empty, or a snapshot where the log does not reach back; returns whether it did."""
    if progress.is_paused:
        return False
    log = state.log
    prev_index = progress.next - 1
    try:
        prev_term = log.term(prev_index)
        entries = (
            [] if progress.is_full else log.slice(progress.next, log.last_index() + 1, state.config.max_append_bytes)
        )
    except Compacted:
        return _offer_snapshot(state, member, progress)
    state.outbox.append(
        AppendRequest(
            to=member,
            from_=state.me,
            term=state.term,
            prev_index=prev_index,
            prev_term=prev_term,
            entries=tuple(entries),
            commit=log.committed,
        )
    )
    progress.sent(entries[-1].index if entries else None, log.committed)
    return True


def _offer_snapshot(state: RaftState, member: MemberId, progress: Progress) -> bool:
    # One that is not heard would not fetch it; its next answer to a heartbeat asks again.
    if not progress.recent_active:
        return False
    try:
        snapshot = state.log.snapshot()
    except SnapshotUnavailable:
        return False
    state.outbox.append(SnapshotOffer(to=member, from_=state.me, term=state.term, snapshot=snapshot))
    progress.become_snapshot(snapshot.meta.index, state.now_ms)
    return True


def send_heartbeats(state: RaftState) -> None:
    """Tells every other member that the leader is there, with the round of reads in flight."""
    for member, progress in state.progress.items():
        if member == state.me:
            continue
        _send_heartbeat(state, member, progress)
        overdue = state.now_ms >= progress.offered_ms + state.config.snapshot_reoffer_ms
        if progress.state is ProgressState.SNAPSHOT and overdue:
            progress.abort_snapshot()
            state.send_due = True


def _send_heartbeat(state: RaftState, member: MemberId, progress: Progress) -> None:
    commit = min(progress.match, state.log.committed)
    progress.sent_commit = max(progress.sent_commit, commit)
    context = state.reads.context
    state.outbox.append(Heartbeat(to=member, from_=state.me, term=state.term, commit=commit, context=context))


def handle_append_response(state: RaftState, message: AppendResponse, progress: Progress) -> None:
    """Moves a member's progress on, or back to where its log may agree."""
    progress.recent_active = True
    state.send_due = True
    if message.reject:
        if message.index == 0:
            # Index 0 fits every log, so this member has none yet, nor a configuration: it begins with a snapshot.
            if progress.match == 0 and progress.state is not ProgressState.SNAPSHOT:
                _offer_snapshot(state, message.from_, progress)
            return
        hint = message.hint_index
        if hint < progress.match:
            # It speaks of a log from before what the member has acknowledged since. One late append makes a refusal of each
            # that overtook it, and falling back for every one of them would send the whole window as many times.
            return
        if message.hint_term > 0:
            # The leader, too, skips what cannot match: its own entries of later terms than the hint's.
            hint, _ = state.log.find_conflict_by_term(min(hint, state.log.last_index()), message.hint_term)
        progress.reject(message.index, hint)
        return
    if message.index > state.log.last_index():
        return
    news = progress.accept(message.index)
    match progress.state:
        case ProgressState.PROBE if news or progress.match == message.index:
            progress.become_replicate()
        case ProgressState.SNAPSHOT if (
            news or message.index >= progress.pending_snapshot
        ) and progress.match + 1 >= state.log.first_index():
            progress.become_replicate()
        case _:
            pass
    if news:
        maybe_commit(state)
    if state.transfer_target == message.from_:
        _maybe_time_out_target(state)


def handle_heartbeat_response(state: RaftState, message: HeartbeatResponse, progress: Progress) -> None:
    """Notes that the member lives, asks where it stands if it is behind, and confirms the round of reads."""
    progress.recent_active = True
    if progress.match < state.log.last_index() or progress.state is ProgressState.PROBE:
        progress.probe_sent = False
        progress.probe_due = True
        state.send_due = True
    if state.reads.confirm(message.from_, message.context):
        _finish_reads(state)


def own_log_is_durable(state: RaftState) -> None:
    """The leader's own disk holds more of the log: it may count itself for that."""
    own = state.progress.get(state.me)
    if state.is_leader and own is not None and own.accept(state.log.durable_index()):
        maybe_commit(state)


def maybe_commit(state: RaftState) -> bool:
    """Commits what a quorum holds, if that is an entry of this term; returns whether it did."""
    index = committed_index(state.conf, lambda member: state.progress[member].match)
    if index <= state.log.committed or not state.log.matches(index, state.term):
        return False
    state.log.commit_to(index)
    state.send_due = True
    # A leader that goes with a change of the configuration tells nothing later, so that one is told at once.
    if state.config.commit_delay_ms and state.pending_conf_index <= state.log.applied:
        state.tell_commit_ms = min(state.tell_commit_ms, state.now_ms + state.config.commit_delay_ms)
    else:
        tell_commit(state)
    return True


def tell_commit(state: RaftState) -> None:
    """Lets the commit index go to those that have not heard it, be it alone."""
    state.commit_due = state.log.committed
    state.tell_commit_ms = NEVER_MS
    state.send_due = True


def handle_read_request(state: RaftState, message: ReadIndexRequest) -> None:
    """Takes a follower's read; beyond the bound it is dropped, and the asker asks again.

    The question itself says that its asker was in this leader's term when the read waited already. Where the two are a
    quorum no later leader can have committed anything before the read came, so it needs no round of heartbeats.
    """
    asked_by_quorum = vote_result(state.conf, {state.me: True, message.from_: True}) is VoteResult.WON
    if asked_by_quorum and state.committed_in_term():
        _answer_read(state, message.from_, message.context, state.log.committed)
        return
    if state.reads.waiting_count < state.config.max_pending_reads:
        add_read(state, message.from_, message.context)


def add_read(state: RaftState, requester: MemberId, context: bytes) -> None:
    """Lets a read wait for the next round."""
    state.reads.add(PendingRead(requester=requester, context=context))
    state.send_due = True


def start_reads(state: RaftState) -> None:
    """Asks a quorum whether it still leads, for the reads that wait, if no such question is under way."""
    reads = state.reads
    if not state.is_leader or reads.in_flight is not None or not reads.waiting_count or not state.committed_in_term():
        return
    reads.start(state.log.committed)
    reads.confirm(state.me, reads.context)
    if _finish_reads(state):
        return
    # Only voters can confirm, so the others are left in peace.
    voters = state.conf.voters | state.conf.voters_outgoing
    if vote_result(state.conf, dict.fromkeys(reads.answered, True)) is VoteResult.WON:
        voters &= reads.answered
    for member in sorted(voters - {state.me}):
        _send_heartbeat(state, member, state.progress[member])


def _finish_reads(state: RaftState) -> bool:
    confirmed = state.reads.in_flight.confirmed if state.reads.in_flight is not None else {}
    done = state.reads.finish(vote_result(state.conf, confirmed))
    if done is None:
        return False
    for read in done.reads:
        if read.requester == state.me:
            state.read_states.append(ReadState(context=read.context, index=done.index))
        else:
            _answer_read(state, read.requester, read.context, done.index)
    state.send_due = True
    return True


def _answer_read(state: RaftState, requester: MemberId, context: bytes, index: int) -> None:
    answer = ReadIndexResponse(to=requester, from_=state.me, term=state.term, context=context, index=index)
    state.outbox.append(answer)
    if state.tell_commit_ms != NEVER_MS:
        tell_commit(state)  # The read waits there until that index is applied.


def check_quorum(state: RaftState) -> bool:
    """Whether a quorum was heard since the last check; starts the next period (thesis §6.2)."""
    heard = {member: progress.recent_active or member == state.me for member, progress in state.progress.items()}
    for progress in state.progress.values():
        progress.recent_active = False
    return vote_result(state.conf, heard) is VoteResult.WON


def start_transfer(state: RaftState, target: MemberId) -> None:
    """Hands leadership to a voter as soon as it has the whole log; gives up after an election timeout."""
    state.transfer_target = target
    state.transfer_deadline_ms = state.now_ms + state.config.election_timeout_ms[0]
    state.progress[target].probe_due = True
    state.send_due = True
    _maybe_time_out_target(state)


def _maybe_time_out_target(state: RaftState) -> None:
    target = state.transfer_target
    if target is not None and state.progress[target].match == state.log.last_index():
        state.outbox.append(TimeoutNow(to=target, from_=state.me, term=state.term))


def ask_best_to_take_over(state: RaftState) -> None:
    """Asks the voter that has most of the log, of those that are heard, to stand for election at once."""
    heard = [member for member in sorted(state.conf.voters - {state.me}) if state.progress[member].recent_active]
    if heard:
        best = max(heard, key=lambda member: state.progress[member].match)
        state.outbox.append(TimeoutNow(to=best, from_=state.me, term=state.term))


def report_unreachable(progress: Progress) -> None:
    """Appends that are out to the member are probably lost."""
    if progress.state is ProgressState.REPLICATE:
        progress.become_probe()


def handle_snapshot_status(state: RaftState, message: SnapshotStatus, progress: Progress) -> None:
    """A member's own word on how fetching the snapshot ended."""
    report_snapshot(state, progress, ok=message.ok)


def report_snapshot(state: RaftState, progress: Progress, *, ok: bool) -> None:
    """Fetching the snapshot ended: probes after it, or asks where the member stands."""
    if progress.state is not ProgressState.SNAPSHOT:
        return
    if ok:
        progress.become_probe()
        # Its answer to the snapshot is on its way; a probe before that would only be rejected.
        progress.probe_due = False
        progress.probe_sent = True
    else:
        progress.abort_snapshot()
        # The next answer to a heartbeat starts anew, which spaces the tries by an interval.
        progress.probe_due = False
        progress.probe_sent = True
    state.send_due = True
