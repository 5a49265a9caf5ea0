"""What nodes say to each other: `PeerNetwork` is the caller's side, `PeerHost` the callee's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum, unique
from typing import Protocol

from hivenode.consensus import Message
from hivenode.encoding.node_record import NodeId, NodeRecord, SignedNodeRecord
from hivenode.pool.records import BlobRef
from hivenode.runtime.digests import DigestReport, Verdict
from hivenode.runtime.ports.agreement import PeerAddress
from hivenode.runtime.ports.cluster import NO_CLAIM, ClusterAnswer, ClusterOrder, JoinClaim
from hivenode.runtime.ports.work import AttemptKey, WorkerHello, WorkerLink, WorkerSession
from hivenode.runtime.stores import SnapshotRef


@unique
class HivePhase(Enum):
    FRESH = "fresh"
    FOUNDING = "founding"
    MEMBER = "member"


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """What a node answers to whoever calls it, and what makes a discovered address a confirmed peer."""

    record: NodeRecord
    signed: SignedNodeRecord
    hive_id: str
    phase: HivePhase
    hive_created_ms: int
    members: int
    leader: PeerAddress | None
    confirmed: tuple[NodeId, ...]
    """The fresh peers that the answering node has itself confirmed."""
    instance: str
    """Drawn at each start of the daemon, and begins with the time of it: two machines with one key differ in it."""
    former_hives: tuple[str, ...] = ()
    """The hives that the answering node saw dissolve."""
    recoveries: tuple[bytes, ...] = ()
    """The recoveries of its hive, as canonical bytes of signed records."""
    closed: bool = False
    """Whether its hive takes in only whom an operator names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOffer:
    """What a joiner, or an invited founder, receives: the hive and where its members are.

    Args:
        later_sequence: not 0: the node is not in, since the hive has a statement of it with this sequence, which the sent
            one does not follow, as when the node's clock was set back. It can sign a later one and ask again.
        index: of the agreed state that the offer rests on.
    """

    hive_id: str
    members: tuple[SignedNodeRecord, ...]
    leader: PeerAddress
    voter_rights: bool
    nodes: tuple[NodeId, ...] = ()
    voters: tuple[NodeId, ...] = ()
    later_sequence: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersTold:
    """The nodes in the configuration, as of the `index` that whoever says so has applied."""

    members: tuple[NodeRecord, ...]
    index: int


class PeerNetwork(Protocol):
    """The caller's side of the peer protocol. Connections are made, proven and kept by the network itself."""

    async def introduce(self, address: str, deadline_s: float) -> Introduction:
        """Calls an address and returns who answers, its record checked. Raises NODE_OFFLINE, PEER_REJECTED."""
        ...

    def learn(self, peer: PeerAddress) -> None:
        """Newer addresses of a node."""
        ...

    def send(self, node: NodeId, message: Message) -> None:
        """Sends a Raft message: at most once, unordered across reconnects, dropped when the bounded queue is full."""
        ...

    async def probe(self, node: NodeId, deadline_s: float) -> bool:
        """Dials the node afresh. False when it was refused, as by a machine whose daemon is gone; True when it answered.
        Raises NODE_OFFLINE when nothing is known, as when the call timed out."""
        ...

    async def invite(self, peer: PeerAddress, hive_id: str, deadline_s: float) -> SignedNodeRecord:
        """Asks a fresh peer to be a founder of the hive that this node will form; its record when it agrees."""
        ...

    async def join(
        self,
        peer: PeerAddress,
        hive_id: str,
        record: SignedNodeRecord,
        deadline_s: float,
        claim: JoinClaim = NO_CLAIM,
    ) -> JoinOffer:
        """Asks a hive, through any of its peers, to take this node in."""
        ...

    async def open_worker_link(self, leader: PeerAddress) -> WorkerLink: ...

    def fetch_snapshot(self, peer: PeerAddress, ref: SnapshotRef, offset: int) -> AsyncIterator[bytes]:
        """The bytes of a snapshot that the peer offered, from `offset` on, each piece checked as it comes."""
        ...

    async def manage_hive(self, leader: PeerAddress, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        """Asks the leader to take a node out or to let another lead; returns the node's whole id."""
        ...

    async def members(self, peer: PeerAddress, deadline_s: float) -> MembersTold:
        """Asks a member of this hive which nodes are in the configuration."""
        ...

    async def compare_digest(self, leader: PeerAddress, report: DigestReport, deadline_s: float) -> Verdict:
        """Tells the leader this member's digest, and returns what it makes of it."""
        ...

    def fetch_blob(self, peer: PeerAddress, blob: BlobRef) -> AsyncIterator[bytes]: ...

    async def store_blob(self, peer: PeerAddress, blob: BlobRef, pieces: AsyncIterator[bytes]) -> None:
        """Returns when the peer has the blob checked and fsynced."""
        ...

    def read_log(self, peer: PeerAddress, key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]: ...


class PeerHost(Protocol):
    """The callee's side of the peer protocol. `caller` is proven before any of these is called."""

    def introduction(self) -> Introduction: ...

    def receive(self, caller: NodeId, message: Message) -> None: ...

    def check_heard(self, caller: NodeId) -> None:
        """Raises PERMISSION_DENIED or NOT_A_MEMBER when the consensus messages of a peer are not taken."""
        ...

    def peer_connected(self, caller: NodeId) -> None:
        """A message stream of the caller's stands, perhaps beside an older one."""
        ...

    def peer_lost(self, caller: NodeId, reset: bool) -> None:
        """A message stream of the caller's ended: told once for each that stood."""
        ...

    def accept_invitation(self, caller: NodeId, hive_id: str) -> SignedNodeRecord:
        """Raises WRONG_HIVE unless this node is fresh and has not promised itself to another founder."""
        ...

    async def accept_join(self, through: NodeId, record: SignedNodeRecord, claim: JoinClaim) -> JoinOffer:
        """At the leader: takes the signer of the record in. Elsewhere raises NO_LEADER; the transport forwards.

        Args:
            through: who brings the request: the joiner itself, or a member that it asked.
        """
        ...

    async def open_worker_session(self, caller: NodeId, hello: WorkerHello) -> WorkerSession: ...

    async def manage_hive(self, caller: NodeId, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        """At the leader. Raises PERMISSION_DENIED for a node without voter right, but for its own leaving."""
        ...

    async def compare_digest(self, caller: NodeId, report: DigestReport) -> Verdict:
        """At the leader. Raises PEER_REJECTED for a report of another node than the caller."""
        ...

    def members(self, caller: NodeId) -> tuple[tuple[SignedNodeRecord, ...], int]:
        """The nodes in the configuration, and the index that this node has applied. Raises PERMISSION_DENIED for who takes
        no part."""
        ...

    def read_snapshot(self, caller: NodeId, sha256: str, offset: int) -> AsyncIterator[bytes]:
        """This node's newest snapshot. Raises PERMISSION_DENIED for a node without voter right, BLOB_NOT_FOUND."""
        ...
