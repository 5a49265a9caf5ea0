"""The leader's answer to a machine that asks to join: with which rights, or that it has to wait for somebody's word.

Rules, the first that fits
1. Who is in already keeps its rights.
2. A hive that has `NODES_MAX` machines takes in no more.
3. Who was approved, or shows a token that stands, comes in with those rights.
4. In a hive of mode `lan` who asks from the same network comes in while there are fewer than `UNASKED_MAX` machines: with voter
   right within `PAIRING_MS` of the hive's birth, later as a worker that waits for voter right.
5. Everybody else waits, and is listed.
The role of a machine bounds what it may get. Who waits is remembered by the leader alone and asks again by itself, so that
strangers cannot fill the log.

A machine has its place from when it is let in until its entry is applied, so those that ask at one moment count for each other. A
join that is broken off keeps its place until nothing more can come of it: its entry is applied, or another leader's term began.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from hivenode.consensus import RaftStatus
from hivenode.encoding.join_token import join_message, key_hash
from hivenode.encoding.node_record import NodeId, NodeRecord, SignedNodeRecord
from hivenode.encoding.records import decode_record
from hivenode.encoding.recovery import base_of
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError
from hivenode.identity import verify_signature
from hivenode.membership.formation import PAIRING_MS
from hivenode.pool import joining, nodes, queries
from hivenode.pool.events import Event
from hivenode.pool.records import NodeEntry, NodeKind, NodeRights, TrustMode
from hivenode.runtime.node_watch import NodeWatch
from hivenode.runtime.ports import JoinClaim, PendingNode
from hivenode.runtime.refusals import Refusals

NODES_MAX: Final = 4_096
"""Machines of one hive, as many as a machine that comes in is told of (`transport/peers.py`). The leader sees to it before a join
is agreed on: as a rule of the command itself it would change what logs of released versions mean."""
UNASKED_MAX: Final = NODES_MAX * 3 // 4
"""Machines up to which in mode `lan` whoever asks comes in. The rest is kept for those that an operator names: whoever makes many
keys would keep the owner's own machines out."""
PENDING_MAX: Final = 256
"""Machines that wait; the one that asked first makes room. A stranger can make as many keys as it likes."""
PENDING_KEEP_MS: Final = 120_000
"""Who waits asks every half minute; who is gone is not listed for long."""


class Leader(Protocol):
    """The replica that leads, having applied all that earlier leaders may have agreed on."""

    def view(self) -> ReadView: ...

    def status(self) -> RaftStatus: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _BrokenOff:
    """A join of which something may still come in this term, at an index up to this one."""

    term: int
    index: int

    def is_over(self, now: RaftStatus) -> bool:
        return now.term != self.term or now.applied >= self.index


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    node: PendingNode
    asked_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """A machine of the hive; `waiting` when it waits for the right to vote."""

    waiting: PendingNode | None


class JoinDesk:
    """See the module.

    Args:
        clock_ms: monotonic time.
        wall_ms: ms since 1970, for the expiry of tokens and approvals.
        nodes_max: machines of the hive.
        unasked_max: machines up to which in mode `lan` whoever asks comes in.
    """

    def __init__(
        self,
        clock_ms: Callable[[], int],
        wall_ms: Callable[[], int],
        *,
        nodes_max: int = NODES_MAX,
        unasked_max: int = UNASKED_MAX,
    ) -> None:
        self._clock_ms = clock_ms
        self._wall_ms = wall_ms
        self._nodes_max = nodes_max
        self._unasked_max = unasked_max
        self._waiting: OrderedDict[NodeId, _Waiting] = OrderedDict()
        self._refusals = Refusals(lambda: clock_ms() / 1_000)
        self._machines = NodeWatch(_machine)
        self._coming: Counter[str] = Counter()
        self._broken_off: dict[str, _BrokenOff] = {}  # Each has a place, so there are no more of them than machines.

    def applied(self, events: tuple[Event, ...]) -> None:
        """To be told of all that happens in the hive."""
        self._machines.applied(events)

    @contextmanager
    def place(self, leader: Leader, joiner: NodeRecord, claim: JoinClaim) -> Iterator[NodeRights]:
        """The rights of a machine that asks; it has its place while the block agrees on its entry, and after it when that is
        broken off by whatever it raises.

        Raises NODE_REMOVED for who is kept out, PEER_REJECTED for who has to wait, shows a wrong token, or finds no room.
        """
        rights = self._rights_for(leader, joiner, claim)
        self._coming[joiner.node_id] += 1
        try:
            yield rights
        except BaseException:
            now = leader.status()
            self._forget_those_over(now)
            self._broken_off[joiner.node_id] = _BrokenOff(term=now.term, index=now.last_index)
            raise
        finally:
            self._coming[joiner.node_id] -= 1
            if not self._coming[joiner.node_id]:
                del self._coming[joiner.node_id]

    def _rights_for(self, leader: Leader, joiner: NodeRecord, claim: JoinClaim) -> NodeRights:
        view = leader.view()
        nodes.refuse_denied(view, joiner.node_id)
        known = queries.node(view, joiner.node_id)
        if known is not None and known.kind is NodeKind.HIVE:
            return known.rights
        if self._has_others(leader, joiner.node_id, self._nodes_max):
            raise HiveError(
                Code.PEER_REJECTED,
                f"the hive has {self._nodes_max} machines, and takes no more: an operator makes room with "
                "`hivenode cluster remove`, for each machine that is not wanted any more",
            )
        most = NodeRights.VOTER if joiner.role.may_vote else NodeRights.WORKER
        rights = self._granted(view, joiner, claim)
        if rights is not None:
            self._waiting.pop(joiner.node_id, None)
            return most if rights is NodeRights.VOTER else NodeRights.WORKER
        hive = queries.hive(view)
        comes_unasked = joining.trust_mode(view) is TrustMode.LAN and claim.from_lan
        if hive is None or not comes_unasked or self._has_others(leader, joiner.node_id, self._unasked_max):
            self._wait(joiner)
            raise HiveError(
                Code.PEER_REJECTED,
                "this machine waits for approval: an operator of the hive runs "
                f"`hivenode cluster approve {joiner.node_id}`, or gives it a join token",
            )
        young = self._wall_ms() - hive.created_ms < PAIRING_MS
        return most if young else NodeRights.WORKER

    def _has_others(self, leader: Leader, joiner: NodeId, number: int) -> bool:
        """Whether so many besides the joiner are in or coming in."""
        machines = self._machines.kept(leader.view()).keys()
        if len(machines) + len(self._coming) + len(self._broken_off) < number:
            return False
        self._forget_those_over(leader.status())
        coming = (self._coming.keys() | self._broken_off.keys()) - machines - {joiner}
        return len(machines) + len(coming) >= number

    def _forget_those_over(self, now: RaftStatus) -> None:
        self._broken_off = {node: join for node, join in self._broken_off.items() if not join.is_over(now)}

    def _granted(self, view: ReadView, joiner: NodeRecord, claim: JoinClaim) -> NodeRights | None:
        now_ms = self._wall_ms()
        approved = joining.approval(view, joiner.node_id, now_ms)
        if approved is not None or not claim.token_key:
            return approved
        hive = queries.hive(view)
        hive_id = base_of(hive.hive_id) if hive is not None else ""
        token = joining.join_token(view, key_hash(claim.token_key), now_ms)
        message = join_message(hive_id=hive_id, node_id=joiner.node_id)
        if token is None or not verify_signature(claim.token_key, message, claim.token_signature):
            self._refusals.name(joiner.node_id, "a join by token", expired_or_unknown=token is None)
            raise HiveError(Code.PEER_REJECTED, "the join token has expired, or is not of this hive: ask for another")
        return token.rights

    def _wait(self, joiner: NodeRecord) -> None:
        wants = NodeRights.VOTER if joiner.role.may_vote else NodeRights.WORKER
        if joiner.node_id not in self._waiting:
            self._refusals.name(joiner.node_id, "a join without approval", addresses=joiner.addresses)
        node = PendingNode(
            node_id=joiner.node_id,
            hostname=joiner.capabilities.hostname,
            addresses=joiner.addresses,
            wants=wants,
            is_in=False,
        )
        self._waiting[joiner.node_id] = _Waiting(node=node, asked_ms=self._clock_ms())
        self._waiting.move_to_end(joiner.node_id)
        while len(self._waiting) > PENDING_MAX:
            self._waiting.popitem(last=False)

    def pending(self, view: ReadView) -> tuple[PendingNode, ...]:
        """Who waits: strangers that asked lately, and workers that could vote."""
        oldest_ms = self._clock_ms() - PENDING_KEEP_MS
        strangers = [
            waiting.node
            for node_id, waiting in self._waiting.items()
            if waiting.asked_ms >= oldest_ms
            and queries.node(view, node_id) is None
            and not nodes.is_denied(view, node_id)
        ]
        return (*strangers, *self.could_vote(view))

    def could_vote(self, view: ReadView) -> tuple[PendingNode, ...]:
        """Nodes of the hive whose owners let them vote, and which nobody has given the right yet."""
        machines = self._machines.kept(view).values()
        waiting = [machine.waiting for machine in machines if machine.waiting is not None]
        return tuple(sorted(waiting, key=lambda node: node.node_id))


def _machine(entry: NodeEntry) -> _Machine | None:
    if entry.kind is not NodeKind.HIVE:
        return None
    # Its signature was checked when it was admitted.
    record = decode_record(NodeRecord, decode_record(SignedNodeRecord, entry.signed_record).record)
    if entry.rights is NodeRights.VOTER or not record.role.may_vote:
        return _Machine(waiting=None)
    waiting = PendingNode(
        node_id=entry.node_id,
        hostname=entry.capabilities.hostname,
        addresses=entry.addresses,
        wants=NodeRights.VOTER,
        is_in=True,
    )
    return _Machine(waiting=waiting)
