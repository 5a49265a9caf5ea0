"""Traps around who leads."""

from __future__ import annotations

from hivenode.consensus.messages import TimeoutNow
from hivenode.pool.commands import Sweep
from simulations.calls import Failure, Write
from simulations.checkers.violation import demand
from simulations.engine import MS, SECOND
from simulations.network import Weather
from simulations.node import Node
from simulations.scenarios.stage import Stage


def figure_8(seed: int) -> str:
    """Leaders die within moments with entries that a minority has, so that entries of old terms are found again (§5.4.2).

    One entry goes out at a time and many are late, so that an entry of an old term may reach a majority before one of the
    leader's own; and some leaders are cut off as soon as they lead, with an entry that nobody else has.
    """
    stage = Stage(seed, clients=12, max_append_bytes=1)
    engine, world = stage.engine, stage.world
    world.network.weather = Weather(late=500, late_us=(1 * MS, 60 * MS))
    electorate = [stage.leader(), *stage.voters()]
    for _ in range(60):
        for _ in range(3_000):
            if world.leader() is not None:
                break
            stage.run(1 * MS)
        leader = world.leader()
        if leader is not None:
            reached = engine.rng.sample(electorate, engine.between(0, 3))
            stage.cut([leader], [node for node in stage.others(leader) if node not in reached])
            stage.run(engine.between(1 * MS, 80 * MS if reached else 8 * MS))
            leader.crash()
            stage.mend()
        down = [node for node in electorate if not node.alive]
        if len(down) >= 3 or (down and engine.chance(200)):
            down[engine.rng.randrange(len(down))].boot()
    stage.boot_all()
    stage.until_commits(5, 60 * SECOND)
    return stage.finish()


def figure_8_to_the_letter(seed: int) -> str:
    """The steps of the paper's figure: an old entry on a majority is not committed before one of the own term is."""
    stage = Stage(seed, clients=12, max_append_bytes=1)
    for _ in range(4):
        stage.until(lambda: _five_vote(stage), "five vote", 120 * SECOND)
        _play_figure_8(stage)
    return stage.finish()


def _five_vote(stage: Stage) -> bool:
    """And each of them knows that no other majority is needed any more, as that of the founder alone was."""
    voters = (stage.leader(), *stage.voters())
    return len(voters) == 5 and not any(stage.replica(node).conf.is_joint for node in voters)


def _play_figure_8(stage: Stage) -> None:
    first, (second, third, fourth, fifth) = stage.leader(), stage.voters()
    # (a) The first leader's entry comes to the second alone; both die.
    stage.cut([first], [node for node in stage.others(first) if node is not second])
    before = second.disk.log.last_index()
    write = Write(body=Sweep(keep_tasks_ms=stage.world.settings.keep_tasks_ms, rows_max=1))
    first.calls.serve(write, stage.engine.now_us + SECOND, lambda _result: None)
    stage.until(lambda: second.disk.log.last_index() > before or not first.leads, "an entry", 5 * SECOND)
    first.crash()
    second.crash()
    stage.mend()
    # (b) One of the others leads, with an entry of a later term at the same place that nobody else has; it dies.
    lone = stage.next_leader()
    stage.cut([lone], stage.others(lone))
    stage.run(10 * MS)
    lone.crash()
    stage.mend()
    # (c) The first or second leads again and brings the old entry to a majority; both die at the first commit.
    first.boot()
    second.boot()
    again = stage.next_leader()
    commits = stage.commits
    stage.until(lambda: stage.commits > commits or not again.leads, "a commit", 10 * SECOND, look_us=100)
    stage.cut([first, second], stage.world.present())
    first.crash()
    second.crash()
    stage.run(10 * MS)
    stage.mend()
    # (d) The one with the entry of the later term comes back and stands against those that are left.
    lone.boot()
    stage.next_leader()
    stage.run(1 * SECOND)
    for node in (first, second, third, fourth, fifth):
        node.boot()
    stage.run(5 * SECOND)


def reads_at_a_cut_off_leader(seed: int) -> str:
    """A leader is cut off and asked for balances while another one already takes transfers (thesis §6.4)."""
    stage = Stage(seed, clients=60)
    for _ in range(8):
        leader = stage.leader()
        stage.cut([leader], stage.others(leader))
        stage.run(3 * SECOND)
        stage.mend()
        stage.run(1 * SECOND)
    return stage.finish()


def reads_at_a_leader_that_hears_of_no_other(seed: int) -> str:
    """A leader hands over, is cut off before it hears that the other leads, and is asked for balances meanwhile (thesis §6.4)."""
    stage = Stage(seed, clients=60)
    for _ in range(8):
        leader, heir, term = stage.leader(), stage.voters()[0], stage.status().term
        stage.replica(leader).transfer_leader(heir.member_id)
        stage.until(lambda heir=heir, term=term: _term(stage, heir) > term, "it stands", 5 * SECOND, look_us=50)  # type: ignore[misc]
        stage.cut([leader], stage.others(leader))
        stage.run(3 * SECOND)
        stage.mend()
        stage.run(2 * SECOND)
    return stage.finish()


def machines_far_apart(seed: int) -> str:
    """Round trips are longer than it takes until a read is asked again: each read is answered, and a dead leader replaced."""
    stage = Stage(seed, whole=False)
    stage.world.network.weather = Weather(late=1_000, late_us=(180 * MS, 220 * MS))
    stage.until_whole()
    for _ in range(3):
        told: list[Failure | None] = []
        electorate = [stage.leader(), *stage.voters()]
        for node in electorate:
            stage.replica(node).read_barrier(stage.engine.now_us + 10 * SECOND, told.append)
        count = len(electorate)
        stage.until(lambda told=told, count=count: len(told) == count, "all are told", 11 * SECOND)  # type: ignore[misc]
        demand(not any(told), f"a read without an answer: {told}")
        leader = stage.leader()
        leader.crash()
        stage.until_other_leads(leader, 20 * SECOND)
        leader.boot()
        stage.until_commits(5, 60 * SECOND)
    return stage.finish()


def _term(stage: Stage, node: Node) -> int:
    return stage.replica(node).status().term


def asymmetric_switch(seed: int) -> str:
    """A broken switch lets some pairs talk and others not, one way or both; the hive goes on, and no member deposes others."""
    stage = Stage(seed)
    leader = stage.leader()
    lone = stage.voters()[0]
    stage.cut([leader], [lone])
    elections = stage.elections
    stage.run(30 * SECOND)
    demand(stage.elections == elections, "a voter that hears all but the leader forced an election")
    stage.until_commits(3, 30 * SECOND)
    stage.mend()

    stage.run(5 * SECOND)
    leader = stage.leader()
    stage.cut([leader], stage.others(leader), both=False)
    stage.until_other_leads(leader, 15 * SECOND)
    stage.mend()

    stage.run(5 * SECOND)
    leader = stage.leader()
    stage.cut(stage.others(leader), [leader], both=False)
    stage.until(lambda: not stage.replica(leader).leads, "a deaf leader steps down", 15 * SECOND)
    stage.until_commits(2, 30 * SECOND)
    stage.mend()
    return stage.finish()


def tied_elections(seed: int) -> str:
    """After the leader's death two halves of the voters hear only each other, again and again: no two win, one wins after."""
    stage = Stage(seed)
    for _ in range(6):
        leader = stage.leader()
        rest = stage.voters()
        one, other = rest[:2], rest[2:]
        learners = [node for node in stage.others(leader) if node not in rest]
        leader.crash()
        stage.cut(one, other + learners)
        stage.cut(other, learners)
        stage.run(stage.engine.between(3 * SECOND, 8 * SECOND))
        demand(stage.world.leader() is None, "two of five voters elected a leader")
        stage.mend()
        stage.until(lambda: stage.world.leader() is not None, "the tie is broken", 15 * SECOND)
        leader.boot()
        stage.run(2 * SECOND)
    return stage.finish()


def disruptive_returning_server(seed: int) -> str:
    """A member that was cut off for a minute comes back and deposes nobody (thesis §4.2.3, §9.6)."""
    stage = Stage(seed)
    stage.run(5 * SECOND)
    leader = stage.leader()
    term, elections = stage.status().term, stage.elections
    away = stage.voters()[0]
    for _ in range(3):
        stage.cut([away], stage.others(away))
        stage.run(60 * SECOND)
        stage.mend()
        stage.run(10 * SECOND)
        demand(stage.elections == elections, "a member that came back forced an election")
        demand(stage.status().term == term and stage.leader() is leader, "a member that came back raised the term")
    return stage.finish()


def double_vote_to_the_letter(seed: int) -> str:
    """A voter votes, loses power before it hears who was elected, comes back, and is asked by another of the same term.

    Of three voters; the leader is the voter. It asks both others to stand, as it does when a transfer came to nothing and it
    tries another, and the second of these words is late.
    """
    stage, asked = Stage(seed, nodes=3), 0
    for _ in range(8):
        stage.until(lambda: len(stage.voters()) == 2, "three vote", 60 * SECOND)
        asked += _ask_for_two_votes(stage)
        stage.mend()
        stage.run(5 * SECOND)
    demand(asked > 0, "nobody was asked twice, so the scenario shows less than it says")
    return stage.finish()


def _ask_for_two_votes(stage: Stage) -> bool:
    """Whether it came so far: the first was elected, and the second stood for the same term."""
    voter, (first, second) = stage.leader(), stage.voters()
    term = stage.status().term
    stage.cut([first, voter], [second])
    stage.replica(voter).transfer_leader(first.member_id)
    # It steps into the new term when it votes, and its vote is on the disk before it is on the wire.
    stage.until(lambda: stage.replica(voter).status().term > term, "it is asked", 5 * SECOND, look_us=50)
    stage.cut([first], [voter], both=False)
    stage.run(20 * MS)
    if not first.leads:
        return False
    voter.crash(power=True)
    voter.boot()
    stage.run(1 * MS)
    stage.mend()
    stage.cut([first], [voter, second])
    late = TimeoutNow(to=second.member_id, from_=voter.member_id, term=term)
    second.run(lambda: stage.replica(second).receive(late))
    stage.run(50 * MS)
    return stage.replica(second).status().term == stage.replica(first).status().term


def double_vote_after_crash(seed: int) -> str:
    """Voters lose power within milliseconds of being asked, and come back at once: nobody votes twice in a term.

    Answers are late by as much as the members wait for one another, so that several stand for the same term.
    """
    stage = Stage(seed, nodes=7)
    engine = stage.engine
    stage.world.network.weather = Weather(late=700, late_us=(1 * MS, 300 * MS))
    for _ in range(25):
        leader = stage.leader()
        voters = stage.voters()
        leader.crash()
        for _ in range(engine.between(2, 8)):
            stage.run(engine.between(10 * MS, 150 * MS))
            voter = voters[engine.rng.randrange(len(voters))]
            voter.crash(power=True)
            voter.boot()
        stage.until(lambda: stage.world.leader() is not None, "somebody leads again", 30 * SECOND)
        stage.boot_all()
        stage.run(engine.between(10 * MS, 1 * SECOND))
    return stage.finish()
