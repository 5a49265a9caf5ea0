"""A machine is lost for ever, and the hive goes on without it: by itself, or by the production recovery of a lost quorum."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code
from hivenode.pool.commands import Reply
from hivenode.runtime.recovery import catch_up, plan_recovery, recovery_write, tail_of
from simulations.calls import Failure
from simulations.checkers.violation import demand
from simulations.disk import StateImage, StateView
from simulations.node import Node
from simulations.workload import Workload

READS: Final = ("balance", "taken", "task")


class _StoppedState(StateView):
    """A stopped member's agreed state, on which the rest of its log is tried."""

    def __init__(self, image: StateImage) -> None:
        super().__init__(image)
        self.applied_index, self.conf = image.mark.index, image.mark.conf

    def finish_entry(self, index: int, term: int) -> None:
        super().finish_entry(index, term)
        self.applied_index = index


def lose(node: Node) -> None:
    """The machine burns: nothing of its disk is ever seen again."""
    node.crash(power=True)
    node.left = True
    node.world.engine.note(f"{node.name} is lost for ever")


def recover(survivor: Node, lost: Node, load: Workload) -> int:
    """What `hivenode cluster recover` does on the stopped log of the one that is left. Returns how many entries were lost.

    Raises:
        Violation: the plan is refused, or something is lost that was answered for with two copies.
    """
    world, log = survivor.world, survivor.disk.log
    survivor.crash()
    checks = world.watch(log.hive_id)
    checks.copies.survives(survivor)
    log.resume(survivor.disk.state.conf, survivor.disk.state.applied_index)
    state = _StoppedState(survivor.disk.state.image)
    catch_up(log, state, world.verify)
    tail = tail_of(
        log, hive_id=log.hive_id, node_id=NodeId(survivor.name), incarnation=log.incarnation, conf=state.conf
    )
    plan = plan_recovery(tail, (), dead=frozenset({NodeId(lost.name)}), answering=frozenset())
    # Members of simulated hives are named for a person's eyes; the agreed state has the machines' keys.
    plan = replace(plan, dead=(lost.node_id,))
    tag = f"{world.engine.rng.getrandbits(32):08x}"
    hive_id, write = recovery_write(plan, survivor, tag=tag, wall_ms=survivor.clock.wall_ms())
    gone = _roll_back(survivor, load)
    log.begin_epoch(hive_id, write)
    world.begin_epoch(hive_id)
    world.engine.note(f"{survivor.name} goes on as {hive_id[:8]}, {gone} entries are lost")
    survivor.boot()
    return gone


def _roll_back(survivor: Node, load: Workload) -> int:
    """What only the lost machine had never happened; whoever was told so by one copy was told that it may be."""
    checks = survivor.world.watch(survivor.disk.log.hive_id)
    last = survivor.disk.log.last_index()
    gone = max(0, len(checks.consensus.committed) - last)
    if not gone:
        return 0
    requests = checks.agreed.roll_back(last)
    del checks.consensus.committed[last:]
    for done in load.history:
        index = requests.get((done.owner, done.key))
        if index is None or not isinstance(done.result, Reply):
            continue
        copies = checks.copies.said.get(index, 0)
        demand(copies <= 1, f"{done.kind} {done.owner}/{done.key} was answered for with {copies} copies and is lost")
        done.result = Failure(code=Code.OUTCOME_UNKNOWN, text="the only copy is lost")
    # Who read before the loss may have seen what is lost.
    load.history[:] = [done for done in load.history if done.kind not in READS or not done.returned_us]
    return gone
