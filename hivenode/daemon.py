"""The composition root: the only place that names concrete adapters, and the order in which they start and stop.

Start: lock, identity, disk, adapters, servers, worker part, life in the hive, discovery. Stop, the other way round and within
`STOP_DEADLINE_S`: discovery, leadership handed over, worker part, servers, life, replica, disk, lock. A node that gives up an
empty hive for a larger one stops, removes its log and state, and starts anew with the same identity.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from random import SystemRandom
from typing import Final

import platformdirs
import structlog

from hivenode.blobs.copies import PeerBlobCopies
from hivenode.blobs.store import DiskBlobStore
from hivenode.blobs.sweeper import BlobSweeper
from hivenode.config import Config, split_address
from hivenode.consensus import MemberId
from hivenode.discovery.bootstrap import BootstrapFinder
from hivenode.discovery.finder import Candidate, join_host_port
from hivenode.discovery.interfaces import is_on_lan, lan_addresses, watch
from hivenode.discovery.mdns import Announcement, MdnsFinder
from hivenode.durable_files import write_document
from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError, InvariantError
from hivenode.identity import KEY_FILE, Certificate, Identity, load_certificate, load_identity
from hivenode.log_stream import log_stream
from hivenode.master.tasks import HiveTasks
from hivenode.pool import placement, queries
from hivenode.pool.events import Event, NodeRevoked
from hivenode.pool.records import NodeKind, TaskRecord, TaskState, UserName, UserRecord
from hivenode.runtime.accounts import HiveAccounts
from hivenode.runtime.claim_code import ClaimCode
from hivenode.runtime.cluster import HiveCluster
from hivenode.runtime.coordinator import Coordinator
from hivenode.runtime.digest_keeper import ASK_DEADLINE_S, DigestKeeper
from hivenode.runtime.digests import DigestReport, Verdict
from hivenode.runtime.errand import Errand
from hivenode.runtime.hive_end import Tombstones
from hivenode.runtime.hive_life import HiveLife
from hivenode.runtime.joining import JoinDesk
from hivenode.runtime.local import LocalNode, node_of
from hivenode.runtime.member_search import MemberSearch
from hivenode.runtime.open_files import files_granted, raise_limit
from hivenode.runtime.peer_host import LocalPeerHost
from hivenode.runtime.ports import PeerAddress
from hivenode.runtime.registry import NodeRegistry
from hivenode.runtime.replica import Replica
from hivenode.runtime.roster import Roster
from hivenode.runtime.status import NodeStatus
from hivenode.runtime.supervision import Ending, ExitCode, Supervisor
from hivenode.runtime.voter_keeper import VoterKeeper
from hivenode.storage.log_store import LogStore
from hivenode.storage.snapshots import SnapshotFolder
from hivenode.storage.space import DiskSpace
from hivenode.storage.state_store import StateStore
from hivenode.terminal import harmless_event
from hivenode.transport.channels import CONNECTIONS_MAX, connections_max
from hivenode.transport.limits import Limits
from hivenode.transport.peer_link import Self
from hivenode.transport.peers import GrpcPeers
from hivenode.transport.servers import ApiServer, ServedPorts
from hivenode.worker.part import WorkerPart

DEFAULT_PEER_PORT: Final = 50_052
STOP_DEADLINE_S: Final = 10.0
"""A service manager kills what has not stopped by then."""
DISCOVERY_OVER_S: Final = 0.5
"""This and the next: when each step of the stop is over, from its beginning. Goodbyes on the LAN are sent in a moment."""
LEADERSHIP_OVER_S: Final = 2.0
"""A successor is given a second."""
WORKER_OVER_S: Final = 5.5
"""The longest share: running tasks are killed, and containers removed."""
SERVERS_OVER_S: Final = 8.0
"""The grace of calls, and a little for closing."""
PARTS_OVER_S: Final = 8.5
ADAPTERS_OVER_S: Final = 9.0
"""Five of them, each with at least `STEP_S_MIN`."""
WRITER_OVER_S: Final = STOP_DEADLINE_S - 0.4
"""The write under way; the rest is for the process itself to end."""
CALLS_GRACE_S: Final = 2.0
"""Calls under way may end; a write that was acknowledged is on disk already."""
WORD_RETRY_S: Final = 1.0
"""What the disk had no room for at the start is written when there is some, this often looked at."""
END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
LEFT_FILE: Final = "left.json"
LOCK_FILE: Final = "daemon.lock"
DAEMON_FILE: Final = "daemon.json"
BACKUP_PREFIX: Final = "hive-before-"
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_MIB: Final = 1 << 20
_DAY_MS: Final = 24 * 3_600_000

GC_THRESHOLDS: Final = (20_000, 20, 50)
"""A call leaves no cycles behind, so looking for them after every 700 new objects, as Python does, costs 3 % of a busy leader."""
THREAD_SWITCH_S: Final = 0.000_5
"""The writer's thread gets its turn within this while the event loop is busy; Python's 5 ms is many times what an fsync takes."""

_log = structlog.get_logger(__name__)


def _not_written(path: Path, error: OSError) -> HiveError:
    return HiveError(Code.DISK_FULL, f"{path} cannot be written: {error.strerror}; free some disk space")


class DataDirectory:
    """The daemon's folder: mode 0700, and one daemon at a time."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._lock: int | None = None

    def take(self) -> None:
        """Raises HiveError when it cannot be written, or another daemon has it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            handle = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HiveError(
                Code.INVALID_ARGUMENT,
                f"the data directory {self.path} cannot be used: {error.strerror}; choose another",
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            raise HiveError(
                Code.INVALID_ARGUMENT,
                f"a daemon (process {owner}) already runs on {self.path}: stop it first, or give this one its own --data-dir",
            ) from error
        try:
            # In place: a file that is emptied first gives back room that it may not get again.
            size_bytes = os.pwrite(handle, str(os.getpid()).encode(), 0)
            os.ftruncate(handle, size_bytes)
        except OSError as error:
            os.close(handle)
            raise _not_written(self.path / LOCK_FILE, error) from error
        self._lock = handle

    def note_left(self, hive_id: str) -> None:
        """What is here is of no use any more; a later start says so."""
        write_document(self.path / LEFT_FILE, {"hive_id": hive_id})

    def require_not_left(self) -> None:
        """Raises HiveError when this node has left its hive for good."""
        if (self.path / LEFT_FILE).exists():
            raise HiveError(
                Code.INVALID_ARGUMENT,
                f"the node of {self.path} has left its hive for good: remove the directory to start anew, "
                "or choose another --data-dir",
            )

    def publish(self, *, api_address: str, peer_address: str, node_id: str) -> None:
        """Leaves word for the command line of this machine where the daemon answers. Raises DISK_FULL."""
        where = {"pid": os.getpid(), "api_address": api_address, "peer_address": peer_address, "node_id": node_id}
        try:
            write_document(self.path / DAEMON_FILE, where)
        except OSError as error:
            raise _not_written(self.path / DAEMON_FILE, error) from error

    def empty_hive(self) -> None:
        """Removes log, agreed state and blobs of a hive that was given up; the identity stays."""
        for folder in self._hive_folders():
            shutil.rmtree(folder, ignore_errors=True)

    def lacks_log(self) -> bool:
        """Whether there is agreed state without its log, as a crash in `empty_hive` or a hand's mistake leaves it."""
        return any(self.path.glob("state*")) and not (self.path / "log" / "data.mdb").exists()

    def set_hive_aside(self) -> Path | None:
        """Moves what this node has of its hive into a folder of its own, and returns that; None when there is nothing."""
        folders = [path for path in self._hive_folders() if path.exists()]
        if not folders:
            return None
        backup = self.path / f"{BACKUP_PREFIX}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
        backup.mkdir(mode=0o700)
        for folder in folders:
            folder.rename(backup / folder.name)
        return backup

    def _hive_folders(self) -> list[Path]:
        return [*(self.path / name for name in ("log", "snapshots", "blobs")), *self.path.glob("state*")]

    def release(self) -> None:
        (self.path / DAEMON_FILE).unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Signals:
    """Whether SIGTERM or SIGINT asked for the end: of the process, not of the life it came in, since between two lives there is
    nobody else to hear it."""

    def __init__(self) -> None:
        self.end_asked = False
        self._life: Daemon | None = None
        loop = asyncio.get_running_loop()
        for name in END_SIGNALS:
            loop.add_signal_handler(name, self._ask)

    def tell(self, life: Daemon) -> None:
        """From now on `life` is told, at once when the end was asked for before it began."""
        self._life = life
        if self.end_asked:
            life.end()

    def _ask(self) -> None:
        self.end_asked = True
        if self._life is not None:
            self._life.end()


class Daemon:
    """One life of the daemon, from fresh or resumed to its end. `wants_restart` says that another life shall follow, and
    `keeps_hive` that what this one had of its hive is set aside first."""

    def __init__(
        self, config: Config, folder: DataDirectory, identity: Identity, certificate: Certificate, errand: Errand
    ) -> None:
        self._config = config
        self._certificate = certificate
        self._errand = errand
        self._folder = folder
        self.keeps_hive = False
        self._has_left = self._is_to_restart = False
        self._supervisor = Supervisor()
        path = folder.path
        self._log_store = LogStore(path / "log")
        self._state_store = StateStore(path / self._log_store.state_folder)
        snapshots = SnapshotFolder(path, self._log_store, self._state_store)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="storage")
        self._coordinator: Coordinator | None = None
        self._keeper: VoterKeeper | None = None
        self._digests: DigestKeeper | None = None
        self._mdns: MdnsFinder | None = None
        self._make_node(identity, snapshots)
        self._make_parts(identity)
        self._server = ApiServer(
            listen=config.listen,
            peer_listen=config.peer_listen,
            insecure=config.insecure,
            ports=self._served(identity),
            peers=self._peers,
            limits=Limits(connections=connections_max(files_granted())),
        )
        self._peers.on_peer_connected = self._host.peer_connected
        self._peers.on_peer_unreached = self._local.forget_leader
        self._peers.on_peer_lost = self._host.peer_lost
        self._local.on_replica(self._coordinate)

    def _make_node(self, identity: Identity, snapshots: SnapshotFolder) -> None:
        """What this node is towards others: the way to its peers, its place in the hive, its life there."""
        self._desk = JoinDesk(_clock_ms, _wall_ms)
        self._peers = GrpcPeers(
            Self(
                identity=identity,
                record=lambda: self._local.record()[1],
                hive_id=lambda: self._local.hive_id(),
                now_ms=_wall_ms,
            )
        )
        self._local = LocalNode(
            config=self._config,
            identity=identity,
            certificate_sha256=self._certificate.sha256,
            log=self._log_store,
            state=self._state_store,
            snapshots=snapshots,
            roster=Roster(self._folder.path),
            writer=self._writer,
            peers=self._peers,
            spawn=self._supervisor.run,
            capabilities=lambda: self._work.capabilities(),
            shortage=DiskSpace(self._folder.path, self._config.disk_reserve_mib * _MIB, _clock_ms).shortage,
            version=metadata.version("hivenode"),
            clock_ms=_clock_ms,
            wall_ms=_wall_ms,
            rng=SystemRandom(),
        )
        self._life = HiveLife(
            local=self._local,
            peers=self._peers,
            announce=self._announce,
            tombstones=Tombstones(self._folder.path),
            errand=self._errand,
            restart=self._restart,
            left=lambda: self._cluster.taken_out(),
            hand_over=lambda: self._cluster.hand_over(),
            stop=self._stop_for_owner,
        )
        self._host = LocalPeerHost(
            local=self._local,
            life=self._life,
            peers=self._peers,
            coordinator=lambda: self._coordinator,
            digests=lambda: self._digests,
            desk=self._desk,
            manage=lambda order, deadline_s: self._cluster.carry_out(order, deadline_s),
            start=self._supervisor.beside,
        )

    def _make_parts(self, identity: Identity) -> None:
        """What this node does for others: blobs, work, users, tasks."""
        config, path = self._config, self._folder.path
        self._blobs = DiskBlobStore(path / "blobs", config.disk_reserve_mib * _MIB)
        self._copies = PeerBlobCopies(
            self._blobs, self._peers, identity.node_id, self._copy_candidates, self._local.may_hold_state
        )
        self._work = WorkerPart(
            config=config,
            node_id=identity.node_id,
            data_dir=path,
            cache=_cache_dir(),
            blobs=self._blobs,
            copies=self._copies,
            leadership=self._local,
            peers=self._peers,
            changed=self._life.record_changed,
        )
        self._local.on_node_gone = self._cut_off_node
        self._cluster = HiveCluster(
            local=self._local,
            peers=self._peers,
            connected=lambda: self._host.connected,
            keeper=lambda: self._keeper,
            left=self._leave,
            moves=self._move,
            desk=self._desk,
        )
        self._accounts = HiveAccounts(self._local, self._local, identity, config, clock_ms=_clock_ms)
        self._claim_code = ClaimCode(path, identity, self._local.hive_id, _wall_ms)
        self._has_claim_code = False
        self._tasks = HiveTasks(
            agreement=self._local,
            leadership=self._local,
            peers=self._peers,
            store=self._blobs,
            copies=self._copies,
            me=identity.node_id,
            runner=self._work,
            config=config,
            why=self._why,
        )

    def _served(self, identity: Identity) -> ServedPorts:
        self._registry = NodeRegistry(
            local=self._local, coordinator=lambda: self._coordinator, connected=lambda: self._host.connected
        )
        status = NodeStatus(
            local=self._local,
            life=self._life,
            api_address=lambda: self._server.api_address,
            peer_address=lambda: self._server.peer_address,
            capabilities=self._work.capabilities,
            hears=lambda node: self._host.hears(node),
            desk=self._desk,
            sizes=lambda: (("log", *self._log_store.sizes()), ("state", *self._state_store.sizes())),
        )
        return ServedPorts(
            identity=identity,
            certificate=self._certificate,
            accounts=self._accounts,
            machine_owner=self._claim_code,
            registry=self._registry,
            tasks=self._tasks,
            status=status,
            cluster=self._cluster,
            leadership=self._local,
            host=self._host,
            runner=self._work,
            blobs=self._blobs,
            user_of=self._user_of,
            admits=self._local.admits,
            is_voter=self._local.may_hold_state,
            on_lan=is_on_lan,
            now_ms=_wall_ms,
            clock_ms=_clock_ms,
            on_broken=self._supervisor.broken,
        )

    # --- small answers that need several parts ---------------------------------------------------------------------

    def _user_of(self, name: UserName) -> UserRecord | None:
        replica = self._local.replica
        return queries.user(replica.view(), name) if replica is not None else None

    def _blob_references(self, sha256: str) -> int | None:
        """None on a node without agreed state: it cannot know what is still wanted."""
        replica = self._local.replica
        if replica is None or not replica.has_configuration:
            return None
        return queries.blob_references(replica.view(), sha256)

    def _why(self, task: TaskRecord) -> str:
        if self._coordinator is None or not self._coordinator.leads:
            if task.state is not TaskState.PENDING:
                return ""
            return placement.why_impossible(self._local.view(), task) or "waits for the leader to place it"
        if task.state is TaskState.PENDING:
            return self._coordinator.why_pending(task)
        return self._coordinator.doubt(task)

    def _copy_candidates(self) -> list[PeerAddress]:
        """Nodes that may hold copies: those with voter right before the rest, and those that answer first among them."""
        local, connected = self._local, self._host.connected
        return sorted(
            local.hive_nodes(),
            key=lambda peer: (not local.may_hold_state(peer.node_id), peer.node_id not in connected, peer.node_id),
        )

    def _coordinate(self, replica: Replica) -> None:
        """A replica can lead: it gets the hands for it."""
        self._coordinator = Coordinator(
            replica=replica, peers=self._peers, clock_ms=_clock_ms, keep_tasks_ms=self._config.keep_days * _DAY_MS
        )
        self._keeper = keeper = VoterKeeper(
            replica=replica, connected=lambda: self._host.connected, hears=self._host.hears, clock_ms=_clock_ms
        )
        self._host.on_lost = keeper.lost
        search = MemberSearch(local=self._local, replica=replica, peers=self._peers)
        self._supervisor.run(self._coordinator.run(), "coordinator")
        self._supervisor.run(keeper.run(), "voters")
        self._supervisor.run(search.run(), "members")
        self._supervisor.run(self._registry.run(), "registry")
        self._digests = DigestKeeper(replica=replica, ask=self._compare_digest)
        self._supervisor.run(self._digests.run(), "digests")
        replica.on_leadership(lambda: self._leader_moved(replica))
        for entry in queries.nodes(replica.view()):
            if entry.kind is NodeKind.HIVE:
                self._local.note_address(PeerAddress(node_id=entry.node_id, addresses=entry.addresses))
        self._local.follow_addresses(replica)
        replica.subscribe(lambda events: self._cut_off(replica, events))

    def _cut_off(self, replica: Replica, events: tuple[Event, ...]) -> None:
        for event in events:
            if isinstance(event, NodeRevoked):
                node = NodeId(event.node_id)
                entry = queries.node(replica.view(), node)
                # One that was let in again meanwhile would take the end of its calls for the hive's last word.
                if entry is None or entry.kind is not NodeKind.HIVE:
                    self._cut_off_node(node)

    def _cut_off_node(self, node: NodeId) -> None:
        _log.warning("cut off a node that has no place in the hive", node=node)
        self._server.cut_off(node)
        self._peers.cut_off(node)

    async def _compare_digest(self, leader: MemberId, report: DigestReport) -> Verdict:
        return await self._peers.compare_digest(self._local.address_of(node_of(leader)), report, ASK_DEADLINE_S)

    def _leader_moved(self, replica: Replica) -> None:
        if replica.leader is not None:
            self._work.leader_changed(node_of(replica.leader))

    def _leave(self) -> None:
        """This node has left its hive for good."""
        try:
            self._folder.note_left(self._local.hive_id())
        except OSError as error:  # The next start hears of it again.
            _log.warning("that this node has left is not kept on disk", error=str(error))
        _log.warning("this node has left the hive", hive=self._local.hive_id())
        self._has_left = True
        self._supervisor.end(ExitCode.STOPPED)

    @property
    def wants_restart(self) -> bool:
        # Until its parts have ended more than one word may come, in any order; one that has left is refused at its next start.
        return self._is_to_restart and not self._has_left

    def _restart(self, keep: bool) -> None:
        self._is_to_restart, self.keeps_hive = True, self.keeps_hive or keep
        self._supervisor.end(ExitCode.STOPPED)

    def _move(self, hive_id: str, address: str, token: str) -> None:
        """The owner wants this node in another hive: the next life begins fresh and joins that one."""
        self._errand.begin(hive_id, address, token)
        _log.warning("this node goes to another hive, as its owner asked", hive=hive_id, address=address)
        self._restart(True)

    def _stop_for_owner(self, why: str) -> None:
        """Ends the daemon until its owner has changed something; a service manager must not start it again before."""
        _log.error("this daemon cannot go on", reason=why)
        sys.stderr.write(f"hivenode: {why}\n")
        self._supervisor.end(ExitCode.USAGE)

    # --- discovery -------------------------------------------------------------------------------------------------

    def _announcement(self) -> Announcement:
        return Announcement(
            node_id=self._local.node_id,
            hive_id=self._local.hive_id(),
            version=self._local.version,
            phase=self._life.phase.value,
            port=split_address(self._server.peer_address)[1],
            group=self._config.mdns_group,
        )

    def _announce(self) -> None:
        if self._mdns is not None:
            self._supervisor.beside(self._mdns.update(self._announcement()))

    def _found(self, candidate: Candidate) -> None:
        if candidate.node_id != self._local.node_id:
            self._life.candidate(candidate.address, candidate.source)

    async def _watch_addresses(self) -> None:
        """Peers are told when the machine's addresses change, unless the owner fixed them."""
        async for found in watch():
            addresses = self._own_addresses(found)
            if addresses != self._local.addresses:
                self._local.set_addresses(addresses)
                self._life.record_changed()

    def _own_addresses(self, found: tuple[str, ...]) -> tuple[str, ...]:
        if self._config.advertise:
            return self._config.advertise
        host, port = split_address(self._server.peer_address)
        if host not in ("0.0.0.0", "::"):
            return (join_host_port(host, port),)
        return tuple(join_host_port(address, port) for address in found or ("127.0.0.1",))

    # --- start and stop --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts everything. Raises HiveError when a port cannot be had."""
        await self._server.start()
        self._local.set_addresses(self._own_addresses(lan_addresses()))
        if not await self._leave_word():
            self._supervisor.beside(self._leave_word_later())
        _log.info(
            "hivenode started",
            node=self._local.node_id,
            role=self._config.role.value,
            api=self._server.api_address,
            peers=self._server.peer_address,
        )
        self._tasks.start()
        self._supervisor.run(self._life.run(), "life")
        if self._config.role.runs_tasks:
            self._supervisor.run(self._work.run(), "worker")
        self._supervisor.run(self._discover(), "discovery")
        sweeper = BlobSweeper(store=self._blobs, references=self._blob_references, wall_ms=_wall_ms)
        self._supervisor.run(sweeper.run(), "blob sweeper")
        if not self._config.advertise:
            self._supervisor.run(self._watch_addresses(), "addresses")

    async def _leave_word(self) -> bool:
        """Whether the command line of this machine finds this daemon: on a full disk it cannot, and everybody else can."""
        try:
            if not self._has_claim_code:
                await self._claim_code.renew()
                self._has_claim_code = True
            self._folder.publish(
                api_address=self._server.api_address,
                peer_address=self._server.peer_address,
                node_id=self._local.node_id,
            )
        except HiveError as error:
            _log.error("the command line of this machine cannot find this daemon; trying again", reason=error.message)
            return False
        return True

    async def _leave_word_later(self) -> None:
        while True:
            await asyncio.sleep(WORD_RETRY_S)
            if await self._leave_word():
                return

    async def _discover(self) -> None:
        bootstrap = BootstrapFinder(self._config.bootstrap, DEFAULT_PEER_PORT)
        if self._config.mdns:
            interfaces = self._config.mdns_interfaces or None
            self._mdns = MdnsFinder(self._announcement(), interfaces=interfaces)
        try:
            await bootstrap.start(self._found)
            if self._mdns is not None:
                await self._mdns.start(self._found)
            self._life.discovery_began()
            await asyncio.Event().wait()
        finally:
            if self._mdns is not None:
                await self._mdns.aclose()
            await bootstrap.aclose()

    async def wait(self) -> ExitCode:
        """Returns when a part asks for the end, or `end` was called."""
        return await self._supervisor.wait()

    def end(self) -> None:
        """Asks this life to end in order; one that is still starting ends as soon as it has started."""
        self._supervisor.end(ExitCode.STOPPED)

    async def stop(self) -> None:
        """Stops in order; what takes longer than its share is cut off, since everything acknowledged is on disk."""
        ending = Ending()
        try:
            await ending.step("discovery", self._supervisor.cancel("discovery"), DISCOVERY_OVER_S)
            await ending.step("leadership", self._hand_over(), LEADERSHIP_OVER_S)
            await ending.step("worker", self._supervisor.cancel("worker"), WORKER_OVER_S)
            await ending.step("servers", self._server.stop(CALLS_GRACE_S), SERVERS_OVER_S)
            await self._supervisor.cancel_all(ending.left_s(PARTS_OVER_S))
            for part in (self._tasks, self._accounts, self._copies, self._peers, self._blobs):
                await ending.step(type(part).__name__, part.aclose(), ADAPTERS_OVER_S)
        finally:
            if await ending.step("writer", asyncio.to_thread(self._writer.shutdown), WRITER_OVER_S):
                with ExitStack() as stack:
                    stack.callback(self._log_store.close)
                    stack.callback(self._state_store.close)
            else:
                # A store that is closed under a write crashes the process; the end of the process closes it as well.
                _log.warning("the disk is still busy: the stores are left open")

    async def _hand_over(self) -> None:
        if not await self._cluster.hand_over():
            _log.info("leadership was not taken over in time; the others will elect")


def _clock_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _cache_dir() -> Path:
    """Shared by all daemons of a user: what it holds is named by its content and can be made again."""
    if os.geteuid() == 0:
        return Path("/var/cache/hivenode")
    return Path(platformdirs.user_cache_dir("hivenode", appauthor=False))


def _set_up_logging(config: Config) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *(
                [harmless_event, structlog.dev.ConsoleRenderer()]
                if sys.stderr.isatty()
                else [structlog.processors.JSONRenderer()]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[config.log_level]),
        logger_factory=structlog.WriteLoggerFactory(file=log_stream(sys.stderr.fileno())),
        cache_logger_on_first_use=True,
    )


def _spare_the_garbage_collector() -> None:
    """What stands after the start stays until the end, and is not looked through again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _lives(config: Config, folder: DataDirectory, identity: Identity, certificate: Certificate) -> ExitCode:
    signals = Signals()
    while True:
        errand = Errand(folder.path)
        if not errand.is_set_aside:
            if (backup := folder.set_hive_aside()) is not None:
                _log.warning("what this node had of its hive is kept", folder=str(backup))
            errand.set_aside()
        daemon = Daemon(config, folder, identity, certificate, errand)
        signals.tell(daemon)
        try:
            await daemon.start()
            _spare_the_garbage_collector()
            code = await daemon.wait()
        finally:
            await daemon.stop()
        if not daemon.wants_restart or code is not ExitCode.STOPPED:
            return code
        if not daemon.keeps_hive:
            folder.empty_hive()
        elif (backup := folder.set_hive_aside()) is not None:
            _log.warning("what this node had of its hive is kept", folder=str(backup))
        if signals.end_asked:
            return code


def run(config: Config) -> int:
    """Runs the daemon until it is told to stop; returns the exit code of the process."""
    _set_up_logging(config)
    raise_limit()
    if (taken := connections_max(files_granted())) < CONNECTIONS_MAX:
        _log.info("few files may be open, so fewer connections are taken", files=files_granted(), connections=taken)
    folder = DataDirectory(config.data_dir)
    try:
        folder.take()
        folder.require_not_left()
        if not (folder.path / KEY_FILE).exists() and (backup := folder.set_hive_aside()) is not None:
            # A new key is another node, and a log is one node's own.
            _log.warning("the key was removed: this is a new node; what the old one had is kept", folder=str(backup))
        if folder.lacks_log() and (backup := folder.set_hive_aside()) is not None:
            # A node without its log is a new member, and state that is ahead of its log would break it.
            _log.warning("the log is gone: this node begins anew; what is left is kept", folder=str(backup))
        identity = load_identity(folder.path)
        certificate = load_certificate(folder.path)
    except HiveError as error:
        sys.stderr.write(f"hivenode: {error.message}\n")
        return ExitCode.USAGE
    try:
        sys.setswitchinterval(THREAD_SWITCH_S)
        loop_factory = None
        if sys.platform != "win32":
            import uvloop

            loop_factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(_lives(config, folder, identity, certificate))
    except HiveError as error:
        sys.stderr.write(f"hivenode: {error.message}\n")
        return ExitCode.USAGE
    except InvariantError as error:
        sys.stderr.write(f"hivenode: {error}\n")
        return ExitCode.BROKEN_INVARIANT
    finally:
        # The loop's handlers went with it; a word to end that comes while the process ends, however it does, must not kill it.
        for name in END_SIGNALS:
            signal.signal(name, signal.SIG_IGN)
        folder.release()
