"""A stranger's program: the documented API's own examples, with stubs made from `documented.proto` and nothing of this project.

Run as `documented_client.py ADDRESS SUFFIX [CERTIFICATE]` with the stubs' folder as PYTHONPATH; prints one JSON document of what
it saw.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import documented_pb2 as pb  # type: ignore[import-not-found]
import documented_pb2_grpc as rpc  # type: ignore[import-not-found]
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

DEADLINE_S = 60.0
Token = tuple[tuple[str, str], ...]


def refused(call: Any, request: Any) -> dict[str, str | None]:
    """What a call without a token is told: status, trailing metadata."""
    try:
        call(request, timeout=DEADLINE_S)
    except grpc.RpcError as raised:
        error: Any = raised
        trailing = dict(error.trailing_metadata())
        return {"status": error.code().name, "code": trailing.get("hive-error-code"), "message": error.details()}
    return {"status": "OK"}


def worker_node(worker_id: str) -> Any:
    return pb.RegisterWorkerNodeRequest(
        node_id=worker_id,
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


def upload_of(task_id: str) -> Any:
    return pb.UploadTaskRequest(task_id=task_id, task_data=b"print('Hello, HiveMind!')", user_id="user123")


def usage_of(worker_id: str, task_id: str) -> Any:
    return pb.RunningStatusRequest(
        node_id=worker_id, task_id=task_id, cpu_usage=75, memory_usage=60, gpu_usage=85, gpu_memory_usage=70
    )


def use_accounts(channel: Any, seen: dict[str, Any], name: str) -> Token:
    """The user service's examples; the metadata that carries the token."""
    users = rpc.UserServiceStub(channel)
    pool = rpc.NodePoolServiceStub(channel)
    answer = users.Register(pb.RegisterRequest(username=name, password="password123"), timeout=DEADLINE_S)
    seen["registered"] = answer.success
    again, call = users.Register.with_call(
        pb.RegisterRequest(username=name, password="password123"), timeout=DEADLINE_S
    )
    seen["registered_again"] = [again.success, again.message, dict(call.trailing_metadata()).get("hive-error-code")]
    guide = pool.RegisterUser(pb.RegisterUserRequest(username=name, password="password123"), timeout=DEADLINE_S)
    seen["registered_by_guide"] = [guide.success, guide.message]
    wrong, call = users.Login.with_call(pb.LoginRequest(username=name, password="wrong"), timeout=DEADLINE_S)
    seen["wrong_password"] = [wrong.success, wrong.token, dict(call.trailing_metadata()).get("hive-error-code")]
    login = users.Login(pb.LoginRequest(username=name, password="password123"), timeout=DEADLINE_S)
    seen["logged_in"] = login.success
    token = (("authorization", f"Bearer {login.token}"),)
    # The example carries the token in the message alone.
    balance = users.GetBalance(pb.GetBalanceRequest(username=name, token=login.token), timeout=DEADLINE_S)
    seen["balance"] = [balance.success, balance.balance]
    return token


def use_nodes(channel: Any, seen: dict[str, Any], token: Token, worker_id: str) -> None:
    """The node manager's examples."""
    nodes = rpc.NodeManagerServiceStub(channel)
    registered = nodes.RegisterWorkerNode(worker_node(worker_id), metadata=token, timeout=DEADLINE_S)
    seen["worker_registered"] = [registered.success, registered.message]
    # As documented, a health check needs no token.
    health = nodes.HealthCheck(pb.HealthCheckRequest(node_id=worker_id), timeout=DEADLINE_S)
    seen["health"] = health.status
    reported = nodes.ReportStatus(
        pb.ReportStatusRequest(node_id=worker_id, status="idle"), metadata=token, timeout=DEADLINE_S
    )
    seen["status_reported"] = reported.success
    listed = nodes.GetNodeList(pb.GetNodeListRequest(), metadata=token, timeout=DEADLINE_S)
    seen["nodes"] = {node.node_id: [node.hostname, node.cpu_cores, node.gpu_name] for node in listed.nodes}


def use_tasks(channel: Any, seen: dict[str, Any], token: Token, task_id: str, worker_id: str) -> None:
    """The master's and the worker's examples."""
    master = rpc.MasterNodeServiceStub(channel)
    worker = rpc.WorkerNodeServiceStub(channel)
    uploaded = master.UploadTask(upload_of(task_id), metadata=token, timeout=DEADLINE_S)
    seen["uploaded"] = [uploaded.success, uploaded.message]
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        status = master.PollTaskStatus(pb.PollTaskStatusRequest(task_id=task_id), metadata=token, timeout=DEADLINE_S)
        if status.status not in ("PENDING", "RUNNING"):
            break
        time.sleep(0.05)  # The documented API tells a state only when asked.
    seen["status"] = [status.success, status.status, list(status.output)]
    result = master.GetTaskResult(pb.GetTaskResultRequest(task_id=task_id), metadata=token, timeout=DEADLINE_S)
    seen["result"] = [result.success, result.result_data[:2].decode("latin-1")]
    logs = master.GetTaskLogs(
        pb.GetTaskLogsRequest(task_id=task_id, token=token[0][1].removeprefix("Bearer ")), timeout=DEADLINE_S
    )
    seen["logs"] = logs.logs
    tasks = master.GetAllTasks(pb.GetAllTasksRequest(), metadata=token, timeout=DEADLINE_S).tasks
    seen["tasks"] = [
        [task.task_id, task.status, task.user_id, task.completed_at >= task.started_at > 0] for task in tasks
    ]
    running = worker.ReportRunningStatus(usage_of(worker_id, task_id), metadata=token, timeout=DEADLINE_S)
    seen["running_status"] = [running.success, running.cpt_reward, bool(running.message)]
    forged = master.TaskCompleted(
        pb.TaskCompletedRequest(task_id=task_id, node_id=worker_id, success=True), metadata=token, timeout=DEADLINE_S
    )
    seen["forged_end"] = forged.success


def try_doors(channel: Any, seen: dict[str, Any], name: str, task_id: str, worker_id: str) -> None:
    """Calls without a token, or with a bad one."""
    users = rpc.UserServiceStub(channel)
    nodes = rpc.NodeManagerServiceStub(channel)
    master = rpc.MasterNodeServiceStub(channel)
    worker = rpc.WorkerNodeServiceStub(channel)
    seen["without_token"] = {
        "GetBalance": refused(users.GetBalance, pb.GetBalanceRequest(username=name)),
        "Transfer": refused(users.Transfer, pb.TransferRequest(receiver_username=name, amount=1)),
        "RegisterWorkerNode": refused(nodes.RegisterWorkerNode, worker_node(worker_id)),
        "GetNodeList": refused(nodes.GetNodeList, pb.GetNodeListRequest()),
        "UploadTask": refused(master.UploadTask, upload_of(task_id)),
        "PollTaskStatus": refused(master.PollTaskStatus, pb.PollTaskStatusRequest(task_id=task_id)),
        "GetTaskResult": refused(master.GetTaskResult, pb.GetTaskResultRequest(task_id=task_id)),
        "GetAllTasks": refused(master.GetAllTasks, pb.GetAllTasksRequest()),
        "StopTask": refused(master.StopTask, pb.StopTaskRequest(task_id=task_id)),
        "ReportRunningStatus": refused(worker.ReportRunningStatus, usage_of(worker_id, task_id)),
    }
    bad = users.GetBalance
    seen["bad_token"] = refused(bad, pb.GetBalanceRequest(username=name, token="no.such.token"))


def main(address: str, suffix: str, certificate: str = "") -> None:
    seen: dict[str, Any] = {}
    name, task_id, worker_id = f"testuser{suffix}", f"task-001{suffix}", f"worker-001{suffix}"
    options = [("grpc.enable_http_proxy", 0)]
    if certificate:
        pinned = grpc.ssl_channel_credentials(Path(certificate).read_bytes())
        channel = grpc.secure_channel(address, pinned, [*options, ("grpc.ssl_target_name_override", "hivenode")])
    else:
        channel = grpc.insecure_channel(address, options=options)
    token = use_accounts(channel, seen, name)
    use_nodes(channel, seen, token, worker_id)
    use_tasks(channel, seen, token, task_id, worker_id)
    try_doors(channel, seen, name, task_id, worker_id)
    seen["reflection"] = sorted(ProtoReflectionDescriptorDatabase(channel).get_services())
    check: Any = health_pb2_grpc.HealthStub(channel)
    names = ("", "nodepool.UserService", "nodepool.MasterNodeService")
    serving = [check.Check(health_pb2.HealthCheckRequest(service=each), timeout=DEADLINE_S).status for each in names]
    seen["serving"] = [status == health_pb2.HealthCheckResponse.SERVING for status in serving]
    seen["foreign"] = sorted(module for module in sys.modules if module.split(".")[0] in ("hivenode", "tests"))
    channel.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
