"""The machines of one run with the wires between them, and how one sees whether the hive is well."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, TextIO

from hivenode.consensus import MemberId, Role, Snapshot
from hivenode.encoding.node_record import NodeId, NodeRecord
from hivenode.encoding.node_record import Role as OwnersRole
from hivenode.membership.voters import LEARNERS_MAX
from hivenode.pool import queries
from hivenode.pool.records import NodeRights
from hivenode.runtime.ports import AttemptKey
from hivenode.runtime.snapshots import decode_ref
from hivenode.runtime.stores import CompactionBounds
from simulations.calls import Announced
from simulations.checkers.violation import demand
from simulations.checkers.watch import Watch
from simulations.engine import MINUTE, MS, SECOND, Engine
from simulations.network import Network, Weather
from simulations.node import Node
from simulations.replica import Replica
from simulations.signatures import verify

REFUSED_US: Final = (500, 5 * MS)
"""A reset, a redial and its refusal on a LAN."""
HEARERS_MAX: Final = 32
"""More machines than a LAN's discovery domain mostly holds; a multicast to a thousand would be most of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run is like, beside its seed; times of the core are the daemon's defaults."""

    nodes: int = 5
    light: int = 0
    """How many of them hold no log: their owners let them work only."""
    clients: int = 6
    wanderers: int = 0
    """Clients beside those, who log in and out and change their passwords."""
    election_timeout_ms: tuple[int, int] = (1000, 2000)
    heartbeat_interval_ms: int = 150
    max_append_bytes: int = 1 << 20
    run_us: tuple[int, int] = (100 * MS, 60 * SECOND)
    """How long a task's program runs."""
    keep_tasks_ms: int = 3_600_000
    """Ended tasks are swept after this much of agreed time."""
    think_us: tuple[int, int] = (200 * MS, 6 * SECOND)
    """How long a client waits before it wants the next thing."""
    tide_us: tuple[int, int] = (0, 0)
    """For how long clients are busy, and for how long quiet after that, again and again; (0, 0) for always busy."""
    fault_every_us: tuple[int, int] = (4 * SECOND, 40 * SECOND)
    down_us: tuple[int, int] = (200 * MS, 30 * SECOND)
    """How long a fault lasts."""
    weather: Weather = field(default_factory=Weather)
    """The network's weather between faults."""
    start_us: int = 300 * MS
    """The machines are switched on within this time."""
    forming_us: int = 0
    """How long machines are in trouble while they look for each other."""
    bootstrap: bool = False
    """Machines hear nothing of each other, and know the first one's address, as on a network without multicast."""
    discovery_loss: int = 0
    """Announcements that do not arrive, in parts of a thousand, while the hive forms."""
    slowness: int = 1
    """How many times slower all disks are."""
    compaction: CompactionBounds = field(
        default_factory=lambda: CompactionBounds(
            entries_max=200, entries_kept=100, bytes_max=128 << 10, bytes_kept=64 << 10
        )
    )
    """A hundredth of the daemon's bounds, so that compactions and snapshots are everyday events of a short run."""
    snapshot_pieces: int = 16
    """Into so many a snapshot is cut; the daemon cuts into pieces of 1 MiB."""
    corrupt_piece_per_mille: int = 0
    digest_every: int = 64
    """Entries between two comparisons of the members' states; the daemon's 1,024 would come a few times an hour."""


def moody(seed: int, nodes: int) -> Settings:
    """The settings of a random run: some hives are calm and some are in trouble all the time.

    Races need crowds: messages that are on their way for as long as an election takes, disks that are busy when the power
    fails, clients that ask while leaders change. No single mood has them all and time for everything else.
    """
    rng = Random(f"mood {seed}")
    fault_every_us, down_us = rng.choice(
        [
            ((4 * SECOND, 40 * SECOND), (200 * MS, 30 * SECOND)),
            ((1 * SECOND, 10 * SECOND), (50 * MS, 10 * SECOND)),
            ((100 * MS, 4 * SECOND), (20 * MS, 3 * SECOND)),
        ]
    )
    late, late_us = rng.choice(
        [(2, (2 * MS, 80 * MS)), (100, (2 * MS, 200 * MS)), (500, (1 * MS, 150 * MS)), (300, (5 * MS, 600 * MS))]
    )
    return Settings(
        nodes=nodes,
        clients=rng.choice([6, 9, 15]),
        wanderers=2,
        think_us=rng.choice([(200 * MS, 6 * SECOND), (50 * MS, 3 * SECOND)]),
        # Crowds come and go; the faults stay, also for a hive in which little happens.
        tide_us=(6 * MINUTE, 14 * MINUTE),
        fault_every_us=fault_every_us,
        down_us=down_us,
        weather=Weather(loss=rng.choice([0, 0, 10, 50]), duplicate=rng.choice([0, 20]), late=late, late_us=late_us),
        slowness=rng.choice([1, 1, 8, 30]),
        # Few entries an append bring out orders of events that whole batches hide.
        max_append_bytes=rng.choice([1 << 20, 1 << 20, 512]),
        start_us=rng.choice([300 * MS, 300 * MS, 3 * SECOND, 12 * SECOND]),
        forming_us=rng.choice([0, 0, 10 * SECOND, 40 * SECOND]),
        discovery_loss=rng.choice([0, 200, 600]),
        compaction=CompactionBounds(
            **rng.choice(
                [
                    {"entries_max": 200, "entries_kept": 100, "bytes_max": 128 << 10, "bytes_kept": 64 << 10},
                    {"entries_max": 40, "entries_kept": 5, "bytes_max": 128 << 10, "bytes_kept": 64 << 10},
                    {"entries_max": 2_000, "entries_kept": 1_000, "bytes_max": 12 << 10, "bytes_kept": 4 << 10},
                ]
            )
        ),
        snapshot_pieces=rng.choice([64, 16]),
        corrupt_piece_per_mille=rng.choice([0, 0, 5]),
    )


class World:
    """See the module."""

    def __init__(self, seed: int, settings: Settings, trace: TextIO | None = None) -> None:
        self.settings: Final = settings
        self.engine: Final = Engine(seed, trace)
        self.network: Final = Network(self.engine)
        self.network.weather = replace(settings.weather)
        self._watches: Final[dict[str, Watch]] = {}
        self.verify: Final = verify
        self.hive_id = ""
        """The hive of this run, when it is settled; its users' calls are answered by its members alone."""
        self.addresses: Final[dict[str, Node]] = {}
        self.moved = False
        """Whether any machine has another address than at the beginning."""
        self.foreign_seen: Final[set[tuple[str, str]]] = set()
        """Who reported which other hive."""
        self.nodes: Final[dict[str, Node]] = {}
        self.corrupt_piece_per_mille = settings.corrupt_piece_per_mille
        """How often a bit of a snapshot's piece flips on its way to the file, until the faults end."""
        self.discovery_loss = settings.discovery_loss
        self.on_trial: Final[set[str]] = set()
        """The machines that come in as workers, until an operator gives them voter right."""
        self.doubtful_orders: Final[set[AttemptKey]] = set()
        """What leaders with flipped bits told workers to run."""
        self.tainted_files: Final[set[str]] = set()
        """The snapshots that were made of a state with flipped bits."""
        self.names: Final[dict[NodeId, str]] = {}
        for number in range(1, settings.nodes + 1):
            self.add_node(f"n{number}", light=number > settings.nodes - settings.light)

    def add_node(self, name: str, *, light: bool = False) -> Node:
        """A machine that was not there before; it is not switched on yet."""
        node = Node(self, name, OwnersRole.WORKER if light else OwnersRole.AUTO)
        node.disk.slowness = self.settings.slowness
        self.nodes[name] = node
        self.names[node.node_id] = name
        return node

    def start(self) -> None:
        """Switches all machines on."""
        for node in self.nodes.values():
            self.engine.after(self.engine.between(0, self.settings.start_us), node.boot)

    def new_hive_id(self) -> str:
        return f"{self.engine.rng.getrandbits(128):032x}"

    def rights_of(self, joiner: NodeRecord) -> NodeRights:
        """With which rights a machine comes in."""
        if self.names[joiner.node_id] in self.on_trial:
            return NodeRights.WORKER
        return NodeRights.VOTER if joiner.role.may_vote else NodeRights.WORKER

    def member_of(self, node_id: NodeId, incarnation: str) -> MemberId:
        """The Raft id of a node with one log."""
        return MemberId(f"{self.names[node_id]}.{incarnation}")

    def node_of(self, member: MemberId) -> NodeId:
        return self.nodes[member.partition(".")[0]].node_id

    def announce(self, node: Node, *, asks: bool = False) -> None:
        """Discovery: tells others where a node is; each may miss it. Of many, some hear it."""
        if self.settings.bootstrap:
            return
        others = [name for name, other in self.nodes.items() if other is not node and not other.left]
        if len(others) > HEARERS_MAX:
            others = self.engine.rng.sample(others, HEARERS_MAX)
        for name in others:
            if not self.engine.chance(self.discovery_loss):
                self.network.send(node.name, name, Announced(address=node.address, asks=asks), once=True)

    # --- hives -----------------------------------------------------------------------------------------------------

    def watch(self, hive_id: str) -> Watch:
        """The checkers of one hive: each has a log of its own."""
        found = self._watches.get(hive_id)
        if found is None:
            found = self._watches[hive_id] = Watch(self.engine)
        return found

    def begin_epoch(self, hive_id: str) -> None:
        """The run's hive goes on under another mark, and so do its checkers."""
        self._watches[hive_id] = self.watch(self.main_hive())
        self.hive_id = hive_id

    def main_hive(self) -> str:
        """The run's hive; before it is settled, the one to which most machines belong. Empty when there is none."""
        if self.hive_id:
            return self.hive_id
        hives = sorted(node.disk.log.hive_id for node in self.nodes.values() if node.disk.log.hive_id and not node.left)
        return max(hives, key=hives.count, default="")

    @property
    def checks(self) -> Watch:
        """The checkers of the run's hive."""
        return self.watch(self.main_hive())

    def is_formed(self) -> bool:
        """Whether all machines that run belong to one hive, which has a leader that knows them."""
        leader = self.leader()
        if leader is None or leader.replica is None:
            return False
        entries = {entry.node_id for entry in queries.nodes(leader.replica.view)}
        return all(
            node.alive and node.disk.log.hive_id == leader.disk.log.hive_id and node.node_id in entries
            for node in self.present()
        )

    # --- how things stand ------------------------------------------------------------------------------------------

    def present(self) -> list[Node]:
        """The machines that belong to the hive or want to, and are not kept out."""
        return [node for node in self.nodes.values() if not node.left and not node.revoked]

    def is_anybody_unsound(self) -> bool:
        """A machine that has yet to find out that its disk or memory is wrong is one that the hive is about to lose.

        Who takes another one away meanwhile may take the last copy of what was acknowledged.
        """
        return any(
            node.broken or node.tainted or node.damage.is_rotten or node.disk.log.damaged for node in self.present()
        )

    def alive(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.alive]

    def leader(self) -> Node | None:
        """The leader of the highest term among those that run."""
        hive_id = self.main_hive()
        leading = [
            (node.replica.raw.term, node.name)
            for node in self.alive()
            if node.replica is not None
            and node.replica.role is Role.LEADER
            and node.disk.log.hive_id == hive_id
            and not node.revoked
        ]
        return self.nodes[max(leading)[1]] if leading else None

    def is_tainted(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot was made of a state whose bits were flipped."""
        return decode_ref(snapshot.data).sha256 in self.tainted_files

    def has_shown(self, node: Node) -> bool:
        """Whether the node's state differed at an entry that members compare themselves at, so that it must stop."""
        since = self.checks.agreed.differs_since.get(node.name)
        if since is None or node.replica is None:
            return False
        return node.replica.applied_index - node.replica.applied_index % self.settings.digest_every >= since

    def anybody_tainted(self) -> bool:
        return any(node.tainted for node in self.nodes.values())

    def forming_troubles(self) -> str:
        """Who is in which hive."""
        return ", ".join(f"{node.name}: {node.disk.log.hive_id[:8] or 'none'}" for node in self.present())

    def troubles(self) -> list[str]:
        """What keeps the hive from being well: empty when it has converged and has nothing left to do."""
        leader = self.leader()
        if leader is None or leader.replica is None:
            return ["nobody leads"]
        status = leader.replica.status()
        found: list[str] = []
        for node in self.present():
            replica = node.replica
            if node.broken:
                found.append(f"{node.name} stopped: {node.broken}")
            elif node.tainted or node.damage.is_rotten:
                found.append(
                    f"{node.name} runs with a state that {'differs' if self.has_shown(node) else 'is in doubt'}"
                )
            elif not node.disk.log.hive_id:
                found.append(f"{node.name} is no member yet")
            elif node.disk.log.hive_id != leader.disk.log.hive_id:
                found.append(f"{node.name} is in another hive")
            elif replica is None or self._is_spare(node, leader.replica):
                if node.worker is None or not node.worker.connected:
                    found.append(f"{node.name} has no stream to the leader")
            elif replica.leader != status.member_id:
                found.append(f"{node.name} follows {replica.leader}, not {status.member_id}")
            elif replica.applied_index < status.last_index:
                found.append(f"{node.name} applied {replica.applied_index} of {status.last_index}")
            elif node.member_id not in status.conf.members():
                found.append(f"{node.member_id} is not in the configuration")
        if leader.damage.is_rotten:
            return found  # Whoever asks it reads the row.
        counts = queries.counts(leader.replica.view)
        if counts.tasks_pending or counts.tasks_running:
            found.append(f"{counts.tasks_pending} tasks wait, {counts.tasks_running} run")
        elif attempts := queries.open_attempts(leader.replica.view):
            found.append(f"{len(attempts)} attempts have no end")
        else:
            found.extend(
                f"{node.name} holds attempts that are closed"
                for node in self.present()
                if node.worker is not None and node.worker.holds_attempts
            )
        if status.conf.is_joint:
            found.append("the configuration is joint")
        return found

    @staticmethod
    def _is_spare(node: Node, leader: Replica) -> bool:
        """Whether it holds an old log alone: enough others hold the log, or it was revoked and let in again as a worker."""
        conf, entry = leader.status().conf, queries.node(leader.view, node.node_id)
        is_worker = entry is not None and entry.rights is NodeRights.WORKER
        return node.member_id not in conf.members() and (is_worker or len(conf.learners) >= LEARNERS_MAX)

    def process_ended(self, ended: Node, *, reset: bool) -> None:
        """A daemon is gone: peers that reach its machine see their connections reset and a redial refused."""
        if not reset:
            return
        for node in self.alive():
            # Nothing but a leader's end makes anybody do something at once.
            if node.replica is not None and node.leader_node() is ended and node.reaches(ended):
                delay_us = self.engine.between(*REFUSED_US)
                node.at(self.engine.now_us + delay_us, lambda node=node: self._refused(node, ended))  # type: ignore[misc]

    @staticmethod
    def _refused(node: Node, ended: Node) -> None:
        if not ended.alive and ended.powered and node.reaches(ended):
            node.peer_lost(ended)

    def compare_states(self) -> None:
        """Every replica at the same index has the same state, and it does not contradict itself."""
        looked_at: set[int] = set()
        for node in self.alive():
            replica = node.replica
            if replica is None or node.tainted or node.damage.is_rotten or node.disk.log.hive_id != self.main_hive():
                continue
            self.checks.agreed.compare(node.name, replica.applied_index, replica.view)
            if replica.applied_index not in looked_at:
                looked_at.add(replica.applied_index)
                self.checks.agreed.invariants(replica.view)
        demand(bool(looked_at), "no replica runs")
