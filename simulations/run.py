"""One run: a phase with faults, then quiet, in which everything must converge and finish within bounded virtual time."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Final, TextIO

from hivenode.errors import InvariantError
from hivenode.pool import queries
from simulations.checkers.history import check_history
from simulations.checkers.linearizable import UndecidedError
from simulations.checkers.violation import Violation, demand
from simulations.engine import HOUR, SECOND
from simulations.faults import Faults
from simulations.workload import Workload
from simulations.world import Settings, World, moody

SETTLE_US: Final = 300 * SECOND
"""In quiet weather a minute would do: an election, the slowest catching up, the longest task and its retries."""
FORM_US: Final = 180 * SECOND
"""Two hives that met too late find each other within a minute, when discovery names everybody again, and one dissolves."""
FORM_LOOK_US: Final = SECOND // 10
LOOK_US: Final = 1 * SECOND
OWNERS_LOOK_US: Final = 60 * SECOND
"""After so long without faults the owners read what their machines' logs ask of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is a function of. `duration_us` is the phase with faults."""

    seed: int
    nodes: int
    duration_us: int
    faults: str

    def command(self) -> str:
        """The command line that does this run again."""
        hours = self.duration_us / HOUR
        return f"python -m simulations replay --nodes {self.nodes} --seed {self.seed} --hours {hours:g} --faults {self.faults}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run went. `failure` is empty when all promises held."""

    plan: Plan
    failure: str
    broke: bool
    """Whether it was no checker and no invariant that failed, but a machine or the simulator."""
    last_lines: tuple[str, ...]
    digest: str
    virtual_us: int
    events: int
    elections: int
    commits: int
    faults: int
    calls: int
    checked: int
    settled_us: int

    @property
    def node_hours(self) -> float:
        return self.plan.nodes * self.virtual_us / HOUR

    def summary(self) -> str:
        """One line for a person."""
        verdict = "ok" if not self.failure else "FAILED"
        return (
            f"seed {self.plan.seed} {verdict}: {self.plan.nodes} nodes, {self.virtual_us / HOUR:.2f} h, "
            f"{self.events} events, {self.faults} faults, {self.elections} elections, {self.commits} commits, "
            f"{self.calls} calls, {self.checked} in histories, settled in {self.settled_us / SECOND:.0f} s, "
            f"trace {self.digest}"
        )


def run(plan: Plan, trace: TextIO | None = None) -> Result:
    """Does one run from its beginning to its end."""
    settings = moody(plan.seed, plan.nodes) if plan.faults != "none" else Settings(nodes=plan.nodes)
    world = World(plan.seed, settings, trace)
    workload = Workload(world)
    faults = Faults(world, plan.faults)
    failure, broke, checked, settled_us = "", False, 0, 0
    try:
        world.start()
        form(world, faults)
        workload.start()
        faults.start()
        world.engine.run_until(world.engine.now_us + plan.duration_us)
        faults.stop()
        workload.stop()
        settled_us = settle(world, workload)
        checked = check_end(world, workload)
    except (Violation, InvariantError, UndecidedError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        failure = f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
    except Exception:
        # Whatever else a machine raises is a fault of it or of the simulator; the run is lost and says where.
        failure, broke = traceback.format_exc(), True
    consensus = world.checks.consensus
    return Result(
        plan=plan,
        failure=failure,
        broke=broke,
        last_lines=tuple(world.engine.recent),
        digest=world.engine.digest(),
        virtual_us=world.engine.now_us,
        events=world.engine.events,
        elections=consensus.elections,
        commits=len(consensus.committed),
        faults=faults.count,
        calls=len(workload.history),
        checked=checked,
        settled_us=settled_us,
    )


def form(world: World, faults: Faults) -> None:
    """Lets the machines find each other and become one hive, at first in bad weather; users come when there is one."""
    faults.disturb_forming()
    began_us = world.engine.now_us
    world.engine.run_until(began_us + world.settings.forming_us)
    faults.calm_forming()
    calm_us = world.engine.now_us
    while not world.is_formed():
        demand(
            world.engine.now_us - calm_us < FORM_US,
            f"no hive of all {FORM_US // SECOND} s after the weather cleared: {world.forming_troubles()}",
        )
        world.engine.run_until(world.engine.now_us + FORM_LOOK_US)
    world.hive_id = world.main_hive()
    world.engine.note(f"formed as {world.hive_id[:8]}")


def settle(world: World, workload: Workload) -> int:
    """Lets the hive come to rest. Returns how long it took; raises `Violation` when it does not in time."""
    began_us = world.engine.now_us
    queue_us = 0
    while True:
        world.engine.run_until(world.engine.now_us + LOOK_US)
        troubles = world.troubles()
        if not troubles and workload.idle:
            return world.engine.now_us - began_us
        waited_us = world.engine.now_us - began_us
        if waited_us >= OWNERS_LOOK_US:
            _heed_logs(world)
        queue_us = max(queue_us, _queue_us(world))
        demand(
            waited_us < SETTLE_US + queue_us,
            f"no rest after {waited_us // SECOND} s without faults: {'; '.join(troubles) or 'a client still waits'}",
        )


def _heed_logs(world: World) -> None:
    """A machine that knows none of those who are in its hive now comes back as a new member, as `runtime.member_search` says."""
    for node in world.present():
        if node.alive and node.life is not None and node.life.has_lost_touch():
            world.engine.note(f"{node.name} knows nobody of its hive any more")
            node.start_afresh()


def _queue_us(world: World) -> int:
    """How long the tasks that wait for a slot may take at most: a hive of one machine has two slots for a crowd's tasks."""
    leader = world.leader()
    if leader is None or leader.replica is None:
        return 0
    slots = sum(node.capabilities.slots for node in world.present())
    return queries.counts(leader.replica.view).tasks_pending * world.settings.run_us[1] // slots


def check_end(world: World, workload: Workload) -> int:
    """What must hold when all is quiet. Returns how many operations were held against an object."""
    world.compare_states()
    leader = world.leader()
    demand(leader is not None and leader.replica is not None, "nobody leads")
    if leader is None or leader.replica is None:
        return 0
    return check_history(workload.history, world.checks.agreed, leader.replica.view)
