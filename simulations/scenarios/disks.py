"""Traps around what is durable, and when."""

from __future__ import annotations

from hivenode.pool import queries
from simulations.checkers.violation import demand
from simulations.engine import MS, SECOND
from simulations.scenarios.stage import Stage

HOUR_MS = 3_600_000
CUTS = 10
CUTS_MAX = 60
SLOW_TIMES = 100
"""A write takes longer than a follower's and a heartbeat together."""


def power_cut_of_all(seed: int) -> str:
    """All machines lose power at once under load, in the middle of writes, some torn; what was acknowledged is there after."""
    stage = Stage(seed, clients=18)
    cuts = 0
    # Which write a cut tears is chance, and a few more show it with any seed.
    while cuts < CUTS or (cuts < CUTS_MAX and not any(node.disk.torn for node in stage.world.present())):
        cuts += 1
        for node in stage.world.present():
            node.disk.slowness = stage.engine.between(1, 10)
        stage.run(stage.engine.between(1 * SECOND, 4 * SECOND))
        for node in stage.world.alive():
            node.crash(power=True)
        stage.run(stage.engine.between(100 * MS, 2 * SECOND))
        for node in stage.world.present():
            stage.engine.after(stage.engine.between(0, 3 * SECOND), node.boot)
        stage.until_commits(2, 40 * SECOND)
    demand(
        sum(node.disk.torn for node in stage.world.present()) > 0,
        "no page was torn, so the scenario shows less than it says",
    )
    return stage.finish()


def slow_disk_on_leader(seed: int) -> str:
    """The leader's disk takes 200 times as long, then 2,000 times: writes go on, under it or under another leader."""
    stage = Stage(seed)
    for slowness in (200, 2_000):
        leader = stage.leader()
        leader.disk.slowness = slowness
        stage.run(10 * SECOND)
        stage.until_commits(5, 40 * SECOND)
        leader.disk.slowness = 1
        stage.run(5 * SECOND)
    return stage.finish()


def hiccup_of_the_leaders_disk(seed: int) -> str:
    """The leader's disk takes nothing for longer than an election timeout, again and again: it stays the leader."""
    stage = Stage(seed)
    stage.run(5 * SECOND)
    elections, longest_ms = stage.elections, stage.world.settings.election_timeout_ms[1]
    for _ in range(5):
        leader = stage.leader()
        leader.disk.hold(stage.engine.between(longest_ms, longest_ms * 3 // 2) * MS)
        stage.run(2 * longest_ms * MS)
        stage.until_commits(5, 10 * SECOND)
        demand(stage.elections == elections, "a disk that was slow for a moment deposed its leader")
    return stage.finish()


def stuck_disk_on_leader(seed: int) -> str:
    """The leader's disk takes nothing for a minute: soon another leads and writes go on, and the old one disturbs nobody."""
    stage = Stage(seed)
    stage.run(5 * SECOND)
    longest_ms = stage.world.settings.election_timeout_ms[1]
    leader = stage.leader()
    leader.disk.hold(60 * SECOND)
    stage.until_other_leads(leader, 3 * longest_ms * MS)
    stage.until_commits(5, 10 * SECOND)
    elections = stage.elections
    stage.run(90 * SECOND)
    demand(stage.elections == elections, "a member whose disk takes nothing disturbed the others")
    return stage.finish()


def slow_leader_forgets_what_a_follower_has(seed: int) -> str:
    """A slow leader and one follower write while the other is away; the leader loses power, and leads on with the other."""
    stage = Stage(seed, nodes=3, clients=30)
    for _ in range(6):
        leader = stage.leader()
        follower, away = stage.voters()
        stage.cut([leader, follower], [away])
        # Each write takes so long that the next entries are on the follower's disk before the leader's begins with them.
        leader.disk.slowness = SLOW_TIMES
        stage.run(stage.engine.between(500 * MS, 1_500 * MS))
        stage.cut([follower], [leader])
        leader.crash(power=True)
        leader.disk.slowness = 1
        stage.mend()
        stage.cut([follower], [leader, away])
        leader.boot()
        stage.until_commits(3, 30 * SECOND)
        stage.mend()
        stage.run(2 * SECOND)
    return stage.finish()


def clock_jump_of_an_hour(seed: int) -> str:
    """Wall clocks jump by an hour, at the leader and elsewhere: agreed time never runs back and no leader falls."""
    stage = Stage(seed)
    stage.run(5 * SECOND)
    elections = stage.elections
    seen_ms = 0
    for number, jump_ms in enumerate((HOUR_MS, -HOUR_MS, -HOUR_MS, HOUR_MS)):
        leader = stage.leader()
        leader.clock.jump(jump_ms)
        stage.voters()[number].clock.jump(-jump_ms)
        stage.until_commits(5, 40 * SECOND)
        now_ms = queries.clock_ms(stage.replica(leader).view)
        demand(now_ms >= seen_ms, f"the agreed clock ran back from {seen_ms} to {now_ms}")
        seen_ms = now_ms
        demand(stage.elections == elections, "a wall clock deposed a leader")
        stage.replica(leader).transfer_leader(stage.voters()[number].member_id)
        stage.until_other_leads(leader, 10 * SECOND)
        elections = stage.elections
    return stage.finish()
