"""One simulated machine with its daemon: it starts, crashes, sleeps and forgets, and takes calls from the programs on it.

| what happens | process | memory | disk | clocks |
|---|---|---|---|---|
| crash | gone; its peers' connections are reset | gone | what was synced | go on |
| power cut | gone; its peers hear nothing | gone | what was synced, perhaps less of agreed state | go on |
| pause | stands still; what arrives waits | kept | a write that is under way ends | go on |
| wipe | gone | gone | empty: the node comes back as another member | go on |
| damage found | ends itself and says why | gone | kept, and not started on again | go on |
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, assert_never, get_args

from hivenode.consensus import (
    MemberId,
    Message,
)
from hivenode.encoding.node_record import (
    Capabilities,
    NodeId,
    NodeRecord,
    Role,
    SignedNodeRecord,
    node_id_of,
    sign_record,
)
from hivenode.errors import Code, InvariantError
from hivenode.pool import queries
from hivenode.pool.records import NodeKind
from hivenode.runtime.member_gate import MemberGate
from hivenode.runtime.peer_host import HEARD_MS
from hivenode.runtime.ports import JoinOffer
from simulations.admission import Admission
from simulations.calls import (
    Announced,
    Answer,
    DigestAsked,
    DigestJudged,
    Failure,
    Forward,
    IntroduceAsked,
    InviteAsked,
    JoinAsked,
    LeaderAsked,
    LeaderTold,
    MembersAsked,
    OnAnswer,
    PeerCall,
    PieceAsked,
    PieceSent,
    Read,
    Write,
)
from simulations.checkers.violation import Violation
from simulations.clocks import Clock
from simulations.cluster import Cluster
from simulations.coordinator import Coordinator
from simulations.digests import DigestKeeper
from simulations.disk import Disk, flipped
from simulations.engine import MS, SECOND
from simulations.hive_life import HiveLife
from simulations.leader_search import LeaderSearch
from simulations.marks import Kind
from simulations.network import Stream
from simulations.replica import Replica
from simulations.signatures import signature_of
from simulations.snapshots import SnapshotDisk, serve_pieces
from simulations.steward import Steward
from simulations.worker import Worker

if TYPE_CHECKING:
    from simulations.world import World

NEVER_EXPIRES_MS: Final = 253_402_300_799_999
LEADER_RETRY_US: Final = 50 * MS
"""How often a node that knows no leader looks again for one on behalf of a call."""
ANNOUNCE_US: Final = 60 * SECOND
"""Discovery names everybody again so often, as multicast DNS does before its records run out."""
PERSON_US: Final = 30 * SECOND
"""Until somebody has read why the voters stopped."""
_CONSENSUS: Final = frozenset(get_args(Message))
BACKLOG_MAX: Final = 20_000
"""What waits in the socket buffers of a process that stands still; more is lost."""


class Node:
    """See the module. `name` is short and the network's; `node_id` is what the hive knows; `role` is its owner's wish."""

    def __init__(self, world: World, name: str, role: Role) -> None:
        self.world: Final = world
        self.name: Final = name
        self.role: Final = role
        self.public_key: Final = hashlib.sha256(f"node {name}".encode()).digest()
        self.node_id: Final = node_id_of(self.public_key)
        self.clock: Final = Clock(world.engine, name)
        self.capabilities: Final = _capabilities(name)
        self.incarnations = 1
        self.disk = Disk(world.engine, "1")
        self.snapshots = SnapshotDisk(self, self.disk)
        self.alive = False
        self.powered = True
        self.paused = False
        self.left = False
        """It left the hive for good and is not started again."""
        self.leaving = False
        """It is to go: its owner wants it back, or an operator does not trust it any more."""
        self.revoked = False
        """An operator revoked it, and has not approved it again."""
        self.defiant = False
        """Its daemon goes on when the hive says that it is out, as one that a thief runs."""
        self.tainted = False
        """Its agreed state is wrong with right checksums, or it has a snapshot of such a state."""
        self.broken = ""
        """Why it ended itself for good: its disk or memory went wrong. It starts again when its disk was wiped."""
        self.boots = 0
        self.least_sequence = 0
        """Of what this life of the process says of itself, so that it is later than what the hive knows."""
        self.replica: Replica | None = None
        self.steward: Steward | None = None
        self.cluster: Cluster | None = None
        self.roster: JoinOffer | None = None
        """What the leader told when it took this node in, which knows nobody by its own state yet."""
        self._gate: MemberGate | None = None
        self._heard_ms: dict[NodeId, int] = {}
        self.coordinator: Coordinator | None = None
        self.digests: DigestKeeper | None = None
        self.worker: Worker | None = None
        self.search: Final = LeaderSearch(self)
        self._backlog: deque[Callable[[], None]] = deque()
        self._calls: dict[int, OnAnswer] = {}
        self._call_count = 0
        self._streams: dict[int, tuple[Stream, int]] = {}
        self._stream_count = 0
        self.life: HiveLife | None = None
        self.admission: Final = Admission(self)
        self.tombstones: list[str] = []
        """The hives that this machine saw dissolve, kept beside the log."""
        self.last_target: tuple[str, ...] = ()
        self.bound_to, self.bound_address = "", ""
        """The hive that its owner named, and where."""
        self.moves = 0
        self.address = f"{name}:50052"
        world.addresses[self.address] = self
        self._known: dict[str, str] = {}
        """Where this process last heard that others are."""
        world.network.attach(name, self.receive)
        world.engine.mark(Kind.ADDED, name)

    @property
    def member_id(self) -> MemberId:
        return MemberId(f"{self.name}.{self.disk.log.incarnation}")

    @property
    def leads(self) -> bool:
        """Whether its process runs and takes itself for the leader."""
        return self.replica is not None and self.replica.leads

    # --- time ------------------------------------------------------------------------------------------------------

    def bound(self, action: Callable[[], None]) -> Callable[[], None]:
        """`action` for this life of the process: nothing after its end, and later while it stands still."""
        boot = self.boots

        def run() -> None:
            if boot == self.boots:
                self.do(action)

        return run

    def at(self, time_us: int, action: Callable[[], None]) -> None:
        """Plans something that this process does, if it still lives then."""
        self.world.engine.at(time_us, self.bound(action))

    # --- life ------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Starts the daemon on what the disk holds."""
        if self.alive or self.left or self.broken:
            return
        self.boots += 1
        self.least_sequence = 0
        self.alive, self.powered, self.paused = True, True, False
        engine = self.world.engine
        engine.mark(Kind.STARTS, self.name)
        engine.note(f"{self.member_id} starts with {self.disk.log.last_index()} entries")
        self.snapshots.restarted()
        self.run(self._start_life)
        if self.alive:
            self.worker = Worker(self)
            self.at(engine.now_us, self.worker.connect)

    def _start_life(self) -> None:
        life = self.life = HiveLife(self)
        self._known = {}
        life.start()
        self._announce_again(asks=True)
        self.at(self.world.engine.now_us + 1 * SECOND, lambda: self.world.announce(self, asks=True))

    def _announce_again(self, *, asks: bool) -> None:
        """Multicast DNS says everything once more now and then."""
        self.world.announce(self, asks=asks)
        self.at(self.world.engine.now_us + ANNOUNCE_US, lambda: self._announce_again(asks=False))

    def enter(self, *, holds_log: bool) -> None:
        """Goes on as what this machine is in its hive."""
        if holds_log:
            self.start_replica(born=False)
        else:
            self.world.engine.mark(Kind.LIGHT, self.name)

    def start_replica(self, *, born: bool) -> Replica:
        """This machine holds the log from now on."""
        self.world.engine.mark(Kind.MEMBER, self.name)
        replica = Replica(self, born=born)
        self.replica = replica
        self._gate = gate = MemberGate(
            self.node_id,
            self.disk.log.incarnation,
            view=lambda: replica.view,
            members=lambda: frozenset(map(self.world.node_of, replica.conf.members())),
            is_member=lambda: replica.member_id in replica.conf.members(),
            applied_index=lambda: replica.applied_index,
        )
        self.note_offer()
        replica.listeners.append(gate.applied)
        self.coordinator = Coordinator(self, replica)
        self.steward = Steward(self, replica)
        self.cluster = Cluster(self, replica, self.steward)
        self.digests = DigestKeeper(self, replica)
        if self.life is not None:
            self.life.watch_replica(replica)
        self.at(self.world.engine.now_us, replica.wake)
        return replica

    def leave(self) -> None:
        """The hive is without it for good: the daemon ends, and is not started again."""
        self.left = True
        self.world.engine.mark(Kind.LEFT, self.name)
        self.crash()
        self.world.engine.note(f"{self.name} left")

    def start_afresh(self) -> None:
        """Its hive is no more, or its owner gives it up: log and state are emptied, and what starts is another member."""
        self.crash()
        self._new_disk()
        self.world.engine.note(f"{self.name} starts afresh as {self.member_id}")
        self.boot()

    def bury(self, addresses: tuple[str, ...]) -> None:
        """Keeps in mind that its hive is no more, and where it went."""
        if self.disk.log.hive_id not in self.tombstones:
            self.tombstones.append(self.disk.log.hive_id)
        self.last_target = addresses

    def abandon(self, hive_id: str, address: str) -> None:
        """Its owner sends it into another hive (`cluster join --abandon`)."""
        self.bound_to, self.bound_address = hive_id, address
        self.start_afresh()

    def move(self) -> None:
        """Its address changes; whoever calls the old one hears nothing."""
        self.moves += 1
        del self.world.addresses[self.address]
        self.address = f"{self.name}-{self.moves}:50052"
        self.world.addresses[self.address] = self
        self.world.moved = True
        self.world.engine.note(f"{self.name} moves to {self.address}")
        if self.alive:
            self.run(lambda: self.life.moved() if self.life is not None else None)

    def crash(self, *, power: bool = False) -> None:
        """The process ends at once, or the whole machine."""
        if power:
            self.powered = False
        if not self.alive:
            return
        self.alive = False
        self.paused = False
        self.world.engine.mark(Kind.LOSES_POWER if power else Kind.CRASHES, self.name)
        fate = self.disk.crash(power=power)
        if power:
            self.snapshots.power_lost()
        self.world.engine.note(f"{self.member_id} {'loses power' if power else 'crashes'}, write {fate}")
        self.replica, self.coordinator, self.digests = None, None, None
        self.steward, self.cluster, self._gate = None, None, None
        self._heard_ms.clear()
        self.worker, self.life = None, None
        self.search.forget()
        self._backlog.clear()
        self._calls.clear()
        streams, self._streams = list(self._streams.values()), {}
        for stream, side in streams:
            if power:
                stream.fall_silent(side)
            else:
                stream.close(side)
        self.world.process_ended(self, reset=not power)

    def do(self, action: Callable[[], None]) -> None:
        """The process does something now, or when it goes on, if it stands still; what it raises ends it."""
        if not self.alive:
            return
        if self.paused:
            if len(self._backlog) < BACKLOG_MAX:
                self._backlog.append(action)
            return
        try:
            action()
        except Violation:
            raise
        except Exception as error:
            self._break_down(error)

    def _break_down(self, error: Exception) -> None:
        """Something raised in this process. Where bits were flipped that is what must happen; else it is a fault."""
        compared = isinstance(error, InvariantError) and self.digests is not None and self.world.anybody_tainted()
        damaged = self.tainted or self.disk.log.damaged or self.is_rotten
        if not (damaged or compared):
            raise error
        if damaged:
            self.break_off(f"{type(error).__name__} {error}")
        else:
            # No majority could say which state is right; a person does, and starts this one again.
            self.world.engine.note(f"{self.member_id} stops: {error}")
            self.world.engine.after(PERSON_US, self.boot)
            self.crash()

    def break_off(self, why: str) -> None:
        """The daemon ends itself for good."""
        self.broken = why
        self.world.engine.note(f"{self.member_id} stops for good: {why}")
        self.crash()

    def flip_log(self) -> bool:
        """A bit of some entry on the disk flips; returns whether there is one."""
        log, engine = self.disk.log, self.world.engine
        first, last = log.on_disk()
        if first > last:
            return False
        index = engine.between(first, last)
        log.flip_bit(index, engine.rng.getrandbits(20))
        engine.note(f"a bit of entry {index} of {self.member_id} flips")
        return True

    def flip_state(self, *, prefixes: tuple[bytes, ...] = (b"",)) -> bool:
        """A bit of some row of agreed state flips, in the page cache and on the disk; returns whether there is one.

        Args:
            prefixes: of the rows among which one is taken.
        """
        key, bit = self._some_row(prefixes), self.world.engine.rng.getrandbits(16)
        if key is None:
            return False
        self.disk.state.flip_bit(key, bit)
        if self.replica is not None:
            self.replica.view.flip_bit(key, bit)
        self.world.engine.note(f"a bit of the row {key!r} of {self.member_id} flips")
        return True

    def spoil_state(self, *, prefixes: tuple[bytes, ...]) -> bool:
        """A number in some row is wrong by one and has its checksum, as if it was computed so; whether there is one."""
        key = self._some_row(prefixes)
        if key is None:
            return False
        rows = self.disk.state.rows
        bit = 8 * (len(rows[key]) - 1)
        self.tainted = True
        rows[key] = flipped(rows[key], bit)
        if self.replica is not None and (value := self.replica.view.get(key)) is not None:
            self.replica.view.overwrite(key, flipped(value, bit))
        self.world.engine.note(f"the row {key!r} of {self.member_id} is wrong")
        return True

    def _some_row(self, prefixes: tuple[bytes, ...]) -> bytes | None:
        keys = [key for key in sorted(self.disk.state.rows) if key.startswith(prefixes)]
        return keys[self.world.engine.rng.randrange(len(keys))] if keys else None

    @property
    def is_rotten(self) -> bool:
        """Whether a bit of its agreed state flipped that nobody has read since."""
        return bool(self.disk.state.rotten or (self.replica is not None and self.replica.view.rotten))

    def pause(self) -> None:
        if self.alive and not self.paused:
            self.paused = True
            self.world.engine.mark(Kind.PAUSED, self.name)
            self.world.engine.note(f"{self.member_id} stands still")

    def resume(self) -> None:
        if not self.alive or not self.paused:
            return
        self.paused = False
        self.world.engine.mark(Kind.RESUMED, self.name)
        self.world.engine.note(f"{self.member_id} goes on, {len(self._backlog)} wait")
        waiting, self._backlog = self._backlog, deque()
        for action in waiting:
            self.world.engine.at(self.world.engine.now_us, self.bound(action))

    def wipe(self) -> None:
        """The disk is gone: what starts next is another member, which joins like any fresh node."""
        self.crash(power=True)
        self._new_disk()
        self.tombstones, self.last_target = [], ()
        self.world.engine.note(f"{self.name} is wiped, next {self.member_id}")

    def _new_disk(self) -> None:
        self.incarnations += 1
        slowness = self.disk.slowness
        self.world.checks.agreed.differs_since.pop(self.name, None)
        self.disk = Disk(self.world.engine, str(self.incarnations))
        self.disk.slowness = slowness
        self.snapshots = SnapshotDisk(self, self.disk)
        self.tainted, self.broken = False, ""
        self.roster = None

    # --- the wire --------------------------------------------------------------------------------------------------

    def send_message(self, message: Message) -> None:
        target = name_of(message.to)
        if self.world.engine.detailed:
            self.world.engine.detail(describe(message))
        if not self.world.moved or self._knows_way(target):
            self.world.network.send(self.name, target, message)

    def send_to_member(self, member: MemberId, payload: Any) -> None:
        """A call of the peer protocol, or its answer."""
        self.world.network.send(self.name, name_of(member), payload, once=True)

    def receive(self, source: str, payload: Any) -> None:
        """A datagram arrives at the machine; nobody is told when no process is there to take it."""
        if self.paused or not self.alive:
            self.do(lambda: self._take(source, payload))
            return
        # Half of all events are messages, so what `do` would do now is done here, without a closure for each.
        try:
            self._take(source, payload)
        except Violation:
            raise
        except Exception as error:
            self._break_down(error)

    def _take(self, source: str, payload: Any) -> None:
        # Nearly all that goes over the wires is the core's, so it does not go through the list of all else.
        if type(payload) in _CONSENSUS:
            replica = self.replica
            # One that asked two hives may be in the lists of both; the peer protocol refuses who is of another hive.
            ours = self.world.nodes[source].disk.log.hive_id == self.disk.log.hive_id
            if replica is not None and ours and payload.to == replica.member_id and self._hears(source):
                replica.receive(payload)
            return
        match payload:
            case Forward():
                self._serve_forward(source, payload)
            case Answer():
                done = self._calls.pop(payload.call, None)
                if isinstance(payload.result, Failure) and payload.result.code is Code.NO_LEADER:
                    self.search.leader = None
                if done is not None:
                    done(payload.result)
            case LeaderAsked():
                # What a light node was told may be old, and would go round among them for ever.
                ours = self.disk.log.hive_id == self.world.nodes[source].disk.log.hive_id
                leader = self.leader_node() if ours and not self.light else None
                told = LeaderTold(leader=leader.name if leader is not None else "")
                self.world.network.send(self.name, source, told, once=True)
            case LeaderTold():
                self.search.told(source, payload.leader)
                if self.search.leader is not None and self.replica is not None and self.life is not None:
                    self.life.leader_found()
            case Announced():
                if self.life is not None and payload.address != self.address:
                    self.life.candidate(payload.address, "mdns")
                    if payload.asks:
                        answer = Announced(address=self.address, asks=False)
                        self.world.network.send(self.name, source, answer, once=True)
            case PeerCall():
                self._serve_peer(source, payload)
            case PieceAsked():
                if self.takes_part(self.world.nodes[source]):
                    serve_pieces(self, source, payload)
            case PieceSent():
                if self.replica is not None:
                    self.replica.fetcher.piece(self._as_it_arrives(payload))
            case DigestAsked():
                if self.digests is not None and self.admits(self.world.nodes[source]):
                    self.digests.compare(source, payload)
            case DigestJudged():
                if self.digests is not None:
                    self.digests.judged(payload)
            case _:
                raise TypeError(f"{type(payload).__name__} goes over no wire")

    def takes_part(self, other: Node) -> bool:
        """Whether this member hears what the other says of consensus, and gives it log and state."""
        return self._gate is not None and self._gate.takes_part(other.node_id)

    def admits(self, other: Node) -> bool:
        """As `LocalNode.admits`: whether this member of the hive takes calls of the other that only members may make."""
        replica = self.replica
        if replica is None:
            return True
        entry = queries.node(replica.view, other.node_id)
        return (entry is not None and entry.kind is NodeKind.HIVE) or self.takes_part(other)

    def _hears(self, source: str) -> bool:
        """Whether a message of the core is taken; a peer that the agreed state does not know is asked about."""
        gate, node_id = self._gate, self.world.nodes[source].node_id
        if gate is None:
            return False
        if gate.takes_part(node_id):
            self._heard_ms[node_id] = self.clock.monotonic_ms()
            return True
        if self.life is not None and gate.may_be_new(node_id):
            self.life.unheard_called()
        return False

    def hears(self, node_id: NodeId) -> bool:
        """Whether another has said something of consensus lately."""
        return self.clock.monotonic_ms() - self._heard_ms.get(node_id, -HEARD_MS) < HEARD_MS

    def vouch(self, by: NodeId, index: int, named: Iterable[NodeId]) -> None:
        """A member that takes part named those that do."""
        if self._gate is not None:
            self._gate.vouch(by, index, named)

    def note_offer(self) -> None:
        """What the leader named as it let this machine in; also after a restart, for it is on the machine's disk."""
        if self._gate is not None and self.roster is not None:
            self._gate.offer(self.roster.index, (self.roster.leader.node_id, *self.roster.voters))

    def _as_it_arrives(self, piece: PieceSent) -> PieceSent:
        """A bit may flip on the way from the wire to the file."""
        engine = self.world.engine
        per_mille = self.world.corrupt_piece_per_mille
        if piece.data and per_mille and engine.chance(per_mille):
            engine.note(f"a bit flips in the snapshot that {self.name} receives")
            return replace(piece, data=flipped(piece.data, engine.rng.getrandbits(16)))
        return piece

    def reaches(self, other: Node) -> bool:
        network = self.world.network
        return network.open(self.name, other.name) and network.open(other.name, self.name)

    def peer_lost(self, other: Node) -> None:
        """A peer's process ended and its machine refuses another connection."""
        replica = self.replica
        if replica is not None and replica.leader is not None and name_of(replica.leader) == other.name:
            replica.leader_lost(replica.leader)

    def open_stream(self, target: Node, receive: Callable[[Any], None], closed: Callable[[bool], None]) -> Stream:
        """Opens a worker's stream to the node that is taken for the leader."""
        holder: list[Stream] = []
        own_key, its_key = self._next_stream(), target._next_stream()
        boot = target.boots

        def accept() -> tuple[Callable[[Any], None], Callable[[bool], None]]:
            coordinator = target.coordinator
            if coordinator is None:
                return (lambda _event: holder[0].close(1)), (lambda _reset: None)
            return coordinator.accept(self, holder[0])

        handlers: list[tuple[Callable[[Any], None], Callable[[bool], None]]] = []

        def receive_there(event: Any) -> None:
            if target.alive and target.boots == boot:
                target.run(lambda: handlers[0][0](event))

        def closed_there(reset: bool) -> None:
            target._streams.pop(its_key, None)
            if target.alive and target.boots == boot:
                target.run(lambda: handlers[0][1](reset))

        my_boot = self.boots

        def receive_here(order: Any) -> None:
            if self.alive and self.boots == my_boot:
                self.run(lambda: receive(order))

        def closed_here(reset: bool) -> None:
            self._streams.pop(own_key, None)
            if self.alive and self.boots == my_boot:
                self.run(lambda: closed(reset))

        stream = Stream(
            self.world.engine,
            self.world.network,
            (self.name, target.name),
            (receive_here, receive_there),
            (closed_here, closed_there),
        )
        holder.append(stream)
        handlers.append(accept())
        self._streams[own_key] = (stream, 0)
        target._streams[its_key] = (stream, 1)
        return stream

    def run(self, action: Callable[[], None]) -> None:
        """Does something in this process now, or when it goes on."""
        self.bound(action)()

    def _next_stream(self) -> int:
        self._stream_count += 1
        return self._stream_count

    # --- calls -----------------------------------------------------------------------------------------------------

    @property
    def light(self) -> bool:
        """Whether it holds no log that grows now.

        One that has not heard who votes is as light as one that never will; so is one whose place went to another while it
        was away, for nobody tells it: it knows no leader, and others do.
        """
        replica = self.replica
        return replica is None or not replica.conf.voters or (replica.leader is None and self.search.leader is not None)

    def leader_node(self) -> Node | None:
        """The node that this one takes for the leader."""
        if self.light:
            return self.world.nodes[self.search.leader] if self.search.leader is not None else None
        replica = self.replica
        return self.world.nodes[name_of(replica.leader)] if replica is not None and replica.leader is not None else None

    def seek_leader(self) -> None:
        """Asks others who leads, when this machine cannot know by itself; one without a hive asks nobody."""
        in_hive = self.disk.log.hive_id != ""
        if in_hive and self.search.leader is None and (self.light or self.search.lacks_long()):
            self.search.begin()

    def serve(self, request: Write | Read, deadline_us: int, done: OnAnswer) -> None:
        """A call of a program on this machine; `done` is called once, unless this process ends first."""
        replica = self.replica
        if not self.disk.log.hive_id or self._is_elsewhere():
            done(Failure(code=Code.NOT_A_MEMBER, text="this node has not joined the hive yet"))
        elif replica is None or self.light or (isinstance(request, Write) and not replica.leads):
            self._forward(request, deadline_us, done)
        elif isinstance(request, Write) and self.life is not None and not self.life.writes_open:
            done(Failure(code=Code.NO_LEADER, text="the hive is still being formed"))
        elif isinstance(request, Write):
            replica.propose(request, deadline_us, done)
        else:
            self._read(replica, request, deadline_us, done)

    def _read(self, replica: Replica, request: Read, deadline_us: int, done: OnAnswer) -> None:
        def confirmed(failure: Failure | None) -> None:
            if failure is None and self.tainted:
                failure = Failure(code=Code.OUTCOME_UNKNOWN, text="this node's state went wrong")
            done(request.query(replica.view) if failure is None else failure)

        replica.read_barrier(deadline_us, confirmed)

    def _forward(self, request: Write | Read, deadline_us: int, done: OnAnswer) -> None:
        engine = self.world.engine
        leader = self.leader_node()
        if leader is None:
            self.seek_leader()
            if engine.now_us + LEADER_RETRY_US >= deadline_us:
                done(Failure(code=Code.NO_LEADER, text="no leader is known"))
            else:
                self.at(engine.now_us + LEADER_RETRY_US, lambda: self.serve(request, deadline_us, done))
            return
        self._call_count += 1
        call = self._call_count
        self._calls[call] = done
        forward = Forward(call=call, request=request, deadline_us=deadline_us)
        self.world.network.send(self.name, leader.name, forward, once=True)
        self.at(deadline_us, lambda: self._give_up(call))

    def _is_elsewhere(self) -> bool:
        """Whether this node is in another hive than the one whose users ask; a hive of its own would take users' writes too."""
        return self.world.hive_id not in ("", self.disk.log.hive_id)

    def _give_up(self, call: int) -> None:
        done = self._calls.pop(call, None)
        if done is not None:
            self.search.leader = None
            done(Failure(code=Code.OUTCOME_UNKNOWN, text="the leader did not answer in time"))

    def _serve_forward(self, source: str, forward: Forward) -> None:
        def answer(result: Any) -> None:
            self.world.network.send(self.name, source, Answer(call=forward.call, result=result), once=True)

        replica = self.replica
        if replica is None or not replica.leads:
            answer(Failure(code=Code.NO_LEADER, text="this node does not lead"))
        elif not self.admits(self.world.nodes[source]):
            answer(Failure(code=Code.PERMISSION_DENIED, text="the node that brought this call is not in the hive"))
        else:
            self.serve(forward.request, forward.deadline_us, answer)

    # --- peers -----------------------------------------------------------------------------------------------------

    def ask(self, address: str, body: Any, deadline_s: float, done: OnAnswer) -> None:
        """Calls an address; `done` is called once, unless this process ends first. NODE_OFFLINE: the machine refuses."""
        world = self.world
        self._call_count += 1
        call = self._call_count
        self._calls[call] = done

        def answer(code: Code, text: str) -> None:
            waiting = self._calls.pop(call, None)
            if waiting is not None:
                waiting(Failure(code=code, text=text))

        target = world.addresses.get(address)
        if target is not None and target.powered and not target.alive and self.reaches(target):
            self.at(world.engine.now_us + MS, lambda: answer(Code.NODE_OFFLINE, "nobody listens there"))
            return
        self.at(
            world.engine.now_us + int(deadline_s * SECOND), lambda: answer(Code.OUTCOME_UNKNOWN, "no answer in time")
        )
        if target is not None:
            world.network.send(self.name, target.name, PeerCall(call=call, address=address, body=body), once=True)

    def _serve_peer(self, source: str, call: PeerCall) -> None:
        life = self.life
        if life is None or call.address != self.address:
            return

        def answer(result: Any) -> None:
            self.world.network.send(self.name, source, Answer(call=call.call, result=result), once=True)

        match call.body:
            case IntroduceAsked():
                answer(life.introduction())
            case InviteAsked():
                life.invited(call.body, answer)
            case JoinAsked(hive_id=hive_id) | MembersAsked(hive_id=hive_id) if hive_id != self.disk.log.hive_id:
                answer(Failure(code=Code.WRONG_HIVE, text="this node is of another hive"))
            case JoinAsked():
                self.admission.asked_to_admit(call.body, answer)
            case MembersAsked():
                life.asked_for_members(call.body, answer)
            case _:
                assert_never(call.body)

    def learn_address(self, node_id: NodeId, addresses: tuple[str, ...]) -> None:
        """Somebody is there, by its own word or the hive's."""
        name = self.world.names[node_id]
        if addresses and name != self.name:
            self._known[name] = addresses[0]

    def address_of(self, other: Node) -> str:
        """Where this process takes another machine to be."""
        return self._known.get(other.name, other.address)

    def _knows_way(self, name: str) -> bool:
        """Whether what is sent to a machine goes where it is now."""
        known = self._known.get(name)
        return known is None or known == self.world.nodes[name].address

    def signed_record(self, *, later: bool = False) -> SignedNodeRecord:
        """What this node says of itself now, or `later`, after its next start; a later one has a greater sequence."""
        record = NodeRecord(
            node_id=self.node_id,
            public_key=self.public_key,
            incarnation=self.disk.log.incarnation,
            role=self.role,
            addresses=(self.address,),
            capabilities=self.capabilities,
            sequence=max(self.clock.wall_ms(), self.least_sequence) + later,
            expires_ms=NEVER_EXPIRES_MS,
            version="0.1.0",
            certificate_sha256=bytes(32),
        )
        return sign_record(record, self.sign)

    def sign(self, message: bytes) -> bytes:
        return signature_of(self.public_key, message)


def name_of(member: MemberId) -> str:
    return member.partition(".")[0]


def _capabilities(name: str) -> Capabilities:
    return Capabilities(
        hostname=name,
        cpu_cores=2,
        memory_gb=8,
        cpu_score=1_000,
        gpu_score=0,
        gpu_memory_gb=0,
        gpu_name="",
        location="",
        docker_status="",
        executor="sandbox",
        executor_note="",
        slots=2,
    )


def describe(message: Message) -> str:
    """One line on a message for the trace; no set is printed, because its order is not the same in every process."""
    shown = [type(message).__name__, f"{message.from_}>{message.to}", f"t{message.term}"]
    for field in ("prev_index", "index", "commit", "last_index", "pre_vote", "granted", "reject", "hint_index"):
        value = getattr(message, field, None)
        if value is not None:
            shown.append(f"{field}={int(value)}")
    entries = getattr(message, "entries", None)
    if entries:
        shown.append(f"entries={entries[0].index}..{entries[-1].index}")
    return " ".join(shown)
