"""Traps around an operator's word: who is revoked, and who is given the right to vote."""

from __future__ import annotations

from hivenode.pool import queries
from hivenode.pool.nodes import is_denied
from hivenode.pool.records import NodeRights
from simulations.checkers.violation import demand
from simulations.engine import SECOND
from simulations.node import Node
from simulations.operator import Operator
from simulations.scenarios.stage import WELL_US, Stage


def revoked_voter_goes_on(seed: int) -> str:
    """A leader is revoked and goes on, with a voter that was away and knows nothing of that: it hears the revoked one, the others
    do not, and the hive goes on without both."""
    stage = Stage(seed, nodes=7)
    operator = Operator(stage.world)
    going, away = stage.leader(), stage.voters()[0]
    stage.cut([away], stage.others(away))
    operator.revoke(going, defiant=True)
    stage.until(lambda: going.revoked, "it is revoked", WELL_US)
    stage.mend()
    stage.cut([going, away], [node for node in stage.world.present() if node is not away])
    stage.run(stage.engine.between(5 * SECOND, 40 * SECOND))
    stage.mend()
    stage.until_commits(5, WELL_US)
    stage.until(lambda: _is_outside(stage, going), "the configuration is without it", WELL_US)
    demand(going.alive, "it did not go on")
    return stage.finish()


def voter_is_revoked_while_another_is_down(seed: int) -> str:
    """Of three voters one is down: another is not heard once it is revoked, so that is refused until the first is back."""
    stage = Stage(seed, nodes=5)
    operator = Operator(stage.world)
    down, going = stage.voters()
    down.crash(power=True)
    # Until the leader takes it for dead, it takes it for one that answers.
    stage.run(10 * SECOND)
    operator.revoke(going, defiant=stage.engine.chance(500))
    stage.run(stage.engine.between(5 * SECOND, 15 * SECOND))
    demand(not going.revoked, "a voter was revoked without which too few answer")
    stage.until_commits(5, WELL_US)
    down.boot()
    stage.until(lambda: going.revoked, "it is revoked", WELL_US)
    stage.until_commits(5, WELL_US)
    stage.until(lambda: _is_outside(stage, going), "the configuration is without it", WELL_US)
    return stage.finish()


def revoked_machine_comes_with_an_empty_disk(seed: int) -> str:
    """What a machine that is kept out has on its disk makes no difference: its key is known."""
    stage = Stage(seed, nodes=4)
    going = stage.voters()[0]
    Operator(stage.world).revoke(going, defiant=True)
    stage.until(lambda: going.revoked, "it is revoked", WELL_US)
    going.wipe()
    going.boot()
    stage.run(stage.engine.between(20 * SECOND, 60 * SECOND))
    demand(going.disk.log.hive_id != stage.world.hive_id, "it was let in")
    return stage.finish()


def revoked_machine_is_let_in_again(seed: int) -> str:
    """A voter is revoked and approved again: one that ended comes back with an empty disk, one that went on with its log."""
    stage = Stage(seed, nodes=5)
    operator = Operator(stage.world)
    for defiant in (False, True):
        _out_and_in(stage, operator, stage.voters()[0], defiant=defiant)
    return stage.finish()


def _out_and_in(stage: Stage, operator: Operator, going: Node, *, defiant: bool) -> None:
    operator.revoke(going, defiant=defiant)
    stage.until(lambda: going.revoked, "it is revoked", WELL_US)
    stage.until(lambda: _is_outside(stage, going), "the configuration is without it", WELL_US)
    stage.run(stage.engine.between(3 * SECOND, 20 * SECOND))
    demand(going.left is not defiant, "a revoked machine ends when it hears so, unless it is defiant")
    operator.let_in_again(going)
    stage.until(lambda: not going.revoked, "it is approved", WELL_US)
    stage.until(stage.only_work_is_left, "it is in again", 2 * WELL_US)


def revoked_machine_leads_when_it_is_in_again(seed: int) -> str:
    """A voter is revoked, let in again, and leads; a member that was away keeps it out by what it knows, and follows it.

    Found by the simulator (nodes 5, seed 383): nobody's word counted against a revocation, however old that was.
    """
    stage = Stage(seed, nodes=4)
    operator = Operator(stage.world)
    going, away = stage.voters()
    operator.revoke(going, defiant=stage.engine.chance(500))
    stage.until(lambda: going.revoked, "it is revoked", WELL_US)
    stage.until(lambda: _is_outside(stage, going), "the configuration is without it", WELL_US)
    stage.until(lambda: is_denied(stage.replica(away).view, going.node_id), "all know that it is kept out", WELL_US)
    away.crash(power=True)
    operator.let_in_again(going)
    stage.until(lambda: going in stage.voters(), "it votes", 4 * WELL_US)
    stage.until(lambda: stage.leads(going), "it leads", WELL_US)
    stage.until_commits(5, WELL_US)
    away.boot()
    stage.until(lambda: stage.replica(away).leader == going.member_id, "the one that was away follows it", WELL_US)
    return stage.finish()


def worker_is_given_voter_right(seed: int) -> str:
    """A machine comes as a worker without a log; it gets the log and a vote when an operator says so."""
    stage = Stage(seed, nodes=2)
    newcomer = stage.world.add_node("m1")
    stage.world.on_trial.add(newcomer.name)
    newcomer.boot()

    def is_worker() -> bool:
        entry = queries.node(stage.replica(stage.leader()).view, newcomer.node_id)
        return entry is not None and entry.rights is NodeRights.WORKER

    stage.until(is_worker, "it is a worker", WELL_US)
    stage.until_commits(5, WELL_US)
    demand(newcomer.replica is None, "a worker holds the log")
    Operator(stage.world).approve(newcomer)
    stage.until(lambda: newcomer in stage.voters(), "it votes", 2 * WELL_US)
    return stage.finish()


def _is_outside(stage: Stage, node: Node) -> bool:
    status = stage.status()
    return node.node_id not in map(stage.world.node_of, status.conf.members()) and not status.conf.is_joint
