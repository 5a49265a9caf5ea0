"""Random schedules: every step is one event that a real network, disk or operator could bring, at any moment of a Ready.

A Ready is carried out in three separate steps (taken and sent, written, ended), and a crash may come between any two: what
was not written is lost, and of a write that was not synced the commit index may be lost too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from hivenode.consensus import ConfChange, HardState, MemberId, ProposalDropped, RaftConfig, ReadDropped, Ready, Role
from tests.raft.network import Network, ids, voters

NAMES = ids(*"abcdef")
WIRE_MAX = 400
"""More messages than this on the wire are lost, as in a router's queue."""
FINAL_PROPOSALS_MAX = 10
"""When faults have stopped, one of so many proposals gets through at the latest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often in a thousand steps each kind of trouble comes."""

    drop: int = 30
    duplicate: int = 15
    crash: int = 4
    cut: int = 3
    conf_change: int = 8
    transfer: int = 4
    compact: int = 4
    leader_lost: int = 4
    campaign: int = 2


@dataclass
class OpenReady:
    ready: Ready
    written: bool = False


class Schedule:
    """One run of a cluster through random events."""

    def __init__(self, seed: int, faults: Faults, *, pre_vote: bool = True) -> None:
        self.rng = random.Random(seed)
        self.faults = faults

        def configure(config: RaftConfig) -> RaftConfig:
            return replace(
                config,
                pre_vote=pre_vote,
                check_quorum=pre_vote,
                max_append_bytes=self.rng.choice([60, 200, 1 << 20]),
                max_inflight_appends=self.rng.choice([1, 3, 64]),
                max_committed_bytes_per_ready=self.rng.choice([60, 1 << 20]),
                snapshot_reoffer_ms=1000,
            )

        founders = self.rng.choice([1, 3, 3, 5])
        self.net = Network(voters(*NAMES[:founders]), seed=seed, others=NAMES[founders:], configure=configure)
        self.open: dict[MemberId, OpenReady] = {}
        self.synced: dict[MemberId, HardState] = dict.fromkeys(NAMES, HardState())
        self.reads: dict[bytes, int] = {}
        self.read_count = 0
        self.value_count = 0

    # One step

    def step(self) -> None:
        events = {
            self.pass_time: 80,
            self.deliver: 500,
            self.work: 300,
            self.propose: 60,
            self.read: 20,
            self.lose: self.faults.drop,
            self.duplicate: self.faults.duplicate,
            self.crash_or_start: self.faults.crash,
            self.cut_or_heal: self.faults.cut,
            self.change_conf: self.faults.conf_change,
            self.transfer: self.faults.transfer,
            self.compact: self.faults.compact,
            self.leader_lost: self.faults.leader_lost,
            self.campaign: self.faults.campaign,
        }
        self.rng.choices(list(events), list(events.values()))[0]()
        del self.net.wire[WIRE_MAX:]

    def up(self) -> list[MemberId]:
        return [name for name in NAMES if self.net.nodes[name].raw is not None]

    def pass_time(self) -> None:
        self.net.now_ms += self.rng.choice([1, 20, 100, 300])
        for name in self.up():
            if self.rng.random() < 0.9:
                self.net.raw(name).tick(self.net.now_ms)
                self.net.checker.check(self.net.nodes[name])

    def deliver(self) -> None:
        if self.net.wire:
            at = self.rng.randrange(min(len(self.net.wire), 8))
            self.net.deliver(self.net.wire.pop(at))

    def lose(self) -> None:
        if self.net.wire:
            self.net.wire.pop(self.rng.randrange(len(self.net.wire)))

    def duplicate(self) -> None:
        if self.net.wire:
            self.net.wire.append(self.rng.choice(self.net.wire))

    def work(self) -> None:
        """Carries some member's Ready on by one stage."""
        up = self.up()
        if not up:
            return
        name = self.rng.choice(up)
        open_ready = self.open.get(name)
        if open_ready is None:
            if self.net.raw(name).has_ready():
                ready = self.net.raw(name).ready()
                self.net.send(ready.messages)
                self.open[name] = OpenReady(ready)
        elif not open_ready.written:
            self.write(name, open_ready.ready)
            open_ready.written = True
        else:
            del self.open[name]
            self.net.finish(name, open_ready.ready)
            self.check_reads(name)

    def write(self, name: MemberId, ready: Ready) -> None:
        self.net.nodes[name].disk.persist(ready)
        if ready.hard_state is not None and ready.must_sync:
            self.synced[name] = ready.hard_state

    def crash_or_start(self) -> None:
        name = self.rng.choice(NAMES)
        node = self.net.nodes[name]
        if node.raw is None:
            self.net.start(name)
            return
        self.open.pop(name, None)
        self.net.crash(name)
        hard_state, _ = node.disk.log.initial_state()
        if self.rng.random() < 0.5:
            node.disk.log.set_hard_state(replace(hard_state, commit=min(hard_state.commit, self.synced[name].commit)))
        if self.rng.random() < 0.5:
            self.net.start(name)

    def cut_or_heal(self) -> None:
        if self.net.cut and self.rng.random() < 0.6:
            self.net.heal()
        elif self.rng.random() < 0.5:
            self.net.isolate(*self.rng.sample(NAMES, self.rng.randint(1, 3)))
        else:
            one, other = self.rng.sample(NAMES, 2)
            self.net.cut.add((one, other))

    def _some_leader(self) -> MemberId | None:
        leaders = self.net.leaders()
        return self.rng.choice(leaders) if leaders else None

    def propose(self) -> None:
        leader = self._some_leader()
        if leader is None:
            return
        for _ in range(self.rng.choice([1, 1, 5])):
            self.value_count += 1
            try:
                self.net.raw(leader).propose(b"v%d" % self.value_count)
            except ProposalDropped:
                return

    def change_conf(self) -> None:
        leader = self._some_leader()
        if leader is None:
            return
        conf = self.net.raw(leader).status().conf
        picks = self.rng.sample(NAMES, self.rng.choice([1, 1, 2, 3]))
        change = ConfChange()
        for name in picks:
            kind = self.rng.choice(["voter", "voter", "learner", "remove"])
            if kind == "voter":
                change = replace(change, add_voters=(*change.add_voters, name))
            elif kind == "learner":
                change = replace(change, add_learners=(*change.add_learners, name))
            elif name in conf.members():
                change = replace(change, remove=(*change.remove, name))
        try:
            self.net.raw(leader).propose_conf_change(change)
        except ProposalDropped:
            return

    def transfer(self) -> None:
        leader = self._some_leader()
        if leader is not None:
            try:
                self.net.raw(leader).transfer_leader(self.rng.choice(NAMES))
            except ProposalDropped:
                return

    def compact(self) -> None:
        name = self.rng.choice(NAMES)
        # As in the daemon, the writer of the disk does one thing at a time.
        if name not in self.open and self.net.nodes[name].disk.applied > 0:
            self.net.nodes[name].disk.compact(keep=self.rng.choice([0, 3]))

    def leader_lost(self) -> None:
        up = self.up()
        if up:
            self.net.raw(self.rng.choice(up)).leader_lost()

    def campaign(self) -> None:
        up = self.up()
        if up:
            self.net.raw(self.rng.choice(up)).campaign()

    # Reads: the index is at least whatever anybody had applied when the read was asked for.

    def read(self) -> None:
        up = self.up()
        if not up:
            return
        self.read_count += 1
        context = b"r%d" % self.read_count
        try:
            self.net.raw(self.rng.choice(up)).read_index(context)
        except ReadDropped:
            return
        self.reads[context] = max(self.net.checker.committed, default=0)

    def check_reads(self, name: MemberId) -> None:
        node = self.net.nodes[name]
        for read in node.read_states:
            assert read.index >= self.reads[read.context], f"{read} is stale: {self.reads[read.context]} was applied"
        node.read_states.clear()

    # The end

    def finish(self) -> None:
        """Faults stop: within a minute there is one leader, it commits, and all members have the same state."""
        self.net.heal()
        for name in NAMES:
            if self.net.nodes[name].raw is None:
                self.net.start(name)
            open_ready = self.open.pop(name, None)
            if open_ready is not None:
                if not open_ready.written:
                    self.write(name, open_ready.ready)
                self.net.finish(name, open_ready.ready)
            self.net.raw(name).tick(self.net.now_ms)
        # Without pre-vote a member whose patience had nearly ended may still depose a leader: one proposal may be lost.
        for _ in range(FINAL_PROPOSALS_MAX):
            self.net.run_until(self.is_calm, 60_000)
            leader = self.net.leader()
            if self.ends_well_under(leader, self.net.raw(leader).status().term):
                break
        assert self.is_equal(self.net.leader())
        for name in NAMES:
            self.check_reads(name)

    def ends_well_under(self, leader: MemberId, term: int) -> bool:
        self.net.raw(leader).propose(b"last")
        self.net.run_until(lambda: self.is_equal(leader) or self.has_gone(leader, term), 20_000)
        return self.is_equal(leader)

    def has_gone(self, leader: MemberId, term: int) -> bool:
        return self.net.role(leader) is not Role.LEADER or self.net.raw(leader).status().term != term

    def is_calm(self) -> bool:
        leaders = [name for name in self.net.leaders() if self.net.raw(name).status().transfer_target is None]
        return len(leaders) == 1 and not self.net.raw(leaders[0]).status().conf.is_joint

    def is_equal(self, leader: MemberId) -> bool:
        if self.net.role(leader) is not Role.LEADER:
            return False
        members = self.net.raw(leader).status().conf.members()
        states = [self.net.state(name) for name in members]
        return states[0][-1:] == [b"last"] and all(state == states[0] for state in states)
