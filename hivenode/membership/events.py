"""The vocabulary of forming and joining: what the machine is told (past tense) and what it asks for (imperative)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique

from hivenode.encoding.node_record import NodeId


@unique
class PeerPhase(Enum):
    """Where a node stands towards a hive, as it says when it is called."""

    FRESH = "fresh"
    """Belongs to no hive and is bound to nobody."""
    FOUNDING = "founding"
    """Bound for the moment: it invites, forms, joins, or has promised itself to a founder."""
    MEMBER = "member"


# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryBegan:
    """The finders have asked the network who is there: from now on silence says something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSeen:
    """Somebody may answer at `address` (`host:port`); `source` is who says so (`mdns`, `bootstrap`, ...)."""

    address: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfirmed:
    """The node at `address` was called and proved who it is.

    Args:
        addresses: what its record says, best first.
        hive_id: empty unless `phase` is MEMBER.
        members: how many nodes its hive has.
        hive_created_ms: when its hive was formed.
        confirmed: the peers without a hive that it has itself confirmed.
        closed: its hive takes in only whom an operator names.
    """

    address: str
    node_id: NodeId
    addresses: tuple[str, ...]
    phase: PeerPhase
    may_vote: bool
    hive_id: str
    hive_created_ms: int
    members: int
    confirmed: frozenset[NodeId]
    closed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerUnconfirmed:
    """Nobody was confirmed at `address`. `refused` says that the machine answered and nobody listens there."""

    address: str
    refused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InvitationAgreed:
    node_id: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class InvitationRefused:
    """The invited node is bound elsewhere."""

    node_id: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class InvitationUnanswered:
    """The invited node could not be reached in time."""

    node_id: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Invited:
    """A proven node asks this one to be a founder of its hive. Answered in the same step: `PromiseTo` or
    `RefuseInvitation`."""

    by: NodeId
    hive_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveFormed:
    """The hive that `FormHive` asked for is durable."""

    hive_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSucceeded:
    """This node is taken into a hive, by its own asking or because it was a promised founder."""

    hive_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinFailed:
    """The hive did not take this node in. Without `retry` the hive said no, and is asked again only much later."""

    hive_id: str
    retry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VirginityKnown:
    """What the agreed state says of the own hive; told after every change of `members` and when `virgin` ends.

    Args:
        virgin: no user, task, transfer, approval, token or setting is in it, and it may be given up without asking.
        pairing_until_ms: until when this node, its leader, may ask a virgin hive of several to dissolve; None for a follower.
    """

    virgin: bool
    members: int
    hive_created_ms: int
    pairing_until_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DissolvingFailed:
    """The hive did not agree to dissolve, or could not agree on anything now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveAbandoned:
    """The hive dissolved; its log and state are gone from this disk, and the node has a new incarnation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """A deadline came."""


Event = (
    DiscoveryBegan
    | CandidateSeen
    | PeerConfirmed
    | PeerUnconfirmed
    | InvitationAgreed
    | InvitationRefused
    | InvitationUnanswered
    | Invited
    | HiveFormed
    | JoinSucceeded
    | JoinFailed
    | VirginityKnown
    | DissolvingFailed
    | HiveAbandoned
    | TimePassed
)

# --- effects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CallBack:
    """Call the address; answer with `PeerConfirmed` or `PeerUnconfirmed` for exactly this address."""

    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteFounder:
    """Answer with `InvitationAgreed`, `InvitationRefused` or `InvitationUnanswered`."""

    node_id: NodeId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FormHive:
    """Form a hive of this node and bring in the founders that agreed. Answer with `HiveFormed`."""

    founders: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseTo:
    """Say yes to the invitation. Until `until_ms` this node forms nothing and promises itself to nobody else."""

    founder: NodeId
    hive_id: str
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseInvitation:
    by: NodeId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinHive:
    """Ask the hive, by any of its peers' addresses (in turn), to take this node in. `JoinSucceeded` or `JoinFailed`."""

    hive_id: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DissolveOwnHive:
    """Let the own hive, which has nothing in it, agree to give itself up for another one. Answer with `HiveAbandoned`
    (to every member), or with `DissolvingFailed`; with `VirginityKnown` when it must not be given up any more."""

    target_hive_id: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportForeignHive:
    hive_id: str
    address: str


Effect = (
    CallBack | InviteFounder | FormHive | PromiseTo | RefuseInvitation | JoinHive | DissolveOwnHive | ReportForeignHive
)
