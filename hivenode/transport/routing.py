"""Where each documented call is answered: the one table of the API.

| kind | leader | replica | light node |
|---|---|---|---|
| LOCAL | here | here | here |
| READ | here | here, from its own agreed state | forwarded to the leader |
| LEADER | here | forwarded to the leader | forwarded to the leader |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from types import ModuleType
from typing import Any, Final

from google.protobuf.message_factory import GetMessageClass

from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.runtime.ports import Standing

CALL_TIMEOUT_S: Final = 30.0
"""For callers that set no deadline: several elections long, so that a failover is waited out and nothing hangs."""
BULK_TIMEOUT_S: Final = 600.0
"""For archives and results: 4 GiB at 60 Mbit/s."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How one method is treated.

    Args:
        public: needs no token.
        token_field: the message's own field that may carry the token instead of the metadata.
        writes: a call whose repetition must be the same call, and whose outcome can be unknown.
        barrier: the port that answers does not read linearizably by itself, so the read barrier comes before it.
        timeout_s: the deadline of a caller that set none.
        owner: for the owner of this machine alone, that is for callers on loopback.
    """

    method: str
    kind: RouteKind
    shape: Shape
    request: type[Any]
    response: type[Any]
    public: bool = False
    token_field: str = ""
    writes: bool = False
    barrier: bool = False
    timeout_s: float = CALL_TIMEOUT_S
    owner: bool = False

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
_ASK_LEADER: Final[dict[str, Any]] = {"kind": RouteKind.LEADER}
_READ: Final[dict[str, Any]] = {"kind": RouteKind.READ}
_UPLOAD: Final[dict[str, Any]] = {**_WRITE, "timeout_s": BULK_TIMEOUT_S}
_RESULT: Final[dict[str, Any]] = {**_READ, "barrier": True, "timeout_s": BULK_TIMEOUT_S}

_OWNER: Final[dict[str, Any]] = {"kind": RouteKind.LOCAL, "public": True, "owner": True}

_TREATMENT: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "nodepool.UserService": {
        "Register": {**_WRITE, "public": True},
        "Login": {**_WRITE, "public": True},
        "GetBalance": {**_READ, "token_field": "token"},
        "Transfer": {**_WRITE, "token_field": "token"},
        "RefreshToken": {**_WRITE, "token_field": "old_token"},
    },
    "nodepool.NodeManagerService": {
        "RegisterWorkerNode": _WRITE,
        "HealthCheck": {**_ASK_LEADER, "public": True},
        "ReportStatus": _ASK_LEADER,
        "GetNodeList": _ASK_LEADER,
        "RegisterNode": _WRITE,
        "Heartbeat": {**_ASK_LEADER, "public": True},
        "ReportNodeStatus": _ASK_LEADER,
    },
    "nodepool.MasterNodeService": {
        "UploadTask": _UPLOAD,
        "PollTaskStatus": _READ,
        "StoreOutput": _READ,
        "StoreResult": _READ,
        "GetTaskResult": {**_RESULT, "token_field": "token"},
        "TaskCompleted": _READ,
        "StoreLogs": _READ,
        "GetTaskLogs": {**_READ, "barrier": True, "token_field": "token"},
        "GetAllTasks": {**_READ, "token_field": "token"},
        "StopTask": {**_WRITE, "token_field": "token"},
        "CancelTask": {**_WRITE, "token_field": "token"},
        "ReturnTaskResult": _READ,
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
        "RegisterUser": {**_WRITE, "public": True},
        "LoginUser": {**_WRITE, "public": True},
        "SubmitTask": _UPLOAD,
        "GetTaskStatus": _READ,
    },
    "hive.HiveService": {
        "GetStatus": {"kind": RouteKind.LOCAL, "public": True},
        "ListNodes": _ASK_LEADER,
        "WhoAmI": _READ,
        "Logout": _WRITE,
        "UploadTaskStream": _UPLOAD,
        "GetTask": _READ,
        "ListTasks": _READ,
        "WatchTask": {**_READ, "barrier": True},
        "DownloadResult": _RESULT,
        "RemoveNode": _OWNER,
        "TransferLeadership": _OWNER,
        "LeaveHive": _OWNER,
        "JoinHive": _OWNER,
        "MakeSnapshot": _OWNER,
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
