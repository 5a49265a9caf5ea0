"""Other nodes as a node's rooms see them through `PeerNetwork`: real blob stores and logs, without a wire between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from hivenode.blobs.store import DiskBlobStore
from hivenode.consensus import Message
from hivenode.encoding.node_record import Capabilities, NodeId, SignedNodeRecord
from hivenode.errors import Code, HiveError, InvariantError
from hivenode.pool.records import BlobRef
from hivenode.runtime.digests import DigestReport, Verdict
from hivenode.runtime.ports import (
    NO_CLAIM,
    AttemptKey,
    ClusterAnswer,
    ClusterOrder,
    Introduction,
    JoinClaim,
    JoinOffer,
    MembersTold,
    PeerAddress,
    WorkerLink,
)
from hivenode.runtime.stores import SnapshotRef
from tests.support.local_agreement import capabilities

_SIZE_MAX = 1 << 40


def address(node_id: str) -> PeerAddress:
    return PeerAddress(node_id=NodeId(node_id), addresses=("127.0.0.1:1",))


@dataclass
class AttemptLog:
    """An attempt's log that a test writes; `closed` ends it for followers, `forgotten` is what a worker does at the close."""

    data: bytearray = field(default_factory=bytearray)
    closed: bool = False
    forgotten: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, data: bytes, *, close: bool = False) -> None:
        self.data += data
        self.closed = self.closed or close
        self.changed.set()

    async def read(self, offset: int, follow: bool) -> AsyncIterator[bytes]:
        if self.forgotten:
            raise HiveError(Code.TASK_NOT_FOUND, "no such attempt")
        while True:
            self.changed.clear()
            if piece := bytes(self.data[offset:]):
                offset += len(piece)
                yield piece
            elif self.closed or not follow:
                return
            else:
                await self.changed.wait()


class LogKeeper:
    """A worker part that runs nothing and has the logs that a test gives it."""

    def __init__(self) -> None:
        self.logs: dict[AttemptKey, AttemptLog] = {}

    def capabilities(self) -> Capabilities:
        return capabilities()

    async def read_log(self, key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]:
        log = self.logs.get(key)
        if log is None:
            raise HiveError(Code.TASK_NOT_FOUND, "no such attempt")
        async for piece in log.read(offset, follow):
            yield piece


class PeerDisks:
    """A `PeerNetwork` to blob stores and logs of this process. `dead` nodes refuse, `silent` ones never answer."""

    def __init__(self) -> None:
        self.stores: dict[str, DiskBlobStore] = {}
        self.workers: dict[str, LogKeeper] = {}
        self.dead: set[str] = set()
        self.silent: set[str] = set()
        self.calls: list[str] = []
        self.waiting = asyncio.Event()
        """Set when a silent node has been called."""

    async def _reach(self, peer: PeerAddress) -> None:
        self.calls.append(peer.node_id)
        if peer.node_id in self.dead:
            raise HiveError(Code.NODE_OFFLINE, "refused the connection")
        if peer.node_id in self.silent:
            self.waiting.set()
            await asyncio.Event().wait()

    async def fetch_blob(self, peer: PeerAddress, blob: BlobRef) -> AsyncIterator[bytes]:
        await self._reach(peer)
        async for piece in self.stores[peer.node_id].read(blob):
            yield piece

    async def store_blob(self, peer: PeerAddress, blob: BlobRef, pieces: AsyncIterator[bytes]) -> None:
        await self._reach(peer)
        await self.stores[peer.node_id].put(pieces, size_bytes_max=_SIZE_MAX, expected=blob)

    async def read_log(self, peer: PeerAddress, key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]:
        await self._reach(peer)
        async for piece in self.workers[peer.node_id].read_log(key, offset, follow):
            yield piece

    async def manage_hive(self, leader: PeerAddress, order: ClusterOrder, deadline_s: float) -> ClusterAnswer:
        raise InvariantError("not in these tests")

    async def members(self, peer: PeerAddress, deadline_s: float) -> MembersTold:
        raise InvariantError("not in these tests")

    async def compare_digest(self, leader: PeerAddress, report: DigestReport, deadline_s: float) -> Verdict:
        raise InvariantError("not in these tests")

    def fetch_snapshot(self, peer: PeerAddress, ref: SnapshotRef, offset: int) -> AsyncIterator[bytes]:
        raise InvariantError("not in these tests")

    async def introduce(self, address: str, deadline_s: float) -> Introduction:
        raise InvariantError("not in these tests")

    def learn(self, peer: PeerAddress) -> None:
        raise InvariantError("not in these tests")

    def send(self, node: NodeId, message: Message) -> None:
        raise InvariantError("not in these tests")

    async def probe(self, node: NodeId, deadline_s: float) -> bool:
        raise InvariantError("not in these tests")

    async def invite(self, peer: PeerAddress, hive_id: str, deadline_s: float) -> SignedNodeRecord:
        raise InvariantError("not in these tests")

    async def join(
        self,
        peer: PeerAddress,
        hive_id: str,
        record: SignedNodeRecord,
        deadline_s: float,
        claim: JoinClaim = NO_CLAIM,
    ) -> JoinOffer:
        raise InvariantError("not in these tests")

    async def open_worker_link(self, leader: PeerAddress) -> WorkerLink:
        raise InvariantError("not in these tests")
