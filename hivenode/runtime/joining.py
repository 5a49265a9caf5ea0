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
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.join_token import join_message, key_hash
from hivenode.encoding.node_record import NodeId, NodeRecord, SignedNodeRecord, open_record
from hivenode.encoding.records import decode_record
from hivenode.encoding.recovery import base_of
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError
from hivenode.identity import verify_signature
from hivenode.membership.formation import PAIRING_MS
from hivenode.pool import joining, nodes, queries
from hivenode.pool.records import NodeKind, NodeRights, TrustMode
from hivenode.runtime.ports import JoinClaim, PendingNode

NODES_MAX: Final = 4_096
"""Machines of one hive, as many as a machine that comes in is told of (`transport/peers.py`). It is looked at before a join is
agreed on, so joins under way at one moment can go over it by their number: as a rule of the command itself it would change what
logs of released versions mean."""
UNASKED_MAX: Final = NODES_MAX * 3 // 4
"""Machines up to which in mode `lan` whoever asks comes in. The rest is kept for those that an operator names: whoever makes many
keys would keep the owner's own machines out."""
PENDING_MAX: Final = 256
"""Machines that wait; the one that asked first makes room. A stranger can make as many keys as it likes."""
PENDING_KEEP_MS: Final = 120_000
"""Who waits asks every half minute; who is gone is not listed for long."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    node: PendingNode
    asked_ms: int


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

    def rights_for(self, view: ReadView, joiner: NodeRecord, claim: JoinClaim) -> NodeRights:
        """Raises NODE_REMOVED for who is kept out, PEER_REJECTED for who has to wait, shows a wrong token, or finds no room."""
        nodes.refuse_denied(view, joiner.node_id)
        known = queries.node(view, joiner.node_id)
        if known is not None and known.kind is NodeKind.HIVE:
            return known.rights
        if _has_machines(view, self._nodes_max):
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
        if hive is None or not comes_unasked or _has_machines(view, self._unasked_max):
            self._wait(joiner)
            raise HiveError(
                Code.PEER_REJECTED,
                "this machine waits for approval: an operator of the hive runs "
                f"`hivenode cluster approve {joiner.node_id}`, or gives it a join token",
            )
        young = self._wall_ms() - hive.created_ms < PAIRING_MS
        return most if young else NodeRights.WORKER

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
            _log.warning("a join token was refused", node=joiner.node_id, expired_or_unknown=token is None)
            raise HiveError(Code.PEER_REJECTED, "the join token has expired, or is not of this hive: ask for another")
        return token.rights

    def _wait(self, joiner: NodeRecord) -> None:
        wants = NodeRights.VOTER if joiner.role.may_vote else NodeRights.WORKER
        if joiner.node_id not in self._waiting:
            _log.warning("a machine waits for approval", node=joiner.node_id, addresses=joiner.addresses)
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
        return (*strangers, *workers_that_could_vote(view))


def _has_machines(view: ReadView, number: int) -> bool:
    """Whether the hive has so many. The counter counts foreign workers too, so these are told apart where it matters alone."""
    if queries.counts(view).nodes < number:
        return False
    return sum(entry.kind is NodeKind.HIVE for entry in queries.nodes(view)) >= number


def workers_that_could_vote(view: ReadView) -> tuple[PendingNode, ...]:
    """Nodes of the hive whose owners let them vote, and which nobody has given the right yet."""
    found = []
    for entry in queries.nodes(view):
        if entry.kind is not NodeKind.HIVE or entry.rights is NodeRights.VOTER:
            continue
        try:
            record = open_record(decode_record(SignedNodeRecord, entry.signed_record), verify_signature)
        except DecodeError:
            continue  # Checked when it was admitted.
        if record.role.may_vote:
            found.append(
                PendingNode(
                    node_id=entry.node_id,
                    hostname=entry.capabilities.hostname,
                    addresses=entry.addresses,
                    wants=NodeRights.VOTER,
                    is_in=True,
                )
            )
    return tuple(found)
