"""Rates of calls: balances, lists, durable transfers, and beside them a server that does nothing and etcd."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from hivenode.pb import nodepool_pb2
from tests.bench.etcd import PUT, Etcd, etcd, put_request
from tests.bench.floor import NO_OP, no_op_server
from tests.bench.load import Caller, Load, run_load
from tests.bench.setting import SUCCESS, Setting, balance_callers, bearer, funded_users, three, transfer_callers
from tests.e2e.user import MASTER, NODES, USERS, User
from tests.support.daemons import Daemon

CLIENTS = 8
BALANCE_RATE = 2_000.0
LIST_RATE = 500.0
NODES_LISTED = 201
OTHERS_TASKS = 1_000
TASKS_A_USER = 180
"""A task that waits holds 5 CPT of a new user's 1,000."""
IN_FLIGHT = (1, 8, 64)
ETCD_SHARE = 0.5
"""Unary transfers are to reach half of etcd's puts."""


def _measured(
    setting: Setting, targets: Sequence[str], method: str, callers: Sequence[Caller]
) -> tuple[list[Load], list[float]]:
    loads = [run_load(targets, method, callers, seconds=setting.seconds) for _ in range(setting.runs)]
    return loads, [load.rate for load in loads]


def _note(loads: Sequence[Load]) -> str:
    failures = sum(load.failures for load in loads)
    said = f"; {failures} FAILED: {next(load.failure for load in loads if load.failure)}" if failures else ""
    middle = sorted(loads, key=lambda load: load.rate)[len(loads) // 2]
    return f"p50 {middle.ms(0.5):.1f} ms, p99 {middle.ms(0.99):.1f} ms{said}"


def no_op(setting: Setting) -> None:
    """The floor: the same client at a grpc.aio server that answers at once."""
    with no_op_server() as address:
        for in_flight in IN_FLIGHT:
            loads, rates = _measured(setting, [address], NO_OP, [Caller(turns=((SUCCESS, ()),))] * in_flight)
            setting.report.compare(f"no-op grpc.aio server, {in_flight} clients", "calls/s", rates, _note(loads))


def balance(setting: Setting) -> None:
    """GetBalance, linearizable, at the leader and at a follower."""
    with three(setting, "balance", "--executor", "none") as made:
        leader = made.leader()
        follower = made.followers()[0]
        callers = balance_callers(funded_users(follower, CLIENTS))
        for name, daemon in (("leader", leader), ("follower", follower)):
            loads, rates = _measured(setting, [daemon.api], f"{USERS}GetBalance", callers)
            setting.report.at_least(f"GetBalance at {name}, 8 clients", "calls/s", rates, BALANCE_RATE, _note(loads))


def lists(setting: Setting) -> None:
    """GetNodeList with 201 nodes and GetAllTasks beside 1,000 tasks of others."""
    with three(setting, "lists", "--executor", "none") as made:
        leader, follower = made.leader(), made.followers()[0]
        owner = User.new(leader)
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda number: _register(owner, number), range(NODES_LISTED - 3)))
            others = funded_users(leader, -(-OTHERS_TASKS // TASKS_A_USER))
            work = [(others[number % len(others)], f"t{number}") for number in range(OTHERS_TASKS)]
            list(pool.map(lambda pair: _waiting_task(*pair), work))
        for number in range(3):
            _waiting_task(owner, f"own{number}")
        for name, daemon in (("leader", leader), ("follower", follower)):
            nodes = [Caller(turns=((b"", bearer(owner)),), begins=b"\x0a")] * CLIENTS
            loads, rates = _measured(setting, [daemon.api], f"{NODES}GetNodeList", nodes)
            what = f"GetNodeList of {NODES_LISTED} nodes at {name}, 8 clients"
            setting.report.at_least(what, "calls/s", rates, LIST_RATE, _note(loads))
        for name, daemon in (("leader", leader), ("follower", follower)):
            tasks = [Caller(turns=((b"", bearer(owner)),), begins=b"\x0a")] * CLIENTS
            loads, rates = _measured(setting, [daemon.api], f"{MASTER}GetAllTasks", tasks)
            what = f"GetAllTasks beside 1,000 of others at {name}, 8 clients"
            setting.report.at_least(what, "calls/s", rates, LIST_RATE, _note(loads))


def _register(owner: User, number: int) -> None:
    request = nodepool_pb2.RegisterWorkerNodeRequest(
        node_id=f"foreign-{number}", hostname=f"h{number}", cpu_cores=4, memory_gb=8, port=50053
    )
    owner.call(f"{NODES}RegisterWorkerNode", request, nodepool_pb2.StatusResponse)


def _waiting_task(user: User, task_id: str) -> None:
    """A task that no machine here can take, so that it stays."""
    user.upload(task_id, "print(1)\n", gpu_name="of another world")


def transfers(setting: Setting) -> None:
    """Durable unary transfers through three voters, and in turn with each run etcd's puts through three members."""
    with three(setting, "transfers", "--executor", "none") as made, etcd(setting.place("etcd")) as beside:
        leader = made.leader()
        pairs = [(User.new(leader), User.new(leader)) for _ in range(max(IN_FLIGHT))]
        for in_flight in IN_FLIGHT:
            _transfers_and_puts(setting, leader, pairs[:in_flight], beside)
        for in_flight in IN_FLIGHT:
            callers = transfer_callers(pairs[:in_flight])
            loads, rates = _measured(setting, [daemon.api for daemon in made], f"{USERS}Transfer", callers)
            what = f"transfers, three voters, {in_flight} in flight, at all three"
            setting.report.compare(what, "/s", rates, _note(loads))


def _transfers_and_puts(
    setting: Setting, leader: Daemon, pairs: Sequence[tuple[User, User]], beside: Etcd | None
) -> None:
    """One run of ours and one of etcd's by turns, so that what else the machine does falls on both."""
    in_flight = len(pairs)
    ours, puts = [], []
    for _ in range(setting.runs):
        callers = transfer_callers(pairs)
        ours.append(run_load([leader.api], f"{USERS}Transfer", callers, seconds=setting.seconds))
        if beside is not None:
            callers = [Caller(turns=((put_request(b"key%d" % number, b"x" * 64), ()),)) for number in range(in_flight)]
            puts.append(run_load([beside.leader().client], PUT, callers, seconds=setting.seconds))
    what = f"transfers, three voters, {in_flight} in flight, at the leader"
    setting.report.compare(what, "/s", [load.rate for load in ours], _note(ours))
    if not puts:
        return
    setting.report.compare(
        f"etcd puts, three members, {in_flight} in flight", "/s", [load.rate for load in puts], _note(puts)
    )
    shares = [own.rate / other.rate for own, other in zip(ours, puts, strict=True)]
    setting.report.at_least(f"transfers ÷ etcd puts, {in_flight} in flight", "share", shares, ETCD_SHARE)
