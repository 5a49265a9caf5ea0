"""A network of real `RawNode`s in memory: queues for wires, `MemoryLog`s for disks, one clock for all.

Each Ready is carried out in the order that it asks for. A crash forgets everything but the disk. After every step the
core's own invariants hold, and what the paper's figure 3 promises is checked over all members and all of the past.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from hivenode.consensus import (
    ConfState,
    Entry,
    EntryKind,
    HardState,
    MemberId,
    MemoryLog,
    Message,
    RaftConfig,
    RawNode,
    ReadState,
    Ready,
    Role,
    decode_conf_change,
)

SETTLE_STEPS_MAX = 20_000
"""More steps than any test needs to come to rest: reaching it means that messages go round in circles."""


def ids(*names: str) -> tuple[MemberId, ...]:
    return tuple(MemberId(name) for name in names)


def voters(*names: str) -> ConfState:
    return ConfState(voters=frozenset(ids(*names)))


class Disk:
    """What survives a crash: the log, and the state machine with the index and configuration that it is at."""

    def __init__(self, conf: ConfState) -> None:
        self.log = MemoryLog(conf=conf)
        self.applied = 0
        self.state: list[tuple[int, bytes]] = []

    def persist(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.log.apply_snapshot(ready.snapshot)
            self.applied = ready.snapshot.meta.index
            self.state = decode_state(ready.snapshot.data)
        self.log.append(ready.entries)
        if ready.hard_state is not None:
            self.log.set_hard_state(ready.hard_state)

    def apply(self, entry: Entry) -> None:
        assert entry.index == self.applied + 1, f"applied {entry.index} after {self.applied}"
        self.applied = entry.index
        if entry.kind is EntryKind.NORMAL and entry.data:
            self.state.append((entry.index, entry.data))

    def compact(self, keep: int = 0) -> None:
        """Makes a snapshot of what is applied and keeps so many entries before it."""
        _, conf = self.log.initial_state()
        self.log.create_snapshot(self.applied, conf, encode_state(self.state))
        self.log.compact(max(self.applied - keep, 0))


def encode_state(state: list[tuple[int, bytes]]) -> bytes:
    return b"\n".join(b"%d %s" % pair for pair in state)


def decode_state(data: bytes) -> list[tuple[int, bytes]]:
    pairs = [line.split(b" ", 1) for line in data.split(b"\n") if line]
    return [(int(index), value) for index, value in pairs]


@dataclass
class Node:
    """One machine: its disk, and the core while it is up."""

    name: MemberId
    config: RaftConfig
    disk: Disk
    rng: random.Random
    raw: RawNode | None = None
    read_states: list[ReadState] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)

    @property
    def up(self) -> RawNode:
        assert self.raw is not None, f"{self.name} is down"
        return self.raw


class SafetyChecker:
    """Election safety, leader completeness, state machine safety and log matching (figure 3), over all time."""

    def __init__(self) -> None:
        self.leader_of: dict[int, MemberId] = {}
        self.committed: dict[int, Entry] = {}

    def applied(self, entry: Entry) -> None:
        known = self.committed.setdefault(entry.index, entry)
        assert known == entry, f"two entries at {entry.index}: {known} and {entry}"

    def check(self, node: Node) -> None:
        raw = node.raw
        if raw is None:
            return
        raw.validate_state()
        status = raw.status()
        if status.role is not Role.LEADER:
            return
        known = self.leader_of.setdefault(status.term, node.name)
        assert known == node.name, f"two leaders in term {status.term}: {known} and {node.name}"

    def check_completeness(self, node: Node, log: list[Entry], first: int) -> None:
        """A leader has every entry that was committed in earlier terms."""
        mine = {entry.index: entry for entry in log}
        term = node.up.status().term
        for index, entry in self.committed.items():
            if index >= first and entry.term < term:
                assert mine.get(index) == entry, f"leader {node.name} of term {term} lacks {entry}"

    @staticmethod
    def check_log_matching(logs: Iterable[dict[int, Entry]]) -> None:
        """Two logs that share an entry's index and term share everything before it that both keep."""
        listed = list(logs)
        for at, one in enumerate(listed):
            for other in listed[at + 1 :]:
                common = sorted(one.keys() & other.keys(), reverse=True)
                same = False
                for index in common:
                    same = same or one[index].term == other[index].term
                    assert not same or one[index] == other[index], f"logs differ before a common entry, at {index}"


class Network:
    """Members, wires between them, and time."""

    def __init__(
        self,
        conf: ConfState,
        *,
        seed: int = 1,
        others: Iterable[MemberId] = (),
        configure: Callable[[RaftConfig], RaftConfig] = lambda config: config,
    ) -> None:
        self.now_ms = 0
        self.rng = random.Random(seed)
        self.configure = configure
        self.nodes: dict[MemberId, Node] = {}
        self.wire: list[Message] = []
        self.cut: set[tuple[MemberId, MemberId]] = set()
        self.drop: Callable[[Message], bool] = lambda message: False
        self.sent: list[Message] = []
        self.watch: Callable[[Message], object] = lambda message: None
        self.checker = SafetyChecker()
        for name in sorted(conf.members()):
            self.add(name, conf)
        for name in others:
            self.add(name, ConfState())

    # Machines

    def add(self, name: MemberId, conf: ConfState) -> Node:
        config = self.configure(RaftConfig(member_id=name))
        node = Node(name=name, config=config, disk=Disk(conf), rng=random.Random(self.rng.getrandbits(32)))
        self.nodes[name] = node
        self.start(name)
        return node

    def start(self, name: str) -> None:
        node = self.nodes[MemberId(name)]
        node.raw = RawNode(node.config, node.disk.log, node.rng, self.now_ms, node.disk.applied)

    def crash(self, name: str) -> None:
        node = self.nodes[MemberId(name)]
        node.raw = None
        node.read_states.clear()
        self.wire = [message for message in self.wire if message.to != name]

    def restart(self, name: str) -> None:
        self.crash(name)
        self.start(name)

    def raw(self, name: str) -> RawNode:
        return self.nodes[MemberId(name)].up

    # Wires

    def isolate(self, *names: str) -> None:
        """Cuts these members off from all others, but not from each other."""
        for name in self.nodes:
            for lost in names:
                if name not in names:
                    self.cut |= {(name, MemberId(lost)), (MemberId(lost), name)}

    def heal(self) -> None:
        self.cut.clear()
        self.drop = lambda message: False

    def send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.sent.append(message)
            self.watch(message)
            if (message.from_, message.to) not in self.cut and not self.drop(message):
                self.wire.append(message)

    # Steps

    def persist(self, name: MemberId) -> Ready:
        """Carries out a Ready as far as step 2: sends what may be sent at once, and writes."""
        node = self.nodes[name]
        ready = node.up.ready()
        self.send(ready.messages)
        node.disk.persist(ready)
        return ready

    def finish(self, name: MemberId, ready: Ready) -> None:
        """Carries out the rest of a Ready that was persisted."""
        node = self.nodes[name]
        self.send(ready.messages_after_persist)
        node.read_states += ready.read_states
        if ready.soft_state is not None:
            node.roles.append(ready.soft_state.role)
        for entry in ready.committed_entries:
            self.checker.applied(entry)
            if entry.kind is EntryKind.CONF_CHANGE:
                node.disk.log.set_conf_state(node.up.apply_conf_change(decode_conf_change(entry.data)))
            node.disk.apply(entry)
        node.up.advance(ready)
        self.checker.check(node)

    def handle(self, name: MemberId) -> bool:
        """Carries out a member's Ready, if it has one."""
        node = self.nodes[name]
        if node.raw is None or not node.raw.has_ready():
            return False
        self.finish(name, self.persist(name))
        return True

    def deliver(self, message: Message) -> None:
        node = self.nodes.get(message.to)
        if node is not None and node.raw is not None:
            node.raw.step(message)
            self.checker.check(node)

    def settle(self) -> None:
        """Delivers and carries out until nothing is left to do at this moment."""
        for _ in range(SETTLE_STEPS_MAX):
            worked = [self.handle(name) for name in list(self.nodes)]
            batch, self.wire = self.wire, []
            for message in batch:
                self.deliver(message)
            if not batch and not any(worked):
                self.check_logs()
                return
        raise AssertionError("the network does not come to rest")

    def run(self, duration_ms: int) -> None:
        """Lets time pass, from deadline to deadline."""
        end = self.now_ms + duration_ms
        self.settle()
        while True:
            due = [node.raw.next_deadline() for node in self.nodes.values() if node.raw is not None]
            at = min([end, *due])
            self.now_ms = max(self.now_ms, at)
            for node in self.nodes.values():
                if node.raw is not None:
                    node.raw.tick(self.now_ms)
                    self.checker.check(node)
            self.settle()
            if self.now_ms >= end:
                return

    def run_until(self, done: Callable[[], bool], limit_ms: int = 30_000) -> int:
        """Lets time pass until `done`; returns how long it took in ms."""
        start = self.now_ms
        self.settle()
        while not done():
            assert self.now_ms - start < limit_ms, f"not done after {limit_ms} ms"
            self.run(10)
        return self.now_ms - start

    def check_logs(self) -> None:
        logs = {name: self.entries(name) for name, node in self.nodes.items() if node.raw is not None}
        self.checker.check_log_matching({e.index: e for e in log} for log in logs.values())
        for name, log in logs.items():
            if self.raw(name).status().role is Role.LEADER:
                self.checker.check_completeness(self.nodes[name], log, self.nodes[name].disk.log.first_index())

    # What a test asks and does

    def entries(self, name: str) -> list[Entry]:
        log = self.nodes[MemberId(name)].disk.log
        return log.entries(log.first_index(), log.last_index() + 1, 1 << 30)

    def state(self, name: str) -> list[bytes]:
        return [data for _, data in self.nodes[MemberId(name)].disk.state]

    def role(self, name: str) -> Role:
        return self.raw(name).status().role

    def leaders(self) -> list[MemberId]:
        return [n.name for n in self.nodes.values() if n.raw is not None and n.raw.status().role is Role.LEADER]

    def leader(self) -> MemberId:
        """The leader of the highest term."""
        return max(self.leaders(), key=lambda name: self.raw(name).status().term)

    def elect(self, name: str) -> RawNode:
        """Makes this member stand at once, and checks that it wins."""
        self.settle()
        self.raw(name).campaign()
        self.settle()
        assert self.role(name) is Role.LEADER
        return self.raw(name)

    def propose(self, name: str, *data: bytes) -> None:
        for item in data:
            self.raw(name).propose(item)
        self.settle()


def preset(node: Node, terms: Iterable[int], *, term: int, vote: str | None = None, commit: int = 0) -> None:
    """Gives a member's disk a log with entries of these terms, as in the paper's figures, and starts it anew on it."""
    conf = node.disk.log.initial_state()[1]
    node.disk = Disk(conf)
    node.disk.log.append(
        [Entry(term=t, index=i, data=b"%d:%d" % (t, i)) for i, t in enumerate(terms, start=1)],
    )
    node.disk.log.set_hard_state(
        HardState(term=term, vote=None if vote is None else MemberId(vote), commit=commit),
    )
    node.raw = None


def without_pre_vote(config: RaftConfig) -> RaftConfig:
    return replace(config, pre_vote=False, check_quorum=False)
