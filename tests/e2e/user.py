"""A person's program: the documented API through generated stubs, with refusals as one kind of error."""

from __future__ import annotations

import io
import secrets
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol, TypeVar

import grpc
import pytest
from google.protobuf.message import Message

from hivenode.errors import Code, Outcome
from hivenode.pb import hive_pb2, nodepool_pb2

USERS: Final = "/nodepool.UserService/"
NODES: Final = "/nodepool.NodeManagerService/"
MASTER: Final = "/nodepool.MasterNodeService/"
WORKER: Final = "/nodepool.WorkerNodeService/"
HIVE: Final = "/hive.HiveService/"
PASSWORD: Final = "password123"
CALL_DEADLINE_S = 20.0
TASK_DEADLINE_S = 60.0
WRITE_DEADLINE_S = 30.0
PAUSE_S = 0.02
"""Between repetitions of a call that said *not done, ask again*."""

Value = TypeVar("Value")


class CallError(Exception):
    """A call that was not done, or of which nobody knows."""

    def __init__(self, status: grpc.StatusCode, code: int | None, outcome: Outcome, message: str) -> None:
        super().__init__(f"{status.name} {code} {outcome.value}: {message}")
        self.status = status
        self.code = code
        self.outcome = outcome
        self.message = message


def _error(call: Any, message: str) -> CallError:
    carried = {str(key): str(value) for key, value in call.trailing_metadata() or ()}
    code = int(carried["hive-error-code"]) if "hive-error-code" in carried else None
    if "hive-outcome" in carried:
        outcome = Outcome(carried["hive-outcome"])
    elif code is not None:
        outcome = Outcome.REFUSED
    else:
        # gRPC's own word: whether the call reached its end is known by nobody.
        outcome = Outcome.UNKNOWN
    return CallError(call.code(), code, outcome, message)


def zip_of(files: Mapping[str, str | bytes]) -> bytes:
    """A ZIP with these members."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


class Reachable(Protocol):
    """Something that calls can be made through, as a daemon."""

    @property
    def channel(self) -> grpc.Channel: ...


class User:
    """One account, at whichever daemon it is sent to."""

    def __init__(self, name: str, daemon: Reachable, token: str = "", *, timeout_s: float = CALL_DEADLINE_S) -> None:
        self.name = name
        self.daemon = daemon
        self.token = token
        self.timeout_s = timeout_s

    @classmethod
    def new(cls, daemon: Reachable, name: str = "") -> User:
        """Registers and logs in."""
        user = cls(name or f"u{secrets.token_hex(4)}", daemon)
        user.insist(f"{USERS}Register", user.registration(), nodepool_pb2.RegisterResponse)
        user.log_in()
        return user

    def registration(self) -> nodepool_pb2.RegisterRequest:
        return nodepool_pb2.RegisterRequest(username=self.name, password=PASSWORD)

    def log_in(self) -> None:
        request = nodepool_pb2.LoginRequest(username=self.name, password=PASSWORD)
        self.token = self.insist(f"{USERS}Login", request, nodepool_pb2.LoginResponse).token

    def at(self, daemon: Reachable, *, timeout_s: float = CALL_DEADLINE_S) -> User:
        """The same account through another daemon."""
        return User(self.name, daemon, self.token, timeout_s=timeout_s)

    def _metadata(self, key: str) -> tuple[tuple[str, str | bytes], ...]:
        token = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        return (*token, ("hive-idempotency-key", key)) if key else token

    def call(self, method: str, request: Message, answer: Any, *, key: str = "", timeout_s: float = 0.0) -> Any:
        """One unary call. Raises CallError for refusals of either form."""
        return self.call_told(method, request, answer, key=key, timeout_s=timeout_s)[0]

    def call_told(
        self, method: str, request: Message, answer: Any, *, key: str = "", timeout_s: float = 0.0
    ) -> tuple[Any, dict[str, str]]:
        """One unary call, and what trails its answer. Raises CallError for refusals of either form."""
        handle = self.daemon.channel.unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        try:
            response, call = handle.with_call(
                request, timeout=timeout_s or self.timeout_s, metadata=self._metadata(key)
            )
        except grpc.RpcError as error:
            raise _error(error, error.details() or "") from None
        if "success" in response.DESCRIPTOR.fields_by_name and not response.success:
            raise _error(call, response.message)
        return response, {str(name): str(value) for name, value in call.trailing_metadata() or ()}

    def insist(
        self, method: str, request: Message, answer: Any, *, key: str = "", deadline_s: float = WRITE_DEADLINE_S
    ) -> Any:
        """A call that is repeated under one key until it is done or refused."""
        key = key or secrets.token_hex(8)
        deadline = time.monotonic() + deadline_s
        while True:
            try:
                return self.call(method, request, answer, key=key, timeout_s=max(0.1, deadline - time.monotonic()))
            except CallError as error:
                if error.outcome is Outcome.REFUSED or time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE_S)

    # --- money -----------------------------------------------------------------------------------------------------

    def balance(self) -> int:
        request = nodepool_pb2.GetBalanceRequest(username=self.name, token=self.token)
        return int(self.call(f"{USERS}GetBalance", request, nodepool_pb2.GetBalanceResponse).balance)

    def transfer(self, receiver: str, amount: int, *, key: str = "") -> int:
        request = nodepool_pb2.TransferRequest(token=self.token, receiver_username=receiver, amount=amount)
        return int(self.call(f"{USERS}Transfer", request, nodepool_pb2.TransferResponse, key=key).new_balance)

    # --- tasks -----------------------------------------------------------------------------------------------------

    def upload(self, task_id: str, data: bytes | str, **options: Any) -> nodepool_pb2.UploadTaskResponse:
        content = data.encode() if isinstance(data, str) else data
        request = nodepool_pb2.UploadTaskRequest(task_id=task_id, task_data=content, **options)
        answer: nodepool_pb2.UploadTaskResponse = self.call(
            f"{MASTER}UploadTask", request, nodepool_pb2.UploadTaskResponse
        )
        return answer

    def poll(self, task_id: str) -> nodepool_pb2.PollTaskStatusResponse:
        request = nodepool_pb2.PollTaskStatusRequest(task_id=task_id)
        answer: nodepool_pb2.PollTaskStatusResponse = self.call(
            f"{MASTER}PollTaskStatus", request, nodepool_pb2.PollTaskStatusResponse
        )
        return answer

    def detail(self, task_id: str) -> hive_pb2.TaskDetail:
        answer: hive_pb2.TaskDetail = self.call(
            f"{HIVE}GetTask", hive_pb2.GetTaskRequest(task_id=task_id), hive_pb2.TaskDetail
        )
        return answer

    def logs(self, task_id: str) -> str:
        request = nodepool_pb2.GetTaskLogsRequest(task_id=task_id, token=self.token)
        return str(self.call(f"{MASTER}GetTaskLogs", request, nodepool_pb2.GetTaskLogsResponse).logs)

    def stop(self, task_id: str) -> str:
        request = nodepool_pb2.StopTaskRequest(task_id=task_id, token=self.token)
        return str(self.call(f"{MASTER}StopTask", request, nodepool_pb2.StopTaskResponse).message)

    def result(self, task_id: str) -> dict[str, bytes]:
        """The result ZIP's members."""
        request = nodepool_pb2.GetTaskResultRequest(task_id=task_id, token=self.token)
        data = self.call(f"{MASTER}GetTaskResult", request, nodepool_pb2.GetTaskResultResponse).result_data
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}

    def watch(self, task_id: str, *, timeout_s: float = TASK_DEADLINE_S) -> Iterator[hive_pb2.TaskUpdate]:
        handle = self.daemon.channel.unary_stream(
            f"{HIVE}WatchTask",
            request_serializer=hive_pb2.WatchTaskRequest.SerializeToString,
            response_deserializer=hive_pb2.TaskUpdate.FromString,
        )
        call = handle(hive_pb2.WatchTaskRequest(task_id=task_id), timeout=timeout_s, metadata=self._metadata(""))
        try:
            yield from call
        except grpc.RpcError as error:
            raise _error(error, error.details() or "") from None
        finally:
            call.cancel()

    def until(
        self, task_id: str, done: Callable[[str, bytes], bool], *, timeout_s: float = TASK_DEADLINE_S
    ) -> hive_pb2.TaskDetail:
        """Follows the task until `done(state, log so far)`; the task then. Breaks of the stream are mended."""
        deadline = time.monotonic() + timeout_s
        state, log = "", b""
        while (left_s := deadline - time.monotonic()) > 0:
            log = b""
            try:
                for update in self.watch(task_id, timeout_s=left_s):
                    state, log = update.state or state, log + update.log
                    if done(state, log):
                        return self.detail(task_id)
                    if update.final:
                        break
            except CallError as error:
                if error.outcome is Outcome.REFUSED:
                    raise
            time.sleep(PAUSE_S)
        raise AssertionError(f"{task_id} is {state} after {timeout_s:g} s; its log ends {log[-500:]!r}")

    def ended(self, task_id: str, *, timeout_s: float = TASK_DEADLINE_S) -> hive_pb2.TaskDetail:
        """Follows the task to its end."""
        return self.until(task_id, lambda state, _: state in ("COMPLETED", "FAILED", "STOPPED"), timeout_s=timeout_s)

    def said(self, task_id: str, words: str) -> hive_pb2.TaskDetail:
        """Waits until the running task has printed this."""
        return self.until(task_id, lambda state, log: words.encode() in log)


def refusal(user: User, act: Callable[[User], object]) -> CallError:
    """The refusal that an act must meet: final, with a code and a sentence."""
    with pytest.raises(CallError) as caught:
        act(user)
    error = caught.value
    assert error.outcome is Outcome.REFUSED, error
    assert error.code not in (None, Code.SUCCESS, Code.INTERNAL_ERROR), error
    assert error.message, error
    return error


def if_done(act: Callable[[], Value]) -> Value | None:
    """What an act gives; None when it may be asked again. A refusal is raised."""
    try:
        return act()
    except CallError as error:
        if error.outcome is Outcome.REFUSED:
            raise
        return None
