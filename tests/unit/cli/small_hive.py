"""A hive as the command line sees it: a real gRPC server on a free port, with users, tasks and CPT in memory.

It keeps the contract that commands rest on: tokens in the metadata, refusals in the documented response with the code in the
trailing metadata, idempotency keys that are remembered, log offsets that are honoured.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import Message

from hivenode.errors import Code, outcome_of
from hivenode.pb import hive_pb2, nodepool_pb2

HIVE_ID = "hive-of-the-test"
LOG = b"".join(b"line %d\n" % number for number in range(100))
NO_MESSAGE = b"\xff\xff\xff"
EXPIRES_MS = 4_102_444_800_000
"""The year 2100: no test runs long enough for this session to end."""


def result_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class SmallHive:
    """State that tests read and set, and the server in front of it."""

    def __init__(self) -> None:
        self.piece_bytes_max = 0
        self.passwords: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.balances: dict[str, int] = {}
        self.replies: dict[str, int] = {}
        self.uploads: dict[str, bytes] = {}
        self.options: dict[str, hive_pb2.TaskOptions] = {}
        self.keys: list[str] = []
        self.offsets: list[int] = []
        self.granted_s = 0.0
        """How long the caller of the last snapshot would wait."""
        self.expires_ms = EXPIRES_MS
        self.result = result_zip({"output/answer.txt": b"42", "log.txt": LOG})
        self.log = LOG
        self.end_state = "COMPLETED"
        # What a node of another kind says of itself, instead of this one.
        self.report: hive_pb2.GetStatusResponse | None = None
        # Failures to show before an answer, by method name: a gRPC status and a code, or None for a break without any.
        self.failures: dict[str, list[tuple[grpc.StatusCode, Code | None]]] = {}
        # The methods that answer what is no message.
        self.nonsense: set[str] = set()
        # After how many bytes of the log the watched stream breaks, once for each number.
        self.breaks_at: list[int] = []
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        self._server.add_generic_rpc_handlers(tuple(self._handlers()))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait(10)

    # --- the services ---

    def get_status(self, _: Message, context: grpc.ServicerContext) -> hive_pb2.GetStatusResponse:
        return self.report or hive_pb2.GetStatusResponse(
            node_id="n" * 40,
            hive_id=HIVE_ID,
            role="auto",
            phase="member",
            version="0.1.0",
            api_address=self.address,
            leader_node_id="n" * 40,
            term=2,
            nodes=1,
            copies=1,
            supply=1_000_000,
            members=[hive_pb2.Member(member_id="m", node_id="n" * 40, voter=True, alive=True)],
            executor="sandbox",
            warnings=["one copy only: start a second machine"],
        )

    def list_nodes(self, _: Message, context: grpc.ServicerContext) -> hive_pb2.ListNodesResponse:
        node = hive_pb2.Node(
            node_id="n" * 40, hostname="evil\x1b[2Jname", alive=True, cpu_cores=2, slots=4, slots_free=3
        )
        return hive_pb2.ListNodesResponse(nodes=[node])

    def make_snapshot(self, _: Message, context: grpc.ServicerContext) -> hive_pb2.MakeSnapshotResponse:
        self.granted_s = context.time_remaining()
        return hive_pb2.MakeSnapshotResponse(path="/data/one.snapshot", index=7, term=2, size_bytes=9, sha256="0f")

    def register(
        self, request: nodepool_pb2.RegisterRequest, context: grpc.ServicerContext
    ) -> nodepool_pb2.RegisterResponse:
        if request.username in self.passwords:
            refuse(context, Code.USER_EXISTS)
            return nodepool_pb2.RegisterResponse(success=False, message=f"{request.username} already exists")
        self.passwords[request.username] = request.password
        self.balances[request.username] = 1000
        return nodepool_pb2.RegisterResponse(success=True)

    def login(self, request: nodepool_pb2.LoginRequest, context: grpc.ServicerContext) -> nodepool_pb2.LoginResponse:
        if self.passwords.get(request.username) != request.password:
            refuse(context, Code.INVALID_PASSWORD)
            return nodepool_pb2.LoginResponse(success=False, message="wrong user name or password")
        token = f"token-{len(self.tokens)}"
        self.tokens[token] = request.username
        return nodepool_pb2.LoginResponse(success=True, token=token)

    def logout(self, _: Message, context: grpc.ServicerContext) -> hive_pb2.LogoutResponse:
        self._user(context)
        self.tokens.clear()
        return hive_pb2.LogoutResponse()

    def who_am_i(self, _: Message, context: grpc.ServicerContext) -> hive_pb2.WhoAmIResponse:
        name = self._user(context)
        return hive_pb2.WhoAmIResponse(
            username=name, user_id="u1", user_role="user", session_expires_ms=self.expires_ms
        )

    def get_balance(self, _: Message, context: grpc.ServicerContext) -> nodepool_pb2.GetBalanceResponse:
        return nodepool_pb2.GetBalanceResponse(success=True, balance=self.balances[self._user(context)])

    def transfer(
        self, request: nodepool_pb2.TransferRequest, context: grpc.ServicerContext
    ) -> nodepool_pb2.TransferResponse:
        name = self._user(context)
        key = metadata_of(context)["hive-idempotency-key"]
        if key not in self.replies:
            if request.amount > self.balances[name]:
                refuse(context, Code.INSUFFICIENT_BALANCE)
                return nodepool_pb2.TransferResponse(success=False, message="not enough CPT")
            self.balances[name] -= request.amount
            self.balances[request.receiver_username] += request.amount
            self.replies[key] = self.balances[name]
        return nodepool_pb2.TransferResponse(success=True, new_balance=self.replies[key])

    def upload(
        self, pieces: Iterator[hive_pb2.UploadTaskPiece], context: grpc.ServicerContext
    ) -> hive_pb2.UploadTaskStreamResponse:
        self._user(context)
        header = next(pieces).header
        task_id = header.task_id or "task-1"
        data = [piece.data for piece in pieces]
        self.piece_bytes_max = max(map(len, data), default=0)
        self.uploads[task_id] = b"".join(data)
        self.options[task_id] = header.options
        self._fail("after UploadTaskStream", context)
        return hive_pb2.UploadTaskStreamResponse(task_id=task_id, cpt_held=5, copies=2)

    def get_task(self, request: hive_pb2.GetTaskRequest, context: grpc.ServicerContext) -> hive_pb2.TaskDetail:
        self._user(context)
        if request.task_id not in self.uploads:
            context.set_trailing_metadata(failure_metadata(Code.TASK_NOT_FOUND))
            context.abort(grpc.StatusCode.NOT_FOUND, f"you have no task {request.task_id}")
        return hive_pb2.TaskDetail(
            task_id=request.task_id,
            state=self.end_state,
            attempt=1,
            node_id="n" * 40,
            submitted_ms=1_000,
            started_ms=2_000,
            ended_ms=3_500,
            exit_code=0 if self.end_state == "COMPLETED" else 3,
            result_bytes=len(self.result),
            cpt_paid=1,
        )

    def list_tasks(self, _: Message, context: grpc.ServicerContext) -> hive_pb2.ListTasksResponse:
        self._user(context)
        tasks = [self.get_task(hive_pb2.GetTaskRequest(task_id=task_id), context) for task_id in self.uploads]
        return hive_pb2.ListTasksResponse(tasks=tasks)

    def watch(self, request: hive_pb2.WatchTaskRequest, context: grpc.ServicerContext) -> Iterator[hive_pb2.TaskUpdate]:
        self._user(context)
        self.offsets.append(request.log_offset)
        offset = request.log_offset
        yield hive_pb2.TaskUpdate(state="RUNNING", attempt=1)
        end = self.breaks_at.pop(0) if self.breaks_at else len(self.log)
        yield hive_pb2.TaskUpdate(state="RUNNING", log=self.log[offset:end], attempt=1)
        if end < len(self.log):
            context.abort(grpc.StatusCode.UNAVAILABLE, "the leader is gone")
        yield hive_pb2.TaskUpdate(state=self.end_state, final=True, attempt=1)

    def get_logs(
        self, request: nodepool_pb2.GetTaskLogsRequest, context: grpc.ServicerContext
    ) -> nodepool_pb2.GetTaskLogsResponse:
        self._user(context)
        return nodepool_pb2.GetTaskLogsResponse(success=True, logs=self.log.decode(errors="replace"))

    def stop_task(
        self, request: nodepool_pb2.StopTaskRequest, context: grpc.ServicerContext
    ) -> nodepool_pb2.StopTaskResponse:
        self._user(context)
        self.end_state = "STOPPED"
        return nodepool_pb2.StopTaskResponse(success=True)

    def download(
        self, request: hive_pb2.DownloadResultRequest, context: grpc.ServicerContext
    ) -> Iterator[hive_pb2.ResultPiece]:
        self._user(context)
        digest = hashlib.sha256(self.result).hexdigest()
        half = len(self.result) // 2
        yield hive_pb2.ResultPiece(size_bytes=len(self.result), sha256=digest, data=self.result[:half])
        self._fail("within DownloadResult", context)
        yield hive_pb2.ResultPiece(data=self.result[half:])

    # --- what they share ---

    def _user(self, context: grpc.ServicerContext) -> str:
        token = metadata_of(context).get("authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            context.set_trailing_metadata(failure_metadata(Code.INVALID_SESSION))
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the session has ended")
        return self.tokens[token]

    def _fail(self, name: str, context: grpc.ServicerContext) -> None:
        if self.failures.get(name):
            status, code = self.failures[name].pop(0)
            if code is not None:
                context.set_trailing_metadata(failure_metadata(code))
            context.abort(status, f"{name} fails as the test wants")

    def _handlers(self) -> Iterator[grpc.GenericRpcHandler]:
        services: dict[str, dict[str, tuple[Callable[..., Any], type[Message]]]] = {
            "hive.HiveService": {
                "GetStatus": (self.get_status, hive_pb2.GetStatusRequest),
                "ListNodes": (self.list_nodes, hive_pb2.ListNodesRequest),
                "MakeSnapshot": (self.make_snapshot, hive_pb2.MakeSnapshotRequest),
                "WhoAmI": (self.who_am_i, hive_pb2.WhoAmIRequest),
                "Logout": (self.logout, hive_pb2.LogoutRequest),
                "UploadTaskStream": (self.upload, hive_pb2.UploadTaskPiece),
                "GetTask": (self.get_task, hive_pb2.GetTaskRequest),
                "ListTasks": (self.list_tasks, hive_pb2.ListTasksRequest),
                "WatchTask": (self.watch, hive_pb2.WatchTaskRequest),
                "DownloadResult": (self.download, hive_pb2.DownloadResultRequest),
            },
            "nodepool.UserService": {
                "Register": (self.register, nodepool_pb2.RegisterRequest),
                "Login": (self.login, nodepool_pb2.LoginRequest),
                "GetBalance": (self.get_balance, nodepool_pb2.GetBalanceRequest),
                "Transfer": (self.transfer, nodepool_pb2.TransferRequest),
            },
            "nodepool.MasterNodeService": {
                "GetTaskLogs": (self.get_logs, nodepool_pb2.GetTaskLogsRequest),
                "StopTask": (self.stop_task, nodepool_pb2.StopTaskRequest),
            },
        }
        for service, methods in services.items():
            handlers = {name: self._handler(name, *method) for name, method in methods.items()}
            yield grpc.method_handlers_generic_handler(service, handlers)

    def _handler(
        self, name: str, function: Callable[..., Any], request: type[Message]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        def serve(message: Any, context: grpc.ServicerContext) -> Any:
            self.keys.append(metadata_of(context).get("hive-idempotency-key", ""))
            self._fail(name, context)
            if name in self.nonsense:
                return iter([NO_MESSAGE]) if kind is grpc.unary_stream_rpc_method_handler else NO_MESSAGE
            answer = function(message, context)
            self._fail(f"done {name}", context)
            return answer

        kinds = {"UploadTaskStream": grpc.stream_unary_rpc_method_handler}
        kinds |= dict.fromkeys(("WatchTask", "DownloadResult"), grpc.unary_stream_rpc_method_handler)
        kind = kinds.get(name, grpc.unary_unary_rpc_method_handler)
        return kind(
            serve,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message if message is NO_MESSAGE else message.SerializeToString(),
        )


def metadata_of(context: grpc.ServicerContext) -> dict[str, str]:
    return {name: str(value) for name, value in context.invocation_metadata()}


def failure_metadata(code: Code) -> tuple[tuple[str, str], ...]:
    return (("hive-error-code", str(int(code))), ("hive-outcome", outcome_of(code).value))


def refuse(context: grpc.ServicerContext, code: Code) -> None:
    """A refusal that the documented response carries, with its code beside it."""
    context.set_trailing_metadata(failure_metadata(code))
