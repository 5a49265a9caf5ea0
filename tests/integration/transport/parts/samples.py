"""Records, capabilities and files that the transport's tests hand around."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from hivenode.encoding.node_record import Capabilities
from hivenode.pool.records import BlobRef, TaskId, TaskRecord, TaskSpec, TaskState, UserName
from hivenode.runtime.ports import StoredFile

HIVE = "0123456789abcdef0123456789abcdef"
DEADLINE_S = 10.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def capabilities() -> Capabilities:
    return Capabilities(
        hostname="host",
        cpu_cores=2,
        memory_gb=4,
        cpu_score=1_000,
        gpu_score=0,
        gpu_memory_gb=0,
        gpu_name="",
        location="Asia/Taipei",
        docker_status="enabled",
        executor="sandbox",
        executor_note="",
        slots=4,
    )


def task_record(task_id: str, data: bytes, state: TaskState = TaskState.PENDING) -> TaskRecord:
    return TaskRecord(
        user=UserName("testuser"),
        task_id=TaskId(task_id),
        spec=TaskSpec(),
        data=BlobRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)),
        data_holders=(),
        state=state,
        attempt=0,
        attempt_open=False,
        node_id="",
        submitted_ms=1_000,
        assigned_ms=0,
        started_ms=0,
        ended_ms=0,
        exit_code=None,
        reason="",
        result=None,
        log=None,
        output_holders=(),
        cost_per_minute=1,
        held=5,
        paid=0,
    )


def stored(path: Path, size_bytes: int) -> StoredFile:
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(size_bytes)
    return StoredFile(path=path, blob=BlobRef(sha256=hashlib.sha256(b"").hexdigest(), size_bytes=size_bytes))
