"""One simulated machine with its daemon: it starts, crashes, sleeps and forgets, and takes what arrives on its wire.

| what happens | process | memory | disk | clocks |
|---|---|---|---|---|
| crash | gone; its peers' connections are reset | gone | what was synced | go on |
| power cut | gone; its peers hear nothing | gone | what was synced, perhaps less of agreed state | go on |
| pause | stands still; what arrives waits | kept | a write that is under way ends | go on |
| wipe | gone | gone | empty: the node comes back as another member | go on |
| damage found | ends itself and says why | gone | kept, and not started on again | go on |

What else a machine does has modules of its own: `node_calls` serves and calls, `hearing` says to whom it listens, `streams` holds
workers' streams, `damage` flips bits, `address_book` and `own_record` are where others are and what it says of itself.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, get_args

from hivenode.consensus import MemberId, Message
from hivenode.encoding.node_record import Role, node_id_of
from hivenode.errors import InvariantError
from hivenode.runtime.ports import JoinOffer
from simulations.address_book import AddressBook
from simulations.admission import Admission
from simulations.calls import (
    Announced,
    Answer,
    DigestAsked,
    DigestJudged,
    Forward,
    LeaderAsked,
    LeaderTold,
    PeerCall,
    PieceAsked,
    PieceSent,
)
from simulations.checkers.violation import Violation
from simulations.clocks import Clock
from simulations.cluster import Cluster
from simulations.coordinator import Coordinator
from simulations.damage import Damage
from simulations.digests import DigestKeeper
from simulations.disk import Disk
from simulations.engine import SECOND
from simulations.hearing import Hearing
from simulations.hive_life import HiveLife
from simulations.leader_search import LeaderSearch
from simulations.marks import Kind
from simulations.node_calls import NodeCalls
from simulations.own_record import capabilities_of
from simulations.replica import Replica
from simulations.signatures import signature_of
from simulations.snapshots import SnapshotDisk, serve_pieces
from simulations.steward import Steward
from simulations.streams import Streams
from simulations.worker import Worker

if TYPE_CHECKING:
    from simulations.world import World

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
        self.capabilities: Final = capabilities_of(name)
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
        self.coordinator: Coordinator | None = None
        self.digests: DigestKeeper | None = None
        self.worker: Worker | None = None
        self.search: Final = LeaderSearch(self)
        self.hearing: Final = Hearing(self)
        self.calls: Final = NodeCalls(self)
        self.streams: Final = Streams(self)
        self.address_book: Final = AddressBook(self)
        self.damage: Final = Damage(self)
        self._backlog: deque[Callable[[], None]] = deque()
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
        self.address_book.forget()
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
        self.hearing.begin(replica)
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
        self.steward, self.cluster = None, None
        self.hearing.forget()
        self.worker, self.life = None, None
        self.search.forget()
        self._backlog.clear()
        self.calls.forget()
        self.streams.process_ended(silently=power)
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
        damaged = self.tainted or self.disk.log.damaged or self.damage.is_rotten
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
        if not self.world.moved or self.address_book.knows_way(target):
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
            if replica is not None and ours and payload.to == replica.member_id and self.hearing.hears_message(source):
                replica.receive(payload)
            return
        match payload:
            case Forward():
                self.calls.serve_forward(source, payload)
            case Answer():
                self.calls.answered(payload)
            case LeaderAsked():
                self.search.asked(source)
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
                self.calls.serve_peer(source, payload)
            case PieceAsked():
                if self.hearing.takes_part(self.world.nodes[source]):
                    serve_pieces(self, source, payload)
            case PieceSent():
                if self.replica is not None:
                    self.replica.fetcher.piece(self.damage.as_it_arrives(payload))
            case DigestAsked():
                if self.digests is not None and self.hearing.admits(self.world.nodes[source]):
                    self.digests.compare(source, payload)
            case DigestJudged():
                if self.digests is not None:
                    self.digests.judged(payload)
            case _:
                raise TypeError(f"{type(payload).__name__} goes over no wire")

    def reaches(self, other: Node) -> bool:
        network = self.world.network
        return network.open(self.name, other.name) and network.open(other.name, self.name)

    def peer_lost(self, other: Node) -> None:
        """A peer's process ended and its machine refuses another connection."""
        replica = self.replica
        if replica is not None and replica.leader is not None and name_of(replica.leader) == other.name:
            replica.leader_lost(replica.leader)

    def run(self, action: Callable[[], None]) -> None:
        """Does something in this process now, or when it goes on."""
        self.bound(action)()

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

    def sign(self, message: bytes) -> bytes:
        return signature_of(self.public_key, message)


def name_of(member: MemberId) -> str:
    return member.partition(".")[0]


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
