"""The ports: what the rooms of the daemon want of each other, in plain values. Siblings meet here and nowhere else.

| file | who calls whom |
|---|---|
| `users` | the API's services, for users: `Accounts`, `Registry`, `Tasks` |
| `cluster` | the API's services, for owners and operators: `ClusterControl`, `HiveStatus` |
| `agreement` | whoever wants something agreed on, or the leader: `Agreement`, `Leadership` |
| `peers` | other nodes: `PeerNetwork` for the caller's side, `PeerHost` for the callee's |
| `work` | the leader and its workers: `WorkerLink`, `WorkerSession`, `TaskRunner` |
| `blobs` | files and their copies: `BlobStore`, `BlobCopies` |

Every method may raise `HiveError`; every one that waits takes or has a deadline. `daemon.py` alone says which class fills which
port.
"""

from __future__ import annotations

from hivenode.runtime.ports.agreement import Agreement, Leadership, PeerAddress, Standing
from hivenode.runtime.ports.blobs import BlobCopies, BlobStore
from hivenode.runtime.ports.cluster import (
    NO_CLAIM,
    ClusterAction,
    ClusterAnswer,
    ClusterControl,
    ClusterOrder,
    HiveStatus,
    JoinClaim,
    MadeCopy,
    MemberStatus,
    PendingNode,
    StatusReport,
)
from hivenode.runtime.ports.peers import HivePhase, Introduction, JoinOffer, MembersTold, PeerHost, PeerNetwork
from hivenode.runtime.ports.users import (
    Accounts,
    Caller,
    MachineOwner,
    NodeHealth,
    NodeListing,
    Registry,
    StoredFile,
    Submitted,
    TaskEvent,
    Tasks,
    TaskView,
    UsageReport,
)
from hivenode.runtime.ports.work import (
    AttemptEnded,
    AttemptKey,
    AttemptOrder,
    AttemptStarted,
    CloseOrder,
    RosterOrder,
    StopOrder,
    TaskRunner,
    WorkerEvent,
    WorkerHeartbeat,
    WorkerHello,
    WorkerLink,
    WorkerOrder,
    WorkerSession,
)

__all__ = [
    "Accounts",
    "Agreement",
    "AttemptEnded",
    "AttemptKey",
    "AttemptOrder",
    "AttemptStarted",
    "BlobCopies",
    "BlobStore",
    "Caller",
    "CloseOrder",
    "ClusterAction",
    "ClusterAnswer",
    "ClusterControl",
    "ClusterOrder",
    "HivePhase",
    "HiveStatus",
    "Introduction",
    "JoinClaim",
    "JoinOffer",
    "Leadership",
    "MachineOwner",
    "MadeCopy",
    "MemberStatus",
    "MembersTold",
    "NO_CLAIM",
    "NodeHealth",
    "NodeListing",
    "PeerAddress",
    "PeerHost",
    "PeerNetwork",
    "PendingNode",
    "Registry",
    "RosterOrder",
    "Standing",
    "StatusReport",
    "StopOrder",
    "StoredFile",
    "Submitted",
    "TaskEvent",
    "TaskRunner",
    "TaskView",
    "Tasks",
    "UsageReport",
    "WorkerEvent",
    "WorkerHeartbeat",
    "WorkerHello",
    "WorkerLink",
    "WorkerOrder",
    "WorkerSession",
]
