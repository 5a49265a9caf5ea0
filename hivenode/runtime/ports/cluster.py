"""What the owner of a machine and an operator ask of the hive, and what a node says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path
from typing import Final, Protocol

from hivenode.encoding.node_record import NodeId
from hivenode.pool.records import NodeRights


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """A Raft member. `alive` is None where this node cannot know: only the leader hears from all of them."""

    member_id: str
    node_id: str
    voter: bool
    match_index: int
    alive: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """What `hivenode status` tells: who and where this node is, and what the hive looks like from here."""

    node_id: str
    hive_id: str
    role: str
    phase: str
    version: str
    api_address: str
    peer_address: str
    peer_addresses: tuple[str, ...]
    leader_node_id: str
    leader_address: str
    term: int
    commit_index: int
    applied_index: int
    members: tuple[MemberStatus, ...]
    nodes: int
    copies: int
    users: int
    tasks_pending: int
    tasks_running: int
    tasks_ended: int
    ledger_height: int
    supply: int
    executor: str
    executor_note: str
    trust: str
    warnings: tuple[str, ...]


@unique
class ClusterAction(Enum):
    REMOVE = "remove"
    TRANSFER = "transfer"
    APPROVE = "approve"
    DENY = "deny"
    REVOKE = "revoke"
    TOKEN = "token"
    PENDING = "pending"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOrder:
    """What a member asks of the leader.

    `node` is an id or an unmistakable beginning of one; for TOKEN the hash of the token's public key, for PENDING empty.
    `rights` belongs to APPROVE and TOKEN, `lifetime_ms` to TOKEN.
    """

    action: ClusterAction
    node: str = ""
    rights: NodeRights = NodeRights.WORKER
    lifetime_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingNode:
    """A machine that waits for an operator's word: to come in, or (`is_in`) to vote."""

    node_id: NodeId
    hostname: str
    addresses: tuple[str, ...]
    wants: NodeRights
    is_in: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAnswer:
    """What the leader did: the node's whole id, of TOKEN the expiry, of PENDING who waits."""

    node: str = ""
    expires_ms: int = 0
    pending: tuple[PendingNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinClaim:
    """What speaks for a joiner besides its record.

    Args:
        from_lan: it called from the network of the member that it asked.
        token_key, token_signature: the public key of a join token, and what it signed.
    """

    from_lan: bool = False
    token_key: bytes = b""
    token_signature: bytes = b""


NO_CLAIM: Final = JoinClaim()


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeCopy:
    """A copy of the agreed state in a file of this node."""

    path: Path
    index: int
    term: int
    size_bytes: int
    sha256: str


class ClusterControl(Protocol):
    """What the owner of this machine does with the hive (any node); each returns when it is done."""

    async def remove(self, node: str, deadline_s: float) -> str:
        """Takes a node out of the hive for good; returns its whole id. Raises NODE_NOT_FOUND, INVALID_ARGUMENT."""
        ...

    async def hand_leadership(self, node: str, deadline_s: float) -> str:
        """Lets a voter lead; returns its whole id."""
        ...

    async def leave(self, deadline_s: float) -> None:
        """Takes this node out of the hive for good; its daemon stops soon after."""
        ...

    async def move(self, address: str, abandon: bool, deadline_s: float) -> str:
        """Takes this node to the hive at a peer address; returns that hive's id. The daemon begins anew soon after.

        Raises INVALID_ARGUMENT when there is none, it is the own one, or the own one is to be kept; NODE_OFFLINE.
        """
        ...

    async def join_by_token(self, token: str, abandon: bool, deadline_s: float) -> str:
        """Takes this node to the hive of a join token; otherwise as `move`."""
        ...

    async def create_token(self, rights: NodeRights, lifetime_ms: int, deadline_s: float) -> tuple[str, int]:
        """A join token of this hive, and when it expires (ms since 1970)."""
        ...

    async def manage(self, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        """APPROVE, DENY, REVOKE and PENDING."""
        ...

    async def snapshot(self) -> MadeCopy: ...


class HiveStatus(Protocol):
    def report(self) -> StatusReport: ...
