"""The whole vocabulary of the consensus core: ids, log entries, persisted state, configurations, and messages.

Rules:
- Every value is frozen; a message may be handed to another thread or kept in a simulator's queue without a copy.
- Every message says to whom, from whom and in which term it speaks. A pre-vote speaks of the term that it would begin.
- Bytes are opaque here. How a message goes over the wire is the transport's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import Final, NewType, TypeAlias

MemberId = NewType("MemberId", str)
"""Opaque name of one log holder, `<node_id>.<incarnation>`: a node that lost its log comes back as another member."""

ENTRY_OVERHEAD_BYTES: Final = 32
"""What an entry counts for beside its data, so that a flood of empty entries is bounded too."""


@unique
class EntryKind(Enum):
    """What an entry's data holds; the values are stored on disk and never change."""

    NORMAL = 0
    CONF_CHANGE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One place in the replicated log (Raft paper §5.3)."""

    term: int
    index: int
    kind: EntryKind = EntryKind.NORMAL
    data: bytes = b""

    @property
    def size_bytes(self) -> int:
        """What the entry counts for against the bounds on messages and on the log's tail."""
        return len(self.data) + ENTRY_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class HardState:
    """What a member must never forget: its term, its vote in it, and, to start faster, the commit index."""

    term: int = 0
    vote: MemberId | None = None
    commit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfState:
    """A configuration; it is joint while `voters_outgoing` is not empty (Raft thesis §4.3).

    Both `voters` and `voters_outgoing` must agree while it is joint. `learners_next` are outgoing voters that become
    learners when the joint configuration is left, which the leader does by itself when `auto_leave` is set.
    """

    voters: frozenset[MemberId] = frozenset()
    voters_outgoing: frozenset[MemberId] = frozenset()
    learners: frozenset[MemberId] = frozenset()
    learners_next: frozenset[MemberId] = frozenset()
    auto_leave: bool = False

    @property
    def is_joint(self) -> bool:
        return bool(self.voters_outgoing)

    def members(self) -> frozenset[MemberId]:
        """All that receive the log."""
        return self.voters | self.voters_outgoing | self.learners | self.learners_next

    def is_voter(self, member: MemberId) -> bool:
        """Whether the member's vote counts in either half."""
        return member in self.voters or member in self.voters_outgoing


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfChange:
    """A change of the configuration; more than one member in it makes it a joint change that is left automatically.

    A member in `add_voters` that is a learner is promoted, one in `add_learners` that is a voter is demoted. The change
    without any member leaves a joint configuration; only the leader itself proposes that one.
    """

    add_voters: tuple[MemberId, ...] = ()
    add_learners: tuple[MemberId, ...] = ()
    remove: tuple[MemberId, ...] = ()
    context: bytes = b""

    @property
    def leaves_joint(self) -> bool:
        return not (self.add_voters or self.add_learners or self.remove)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotMeta:
    """The log position that a snapshot stands for, and the configuration as of that position."""

    index: int
    term: int
    conf: ConfState


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A snapshot; `data` is opaque and small (a descriptor), the bulk is fetched outside the core."""

    meta: SnapshotMeta
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRequest:
    """Asks for a vote (paper §5.2) or, with `pre_vote`, whether one would be given (thesis §9.6).

    `transfer` says that the leader itself asked for this election, so leader stickiness does not apply. `commit` and
    `commit_term` name the last entry that the candidate knows to be committed; see `VoteResponse`.
    """

    to: MemberId
    from_: MemberId
    term: int
    pre_vote: bool
    last_index: int
    last_term: int
    transfer: bool = False
    commit: int = 0
    commit_term: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteResponse:
    """Answers a vote request; a granted pre-vote bears the term that was asked for, a refusal the voter's own.

    It names the last entry that the voter knows to be committed. Who has that very entry knows the same from then on,
    which matters when it is a change of the configuration: a leader that removed itself sends nothing more, and the
    others may need its vote for as long as they do not know that the change is committed.
    """

    to: MemberId
    from_: MemberId
    term: int
    pre_vote: bool
    granted: bool
    commit: int = 0
    commit_term: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendRequest:
    """Entries that follow `prev_index`, and the leader's commit index (paper §5.3)."""

    to: MemberId
    from_: MemberId
    term: int
    prev_index: int
    prev_term: int
    entries: tuple[Entry, ...]
    commit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendResponse:
    """`index` is the last one known to match or, with `reject`, the `prev_index` that did not.

    A rejection hints at the highest place where the two logs may agree: index `hint_index`, of `hint_term` here. A
    rejection at index 0 says that the member has no configuration yet, and asks for a snapshot.
    """

    to: MemberId
    from_: MemberId
    term: int
    index: int
    reject: bool = False
    hint_index: int = 0
    hint_term: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Keeps leadership, tells the commit index, and carries the number of the round of reads in flight."""

    to: MemberId
    from_: MemberId
    term: int
    commit: int
    context: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatResponse:
    """Answers a heartbeat with its context."""

    to: MemberId
    from_: MemberId
    term: int
    context: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotOffer:
    """Offers a snapshot to a member whose next entry is compacted away (paper §7).

    The runtime fetches the bulk that the descriptor names first, and hands the offer to `step` only then.
    """

    to: MemberId
    from_: MemberId
    term: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotStatus:
    """A receiver's runtime tells the leader how fetching an offered snapshot ended; see `RawNode.report_snapshot`."""

    to: MemberId
    from_: MemberId
    term: int
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutNow:
    """The leader asks a member to stand for election at once (thesis §3.10)."""

    to: MemberId
    from_: MemberId
    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadIndexRequest:
    """A follower asks for an index from which a read is linearizable (thesis §6.4)."""

    to: MemberId
    from_: MemberId
    term: int
    context: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadIndexResponse:
    """The index that the member's state must have applied before it answers the read called `context`."""

    to: MemberId
    from_: MemberId
    term: int
    context: bytes
    index: int


Message: TypeAlias = (
    VoteRequest
    | VoteResponse
    | AppendRequest
    | AppendResponse
    | Heartbeat
    | HeartbeatResponse
    | SnapshotOffer
    | SnapshotStatus
    | TimeoutNow
    | ReadIndexRequest
    | ReadIndexResponse
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadState:
    """A confirmed read: when `index` is applied, the state answers the read called `context` linearizably."""

    context: bytes
    index: int


_NUMBER_END: Final = 1 << 63
"""Terms and indexes beyond a signed 64-bit number are nonsense, and would not go over the wire again."""


def is_well_formed(message: Message) -> bool:
    """Whether the message's numbers make sense by themselves; what is not well formed is dropped unanswered."""
    if not 0 < message.term < _NUMBER_END and not (message.term == 0 and isinstance(message, VoteResponse)):
        return False
    match message:
        case AppendRequest():
            return _append_is_well_formed(message)
        case AppendResponse():
            return message.index >= 0 and message.hint_index >= 0 and message.hint_term >= 0
        case Heartbeat():
            return message.commit >= 0
        case HeartbeatResponse():
            return True
        case VoteRequest():
            return (
                0 <= message.last_term <= message.term and 0 <= message.last_index < _NUMBER_END and message.commit >= 0
            )
        case VoteResponse():
            return message.commit >= 0
        case SnapshotOffer():
            meta = message.snapshot.meta
            return 0 <= meta.index < _NUMBER_END and 0 <= meta.term <= message.term and bool(meta.conf.voters)
        case ReadIndexResponse():
            return message.index >= 0
        case _:
            return True


def _append_is_well_formed(message: AppendRequest) -> bool:
    if message.commit < 0 or not 0 <= message.prev_term <= message.term or not 0 <= message.prev_index < _NUMBER_END:
        return False
    index, term = message.prev_index, message.prev_term
    for entry in message.entries:
        index += 1
        if entry.index != index or entry.term < term:
            return False
        term = entry.term
    return term <= message.term
