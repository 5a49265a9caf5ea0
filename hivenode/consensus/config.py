"""The core's configuration, roles, refusals, and the picture of itself that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique

from hivenode.consensus.messages import ConfState, MemberId
from hivenode.consensus.progress import ProgressStatus
from hivenode.errors import Code, HiveError


@unique
class Role(Enum):
    """What a member is in its term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@unique
class DropReason(Enum):
    """Why the core did not take a proposal or a read."""

    NOT_LEADER = "this member does not lead"
    NO_LEADER = "no leader is known"
    TRANSFER = "leadership is being transferred"
    LOG_FULL = "too much of the log is not committed yet"
    REMOVED = "this member is not in the configuration"
    CHANGE_PENDING = "another configuration change is not applied yet"
    INVALID_CHANGE = "the change does not fit the configuration"
    NOT_A_VOTER = "the member cannot lead, because it is not a voter"
    TOO_MANY_READS = "too many reads wait already"


class ProposalDropped(HiveError):  # noqa: N818 - it names what happened, and the port's users know it by this name.
    """The proposal was not appended; asking again, perhaps elsewhere, is safe."""

    def __init__(self, reason: DropReason, detail: str = "") -> None:
        code = _CODES.get(reason, Code.NO_LEADER)
        super().__init__(code, f"Not proposed: {reason.value}{': ' if detail else ''}{detail}.")
        self.reason = reason


class ReadDropped(HiveError):  # noqa: N818 - as above.
    """The read was not taken; asking again, perhaps elsewhere, is safe."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(_CODES.get(reason, Code.NO_LEADER), f"Not read: {reason.value}.")
        self.reason = reason


_CODES: Mapping[DropReason, Code] = {
    DropReason.LOG_FULL: Code.OVERLOADED,
    DropReason.TOO_MANY_READS: Code.OVERLOADED,
    DropReason.CHANGE_PENDING: Code.OVERLOADED,
    DropReason.REMOVED: Code.NOT_A_MEMBER,
    DropReason.INVALID_CHANGE: Code.INVALID_ARGUMENT,
    DropReason.NOT_A_VOTER: Code.INVALID_ARGUMENT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Bounds and times of one member; every one of them may differ between members without harm to safety."""

    member_id: MemberId
    election_timeout_ms: tuple[int, int] = (1000, 2000)
    """A follower that hears no leader for a random time in this range asks for an election. The lower end is also how
    long a voter sticks to a leader that it heard, and how often a leader checks that a quorum hears it. The spread is as
    wide as the lower end, so that two candidates seldom meet (paper §9.3)."""
    heartbeat_interval_ms: int = 150
    """Some six heartbeats fit in the shortest election timeout, so a few lost ones depose nobody."""
    leader_lost_delay_ms: int = 150
    """After `leader_lost` the voters that are left ask one after the other, in the order of their ids, this far apart and
    with a third of it random: several round trips of a LAN, so that an election ends before the next begins, and far less
    than an election timeout."""
    commit_delay_ms: int = 0
    """A new commit index rides on the next append, and goes alone when there is none for so long: under load followers are told
    for nothing, and answer for nothing. It goes at once when a read waits for it, or a change of the configuration."""
    max_append_bytes: int = 1 << 20
    """One append carries about this much: enough to fill a LAN's pipe, little enough not to delay a heartbeat."""
    max_inflight_appends: int = 64
    """So many appends may be out to a member unanswered; with `max_append_bytes` this bounds memory a member."""
    max_uncommitted_bytes: int = 64 << 20
    """Proposals are refused while so much of the log is not committed, so that a leader without a quorum stays small."""
    max_committed_bytes_per_ready: int = 4 << 20
    """So much is handed out for applying at a time, so that one Ready never holds the loop for long."""
    max_pending_reads: int = 16_384
    """So many reads wait for a round at most; more are refused."""
    snapshot_reoffer_ms: int = 10_000
    """A member that has not finished a snapshot after this is asked anew where it stands: its offer may have been lost
    or it may have restarted. A receiver that is still fetching goes on fetching."""
    pre_vote: bool = True
    check_quorum: bool = True

    def validate(self) -> None:
        """Refuses a configuration that cannot work.

        Raises:
            HiveError: INVALID_ARGUMENT, naming the field.
        """
        low, high = self.election_timeout_ms
        positive = {
            "heartbeat_interval_ms": self.heartbeat_interval_ms,
            "max_append_bytes": self.max_append_bytes,
            "max_inflight_appends": self.max_inflight_appends,
            "max_uncommitted_bytes": self.max_uncommitted_bytes,
            "max_committed_bytes_per_ready": self.max_committed_bytes_per_ready,
            "max_pending_reads": self.max_pending_reads,
            "snapshot_reoffer_ms": self.snapshot_reoffer_ms,
        }
        for name, value in positive.items():
            if value <= 0:
                raise HiveError(Code.INVALID_ARGUMENT, f"{name} must be greater than 0, not {value}.")
        if not self.member_id:
            raise HiveError(Code.INVALID_ARGUMENT, "member_id must not be empty.")
        if self.leader_lost_delay_ms < 0:
            raise HiveError(Code.INVALID_ARGUMENT, "leader_lost_delay_ms must not be negative.")
        if not 0 <= self.commit_delay_ms < self.heartbeat_interval_ms:
            raise HiveError(Code.INVALID_ARGUMENT, "commit_delay_ms must be shorter than heartbeat_interval_ms.")
        if low <= self.heartbeat_interval_ms:
            raise HiveError(Code.INVALID_ARGUMENT, "election_timeout_ms must be longer than heartbeat_interval_ms.")
        if high <= low:
            raise HiveError(Code.INVALID_ARGUMENT, "election_timeout_ms must be a range (low, high) with low < high.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftStatus:
    """A picture of one member, for people, for metrics and for the membership rules."""

    member_id: MemberId
    role: Role
    term: int
    leader: MemberId | None
    commit: int
    applied: int
    last_index: int
    conf: ConfState
    transfer_target: MemberId | None
    conflicts_refused: int
    """Appends that would have rewritten a committed entry: more than 0 means that some member's disk forgot or lied."""
    progress: Mapping[MemberId, ProgressStatus]
    """By member, at the leader; empty elsewhere."""
