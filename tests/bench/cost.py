"""What a transfer costs: CPU, which other work on the machine changes less than it does rates."""

from __future__ import annotations

import psutil

from tests.bench.calls import IN_FLIGHT
from tests.bench.load import run_load
from tests.bench.setting import Setting, three, transfer_callers
from tests.e2e.user import USERS, User


def cost(setting: Setting) -> None:
    """CPU of the leader, and of a follower on average, by the transfers that the leader answered meanwhile."""
    with three(setting, "cost", "--executor", "none") as made:
        leader = made.leader()
        pairs = [(User.new(leader), User.new(leader)) for _ in range(max(IN_FLIGHT))]
        members = [leader, *made.followers()]
        processes = [psutil.Process(member.process.pid) for member in members if member.process is not None]
        for in_flight in IN_FLIGHT:
            callers = transfer_callers(pairs[:in_flight])
            leads, follows = [], []
            for _ in range(setting.runs):
                before = [_cpu_ms(process) for process in processes]
                load = run_load([leader.api], f"{USERS}Transfer", callers, seconds=setting.seconds, warm_s=0)
                spent = [_cpu_ms(process) - earlier for process, earlier in zip(processes, before, strict=True)]
                leads.append(spent[0] / len(load.latencies_s))
                follows.append(sum(spent[1:]) / len(spent[1:]) / len(load.latencies_s))
            setting.report.compare(f"CPU of the leader a transfer, {in_flight} in flight", "ms", leads)
            setting.report.compare(f"CPU of a follower a transfer, {in_flight} in flight", "ms", follows)


def _cpu_ms(process: psutil.Process) -> float:
    times = process.cpu_times()
    return (times.user + times.system) * 1_000
