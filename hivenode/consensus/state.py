"""One member's state, and the moves between roles that every part of the machine shares.

Rules:
- Term, vote and role change only here, so that what belongs together is reset together.
- A message goes into one of two queues. `outbox` may be sent at once. `outbox_durable` waits until term, vote, entries
  and snapshot of the same Ready are on disk: whatever lets others count on this member's memory goes there. A disk may take
  long, so it holds the newest message of each kind to each member and no more (`say_when_durable`).
- Time is `now_ms`, the last that `tick` told. All waiting is a deadline compared with it.

State table (who wins and loses votes: `election`; what followers do: `following`; what leaders do: `replication`):

| role | election deadline | quorum of (pre-)votes | quorum refuses | leader of this term heard | higher term |
|---|---|---|---|---|---|
| FOLLOWER | PRE_CANDIDATE | - | - | FOLLOWER | FOLLOWER |
| PRE_CANDIDATE | PRE_CANDIDATE | CANDIDATE, term + 1 | FOLLOWER | FOLLOWER | FOLLOWER |
| CANDIDATE | PRE_CANDIDATE | LEADER | FOLLOWER | FOLLOWER | FOLLOWER |
| LEADER | - | - | - (no quorum heard: FOLLOWER) | - | FOLLOWER |
"""

from __future__ import annotations

from random import Random
from typing import Final, TypeAlias

from hivenode.consensus.config import RaftConfig, Role
from hivenode.consensus.log import LogView, RaftLog
from hivenode.consensus.messages import (
    AppendResponse,
    Entry,
    EntryKind,
    HardState,
    HeartbeatResponse,
    MemberId,
    Message,
    ReadState,
    VoteRequest,
    VoteResponse,
)
from hivenode.consensus.progress import Progress
from hivenode.consensus.readonly import ReadBatch
from hivenode.errors import ensure

NEVER_MS: Final = 1 << 62
"""The deadline of what does not happen by itself."""

DurableMessage: TypeAlias = AppendResponse | HeartbeatResponse | VoteRequest | VoteResponse
"""What speaks for this member's memory."""


class RaftState:
    """All that a member knows; the other modules of the core are functions over it."""

    def __init__(self, config: RaftConfig, view: LogView, rng: Random, now_ms: int, applied: int) -> None:
        config.validate()
        hard_state, conf = view.initial_state()
        self.config: Final = config
        self.me: Final = config.member_id
        self.rng: Final = rng
        self.log: Final = RaftLog(view, committed=hard_state.commit, applied=applied)
        self.conf = conf
        self.now_ms = now_ms

        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.is_leader = False
        """Whether `role` is LEADER; asked with every message."""
        self.leader: MemberId | None = None
        self.durable_vote = (hard_state.term, hard_state.vote)
        """Term and vote as they are known to be on disk."""

        self.votes: dict[MemberId, bool] = {}
        self.progress: dict[MemberId, Progress] = {}
        self.reads = ReadBatch()
        self.pending_conf_index = 0
        """The last entry that may hold a change which is not applied; no other change is proposed before that."""
        self.uncommitted_bytes = 0
        self.transfer_target: MemberId | None = None
        self.transfer_deadline_ms = NEVER_MS
        self.conflicts_refused = 0

        self.election_deadline_ms = 0
        self.lease_end_ms = now_ms
        """Until then this member sticks to the leader that it heard."""
        self.heartbeat_deadline_ms = NEVER_MS
        self.check_deadline_ms = NEVER_MS
        self.tell_commit_ms = NEVER_MS
        """When the commit index goes to those that have not heard it, be it alone."""
        self.commit_due = 0
        """The commit index that goes out as soon as it can."""
        self.send_due = False
        """Something changed that may let the leader send; looked at once a Ready, so that one append carries it all."""
        self.outbox: list[Message] = []
        self.outbox_durable: dict[tuple[type[DurableMessage], MemberId, bool], DurableMessage] = {}
        self.read_states: list[ReadState] = []
        self.become_follower(self.term, None)

    @property
    def hard_state(self) -> HardState:
        return HardState(term=self.term, vote=self.vote, commit=self.log.committed)

    @property
    def can_campaign(self) -> bool:
        """A learner, a stranger to its own configuration, and one whose log is being replaced never stand."""
        return self.conf.is_voter(self.me) and self.log.pending_snapshot is None

    @property
    def in_lease(self) -> bool:
        """Whether this member sticks to its leader and ignores candidates (paper §6, thesis §4.2.3)."""
        if not self.config.check_quorum or self.leader is None:
            return False
        return self.is_leader or self.now_ms < self.lease_end_ms

    def reset_election_timer(self) -> None:
        low, high = self.config.election_timeout_ms
        self.election_deadline_ms = self.now_ms + self.rng.randint(low, high)

    def heard_leader(self, leader: MemberId) -> None:
        """The leader of this term spoke: the follower's lease on it and its patience begin anew."""
        self.leader = leader
        self.lease_end_ms = self.now_ms + self.config.election_timeout_ms[0]
        self.reset_election_timer()

    def _enter(self, term: int, role: Role) -> None:
        if term != self.term:
            ensure(term > self.term, f"The term would fall from {self.term} to {term}.")
            self.term = term
            self.vote = None
        self.role = role
        self.is_leader = role is Role.LEADER
        self.leader = None
        self.votes = {}
        self.progress = {}
        self.reads = ReadBatch()
        self.pending_conf_index = 0
        self.uncommitted_bytes = 0
        self.heartbeat_deadline_ms = NEVER_MS
        self.check_deadline_ms = NEVER_MS
        self.tell_commit_ms = NEVER_MS
        self.commit_due = 0
        self.send_due = False
        self.end_transfer()
        self.reset_election_timer()

    def become_follower(self, term: int, leader: MemberId | None) -> None:
        self._enter(term, Role.FOLLOWER)
        if leader is not None:
            self.heard_leader(leader)

    def become_pre_candidate(self) -> None:
        """Asks who would vote for it, without touching term or vote (thesis §9.6)."""
        self._enter(self.term, Role.PRE_CANDIDATE)

    def become_candidate(self) -> None:
        """Votes for itself in a new term; that vote counts when it is durable."""
        self._enter(self.term + 1, Role.CANDIDATE)
        self.vote = self.me

    def become_leader(self) -> None:
        """Leads, and appends an empty entry, because only entries of its own term may be committed by counting."""
        ensure(self.role is Role.CANDIDATE, "Only a candidate may become leader.")
        ensure(self.durable_vote == (self.term, self.me), "A leader's own vote must be durable.")
        self._enter(self.term, Role.LEADER)
        self.leader = self.me
        # What is not applied yet may hold a change of the configuration, so none is proposed before all of it is.
        self.pending_conf_index = self.log.last_index()
        self.track_members()
        # The append of the empty entry tells all members at once, so the first heartbeat has time.
        self.heartbeat_deadline_ms = self.now_ms + self.config.heartbeat_interval_ms
        self.check_deadline_ms = self.now_ms + self.config.election_timeout_ms[0]
        self.append(EntryKind.NORMAL, b"")

    def track_members(self) -> None:
        """Keeps a progress for each member of the configuration, and for no other."""
        members = self.conf.members()
        for member in sorted(members - self.progress.keys()):
            progress = Progress(next_index=self.log.last_index() + 1, max_inflight=self.config.max_inflight_appends)
            if member == self.me:
                progress.accept(self.log.durable_index())
                progress.become_replicate()
            self.progress[member] = progress
        for member in self.progress.keys() - members:
            del self.progress[member]
        self.send_due = True

    def append(self, kind: EntryKind, data: bytes) -> int:
        """Appends an entry of this term to the leader's tail; returns its index."""
        index = self.log.last_index() + 1
        entry = Entry(term=self.term, index=index, kind=kind, data=data)
        self.log.append((entry,))
        self.uncommitted_bytes += entry.size_bytes
        self.send_due = True
        return index

    def say_when_durable(self, message: DurableMessage) -> None:
        """Sends a message after the next sync, in place of an older one of its kind to the same member.

        What is left out might as well have been lost on the way, and is answered by what stays: whoever asks again, asks for
        the newest. An acknowledgement says that the log agrees up to its index, which stays true for as long as the term lasts:
        of two the higher one says both. It never takes the place of a refusal, nor a refusal its place.
        """
        match message:
            case AppendResponse(reject=of_another_kind) | VoteResponse(pre_vote=of_another_kind):
                pass
            case _:
                of_another_kind = False
        key = (type(message), message.to, of_another_kind)
        before = self.outbox_durable.pop(key, None)
        match before, message:
            case AppendResponse(reject=False), AppendResponse() if before.term == message.term:
                message = max(before, message, key=lambda answer: answer.index)
            case _:
                pass
        self.outbox_durable[key] = message

    def end_transfer(self) -> None:
        self.transfer_target = None
        self.transfer_deadline_ms = NEVER_MS

    def committed_in_term(self) -> bool:
        """Whether an entry of this term is committed, so that the commit index is the newest there is (§6.4)."""
        return self.log.matches(self.log.committed, self.term)
