"""Snapshots on their way: fetches what a leader offers, in pieces, from where an earlier try stopped.

Rules:
- One snapshot at a time. An offer of the same content renews the one under way; another one replaces it only if it is of a
  later term, whose leader may be the only one that still has what it offers.
- What was received stays when the stream breaks, and the next try goes on after it.
- A thread goes on when its fetch is given up. Whoever comes next to the files waits for it, and so does the end.
- An offer is delivered to the core only when its state is whole, checked and on disk; until the receiver has installed
  or refused it, nothing else is prepared.

| offer | nothing under way | the same under way | another under way |
|---|---|---|---|
| | fetch | renew | replace when of a later term, else drop |
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum, unique
from typing import Any, Final, TypeVar

import structlog

from hivenode.consensus import MemberId, SnapshotOffer
from hivenode.encoding.canonical import DecodeError, decode, encode
from hivenode.errors import Code, HiveError
from hivenode.runtime.stores import PreparedState, SnapshotRef, SnapshotStorage
from hivenode.runtime.streams import closing

REF_VERSION: Final = 1
TRIES_MAX: Final = 5
"""Tries without a new byte after which the leader is told that it failed; it asks then where this member stands."""
FAILED_PAUSE_S: Final = 2.0
"""Before the leader is told, which offers again at once: a full disk or a damaged copy is not mended by haste."""
RETRY_S: Final = 0.5
"""Between two tries: a connection that broke is not back at once."""

FetchSnapshot = Callable[[MemberId, SnapshotRef, int], AsyncIterator[bytes]]
"""(member that has it, what, offset) → its bytes from there on."""

_log = structlog.get_logger(__name__)

T = TypeVar("T")


def encode_ref(ref: SnapshotRef) -> bytes:
    """The descriptor that stands in an offer."""
    return encode([REF_VERSION, ref.sha256, ref.size_bytes])


def decode_ref(data: bytes) -> SnapshotRef:
    """Raises `DecodeError` for anything but a descriptor."""
    value: Any = decode(data)
    match value:
        case [version, str(sha256), size_bytes] if (
            version == REF_VERSION and type(size_bytes) is int and size_bytes > 0
        ):
            return SnapshotRef(sha256=sha256, size_bytes=size_bytes)
        case _:
            raise DecodeError("this is no descriptor of a snapshot")


@unique
class Offered(Enum):
    """What an offer comes to."""

    DROPPED = "dropped"
    RENEWED = "renewed"
    BEGUN = "begun"
    REPLACES = "replaces"
    """What was under way is given up for it."""


def _given_up(work: asyncio.Future[Any]) -> None:
    """Nobody waits any more for what ended here, and what the disk, or the end of the node, refused is told to nobody."""
    error = None if work.cancelled() else work.exception()
    if error is not None and not isinstance(error, HiveError):
        _log.error("a snapshot that was given up failed", exc_info=error)


class SnapshotFetch:
    """Which offer is fetched, and whether it is tried once more: the decisions, without the waiting."""

    def __init__(self) -> None:
        self._offer: SnapshotOffer | None = None
        self._ref: SnapshotRef | None = None
        self._tries = 0
        self.delivering = False
        """The snapshot is on disk and given to the core; nothing takes its place."""

    @property
    def current(self) -> SnapshotOffer:
        """The offer that is fetched, as it was renewed last."""
        if self._offer is None:
            raise AssertionError  # never reached: a fetch runs for an offer
        return self._offer

    def offered(self, offer: SnapshotOffer, ref: SnapshotRef, *, under_way: bool) -> Offered:
        """Decides by the table above. `under_way`: a fetch, or its delivery, has not ended."""
        if under_way:
            if ref == self._ref:
                self._offer = offer
                return Offered.RENEWED
            if self.delivering or self._offer is None or offer.term <= self._offer.term:
                return Offered.DROPPED
        self._offer, self._ref = offer, ref
        self.delivering, self._tries = False, 0
        return Offered.REPLACES if under_way else Offered.BEGUN

    def try_again(self, code: Code, *, progressed: bool) -> bool:
        """Whether to go on after a try that broke off; `progressed` says that it brought a new byte."""
        self._tries = 1 if progressed else self._tries + 1
        hopeless = code in (Code.BLOB_NOT_FOUND, Code.DISK_FULL, Code.PERMISSION_DENIED)
        return self._tries < TRIES_MAX and not hopeless


class SnapshotFetcher:
    """Brings offered snapshots to this node's disk.

    Args:
        deliver: takes an offer whose state is prepared; returns when it is installed or refused.
        failed: told of an offer that could not be fetched.
    """

    def __init__(
        self,
        *,
        storage: SnapshotStorage,
        fetch: FetchSnapshot,
        deliver: Callable[[SnapshotOffer, PreparedState], Awaitable[None]],
        failed: Callable[[SnapshotOffer], None],
    ) -> None:
        self._storage = storage
        self._fetch = fetch
        self._deliver = deliver
        self._failed = failed
        self._decide = SnapshotFetch()
        self._task: asyncio.Task[None] | None = None
        self._at_work: asyncio.Future[Any] | None = None

    def offered(self, offer: SnapshotOffer) -> None:
        """A leader offers a snapshot; the work goes on beside."""
        try:
            ref = decode_ref(offer.snapshot.data)
        except DecodeError as error:
            _log.warning("an offered snapshot is not understood", reason=str(error), leader=offer.from_)
            return
        under_way = self._task is not None and not self._task.done()
        match self._decide.offered(offer, ref, under_way=under_way):
            case Offered.DROPPED | Offered.RENEWED:
                return
            case Offered.REPLACES if self._task is not None:
                self._task.cancel()
        self._task = asyncio.create_task(self._run(ref, self._task), name="snapshot")

    async def aclose(self) -> None:
        """Stops fetching; what was received stays for the next time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._thread_ended()

    async def _on_disk(self, work: Callable[..., T], *arguments: Any) -> T:
        """In a thread, one at a time: that of a fetch which was given up comes to its end first."""
        await self._thread_ended()
        self._at_work = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
        try:
            return await asyncio.shield(self._at_work)
        except asyncio.CancelledError:
            self._at_work.add_done_callback(_given_up)
            raise

    async def _thread_ended(self) -> None:
        while self._at_work is not None and not self._at_work.done():
            await asyncio.wait((self._at_work,))

    @property
    def error(self) -> BaseException | None:
        """What broke the last fetch beyond what a peer or a disk may do; the replica raises it."""
        task = self._task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    async def _run(self, ref: SnapshotRef, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        try:
            prepared = await self._bring(ref)
        except HiveError as error:
            _log.warning("a snapshot cannot be fetched", leader=self._decide.current.from_, reason=error.message)
            await asyncio.sleep(FAILED_PAUSE_S)
            self._failed(self._decide.current)
            return
        self._decide.delivering = True
        await self._deliver(self._decide.current, prepared)

    async def _bring(self, ref: SnapshotRef) -> PreparedState:
        """Fetches and unpacks. Raises HiveError when it fails for good."""
        meta = self._decide.current.snapshot.meta
        _log.info("fetching a snapshot", leader=self._decide.current.from_, index=meta.index, size_bytes=ref.size_bytes)
        offset = await self._on_disk(self._storage.received_bytes, ref)
        while offset < ref.size_bytes:
            before = offset
            try:
                async with closing(self._fetch(self._decide.current.from_, ref, offset)) as pieces:
                    async for data in pieces:
                        await self._on_disk(self._storage.receive, ref, offset, data)
                        offset += len(data)
                if offset < ref.size_bytes:
                    raise HiveError(Code.NODE_OFFLINE, "the snapshot ended too early")
            except HiveError as error:
                await asyncio.sleep(RETRY_S)
                if not self._decide.try_again(error.code, progressed=offset > before):
                    raise
        return await self._on_disk(self._storage.prepare, ref, meta)
