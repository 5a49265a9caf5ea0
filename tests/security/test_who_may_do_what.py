"""Every call of the API by every kind of caller, at the leader, at a follower and at a worker, against one table.

The calls are taken from the descriptors: one that is not in the table fails. All is about Alice: her account, her tasks, her
machine. `other` is another user, `operator` and `admin` have those roles. Whoever shows no token, or one that does not hold, is
told so by every call that is not for anyone. From the machine itself the calls of its owner are answered without a token; from
the LAN they never are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest

from hivenode.errors import Code
from hivenode.identity import CERTIFICATE_FILE, load_identity
from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.pool.records import SessionId, SessionRecord, UserName
from hivenode.runtime.tokens import TokenSigner
from hivenode.transport.routing import ROUTES, Access, Shape
from tests.e2e.test_command_line import DONE, Person
from tests.e2e.user import HIVE, MASTER, PASSWORD, USERS, User
from tests.support.daemons import CHANNEL_OPTIONS, ROOT, STOP_DEADLINE_S, Daemon, Hive, wait_for
from tests.support.namespaces import Host, Lan, lan

CALL_DEADLINE_S = 30.0
SCRIPT = b"print('Hello, HiveMind!')"
STRANGERS = ("nobody", "malformed", "tampered", "signed by a worker", "logged out")
SESSIONS = ("other", "operator", "admin", "alice")

DONE_CODE = Code.SUCCESS
ENDED = Code.INVALID_SESSION
DENIED = Code.PERMISSION_DENIED
NO_TASK = Code.TASK_NOT_FOUND
NO_NODE = Code.NODE_NOT_FOUND
STALE = Code.STALE_ATTEMPT

OWN = (DONE_CODE,) * 4
"""Everybody does it with what is the caller's own."""
ALICES_TASK = (NO_TASK, NO_TASK, NO_TASK, DONE_CODE)
ALICES_MACHINE = (DENIED, DENIED, DENIED, DONE_CODE)
NO_ATTEMPT = (STALE,) * 4
"""Nobody but a worker, over its own stream, holds an attempt."""
OPERATORS = (DENIED, NO_NODE, NO_NODE, DENIED)
"""The machine that is named does not exist, so who may do it is told that."""
ADMINS = (DENIED, DENIED, DONE_CODE, DENIED)

P, H = "/nodepool.", "/hive.HiveService/"
WHO_MAY: dict[str, tuple[Code, Code, Code, Code]] = {
    P + "UserService/Register": OWN,
    P + "UserService/Login": OWN,
    P + "UserService/GetBalance": (DENIED, DENIED, DONE_CODE, DONE_CODE),
    P + "UserService/Transfer": OWN,
    P + "UserService/RefreshToken": OWN,
    P + "NodeManagerService/RegisterWorkerNode": (*(Code.NODE_EXISTS,) * 3, DONE_CODE),
    P + "NodeManagerService/RegisterNode": (*(Code.NODE_EXISTS,) * 3, DONE_CODE),
    P + "NodeManagerService/HealthCheck": OWN,
    P + "NodeManagerService/Heartbeat": OWN,
    P + "NodeManagerService/ReportStatus": ALICES_MACHINE,
    P + "NodeManagerService/ReportNodeStatus": ALICES_MACHINE,
    P + "NodeManagerService/GetNodeList": OWN,
    P + "MasterNodeService/UploadTask": OWN,
    P + "MasterNodeService/PollTaskStatus": ALICES_TASK,
    P + "MasterNodeService/StoreOutput": NO_ATTEMPT,
    P + "MasterNodeService/StoreResult": NO_ATTEMPT,
    P + "MasterNodeService/GetTaskResult": (NO_TASK, NO_TASK, NO_TASK, Code.TASK_NOT_FINISHED),
    P + "MasterNodeService/TaskCompleted": NO_ATTEMPT,
    P + "MasterNodeService/StoreLogs": NO_ATTEMPT,
    P + "MasterNodeService/GetTaskLogs": ALICES_TASK,
    P + "MasterNodeService/GetAllTasks": OWN,
    P + "MasterNodeService/StopTask": ALICES_TASK,
    P + "MasterNodeService/CancelTask": ALICES_TASK,
    P + "MasterNodeService/ReturnTaskResult": NO_ATTEMPT,
    P + "WorkerNodeService/ExecuteTask": OWN,
    P + "WorkerNodeService/ReportOutput": NO_ATTEMPT,
    P + "WorkerNodeService/ReportRunningStatus": NO_ATTEMPT,
    P + "WorkerNodeService/StopTaskExecution": ALICES_TASK,
    P + "NodePoolService/RegisterNode": (*(Code.NODE_EXISTS,) * 3, DONE_CODE),
    P + "NodePoolService/UnregisterNode": ALICES_MACHINE,
    P + "NodePoolService/RegisterUser": OWN,
    P + "NodePoolService/LoginUser": OWN,
    P + "NodePoolService/SubmitTask": OWN,
    P + "NodePoolService/GetTaskStatus": ALICES_TASK,
    H + "GetStatus": OWN,
    H + "ListNodes": OWN,
    H + "WhoAmI": OWN,
    H + "Logout": OWN,
    H + "ChangePassword": OWN,
    H + "SetUserRole": ADMINS,
    # A claim is the word of a machine, and this is none.
    H + "ClaimAdmin": (DENIED,) * 4,
    H + "ClaimNode": (DENIED,) * 4,
    H + "UploadTaskStream": OWN,
    H + "GetTask": ALICES_TASK,
    H + "ListTasks": OWN,
    H + "WatchTask": ALICES_TASK,
    H + "DownloadResult": (NO_TASK, NO_TASK, NO_TASK, Code.TASK_NOT_FINISHED),
    H + "RemoveNode": OPERATORS,
    H + "TransferLeadership": OPERATORS,
    H + "CreateJoinToken": (DENIED, DONE_CODE, DONE_CODE, DENIED),
    H + "ListPending": (DENIED, DONE_CODE, DONE_CODE, DENIED),
    H + "ApproveNode": OPERATORS,
    H + "DenyNode": OPERATORS,
    H + "RevokeNode": OPERATORS,
    # These from the LAN; on the machine itself what they need is to be there.
    H + "LeaveHive": (DENIED,) * 4,
    H + "JoinHive": (DENIED,) * 4,
    H + "MakeSnapshot": (DENIED,) * 4,
    H + "MakeClaim": (DENIED,) * 4,
}
"""What `SESSIONS` are told."""

ON_THE_MACHINE = {
    H + "JoinHive": Code.NODE_OFFLINE,
    H + "MakeSnapshot": DONE_CODE,
    # The code is wrong.
    H + "MakeClaim": DENIED,
    H + "RemoveNode": NO_NODE,
    H + "TransferLeadership": NO_NODE,
    H + "CreateJoinToken": DONE_CODE,
    H + "ListPending": DONE_CODE,
    H + "ApproveNode": NO_NODE,
    H + "DenyNode": NO_NODE,
    H + "RevokeNode": NO_NODE,
}
"""What a caller without a token is told on loopback; LeaveHive would end the daemon (`tests/e2e/test_cluster.py` has it)."""

ON_A_WORKER = {
    **ON_THE_MACHINE,
    # It holds no state to copy and no secret of the hive, and has no say in who is in the hive.
    H + "MakeSnapshot": Code.NOT_A_MEMBER,
    H + "CreateJoinToken": Code.NOT_A_MEMBER,
    H + "RemoveNode": DENIED,
    H + "TransferLeadership": DENIED,
    H + "ListPending": DENIED,
    H + "ApproveNode": DENIED,
    H + "DenyNode": DENIED,
    H + "RevokeNode": DENIED,
}
"""The same at a machine with worker right."""


def test_every_call_is_in_the_table() -> None:
    assert set(WHO_MAY) == set(ROUTES)
    owners = {method for method, route in ROUTES.items() if route.access in (Access.MACHINE, Access.OPERATOR)}
    assert owners == {*ON_THE_MACHINE, H + "LeaveHive"}


@dataclasses.dataclass
class Setting:
    """A hive of three voters and a worker, people in it, and something of Alice's."""

    hive: Hive
    people: dict[str, User]
    passwords: dict[str, str]
    strangers: dict[str, str]
    reach: Callable[[Daemon], grpc.Channel]
    on_machine: bool

    def places(self) -> dict[str, Daemon]:
        leader = self.hive.leader()
        worker = self.hive.daemons[-1]
        follower = next(daemon for daemon in self.hive if daemon not in (leader, worker))
        return {"leader": leader, "follower": follower, "worker": worker}

    def fresh(self, who: str) -> str:
        """A token of a session of its own, for a call that ends it."""
        user = self.people[who]
        user.insist(
            f"{USERS}Login",
            request := nodepool_pb2.LoginRequest(username=user.name, password=self.passwords[who]),
            nodepool_pb2.LoginResponse,
        )
        return str(user.insist(f"{USERS}Login", request, nodepool_pb2.LoginResponse).token)

    def request(self, method: str, who: str) -> Any:
        """The call about Alice that somebody makes."""
        kind = ROUTES[method].request
        fields = {field.name for field in kind.DESCRIPTOR.fields}
        name = method.rpartition("/")[2]
        wanted: dict[str, Any] = {
            "username": "alice",
            "password": PASSWORD,
            "receiver_username": "carol",
            "amount": 1,
            "node_id": "machine-of-alice",
            "task_id": "task-of-alice",
            "task_data": SCRIPT,
            "user_id": "alice",
            "status": "idle",
            "result_zip": SCRIPT,
            "output": "forged",
            "logs": "forged",
            "claim": b"no claim",
            "code": "0" * 32,
            "purpose": "admin",
            "address": "127.0.0.1:1",
            "old_password": self.passwords.get(who, PASSWORD),
            "new_password": self.passwords.get(who, PASSWORD),
            "user_role": "user",
            "rights": "worker",
            "lifetime_s": 3_600,
        }
        if name in ("Register", "RegisterUser"):
            wanted["username"] = f"new-{secrets.token_hex(6)}"
        if name == "SetUserRole":
            wanted["username"] = "carol"
        if name in ("StopTask", "CancelTask", "StopTaskExecution"):
            wanted["task_id"] = "stopped-task-of-alice"
        if ROUTES[method].access is Access.OPERATOR:
            wanted["node_id"] = "no-such-machine"
        if name in ("UploadTask", "SubmitTask", "ExecuteTask", "UploadTaskStream"):
            wanted["task_id"] = f"mine-{secrets.token_hex(6)}"
        if name == "UploadTaskStream":
            return [
                kind(header=hive_pb2.UploadTaskHeader(task_id=wanted["task_id"])),
                kind(data=SCRIPT),
            ]
        return kind(**{field: value for field, value in wanted.items() if field in fields})

    def told(self, daemon: Daemon, method: str, who: str, token: str) -> Code:
        """The code that a caller with this token is answered with."""
        route = ROUTES[method]
        channel = self.reach(daemon)
        serialize, parse = route.request.SerializeToString, route.response.FromString
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        request = self.request(method, who)
        try:
            match route.shape:
                case Shape.UNARY:
                    answer, call = channel.unary_unary(method, serialize, parse).with_call(
                        request, timeout=CALL_DEADLINE_S, metadata=metadata
                    )
                    self.look_at(method, who, answer)
                    trailing = call.trailing_metadata()
                case Shape.UPLOAD:
                    _, call = channel.stream_unary(method, serialize, parse).with_call(
                        iter(request), timeout=CALL_DEADLINE_S, metadata=metadata
                    )
                    trailing = call.trailing_metadata()
                case Shape.DOWNLOAD:
                    stream = channel.unary_stream(method, serialize, parse)(
                        request, timeout=CALL_DEADLINE_S, metadata=metadata
                    )
                    # Watching goes on until the task ends: one message shows that it was let in.
                    next(stream)
                    stream.cancel()
                    return Code.SUCCESS
        except grpc.RpcError as error:
            call_error: Any = error
            trailing = call_error.trailing_metadata()
            assert trailing is not None, error
        codes = [value for key, value in trailing if key == "hive-error-code"]
        assert codes, f"{method} gave no code: {trailing}"
        return Code(int(codes[0]))

    def look_at(self, method: str, who: str, answer: Any) -> None:
        """What is told to others has nothing of Alice's in it."""
        name = method.rpartition("/")[2]
        if who == "alice":
            return
        if name in ("GetAllTasks", "ListTasks"):
            assert not [task for task in answer.tasks if task.task_id.endswith("of-alice")]
        if name == "WhoAmI":
            assert answer.username == self.people[who].name
        if name == "ReportRunningStatus":
            assert answer.cpt_reward == 0


@contextlib.contextmanager
def setting(
    hive: Hive, reach: Callable[[Daemon], grpc.Channel], folder: Path, *, on_machine: bool
) -> Iterator[Setting]:
    leader = hive.wait(nodes=4, voters=3)
    people: dict[str, User] = {}
    for name in (*SESSIONS, "carol"):
        people[name] = User.new(leader, name)
    alice = people["alice"]
    person = Person(folder, leader)
    assert person.says("user", "login", "admin", stdin=f"{PASSWORD}\n").code == DONE
    assert person.says("user", "claim-admin").code == DONE
    assert person.says("user", "role", "operator", "operator").code == DONE
    for task_id in ("task-of-alice", "stopped-task-of-alice"):
        upload = nodepool_pb2.UploadTaskRequest(task_id=task_id, task_data=SCRIPT)
        alice.insist(f"{MASTER}UploadTask", upload, nodepool_pb2.UploadTaskResponse)
    gone = User("other", leader)
    gone.log_in()
    gone.call(f"{HIVE}Logout", hive_pb2.LogoutRequest(), hive_pb2.LogoutResponse)
    made = Setting(
        hive=hive,
        people=people,
        passwords=dict.fromkeys(people, PASSWORD),
        strangers={
            "nobody": "",
            "malformed": "no.such.token",
            "tampered": tampered(alice.token),
            "signed by a worker": signed_by(hive.daemons[-1], alice.token),
            "logged out": gone.token,
        },
        reach=reach,
        on_machine=on_machine,
    )
    yield made


def tampered(token: str) -> str:
    """Alice's token with another letter in its signature."""
    head, _, signature = token.rpartition(".")
    return f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def signed_by(worker: Daemon, token: str) -> str:
    """A token for Alice's standing session by the key of a machine with worker right."""
    said = jwt.decode(token, options={"verify_signature": False})
    session = SessionRecord(
        session_id=SessionId(said["sid"]),
        username=UserName(said["sub"]),
        created_ms=said["iat"] * 1_000,
        expires_ms=said["exp"] * 1_000,
    )
    return TokenSigner(load_identity(worker.data_dir)).sign(session, said["aud"])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """All daemons and callers on one machine."""
    folder = tmp_path_factory.mktemp("matrix")
    hive = Hive(folder=folder)
    try:
        for role in ("auto", "auto", "auto", "worker"):
            hive.add("--executor", "none", "--role", role)
        with setting(hive, lambda daemon: daemon.channel, folder, on_machine=True) as made:
            yield made
    finally:
        hive.close()


@pytest.fixture(scope="module")
def network() -> Iterator[Lan]:
    with lan(5) as made:
        yield made


@pytest.fixture(scope="module")
def across(network: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """Each daemon on a machine of its own, the callers on another one that runs none."""
    folder = tmp_path_factory.mktemp("lan-matrix")
    hive = Hive(folder=folder)
    with contextlib.ExitStack() as stack:
        stack.callback(hive.close)
        channels: dict[str, grpc.Channel] = {}

        def reach(daemon: Daemon) -> grpc.Channel:
            if daemon.name not in channels:
                channels[daemon.name] = stack.enter_context(from_afar(network[4], daemon))
            return channels[daemon.name]

        for index, role in enumerate(("auto", "auto", "auto", "worker")):
            hive.add("--executor", "none", "--role", role, host=network[index])
        with setting(hive, reach, folder, on_machine=False) as made:
            yield made


@contextlib.contextmanager
def from_afar(host: Host, daemon: Daemon) -> Iterator[grpc.Channel]:
    """A channel from another machine to a daemon's peer port, with the daemon's certificate as its owner would export it."""
    address = daemon.status().peer_addresses[0]
    folder = Path(tempfile.mkdtemp(prefix="hn-door-"))
    argv = [sys.executable, "-m", "tests.support.programs.door", str(folder / "s"), address]
    door = subprocess.Popen(host.argv(argv), stdin=subprocess.DEVNULL, cwd=ROOT)
    try:
        wait_for("the door", lambda: (folder / "s").exists() or None)
        with grpc.secure_channel(
            f"unix:{folder}/s",
            grpc.ssl_channel_credentials(certificate_of(daemon)),
            options=(*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", "hivenode")),
        ) as channel:
            yield channel
    finally:
        door.kill()
        door.wait(STOP_DEADLINE_S)
        shutil.rmtree(folder, ignore_errors=True)


def certificate_of(daemon: Daemon) -> bytes:
    """The certificate without the key that lies in the same file."""
    text = (daemon.data_dir / CERTIFICATE_FILE).read_text()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    pem = begin + text.partition(begin)[2].partition(end)[0] + end + "\n"
    assert ssl.PEM_cert_to_DER_cert(pem)
    return pem.encode()


METHODS = sorted(ROUTES)
PLACES = ("leader", "follower", "worker")
ENDS_THE_DAEMON = H + "LeaveHive"
"""Allowed on the machine itself, where `tests/e2e/test_cluster.py` has it."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", [method for method in METHODS if method != ENDS_THE_DAEMON])
def test_who_may_do_what_on_the_machine(here: Setting, method: str, place: str) -> None:
    go_through(here, method, place)


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", METHODS)
def test_who_may_do_what_from_the_lan(across: Setting, method: str, place: str) -> None:
    go_through(across, method, place)


def go_through(made: Setting, method: str, place: str) -> None:
    daemon = made.places()[place]
    access = ROUTES[method].access
    machine = made.people["alice"]
    machine.insist(
        f"{P}NodeManagerService/RegisterWorkerNode",
        nodepool_pb2.RegisterWorkerNodeRequest(node_id="machine-of-alice", port=1),
        nodepool_pb2.StatusResponse,
    )
    owners = ON_A_WORKER if place == "worker" else ON_THE_MACHINE
    for who, token in made.strangers.items():
        code = for_a_stranger(method, who, owners if made.on_machine else {})
        assert made.told(daemon, method, who, token) is code, who
    for who, code in zip(SESSIONS, WHO_MAY[method], strict=True):
        if made.on_machine and access is Access.MACHINE:
            code = owners[method]
        ends = access is Access.TOKEN
        token = made.fresh(who) if ends else made.people[who].token
        assert made.told(daemon, method, who, token) is code, who
        if method == H + "ChangePassword":
            made.people[who].log_in()


def for_a_stranger(method: str, who: str, owners: dict[str, Code]) -> Code:
    """What a caller is told whose token does not hold, or who shows none; `owners` is empty from the LAN."""
    access = ROUTES[method].access
    if access is Access.ANYONE:
        return WHO_MAY[method][0]
    if access is Access.MACHINE:
        return owners.get(method, DENIED)
    if access is Access.OPERATOR and who == "nobody":
        return owners.get(method, ENDED)
    if method == H + "Logout" and who == "logged out":
        return Code.SUCCESS
    return ENDED
