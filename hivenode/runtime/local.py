"""The local node: what this machine is right now towards the hive, and the way to the hive's agreement from here.

A node is *fresh* (no hive), a *replica* (holds the log) or *light* (belongs to a hive without holding its log, since it has no
voter right). It goes from fresh to one of the others, and from light to replica when it is given voter right; giving a hive up
restarts the daemon. A light node believes those that the roster names, which the leader told it.

Fills the ports `Agreement` (through the replica of the moment) and `Leadership`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import Executor
from random import Random
from typing import Any, Final

from hivenode.config import Config
from hivenode.consensus import ConfChange as RaftConfChange
from hivenode.consensus import Entry, EntryKind, HardState, MemberId, Message, RaftConfig, encode_conf_change
from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import Capabilities, NodeId, NodeRecord, Role, SignedNodeRecord, open_record
from hivenode.encoding.records import Record
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError, ensure
from hivenode.identity import Identity, verify_signature
from hivenode.pool import queries
from hivenode.pool.commands import Reply
from hivenode.pool.events import Event, NodeChanged, StateReplaced
from hivenode.pool.records import NodeEntry, NodeKind
from hivenode.pool.validation import ADDRESSES_MAX
from hivenode.runtime.leader_search import LeaderSearch
from hivenode.runtime.member_gate import MemberGate
from hivenode.runtime.ports import Introduction, JoinOffer, MembersTold, PeerAddress, PeerNetwork, Standing
from hivenode.runtime.replica import Replica
from hivenode.runtime.roster import Roster
from hivenode.runtime.stores import LogStorage, LogWrite, SnapshotRef, SnapshotStorage, StateStorage

RECORD_LIFETIME_MS: Final = 30 * 24 * 3_600_000
"""A record is made anew at every start and change of address; a machine that is away longer says hello again anyway."""
SEQUENCE_MAX: Final = 1 << 62
"""Of a statement that this node outdoes: far past any clock, and far from what a record can hold."""
COMMITTED_BYTES_MAX: Final = 128 << 10
"""What is applied in one go: some 500 commands, 20 to 30 ms of the loop."""
COMMIT_DELAY_MS: Final = 10
"""A follower that nobody reads at learns what is agreed so much later; writes that follow each other are closer together."""
READ_DEADLINE_S: Final = 10.0
"""A read waits no longer than this for a leader, whatever its caller would wait."""
SEARCH_DEADLINE_S: Final = 10.0
"""Enough to pass over a hundred machines that are silent."""
SEARCH_PAUSE_S: Final = 0.5
"""Between two searches by one caller; an election ends in between, or does not."""
LEADERLESS_S: Final = 5.0
"""A replica that hears of no leader for longer than some elections take may be one that others took the place of."""
PEERS_MAX: Final = 4_096
"""Addresses kept of nodes that are in no agreed state yet."""


def member_id_of(node_id: NodeId, incarnation: str) -> MemberId:
    """The Raft id of a node with one log: a node that lost its log is another member."""
    return MemberId(f"{node_id}.{incarnation}")


def node_of(member: MemberId) -> NodeId:
    return NodeId(member.partition(".")[0])


def _left_s(ends: float) -> float:
    """Seconds until a moment of the loop's clock; 0 when it is past."""
    return max(ends - asyncio.get_running_loop().time(), 0)


class LocalNode:
    """See the module.

    Args:
        certificate_sha256: of what the peer port shows.
        spawn: starts a coroutine that the daemon supervises; its failure stops the daemon.
        capabilities: what this machine offers to tasks, as measured by now.
        shortage: why new work cannot be written safely, or empty.
    """

    def __init__(
        self,
        *,
        config: Config,
        identity: Identity,
        certificate_sha256: bytes,
        log: LogStorage,
        state: StateStorage,
        snapshots: SnapshotStorage,
        roster: Roster,
        writer: Executor,
        peers: PeerNetwork,
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
        capabilities: Callable[[], Capabilities],
        shortage: Callable[[], str],
        version: str,
        clock_ms: Callable[[], int],
        wall_ms: Callable[[], int],
        rng: Random,
    ) -> None:
        self.config: Final = config
        self.identity: Final = identity
        self._certificate_sha256 = certificate_sha256
        self.node_id: Final = identity.node_id
        self.member_id: Final = member_id_of(identity.node_id, log.incarnation)
        self.version: Final = version
        self.instance: Final = f"{wall_ms():013x}{rng.getrandbits(64):016x}"
        self.clock_ms: Final = clock_ms
        self.wall_ms: Final = wall_ms
        self._log = log
        self._state = state
        self._roster: Final = roster
        self.snapshots: Final = snapshots
        self._writer = writer
        self._peers = peers
        self._spawn = spawn
        self._capabilities = capabilities
        self.shortage: Final = shortage
        self._rng = rng
        self._addresses: tuple[str, ...] = ()
        self._sequence = 0
        self.on_node_gone: Callable[[NodeId], None] = lambda node: None
        """Told of nodes that are not in the hive any more, on a node that has this from the leader; the daemon sets it."""
        self._replica: Replica | None = None
        self._gate: MemberGate | None = None
        self.unheard_called: Final = asyncio.Event()
        """A node proved itself for the hive, and was refused since it takes no part as far as is known here."""
        self._replica_listeners: list[Callable[[Replica], None]] = []
        self._listeners: list[Callable[[tuple[Event, ...]], None]] = []
        self._known: dict[NodeId, PeerAddress] = {}
        self._light_leader: PeerAddress | None = None
        self._heard_leader: MemberId | None = None
        self._search = LeaderSearch(peers.introduce)
        self._searching: asyncio.Task[PeerAddress | None] | None = None
        self._writes_open = asyncio.Event()
        self._takes_writes = False

    # --- who this node is ------------------------------------------------------------------------------------------

    @property
    def replica(self) -> Replica | None:
        return self._replica

    @property
    def incarnation(self) -> str:
        """Of this node's log."""
        return self._log.incarnation

    def hive_id(self) -> str:
        return self._log.hive_id

    def set_addresses(self, addresses: Iterable[str]) -> None:
        """The `host:port` under which peers reach this node, best first."""
        self._addresses = tuple(addresses)

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    def record(self) -> tuple[NodeRecord, SignedNodeRecord]:
        """This node's statement of itself, made and signed now; a later one has a greater sequence."""
        now = self.wall_ms()
        # A clock that was set back, or that a board without a battery begins with, must not keep the node out.
        self._sequence = max(now, self._sequence)
        record = NodeRecord(
            node_id=self.node_id,
            public_key=self.identity.public_key,
            incarnation=self._log.incarnation,
            role=self.config.role,
            addresses=self._addresses,
            capabilities=self._capabilities(),
            sequence=self._sequence,
            expires_ms=now + RECORD_LIFETIME_MS,
            version=self.version,
            certificate_sha256=self._certificate_sha256,
        )
        return record, self.identity.sign_record(record)

    def outdo(self, sequence: int) -> None:
        """Makes this node's next statements later than one that the hive has."""
        if sequence < SEQUENCE_MAX:
            self._sequence = max(self._sequence, sequence + 1)

    # --- from fresh to member --------------------------------------------------------------------------------------

    async def resume(self) -> None:
        """After a restart: goes on as what this node was in its hive."""
        ensure(self.hive_id() != "", "there is no hive to go on with")
        self._open_writes()
        for node, addresses in self._roster.addresses.items():
            self.note_address(PeerAddress(node_id=node, addresses=addresses))
        entitled = self._roster.voter_rights if self._roster.known else self.config.role is not Role.WORKER
        if self._log.last_index() > 0 or entitled:
            await self._start_replica(born=False)

    async def be_born(self, hive_id: str) -> Replica:
        """Starts a hive with this node as its one voter. The first log entry says so, for those who will replay it."""
        birth = RaftConfChange(add_voters=(self.member_id,))
        entry = Entry(term=1, index=1, kind=EntryKind.CONF_CHANGE, data=encode_conf_change(birth))
        write = LogWrite(hard_state=HardState(term=1, vote=None, commit=1), entries=(entry,))
        await asyncio.get_running_loop().run_in_executor(self._writer, self._log.bind, hive_id, write)
        return await self._start_replica(born=True)

    async def enter(self, hive_id: str, *, replica: bool) -> None:
        """Belongs to a hive from now on, for ever."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._log.bind, hive_id, None)
        self._open_writes()
        if replica:
            await self._start_replica(born=False)

    async def become_replica(self) -> None:
        """A light node was given voter right."""
        if self._replica is None:
            await self._start_replica(born=False)

    def open_writes(self) -> None:
        """The founders are in, or have not come in time: users' writes are taken from now on."""
        self._open_writes()

    def _open_writes(self) -> None:
        self._writes_open.set()

    async def _start_replica(self, *, born: bool) -> Replica:
        config = RaftConfig(
            member_id=self.member_id,
            election_timeout_ms=(self.config.election_timeout_min_ms, self.config.election_timeout_max_ms),
            heartbeat_interval_ms=self.config.heartbeat_interval_ms,
            max_committed_bytes_per_ready=COMMITTED_BYTES_MAX,
            commit_delay_ms=COMMIT_DELAY_MS,
        )
        replica = Replica(
            config=config,
            log=self._log,
            state=self._state,
            snapshots=self.snapshots,
            writer=self._writer,
            send=self._send,
            fetch=self._fetch_snapshot,
            verify=verify_signature,
            clock_ms=self.clock_ms,
            wall_ms=self.wall_ms,
            rng=self._rng,
        )
        self._replica = replica
        self._gate = gate = MemberGate(
            self.node_id,
            self._log.incarnation,
            view=replica.view,
            members=lambda: frozenset(node_of(member) for member in replica.status().conf.members()),
            is_member=lambda: self.member_id in replica.status().conf.members(),
            applied_index=lambda: replica.applied_index,
        )
        self._note_offered()
        replica.subscribe(gate.applied)
        replica.on_leadership(lambda: self._leader_heard(replica))
        for listener in self._listeners:
            replica.subscribe(listener)
        for made in self._replica_listeners:
            made(replica)
        self._spawn(replica.run(born=born), "replica")
        return replica

    def _send(self, message: Message) -> None:
        self._peers.send(node_of(message.to), message)

    def _fetch_snapshot(self, member: MemberId, ref: SnapshotRef, offset: int) -> AsyncIterator[bytes]:
        return self._peers.fetch_snapshot(self.address_of(node_of(member)), ref, offset)

    def on_replica(self, listener: Callable[[Replica], None]) -> None:
        """Calls `listener` when this node becomes a replica, before the replica runs."""
        self._replica_listeners.append(listener)
        if self._replica is not None:
            listener(self._replica)

    # --- Agreement -------------------------------------------------------------------------------------------------

    def _require_replica(self) -> Replica:
        if self._replica is None:
            raise HiveError(Code.NOT_A_MEMBER, "this node has not joined a hive yet; nothing was done, ask again")
        return self._replica

    async def propose(
        self, command: Record, *, deadline_s: float, owner: str = "", key: str = "", keep_ms: int = 0
    ) -> Reply:
        replica = self._require_replica()
        if shortage := self.shortage():
            raise HiveError(Code.DISK_FULL, f"not done, since on the leader {shortage}")
        if not self._takes_writes and replica.leads:
            began_s = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(deadline_s):
                    await self._until_born(replica)
            except TimeoutError:
                raise HiveError(Code.NO_LEADER, "the hive is still being formed; nothing was done") from None
            deadline_s -= asyncio.get_running_loop().time() - began_s
        return await replica.propose(command, deadline_s=deadline_s, owner=owner, key=key, keep_ms=keep_ms)

    async def _until_born(self, replica: Replica) -> None:
        """A founder that died in the midst of its hive's birth goes on with that first: a trust mode is set in an empty hive."""
        await self._writes_open.wait()
        applied = asyncio.Event()
        unsubscribe = replica.subscribe(lambda _events: applied.set())
        try:
            while not queries.is_born(replica.view()):
                applied.clear()
                await applied.wait()
        finally:
            unsubscribe()
        self._takes_writes = True

    def view(self) -> ReadView:
        return self._require_replica().view()

    def subscribe(self, listener: Callable[[tuple[Event, ...]], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        inner = self._replica.subscribe(listener) if self._replica is not None else None

        def end() -> None:
            self._listeners.remove(listener)
            if inner is not None:
                inner()

        return end

    def now_ms(self) -> int:
        return self.wall_ms()

    # --- Leadership ------------------------------------------------------------------------------------------------

    def standing(self) -> Standing:
        """A joiner that has not heard the hive's first entries yet is as light as a node without a log.

        So is a replica whose place went to another while it was away. Nobody tells it: it hears no leader, and others do.
        """
        replica = self._replica
        if replica is None or not replica.has_configuration:
            return Standing.LIGHT
        if replica.leader is None and self._light_leader is not None:
            return Standing.LIGHT
        return Standing.LEADER if replica.leads else Standing.REPLICA

    async def read_barrier(self, deadline_s: float) -> None:
        await self._require_replica().read_barrier(min(deadline_s, READ_DEADLINE_S))

    def known_leader(self) -> PeerAddress | None:
        """The leader as far as this node knows now."""
        if self.standing() is Standing.LIGHT:
            return self._light_leader
        leader = self._replica.leader if self._replica is not None else None
        return self.address_of(node_of(leader)) if leader is not None else None

    async def leader(self, deadline_s: float) -> PeerAddress:
        ends = asyncio.get_running_loop().time() + deadline_s
        while True:
            if self._replica is not None and self.standing() is not Standing.LIGHT:  # Perhaps since this was asked.
                return await self._leader_of_the_log(self._replica, ends)
            found = self._light_leader or await self._ask_for_leader(_left_s(ends))
            if found is not None:
                return found
            if _left_s(ends) <= 0:
                raise HiveError(Code.NO_LEADER, "no machine of the hive that answers knows a leader; ask again")
            await asyncio.sleep(min(SEARCH_PAUSE_S, _left_s(ends)))

    async def _leader_of_the_log(self, replica: Replica, ends: float) -> PeerAddress:
        """The leader that this member follows. Others are asked when it hears of none for long: its place may be taken."""
        try:
            member = await replica.wait_for_leader(min(_left_s(ends), LEADERLESS_S))
        except HiveError:
            if _left_s(ends) <= 0:
                raise
            found = await self._ask_for_leader(_left_s(ends))
            if found is not None:
                return found
            member = await replica.wait_for_leader(_left_s(ends))
        return self.address_of(node_of(member))

    async def _ask_for_leader(self, deadline_s: float) -> PeerAddress | None:
        """Asks other machines, once for all who wait for the answer; None when nobody knew in time."""
        if self._searching is None or self._searching.done():
            self._searching = asyncio.create_task(self._search_leader(), name="leader search")
        searching = self._searching
        # Neither `wait_for` nor `timeout`, by which Python before 3.12 loses that its caller was told to go, or tells it twice.
        done, _ = await asyncio.wait({searching}, timeout=deadline_s)
        return searching.result() if done else None

    async def _search_leader(self) -> PeerAddress | None:
        believed = [peer for peer in self._known.values() if self.may_hold_state(peer.node_id)]
        intro = await self._search.find(believed, self.hive_id(), SEARCH_DEADLINE_S)
        if intro is None or intro.leader is None or intro.leader.node_id == self.node_id:
            return None
        if not self.may_hold_state(intro.record.node_id):
            return None  # Another node answered at the address.
        self.note_address(intro.leader)
        self.note_peer(intro)
        if self._replica is None or self._replica.leader is None:
            self._light_leader = intro.leader
        return intro.leader

    def knows_leader(self) -> bool:
        """Whether this node knows who leads its hive, without asking anybody."""
        return self._light_leader is not None if self._replica is None else self._replica.leader is not None

    def _leader_heard(self, replica: Replica) -> None:
        """Who hears a leader in the log needs no word of others; when it hears it no more, what they said before is old."""
        if replica.leader is not None or self._heard_leader is not None:
            self._light_leader = None
        self._heard_leader = replica.leader

    def forget_leader(self, node: NodeId) -> None:
        """A light node asks anew who leads when the leader it knew is gone, or leads no longer."""
        if self._light_leader is not None and self._light_leader.node_id == node:
            self._light_leader = None

    # --- where others are ------------------------------------------------------------------------------------------

    def note_peer(self, intro: Introduction) -> None:
        """Somebody of the own hive, or to be, answered under these addresses."""
        self.note_address(PeerAddress(node_id=intro.record.node_id, addresses=intro.record.addresses))
        self._search.note(intro)
        believed = intro.record.node_id in self._roster.voters
        if believed and self.standing() is Standing.LIGHT and intro.leader and intro.hive_id == self.hive_id() != "":
            self._light_leader = intro.leader

    def note_offer(self, offer: JoinOffer) -> None:
        """What the hive that takes this one in says of itself.

        Raises DISK_FULL when it cannot be kept: it counts in this life, and the next one would know nobody to believe.
        """
        addresses = {offer.leader.node_id: offer.leader.addresses}
        for signed in offer.members:
            with contextlib.suppress(DecodeError):  # What does not hold speaks of nobody.
                record = open_record(signed, verify_signature)
                addresses[record.node_id] = record.addresses
        gone = (
            self._roster.nodes - {offer.leader.node_id, *offer.nodes} if self._roster.hive_id == offer.hive_id else ()
        )
        unkept: OSError | None = None
        try:
            self._roster.note(
                offer.hive_id,
                (offer.leader.node_id, *offer.nodes),
                (offer.leader.node_id, *offer.voters),
                addresses,
                voter_rights=offer.voter_rights,
                index=offer.index,
            )
        except OSError as error:
            unkept = error
        self._note_offered()
        for node in gone:
            self.on_node_gone(node)
        if unkept is not None:
            raise HiveError(
                Code.DISK_FULL,
                f"who is in the hive cannot be kept on disk ({unkept.strerror}): free some space or files",
            ) from unkept

    def _note_offered(self) -> None:
        """Whom the roster of this hive names takes part, as far as the gate believes it."""
        if self._gate is not None and self._roster.hive_id == self.hive_id():
            self._gate.offer(self._roster.index, self._roster.voters)

    def note_address(self, peer: PeerAddress) -> None:
        """Somebody says where a node is. Where the hive has it is kept beside: a copy of its disk says otherwise, and stops."""
        if peer.node_id == self.node_id or not peer.addresses:
            return
        if len(self._known) < PEERS_MAX or peer.node_id in self._known:
            agreed = self._agreed_addresses(peer.node_id)
            addresses = tuple(dict.fromkeys((*peer.addresses[:ADDRESSES_MAX], *agreed[:ADDRESSES_MAX])))
            self._known[peer.node_id] = known = PeerAddress(node_id=peer.node_id, addresses=addresses)
            self._peers.learn(known)

    def _agreed_addresses(self, node: NodeId) -> tuple[str, ...]:
        entry = queries.node(self._replica.view(), node) if self._replica is not None else None
        if entry is not None:
            return entry.addresses if entry.kind is NodeKind.HIVE else ()
        return self._roster.addresses.get(node, ()) if self._roster.hive_id == self.hive_id() else ()

    def follow_addresses(self, replica: Replica) -> None:
        """Learns the addresses that nodes tell the hive, as they are agreed."""

        def note(entry: NodeEntry | None) -> None:
            if entry is not None and entry.kind is NodeKind.HIVE:
                self.note_address(PeerAddress(node_id=entry.node_id, addresses=entry.addresses))

        def learn(events: tuple[Event, ...]) -> None:
            for event in events:
                if isinstance(event, NodeChanged):
                    note(queries.node(replica.view(), event.node_id))
                elif isinstance(event, StateReplaced):
                    for entry in queries.nodes(replica.view()):
                        note(entry)

        replica.subscribe(learn)

    def may_hold_state(self, node: NodeId) -> bool:
        """Whether a node takes part in consensus: only those may have what the agreed state holds of users.

        A light node goes by what the leader told it.
        """
        return node in self._roster.voters if self._gate is None else self._gate.takes_part(node)

    def admits(self, node: NodeId) -> bool:
        """Whether a node that proved itself for this hive may use the inner peer calls: it must have been admitted.

        A light node, and a replica that has not yet heard the hive's first commands, go by what the leader told them. A foreign
        worker is no peer, whatever id a user has given it.
        """
        if self._replica is None or queries.hive(self._replica.view()) is None:
            return node in self._roster.nodes or self.may_hold_state(node)
        entry = queries.node(self._replica.view(), node)
        if (entry is not None and entry.kind is NodeKind.HIVE) or self.may_hold_state(node):
            return True
        self.note_unheard(node)
        return False

    def note_unheard(self, node: NodeId) -> None:
        """A node that proved itself for this hive was refused what members alone may: perhaps it became one meanwhile."""
        if self._gate is not None and self._gate.may_be_new(node):
            self.unheard_called.set()

    def vouched(self, told: MembersTold, by: NodeId) -> tuple[NodeId, ...]:
        """Takes the word of one that takes part on who else does; those of them that are heard since."""
        gate = self._gate
        if gate is None or not gate.takes_part(by):
            return ()
        unheard = [record for record in told.members if not gate.takes_part(record.node_id)]
        gate.vouch(by, told.index, (record.node_id for record in told.members))
        for record in unheard:
            self.note_address(PeerAddress(node_id=record.node_id, addresses=record.addresses))
        return tuple(record.node_id for record in unheard if gate.takes_part(record.node_id))

    def believed_members(self) -> list[PeerAddress]:
        """The other nodes whose word on members counts here, and that can be asked; those in the configuration first."""
        replica, gate = self._replica, self._gate
        if replica is None or gate is None:
            return []
        inside = {node_of(member) for member in replica.status().conf.members()}
        known = inside | gate.vouched() | {entry.node_id for entry in queries.nodes(replica.view())}
        found = sorted(known - {self.node_id}, key=lambda node: (node not in inside, node))
        return [peer for node in found if gate.takes_part(node) and (peer := self.address_of(node)).addresses]

    def address_of(self, node: NodeId) -> PeerAddress:
        """What is known of where a node is; without addresses when nothing is."""
        if node == self.node_id:
            return PeerAddress(node_id=node, addresses=self._addresses)
        known = self._known.get(node)
        if known is not None:
            return known
        entry = queries.node(self._replica.view(), node) if self._replica is not None else None
        return PeerAddress(node_id=node, addresses=entry.addresses if entry else ())

    def own_entry(self) -> NodeEntry | None:
        """What the agreed state on this disk says of this node; None when there is none."""
        return queries.node(self._state, self.node_id)

    def hive_nodes(self) -> list[PeerAddress]:
        """All hive nodes that this node knows of, itself left out."""
        if self._replica is None:
            return list(self._known.values())
        return [
            self.address_of(entry.node_id)
            for entry in queries.nodes(self._replica.view())
            if entry.kind is NodeKind.HIVE and entry.node_id != self.node_id
        ]
