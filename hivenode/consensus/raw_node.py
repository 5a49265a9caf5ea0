"""`RawNode`: the consensus core without a clock, a disk or a network; and `Ready`, what its caller has to do.

Rules:
- The caller owns time, disk, network and state machine. The core is told of events and says what to do; it never calls out.
- One Ready is out at a time. Between `ready` and `advance` the core takes messages, proposals and ticks as ever, so the
  disk may be busy meanwhile, for long even: what need not wait for it comes out of `meanwhile` at once (heartbeats and their
  answers, rounds of reads), the rest is in the next Ready, and all of it is written in one sync.
- `tick` with the present comes before `step` and proposals, if time has passed: deadlines are counted from the last
  moment that the core was told.

State table:

| state | `has_ready` | `ready` | `advance` |
|---|---|---|---|
| nothing to do | False | an empty Ready | refused |
| something to do | True | a Ready is out | refused |
| a Ready is out | False | refused | nothing or something to do |

`meanwhile` is for the last of them, and refused in the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from hivenode.consensus import election, replication
from hivenode.consensus.config import RaftConfig, RaftStatus, Role
from hivenode.consensus.log import LogView
from hivenode.consensus.messages import (
    ConfChange,
    ConfState,
    Entry,
    HardState,
    MemberId,
    Message,
    ReadState,
    Snapshot,
)
from hivenode.consensus.raft import Raft
from hivenode.errors import ensure


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftState:
    """Who leads and what this member is; it changed, and is not stored."""

    leader: MemberId | None
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What the caller does next, **in this order**:

    1. `messages` may be sent at once, also while 2 is going on. A leader's appends are among them: followers may write
       an entry before the leader has, because the leader counts itself only at `advance`.
    2. `snapshot` is installed (state and log replaced by it, as one step), then `entries` are written over whatever
       stands at or after the first one's index, then `hard_state`. All in one transaction; with `must_sync` it is synced
       before anything that follows. Without `must_sync` only the commit index changed, and a crash may lose it; so a
       Ready with `must_sync` always has the hard state. Whoever keeps an entry that follows a change of the
       configuration thereby keeps that the change is committed, and never stands for election by an older one.
    3. `messages_after_persist` may be sent: votes and acknowledgements that speak of what 2 made durable.
    4. `committed_entries` are applied in order; all of them were durable here before this Ready, so this may also be done
       while 2 and 3 are going on. For each `CONF_CHANGE`
       among them `apply_conf_change` is called, and the configuration that it returns is stored in one transaction with
       the applied index.
    5. `advance(ready)` tells the core that all this is done. Only now does a leader or candidate count its own entries
       and its own vote, and may newly durable entries come out as committed.

    `soft_state` and `read_states` may be used at any time; a read waits until its index is applied. When the leader
    changes, reads that are not answered never will be: ask again.
    """

    soft_state: SoftState | None = None
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    committed_entries: tuple[Entry, ...] = ()
    messages: tuple[Message, ...] = ()
    messages_after_persist: tuple[Message, ...] = ()
    read_states: tuple[ReadState, ...] = ()
    must_sync: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Meanwhile:
    """What is done at once while a Ready is out: nothing of it speaks for what that Ready makes durable, or the next one.

    A leader's new entries are not among the messages: they gather for one append a Ready.
    """

    soft_state: SoftState | None
    messages: tuple[Message, ...]
    read_states: tuple[ReadState, ...]


class RawNode:
    """One member of the hive's consensus.

    Args:
        config: bounds and times.
        log: stable storage to read from; the caller writes it, as each Ready says.
        rng: the only source of randomness.
        now_ms: the present; any origin will do, if it is the same for all later times.
        applied: the index up to which the caller's state machine has applied the log. `log.initial_state` gives the
            configuration as of that index.

    Raises:
        HiveError: INVALID_ARGUMENT when the configuration cannot work.
        InvariantError: log and applied index do not fit together: something durable was lost.
    """

    def __init__(self, config: RaftConfig, log: LogView, rng: Random, now_ms: int, applied: int) -> None:
        self._raft = Raft(config, log, rng, now_ms, applied)
        state = self._raft.state
        self._shown_hard = HardState(term=state.term, vote=state.vote, commit=state.log.committed)
        self._shown_soft = SoftState(leader=None, role=Role.FOLLOWER)
        self._out: Ready | None = None

    def tick(self, now_ms: int) -> None:
        """Tells the present, in ms; does what is due. A time before the last one is taken as the last one."""
        self._raft.tick(now_ms)

    def next_deadline(self) -> int:
        """The absolute ms of the next moment at which `tick` does something; far away when nothing is due by itself."""
        return self._raft.next_deadline()

    def step(self, message: Message) -> None:
        """Takes a peer's message; one that is stale, foreign or malformed is dropped, and none raises.

        A `SnapshotOffer` is stepped only when the bulk that its descriptor names has been fetched.
        """
        self._raft.step(message)

    def propose(self, data: bytes) -> int:
        """Appends an entry at the leader; returns its index. It is agreed when it comes out committed with this term.

        Raises:
            ProposalDropped: not appended, see its `reason`.
        """
        return self._raft.propose(data)

    def propose_conf_change(self, change: ConfChange) -> int:
        """Appends a change of the configuration at the leader; returns its index.

        Raises:
            ProposalDropped: not appended; also while another change is not applied yet.
        """
        return self._raft.propose_conf_change(change)

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """Called for each `CONF_CHANGE` entry when it is applied; returns the configuration to store.

        Raises:
            InvariantError: the change does not fit: it was applied before, or the stored configuration is not the one
                of the applied index.
        """
        return self._raft.apply_conf_change(change)

    def read_index(self, context: bytes) -> None:
        """Asks, at leader or follower, for an index from which a read is linearizable; see `Ready.read_states`.

        The answer may get lost with a message or a leader: the caller waits with a deadline and asks again.

        Args:
            context: the caller's name for the read, unique while it waits.

        Raises:
            ReadDropped: no leader is known, or too many reads wait.
        """
        self._raft.read_index(context)

    def transfer_leader(self, to: MemberId) -> None:
        """Hands leadership to another voter; given up after the shortest election timeout.

        Raises:
            ProposalDropped: this member does not lead, or the other cannot.
        """
        self._raft.transfer_leader(to)

    def report_unreachable(self, member: MemberId) -> None:
        """Tells a leader that what it sent to the member lately is probably lost."""
        self._raft.report_unreachable(member)

    def report_snapshot(self, member: MemberId, ok: bool) -> None:
        """Tells a leader how sending the offered snapshot to the member ended."""
        self._raft.report_snapshot(member, ok=ok)

    def leader_lost(self) -> None:
        """Tells that the leader's process is gone, as this node saw itself: a connection reset and a redial refused.

        This member's own lease on the leader ends at once, and a pre-vote starts after a small random delay unless the
        leader is heard again. Other voters decide by what they themselves observed.
        """
        self._raft.leader_lost()

    def disk_stalled(self) -> None:
        """Tells that this member's disk takes nothing, as it shall be told again and again while that lasts.

        It leads no longer, since it could answer for nothing: the voter that has most of the log is asked to take over at once.
        And it does not stand for election before an election timeout after the last such word. The only voter goes on: it has
        nobody to ask, and reads need no disk.
        """
        self._raft.disk_stalled()

    def campaign(self) -> None:
        """Stands for election now; for the one voter that forms a hive."""
        election.campaign(self._raft.state)

    def has_ready(self) -> bool:
        """Whether there is something to do and no Ready is out."""
        if self._out is not None:
            return False
        raft = self._raft.state
        if raft.send_due:
            replication.flush(raft)
        return bool(
            raft.outbox
            or raft.outbox_durable
            or raft.log.tail
            or raft.read_states
            or raft.log.pending_snapshot is not None
            or raft.log.has_applicable
            or self._hard_changed()
            or self._soft_changed()
        )

    def _hard_changed(self) -> bool:
        raft, shown = self._raft.state, self._shown_hard
        return raft.term != shown.term or raft.vote != shown.vote or raft.log.committed != shown.commit

    def _soft_changed(self) -> bool:
        raft, shown = self._raft.state, self._shown_soft
        return raft.leader != shown.leader or raft.role is not shown.role

    def ready(self) -> Ready:
        """Hands out what is to be done; see `Ready` for the order of effects."""
        ensure(self._out is None, "The last Ready was not advanced.")
        raft = self._raft.state
        if raft.send_due:
            replication.flush(raft)
        soft_changed, hard_changed = self._soft_changed(), self._hard_changed()
        if soft_changed:
            self._shown_soft = SoftState(leader=raft.leader, role=raft.role)
        voted = hard_changed and (raft.term, raft.vote) != (self._shown_hard.term, self._shown_hard.vote)
        if hard_changed:
            self._shown_hard = raft.hard_state
        entries, snapshot = tuple(raft.log.tail), raft.log.pending_snapshot
        must_sync = bool(voted or entries or snapshot is not None)
        self._out = Ready(
            soft_state=self._shown_soft if soft_changed else None,
            hard_state=self._shown_hard if must_sync or hard_changed else None,
            entries=entries,
            snapshot=snapshot,
            committed_entries=tuple(raft.log.applicable(raft.config.max_committed_bytes_per_ready)),
            messages=tuple(raft.outbox),
            messages_after_persist=tuple(raft.outbox_durable.values()),
            read_states=tuple(raft.read_states),
            must_sync=must_sync,
        )
        raft.outbox.clear()
        raft.outbox_durable.clear()
        raft.read_states.clear()
        return self._out

    def meanwhile(self) -> Meanwhile:
        """Hands out what need not wait for the Ready that is out."""
        ensure(self._out is not None, "No Ready is out: all there is to do is in the next one.")
        raft = self._raft.state
        replication.start_reads(raft)
        soft_changed = self._soft_changed()
        if soft_changed:
            self._shown_soft = SoftState(leader=raft.leader, role=raft.role)
        found = Meanwhile(
            soft_state=self._shown_soft if soft_changed else None,
            messages=tuple(raft.outbox),
            read_states=tuple(raft.read_states),
        )
        raft.outbox.clear()
        raft.read_states.clear()
        return found

    def advance(self, ready: Ready) -> None:
        """Tells that everything in the Ready is done: persisted, sent and applied."""
        ensure(self._out is ready, "Only the Ready that is out can be advanced.")
        self._out = None
        raft = self._raft.state
        if ready.hard_state is not None:
            raft.durable_vote = (ready.hard_state.term, ready.hard_state.vote)
        if ready.snapshot is not None:
            raft.log.stable_snapshot_to(ready.snapshot.meta.index)
            raft.log.applied_to(ready.snapshot.meta.index)
            raft.conf = ready.snapshot.meta.conf
        if ready.entries:
            raft.log.stable_to(ready.entries[-1].index, ready.entries[-1].term)
        if ready.committed_entries:
            raft.log.applied_to(ready.committed_entries[-1].index)
            spent = sum(entry.size_bytes for entry in ready.committed_entries)
            raft.uncommitted_bytes = max(0, raft.uncommitted_bytes - spent)
        election.own_vote_is_durable(raft)
        replication.own_log_is_durable(raft)
        self._raft.leave_joint_if_due()

    @property
    def term(self) -> int:
        """This member's term; at a leader, the term of what it appends."""
        return self._raft.state.term

    def status(self) -> RaftStatus:
        """A picture of this member."""
        return self._raft.status()

    def validate_state(self) -> None:
        """Raises `InvariantError` when something that must hold at every moment does not; for tests and simulations."""
        self._raft.validate_state()
