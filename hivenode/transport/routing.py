"""Where each call is answered and who may make it: the one table of the API.

| kind | leader | replica | light node |
|---|---|---|---|
| LOCAL | here | here | here |
| READ | here | here, from its own agreed state | forwarded to the leader |
| LEADER | here | forwarded to the leader | forwarded to the leader |

Whose task, money or machine a call is about follows from the session alone; the ports behind the handlers see to that. So a call
for users is for each user's own things.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from types import ModuleType
from typing import Any, Final

from google.protobuf.message_factory import GetMessageClass

from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.pool.records import UserRole
from hivenode.runtime.ports import Standing
from hivenode.transport.receptions import DOWNLOADS_MAX, WATCHES_MAX

CALL_TIMEOUT_S: Final = 30.0
"""For callers that set no deadline: several elections long, so that a failover is waited out and nothing hangs."""
BULK_TIMEOUT_S: Final = 600.0
"""For archives and results, 4 GiB at 60 Mbit/s; and for a copy of the agreed state, 4 GiB at 7 MB/s."""
DEADLINE_S_MAX: Final = 3_600.0
"""Longer waits are asked for anew, so that a forgotten call does not stay for ever."""
PEER_SERVICE: Final = "PeerService"


@unique
class RouteKind(Enum):
    LOCAL = "local"
    READ = "read"
    LEADER = "leader"


@unique
class Shape(Enum):
    UNARY = "unary"
    UPLOAD = "upload"
    """A stream of requests, one answer."""
    DOWNLOAD = "download"
    """One request, a stream of answers."""


@unique
class Access(Enum):
    """Who may make a call."""

    ANYONE = "anyone"
    TOKEN = "token"
    """Whoever shows a token; the port itself judges it, since its session may have ended by an earlier try of the same call."""
    USER = "user"
    """Whoever is logged in."""
    ADMIN = "admin"
    MACHINE = "machine"
    """Whoever is on the machine whose daemon is asked: a caller on loopback, not through a peer. No token is looked at."""
    OPERATOR = "operator"
    """An operator or admin; and whoever is on the machine, without a token."""

    @property
    def role(self) -> UserRole | None:
        """The role that the session's user must have; None where any will do."""
        return {Access.ADMIN: UserRole.ADMIN, Access.OPERATOR: UserRole.OPERATOR}.get(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How one method is treated.

    Args:
        access: who may make the call.
        token_field: the message's own field that may carry the token instead of the metadata.
        writes: a call whose repetition must be the same call, and whose outcome can be unknown.
        barrier: the port that answers does not read linearizably by itself, so the read barrier comes before it.
        timeout_s: the deadline of a caller that set none.
        large: its request has an archive or a result in it, up to the documented 100 MB.
        bulky: its answer has a result or a log in it, of that size.
        streams: how many of its answers, if these are streams, are under way at once.
    """

    method: str
    kind: RouteKind
    shape: Shape
    request: type[Any]
    response: type[Any]
    access: Access = Access.USER
    token_field: str = ""
    writes: bool = False
    barrier: bool = False
    timeout_s: float = CALL_TIMEOUT_S
    large: bool = False
    bulky: bool = False
    streams: int = 0

    def answered_here(self, standing: Standing) -> bool:
        """Whether a node of this standing answers the call itself."""
        match self.kind:
            case RouteKind.LOCAL:
                return True
            case RouteKind.READ:
                return standing is not Standing.LIGHT
            case RouteKind.LEADER:
                return standing is Standing.LEADER


_WRITE: Final[dict[str, Any]] = {"kind": RouteKind.LEADER, "writes": True}
_WRITE_BY_TOKEN: Final[dict[str, Any]] = {**_WRITE, "access": Access.TOKEN}
_ASK_LEADER: Final[dict[str, Any]] = {"kind": RouteKind.LEADER}
_ASK_LEADER_AFTER_BARRIER: Final[dict[str, Any]] = {**_ASK_LEADER, "barrier": True}
_READ: Final[dict[str, Any]] = {"kind": RouteKind.READ}
_READ_AFTER_BARRIER: Final[dict[str, Any]] = {**_READ, "barrier": True}
_UPLOAD: Final[dict[str, Any]] = {**_WRITE, "timeout_s": BULK_TIMEOUT_S, "large": True}
_RESULT: Final[dict[str, Any]] = {**_READ_AFTER_BARRIER, "timeout_s": BULK_TIMEOUT_S}
_MACHINE: Final[dict[str, Any]] = {"kind": RouteKind.LOCAL, "access": Access.MACHINE}
_OPERATOR: Final[dict[str, Any]] = {**_READ_AFTER_BARRIER, "access": Access.OPERATOR}

_TREATMENT: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "nodepool.UserService": {
        "Register": {**_WRITE, "access": Access.ANYONE},
        "Login": {**_WRITE, "access": Access.ANYONE},
        "GetBalance": {**_READ, "token_field": "token"},
        "Transfer": {**_WRITE, "token_field": "token"},
        "RefreshToken": {**_WRITE_BY_TOKEN, "token_field": "old_token"},
    },
    "nodepool.NodeManagerService": {
        "RegisterWorkerNode": _WRITE,
        "HealthCheck": {**_ASK_LEADER, "access": Access.ANYONE},
        "ReportStatus": _ASK_LEADER_AFTER_BARRIER,
        "GetNodeList": _ASK_LEADER_AFTER_BARRIER,
        "RegisterNode": _WRITE,
        "Heartbeat": {**_ASK_LEADER, "access": Access.ANYONE},
        "ReportNodeStatus": _ASK_LEADER_AFTER_BARRIER,
    },
    "nodepool.MasterNodeService": {
        "UploadTask": _UPLOAD,
        "PollTaskStatus": {**_READ, "bulky": True},
        "StoreOutput": _READ,
        "StoreResult": {**_READ, "large": True},
        "GetTaskResult": {**_RESULT, "token_field": "token", "bulky": True},
        "TaskCompleted": _READ,
        "StoreLogs": _READ,
        "GetTaskLogs": {**_READ_AFTER_BARRIER, "token_field": "token", "bulky": True},
        "GetAllTasks": {**_READ_AFTER_BARRIER, "token_field": "token"},
        "StopTask": {**_WRITE, "token_field": "token"},
        "CancelTask": {**_WRITE, "token_field": "token"},
        "ReturnTaskResult": {**_READ, "large": True},
    },
    "nodepool.WorkerNodeService": {
        "ExecuteTask": _UPLOAD,
        "ReportOutput": _READ,
        "ReportRunningStatus": _ASK_LEADER,
        "StopTaskExecution": _WRITE,
    },
    "nodepool.NodePoolService": {
        "RegisterNode": _WRITE,
        "UnregisterNode": _WRITE,
        "RegisterUser": {**_WRITE, "access": Access.ANYONE},
        "LoginUser": {**_WRITE, "access": Access.ANYONE},
        "SubmitTask": _UPLOAD,
        "GetTaskStatus": {**_READ, "bulky": True},
    },
    "hive.HiveService": {
        "GetStatus": {"kind": RouteKind.LOCAL, "access": Access.ANYONE},
        "ListNodes": _ASK_LEADER_AFTER_BARRIER,
        "WhoAmI": _READ_AFTER_BARRIER,
        "Logout": _WRITE_BY_TOKEN,
        "ChangePassword": _WRITE_BY_TOKEN,
        "SetUserRole": {**_WRITE, "access": Access.ADMIN},
        "ClaimAdmin": _WRITE,
        "ClaimNode": _WRITE,
        "MakeClaim": _MACHINE,
        "UploadTaskStream": _UPLOAD,
        "GetTask": _READ,
        "ListTasks": _READ_AFTER_BARRIER,
        "WatchTask": {**_READ_AFTER_BARRIER, "timeout_s": DEADLINE_S_MAX, "streams": WATCHES_MAX},
        "DownloadResult": {**_RESULT, "streams": DOWNLOADS_MAX},
        "RemoveNode": _OPERATOR,
        "TransferLeadership": _OPERATOR,
        "CreateJoinToken": _OPERATOR,
        "ListPending": _OPERATOR,
        "ApproveNode": _OPERATOR,
        "DenyNode": _OPERATOR,
        "RevokeNode": _OPERATOR,
        "LeaveHive": _MACHINE,
        "JoinHive": _MACHINE,
        "MakeSnapshot": {**_MACHINE, "timeout_s": BULK_TIMEOUT_S},
    },
}


def _shape(method: Any) -> Shape:
    if method.client_streaming:
        return Shape.UPLOAD
    return Shape.DOWNLOAD if method.server_streaming else Shape.UNARY


def _routes_of(module: ModuleType) -> dict[str, Route]:
    """The routes of a protocol file; a method without a treatment, or the reverse, is a programming error (KeyError)."""
    routes: dict[str, Route] = {}
    for service in module.DESCRIPTOR.services_by_name.values():
        if service.name == PEER_SERVICE:
            continue  # peers prove themselves and are served by peer_service.py
        treatment = dict(_TREATMENT[service.full_name])
        for method in service.methods:
            name = f"/{service.full_name}/{method.name}"
            routes[name] = Route(
                method=name,
                shape=_shape(method),
                request=GetMessageClass(method.input_type),
                response=GetMessageClass(method.output_type),
                **treatment.pop(method.name),
            )
        if treatment:
            raise KeyError(f"{service.full_name} has no {', '.join(treatment)}")
    return routes


ROUTES: Final[dict[str, Route]] = {**_routes_of(nodepool_pb2), **_routes_of(hive_pb2)}
