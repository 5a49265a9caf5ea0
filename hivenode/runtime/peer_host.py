"""What this node answers to its peers; fills `PeerHost`. Who is calling was proven by the transport."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Set
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import structlog

from hivenode.consensus import MemberId, Message
from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import NodeId, NodeRecord, SignedNodeRecord, Verify, open_record
from hivenode.encoding.records import decode_record, encode_record
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError
from hivenode.identity import verify_signature
from hivenode.pool import joining, nodes, queries, validation
from hivenode.pool.commands import AdmitNode
from hivenode.pool.events import Event, NodeChanged, NodeRemoved, StateReplaced
from hivenode.pool.records import NodeEntry, NodeKind, NodeRights, TrustMode
from hivenode.pool.recoveries import recoveries
from hivenode.runtime.admission import TwinChecks
from hivenode.runtime.coordinator import Coordinator
from hivenode.runtime.digest_keeper import DigestKeeper
from hivenode.runtime.digests import DigestReport, Verdict
from hivenode.runtime.hive_life import HiveLife
from hivenode.runtime.joining import JoinDesk
from hivenode.runtime.local import LocalNode, member_id_of, node_of
from hivenode.runtime.ports import (
    ClusterAction,
    ClusterAnswer,
    ClusterOrder,
    Introduction,
    JoinClaim,
    JoinOffer,
    PeerAddress,
    PeerNetwork,
    WorkerHello,
    WorkerSession,
)
from hivenode.runtime.rate_limit import RateLimit
from hivenode.runtime.refusals import Refusals
from hivenode.runtime.replica import Replica

ADMIT_DEADLINE_S: Final = 5.0
RENEWAL_MS: Final = 24 * 3_600_000
"""A record is valid for a month; light nodes tell theirs many times a minute, which must not fill the log."""
CHANGES_PER_MINUTE_MAX: Final = 60
"""New records of one machine that is in, by whoever brings them. Each is an entry of the log and a look at all machines; who is
honest has news a few times when it starts, and then when its addresses or its engine change."""
LEADER_WAIT_S: Final = 1.0
OFFERED_MEMBERS_MAX: Final = 64
"""Records in an offer: enough to reach the hive again after the one that was asked is gone."""
SEEN_OFF_MAX: Final = 4_096
"""Removed nodes that are remembered to have been told; one that is forgotten costs the log another entry."""
HEARD_MS: Final = 5_000
"""Followers answer heartbeats many times a second, and without a leader somebody asks for votes every two seconds."""
GONE_LOOKS_S: Final = (0.0, 0.02, 0.05, 0.1)
"""Pauses before each look whether a leader whose stream broke still listens; the end of a process takes milliseconds."""
PROBE_DEADLINE_S: Final = 1.0
"""Within the least election timeout, after which an answer would change nothing."""

_log = structlog.get_logger(__name__)


def says_nothing_new(known: NodeEntry | None, record: NodeRecord, verify: Verify = verify_signature) -> bool:
    """Whether the hive has all that a record says but its date, and the date is not much later."""
    if known is None or known.kind is not NodeKind.HIVE:
        return False
    before = open_record(decode_record(SignedNodeRecord, known.signed_record), verify)
    late = record.expires_ms - before.expires_ms >= RENEWAL_MS
    return not late and record == dataclasses.replace(before, sequence=record.sequence, expires_ms=record.expires_ms)


def is_outdated(known: NodeEntry | None, record: NodeRecord) -> bool:
    """Whether the hive knows a later statement of the node: this one would change nothing, and anybody may have brought it."""
    return known is not None and known.kind is NodeKind.HIVE and record.sequence <= known.sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """The hive's nodes as an offer names them."""

    members: tuple[SignedNodeRecord, ...]
    nodes: tuple[NodeId, ...]
    voters: tuple[NodeId, ...]


def _listed(view: ReadView) -> _Listed:
    entries = [entry for entry in queries.nodes(view) if entry.kind is NodeKind.HIVE]
    # Those with voter right first: a node without the log finds its way by them.
    entries.sort(key=lambda entry: entry.rights is not NodeRights.VOTER)
    return _Listed(
        members=tuple(decode_record(SignedNodeRecord, entry.signed_record) for entry in entries[:OFFERED_MEMBERS_MAX]),
        nodes=tuple(entry.node_id for entry in entries),
        voters=tuple(entry.node_id for entry in entries if entry.rights is NodeRights.VOTER),
    )


class LocalPeerHost:
    """See the module.

    Args:
        coordinator: gives the leader's coordinator, None on a node that is no replica.
        digests: the same for the keeper of digests.
        desk: decides who may join, and with which rights.
        manage: carries out at the leader what a machine's owner wants of the hive.
    """

    def __init__(
        self,
        *,
        local: LocalNode,
        life: HiveLife,
        peers: PeerNetwork,
        coordinator: Callable[[], Coordinator | None],
        digests: Callable[[], DigestKeeper | None],
        desk: JoinDesk,
        manage: Callable[[ClusterOrder, float], Awaitable[ClusterAnswer]],
        start: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._local = local
        self._life = life
        self._peers = peers
        self._twins = TwinChecks(peers)
        self._coordinator = coordinator
        self._digests = digests
        self._desk = desk
        self._manage = manage
        self._start = start
        self._refusals = Refusals()
        self._changes = RateLimit("changes of what this machine says of itself", CHANGES_PER_MINUTE_MAX)
        self._streams: Counter[NodeId] = Counter()
        self._heard_ms: dict[NodeId, int] = {}
        self._listed: _Listed | None = None
        self._seen_off: set[MemberId] = set()
        self.on_lost: Callable[[NodeId], None] = lambda node: None
        """Told of every stream that ended; the daemon sets it."""
        local.subscribe(self._applied)

    def _applied(self, events: tuple[Event, ...]) -> None:
        if any(isinstance(event, NodeChanged | NodeRemoved | StateReplaced) for event in events):
            self._listed = None
        self._desk.applied(events)

    def introduction(self) -> Introduction:
        record, signed = self._local.record()
        replica = self._local.replica
        hive = queries.hive(replica.view()) if replica is not None else None
        leader = None
        if replica is not None and replica.leader is not None:
            leader = self._local.address_of(node_of(replica.leader))
        return Introduction(
            record=record,
            signed=signed,
            hive_id=self._local.hive_id(),
            phase=self._life.phase,
            hive_created_ms=hive.created_ms if hive else 0,
            members=queries.counts(replica.view()).nodes if replica is not None else 0,
            leader=leader,
            confirmed=self._life.confirmed,
            instance=self._local.instance,
            former_hives=self._life.former_hives,
            recoveries=recoveries(replica.view()) if replica is not None else (),
            closed=replica is not None and joining.trust_mode(replica.view()) is not TrustMode.LAN,
        )

    def check_heard(self, caller: NodeId) -> None:
        """Refuses the messages of a node that takes no part in consensus, as far as is known here by now."""
        if self._local.may_hold_state(caller):
            return
        self._local.note_unheard(caller)
        replica = self._local.replica
        if replica is not None and queries.node(replica.view(), caller) is not None:
            raise HiveError(Code.PERMISSION_DENIED, f"{caller} has no voter right, and no word in consensus")
        raise HiveError(Code.NOT_A_MEMBER, f"it is not known here that {caller} takes part in consensus: try again")

    def receive(self, caller: NodeId, message: Message) -> None:
        replica = self._local.replica
        if replica is None or message.to != replica.member_id:
            return  # For another incarnation of this node.
        if node_of(message.from_) != caller:
            self._refusals.name(caller, "consensus in another's name", kind=type(message).__name__)
            return
        known = queries.node(replica.view(), caller)
        if not self._local.may_hold_state(caller):
            if known is not None:
                self._refusals.name(caller, f"{type(message).__name__} without voter right")
            self._local.note_unheard(caller)
            return  # Workers need not be trusted: who claims a leader's term would have all logs.
        self._heard_ms[caller] = self._local.clock_ms()
        replica.receive(message)

    def hears(self, node: NodeId) -> bool:
        """Whether the node has said something of consensus lately; a connection may stand to a machine that is gone."""
        return self._local.clock_ms() - self._heard_ms.get(node, -HEARD_MS) < HEARD_MS

    @property
    def connected(self) -> Set[NodeId]:
        """The nodes with a message stream to or from this one that stands."""
        return self._streams.keys()

    def peer_connected(self, caller: NodeId) -> None:
        self._streams[caller] += 1

    def peer_lost(self, caller: NodeId, reset: bool) -> None:
        """A peer's stream ended, here or where this node called it; a leader that is gone is replaced at once."""
        self._streams[caller] -= 1
        if self._streams[caller] <= 0:
            del self._streams[caller]
        self.on_lost(caller)
        self._local.forget_leader(caller)
        replica = self._local.replica
        # Also one that stopped in order may have found nobody to hand its leadership to.
        if replica is not None and replica.leader is not None and node_of(replica.leader) == caller:
            self._start(self._check_leader(caller))

    async def _check_leader(self, node: NodeId) -> None:
        replica = self._local.replica
        if replica is None or replica.leader is None:
            return
        leader = replica.leader
        for pause_s in GONE_LOOKS_S:
            # A process that is being killed shuts its sockets one by one: the one that listens may still take this call.
            await asyncio.sleep(pause_s)
            if replica.leader != leader or node in self.connected:
                return
            try:
                answers = await self._peers.probe(node, PROBE_DEADLINE_S)
            except HiveError:
                return  # Silence says nothing: the election timeout decides.
            if not answers and replica.leader == leader:
                _log.info("the leader's daemon is gone", node=node)
                replica.leader_lost(leader)
                return

    def accept_invitation(self, caller: NodeId, hive_id: str) -> SignedNodeRecord:
        return self._life.accept_invitation(caller, hive_id)

    async def accept_join(self, through: NodeId, record: SignedNodeRecord, claim: JoinClaim) -> JoinOffer:
        try:
            joiner = open_record(record, verify_signature)
        except DecodeError as error:
            raise HiveError(Code.PEER_REJECTED, f"the node record is not valid: {error}") from error
        replica = self._local.replica
        if replica is None or not replica.leads:
            raise HiveError(Code.NO_LEADER, "this node does not lead; ask the leader")
        if not queries.is_born(replica.view()):
            raise HiveError(Code.NO_LEADER, "the hive is still being born; ask again")
        if through != joiner.node_id and not self._local.may_hold_state(through):
            claim = dataclasses.replace(claim, from_lan=False)  # A worker's word is good for nothing.
        validation.check_node_record(joiner)  # What a stranger says is listed and logged before anything is agreed on.
        nodes.refuse_denied(replica.view(), joiner.node_id)
        if queries.was_removed(replica.view(), joiner.node_id, joiner.incarnation):
            await self._see_off(replica, joiner, record)
        if not replica.has_settled:
            # Machines that the last leader let in would not be seen yet.
            await replica.read_barrier(ADMIT_DEADLINE_S)
        with self._desk.place(replica, joiner, claim) as rights:
            known = queries.node(replica.view(), joiner.node_id)
            if not says_nothing_new(known, joiner) and not is_outdated(known, joiner):
                if known is not None:
                    # By who brings it too: what a member repeats of another must not use up the other's own.
                    self._changes.take(f"{through} {joiner.node_id}", self._local.clock_ms())
                await self._twins.refuse_twin(known, joiner)
                command = AdmitNode(signed_record=encode_record(record), rights=rights)
                reply = await replica.propose(command, deadline_s=ADMIT_DEADLINE_S)
                if queries.was_removed(replica.view(), joiner.node_id, joiner.incarnation):
                    # It was taken out meanwhile, and its vote may count still.
                    await self._see_off(replica, joiner, record)
                if reply.refused:
                    raise HiveError(Code(reply.code), reply.message)
                _log.info("node admitted", node=joiner.node_id, rights=rights.value, through=through)
        admitted = queries.node(replica.view(), joiner.node_id)
        leader = PeerAddress(node_id=self._local.node_id, addresses=self._local.addresses)
        if admitted is not None and not says_nothing_new(admitted, joiner):
            return JoinOffer(
                hive_id=self._local.hive_id(),
                members=(),
                leader=leader,
                voter_rights=False,
                later_sequence=admitted.sequence,
            )
        address = PeerAddress(node_id=joiner.node_id, addresses=joiner.addresses)
        self._local.note_address(address)
        listed = self._listed = self._listed or _listed(replica.view())
        return JoinOffer(
            hive_id=self._local.hive_id(),
            members=listed.members,
            leader=leader,
            voter_rights=admitted is not None and admitted.rights is NodeRights.VOTER,
            nodes=listed.nodes,
            voters=listed.voters,
            index=replica.applied_index,
        )

    async def _see_off(self, replica: Replica, removed: NodeRecord, record: SignedNodeRecord) -> NoReturn:
        """Tells a node that it is out for good, upon which its daemon ends. Raises NODE_REMOVED, and before it may OVERLOADED.

        Its vote may be needed to take its vote away. When the configuration is without it, the answer is agreed on, so that a
        majority has on disk what went before: see `runtime.cluster`. That is done once for each.
        """
        if any(node_of(member) == removed.node_id for member in replica.status().conf.members()):
            raise HiveError(Code.OVERLOADED, f"{removed.node_id} was removed, and its vote still counts; ask again")
        member = member_id_of(removed.node_id, removed.incarnation)
        if member not in self._seen_off:
            command = AdmitNode(signed_record=encode_record(record), rights=NodeRights.WORKER)
            reply = await replica.propose(command, deadline_s=ADMIT_DEADLINE_S)
            if reply.code != Code.NODE_REMOVED:
                # Its record is wrong, or the hive has forgotten its removal since.
                raise HiveError(Code(reply.code) if reply.refused else Code.OVERLOADED, reply.message or "ask again")
            if len(self._seen_off) >= SEEN_OFF_MAX:
                self._seen_off.clear()
            self._seen_off.add(member)
        raise HiveError(
            Code.NODE_REMOVED, "this node was removed from the hive; it can come back with an empty data directory"
        )

    async def manage_hive(self, caller: NodeId, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        leaves = order == ClusterOrder(action=ClusterAction.REMOVE, node=caller)
        if not leaves and not self._local.may_hold_state(caller):
            raise HiveError(Code.PERMISSION_DENIED, f"{caller} has no voter right: ask another machine")
        return await self._manage(order, deadline_s)

    async def compare_digest(self, caller: NodeId, report: DigestReport) -> Verdict:
        if node_of(report.member_id) != caller:
            raise HiveError(Code.PEER_REJECTED, f"{caller} must not speak for another member")
        keeper = self._digests()
        return Verdict.UNDECIDED if keeper is None else await keeper.compare(report)

    def members(self, caller: NodeId) -> tuple[tuple[SignedNodeRecord, ...], int]:
        replica = self._local.replica
        if replica is None or not self._local.may_hold_state(caller):
            raise HiveError(Code.PERMISSION_DENIED, f"{caller} has no voter right, and takes no part in consensus")
        inside = sorted({node_of(member) for member in replica.status().conf.members()})
        entries = [entry for node in inside if (entry := queries.node(replica.view(), node)) is not None]
        records = (decode_record(SignedNodeRecord, entry.signed_record) for entry in entries if entry.signed_record)
        return tuple(records), replica.applied_index

    def read_snapshot(self, caller: NodeId, sha256: str, offset: int) -> AsyncIterator[bytes]:
        if not self._local.may_hold_state(caller):
            raise HiveError(Code.PERMISSION_DENIED, f"{caller} has no voter right, and no use for the agreed state")
        return self._local.snapshots.read(sha256, offset)

    async def open_worker_session(self, caller: NodeId, hello: WorkerHello) -> WorkerSession:
        coordinator = self._coordinator()
        if coordinator is None:
            raise HiveError(Code.NO_LEADER, "this node does not lead; ask for the leader again")
        return await coordinator.open_session(caller, hello)
