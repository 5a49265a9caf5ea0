"""Traps around who belongs to the hive."""

from __future__ import annotations

from hivenode.consensus import ConfChange
from hivenode.encoding.node_record import NodeId
from hivenode.pool import queries
from hivenode.pool.commands import RemoveNode
from hivenode.pool.records import TaskState
from simulations.calls import Write
from simulations.checkers.violation import demand
from simulations.engine import HOUR, MS, SECOND
from simulations.node import Node
from simulations.scenarios.stage import WELL_US, Stage


def change_under_partition(seed: int) -> str:
    """Machines join and voters lose their disks while the leader is cut off in the middle of the change."""
    stage = Stage(seed, nodes=5)
    for number in range(4):
        stage.world.add_node(f"m{number + 1}").boot()
        stage.run(stage.engine.between(300 * MS, 1_500 * MS))
        leader = stage.leader()
        stage.cut([leader], stage.others(leader))
        stage.run(stage.engine.between(1 * SECOND, 6 * SECOND))
        stage.mend()
        stage.until(stage.only_work_is_left, "the joiner is in", WELL_US)
        victim = stage.voters()[0]
        victim.wipe()
        victim.boot()
        stage.run(stage.engine.between(300 * MS, 3 * SECOND))
        leader = stage.leader()
        stage.cut([leader], stage.others(leader), both=False)
        stage.run(stage.engine.between(1 * SECOND, 6 * SECOND))
        stage.mend()
        stage.until(stage.only_work_is_left, "the one without a disk is in again", 2 * WELL_US)
    stage.until(lambda: len(stage.status().conf.voters) == 5, "nine nodes have five voters", 2 * WELL_US)
    return stage.finish()


def join_takes_a_moment(seed: int) -> str:
    """A newcomer has no configuration, and takes the log that founds itself from its first entry on.

    Found by the simulator: a newcomer refused every append and asked for a snapshot, the leader offered that of index 0
    without a configuration, which is not well formed; so no machine ever joined.
    """
    stage = Stage(seed, nodes=1)
    stage.until_commits(20, 120 * SECOND)
    for number in range(4):
        node = stage.world.add_node(f"m{number + 1}")
        node.boot()

        def is_in(node_name: str = node.name) -> bool:
            replica = stage.world.nodes[node_name].replica
            return replica is not None and replica.applied_index >= stage.commits - 5

        stage.until(is_in, f"{node.name} has the log", 5 * SECOND)
        # Half way through its first log it loses power, with entries but perhaps no configuration.
        if number % 2:
            node.crash(power=True)
            node.boot()
            stage.until(is_in, f"{node.name} has the log again", 10 * SECOND)
    return stage.finish()


def clock_set_back_and_disk_lost(seed: int) -> str:
    """A clock that ran an hour ahead is set right, and its machine loses its disk: the hive has a statement of it from then.

    Found by the simulator (seeds 57, 76 and 254 of the sweep): the machine was refused until its clock was there again.
    """
    stage = Stage(seed, nodes=5)
    stage.until_commits(20, 120 * SECOND)
    _set_back(stage, stage.voters()[0], loses_disk=True)
    _set_back(stage, stage.voters()[0], loses_disk=False)
    _set_back(stage, stage.leader(), loses_disk=False)
    return stage.finish()


def _set_back(stage: Stage, node: Node, *, loses_disk: bool) -> None:
    node.clock.jump(HOUR // MS)
    node.move()
    stage.until(lambda: _is_known(stage, node), "the hive has the statement of the clock ahead", WELL_US)
    node.clock.jump(-HOUR // MS)
    if loses_disk:
        node.wipe()
        node.boot()
    else:
        node.move()
    stage.until(lambda: _is_known(stage, node), "the hive has the newest statement", WELL_US)
    stage.until(stage.only_work_is_left, "all are in", WELL_US)


def _is_known(stage: Stage, node: Node) -> bool:
    entry = queries.node(stage.replica(stage.leader()).view, node.node_id)
    return entry is not None and (entry.addresses, entry.incarnation) == ((node.address,), node.disk.log.incarnation)


def joint_change_behind_a_cut(seed: int) -> str:
    """The old voters are cut off in the middle of a change: what only the new half has is not agreed (thesis §4.3)."""
    stage = Stage(seed, nodes=5)
    for _ in range(3):
        stage.until(lambda: len(stage.voters()) == 2, "three vote", 2 * WELL_US)
        _cut_a_joint_change(stage)
        stage.mend()
        stage.run(5 * SECOND)
    return stage.finish()


def _cut_a_joint_change(stage: Stage) -> None:
    leader, old = stage.leader(), stage.voters()
    coming = [node for node in stage.others(leader) if node not in old]
    body = ConfChange(add_voters=tuple(node.member_id for node in coming))
    replica = stage.replica(leader)
    replica.propose(Write(body=body), stage.engine.now_us + SECOND, lambda _result: None)
    stage.until(lambda: replica.status().conf.is_joint, "the configuration is joint", 5 * SECOND, look_us=100)
    # What would leave it is not durable anywhere yet.
    stage.cut(old, [leader, *coming])
    commits = stage.commits
    # Too short for the old voters to elect one of theirs, who may commit what they know.
    stage.run(1 * SECOND)
    demand(stage.commits == commits, "an entry is agreed that the old voters never saw")
    stage.run(4 * SECOND)


def worker_gone_for_good(seed: int) -> str:
    """A machine with running tasks loses power and stays away: within 15 s they run elsewhere, and none is waited for."""
    stage = Stage(seed, nodes=5, clients=12)
    for _ in range(4):
        stage.until(lambda: _busy_worker(stage) != "", "a worker is busy", 120 * SECOND)
        node = stage.world.nodes[_busy_worker(stage)]
        node.crash(power=True)

        def is_rid_of_it(node_id: NodeId = node.node_id) -> bool:
            leader = stage.world.leader()
            view = leader.replica.view if leader is not None and leader.replica is not None else None
            return view is not None and not queries.open_attempts_of(view, node_id)

        stage.until(is_rid_of_it, "the attempts of a dead machine are given up", 15 * SECOND)
        node.boot()
        stage.run(5 * SECOND)
    return stage.finish()


def voter_leaves_while_another_is_down(seed: int) -> str:
    """A voter is taken out while another is down: its vote counts, and is heard, until the configuration is without it.

    Found by a review of the daemon, whose members went by the agreed state alone: the answers of the one that was taken out
    were dropped at once, so that a majority never took its vote away, and the hive stood still for good.
    """
    stage = Stage(seed, nodes=3)
    for _ in range(2):
        down, going = stage.voters()[0], stage.voters()[-1]
        down.crash(power=True)
        stage.run(stage.engine.between(100 * MS, 8 * SECOND))
        stage.take_out(going)
        stage.until_commits(3, WELL_US)
        down.boot()
        stage.world.add_node(f"{going.name}-next").boot()
        stage.until(stage.only_work_is_left, "all are in again", 2 * WELL_US)
        stage.until(lambda: len(stage.voters()) == 2, "three vote", 2 * WELL_US)
    return stage.finish()


def last_voter_forgets_that_the_other_left(seed: int) -> str:
    """Of two voters one is taken out, and the other loses power at the moment at which that daemon ends.

    Found by the simulator (seeds 116 and 124 of the sweep): the daemon of the removed one ended when it had applied the change
    itself. The other did not have it on disk that the change was committed, and waited for that vote for ever.
    """
    stage = Stage(seed, nodes=3)
    leader, (down, going) = stage.leader(), stage.voters()
    down.crash(power=True)
    stage.run(stage.engine.between(4 * SECOND, 8 * SECOND))
    stage.take_out(going)
    leader.crash(power=True)
    leader.boot()
    stage.until_commits(3, WELL_US)
    down.boot()
    return stage.finish()


def removed_voter_comes_to_lead(seed: int) -> str:
    """A voter is taken out, and leads before it is out: it hands over, since no leader takes its own vote away.

    Found by the simulator (seed 27 of the sweep): it led on, off the hive's list, and newcomers did not hear it.
    """
    stage = Stage(seed, nodes=4)
    going = stage.voters()[0]
    going.leaving = True
    stage.until(lambda: stage.leads(going), "it leads", WELL_US)
    stage.command(RemoveNode(node_id=going.node_id, reason="its owner wants it back"))
    stage.world.add_node("m1").boot()
    stage.until(lambda: going.left, "it is out", WELL_US)
    return stage.finish()


def newcomers_lead_whom_a_member_never_met(seed: int) -> str:
    """A member is away while all that it knows but one leave, and others come, vote and lead.

    Found by a review of the daemon: the agreed state of the one that was away had none of the newcomers, so it heard none of
    them, and could neither follow nor vote.
    """
    stage = Stage(seed, nodes=3)
    founder, (away, known) = stage.leader(), stage.voters()
    away.crash(power=True)
    first, second = (stage.world.add_node(f"m{number + 1}") for number in range(2))
    for node in (first, second):
        node.boot()
    stage.until(lambda: {first, second} & {*stage.voters()} != set(), "a newcomer votes", 2 * WELL_US)
    if stage.leader() is known:
        founder, known = known, founder
    stage.take_out(known)
    stage.until(lambda: {first, second} < {*stage.voters(), stage.leader()}, "both vote", 2 * WELL_US)
    stage.until(lambda: stage.leads(first), "a newcomer leads", WELL_US)
    stage.until_commits(10, WELL_US)
    away.boot()
    stage.until(lambda: stage.replica(away).leader == first.member_id, "it follows whom it never met", WELL_US)
    # The one that both sides knew goes as well, and the one that was away votes in its place.
    stage.take_out(founder)
    stage.until(lambda: away in stage.voters(), "it votes again", 2 * WELL_US)
    return stage.finish()


def worker_is_given_voter_right_while_a_member_is_away(seed: int) -> str:
    """A machine that came as a worker votes and leads, which a member that was away knows as a worker.

    Found by a review of the daemon: what the agreed state of the one that was away had of the newcomer counted against it.
    """
    stage = Stage(seed, nodes=3)
    founder, (away, known) = stage.leader(), stage.voters()
    newcomer = stage.world.add_node("m1")
    stage.world.on_trial.add(newcomer.name)
    newcomer.boot()

    def worker_is_known() -> bool:
        replica = away.replica
        return replica is not None and queries.node(replica.view, newcomer.node_id) is not None

    stage.until(worker_is_known, "all know the worker", WELL_US)
    away.crash(power=True)
    stage.command(RemoveNode(node_id=newcomer.node_id, reason="it comes back with voter right"))
    stage.world.on_trial.clear()
    newcomer.wipe()
    newcomer.boot()
    stage.until(lambda: newcomer in stage.voters(), "the newcomer votes", 4 * WELL_US)
    if stage.leader() is known:
        founder, known = known, founder
    stage.until(lambda: stage.leads(newcomer), "the newcomer leads", WELL_US)
    stage.until_commits(10, WELL_US)
    away.boot()
    stage.until(
        lambda: stage.replica(away).leader == newcomer.member_id, "it follows whom it knew as a worker", WELL_US
    )
    return stage.finish()


def join_answers_lost(seed: int) -> str:
    """Joiners are admitted and never hear of it; nobody of them may be made a voter before it has the log.

    Found by the simulator (nodes 5, seed 2, hours 0.1): a member that never acknowledged anything was as little behind as
    the short log was long, so it counted as caught up. The founder made voters of machines without a log, which could
    not join any more, for nobody led.
    """
    stage = Stage(seed, nodes=5, whole=False)
    founder = min(stage.world.present(), key=lambda node: node.node_id)
    joiners = stage.others(founder)
    # At the moment at which the first of them is in the hive's list, and does not know it yet.
    stage.until(lambda: _known_to(founder) > 1, "the founder admits somebody", 30 * SECOND, look_us=100)
    stage.cut([founder], joiners, both=False)
    stage.run(stage.engine.between(1 * SECOND, 6 * SECOND))
    for node in joiners:
        node.crash(power=True)
    stage.run(stage.engine.between(100 * MS, 2 * SECOND))
    stage.mend()
    stage.boot_all()
    stage.until_whole()
    return stage.finish()


def _known_to(node: Node) -> int:
    """How many nodes are in the hive's list as this one has it."""
    return queries.counts(node.replica.view).nodes if node.replica is not None else 0


def worker_reports_late(seed: int) -> str:
    """A worker is cut off until its attempts are lost and run elsewhere, then reports them: evidence, no second result."""
    stage = Stage(seed, nodes=5, clients=12)
    lost = 0
    for _ in range(6):
        stage.until(lambda: _busy_worker(stage) != "", "a worker is busy", 120 * SECOND)
        node = stage.world.nodes[_busy_worker(stage)]
        stage.cut([node], stage.others(node))
        stage.run(stage.engine.between(12 * SECOND, 40 * SECOND))
        view = stage.replica(stage.leader()).view
        lost += sum(task.attempt > 1 for task in queries.open_attempts(view))
        stage.mend()
        stage.run(10 * SECOND)
    demand(lost > 0, "no attempt was lost, so the scenario shows nothing")
    return f"{lost} attempts run again, {stage.finish()}"


def worker_restarts_during_a_transfer(seed: int) -> str:
    """A leader that proposes nothing, for it hands over in vain, hears that a worker lost its attempts: it proposes that later.

    Found by the simulator (nodes 5, seed 70, hours 0.5): its leader proposed such a loss once. It was a copy of the daemon's, and
    had no second try; now they are one.
    """
    stage = Stage(seed, nodes=5, clients=12)
    stage.until(lambda: _busy_worker(stage) != "", "a worker is busy", 120 * SECOND)
    leader, worker = stage.leader(), stage.world.nodes[_busy_worker(stage)]
    heir = next(node for node in stage.voters() if node not in (leader, worker))
    heir.crash(power=True)
    worker.crash()
    worker.boot()
    for _ in range(40):  # An attempt to hand over is given up after an election timeout.
        if stage.world.leader() is leader:
            stage.replica(leader).transfer_leader(heir.member_id)
        stage.run(100 * MS)
    heir.boot()
    stage.until_whole()
    return stage.finish()


def _busy_worker(stage: Stage) -> str:
    """The name of a worker that runs something and does not lead; empty when there is none."""
    leader = stage.leader()
    view = stage.replica(leader).view
    running = [
        stage.world.names[NodeId(task.node_id)]
        for task in queries.open_attempts(view)
        if task.state is TaskState.RUNNING and task.node_id != leader.node_id
    ]
    return min(running, default="")
