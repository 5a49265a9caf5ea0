"""What every field of every request may be: one table, looked at in one place before any port sees the request.

`check` is called by the router and by the peer protocol's server with each message that they parse. A refusal names the field as
it is called on the wire, and its bound. A field without a line here is refused as soon as a caller sets it, so that a new one
cannot be forgotten. What the hive agrees on is bounded once more when it is applied, by the same figures (`pool/validation.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Final, Protocol, TypeAlias

from hivenode.config import split_address
from hivenode.encoding.claim import ClaimPurpose
from hivenode.encoding.join_token import TOKEN_CHARACTERS_MAX as TOKEN_TEXT_MAX
from hivenode.errors import Code, HiveError
from hivenode.pool.claims import CLAIM_BYTES_MAX
from hivenode.pool.joining import TOKEN_LIFETIME_MS_MAX
from hivenode.pool.records import (
    DEFAULT_ATTEMPTS_MAX,
    DEFAULT_TIME_LIMIT_S,
    Needs,
    NodeRights,
    Priority,
    TaskSpec,
    UserRole,
)
from hivenode.pool.validation import (
    DEPENDENCIES_MAX,
    NUMBERS,
    RECORD_BYTES_MAX,
    TEXTS,
    check_email,
    check_spec,
    check_username,
)
from hivenode.runtime.passwords import PASSWORD_BYTES_MAX
from hivenode.runtime.ports import ClusterAction
from hivenode.transport.metadata import TOKEN_CHARACTERS_MAX
from hivenode.transport.statuses import MalformedError
from hivenode.transport.tickets import CHALLENGE_BYTES

UNARY_BYTES_MAX: Final = 100 << 20
"""The documented 100 MB of an archive or result in one message."""
PIECE_BYTES_MAX: Final = 16 << 20
"""One piece of a stream, or one text of a worker's output; daemons send 1 MiB at most."""
EVENT_BYTES_MAX: Final = 1 << 20
"""What a worker tells. Its hello names its open attempts: four for each of 1,024 slots, of 200 bytes."""
STREAM_ID_BYTES: Final = 16
FRAME_MESSAGES_MAX: Final = 65_536
RETRIES_MAX: Final = NUMBERS["attempts"].most - 1
"""What the hive bounds is attempts, of which the first is no retry."""

Fields: TypeAlias = "dict[str, Rule]"


class Rule(Protocol):
    """What a field may be."""

    def check(self, name: str, value: Any) -> None:
        """Raises HiveError, mostly MalformedError, with the field's name and its bound."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text of so many bytes in UTF-8, of one line unless `lines`; what else it must be is said by `also`."""

    least: int = 0
    most: int
    lines: bool = False
    also: Callable[[str], None] | None = None

    def check(self, name: str, value: str) -> None:
        size = len(value) if value.isascii() else len(value.encode("utf-8"))
        if not self.least <= size <= self.most:
            raise MalformedError(f"{name} must have {self.least} to {self.most} bytes; it has {size}.")
        if not (self.lines or (value.isascii() and value.isprintable())) and any(
            sign < " " or "\x7f" <= sign <= "\x9f" for sign in value
        ):
            raise MalformedError(f"{name} must not contain control characters.")
        if self.also is not None and value:
            try:
                self.also(value)
            except HiveError as error:
                raise MalformedError(f"{name}: {error.message}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """One of some words, or none where `optional`."""

    words: tuple[str, ...]
    optional: bool = False

    def check(self, name: str, value: str) -> None:
        if value.lower() not in self.words and not (self.optional and not value):
            raise MalformedError(f"{name} must be one of {', '.join(self.words)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """So many bytes. `code` is that of the refusal; with another than INVALID_ARGUMENT the response carries it."""

    least: int = 0
    most: int
    code: Code = Code.INVALID_ARGUMENT
    advice: str = ""

    def check(self, name: str, value: bytes) -> None:
        if not self.least <= len(value) <= self.most:
            _refuse(self.code, f"{name} must have {self.least} to {self.most} bytes; it has {len(value)}.{self.advice}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number within its bounds; `code` as of `Data`."""

    least: int = 0
    most: int
    code: Code = Code.INVALID_ARGUMENT

    def check(self, name: str, value: float) -> None:
        if not (math.isfinite(value) and self.least <= value <= self.most):
            _refuse(self.code, f"{name} must be {self.least} to {self.most}; it is {value}.")


@dataclass(frozen=True, slots=True)
class Flag:
    """Yes or no: nothing is out of bounds."""

    def check(self, name: str, value: bool) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Part:
    """A message within the message, with a table of its own."""

    def check(self, name: str, value: Any) -> None:
        check(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """At most so many of something."""

    most: int
    each: Rule

    def check(self, name: str, value: Any) -> None:
        if len(value) > self.most:
            raise MalformedError(f"{name} must have at most {self.most} entries; it has {len(value)}.")
        for entry in value:
            self.each.check(name, entry)


def _refuse(code: Code, message: str) -> None:
    raise MalformedError(message) if code is Code.INVALID_ARGUMENT else HiveError(code, message)


def _text(field: str, *, least: int | None = None, also: Callable[[str], None] | None = None) -> Text:
    """The bound that the hive itself has for a text."""
    bound = TEXTS[field]
    return Text(least=bound.least if least is None else least, most=bound.most, also=also)


def _number(field: str, code: Code = Code.INVALID_ARGUMENT) -> Number:
    """The bound that the hive itself has for a number."""
    return Number(least=NUMBERS[field].least, most=NUMBERS[field].most, code=code)


def _words(kind: type[Enum], *, optional: bool = False) -> Words:
    return Words(words=tuple(str(item.value) for item in kind), optional=optional)


def _check_address(value: str) -> None:
    try:
        split_address(value)
    except ValueError as error:
        raise MalformedError(str(error)) from None


USER: Final = _text("user name", also=check_username)
PASSWORD: Final = Text(least=1, most=PASSWORD_BYTES_MAX, lines=True)
EMAIL: Final = _text("email", also=check_email)
TOKEN: Final = Text(most=TOKEN_CHARACTERS_MAX)
TASK: Final = _text("task id")
NODE: Final = _text("node id")
HIVE: Final = _text("hive id", least=0)
NOTE: Final = Text(most=64)
OUTPUT: Final = Text(most=PIECE_BYTES_MAX, lines=True)
PERCENT: Final = Number(most=100_000)
"""Usage figures: many cores give more than 100 percent."""
SECONDS: Final = Number(most=NUMBERS["time"].most // 1_000)
ARCHIVE: Final = Data(
    most=UNARY_BYTES_MAX,
    code=Code.BLOB_TOO_LARGE,
    advice=" Use hive.HiveService/UploadTaskStream, as `hivenode task run` does.",
)
PIECE: Final = Data(most=PIECE_BYTES_MAX)
BLOB_BYTES: Final = _number("blob size", Code.BLOB_TOO_LARGE)
OFFSET: Final = Number(most=NUMBERS["blob size"].most)
SHA256: Final = Text(least=64, most=64)
NONCE: Final = Data(least=32, most=32)
SIGNATURE: Final = Data(least=64, most=64)
RECORD: Final = Data(least=1, most=RECORD_BYTES_MAX)
TOKEN_SECONDS: Final = Number(least=1, most=TOKEN_LIFETIME_MS_MAX // 1_000)
CLAIM: Final = Data(least=1, most=CLAIM_BYTES_MAX)

_ACCOUNT: Final[Fields] = {"username": USER, "password": PASSWORD, "email": EMAIL}
_NEEDS: Final[Fields] = {
    "memory_gb": _number("memory"),
    "cpu_score": _number("cpu score"),
    "gpu_score": _number("gpu score"),
    "gpu_memory_gb": _number("gpu memory"),
    "location": _text("location"),
    "gpu_name": _text("gpu name"),
}
_SPEC: Final[Fields] = {
    **_NEEDS,
    "priority": _words(Priority, optional=True),
    "dependencies": Many(most=DEPENDENCIES_MAX, each=TASK),
    # 0 is the default.
    "time_limit_s": Number(most=NUMBERS["time limit"].most),
    "retries": Number(most=RETRIES_MAX),
}
_NEW_TASK: Final = _text("task id", least=0)
"""Empty for one that the hive chooses."""
_SOME_NODE: Final = _text("node id", least=0)
"""What is said of the node does not count, so it may be left out."""
_TASK_ALONE: Final[Fields] = {"task_id": TASK}
_TASK_AND_TOKEN: Final[Fields] = {"task_id": TASK, "token": TOKEN}

TABLE: Final[dict[str, Fields]] = {
    "nodepool.RegisterRequest": _ACCOUNT,
    "nodepool.RegisterUserRequest": _ACCOUNT,
    "nodepool.LoginRequest": {"username": USER, "password": PASSWORD},
    "nodepool.GetBalanceRequest": {"username": _text("user name", least=0, also=check_username), "token": TOKEN},
    "nodepool.TransferRequest": {
        "token": TOKEN,
        "receiver_username": USER,
        "amount": _number("amount", Code.INVALID_AMOUNT),
    },
    "nodepool.RefreshTokenRequest": {"old_token": TOKEN},
    "nodepool.RegisterWorkerNodeRequest": {
        **_NEEDS,
        "node_id": NODE,
        "hostname": _text("hostname"),
        "cpu_cores": _number("cpu cores"),
        "port": _number("port"),
        # The worker's own word on these counts for nothing; they are bounded like all others.
        "trust_level": Number(most=1_000),
        "last_heartbeat": SECONDS,
        "docker_status": _text("docker status"),
    },
    # Empty asks for the daemon itself.
    "nodepool.HealthCheckRequest": {"node_id": _SOME_NODE},
    "nodepool.ReportStatusRequest": {"node_id": NODE, "status": NOTE},
    "nodepool.GetNodeListRequest": {},
    "nodepool.UnregisterNodeRequest": {"node_id": NODE},
    # What the caller writes as user_id is not looked at; deployed clients write names and numbers there.
    "nodepool.UploadTaskRequest": {**_SPEC, "task_id": _NEW_TASK, "task_data": ARCHIVE, "user_id": Text(most=256)},
    "nodepool.ExecuteTaskRequest": {"task_id": _NEW_TASK, "task_data": ARCHIVE},
    "nodepool.PollTaskStatusRequest": _TASK_ALONE,
    "nodepool.StoreOutputRequest": {"task_id": TASK, "output": OUTPUT},
    "nodepool.StoreResultRequest": {"task_id": TASK, "result_zip": ARCHIVE},
    "nodepool.GetTaskResultRequest": _TASK_AND_TOKEN,
    "nodepool.TaskCompletedRequest": {"task_id": TASK, "node_id": _SOME_NODE, "success": Flag()},
    "nodepool.StoreLogsRequest": {"node_id": _SOME_NODE, "task_id": TASK, "logs": OUTPUT, "timestamp": _number("time")},
    "nodepool.GetTaskLogsRequest": _TASK_AND_TOKEN,
    "nodepool.GetAllTasksRequest": {"token": TOKEN},
    "nodepool.StopTaskRequest": _TASK_AND_TOKEN,
    "nodepool.ReturnTaskResultRequest": {"task_id": TASK, "result_zip": ARCHIVE},
    "nodepool.ReportOutputRequest": {"node_id": _SOME_NODE, "task_id": TASK, "output": OUTPUT},
    "nodepool.RunningStatusRequest": {
        "node_id": NODE,
        "task_id": TASK,
        "cpu_usage": PERCENT,
        "memory_usage": PERCENT,
        "gpu_usage": PERCENT,
        "gpu_memory_usage": PERCENT,
    },
    "nodepool.StopTaskExecutionRequest": _TASK_ALONE,
    "hive.GetStatusRequest": {},
    "hive.ListNodesRequest": {},
    "hive.WhoAmIRequest": {},
    "hive.LogoutRequest": {},
    "hive.ChangePasswordRequest": {"old_password": PASSWORD, "new_password": PASSWORD},
    "hive.SetUserRoleRequest": {"username": USER, "user_role": _words(UserRole)},
    "hive.ClaimAdminRequest": {"claim": CLAIM},
    "hive.ClaimNodeRequest": {"claim": CLAIM},
    "hive.MakeClaimRequest": {"code": NOTE, "purpose": _words(ClaimPurpose), "username": USER},
    "hive.UploadTaskPiece": {"header": Part(), "data": PIECE},
    "hive.UploadTaskHeader": {"task_id": _NEW_TASK, "options": Part()},
    "hive.TaskOptions": _SPEC,
    "hive.GetTaskRequest": _TASK_ALONE,
    "hive.ListTasksRequest": {},
    "hive.WatchTaskRequest": {
        "task_id": TASK,
        "log_offset": OFFSET,
        # 0 for whichever is the newest.
        "attempt": Number(most=NUMBERS["attempts"].most),
    },
    "hive.DownloadResultRequest": _TASK_ALONE,
    "hive.ManageNodeRequest": {"node_id": NODE},
    "hive.LeaveHiveRequest": {},
    "hive.CreateJoinTokenRequest": {"rights": _words(NodeRights), "lifetime_s": TOKEN_SECONDS},
    "hive.ListPendingRequest": {},
    "hive.ApproveNodeRequest": {"node_id": NODE, "rights": _words(NodeRights)},
    # Either the address or the token.
    "hive.JoinHiveRequest": {
        "address": _text("address", least=0, also=_check_address),
        "abandon": Flag(),
        "token": Text(most=TOKEN_TEXT_MAX),
    },
    "hive.MakeSnapshotRequest": {},
    # Between daemons: what is inside of records, events and messages is bounded where it is decoded.
    "hive.ChallengeRequest": {
        # Empty from a program that is no node.
        "caller_record": Data(most=RECORD_BYTES_MAX),
        "caller_nonce": NONCE,
        "hive_id": HIVE,
    },
    "hive.ProveRequest": {
        "caller_node_id": NODE,
        "callee_nonce": Data(least=CHALLENGE_BYTES, most=CHALLENGE_BYTES),
        "hive_id": HIVE,
        "signature": SIGNATURE,
    },
    "hive.RaftFrame": {"messages": Many(most=FRAME_MESSAGES_MAX, each=Data(most=UNARY_BYTES_MAX))},
    "hive.InviteRequest": {"hive_id": HIVE},
    "hive.JoinRequest": {
        "record": RECORD,
        "from_lan": Flag(),
        "token_key": Data(most=32),
        "token_signature": Data(most=64),
    },
    "hive.WorkerFrame": {
        "event": Data(most=EVENT_BYTES_MAX),
        "stream": Data(least=STREAM_ID_BYTES, most=STREAM_ID_BYTES),
    },
    "hive.FetchBlobRequest": {"sha256": SHA256, "size_bytes": BLOB_BYTES, "offset": OFFSET},
    # Only the first piece names the blob.
    "hive.StoreBlobPiece": {"sha256": Text(most=64), "size_bytes": BLOB_BYTES, "data": PIECE},
    "hive.ReadLogRequest": {
        "user": USER,
        "task_id": TASK,
        "attempt": _number("attempts"),
        "offset": OFFSET,
        "follow": Flag(),
    },
    "hive.FetchSnapshotRequest": {"sha256": SHA256, "offset": OFFSET},
    "hive.ManageHiveRequest": {
        "action": _words(ClusterAction),
        "node_id": _text("node id", least=0),
        "rights": _words(NodeRights, optional=True),
        "lifetime_ms": Number(most=TOKEN_LIFETIME_MS_MAX),
    },
    "hive.ListMembersRequest": {},
    "hive.CompareDigestRequest": {
        "version": Number(most=1_000),
        "member_id": Text(least=1, most=256),
        "index": Number(least=1, most=(1 << 63) - 1),
        "digest": Data(least=32, most=32),
    },
}
"""By the full name of the message."""


@cache
def _rules(descriptor: Any) -> tuple[tuple[str, Rule, bool], ...]:
    """Name and rule of each field, and whether the field may be absent."""
    fields = TABLE.get(descriptor.full_name, {})
    return tuple((field.name, fields.get(field.name, _UNKNOWN), field.has_presence) for field in descriptor.fields)


class _Unknown:
    def check(self, name: str, value: Any) -> None:
        if value:
            raise MalformedError(f"{name} is not taken here: it has no bound.")


_UNKNOWN: Final = _Unknown()


def entries_max(descriptor: Any, field: Any) -> int:
    """How often a field may stand in its message."""
    rule = TABLE.get(descriptor.full_name, {}).get(field.name, _UNKNOWN)
    return rule.most if isinstance(rule, Many) else 1


def check(message: Any) -> None:
    """Refuses a request with a field out of its bounds. An optional field counts where it is set."""
    for name, rule, optional in _rules(message.DESCRIPTOR):
        if not optional or message.HasField(name):
            rule.check(name, getattr(message, name))


def spec(
    needs: Needs, priority: str, time_limit_s: int, retries: int | None, dependencies: tuple[str, ...]
) -> TaskSpec:
    """What the user asks of a task; empty priority, no time limit and unset retries are the defaults.

    Raises:
        HiveError: INVALID_ARGUMENT for what no single field tells, as a dependency that is named twice.
    """
    wanted = TaskSpec(
        needs=needs,
        priority=Priority(priority.lower() or Priority.NORMAL.value),
        time_limit_s=time_limit_s or DEFAULT_TIME_LIMIT_S,
        attempts_max=DEFAULT_ATTEMPTS_MAX if retries is None else retries + 1,
        dependencies=dependencies,
    )
    try:
        check_spec(wanted)
    except HiveError as error:
        raise MalformedError(error.message) from error
    return wanted
