"""Blobs across nodes: copied until two nodes have them on disk, and brought here from whoever has them.

Every transfer is watched by its progress and not by its length: one that moves nothing for `STALL_S` is abandoned for the next
node, so that a paused machine costs seconds and a large blob on a slow line still arrives. The deadline of the call bounds
all of it together.

Whoever comes in as a worker is not trusted to keep anything, nor to take it. So nodes with voter right come first. Where there is
none but this one, workers are asked for a second copy, for a bounded time, and one copy is enough when they do not take it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.pool.records import BlobRef
from hivenode.runtime.ports import BlobStore, PeerAddress, PeerNetwork
from hivenode.runtime.streams import closing

_log = structlog.get_logger(__name__)

COPIES_WANTED: Final = 2
"""Any single machine may die."""
STALL_S: Final = 3.0
"""A live node on a LAN takes or gives a piece of 256 KiB in far less, also over Wi-Fi and onto a slow card."""
SYNC_BYTES_PER_S: Final = 20 << 20
"""What a node's disk is given to sync a blob, after its last piece, beyond `STALL_S`: an SD card's pace."""
WORKERS_ASKED: Final = 3
"""In a hive whose only node with voter right is this one: who wants to help is soon found, and a stranger brings many."""
WORKER_BYTES_PER_S: Final = 1 << 20
"""What such a worker is given to take a blob in, beyond `STALL_S`: a slow Wi-Fi's pace. Never more than half of the time."""
WORKER_RESTS_S: Final = 60.0
"""A worker that took no copy is not asked for so long."""
_LOCAL_TROUBLE: Final = frozenset({Code.DISK_FULL, Code.SHUTTING_DOWN})
"""Failures of this node, which asking another one does not cure."""


class _Watch:
    """A time limit that moves on with progress, and never past the deadline. Times are the event loop's, in s."""

    def __init__(self, deadline: float, stall_s: float) -> None:
        self._deadline = deadline
        self._stall_s = stall_s
        self.limit = asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + stall_s))

    def progress(self, more_s: float = 0.0) -> None:
        """Something moved; what comes next may take `more_s` longer than usual."""
        with contextlib.suppress(RuntimeError):  # A stream that is read on after its time limit ended.
            self.limit.reschedule(min(self._deadline, asyncio.get_running_loop().time() + self._stall_s + more_s))


@dataclass(slots=True)
class _Fetch:
    """A transfer that several callers wait for."""

    task: asyncio.Task[None]
    waiters: int = 0


class PeerBlobCopies:
    """Fills `ports.BlobCopies`.

    Args:
        store: this node's blobs.
        peers: how other nodes are reached.
        me: this node.
        candidates: the nodes of the hive that may hold copies, those with voter right first and those believed alive first among
            them; without any other node in it, the hive is taken to be this node alone, and one copy is enough.
        has_voter_right: whether a node has it, as far as this node knows.
        stall_s: how long a transfer may stand still before the next node is asked.
    """

    def __init__(
        self,
        store: BlobStore,
        peers: PeerNetwork,
        me: NodeId,
        candidates: Callable[[], Sequence[PeerAddress]],
        has_voter_right: Callable[[NodeId], bool],
        *,
        stall_s: float = STALL_S,
    ) -> None:
        self._store = store
        self._peers = peers
        self._me = me
        self._candidates = candidates
        self._has_voter_right = has_voter_right
        self._stall_s = stall_s
        self._fetches: dict[str, _Fetch] = {}
        self._rests_until: dict[NodeId, float] = {}

    async def replicate(
        self, blob: BlobRef, *, preferred: Sequence[PeerAddress], deadline_s: float
    ) -> tuple[NodeId, ...]:
        """Copies a local blob until it lies on two nodes; the holders, this node first.

        It stays on this one alone in a hive of one, and when this node is the only one with voter right and no worker takes it.

        Args:
            preferred: nodes to try before the candidates.
            deadline_s: seconds for all of it.
        Raises:
            HiveError: BLOB_NOT_FOUND (not here), TOO_FEW_COPIES.
        """
        self._store.path(blob)
        deadline = asyncio.get_running_loop().time() + deadline_s
        others = self._others(self._candidates())
        targets = self._others((*preferred, *others))
        if self._has_voter_right(self._me) and not any(self._has_voter_right(peer.node_id) for peer in others):
            return await self._offer(blob, targets, deadline)
        failures: list[str] = []
        for peer in targets:
            if asyncio.get_running_loop().time() >= deadline:
                failures.append("the time is over")
                break
            try:
                await self._push(peer, blob, deadline)
            except HiveError as error:
                failures.append(f"node {peer.node_id}: {error.message}")
                continue
            return (self._me, peer.node_id)
        if not others:
            return (self._me,)
        raise HiveError(
            Code.TOO_FEW_COPIES,
            f"only this node has the data on disk, {COPIES_WANTED} are wanted ({'; '.join(failures)}): try again",
        )

    async def _offer(self, blob: BlobRef, workers: Sequence[PeerAddress], deadline: float) -> tuple[NodeId, ...]:
        """The holders, when others than this node are workers without voter right."""
        now = asyncio.get_running_loop().time()
        given_s = min((deadline - now) / 2, self._stall_s + blob.size_bytes / WORKER_BYTES_PER_S)
        self._rests_until = {node: until for node, until in self._rests_until.items() if until > now}
        asked = [peer for peer in workers if peer.node_id not in self._rests_until][:WORKERS_ASKED]
        for peer in asked:
            if asyncio.get_running_loop().time() >= now + given_s:
                break
            try:
                await self._push(peer, blob, now + given_s)
            except HiveError as error:
                self._rests_until[peer.node_id] = now + WORKER_RESTS_S
                _log.warning(
                    "a worker took no copy and is not asked for a while", node=peer.node_id, code=error.code.name
                )
                continue
            return (self._me, peer.node_id)
        return (self._me,)

    async def fetch(self, blob: BlobRef, holders: Sequence[PeerAddress], deadline_s: float) -> None:
        """Brings a blob to this node; calls for the same blob share one transfer.

        Args:
            holders: nodes that may have it, tried in turn.
            deadline_s: seconds for all of it.
        Raises:
            HiveError: BLOB_NOT_FOUND (no holder has it), NODE_OFFLINE (some could not be asked), DISK_FULL.
        """
        deadline = asyncio.get_running_loop().time() + deadline_s
        while not self._store.has(blob):
            shared = self._fetches.get(blob.sha256)
            own = shared is None
            if shared is None:
                shared = self._begin(blob, holders, deadline)
            failure = await self._wait_for(shared, deadline)
            if failure is not None and (own or asyncio.get_running_loop().time() >= deadline):
                raise failure

    async def aclose(self) -> None:
        """Ends all transfers."""
        tasks = [fetch.task for fetch in self._fetches.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _others(self, peers: Sequence[PeerAddress]) -> tuple[PeerAddress, ...]:
        """The peers without this node, each once."""
        others: dict[NodeId, PeerAddress] = {}
        for peer in peers:
            if peer.node_id != self._me:
                others.setdefault(peer.node_id, peer)
        return tuple(others.values())

    async def _push(self, peer: PeerAddress, blob: BlobRef, deadline: float) -> None:
        watch = _Watch(deadline, self._stall_s)

        async def watched() -> AsyncIterator[bytes]:
            left = blob.size_bytes
            async with closing(self._store.read(blob)) as content:
                async for piece in content:
                    left -= len(piece)
                    watch.progress(0.0 if left > 0 else blob.size_bytes / SYNC_BYTES_PER_S)
                    yield piece

        try:
            async with closing(watched()) as pieces, watch.limit:
                await self._peers.store_blob(peer, blob, pieces)
        except TimeoutError:
            raise _silent(peer) from None

    def _begin(self, blob: BlobRef, holders: Sequence[PeerAddress], deadline: float) -> _Fetch:
        task = asyncio.create_task(self._pull(blob, self._others(holders), deadline), name=f"fetch {blob.sha256[:12]}")
        fetch = self._fetches[blob.sha256] = _Fetch(task)

        def ended(task: asyncio.Task[None]) -> None:
            del self._fetches[blob.sha256]
            if not task.cancelled():
                task.exception()  # Seen, also when all who waited have gone.

        task.add_done_callback(ended)
        return fetch

    async def _wait_for(self, fetch: _Fetch, deadline: float) -> HiveError | None:
        """Waits for a shared transfer; why it failed, or None. The last who leaves ends it."""
        fetch.waiters += 1
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.wait((fetch.task,))
        except TimeoutError:
            return HiveError(Code.NODE_OFFLINE, "the data could not be brought here in time: try again")
        finally:
            fetch.waiters -= 1
            if fetch.waiters == 0:
                fetch.task.cancel()
        if fetch.task.cancelled():
            return HiveError(Code.SHUTTING_DOWN, "this node is stopping: send this through another one")
        error = fetch.task.exception()
        if error is not None and not isinstance(error, HiveError):
            raise error
        return error

    async def _pull(self, blob: BlobRef, holders: Sequence[PeerAddress], deadline: float) -> None:
        missing = True
        failures: list[str] = []
        for peer in holders:
            try:
                await self._pull_from(peer, blob, deadline)
                return
            except HiveError as error:
                if error.code in _LOCAL_TROUBLE:
                    raise
                missing = missing and error.code is Code.BLOB_NOT_FOUND
                failures.append(f"node {peer.node_id}: {error.message}")
        if missing:
            raise HiveError(Code.BLOB_NOT_FOUND, f"no node that is known to hold the blob {blob.sha256[:12]} has it")
        raise HiveError(
            Code.NODE_OFFLINE, f"no node that holds the data could give it now ({'; '.join(failures)}): try again later"
        )

    async def _pull_from(self, peer: PeerAddress, blob: BlobRef, deadline: float) -> None:
        watch = _Watch(deadline, self._stall_s)

        async def watched() -> AsyncIterator[bytes]:
            left = blob.size_bytes
            async with closing(self._peers.fetch_blob(peer, blob)) as incoming:
                async for piece in incoming:
                    left -= len(piece)
                    watch.progress(0.0 if left > 0 else blob.size_bytes / SYNC_BYTES_PER_S)
                    yield piece

        try:
            async with closing(watched()) as pieces, watch.limit:
                await self._store.put(pieces, size_bytes_max=blob.size_bytes, expected=blob)
        except TimeoutError:
            raise _silent(peer) from None


def _silent(peer: PeerAddress) -> HiveError:
    return HiveError(Code.NODE_OFFLINE, f"node {peer.node_id} does not answer")
