"""What a task leaves: its log, from the worker while the attempt is open and from a blob afterwards, and its result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError
from hivenode.master.deadlines import Deadline
from hivenode.pool import queries
from hivenode.pool.records import BlobRef, TaskRecord, TaskState
from hivenode.runtime.ports import (
    Agreement,
    AttemptKey,
    BlobCopies,
    BlobStore,
    PeerAddress,
    PeerNetwork,
    StoredFile,
    TaskRunner,
)
from hivenode.runtime.streams import closing

LOG_ANSWER_BYTES_MAX: Final = 96 << 20
"""A log in one answer has to fit into a message of 104 MiB; longer ones are streamed by WatchTask."""


def addresses_of(view: ReadView, node_ids: Iterable[str]) -> tuple[PeerAddress, ...]:
    """Where nodes can be called, as agreed state knows it; unknown nodes are left out."""
    entries = (queries.node(view, node_id) for node_id in node_ids)
    return tuple(PeerAddress(node_id=entry.node_id, addresses=entry.addresses) for entry in entries if entry)


class Outputs:
    """Reads logs and results, wherever they lie.

    Args:
        me: this node.
        runner: this node's worker part; None when it has none.
    """

    def __init__(
        self,
        *,
        agreement: Agreement,
        peers: PeerNetwork,
        store: BlobStore,
        copies: BlobCopies,
        me: NodeId,
        runner: TaskRunner | None,
    ) -> None:
        self._agreement = agreement
        self._peers = peers
        self._store = store
        self._copies = copies
        self._me = me
        self._runner = runner

    def attempt_log(self, task: TaskRecord, offset: int, *, follow: bool) -> AsyncIterator[bytes]:
        """The log of the open attempt, from its worker. Raises NODE_OFFLINE, TASK_NOT_FOUND (unknown to the worker)."""
        key = AttemptKey(user=task.user, task_id=task.task_id, attempt=task.attempt)
        if task.node_id == self._me and self._runner is not None:
            return self._runner.read_log(key, offset, follow)
        known = addresses_of(self._agreement.view(), (task.node_id,))
        if not known:
            raise HiveError(Code.NODE_OFFLINE, f"the worker {task.node_id} is not a node of this hive any more")
        return self._peers.read_log(known[0], key, offset, follow)

    async def open_log(self, task: TaskRecord, deadline: Deadline) -> bytes:
        """The whole lines that the open attempt has printed so far. Raises NODE_OFFLINE, TASK_NOT_FOUND."""
        log = bytearray()
        try:
            async with (
                asyncio.timeout(deadline.left_s()),
                closing(self.attempt_log(task, 0, follow=False)) as pieces,
            ):
                async for piece in pieces:
                    log += piece
                    _check_answer(len(log))
        except TimeoutError:
            raise HiveError(
                Code.NODE_OFFLINE,
                f"the worker {task.node_id} does not answer, so the log is not known now; the task is {task.state.value}",
            ) from None
        return bytes(log[: log.rfind(b"\n") + 1])

    async def closed_log(self, task: TaskRecord, deadline: Deadline) -> bytes:
        """The whole log of an attempt that is over; empty when none was kept."""
        if task.log is None:
            return b""
        _check_answer(task.log.size_bytes)
        return b"".join([piece async for piece in self.closed_log_from(task, task.log, 0, deadline)])

    async def closed_log_from(
        self, task: TaskRecord, log: BlobRef, offset: int, deadline: Deadline
    ) -> AsyncIterator[bytes]:
        """The kept log from an offset. Raises BLOB_NOT_FOUND, NODE_OFFLINE."""
        await self._bring(task, log, deadline)
        async with closing(self._store.read(log, offset)) as pieces:
            async for piece in pieces:
                yield piece

    async def result(self, task: TaskRecord, deadline: Deadline) -> StoredFile:
        """The result's file on this node's disk.

        Raises:
            HiveError: TASK_NOT_FINISHED; TASK_CANCELLED or TASK_FAILED when there is none; BLOB_NOT_FOUND, NODE_OFFLINE.
        """
        if not task.state.ended or (task.result is None and task.attempt_open):
            raise HiveError(
                Code.TASK_NOT_FINISHED, f"the task {task.task_id} is {task.state.value}, its result is not there yet"
            )
        if task.result is None:
            raise _without_result(task)
        await self._bring(task, task.result, deadline)
        return StoredFile(path=self._store.path(task.result), blob=task.result)

    async def _bring(self, task: TaskRecord, blob: BlobRef, deadline: Deadline) -> None:
        if not self._store.has(blob):
            holders = addresses_of(self._agreement.view(), task.output_holders)
            await self._copies.fetch(blob, holders, deadline.left_s())


def _check_answer(size_bytes: int) -> None:
    if size_bytes > LOG_ANSWER_BYTES_MAX:
        raise HiveError(
            Code.BLOB_TOO_LARGE, f"the log is larger than {LOG_ANSWER_BYTES_MAX >> 20} MiB: read it with WatchTask"
        )


def _without_result(task: TaskRecord) -> HiveError:
    if task.state is TaskState.STOPPED:
        return HiveError(Code.TASK_CANCELLED, f"the task {task.task_id} was stopped and left no result")
    reason = f": {task.reason}" if task.reason else ""
    return HiveError(Code.TASK_FAILED, f"the task {task.task_id} is {task.state.value} and left no result{reason}")
