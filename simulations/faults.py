"""What goes wrong: each fault begins at a moment, lasts a while, and takes itself back.

A wiped disk takes a copy away for good, so it comes only while every other copy is whole and the configuration holds no
member that is gone: the hive promises to survive one such loss at a time. A flipped bit may cost a copy as well, so it comes by
the same rule; the machine that ends itself for it is wiped, and joins again, when a majority has the whole log without it. All
other faults come in any number at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from hivenode.encoding.records import encode_record
from hivenode.ledger import chain
from hivenode.pool import keys, queries
from hivenode.pool.commands import AdmitNode, Reply
from hivenode.pool.records import NodeRights
from simulations.calls import JoinAsked, PeerCall, Write, Written
from simulations.engine import MS, SECOND
from simulations.marks import Kind
from simulations.network import Weather
from simulations.node import Node
from simulations.operator import Operator
from simulations.own_record import signed_record
from simulations.world import World

JUMP_MS_MAX: Final = 3_600_000
LOSS: Final = (20, 250)
"""Lost datagrams, in parts of a thousand."""
SLOWNESS: Final = (10, 200)
NODES_MORE_MAX: Final = 2
"""Machines that join beyond those that the run began with."""
TRUSTED_MIN: Final = 4
"""An operator who revokes one of fewer has hardly a hive left."""
REVOKED_MAX: Final = 2
"""Machines that are kept out at one time."""
LEAVE_LOOK_US: Final = 500 * MS
REPLACE_LOOK_US: Final = 1 * SECOND
APART_US: Final = 150 * SECOND
"""Two hives that meet look at each other every minute; by then they are one, or will not be one by themselves."""
FORMING_FAULTS: Final = ("crash", "power", "pause", "partition", "oneway", "loss")
"""What comes while machines look for one another."""
FORMING_EVERY_US: Final = (500 * MS, 6 * SECOND)
HOT_ROWS: Final = (keys.CLOCK, keys.COUNTERS, chain.HEAD, chain.BALANCES)
"""Rows that are read and written all the time, so that a flipped bit in them shows in what is written next."""
DOUBT_US: Final = 60 * SECOND
"""A machine whose flipped bits have shown nowhere by then is found by its owner, before its snapshots go far: nothing in the
agreed state can tell a row that nobody writes."""


class Faults:
    """Makes faults happen at random until it is stopped.

    Args:
        kinds: the names of those that may come, or "all".
    """

    def __init__(self, world: World, kinds: str) -> None:
        self.world: Final = world
        self._engine = world.engine
        known = self._known()
        names = sorted(known) if kinds == "all" else [name for name in kinds.split(",") if name and name != "none"]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"there is no fault {unknown[0]!r}; there are {', '.join(sorted(known))}, all and none")
        self._kinds: list[Callable[[], None]] = [known[name] for name in names]
        self._names = names
        self._stopped = False
        self._forming = False
        self._added = 0
        self._doubted_us: dict[str, int] = {}
        self._apart_us: dict[str, int] = {}
        self._operator = Operator(world)
        self.count = 0

    def _known(self) -> dict[str, Callable[[], None]]:
        return {
            "crash": self._crash,
            "power": self._power,
            "blackout": self._blackout,
            "leader": self._kill_leader,
            "pause": self._pause,
            "partition": self._partition,
            "oneway": self._one_way,
            "isolate": self._isolate_leader,
            "loss": self._loss,
            "slowdisk": self._slow_disk,
            "fulldisk": self._full_disk,
            "clock": self._clock,
            "move": self._move,
            "transfer": self._transfer,
            "flipstate": self._flip_state,
            "fliplog": self._flip_log,
            "forge": self._forge,
            "wipe": self._wipe,
            "join": self._join,
            "leave": self._leave,
            "revoke": self._revoke,
            "approve": self._approve,
        }

    def start(self) -> None:
        if self._kinds:
            self._plan_next()
            self._engine.after(REPLACE_LOOK_US, self._replace_broken)

    def _plan_next(self) -> None:
        self._engine.after(self._engine.between(*self.world.settings.fault_every_us), self._next)

    def _next(self) -> None:
        if self._stopped:
            return
        number = self._engine.rng.randrange(len(self._kinds))
        self.count += 1
        self._engine.note(f"fault: {self._names[number]}")
        self._engine.mark(Kind.FAULT, text=self._names[number])
        self._kinds[number]()
        self._plan_next()

    def stop(self) -> None:
        """No more faults; all that can be mended is."""
        self._stopped = True
        self._operator.stop()
        self._engine.note("faults end")
        self._engine.mark(Kind.FAULT, text="(end of faults)")
        self.world.network.mend_all()
        self.world.corrupt_piece_per_mille = 0
        for node in self.world.present():
            node.disk.slowness, node.disk.full = 1, False
            self._engine.mark(Kind.DISK, node.name)
            node.resume()
            node.boot()

    # --- while the hive forms --------------------------------------------------------------------------------------

    def disturb_forming(self) -> None:
        """Machines crash and are cut from each other while they look for one another; nothing is lost that a user wrote."""
        if not self._kinds or not self.world.settings.forming_us:
            return
        known = self._known()
        harmless = [name for name in self._names if name in FORMING_FAULTS]
        self._forming = True

        def disturb() -> None:
            if self._forming:
                name = harmless[self._engine.rng.randrange(len(harmless))]
                self._engine.note(f"fault: {name}")
                known[name]()
                self._engine.after(self._engine.between(*FORMING_EVERY_US), disturb)

        if harmless:
            self._engine.after(self._engine.between(*FORMING_EVERY_US), disturb)

    def calm_forming(self) -> None:
        """The weather clears, and all machines run."""
        self._forming = False
        self.world.discovery_loss = 0
        self.world.network.mend_all()
        self.world.network.weather = replace(self.world.settings.weather)
        for node in self.world.present():
            node.resume()
            node.boot()

    # --- whom it hits ----------------------------------------------------------------------------------------------

    def _any(self) -> Node | None:
        nodes = self.world.alive()
        return nodes[self._engine.rng.randrange(len(nodes))] if nodes else None

    def _later(self, action: Callable[[], None]) -> None:
        """Takes a fault back after a while, unless all were mended before."""
        delay_us = self._engine.between(*self.world.settings.down_us)
        self._engine.after(delay_us, lambda: None if self._stopped else action())

    # --- processes -------------------------------------------------------------------------------------------------

    def _down(self, node: Node | None, *, power: bool) -> None:
        if node is not None:
            node.crash(power=power)
            self._later(node.boot)

    def _crash(self) -> None:
        self._down(self._any(), power=False)

    def _power(self) -> None:
        self._down(self._any(), power=True)

    def _kill_leader(self) -> None:
        self._down(self.world.leader(), power=False)

    def _blackout(self) -> None:
        """The power of all machines fails at one moment; they come back one by one."""
        for node in self.world.alive():
            self._down(node, power=True)

    def _pause(self) -> None:
        node = self.world.leader() if self._engine.chance(500) else self._any()
        if node is not None:
            node.pause()
            self._later(node.resume)

    def _wipe(self) -> None:
        if not self._copies_are_whole():
            return
        node = self._any()
        if node is not None:
            node.wipe()
            self._later(node.boot)

    def _replace_broken(self) -> None:
        """An owner sees to machines that ended themselves or are in doubt; also after all other faults have ended."""
        self._engine.after(REPLACE_LOOK_US, self._replace_broken)
        now_us = self._engine.now_us
        for node in self.world.present():
            if not (node.tainted or node.damage.is_rotten) or self.world.has_shown(node):
                self._doubted_us.pop(node.name, None)
            elif (
                not node.broken
                and now_us - self._doubted_us.setdefault(node.name, now_us) >= DOUBT_US
                # The others may miss one already, and a second would take the hive's majority for good.
                and self._can_lose(node)
            ):
                node.break_off("its owner finds that its memory went wrong")
            if node.broken and self._can_lose(node):
                node.wipe()
                node.boot()
        self._send_home(now_us)

    def _send_home(self, now_us: int) -> None:
        """A hive that formed apart and is not given up in its hour is reported; its owner sends its machines to the other one."""
        leader = self.world.leader()
        for node in self.world.present():
            if node.disk.log.hive_id in ("", self.world.hive_id) or not node.alive or leader is None:
                self._apart_us.pop(node.name, None)
            elif now_us - self._apart_us.setdefault(node.name, now_us) >= APART_US:
                self._engine.note(f"the owner of {node.name} sends it home")
                node.abandon(self.world.hive_id, leader.address)

    def _can_lose(self, node: Node) -> bool:
        """Whether a majority of the voters has the whole log without this machine's disk."""
        leader = self.world.leader()
        if leader is None or leader.replica is None:
            return False
        status = leader.replica.status()
        having = {
            other.member_id
            for other in self.world.alive()
            if other is not node
            and not other.revoked
            and other.disk.log.last_index() >= status.last_index
            and not other.disk.log.damaged
            and not other.damage.is_rotten
        }
        departing = leader.cluster is not None and leader.cluster.departing
        return (
            not status.conf.is_joint
            and not departing
            and 2 * len(status.conf.voters & having) > len(status.conf.voters)
        )

    def _copies_are_whole(self) -> bool:
        leader = self.world.leader()
        if leader is None or leader.replica is None:
            return False
        status = leader.replica.status()
        current = {node.member_id: node for node in self.world.present()}
        # Members that are gone, or that lack anything, leave no room for another loss.
        return (
            not status.conf.is_joint
            and not self._operator.busy
            and len(status.conf.voters) >= 3
            and status.conf.members() == frozenset(current)
            and all(
                node.alive
                and node.disk.log.last_index() >= status.last_index
                and not node.disk.full
                and not node.disk.log.damaged
                and not node.tainted
                and not node.damage.is_rotten
                for node in current.values()
            )
        )

    # --- the network -----------------------------------------------------------------------------------------------

    def _cut(self, pairs: list[tuple[str, str]]) -> None:
        network = self.world.network
        for source, target in pairs:
            network.cut(source, target)

        def mend() -> None:
            for source, target in pairs:
                network.mend(source, target)

        self._later(mend)

    def _partition(self) -> None:
        names = [node.name for node in self.world.present()]
        self._engine.rng.shuffle(names)
        size = self._engine.between(1, len(names) - 1) if len(names) > 1 else 0
        one, other = names[:size], names[size:]
        self._engine.note(f"cut {one} from {other}")
        self._cut([pair for a in one for b in other for pair in ((a, b), (b, a))])

    def _isolate_leader(self) -> None:
        leader = self.world.leader()
        if leader is not None:
            others = [node.name for node in self.world.present() if node is not leader]
            self._cut([pair for name in others for pair in ((leader.name, name), (name, leader.name))])

    def _one_way(self) -> None:
        """Some directions of some wires are dead, as with a broken switch."""
        names = [node.name for node in self.world.present()]
        pairs = [(a, b) for a in names for b in names if a != b and self._engine.chance(200)]
        self._cut(pairs)

    def _loss(self) -> None:
        self.world.network.weather = Weather(
            loss=self._engine.between(*LOSS),
            duplicate=self._engine.between(0, 100),
            late=self._engine.between(10, 500),
            late_us=(1 * MS, self._engine.between(50 * MS, 800 * MS)),
        )

        def clear() -> None:
            self.world.network.weather = replace(self.world.settings.weather)

        self._later(clear)

    # --- disks and clocks ------------------------------------------------------------------------------------------

    def _slow_disk(self) -> None:
        node = self.world.leader() if self._engine.chance(500) else self._any()
        if node is None:
            return
        disk = node.disk
        disk.slowness = self._engine.between(*SLOWNESS)
        self._engine.mark(Kind.DISK, node.name, f"{disk.slowness} times slower")

        def mend() -> None:
            disk.slowness = self.world.settings.slowness
            self._engine.mark(Kind.DISK, node.name)

        self._later(mend)

    def _full_disk(self) -> None:
        node = self._any()
        if node is None:
            return
        disk = node.disk
        disk.full = True
        self._engine.mark(Kind.DISK, node.name, "full")

        def mend() -> None:
            disk.full = False
            self._engine.mark(Kind.DISK, node.name)

        self._later(mend)

    def _flip_state(self) -> None:
        """A bit of agreed state flips; mostly in a row that is read and written all the time."""
        if self._copies_are_whole():
            node = self._any()
            if node is not None and not node.revoked:
                node.damage.flip_state(prefixes=HOT_ROWS if self._engine.chance(800) else (b"",))

    def _flip_log(self) -> None:
        if self._copies_are_whole():
            node = self._any()
            if node is not None and not node.revoked:
                node.damage.flip_log()

    def _clock(self) -> None:
        node = self._any()
        if node is None:
            return
        by_ms = self._engine.between(-JUMP_MS_MAX, JUMP_MS_MAX)
        node.clock.jump(by_ms)
        # Somebody notices and sets it right again, at the latest when all else is mended.
        delay_us = self._engine.between(*self.world.settings.down_us)
        self._engine.after(delay_us, lambda: node.clock.jump(-by_ms))

    def _move(self) -> None:
        """A machine gets another address, as by another lease; it notices, and tells the hive."""
        node = self._any()
        if node is not None:
            node.move()

    def _forge(self) -> None:
        """Somebody on the network asks for admission as a machine whose key it has not."""
        nodes = self.world.present()
        victim, asked = self._any(), nodes[self._engine.rng.randrange(len(nodes))]
        if victim is not None:
            record = replace(signed_record(victim, later=True), signature=bytes(64))
            forged = JoinAsked(hive_id=asked.disk.log.hive_id, record=record)
            call = PeerCall(call=0, address=asked.address, body=forged)
            self.world.network.send(victim.name, asked.name, call, once=True)
            leader = self.world.leader()
            if leader is not None and leader.replica is not None:
                # A member that lies to its hive: it has the log take what it should have refused.
                command = AdmitNode(signed_record=encode_record(record), rights=NodeRights.VOTER)
                deadline_us = self._engine.now_us + LEAVE_LOOK_US
                leader.replica.propose(Write(body=command), deadline_us, lambda _result: None)

    # --- the configuration -----------------------------------------------------------------------------------------

    def _transfer(self) -> None:
        leader = self.world.leader()
        if leader is None or (replica := leader.replica) is None:
            return
        others = sorted(replica.status().conf.voters - {leader.member_id})
        if others:
            to = others[self._engine.rng.randrange(len(others))]
            leader.do(lambda: replica.transfer_leader(to))

    def _join(self) -> None:
        if len(self.world.present()) < self.world.settings.nodes + NODES_MORE_MAX:
            self._added += 1
            node = self.world.add_node(f"m{self._added}")
            if self._engine.chance(500):
                self.world.on_trial.add(node.name)
            node.boot()

    def _revoke(self) -> None:
        """An operator does not trust a machine any more, which ends when it hears so, or goes on."""
        nodes, leader = self.world.present(), self.world.leader()
        kept_out = sum(node.revoked for node in self.world.nodes.values())
        if leader is None or leader.replica is None or self._operator.busy:
            return
        if len(nodes) < TRUSTED_MIN or kept_out >= REVOKED_MAX:
            return
        going = nodes[self._engine.rng.randrange(len(nodes))]
        if not going.leaving and queries.node(leader.replica.view, going.node_id) is not None:
            self._operator.revoke(going, defiant=self._engine.chance(500))

    def _approve(self) -> None:
        """An operator gives a worker the right to vote, or lets a machine in again that it had revoked."""
        leader = self.world.leader()
        if leader is None or leader.replica is None or self._operator.busy:
            return
        conf, view = leader.replica.status().conf.members(), leader.replica.view
        # A machine with an empty disk that the configuration still has would be one more that is lost.
        inside = set(map(self.world.node_of, conf))
        waiting = [node for node in self.world.nodes.values() if node.revoked and node.node_id not in inside]
        for node in self.world.present():
            entry = queries.node(view, node.node_id)
            if entry is not None and entry.rights is NodeRights.WORKER and node.role.may_vote:
                waiting.append(node)
        if waiting:
            chosen = waiting[self._engine.rng.randrange(len(waiting))]
            (self._operator.let_in_again if chosen.revoked else self._operator.approve)(chosen)

    def _leave(self) -> None:
        """A machine's owner wants it back, whoever else is down: the hive lets it go when it can decide without it."""
        nodes = self.world.present()
        if len(nodes) <= self.world.settings.nodes:
            return
        going = nodes[self._engine.rng.randrange(len(nodes))]
        if not going.leaving:
            going.leaving = True
            self.see_off(going)

    def see_off(self, going: Node) -> None:
        """Asks until the machine is out: a hive that cannot do without it now says so. If its daemon does not hear the answer, it
        finds out when it tells its record."""
        if going.left:
            return
        leader = self.world.leader()
        if leader is not None and not self.world.is_anybody_unsound():
            self._ask_to_remove(leader, going)
        self._engine.after(LEAVE_LOOK_US, lambda: self.see_off(going))

    @staticmethod
    def _ask_to_remove(leader: Node, going: Node) -> None:
        cluster, replica, boot = leader.cluster, leader.replica, going.boots
        if cluster is None or replica is None or queries.node(replica.view, going.node_id) is None:
            return

        def answered(result: Written) -> None:
            if isinstance(result, Reply) and going.alive and going.boots == boot and going.reaches(leader):
                going.run(going.leave)

        leader.run(lambda: cluster.remove(going.node_id, answered))
