"""What is asked of a simulated node, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from hivenode.consensus import ConfChange
from hivenode.encoding.node_record import NodeId, SignedNodeRecord
from hivenode.encoding.records import Record
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code
from hivenode.pool.commands import Reply
from hivenode.runtime.digests import DigestReport, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """No reply: the call was not done, or nobody knows; the code says which (`errors.outcome_of`)."""

    code: Code
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A command for the log, or a change of the configuration; any node takes it and the leader decides."""

    body: Record | ConfChange
    owner: str = ""
    key: str = ""
    keep_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A linearizable look at agreed state, answered by the node that was asked."""

    query: Callable[[ReadView], Any]


Written: TypeAlias = Reply | Failure
OnWritten: TypeAlias = Callable[[Written], None]
OnAnswer: TypeAlias = Callable[[Any], None]
"""Takes what a call came to: a `Reply`, what a query returned, or a `Failure`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A call on its way from the node that was asked to the one that it takes for the leader."""

    call: int
    request: Write | Read
    deadline_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the leader says to a forwarded call, or a peer to a call of its own."""

    call: int
    result: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """Discovery: somebody says where it is, and with `asks` that it wants to hear of others."""

    address: str
    asks: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCall:
    """A call of the peer protocol to an address; an `Answer` with the same number comes back."""

    call: int
    address: str
    body: IntroduceAsked | InviteAsked | JoinAsked | MembersAsked


@dataclass(frozen=True, slots=True, kw_only=True)
class IntroduceAsked:
    """Who are you? Answered by an `Introduction`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteAsked:
    """Be a founder of a new hive. Answered by a signed record, or WRONG_HIVE."""

    by: NodeId
    hive_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinAsked:
    """A node asks to be taken into a hive, or tells it what changed about it. Answered by a `JoinOffer`."""

    hive_id: str
    record: SignedNodeRecord
    hops: int = 0
    """How many members passed it on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersAsked:
    """A member that was away asks who is in the configuration. Answered by `MembersTold`, or PERMISSION_DENIED."""

    hive_id: str
    by: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersTold:
    """Ids and addresses of the members, and what the one that answers has applied."""

    by: NodeId
    members: tuple[tuple[NodeId, tuple[str, ...]], ...]
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceAsked:
    """A member asks for the bytes of a snapshot from an offset on; `run` and `stream` say for which try."""

    run: int
    stream: int
    sha256: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceSent:
    """The next bytes of it; None when the asked node has another snapshot by now."""

    run: int
    stream: int
    offset: int
    data: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestAsked:
    """A member tells the leader its state's digest and asks whether it is the right one."""

    number: int
    report: DigestReport


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestJudged:
    """The leader's verdict on the report with this number."""

    number: int
    index: int
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderAsked:
    """Somebody without the log wants to know who leads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderTold:
    """Who leads, by its machine's name; empty when whoever was asked does not know."""

    leader: str
