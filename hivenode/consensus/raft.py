"""The machine itself: what a message, the passing of time, a proposal or an applied change does to a member.

Rules (beside those of `state`, `election`, `following` and `replication`, which this module puts together):
- A message of a later term makes the member a follower of that term, except a pre-vote, and except a vote request while
  the member sticks to its leader. A message of an earlier term is dropped, or answered so that its sender learns the term.
- Nothing that a peer may send raises. A message that is malformed, for somebody else, or from a stranger where only
  members count, is dropped.
- A change of the configuration is proposed only when all before it are applied, and takes effect when it is applied.
  A leader that is no voter after it steps down.
- A joint configuration is left by the leader itself, as soon as the change that entered it is applied there.
"""

from __future__ import annotations

from random import Random
from typing import assert_never

from hivenode.consensus import election, following, replication
from hivenode.consensus.confchange import InvalidConfChangeError, apply_change, conf_fault, encode_conf_change
from hivenode.consensus.config import DropReason, ProposalDropped, RaftConfig, RaftStatus, ReadDropped, Role
from hivenode.consensus.log import LogView
from hivenode.consensus.messages import (
    AppendRequest,
    AppendResponse,
    ConfChange,
    ConfState,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    MemberId,
    Message,
    ReadIndexRequest,
    ReadIndexResponse,
    ReadState,
    SnapshotOffer,
    SnapshotStatus,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    is_well_formed,
)
from hivenode.consensus.state import NEVER_MS, RaftState
from hivenode.errors import InvariantError, ensure


class Raft:
    """One member of the hive's consensus; `RawNode` gives it its Readys."""

    def __init__(self, config: RaftConfig, view: LogView, rng: Random, now_ms: int, applied: int) -> None:
        self.state = RaftState(config, view, rng, now_ms, applied)

    # Time

    def tick(self, now_ms: int) -> None:
        """Time passes; what is due happens once, however late."""
        state = self.state
        state.now_ms = max(state.now_ms, now_ms)
        if state.is_leader:
            self._tick_leader()
        elif state.now_ms >= state.election_deadline_ms:
            if state.can_campaign:
                election.campaign(state)
            else:
                state.leader = None
                state.reset_election_timer()

    def _tick_leader(self) -> None:
        state = self.state
        if state.now_ms >= state.transfer_deadline_ms:
            state.end_transfer()
        if state.now_ms >= state.check_deadline_ms:
            state.check_deadline_ms = state.now_ms + state.config.election_timeout_ms[0]
            if not replication.check_quorum(state) and state.config.check_quorum:
                state.become_follower(state.term, None)
                return
        if state.now_ms >= state.heartbeat_deadline_ms:
            state.heartbeat_deadline_ms = state.now_ms + state.config.heartbeat_interval_ms
            replication.send_heartbeats(state)
        if state.now_ms >= state.tell_commit_ms:
            replication.tell_commit(state)

    def next_deadline(self) -> int:
        """The next moment at which `tick` does something."""
        state = self.state
        if state.is_leader:
            if len(state.progress) == 1:
                return state.transfer_deadline_ms
            return min(
                state.heartbeat_deadline_ms,
                state.check_deadline_ms,
                state.transfer_deadline_ms,
                state.tell_commit_ms,
            )
        if state.can_campaign or state.leader is not None:
            return state.election_deadline_ms
        return NEVER_MS

    # Messages

    def step(self, message: Message) -> None:
        """A peer's message arrives."""
        state = self.state
        if message.to != state.me or message.from_ == state.me or not is_well_formed(message):
            return
        if message.term > state.term and not self._follow_term(message):
            return
        if message.term < state.term:
            self._step_old_term(message)
            return
        self._dispatch(message)

    def _follow_term(self, message: Message) -> bool:
        """Moves to a later term where the message says so; returns whether the message is to be looked at further."""
        state = self.state
        match message:
            case VoteRequest():
                if not message.transfer and state.in_lease:
                    return False
                if not message.pre_vote:
                    state.become_follower(message.term, None)
            case VoteResponse() if message.pre_vote and message.granted:
                # It bears the term that was asked for, and this member moves there only when a quorum says so.
                if message.term == state.term + 1:
                    election.handle_vote_response(state, message)
                return False
            case AppendRequest() | Heartbeat() | SnapshotOffer():
                state.become_follower(message.term, message.from_)
            case AppendResponse() | HeartbeatResponse() | VoteResponse():
                # A stranger's answer belongs to no question of this member's configuration.
                if message.from_ not in state.conf.members():
                    return False
                state.become_follower(message.term, None)
            case TimeoutNow() | ReadIndexRequest() | ReadIndexResponse() | SnapshotStatus():
                state.become_follower(message.term, None)
            case _:
                assert_never(message)
        return True

    def _step_old_term(self, message: Message) -> None:
        state = self.state
        match message:
            case AppendRequest() | Heartbeat() | SnapshotOffer():
                if state.config.check_quorum or state.config.pre_vote:
                    following.answer_stale_leader(state, message)
            case VoteRequest() if message.pre_vote:
                # Without this answer a pre-candidate with a good log but an old term could ask for ever (§9.6).
                election.answer(state, message, granted=False)
            case _:
                return

    def _dispatch(self, message: Message) -> None:
        state = self.state
        # What comes all the time is looked for first.
        match message:
            case AppendRequest() | Heartbeat() | SnapshotOffer():
                self._step_from_leader(message)
            case AppendResponse() | HeartbeatResponse() | SnapshotStatus() | ReadIndexRequest():
                self._step_to_leader(message)
            case VoteRequest():
                election.handle_vote_request(state, message)
            case VoteResponse():
                # A granted pre-vote of this very term answers an earlier question.
                if not (message.pre_vote and message.granted):
                    election.handle_vote_response(state, message)
            case TimeoutNow():
                if message.from_ == state.leader:
                    election.campaign(state, transfer=True)
            case ReadIndexResponse():
                if message.from_ == state.leader:
                    state.read_states.append(ReadState(context=message.context, index=message.index))
            case _:
                assert_never(message)

    def _step_from_leader(self, message: AppendRequest | Heartbeat | SnapshotOffer) -> None:
        state = self.state
        if state.is_leader or state.leader not in (None, message.from_):
            # Two leaders in one term cannot be; whoever claims it is not listened to.
            return
        if state.role is not Role.FOLLOWER:
            state.become_follower(state.term, message.from_)
        else:
            state.heard_leader(message.from_)
        match message:
            case AppendRequest():
                following.handle_append(state, message)
            case Heartbeat():
                following.handle_heartbeat(state, message)
            case SnapshotOffer():
                following.handle_snapshot(state, message)
            case _:
                assert_never(message)

    def _step_to_leader(self, message: AppendResponse | HeartbeatResponse | SnapshotStatus | ReadIndexRequest) -> None:
        state = self.state
        progress = state.progress.get(message.from_)
        if not state.is_leader or progress is None:
            return
        match message:
            case AppendResponse():
                replication.handle_append_response(state, message, progress)
            case HeartbeatResponse():
                replication.handle_heartbeat_response(state, message, progress)
            case SnapshotStatus():
                replication.handle_snapshot_status(state, message, progress)
            case ReadIndexRequest():
                replication.handle_read_request(state, message)
            case _:
                assert_never(message)

    # Requests of this member's own runtime

    def propose(self, data: bytes) -> int:
        """Appends data at the leader; returns the index."""
        self._check_can_propose()
        state = self.state
        # One proposal is always taken, however large, or it could never be.
        if state.uncommitted_bytes and state.uncommitted_bytes + len(data) > state.config.max_uncommitted_bytes:
            raise ProposalDropped(DropReason.LOG_FULL)
        return state.append(EntryKind.NORMAL, data)

    def _check_can_propose(self) -> None:
        state = self.state
        if not state.is_leader:
            raise ProposalDropped(DropReason.NOT_LEADER)
        if state.me not in state.progress:
            raise ProposalDropped(DropReason.REMOVED)
        if state.transfer_target is not None:
            raise ProposalDropped(DropReason.TRANSFER)

    def propose_conf_change(self, change: ConfChange) -> int:
        """Appends a change of the configuration at the leader; returns the index."""
        self._check_can_propose()
        state = self.state
        if state.pending_conf_index > state.log.applied:
            raise ProposalDropped(DropReason.CHANGE_PENDING)
        try:
            apply_change(state.conf, change)
        except InvalidConfChangeError as error:
            raise ProposalDropped(DropReason.INVALID_CHANGE, str(error)) from error
        return self._append_change(change)

    def _append_change(self, change: ConfChange) -> int:
        state = self.state
        state.pending_conf_index = state.append(EntryKind.CONF_CHANGE, encode_conf_change(change))
        return state.pending_conf_index

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """The entry with this change is being applied: the configuration changes."""
        state = self.state
        try:
            state.conf = apply_change(state.conf, change)
        except InvalidConfChangeError as error:
            raise InvariantError(f"A committed change does not fit the configuration: {error}.") from error
        if not state.is_leader:
            return state.conf
        if state.me not in state.conf.voters | state.conf.voters_outgoing:
            # The change is committed, so those who remain can elect without this member (thesis §4.2.2).
            state.become_follower(state.term, None)
            return state.conf
        state.track_members()
        replication.maybe_commit(state)
        if state.transfer_target is not None and not state.conf.is_voter(state.transfer_target):
            state.end_transfer()
        return state.conf

    def leave_joint_if_due(self) -> None:
        """At the leader: proposes to leave the joint configuration once the change that entered it is applied."""
        state = self.state
        due = state.is_leader and state.conf.auto_leave and state.log.applied >= state.pending_conf_index
        if due and state.transfer_target is None:
            self._append_change(ConfChange())

    def read_index(self, context: bytes) -> None:
        """Asks for an index from which a read is linearizable."""
        state = self.state
        if state.is_leader:
            if state.reads.waiting_count >= state.config.max_pending_reads:
                raise ReadDropped(DropReason.TOO_MANY_READS)
            replication.add_read(state, state.me, context)
        elif state.leader is not None:
            request = ReadIndexRequest(to=state.leader, from_=state.me, term=state.term, context=context)
            state.outbox.append(request)
        else:
            raise ReadDropped(DropReason.NO_LEADER)

    def transfer_leader(self, to: MemberId) -> None:
        """Starts to hand leadership to another voter."""
        state = self.state
        if not state.is_leader:
            raise ProposalDropped(DropReason.NOT_LEADER)
        if to == state.me or to not in state.conf.voters:
            raise ProposalDropped(DropReason.NOT_A_VOTER)
        if state.transfer_target != to:
            replication.start_transfer(state, to)

    def report_unreachable(self, member: MemberId) -> None:
        """Messages to the member were lost."""
        progress = self.state.progress.get(member)
        if progress is not None:
            replication.report_unreachable(progress)
            self.state.send_due = True

    def report_snapshot(self, member: MemberId, *, ok: bool) -> None:
        """The member has, or failed to get, the snapshot that was offered to it."""
        progress = self.state.progress.get(member)
        if progress is not None:
            replication.report_snapshot(self.state, progress, ok=ok)

    def leader_lost(self) -> None:
        """This member saw its leader's process gone: it sticks to it no longer, and soon asks for an election."""
        state = self.state
        if state.is_leader or state.leader is None:
            return
        # One after the other: voters that saw the same death and asked at the same time would split their votes.
        heirs = sorted((state.conf.voters | state.conf.voters_outgoing) - {state.leader})
        turn = heirs.index(state.me) if state.me in heirs else len(heirs)
        delay_ms = state.config.leader_lost_delay_ms
        state.leader = None
        state.election_deadline_ms = state.now_ms + turn * delay_ms + state.rng.randint(0, delay_ms // 3)

    def disk_stalled(self) -> None:
        """This member's disk takes nothing."""
        state = self.state
        if state.is_leader:
            if state.conf.voters | state.conf.voters_outgoing == {state.me}:
                return  # Nobody could take over, and what was committed it can still read out.
            replication.ask_best_to_take_over(state)
            state.become_follower(state.term, None)
        elif state.can_campaign:
            state.reset_election_timer()

    # What it shows

    def status(self) -> RaftStatus:
        """A picture of this member."""
        state = self.state
        return RaftStatus(
            member_id=state.me,
            role=state.role,
            term=state.term,
            leader=state.leader,
            commit=state.log.committed,
            applied=state.log.applied,
            last_index=state.log.last_index(),
            conf=state.conf,
            transfer_target=state.transfer_target,
            conflicts_refused=state.conflicts_refused,
            progress={member: progress.status() for member, progress in state.progress.items()},
        )

    def validate_state(self) -> None:
        """Raises `InvariantError` when something that must hold at every moment does not."""
        state = self.state
        for fault in (state.log.fault(), conf_fault(state.conf)):
            ensure(fault is None, f"{state.me}: {fault}.")
        ensure(state.log.last_term() <= state.term, f"{state.me}: the log is ahead of the term.")
        ensure(state.durable_vote[0] <= state.term, f"{state.me}: the term on disk is ahead of the term.")
        ensure(state.is_leader or not state.progress, f"{state.me}: only a leader tracks members.")
        if state.role is Role.CANDIDATE:
            ensure(state.vote == state.me, f"{state.me}: a candidate votes for itself.")
        if state.is_leader:
            self._validate_leader()

    def _validate_leader(self) -> None:
        state = self.state
        ensure(state.vote == state.me and state.leader == state.me, f"{state.me}: a leader follows itself.")
        ensure(state.durable_vote == (state.term, state.me), f"{state.me}: a leader's vote is durable.")
        ensure(state.progress.keys() == state.conf.members(), f"{state.me}: the leader tracks all members.")
        last = state.log.last_index()
        for member, progress in state.progress.items():
            ensure(
                progress.match < progress.next <= last + 1,
                f"{state.me}: {member} matches {progress.match}, next {progress.next}, last {last}.",
            )
            ensure(
                progress.inflight_count <= state.config.max_inflight_appends,
                f"{state.me}: too much is out to {member}.",
            )
        own = state.progress[state.me].match
        ensure(own <= state.log.durable_index(), f"{state.me}: the leader counts what its disk does not hold.")
