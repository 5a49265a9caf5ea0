"""Traps around how a hive begins, and around hives that meet."""

from __future__ import annotations

from collections.abc import Callable

from hivenode.pool import queries
from hivenode.pool.commands import OpenSession, RegisterUser
from hivenode.runtime.hive_life import FOUNDERS_DEADLINE_S
from simulations.calls import Failure, Write
from simulations.checkers.violation import demand
from simulations.engine import MS, SECOND
from simulations.network import Weather
from simulations.node import Node
from simulations.scenarios.stage import WELL_US, Stage
from simulations.world import Settings, World

MEET_US = 180 * SECOND
"""Discovery names everybody again each minute; a dissolving hive takes some seconds more."""


def two_virgin_hives_meet(seed: int) -> str:
    """A switch is down while five machines start: two and three of them form hives apart, with nothing in either.

    When the switch is mended the smaller one gives itself up and all five are one hive, in the larger one's log; nobody is
    ever in two, and the machines that left have new incarnations.
    """
    world, larger, smaller = _formed_apart(seed)
    kept = larger[0].disk.log.hive_id
    world.network.mend_all()
    _until(world, world.is_formed, "one hive", MEET_US)
    demand(world.main_hive() == kept, "the larger hive gave itself up for the smaller one")
    demand(all(node.incarnations > 1 for node in smaller), "a member of a dissolved hive kept its log")
    demand(all(node.incarnations == 1 for node in larger), "a member of the hive that stays lost its log")
    return f"formed as one, trace {world.engine.digest()}"


def two_hives_with_data_meet(seed: int) -> str:
    """As above, but both hives have users: neither ever gives itself up, and both report the other."""
    world, larger, smaller = _formed_apart(seed)
    hives = [group[0].disk.log.hive_id for group in (larger, smaller)]
    for number, group in enumerate((larger, smaller)):
        _write(world, group, f"somebody{number}")
    world.network.mend_all()
    world.engine.run_until(world.engine.now_us + MEET_US)
    for own, other, group in ((hives[0], hives[1], larger), (hives[1], hives[0], smaller)):
        demand(all(node.disk.log.hive_id == own for node in group), "a hive with users was given up")
        seen = any((node.name, other) in world.foreign_seen for node in group)
        demand(seen, f"nobody of {own[:8]} reported the foreign hive {other[:8]}")
    # The owner's way out: one machine after the other goes where its owner sends it.
    home = next(node for node in larger if node.leads)
    for node in smaller:
        node.abandon(hives[0], home.address)
        _until(world, lambda: node.disk.log.hive_id == hives[0], f"{node.name} is home", WELL_US)  # noqa: B023
    _until(world, world.is_formed, "one hive", WELL_US)
    return f"kept apart and then sent home, trace {world.engine.digest()}"


def discovery_loses_most(seed: int) -> str:
    """Two of three announcements get lost, machines start within twelve seconds of each other, and some crash meanwhile.

    All the same they become one hive, each in it once, and a machine that starts again goes on in it with its log. One whose
    answer got lost is in the list of a hive that it did not enter: what that one's leader sends is not for it (seed 3).
    """
    world = World(seed, Settings(nodes=5, discovery_loss=660, start_us=12 * SECOND))
    world.network.weather = Weather(loss=100, late=100, late_us=(1 * MS, 200 * MS))
    world.start()
    for _ in range(4):
        world.engine.run_until(world.engine.now_us + world.engine.between(2 * SECOND, 5 * SECOND))
        alive = world.alive()
        if alive:
            node = alive[world.engine.rng.randrange(len(alive))]
            node.crash(power=world.engine.chance(500))
            world.engine.after(world.engine.between(0, 5 * SECOND), node.boot)
    _until(world, world.is_formed, "one hive", MEET_US)
    hive_id = world.main_hive()
    for node in world.present():
        before = node.incarnations
        node.crash()
        node.boot()
        _until(world, world.is_formed, f"{node.name} is back", WELL_US)
        demand(
            node.disk.log.hive_id == hive_id and node.incarnations == before, f"{node.name} came back as another member"
        )
    return f"one hive, trace {world.engine.digest()}"


def addresses_change(seed: int) -> str:
    """Every machine in turn gets another address while the hive works, once running and once switched off, the leader too.

    Each tells the hive, whose members then reach it at the new one: nobody stays behind, and nobody is another member for it.
    """
    stage = Stage(seed, nodes=5)
    for switched_off in (False, True):
        for node in stage.world.present():
            if switched_off:
                node.crash(power=True)
                stage.run(stage.engine.between(100 * MS, 3 * SECOND))
            node.move()
            node.boot()
            stage.until(lambda: _is_known(stage, node), f"the hive knows where {node.name} is", WELL_US)  # noqa: B023
        stage.until(stage.only_work_is_left, "all follow", WELL_US)
    demand(all(node.incarnations == 1 for node in stage.world.present()), "a machine that moved became another member")
    return stage.finish()


def _is_known(stage: Stage, node: Node) -> bool:
    leader = stage.world.leader()
    if leader is None or leader.replica is None:
        return False
    entry = queries.node(leader.replica.view, node.node_id)
    return entry is not None and entry.addresses == (node.address,)


def _formed_apart(seed: int) -> tuple[World, list[Node], list[Node]]:
    """Five machines in two hives of three and two, whose founders have come in."""
    world = World(seed, Settings(nodes=5))
    nodes = list(world.present())
    world.engine.rng.shuffle(nodes)
    larger, smaller = nodes[:3], nodes[3:]
    for one in larger:
        for other in smaller:
            world.network.cut(one.name, other.name)
            world.network.cut(other.name, one.name)
    world.start()
    for group in (larger, smaller):
        _until(world, lambda: _is_hive(group), "a hive of each side", WELL_US)  # noqa: B023 - it is asked at once
    world.engine.run_until(world.engine.now_us + int(FOUNDERS_DEADLINE_S * SECOND))
    return world, larger, smaller


def _is_hive(group: list[Node]) -> bool:
    """Whether these are one hive, as each of them has it."""
    ids = {node.disk.log.hive_id for node in group}
    return (
        len(ids) == 1
        and "" not in ids
        and any(node.leads for node in group)
        and all(node.replica is not None and queries.counts(node.replica.view).nodes == len(group) for node in group)
    )


def _write(world: World, group: list[Node], user: str) -> None:
    """Somebody registers and logs in with one of these machines."""
    for command in (
        RegisterUser(username=user, password_hash="$argon2id$x", email=f"{user}@example.org"),
        OpenSession(session_id=f"s-{user}", username=user, lifetime_ms=3_600_000),
    ):
        answers: list[object] = []
        leader = next(node for node in group if node.leads)
        leader.calls.serve(Write(body=command), world.engine.now_us + 10 * SECOND, answers.append)
        _until(world, lambda: bool(answers), f"{user} is answered", 20 * SECOND)  # noqa: B023 - it is asked at once
        demand(not isinstance(answers[0], Failure), f"{user} was not served: {answers[0]}")


def _until(world: World, holds: Callable[[], bool], what: str, limit_us: int) -> None:
    end_us = world.engine.now_us + limit_us
    while not holds():
        demand(world.engine.now_us < end_us, f"not within {limit_us // SECOND} s: {what}; {world.forming_troubles()}")
        world.engine.run_until(world.engine.now_us + 10 * MS)
