"""What the owner of a machine lets the worker use, with the bounds of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hivenode.archives import ArchiveLimits, ResultLimits
from hivenode.errors import Code, HiveError

_MIB = 1 << 20
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """The worker's part of the configuration.

    Args:
        cpus: cores that one task may use; 0 takes all, for the kernel shares them fairly.
        memory_bytes: of a task that asks for none.
        pids_max: processes and threads of a task.
        disk_bytes: a task's working folder.
        tmp_bytes: a task's `/tmp`, which lies in memory.
        output_bytes: a task's log.
        disk_reserve_bytes: free disk under which no attempt is begun, so that the daemon itself can still write.
        fetch_deadline_s: how long bringing a task's data here may take.
        copies_deadline_s: how long copies of result and log are tried for, before the end is told with those there are.
        heartbeat_s: between two heartbeats to the leader.
        archive_limits: what a task may be; the same as at the upload.
        result_limits: what goes into a result.
        pip_environment: added to pip's environment, such as `PIP_INDEX_URL`.
    """

    cpus: float = 0.0
    memory_bytes: int = 1 * _GIB
    pids_max: int = 256
    disk_bytes: int = 2 * _GIB
    tmp_bytes: int = 64 * _MIB
    output_bytes: int = 64 * _MIB
    disk_reserve_bytes: int = 256 * _MIB
    fetch_deadline_s: float = 300.0
    copies_deadline_s: float = 600.0
    heartbeat_s: float = 2.0
    archive_limits: ArchiveLimits = field(default_factory=ArchiveLimits)
    result_limits: ResultLimits = field(default_factory=ResultLimits)
    pip_environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "cpus": (0, 4_096),
            "memory_bytes": (16 * _MIB, 1 << 44),
            "pids_max": (8, 65_536),
            "disk_bytes": (1 * _MIB, 1 << 44),
            "tmp_bytes": (1 * _MIB, 1 << 40),
            "output_bytes": (1_024, 4 * _GIB),
            "disk_reserve_bytes": (0, 1 << 44),
            "fetch_deadline_s": (1, 86_400),
            "copies_deadline_s": (1, 86_400),
            "heartbeat_s": (0.05, 10),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise HiveError(Code.INVALID_ARGUMENT, f"The worker's {name} is {value}; it must be {low} to {high}.")
