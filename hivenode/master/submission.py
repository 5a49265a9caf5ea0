"""Submitting a task, at the leader: check, store, inspect, copy, commit.

A blob is stored before the task that names it is agreed on, and another call may store, refuse or release the same content at
the same time. So every submission pins its blob, and a blob is deleted here only while no submission pins it and no task in
agreed state names it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final, Protocol

from hivenode.archives import ArchiveLimits
from hivenode.errors import Code, HiveError, Outcome
from hivenode.master.deadlines import Deadline
from hivenode.master.inspection import Inspections
from hivenode.pool import pricing, queries, validation
from hivenode.pool.commands import SubmitTask
from hivenode.pool.records import BlobRef, SessionRecord, TaskRecord, TaskSpec
from hivenode.runtime.ports import Agreement, BlobCopies, BlobStore, Caller, Leadership, Submitted
from hivenode.runtime.requests import accepted, keep_ms

UNARY_BYTES_MAX: Final = 100 << 20
"""One message of the documented API."""
RELEASE_SPARES_S: Final = 3_600.0
"""A blob that was stored less than an hour ago may belong to a task that this node has not heard of yet."""
_PIECE_BYTES: Final = 1 << 20
_ID_DIGITS: Final = 16


class OwnBlobs(BlobStore, Protocol):
    """This node's blobs, where a deletion can spare what is new."""

    async def delete(self, sha256: str, *, spare_younger_s: float = 0.0) -> None: ...


def made_task_id(username: str, idempotency_key: str) -> str:
    """The id of a task that came without one: the same for a repeated call, and for no other."""
    digest = hashlib.sha256(f"{username}\0{idempotency_key}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"task-{digest[:_ID_DIGITS]}"


class Submissions:
    """Takes tasks in.

    Args:
        upload_bytes_max: the largest archive that may be streamed in.
        limits: what an archive may be.
    """

    def __init__(
        self,
        *,
        agreement: Agreement,
        leadership: Leadership,
        store: OwnBlobs,
        copies: BlobCopies,
        upload_bytes_max: int,
        limits: ArchiveLimits,
    ) -> None:
        self._agreement = agreement
        self._leadership = leadership
        self._store = store
        self._copies = copies
        self._upload_bytes_max = upload_bytes_max
        self._inspections = Inspections(limits)
        self._pins: Counter[str] = Counter()

    async def submit(
        self, session: SessionRecord, task_id: str, data: bytes | AsyncIterator[bytes], spec: TaskSpec, caller: Caller
    ) -> Submitted:
        """As `ports.Tasks.submit`. The same id and content again is the same success."""
        deadline = Deadline.after(caller.deadline_s)
        task_id = task_id or made_task_id(session.username, caller.idempotency_key)
        validation.check_task_id(task_id)
        validation.check_spec(spec)
        if isinstance(data, bytes) and len(data) > UNARY_BYTES_MAX:
            raise HiveError(
                Code.BLOB_TOO_LARGE, f"one message carries at most {UNARY_BYTES_MAX >> 20} MiB: use UploadTaskStream"
            )
        known = queries.task(self._agreement.view(), session.username, task_id)
        if known is None:
            await self._check_balance(session, spec, deadline)
        elif isinstance(data, bytes):
            return await _repeated(known, data, spec)
        blob = await self._stored(data, deadline)
        self._pins[blob.sha256] += 1
        keep = False
        try:
            if not self._store.has(blob):
                raise HiveError(Code.OVERLOADED, "the same data was being removed at this moment: send it again")
            await self._inspections.inspect(self._store.path(blob), session.username, deadline.left_s())
            holders = await self._copies.replicate(blob, preferred=(), deadline_s=deadline.left_s())
            keep = True  # From here on the task may exist, whatever becomes of this call.
            command = SubmitTask(
                session_id=session.session_id, task_id=task_id, spec=spec, data=blob, data_holders=holders
            )
            held = await self._commit(session, command, caller, deadline)
            return Submitted(task_id=task_id, held=held, copies=len(holders))
        except HiveError as error:
            keep = keep and error.outcome is Outcome.UNKNOWN
            raise
        finally:
            self._unpin(blob.sha256)
            if not keep:
                await self.release(blob.sha256)

    async def aclose(self) -> None:
        """Ends inspections that go on."""
        await self._inspections.aclose()

    async def release(self, sha256: str, *, spare_younger_s: float = 0.0) -> None:
        """Deletes a blob of this node, unless somebody needs it."""
        if not self._pins[sha256] and not queries.blob_references(self._agreement.view(), sha256):
            await self._store.delete(sha256, spare_younger_s=spare_younger_s)

    def _unpin(self, sha256: str) -> None:
        self._pins[sha256] -= 1
        if not self._pins[sha256]:
            del self._pins[sha256]

    async def _commit(self, session: SessionRecord, command: SubmitTask, caller: Caller, deadline: Deadline) -> int:
        """CPT held."""
        reply = await self._agreement.propose(
            command,
            deadline_s=deadline.left_s(),
            owner=session.username,
            key=caller.idempotency_key,
            keep_ms=keep_ms(caller),
        )
        return accepted(reply).number

    async def _check_balance(self, session: SessionRecord, spec: TaskSpec, deadline: Deadline) -> None:
        """Refuses before 100 MB are stored what would be refused after; the commit decides in any case."""
        hold = pricing.hold_for(spec)
        if queries.balance(self._agreement.view(), session.username) >= hold:
            return
        await self._leadership.read_barrier(deadline.left_s())
        balance = queries.balance(self._agreement.view(), session.username)
        if balance < hold:
            raise HiveError(Code.INSUFFICIENT_BALANCE, f"the task costs up to {hold} CPT; the balance is {balance} CPT")

    async def _stored(self, data: bytes | AsyncIterator[bytes], deadline: Deadline) -> BlobRef:
        pieces = _cut(data) if isinstance(data, bytes) else data
        limit_bytes = max(self._upload_bytes_max, UNARY_BYTES_MAX if isinstance(data, bytes) else 0)
        try:
            async with asyncio.timeout(deadline.left_s()):
                return await self._store.put(pieces, size_bytes_max=limit_bytes)
        except TimeoutError:
            raise HiveError(
                Code.OVERLOADED, "the upload had not come whole before its deadline, and nothing of it was kept"
            ) from None


async def _repeated(known: TaskRecord, data: bytes, spec: TaskSpec) -> Submitted:
    """The answer to an upload under an id that is taken. Raises TASK_EXISTS for other content."""
    sha256 = (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()
    if known.data.sha256 != sha256 or known.spec != spec:
        raise HiveError(Code.TASK_EXISTS, f"another task has the id {known.task_id} already: choose another id")
    held = pricing.hold_for(spec)
    return Submitted(task_id=known.task_id, held=held, copies=len(known.data_holders))


async def _cut(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _PIECE_BYTES):
        yield data[start : start + _PIECE_BYTES]
