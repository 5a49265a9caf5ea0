"""The documented API at one daemon: what each call says, and how what fails is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hivenode.errors import Code, HiveError, InvariantError
from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.pool.records import SessionRecord, UserRole
from hivenode.runtime.ports import Caller
from hivenode.transport.interceptors.intake import SMALL_BYTES_MAX
from hivenode.transport.metadata import SAID_ONCE
from hivenode.transport.routing import ROUTES, Access, Shape
from tests.integration.transport.client import Client, code_of
from tests.integration.transport.parts import Node, World, stored
from tests.support.requests import breaches, good_request

ANSWER_S = 30.0


async def test_the_documents_example_works_word_by_word(client: Client) -> None:
    answer, trailing = await client.call(
        "Register", nodepool_pb2.RegisterRequest(username="testuser", password="password123")
    )
    assert answer.success
    assert trailing["hive-error-code"] == "0"
    login, _ = await client.call("Login", nodepool_pb2.LoginRequest(username="testuser", password="password123"))
    assert login.success
    assert login.token
    balance, _ = await client.call("GetBalance", nodepool_pb2.GetBalanceRequest(username="testuser", token=login.token))
    assert (balance.success, balance.balance) == (True, 1_000)
    worker = nodepool_pb2.RegisterWorkerNodeRequest(
        node_id="worker-001",
        hostname="192.168.1.100",
        cpu_cores=8,
        memory_gb=16,
        cpu_score=1000,
        gpu_score=2000,
        gpu_memory_gb=8,
        location="Asia/Taipei",
        port=50052,
        gpu_name="RTX 4090",
        trust_level=100,
        last_heartbeat=1640995200.0,
        docker_status="enabled",
    )
    assert (await client.call("RegisterWorkerNode", worker, login.token))[0].success
    health, _ = await client.call("HealthCheck", nodepool_pb2.HealthCheckRequest(node_id="worker-001"))
    assert (health.status, health.healthy, health.timestamp) == ("ALIVE", True, 5)
    upload = nodepool_pb2.UploadTaskRequest(
        task_id="task-001", task_data=b"print('Hello, HiveMind!')", user_id="user123"
    )
    assert (await client.call("UploadTask", upload, login.token))[0].success
    polled, _ = await client.call("PollTaskStatus", nodepool_pb2.PollTaskStatusRequest(task_id="task-001"), login.token)
    assert (polled.success, polled.status, list(polled.output)) == (True, "PENDING", ["one", "two"])
    running, trailing = await client.call(
        "ReportRunningStatus",
        nodepool_pb2.RunningStatusRequest(node_id="worker-001", task_id="task-001", cpu_usage=75, memory_usage=60),
        login.token,
    )
    assert (running.success, running.cpt_reward) == (False, 0)
    assert trailing["hive-error-code"] == "3007"
    assert trailing["hive-outcome"] == "refused"


NEEDS_NO_TOKEN_HERE = (Access.ANYONE, Access.MACHINE, Access.OPERATOR)
"""On loopback, where these tests call from."""


@pytest.mark.parametrize(
    "method", sorted(name for name, route in ROUTES.items() if route.access not in NEEDS_NO_TOKEN_HERE)
)
async def test_every_call_that_needs_a_token_is_unauthenticated_without(client: Client, method: str) -> None:
    route = ROUTES[method]
    call = client.method(method.removeprefix("/"))

    async def nothing() -> AsyncIterator[Any]:
        yield route.request()

    sent = call(nothing() if route.shape is Shape.UPLOAD else route.request(), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (sent.read() if route.shape is Shape.DOWNLOAD else sent)
    assert code_of(caught.value) == (grpc.StatusCode.UNAUTHENTICATED, 1004, "refused")


async def test_a_token_that_does_not_stand_is_unauthenticated(client: Client) -> None:
    error = await client.failing("GetNodeList", nodepool_pb2.GetNodeListRequest(), "no-such-token")
    assert code_of(error) == (grpc.StatusCode.UNAUTHENTICATED, 1004, "refused")


async def test_a_malformed_authorization_is_unauthenticated(client: Client) -> None:
    error = await client.failing("GetNodeList", nodepool_pb2.GetNodeListRequest(), authorization="Basic abc")
    assert code_of(error) == (grpc.StatusCode.UNAUTHENTICATED, 1004, "refused")


async def test_a_second_registration_says_already_exists(client: Client) -> None:
    request = nodepool_pb2.RegisterUserRequest(username="testuser", password="password123")
    first, _ = await client.call("RegisterUser", request)
    assert (first.success, first.user_id) == (True, "id-testuser")
    again, trailing = await client.call("RegisterUser", request)
    assert not again.success
    assert "already exists" in again.message
    assert trailing["hive-error-code"] == "1003"


async def test_a_login_does_not_tell_a_wrong_name_from_a_wrong_password(client: Client) -> None:
    await client.log_in()
    wrong, wrong_trailing = await client.call("Login", nodepool_pb2.LoginRequest(username="testuser", password="x"))
    nobody, nobody_trailing = await client.call("Login", nodepool_pb2.LoginRequest(username="nobody", password="x"))
    assert not wrong.success
    assert wrong == nobody
    assert wrong_trailing == nobody_trailing


async def test_another_users_balance_is_denied_by_the_status(client: Client) -> None:
    token = await client.log_in()
    error = await client.failing("GetBalance", nodepool_pb2.GetBalanceRequest(username="other"), token)
    assert code_of(error) == (grpc.StatusCode.PERMISSION_DENIED, 1005, "refused")


@pytest.mark.parametrize(
    ("failure", "status", "outcome"),
    [
        (Code.NODE_OFFLINE, grpc.StatusCode.UNAVAILABLE, "retry"),
        (Code.OVERLOADED, grpc.StatusCode.RESOURCE_EXHAUSTED, "retry"),
        (Code.RATE_LIMITED, grpc.StatusCode.RESOURCE_EXHAUSTED, "retry"),
    ],
)
async def test_what_may_be_asked_again_is_said_by_the_status(
    client: Client, world: World, failure: Code, status: grpc.StatusCode, outcome: str
) -> None:
    world.failure = HiveError(failure, "later")
    error = await client.failing("Register", nodepool_pb2.RegisterRequest(username="a", password="b"))
    assert code_of(error) == (status, int(failure), outcome)
    assert error.details() == "later"


async def test_an_unexpected_error_tells_an_incident_and_nothing_else(client: Client, world: World) -> None:
    world.failure = RuntimeError("secret detail")
    error = await client.failing("Register", nodepool_pb2.RegisterRequest(username="a", password="b"))
    assert code_of(error) == (grpc.StatusCode.INTERNAL, 9999, "unknown")
    assert "secret" not in (error.details() or "")
    assert "incident" in (error.details() or "")


class _Unreadable(dict[str, SessionRecord]):
    """Sessions that cannot be looked at."""

    def get(self, key: str, default: Any = None) -> Any:
        raise RuntimeError("secret detail")


@pytest.mark.parametrize("method", ["GetBalance", "UploadTask", "UploadTaskStream"])
async def test_nor_does_one_that_comes_before_the_call_is_taken_in(client: Client, world: World, method: str) -> None:
    world.sessions = _Unreadable()
    path = next(name for name in ROUTES if name.endswith("/" + method))
    call: Any = client.channel.stream_unary(path)(metadata=[("authorization", "Bearer token")], timeout=ANSWER_S)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert code_of(caught.value) == (grpc.StatusCode.INTERNAL, 9999, "unknown")
    assert "secret" not in (caught.value.details() or "")
    assert "incident" in (caught.value.details() or "")


async def test_a_broken_invariant_is_told_to_the_daemon(client: Client, world: World, node: Node) -> None:
    world.failure = InvariantError("two leaders")
    await client.failing("Register", nodepool_pb2.RegisterRequest(username="a", password="b"))
    assert [str(error) for error in node.broken] == ["two leaders"]


@pytest.mark.parametrize(
    ("method", "request_message", "named"),
    [
        ("Register", nodepool_pb2.RegisterRequest(username="", password="x"), "username"),
        ("Register", nodepool_pb2.RegisterRequest(username="a", password=""), "password"),
        ("Register", nodepool_pb2.RegisterRequest(username="a", password="x" * 1_025), "password"),
        ("Register", nodepool_pb2.RegisterRequest(username="a", password="x", email="nothing"), "email"),
        ("RegisterWorkerNode", nodepool_pb2.RegisterWorkerNodeRequest(node_id=""), "node_id"),
        ("RegisterWorkerNode", nodepool_pb2.RegisterWorkerNodeRequest(node_id="n", port=70_000), "port"),
        ("RegisterWorkerNode", nodepool_pb2.RegisterWorkerNodeRequest(node_id="n", cpu_cores=-1), "cpu_cores"),
        ("RegisterWorkerNode", nodepool_pb2.RegisterWorkerNodeRequest(node_id="n", location="x" * 300), "location"),
        ("ReportStatus", nodepool_pb2.ReportStatusRequest(node_id="n", status="x" * 65), "status"),
        ("PollTaskStatus", nodepool_pb2.PollTaskStatusRequest(task_id=""), "task_id"),
        ("UploadTask", nodepool_pb2.UploadTaskRequest(task_id="t\0", task_data=b"x"), "task_id"),
        ("UploadTask", nodepool_pb2.UploadTaskRequest(task_id="t", priority="now"), "priority"),
        ("UploadTask", nodepool_pb2.UploadTaskRequest(task_id="t", retries=-1), "retries must be 0 to 15"),
        ("UploadTask", nodepool_pb2.UploadTaskRequest(task_id="t", retries=1_000_000), "retries must be 0 to 15"),
        ("UploadTask", nodepool_pb2.UploadTaskRequest(task_id="t", memory_gb=-1), "memory"),
        ("ReportRunningStatus", nodepool_pb2.RunningStatusRequest(node_id="n", task_id="t", cpu_usage=-1), "cpu_usage"),
    ],
)
async def test_a_field_out_of_bounds_is_named_by_the_status(
    client: Client, method: str, request_message: Any, named: str
) -> None:
    error = await client.failing(method, request_message, await client.log_in())
    assert code_of(error) == (grpc.StatusCode.INVALID_ARGUMENT, 1006, "refused")
    assert named in (error.details() or "")


@pytest.mark.parametrize("method", sorted(ROUTES))
async def test_every_call_refuses_every_field_over_its_bounds(client: Client, world: World, method: str) -> None:
    """But for values of megabytes, which the table's own test has."""
    route = ROUTES[method]
    token = await client.log_in()
    world.roles["testuser"] = UserRole.ADMIN
    world.callers.clear()
    for breach in breaches(route.request.DESCRIPTOR):
        request = breach.request
        if request.ByteSize() > 100_000:
            continue
        if route.token_field == breach.name:
            continue  # A token is judged before all else: what is none ends no session and begins none.
        code = getattr(breach.rule, "code", Code.INVALID_ARGUMENT)
        if code is not Code.INVALID_ARGUMENT:
            answer, trailing = await client.call(method.rpartition("/")[2], request, token)
            assert (answer.success, trailing["hive-error-code"]) == (False, str(int(code)))
            assert breach.name in answer.message
            continue

        async def sent(request: Any = request) -> AsyncIterator[Any]:
            yield request

        call = client.method(method.removeprefix("/"))(
            sent() if route.shape is Shape.UPLOAD else request,
            timeout=10,
            # Those of the machine's owner take no token.
            metadata=() if route.access is Access.OPERATOR else (("authorization", f"Bearer {token}"),),
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (call.read() if route.shape is Shape.DOWNLOAD else call)
        assert code_of(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, 1006, "refused"), str(breach)
        assert breach.name in (caught.value.details() or "")
    assert world.callers == []


async def test_bytes_that_are_no_message_are_an_invalid_argument(client: Client) -> None:
    call = client.channel.unary_unary("/nodepool.UserService/Login")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff\xff\xff", timeout=10)
    assert code_of(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, 1006, "refused")


async def test_a_wrong_amount_is_a_refusal_in_the_response(client: Client) -> None:
    token = await client.log_in()
    request = nodepool_pb2.TransferRequest(token=token, receiver_username="other", amount=0)
    answer, trailing = await client.call("Transfer", request)
    assert not answer.success
    assert trailing["hive-error-code"] == "4002"


async def test_a_transfer_with_the_same_key_is_done_once(client: Client, world: World) -> None:
    token = await client.log_in()
    world.balances["other"] = 0
    request = nodepool_pb2.TransferRequest(token=token, receiver_username="other", amount=10)
    for _ in range(2):
        answer, _ = await client.call("Transfer", request, hive_idempotency_key="one")
        assert answer.new_balance == 990
    assert world.callers[-1].idempotency_key == "one"
    assert world.callers[-1].origin == "ip:127.0.0.1"


async def test_a_write_without_a_key_is_given_one(client: Client, world: World) -> None:
    await client.log_in()
    assert world.callers[0].idempotency_key.startswith("auto:")
    assert world.callers[0].idempotency_key != world.callers[1].idempotency_key


async def test_too_long_an_idempotency_key_is_refused(client: Client) -> None:
    error = await client.failing(
        "Register", nodepool_pb2.RegisterRequest(username="a", password="b"), hive_idempotency_key="x" * 129
    )
    assert code_of(error)[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("key", ["auto:", "auto:0123456789abcdef"])
async def test_a_callers_key_may_not_look_like_one_that_a_peer_made(client: Client, world: World, key: str) -> None:
    request = nodepool_pb2.RegisterRequest(username="a", password="b")
    error = await client.failing("Register", request, hive_idempotency_key=key)
    assert code_of(error) == (grpc.StatusCode.INVALID_ARGUMENT, 1006, "refused")
    assert "auto:" in (error.details() or "")
    assert world.callers == []


async def test_a_stranger_is_not_believed_about_origin_and_hops(client: Client, world: World) -> None:
    await client.call(
        "Register",
        nodepool_pb2.RegisterRequest(username="a", password="b"),
        hive_origin="ip:9.9.9.9",
        hive_hops="7",
    )
    assert world.callers[0].origin == "ip:127.0.0.1"


async def test_a_forged_ticket_is_refused(client: Client) -> None:
    error = await client.failing(
        "Register",
        nodepool_pb2.RegisterRequest(username="a", password="b"),
        hive_peer_ticket="forged",
        hive_id="0123456789abcdef0123456789abcdef",
    )
    assert code_of(error) == (grpc.StatusCode.UNAUTHENTICATED, 2008, "refused")


async def test_the_health_of_an_unknown_node_is_told_in_the_response(client: Client) -> None:
    answer, trailing = await client.call("HealthCheck", nodepool_pb2.HealthCheckRequest(node_id="nobody"))
    assert not answer.healthy
    assert trailing["hive-error-code"] == "2001"


async def test_a_deadline_that_passes_in_a_write_leaves_the_outcome_unknown(client: Client, world: World) -> None:
    world.gate = asyncio.Event()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.method("Register")(nodepool_pb2.RegisterRequest(username="a", password="b"), timeout=0.5)
    assert code_of(caught.value) == (grpc.StatusCode.DEADLINE_EXCEEDED, 2006, "unknown")


@pytest.mark.parametrize(
    ("method", "request_message"),
    [
        ("StoreOutput", nodepool_pb2.StoreOutputRequest(task_id="t")),
        ("StoreResult", nodepool_pb2.StoreResultRequest(task_id="t")),
        ("TaskCompleted", nodepool_pb2.TaskCompletedRequest(task_id="t")),
        ("StoreLogs", nodepool_pb2.StoreLogsRequest(task_id="t")),
        ("ReturnTaskResult", nodepool_pb2.ReturnTaskResultRequest(task_id="t")),
        ("ReportOutput", nodepool_pb2.ReportOutputRequest(task_id="t")),
    ],
)
async def test_who_holds_no_attempt_may_not_report_one(client: Client, method: str, request_message: Any) -> None:
    answer, trailing = await client.call(method, request_message, await client.log_in())
    assert not answer.success
    assert "no attempt" in answer.message
    assert trailing["hive-error-code"] == "3007"


async def test_an_unknown_task_is_a_refusal_where_the_response_can_say_it(client: Client) -> None:
    token = await client.log_in()
    polled, trailing = await client.call("PollTaskStatus", nodepool_pb2.PollTaskStatusRequest(task_id="x"), token)
    assert not polled.success
    assert trailing["hive-error-code"] == "3001"
    error = await client.failing("GetTask", hive_pb2.GetTaskRequest(task_id="x"), token)
    assert code_of(error) == (grpc.StatusCode.NOT_FOUND, 3001, "refused")


async def test_a_task_whose_log_cannot_be_read_still_tells_its_state(client: Client, world: World) -> None:
    token = await client.log_in()
    await client.call("UploadTask", nodepool_pb2.UploadTaskRequest(task_id="t", task_data=b"1"), token)
    world.failure = HiveError(Code.NODE_OFFLINE, "its worker is away")
    polled, _ = await client.call("PollTaskStatus", nodepool_pb2.PollTaskStatusRequest(task_id="t"), token)
    assert (polled.success, polled.status, list(polled.output)) == (True, "PENDING", [])
    assert "its worker is away" in polled.message


@pytest.mark.parametrize("line", [b"\n", b"\xff", b"\xff\n", b"a line\n"], ids=["empty", "none", "no text", "text"])
async def test_a_poll_has_the_end_of_a_long_log_and_fits_any_client(client: Client, world: World, line: bytes) -> None:
    token = await client.log_in()
    await client.call("UploadTask", nodepool_pb2.UploadTaskRequest(task_id="t", task_data=b"1"), token)
    world.log = b"first\n" + line * ((8 << 20) // len(line)) + b"\nlast\n"
    polled, _ = await client.call("PollTaskStatus", nodepool_pb2.PollTaskStatusRequest(task_id="t"), token)
    assert (polled.success, polled.status, polled.output[-1]) == (True, "PENDING", "last")
    assert "first" not in polled.output
    assert "GetTaskLogs" in polled.message
    assert polled.ByteSize() < SMALL_BYTES_MAX


async def test_a_log_that_is_too_large_as_text_is_refused_for_good(client: Client, world: World) -> None:
    token = await client.log_in()
    world.log = b"\xff" * (40 << 20)
    answer, trailing = await client.call("GetTaskLogs", nodepool_pb2.GetTaskLogsRequest(task_id="t"), token)
    assert not answer.success
    assert "WatchTask" in answer.message
    assert (trailing["hive-error-code"], trailing["hive-outcome"]) == ("5002", "refused")


async def test_a_log_is_the_same_text_in_one_piece_and_in_many(client: Client, world: World) -> None:
    token = await client.log_in()
    world.log = "añ€😀\n".encode() * (300 << 10) + b"\xe2\x82"
    answer, _ = await client.call("GetTaskLogs", nodepool_pb2.GetTaskLogsRequest(task_id="t"), token)
    assert answer.logs == world.log.decode("utf-8", "replace")


async def test_the_result_of_a_running_task_is_refused_in_the_response(client: Client) -> None:
    token = await client.log_in()
    answer, trailing = await client.call("GetTaskResult", nodepool_pb2.GetTaskResultRequest(task_id="t", token=token))
    assert not answer.success
    assert trailing["hive-error-code"] == "3005"
    assert trailing["hive-outcome"] == "retry"


async def test_a_result_of_the_greatest_size_fits_one_message(client: Client, world: World, tmp_path: Path) -> None:
    token = await client.log_in()
    world.result = stored(tmp_path / "result", 100 << 20)
    answer, _ = await client.call("GetTaskResult", nodepool_pb2.GetTaskResultRequest(task_id="t", token=token))
    assert len(answer.result_data) == 100 << 20


async def test_too_large_a_result_is_refused_and_streamed_instead(client: Client, world: World, tmp_path: Path) -> None:
    token = await client.log_in()
    world.result = stored(tmp_path / "result", (100 << 20) + 1)
    answer, trailing = await client.call("GetTaskResult", nodepool_pb2.GetTaskResultRequest(task_id="t", token=token))
    assert not answer.success
    assert "DownloadResult" in answer.message
    assert trailing["hive-error-code"] == "5002"
    stream = client.method("DownloadResult")(
        hive_pb2.DownloadResultRequest(task_id="t"), metadata=[("authorization", f"Bearer {token}")], timeout=30
    )
    pieces = [(piece.size_bytes, len(piece.data)) async for piece in stream]
    assert pieces[0][0] == (100 << 20) + 1
    assert sum(size for _, size in pieces) == pieces[0][0]


async def test_a_result_that_is_removed_in_the_moment_when_it_was_found_is_not_found(
    client: Client, world: World, tmp_path: Path
) -> None:
    token = await client.log_in()
    world.result = stored(tmp_path / "result", 10)
    world.result.path.unlink()
    answer, trailing = await client.call("GetTaskResult", nodepool_pb2.GetTaskResultRequest(task_id="t", token=token))
    assert not answer.success
    assert trailing["hive-error-code"] == str(int(Code.BLOB_NOT_FOUND))
    stream = client.method("DownloadResult")(
        hive_pb2.DownloadResultRequest(task_id="t"), metadata=[("authorization", f"Bearer {token}")], timeout=30
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert code_of(caught.value)[1] == Code.BLOB_NOT_FOUND


async def test_an_upload_of_the_greatest_size_is_taken_and_one_byte_more_refused(client: Client) -> None:
    token = await client.log_in()
    data = bytes(100 << 20)
    taken, _ = await client.call("UploadTask", nodepool_pb2.UploadTaskRequest(task_id="t", task_data=data), token)
    assert taken.success
    request = nodepool_pb2.UploadTaskRequest(task_id="t", task_data=data + b"1")
    refused, trailing = await client.call("UploadTask", request, token)
    assert not refused.success
    assert "UploadTaskStream" in refused.message
    assert trailing["hive-error-code"] == "5002"
    over = nodepool_pb2.UploadTaskRequest(task_id="t", task_data=bytes(105 << 20))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call("UploadTask", over, token)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_streamed_upload_arrives_whole(client: Client, world: World) -> None:
    token = await client.log_in()

    async def pieces() -> AsyncIterator[Any]:
        yield hive_pb2.UploadTaskPiece(header=hive_pb2.UploadTaskHeader(task_id="big"))
        for _ in range(5):
            yield hive_pb2.UploadTaskPiece(data=bytes(1 << 20))

    answer = await client.method("UploadTaskStream")(
        pieces(), metadata=[("authorization", f"Bearer {token}")], timeout=10
    )
    assert answer.task_id == "big"
    assert world.tasks["big"].data.size_bytes == 5 << 20


async def test_a_streamed_upload_without_header_is_refused(client: Client) -> None:
    token = await client.log_in()

    async def pieces() -> AsyncIterator[Any]:
        yield hive_pb2.UploadTaskPiece(data=b"1")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.method("UploadTaskStream")(pieces(), metadata=[("authorization", f"Bearer {token}")], timeout=10)
    assert code_of(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, 1006, "refused")


async def test_watching_tells_every_step_and_ends(client: Client, node: Node) -> None:
    token = await client.log_in()
    stream = client.method("WatchTask")(
        hive_pb2.WatchTaskRequest(task_id="t"), metadata=[("authorization", f"Bearer {token}")], timeout=10
    )
    updates = [update async for update in stream]
    assert [(update.state, update.log, update.final) for update in updates] == [
        ("RUNNING", b"one\n", False),
        ("COMPLETED", b"two\n", True),
    ]
    assert node.ports.barriers == 1


@pytest.mark.parametrize("method", ["GetNodeList", "ListNodes", "ReportStatus", "ReportNodeStatus"])
async def test_what_the_leader_alone_knows_is_told_to_no_session_that_ended(
    client: Client, node: Node, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A leader that was stopped, and wakes, does not know yet that another one leads, which ended the session."""
    token = await client.log_in()

    async def passed(_deadline_s: float) -> None:
        await node.ports.logout(token, Caller(origin="", idempotency_key="", deadline_s=1.0))

    monkeypatch.setattr(node.ports, "read_barrier", passed)
    request = next(route.request for name, route in ROUTES.items() if name.endswith(f"/{method}"))
    error = await client.failing(method, good_request(request.DESCRIPTOR), token)
    assert code_of(error) == (grpc.StatusCode.UNAUTHENTICATED, 1004, "refused")


async def test_other_calls_answer(client: Client) -> None:
    token = await client.log_in()
    listed, _ = await client.call("GetNodeList", nodepool_pb2.GetNodeListRequest(), token)
    assert (listed.nodes[0].node_id, listed.nodes[0].last_heartbeat) == ("worker-001", 1.5)
    nodes_listed, _ = await client.call("ListNodes", hive_pb2.ListNodesRequest(), token)
    assert nodes_listed.nodes[0].alive
    who, _ = await client.call("WhoAmI", hive_pb2.WhoAmIRequest(), token)
    assert (who.username, who.user_id, who.user_role) == ("testuser", "id-testuser", "user")
    await client.call("UploadTask", nodepool_pb2.UploadTaskRequest(task_id="t", task_data=b"1"), token)
    tasks, _ = await client.call("GetAllTasks", nodepool_pb2.GetAllTasksRequest(token=token))
    assert [(task.task_id, task.created_at) for task in tasks.tasks] == [("t", 1.0)]
    detail, _ = await client.call("GetTask", hive_pb2.GetTaskRequest(task_id="t"), token)
    assert (detail.state, detail.note, detail.HasField("exit_code")) == ("PENDING", "waits", False)
    assert len((await client.call("ListTasks", hive_pb2.ListTasksRequest(), token))[0].tasks) == 1
    logs, _ = await client.call("GetTaskLogs", nodepool_pb2.GetTaskLogsRequest(task_id="t", token=token))
    assert logs.logs == "one\ntwo\n"
    stop = nodepool_pb2.StopTaskRequest(task_id="t", token=token)
    assert (await client.call("StopTask", stop))[0].success
    assert (await client.call("CancelTask", stop))[0].success
    execution = nodepool_pb2.StopTaskExecutionRequest(task_id="t")
    assert (await client.call("StopTaskExecution", execution, token))[0].success
    execute = nodepool_pb2.ExecuteTaskRequest(task_id="t2", task_data=b"1")
    assert (await client.call("ExecuteTask", execute, token))[0].success
    gone, _ = await client.call("UnregisterNode", nodepool_pb2.UnregisterNodeRequest(node_id="n"), token)
    assert not gone.success
    renewed, _ = await client.call("RefreshToken", nodepool_pb2.RefreshTokenRequest(old_token=token))
    assert renewed.new_token != token
    await client.call("Logout", hive_pb2.LogoutRequest(), renewed.new_token)
    error = await client.failing("WhoAmI", hive_pb2.WhoAmIRequest(), renewed.new_token)
    assert code_of(error)[1] == 1004


async def test_status_health_and_reflection_answer_without_a_token(client: Client) -> None:
    status, _ = await client.call("GetStatus", hive_pb2.GetStatusRequest())
    assert (status.phase, list(status.warnings)) == ("member", ["alone"])
    health = await health_pb2_grpc.HealthStub(client.channel).Check(  # type: ignore[attr-defined]
        health_pb2.HealthCheckRequest(service="nodepool.UserService"), timeout=10
    )
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(client.channel)

    async def ask() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async for answer in stub.ServerReflectionInfo(ask(), timeout=10):
        names = {service.name for service in answer.list_services_response.service}
        assert {"nodepool.UserService", "hive.HiveService", "grpc.health.v1.Health"} <= names


async def test_the_peer_port_serves_the_documented_api_and_the_api_port_no_peers(client: Client, node: Node) -> None:
    remote = Client(node.server.peer_address, node.peer_channel)
    try:
        assert await remote.log_in()
    finally:
        await remote.channel.close()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.channel.unary_unary("/hive.PeerService/Challenge")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("name", sorted(SAID_ONCE))
async def test_what_a_call_may_carry_once_is_refused_when_it_is_there_twice(client: Client, name: str) -> None:
    """Whoever looked at the first would else see another call than whoever looked at the last."""
    token = await client.log_in()
    metadata = [("authorization", f"Bearer {token}")] * (2 if name == "authorization" else 1)
    metadata += [(name, "1")] * (0 if name == "authorization" else 2)
    sent = client.method("GetBalance")(nodepool_pb2.GetBalanceRequest(), metadata=metadata, timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sent
    assert code_of(caught.value)[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert name in (caught.value.details() or "")
