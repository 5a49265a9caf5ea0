"""Replicas on real disks in one process, with a network that is a dictionary: the harness of the replica's tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import SystemRandom

from hivenode.consensus import (
    ConfChange,
    Entry,
    EntryKind,
    HardState,
    MemberId,
    Message,
    RaftConfig,
    encode_conf_change,
)
from hivenode.errors import Code, HiveError
from hivenode.identity import verify_signature
from hivenode.pool.commands import CreateHive, RegisterUser, Reply
from hivenode.pool.events import Event
from hivenode.runtime.digest_keeper import DigestKeeper
from hivenode.runtime.digests import DigestReport, Verdict
from hivenode.runtime.replica import Replica
from hivenode.runtime.stores import CompactionBounds, LogWrite, SnapshotRef
from hivenode.storage.log_store import LogStore
from hivenode.storage.snapshots import SnapshotFolder
from hivenode.storage.state_store import StateStore

DEADLINE_S = 20.0
BOUNDS = CompactionBounds(entries_max=200, entries_kept=50)
DIGEST_EVERY = 64
ELECTION_TIMEOUT_MS = (600, 1_200)
PATIENT_MS = (5_000, 10_000)
"""No election within a test and no leader that steps down, so that only what is asked about decides."""


class Member:
    """One replica with its disk; `crash` drops it without a flush, as a killed process would."""

    def __init__(
        self,
        name: str,
        folder: Path,
        network: dict[str, Member],
        election_timeout_ms: tuple[int, int] = ELECTION_TIMEOUT_MS,
    ) -> None:
        self.election_timeout_ms = election_timeout_ms
        self.id = MemberId(f"{name}.1")
        folder.mkdir(exist_ok=True)
        self.log = LogStore(folder / "log")
        self.state = StateStore(folder / self.log.state_folder)
        self.snapshots = SnapshotFolder(folder, self.log, self.state)
        self.way_s = 0.0
        """How long what this member says is on the way."""
        self.break_after = 0
        self.fetched_from: list[int] = []
        self.fetching = asyncio.Event()
        self.events: list[Event] = []
        self.writer = ThreadPoolExecutor(1)
        self.network = network
        self.folder = folder
        self.name = name
        network[self.id] = self
        self.replica = self.make_replica()
        self.task: asyncio.Task[None] | None = None
        self.keeping: asyncio.Task[None] | None = None
        self.digests: DigestKeeper | None = None

    def make_replica(self) -> Replica:
        return Replica(
            config=RaftConfig(
                member_id=self.id, election_timeout_ms=self.election_timeout_ms, heartbeat_interval_ms=50
            ),
            log=self.log,
            state=self.state,
            snapshots=self.snapshots,
            writer=self.writer,
            send=self.send,
            fetch=self.fetch,
            verify=verify_signature,
            clock_ms=lambda: time.monotonic_ns() // 1_000_000,
            wall_ms=lambda: time.time_ns() // 1_000_000,
            rng=SystemRandom(),
            compaction=BOUNDS,
            digest_every=DIGEST_EVERY,
        )

    async def fetch(self, member: MemberId, ref: SnapshotRef, offset: int) -> AsyncIterator[bytes]:
        """In small pieces; the connection breaks once after `break_after` bytes."""
        self.fetched_from.append(offset)
        self.fetching.set()
        source = self.network.get(member)
        if source is None:
            raise HiveError(Code.NODE_OFFLINE, "gone")
        async for data in source.snapshots.read(ref.sha256, offset):
            for start in range(0, len(data), 1_000):
                offset += len(data[start : start + 1_000])
                yield data[start : start + 1_000]
                if 0 < self.break_after <= offset:
                    self.break_after = 0
                    raise HiveError(Code.NODE_OFFLINE, "the connection broke")

    async def ask(self, leader: MemberId, report: DigestReport) -> Verdict:
        target = self.network.get(leader)
        if target is None or target.digests is None:
            raise HiveError(Code.NODE_OFFLINE, "gone")
        return await target.digests.compare(report)

    def send(self, message: Message) -> None:
        target = self.network.get(message.to)
        if target is not None and self.id in self.network:
            if self.way_s:
                asyncio.get_running_loop().call_later(self.way_s, target.replica.receive, message)
            else:
                target.replica.receive(message)

    def start(self, born: bool = False) -> Member:
        self.replica.subscribe(self.events.extend)
        self.digests = DigestKeeper(replica=self.replica, ask=self.ask)
        self.keeping = asyncio.create_task(self.digests.run())
        self.task = asyncio.create_task(self.replica.run(born=born))
        return self

    async def reaches(self, leader: Member) -> None:
        """Waits until this member has applied all that the leader has now."""
        index = leader.replica.applied_index
        while self.replica.applied_index < index:
            if self.task is not None and self.task.done():
                self.task.result()
            await asyncio.sleep(0.01)

    def rows(self) -> dict[bytes, bytes]:
        return dict(self.state.scan(b""))

    def birth(self) -> Member:
        change = encode_conf_change(ConfChange(add_voters=(self.id,)))
        entry = Entry(term=1, index=1, kind=EntryKind.CONF_CHANGE, data=change)
        self.log.bind("h" * 32, LogWrite(hard_state=HardState(term=1, vote=None, commit=1), entries=(entry,)))
        self.replica = self.make_replica()
        return self

    async def crash(self) -> None:
        self.network.pop(self.id, None)
        for task in (self.task, self.keeping):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self.writer.shutdown(wait=True)
        self.state.close()
        self.log.close()

    def again(self) -> Member:
        return Member(self.name, self.folder, self.network, self.election_timeout_ms)

    @contextmanager
    def stuck_disk(self) -> Iterator[None]:
        """The one thread that writes is kept busy, so that no write ends while the block lasts."""
        free = threading.Event()
        self.writer.submit(free.wait)
        try:
            yield
        finally:
            free.set()


@asynccontextmanager
async def three(
    folder: Path, election_timeout_ms: tuple[int, int] = ELECTION_TIMEOUT_MS
) -> AsyncIterator[list[Member]]:
    network: dict[str, Member] = {}
    members = [Member(name, folder / name, network, election_timeout_ms) for name in "abc"]
    members[0].birth()
    try:
        async with asyncio.timeout(DEADLINE_S):
            members[0].start(born=True)
            await members[0].replica.wait_until_leading(DEADLINE_S)
            for member in members[1:]:
                member.log.bind("h" * 32, None)
                member.start()
            await create_hive(members[0])
            change = ConfChange(add_voters=(members[1].id, members[2].id))
            await members[0].replica.propose_conf_change(change, deadline_s=DEADLINE_S)
            yield members
    finally:
        for member in list(network.values()):
            await member.crash()


async def create_hive(member: Member) -> None:
    await propose(member, CreateHive(hive_id="h" * 32, supply=10**9, signup_grant=1000, grants_per_day_max=100))


async def propose(member: Member, command: object, key: str = "", deadline_s: float = DEADLINE_S) -> Reply:
    return await member.replica.propose(
        command,  # type: ignore[arg-type]
        deadline_s=deadline_s,
        owner="test",
        key=key,
        keep_ms=60_000,
    )


async def until(holds: Callable[[], bool]) -> None:
    """Waits for something that has no event of its own."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


def count_sent(member: Member) -> Counter[type[Message]]:
    """How many messages of each kind the member has sent from now on."""
    sent: Counter[type[Message]] = Counter()

    def send(message: Message) -> None:
        sent[type(message)] += 1
        member.send(message)

    member.replica._send = send
    return sent


async def leader_of(members: list[Member]) -> Member:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            for member in members:
                if member.id in member.network and member.replica.leads:
                    return member
            await asyncio.sleep(0.01)


def others(members: list[Member], leader: Member) -> list[Member]:
    return [member for member in members if member is not leader]


async def at_rest(members: list[Member]) -> Member:
    """Waits until all have applied all there is, and returns the leader."""
    leader = await leader_of(members)
    await until(lambda: {member.log.last_index() for member in members} == {leader.replica.applied_index})
    await until(lambda: {member.replica.applied_index for member in members} == {leader.log.last_index()})
    return leader


async def register(member: Member, name: str, deadline_s: float = DEADLINE_S) -> Reply:
    return await propose(member, RegisterUser(username=name, password_hash="x", email=""), deadline_s=deadline_s)
