"""MasterNodeService, WorkerNodeService, and the task calls of NodePoolService and HiveService."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, BinaryIO, Final

from hivenode.errors import Code, HiveError
from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.pool.records import Needs, TaskRecord
from hivenode.runtime.ports import StoredFile, Submitted, Tasks, TaskView, UsageReport
from hivenode.transport import bounds
from hivenode.transport.channels import CHUNK_BYTES
from hivenode.transport.interceptors.calls import Call
from hivenode.transport.services.handlers import Handler
from hivenode.transport.statuses import MalformedError

NO_ATTEMPT: Final = "your node holds no attempt of this task"
"""Workers of the hive report over their own stream to the leader; nobody else holds an attempt."""


OUTPUT_BYTES_MAX: Final = 1 << 20
"""Of the log's end in one PollTaskStatus. As text it may have three times as many: within the 4 MiB that any client takes."""
OUTPUT_LINES_MAX: Final = 65_536
_TEXT_PIECE_BYTES: Final = 1 << 20
"""Decoded at once, on a thread: the event loop has its turn between two."""


def _needs(asked: Any) -> Needs:
    return Needs(
        memory_gb=asked.memory_gb,
        cpu_score=asked.cpu_score,
        gpu_score=asked.gpu_score,
        gpu_memory_gb=asked.gpu_memory_gb,
        gpu_name=asked.gpu_name,
        location=asked.location,
    )


def _spec(asked: Any) -> Any:
    """The specification in an UploadTaskRequest or TaskOptions, which name its fields alike."""
    retries = asked.retries if asked.HasField("retries") else None
    return bounds.spec(_needs(asked), asked.priority, asked.time_limit_s, retries, tuple(asked.dependencies))


def _status(record: TaskRecord) -> Any:
    return nodepool_pb2.TaskStatus(
        task_id=record.task_id,
        status=record.state.documented,
        assigned_node=record.node_id,
        created_at=record.submitted_ms / 1000,
        started_at=record.started_ms / 1000,
        completed_at=record.ended_ms / 1000,
        user_id=record.user,
    )


def _detail(view: TaskView) -> Any:
    record = view.record
    return hive_pb2.TaskDetail(
        task_id=record.task_id,
        state=record.state.value,
        note=view.note,
        priority=record.spec.priority.value,
        node_id=record.node_id,
        attempt=record.attempt,
        submitted_ms=record.submitted_ms,
        assigned_ms=record.assigned_ms,
        started_ms=record.started_ms,
        ended_ms=record.ended_ms,
        exit_code=record.exit_code,
        data_bytes=record.data.size_bytes,
        result_bytes=record.result.size_bytes if record.result else 0,
        log_bytes=record.log.size_bytes if record.log else 0,
        result_sha256=record.result.sha256 if record.result else "",
        cost_per_minute=record.cost_per_minute,
        cpt_held=record.held,
        cpt_paid=record.paid,
        dependencies=record.spec.dependencies,
        time_limit_s=record.spec.time_limit_s,
    )


def _last_lines(log: bytes) -> tuple[list[str], bool]:
    """The lines at a log's end, and whether there are more before them; a longer line is cut or left out."""
    start = max(len(log) - OUTPUT_BYTES_MAX, 0)
    if start and log[start - 1 : start] != b"\n":
        start = log.find(b"\n", start, len(log) - 1) + 1 or start
    lines = log[start:].decode("utf-8", "replace").splitlines()
    return lines[-OUTPUT_LINES_MAX:], start > 0 or len(lines) > OUTPUT_LINES_MAX


def _text_of(log: bytes) -> str:
    """A log as text, of which each byte that is none takes three. Raises BLOB_TOO_LARGE when one message cannot carry it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces: list[str] = []
    left = bounds.UNARY_BYTES_MAX
    for start in range(0, len(log) + 1, _TEXT_PIECE_BYTES):
        end = start + _TEXT_PIECE_BYTES
        pieces.append(decoder.decode(log[start:end], final=end > len(log)))
        left -= len(pieces[-1].encode())
        if left < 0:
            raise HiveError(
                Code.BLOB_TOO_LARGE,
                f"the log is no text, and as such has more than the {bounds.UNARY_BYTES_MAX >> 20} MiB that one message "
                "carries: read its bytes with hive.HiveService/WatchTask or `hivenode task logs --follow`",
            )
    return "".join(pieces)


def _opened(stored: StoredFile) -> BinaryIO:
    """The result's file. Raises BLOB_NOT_FOUND when retention took it since it was found."""
    try:
        return stored.path.open("rb")
    except FileNotFoundError as error:
        raise HiveError(Code.BLOB_NOT_FOUND, "the result was removed in this moment: ask again") from error


def _read_whole(stored: StoredFile) -> bytes:
    with _opened(stored) as file:
        return file.read()


class TaskHandlers:
    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def table(self) -> dict[str, Handler]:
        master, worker = "/nodepool.MasterNodeService/", "/nodepool.WorkerNodeService/"
        pool, hive = "/nodepool.NodePoolService/", "/hive.HiveService/"
        return {
            master + "UploadTask": self.upload,
            pool + "SubmitTask": self.upload,
            worker + "ExecuteTask": self.execute,
            master + "PollTaskStatus": self.poll,
            pool + "GetTaskStatus": self.poll,
            master + "GetTaskResult": self.result,
            master + "GetTaskLogs": self.logs,
            master + "GetAllTasks": self.all_tasks,
            master + "StopTask": self.stop,
            master + "CancelTask": self.stop,
            worker + "StopTaskExecution": self.stop_execution,
            worker + "ReportRunningStatus": self.report_running,
            master + "StoreOutput": self.no_attempt,
            master + "StoreResult": self.no_attempt,
            master + "TaskCompleted": self.no_attempt,
            master + "StoreLogs": self.no_attempt,
            master + "ReturnTaskResult": self.no_attempt,
            worker + "ReportOutput": self.no_attempt,
            hive + "UploadTaskStream": self.upload_stream,
            hive + "GetTask": self.task,
            hive + "ListTasks": self.tasks,
            hive + "WatchTask": self.watch,
            hive + "DownloadResult": self.download,
        }

    # --- submission ----------------------------------------------------------------------------------------------

    async def _submit(self, task_id: str, data: bytes | AsyncIterator[bytes], spec: Any, call: Call) -> Submitted:
        return await self._tasks.submit(call.session, task_id, data, spec, call.caller)

    async def upload(self, request: Any, call: Call) -> Any:
        # user_id is not looked at: whose task it is follows from the token.
        submitted = await self._submit(request.task_id, request.task_data, _spec(request), call)
        return nodepool_pb2.UploadTaskResponse(
            success=True,
            message=f"task {submitted.task_id} accepted",
            task_id=submitted.task_id,
            cpt_held=submitted.held,
            copies=submitted.copies,
        )

    async def execute(self, request: Any, call: Call) -> Any:
        spec = bounds.spec(Needs(), "", 0, None, ())
        submitted = await self._submit(request.task_id, request.task_data, spec, call)
        return nodepool_pb2.ExecuteTaskResponse(success=True, message=f"task {submitted.task_id} accepted")

    async def upload_stream(self, pieces: AsyncIterator[Any], call: Call) -> Any:
        try:
            first = await anext(pieces)
        except StopAsyncIteration:
            raise MalformedError("The first piece must be the header; none came.") from None
        if first.WhichOneof("piece") != "header":
            raise MalformedError("The first piece must be the header.")

        async def content() -> AsyncGenerator[bytes, None]:
            async for piece in pieces:
                if piece.WhichOneof("piece") != "data":
                    raise MalformedError("All pieces after the first must be data.")
                yield piece.data

        async with aclosing(content()) as data:
            submitted = await self._submit(first.header.task_id, data, _spec(first.header.options), call)
        return hive_pb2.UploadTaskStreamResponse(
            task_id=submitted.task_id, cpt_held=submitted.held, copies=submitted.copies
        )

    # --- looking -------------------------------------------------------------------------------------------------

    async def poll(self, request: Any, call: Call) -> Any:
        task_id = request.task_id
        view = await self._tasks.view(call.session, task_id, call.caller)
        note = view.note
        lines: list[str] = []
        try:
            log = await self._tasks.log(call.session, task_id, call.caller)
            lines, more = await asyncio.to_thread(_last_lines, log)
            if more:
                note = f"{note} (these are the last {len(lines)} lines of its output: GetTaskLogs has all)".strip()
        except HiveError as error:
            # The state is known although the log cannot be had: the machine that writes it may be away.
            note = f"{note} (its output cannot be read now: {error.message})".strip()
        return nodepool_pb2.PollTaskStatusResponse(
            success=True, message=note, status=view.record.state.documented, output=lines
        )

    async def task(self, request: Any, call: Call) -> Any:
        return _detail(await self._tasks.view(call.session, request.task_id, call.caller))

    async def tasks(self, request: Any, call: Call) -> Any:
        return hive_pb2.ListTasksResponse(tasks=[_detail(view) for view in await self._tasks.views(call.session)])

    async def all_tasks(self, request: Any, call: Call) -> Any:
        records = await self._tasks.records(call.session)
        return nodepool_pb2.GetAllTasksResponse(tasks=[_status(record) for record in records])

    async def logs(self, request: Any, call: Call) -> Any:
        log = await self._tasks.log(call.session, request.task_id, call.caller)
        return nodepool_pb2.GetTaskLogsResponse(success=True, logs=await asyncio.to_thread(_text_of, log))

    async def watch(self, request: Any, call: Call) -> AsyncIterator[Any]:
        task_id, offset = request.task_id, request.log_offset
        async for event in self._tasks.watch(call.session, task_id, request.attempt, offset):
            yield hive_pb2.TaskUpdate(
                state=event.state.value, note=event.note, log=event.log, final=event.final, attempt=event.attempt
            )

    # --- results -------------------------------------------------------------------------------------------------

    async def result(self, request: Any, call: Call) -> Any:
        stored = await self._tasks.result(call.session, request.task_id, call.caller)
        if stored.blob.size_bytes > bounds.UNARY_BYTES_MAX:
            raise HiveError(
                Code.BLOB_TOO_LARGE,
                f"the result has {stored.blob.size_bytes} bytes and one message carries {bounds.UNARY_BYTES_MAX}: "
                "use hive.HiveService/DownloadResult or `hivenode task result`",
            )
        data = await asyncio.to_thread(_read_whole, stored)
        return nodepool_pb2.GetTaskResultResponse(success=True, result_data=data)

    async def download(self, request: Any, call: Call) -> AsyncIterator[Any]:
        stored = await self._tasks.result(call.session, request.task_id, call.caller)
        # An open file outlives the retention's removal of its name, so a slow download still ends whole.
        file = await asyncio.to_thread(_opened, stored)
        try:
            yield hive_pb2.ResultPiece(size_bytes=stored.blob.size_bytes, sha256=stored.blob.sha256)
            while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield hive_pb2.ResultPiece(data=data)
        finally:
            await asyncio.to_thread(file.close)

    # --- control -------------------------------------------------------------------------------------------------

    async def stop(self, request: Any, call: Call) -> Any:
        view = await self._tasks.stop(call.session, request.task_id, call.caller)
        return nodepool_pb2.StopTaskResponse(
            success=True, message=f"task {view.record.task_id} is {view.record.state.value}"
        )

    async def stop_execution(self, request: Any, call: Call) -> Any:
        view = await self._tasks.stop(call.session, request.task_id, call.caller)
        return nodepool_pb2.StopTaskExecutionResponse(
            success=True, message=f"task {view.record.task_id} is {view.record.state.value}"
        )

    async def report_running(self, request: Any, call: Call) -> Any:
        usage = UsageReport(
            cpu=request.cpu_usage,
            memory=request.memory_usage,
            gpu=request.gpu_usage,
            gpu_memory=request.gpu_memory_usage,
        )
        node, task_id = request.node_id, request.task_id
        earned = await self._tasks.report_running(call.session, node, task_id, usage, call.caller)
        return nodepool_pb2.RunningStatusResponse(success=True, message="status noted", cpt_reward=earned)

    async def no_attempt(self, request: Any, call: Call) -> Any:
        raise HiveError(Code.STALE_ATTEMPT, NO_ATTEMPT)
