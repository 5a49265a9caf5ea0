"""How fast a hive forms, takes somebody in, and goes on after a death; and what it costs when nothing happens."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import psutil

from tests.bench.etcd import PUT, Etcd, etcd, put_request
from tests.bench.figures import percentile
from tests.bench.load import Caller, next_write_s
from tests.bench.setting import Setting, funded_users, three, transfer_callers, try_once
from tests.e2e.user import USERS, User
from tests.support.daemons import Daemon, Hive, hive, wait_for

FAILOVER_P50_S, FAILOVER_SLOWEST_S = 1.1, 3.0
ETCD_FAILOVERS = 1.0
"""The slowest of a hundred failovers is to be no slower than etcd's."""
AGAIN_S = 1.0
JOINED_S = 5.0
FORMED_S = 6.0
IDLE_MB, IDLE_PERCENT = 150.0, 1.0
IDLE_SECONDS = 10.0
SETTLED_S = 3.0
"""What the start left to do is done by then."""
PLACEMENTS_MAX = 10
"""A worker that came back is heard within the first few."""
WRITERS = 4
WRITE_DEADLINE_S = 15.0
BEFORE_KILL_S = 0.3
"""Writes are under way by then."""
SLEEPER = "print('started', flush=True)\nimport time\ntime.sleep(600)\n"


@dataclass
class _Writer:
    """Writes one after the other through one daemon, and remembers when each began and ended, and how."""

    user: User
    receiver: str
    stop: threading.Event
    written: list[tuple[float, float, str]] = field(default_factory=list)

    def run(self) -> None:
        while not self.stop.is_set():
            begun = time.monotonic()
            outcome = try_once(self.user, self.receiver, WRITE_DEADLINE_S)
            self.written.append((begun, time.monotonic(), outcome))


@dataclass
class _Failover:
    next_write_s: float
    in_flight_s: list[float]
    outcomes: Counter[str]


def failover(setting: Setting) -> None:
    """The leader is killed: when the next write through another succeeds, and how the writes in flight end."""
    trials: list[_Failover] = []
    with three(setting, "failover", "--executor", "none") as made:
        users = funded_users(made.leader(), WRITERS + 2)
        for _ in range(setting.failovers):
            trials.append(_one_failover(made, users))
            made.wait(voters=3)
    next_write = [trial.next_write_s for trial in trials]
    in_flight = [each for trial in trials for each in trial.in_flight_s]
    outcomes = sum((trial.outcomes for trial in trials), Counter[str]())
    what = "leader killed → next write through another"
    setting.report.at_most(what, "s", next_write, FAILOVER_P50_S, _p99(next_write))
    setting.report.slowest("  the slowest of them", "s", next_write, FAILOVER_SLOWEST_S)
    ended = ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items()))
    setting.report.slowest("  writes in flight at that moment end", "s", in_flight, FAILOVER_SLOWEST_S, ended)
    with etcd(setting.place("etcd-failover")) as beside:
        if beside is None:
            return
        etcds = [_one_failover_of_etcd(beside) for _ in range(setting.failovers)]
    setting.report.compare("etcd's leader killed → next put through another", "s", etcds, _p99(etcds))
    setting.report.at_most(
        "failover p99 ÷ etcd's", "ratio", [percentile(next_write, 0.99) / percentile(etcds, 0.99)], ETCD_FAILOVERS
    )


def _p99(values: list[float]) -> str:
    return f"p99 {percentile(values, 0.99):.2f} s"


def _one_failover_of_etcd(beside: Etcd) -> float:
    """As `_one_failover` by the same client, but with nothing else under way, which is in etcd's favour."""
    leader = beside.leader()
    follower = beside.followers()[0]
    caller = Caller(turns=((put_request(b"key", b"x" * 64), ()),))
    taken_s = next_write_s(follower.client, PUT, caller, leader.kill)
    leader.start()
    return taken_s


def _one_failover(made: Hive, users: list[User]) -> _Failover:
    leader = made.leader()
    follower = next(daemon for daemon in made if daemon is not leader)
    stop = threading.Event()
    writers = [
        _Writer(user.at(leader if number % 2 else follower), users[-1].name, stop)
        for number, user in enumerate(users[:WRITERS])
    ]
    threads = [threading.Thread(target=writer.run) for writer in writers]
    for thread in threads:
        thread.start()
    time.sleep(BEFORE_KILL_S)
    killed = time.monotonic()

    def kill() -> None:
        nonlocal killed
        killed = time.monotonic()
        leader.kill()
        stop.set()

    (caller,) = transfer_callers([(users[WRITERS], users[-1])])
    taken_s = next_write_s(follower.api, f"{USERS}Transfer", caller, kill)
    for thread in threads:
        thread.join()
    caught = [end for writer in writers for end in writer.written if end[0] < killed < end[1]]
    leader.start()
    return _Failover(
        next_write_s=taken_s,
        in_flight_s=[ended - killed for _, ended, _ in caught],
        outcomes=Counter(outcome for _, _, outcome in caught),
    )


def worker_loss(setting: Setting) -> None:
    """A worker's daemon is killed: when its task has started again on another."""
    again = []
    with three(setting, "loss", "--executor", "sandbox", workers=3) as made:
        (user,) = funded_users(made.leader(), 1)
        for number in range(setting.trials):
            asked = user.at(made.leader())
            task_id, lost = _task_of_a_follower(made, asked, f"t{number}")
            killed = time.monotonic()
            lost.kill()
            _started_again(asked, task_id)
            again.append(time.monotonic() - killed)
            asked.stop(task_id)
            asked.ended(task_id)
            lost.start()
            made.wait(voters=3, workers=3)
    setting.report.at_most("worker killed → its task runs again elsewhere", "s", again, AGAIN_S)


def _task_of_a_follower(made: Hive, user: User, name: str) -> tuple[str, Daemon]:
    """A running task and its worker, which does not lead: the leader gets one while a worker that came back is not heard."""
    for tried in range(PLACEMENTS_MAX):
        task_id = f"{name}-{tried}"
        user.upload(task_id, SLEEPER)
        worker = made.of(user.said(task_id, "started").node_id)
        if worker is not made.leader():
            return task_id, worker
        user.stop(task_id)
        user.ended(task_id)
    raise RuntimeError(f"the leader got {PLACEMENTS_MAX} tasks in a row although it is the last of equals")


def _started_again(user: User, task_id: str) -> None:
    for update in user.watch(task_id):
        if update.attempt > 1 and b"started" in update.log:
            return
    raise RuntimeError("the watch ended before the task ran again")


def joining(setting: Setting) -> None:
    """A new machine's start until it is a listed member; and three that start at once until they are one hive."""
    runs = [_one_join(setting, number) for number in range(min(setting.trials, 3))]
    formed, joined = [run[0] for run in runs], [run[1] for run in runs]
    setting.report.at_most("start of three machines → one hive, three voters", "s", formed, FORMED_S)
    setting.report.at_most("start of a new machine → joined and listed", "s", joined, JOINED_S)


def _one_join(setting: Setting, number: int) -> tuple[float, float]:
    """Seconds until three were one hive, and until a fourth was in it."""
    begun = time.monotonic()
    with hive(setting.place(f"forming{number}"), 3, "--executor", "none") as made:
        formed_s = time.monotonic() - begun
        leader_id = made[0].status().leader_node_id
        begun = time.monotonic()
        newcomer = made.add("--executor", "none")
        wait_for("joining", lambda: _is_in(made, newcomer, leader_id))
        return formed_s, time.monotonic() - begun


def _is_in(made: Hive, newcomer: Daemon, leader_id: str) -> bool | None:
    """Whether the newcomer knows its hive and leader, and the leader lists it."""
    if not (newcomer.data_dir / "daemon.json").exists():
        return None
    report = newcomer.status()
    if not report.hive_id or not report.leader_node_id:
        return None
    return made.of(leader_id).status().nodes == len(made.daemons) or None


def idle(setting: Setting) -> None:
    """What a daemon of three uses while nothing happens: worker ready, everyone connected."""
    with three(setting, "idle", "--executor", "sandbox", workers=3) as made:
        leader = made.leader()
        time.sleep(SETTLED_S)
        processes = [(daemon, psutil.Process(daemon.process.pid)) for daemon in made if daemon.process is not None]
        before = {process.pid: sum(process.cpu_times()[:4]) for _, process in processes}
        begun = time.monotonic()
        time.sleep(IDLE_SECONDS)
        elapsed = time.monotonic() - begun
        percent = {
            daemon.name: 100 * (sum(process.cpu_times()[:4]) - before[process.pid]) / elapsed
            for daemon, process in processes
        }
        rss = [process.memory_info().rss / 1e6 for _, process in processes]
    note = f"leader {percent[leader.name]:.1f} %"
    setting.report.at_most("idle daemon of three, memory", "MB RSS", rss, IDLE_MB)
    setting.report.at_most("idle daemon of three, over 10 s", "% core", list(percent.values()), IDLE_PERCENT, note)
