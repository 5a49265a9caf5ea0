"""Five machines, eight client programs, and all that a network, a machine or a disk does to them: what clients were told holds.

Every call is written down with the time at which it began and ended, and with what came of it: done, not done, or unknown. When
all is over, one order of the calls must explain every answer and respect time (`simulations.checkers.linearizable`), nothing
acknowledged may be missing on any disk, and each term must have had one leader. `HIVENODE_TEST_SEED` repeats a run's choices (not
its timing).
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from hivenode.consensus import Entry, EntryKind
from hivenode.encoding.records import decode_record
from hivenode.errors import Code, Outcome
from hivenode.pb import nodepool_pb2
from hivenode.pool import invariants, queries
from hivenode.pool.commands import Envelope
from hivenode.storage.log_store import LogStore
from hivenode.storage.state_store import StateStore
from simulations.checkers.linearizable import Operation, State, Step, check
from tests.e2e.user import PASSWORD, PAUSE_S, USERS, CallError, User
from tests.support.daemons import ANSWER_DEADLINE_S, CHANNEL_OPTIONS, ROOT, STOP_DEADLINE_S, Daemon, Hive, wait_for
from tests.support.namespaces import Host, Lan, lan

SEED = int(os.environ.get("HIVENODE_TEST_SEED", str(secrets.randbelow(1 << 32))))
MACHINES = 5
GROUPS = 2
CLIENTS_PER_GROUP = 4
"""They share four accounts, so that each balance is written and read by all of them at once."""
ACCOUNTS = 4
GRANT_CPT = 1000
API = "127.0.0.1:50051"
TRY_S = 2.0
BETWEEN_CALLS_S = (0.0, 0.04)
ABANDONED_MAX = 1
"""Calls of each client that it gives up although nobody knows what came of them: the check looks at both of each."""
ABANDONS = 0.2
GIVES_UP = 0.3
"""How often a client takes *not done* for an answer and does not ask again."""
NAME_S = 2.0
"""For so long the clients of a group want the same new user name."""
FAULT_DEADLINE_S = 40.0
WRITES_BESIDE = 30
PAUSED_S = 10.0
LOSS = 0.2
DONE_DEADLINE_S = 40.0
BIRTH_TERM = 1
"""Of the entry with which a hive is born; nobody was elected for it."""
LEADS = "this member leads"

Start = tuple[int, ...]


class Line:
    """A way to the API of one machine, through whatever life its daemon is in."""

    def __init__(self, socket: Path) -> None:
        self._options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        self.channel = grpc.insecure_channel(f"unix:{socket}", options=self._options)


@contextmanager
def doors(hosts: Sequence[Host]) -> Iterator[list[Path]]:
    """For each host a Unix socket that leads to the API there."""
    # Not pytest's folder: the path of a socket may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="hn-doors-"))
    paths = [folder / str(host.index) for host in hosts]
    running = [
        subprocess.Popen(
            host.argv([sys.executable, "-m", "tests.support.programs.door", str(path), API]),
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
        )
        for host, path in zip(hosts, paths, strict=True)
    ]
    try:
        wait_for("the doors", lambda: all(path.exists() for path in paths) or None, deadline_s=ANSWER_DEADLINE_S)
        yield paths
    finally:
        for door in running:
            door.kill()
            door.wait(STOP_DEADLINE_S)
        shutil.rmtree(folder)


class NotDoneError(Exception):
    """The client was told that nothing was done, and left it at that."""


class UnknownError(Exception):
    """The client gave up, and does not know what came of its call."""


@dataclass
class Book:
    """What all clients did and learned. Times are of the monotonic clock, in ns."""

    accounts: list[list[Operation]] = field(default_factory=lambda: [[] for _ in range(GROUPS)])
    names: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    written: dict[str, str] = field(default_factory=dict)
    """By key: the sender of an acknowledged transfer."""
    registered: set[str] = field(default_factory=set)
    done: list[tuple[int, bool]] = field(default_factory=list)
    """When each call began that was done, and whether it was a write."""
    failed: list[tuple[int, int]] = field(default_factory=list)
    """When each try began that failed, and at which machine."""
    out_of_use: set[int] = field(default_factory=set)
    """Machines that no client asks: one that was just installed anew is of no hive, or of one of its own."""
    trying: Counter[int] = field(default_factory=Counter)
    """By machine: the tries under way."""
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin_try(self, machine: int | None, rng: random.Random) -> int:
        """The machine to ask: the given one, or any in use."""
        with self.lock:
            chosen = (
                rng.choice([m for m in range(MACHINES) if m not in self.out_of_use]) if machine is None else machine
            )
            self.trying[chosen] += 1
            return chosen

    def end_try(self, machine: int) -> None:
        with self.lock:
            self.trying[machine] -= 1

    def take_out_of_use(self, machine: int) -> None:
        """Waits until nobody asks the machine any more."""
        with self.lock:
            self.out_of_use.add(machine)
        wait_for("the end of all tries there", lambda: not self.trying[machine] or None, deadline_s=5 * TRY_S)

    def writes_since(self, moment_ns: int) -> int:
        with self.lock:
            return sum(is_write and begun_ns > moment_ns for begun_ns, is_write in self.done)

    def failed_since(self, moment_ns: int) -> set[int]:
        with self.lock:
            return {machine for begun_ns, machine in self.failed if begun_ns > moment_ns}


# --- what an answer says of an object ------------------------------------------------------------------------------------


def moves(sender: int, receiver: int, amount: int, left: int | None) -> Step:
    """A transfer; `left` is the sender's balance after it, None when nobody knows."""

    def step(state: State) -> State | None:
        balances = list(_balances(state))
        balances[sender] -= amount
        balances[receiver] += amount
        return tuple(balances) if balances[sender] == (left if left is not None else balances[sender]) >= 0 else None

    return step


def lacks(sender: int, amount: int) -> Step:
    return lambda state: state if _balances(state)[sender] < amount else None


def has(account: int, balance: int) -> Step:
    return lambda state: state if _balances(state)[account] == balance else None


def takes(state: State) -> State | None:
    return True if state is False else None


def same(value: bool) -> Step:
    return lambda state: state if state is value else None


def _balances(state: State) -> Start:
    assert isinstance(state, tuple)
    return state


# --- the clients ---------------------------------------------------------------------------------------------------------


class Client(threading.Thread):
    """One program: it reads, transfers and registers, each through any machine, and asks again while it was not told."""

    def __init__(
        self, number: int, group: int, accounts: list[User], sockets: list[Path], book: Book, ends: threading.Event
    ) -> None:
        super().__init__(name=f"client{group}{number}")
        self.group = group
        self.accounts = accounts
        self.lines = [Line(socket) for socket in sockets]
        self.book = book
        self.ends = ends
        self.rng = random.Random(f"{SEED}-{group}-{number}")
        self.abandoned = 0
        self.made = 0

    def run(self) -> None:
        try:
            while not self.ends.is_set():
                self._act()
                self.ends.wait(self.rng.uniform(*BETWEEN_CALLS_S))
        except Exception as error:
            with self.book.lock:
                self.book.faults.append(f"{self.name}: {error!r}")

    def close(self) -> None:
        for line in self.lines:
            line.channel.close()

    def _act(self) -> None:
        self.made += 1
        match self.rng.choices(("balance", "transfer", "register"), weights=(10, 12, 1))[0]:
            case "balance":
                self.read(self.rng.randrange(ACCOUNTS))
            case "transfer":
                self._transfer()
            case _:
                self._register()

    def read(self, account: int, machine: int | None = None) -> None:
        """Asks for a balance, at one machine or at any."""
        user = self.accounts[account]
        request = nodepool_pb2.GetBalanceRequest(username=user.name, token=user.token)
        called_ns = time.monotonic_ns()
        try:
            answer = self._ask(user, f"{USERS}GetBalance", request, nodepool_pb2.GetBalanceResponse, machine=machine)
        except (NotDoneError, UnknownError):
            return  # Nothing was learned, and nothing changed.
        self._note(called_ns, has(account, answer.balance), f"{user.name} has {answer.balance}", False)

    def _transfer(self) -> None:
        sender, receiver = self.rng.sample(range(ACCOUNTS), 2)
        amount, key = self.rng.randint(1, 99), f"{self.name}-{self.made}"
        user = self.accounts[sender]
        request = nodepool_pb2.TransferRequest(
            token=user.token, receiver_username=self.accounts[receiver].name, amount=amount
        )
        text = f"transfer {key} of {amount} from {sender} to {receiver}"
        called_ns = time.monotonic_ns()
        try:
            answer = self._ask(user, f"{USERS}Transfer", request, nodepool_pb2.TransferResponse, key)
        except NotDoneError:
            return
        except UnknownError:
            step = moves(sender, receiver, amount, None)
            with self.book.lock:
                self.book.accounts[self.group].append(
                    Operation(called_at=called_ns, returned_at=None, step=step, text=f"{text}: unknown")
                )
            return
        except CallError as error:
            if error.code != Code.INSUFFICIENT_BALANCE:
                raise
            self._note(called_ns, lacks(sender, amount), f"{text}: too little", False)
            return
        with self.book.lock:
            self.book.written[key] = user.name
        step = moves(sender, receiver, amount, answer.new_balance)
        self._note(called_ns, step, f"{text}: {answer.new_balance} left", True)

    def _note(self, called_ns: int, step: Step, text: str, is_write: bool) -> None:
        operation = Operation(called_at=called_ns, returned_at=time.monotonic_ns(), step=step, text=text)
        with self.book.lock:
            self.book.accounts[self.group].append(operation)
            self.book.done.append((called_ns, is_write))

    def _register(self) -> None:
        name = f"name{self.group}x{int(time.monotonic() / NAME_S)}"
        request = nodepool_pb2.RegisterRequest(username=name, password=PASSWORD)
        user = User(name, self.lines[0])
        called_ns = time.monotonic_ns()
        returned_ns: int | None = None
        key = f"{self.name}-{self.made}"
        step: Step = takes
        told = "unknown"
        try:
            self._ask(user, f"{USERS}Register", request, nodepool_pb2.RegisterResponse, key)
        except NotDoneError:
            return
        except UnknownError:
            pass
        except CallError as error:
            if error.code != Code.USER_EXISTS:
                raise
            returned_ns, step, told = time.monotonic_ns(), same(True), "taken"
        else:
            returned_ns, told = time.monotonic_ns(), "done"
        with self.book.lock:
            if told == "done":
                self.book.registered.add(name)
                self.book.done.append((called_ns, True))
            self.book.names[name].append(
                Operation(called_at=called_ns, returned_at=returned_ns, step=step, text=f"register {name}: {told}")
            )

    def _ask(
        self, user: User, method: str, request: Message, answer: Any, key: str = "", *, machine: int | None = None
    ) -> Any:
        """Asks one machine after another under one key, until the call is done or refused, or the client gives up."""
        unknown = False
        deadline: float | None = None
        while True:
            through = self.book.begin_try(machine, self.rng)
            tried_ns = time.monotonic_ns()
            try:
                found = user.at(self.lines[through]).call(method, request, answer, key=key, timeout_s=TRY_S)
            except CallError as error:
                if error.outcome is Outcome.REFUSED:
                    self._count(method, "refused")
                    raise
                unknown = unknown or error.outcome is Outcome.UNKNOWN
                with self.book.lock:
                    self.book.failed.append((tried_ns, through))
            else:
                self._count(method, "done")
                return found
            finally:
                self.book.end_try(through)
            if self.ends.is_set():
                deadline = deadline or time.monotonic() + DONE_DEADLINE_S
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{method} {key} came to no end after the last fault")
            elif unknown and key and self.abandoned < ABANDONED_MAX and self.rng.random() < ABANDONS:
                self.abandoned += 1
                self._count(method, "unknown")
                raise UnknownError
            elif not unknown and self.rng.random() < GIVES_UP:
                self._count(method, "not done")
                raise NotDoneError
            time.sleep(PAUSE_S)

    def _count(self, method: str, outcome: str) -> None:
        with self.book.lock:
            self.book.outcomes[f"{method.rsplit('/', 1)[1]} {outcome}"] += 1


# --- the faults ----------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """The machines, and what is done to them while the clients go on."""

    made: Hive
    network: Lan
    book: Book

    def stands(self, what: str, cut_off: Sequence[Daemon] = (), *, at_least_s: float = 0.0) -> None:
        """Lets a fault stand until the clients have written beside it, and have asked in vain at each machine cut off."""
        begun_ns = time.monotonic_ns()
        wanted = {daemon.host.index for daemon in cut_off if daemon.host is not None}

        def look() -> bool | None:
            assert not self.book.faults, self.book.faults
            lasted_s = (time.monotonic_ns() - begun_ns) / 1e9
            enough = self.book.writes_since(begun_ns) >= WRITES_BESIDE and wanted <= self.book.failed_since(begun_ns)
            return (enough and lasted_s >= at_least_s) or None

        wait_for(f"writes beside {what}", look, deadline_s=FAULT_DEADLINE_S)
        print(f"{what}: {(time.monotonic_ns() - begun_ns) / 1e9:.1f} s, {self.book.writes_since(begun_ns)} writes")

    def heals(self) -> None:
        self.network.heal()
        self.made.leader()

    def sides(self) -> tuple[Daemon, list[Daemon], list[Daemon]]:
        """The leader, the other voters, and the rest."""
        leader = self.made.leader()
        voting = {member.node_id for member in leader.status().members if member.voter}
        others = [daemon for daemon in self.made if daemon is not leader]
        return (
            leader,
            [daemon for daemon in others if daemon.node_id in voting],
            [daemon for daemon in others if daemon.node_id not in voting],
        )

    def part(self, few: Sequence[Daemon]) -> None:
        """Cuts some off from all others."""
        for daemon in few:
            for other in self.made:
                if other not in few:
                    assert daemon.host is not None
                    assert other.host is not None
                    self.network.cut(daemon.host, other.host)


def leader_in_the_minority(stage: Stage) -> None:
    leader, _, rest = stage.sides()
    few = [leader, *rest[:1]]
    stage.part(few)
    stage.stands("the leader in the minority", few)


def leader_in_the_majority(stage: Stage) -> None:
    _, voters, rest = stage.sides()
    few = [*voters[:1], *rest[:1]]
    stage.part(few)
    stage.stands("the leader in the majority", few)


def leader_that_hears_and_is_not_heard(stage: Stage) -> None:
    leader, _, _ = stage.sides()
    for other in stage.made:
        if other is not leader:
            assert leader.host is not None
            assert other.host is not None
            stage.network.cut(leader.host, other.host, one_way=True)
    stage.stands("a leader that is not heard", [leader])


def packets_lost(stage: Stage) -> None:
    for host in stage.network:
        host.loss(LOSS)
    stage.stands(f"{LOSS:.0%} of all packets lost", at_least_s=3.0)


def leader_paused(stage: Stage) -> None:
    leader, _, _ = stage.sides()
    leader.signal(signal.SIGSTOP)
    try:
        stage.stands("the leader paused", [leader], at_least_s=PAUSED_S)
    finally:
        leader.signal(signal.SIGCONT)


def all_killed(stage: Stage) -> None:
    for daemon in stage.made:
        daemon.signal(signal.SIGKILL)
    for daemon in stage.made:
        daemon.kill()
    for daemon in stage.made:
        daemon.start()
    stage.stands("all killed and started again")


def disk_wiped(stage: Stage) -> None:
    """A voter loses its log, its state and its key: what comes back is another machine, with nothing."""
    _, voters, _ = stage.sides()
    victim = voters[0]
    hive_id = victim.status().hive_id
    assert victim.host is not None
    victim.kill()
    stage.book.take_out_of_use(victim.host.index)
    victim.close()
    shutil.rmtree(victim.data_dir)
    stage.made.daemons.remove(victim)
    fresh = stage.made.add("--executor", "none", host=victim.host, name=victim.name)
    assert fresh.node_id != victim.node_id
    wait_for("the way back", lambda: (fresh.status().hive_id == hive_id and fresh.status().phase == "member") or None)
    stage.book.out_of_use.clear()
    stage.stands("a wiped disk")


FAULTS = (
    leader_in_the_minority,
    leader_in_the_majority,
    leader_that_hears_and_is_not_heard,
    packets_lost,
    leader_paused,
    all_killed,
    disk_wiped,
)


# --- what must hold ------------------------------------------------------------------------------------------------------


def check_calls(book: Book, users: set[str]) -> None:
    """One order explains all answers, for each group of accounts and for each name."""
    begun = time.monotonic()
    for group, operations in enumerate(book.accounts):
        unexplained = check(operations, (GRANT_CPT,) * ACCOUNTS)
        assert unexplained is None, f"the accounts of group {group}: {unexplained}"
    end_ns = time.monotonic_ns()
    for name, operations in book.names.items():
        seen = Operation(called_at=end_ns, returned_at=end_ns + 1, step=same(name in users), text=f"{name} in the end")
        unexplained = check([*operations, seen], False)
        assert unexplained is None, f"the name {name}: {unexplained}"
    count = sum(len(operations) for operations in [*book.accounts, *book.names.values()])
    print(f"{count} calls are explained, in {time.monotonic() - begun:.1f} s")


def terms_led(made: Hive, hive_id: str) -> dict[int, set[str]]:
    """Who has led the hive in each term, by what every daemon wrote down before it did anything as a leader."""
    led: dict[int, set[str]] = defaultdict(set)
    for path in {daemon.log_path for daemon in made}:
        for line in path.read_text().splitlines():
            if LEADS in line:
                told = json.loads(line)
                if told["hive"] == hive_id:
                    led[told["term"]].add(told["member"])
    return led


def entries_of(daemon: Daemon) -> list[Entry]:
    log = LogStore(daemon.data_dir / "log")
    try:
        return log.entries(log.first_index(), log.last_index() + 1, sys.maxsize)
    finally:
        log.close()


def check_terms(made: Hive, hive_id: str) -> None:
    """One leader a term, and at one place of one term the same entry in every log."""
    led = terms_led(made, hive_id)
    assert all(len(members) == 1 for members in led.values()), led
    known: dict[tuple[int, int], Entry] = {}
    for daemon in made:
        for entry in entries_of(daemon):
            assert known.setdefault((entry.term, entry.index), entry) == entry, f"{daemon.name} has another {entry}"
    terms = {term for term, _ in known}
    assert terms - set(led) <= {BIRTH_TERM}, f"nobody says that it led in {terms - set(led)}"
    print(f"{len(led)} leaders in as many terms, {len(terms)} of which wrote")


def check_disks(book: Book, made: Hive) -> set[str]:
    """Every log has each acknowledged transfer, every state each acknowledged user, and all are the same; the names taken."""
    whole = 0
    rows: list[dict[bytes, bytes]] = []
    for daemon in made:
        entries = entries_of(daemon)
        if entries[0].index == 1:
            whole += 1
            envelopes = [decode_record(Envelope, e.data) for e in entries if e.kind is EntryKind.NORMAL and e.data]
            keys = {(each.request_owner, each.request_key) for each in envelopes}
            missing = [key for key, sender in book.written.items() if (sender, key) not in keys]
            assert not missing, f"{daemon.name} lacks {missing}"
        store = StateStore(daemon.data_dir / "state")
        try:
            invariants.check(store)
            lost = [name for name in book.registered if queries.user(store, name) is None]
            assert not lost, f"{daemon.name} lacks {lost}"
            rows.append(dict(store.scan(b"")))
            users = {name for name in book.names if queries.user(store, name) is not None}
        finally:
            store.close()
    assert whole >= MACHINES - 1, "the logs do not reach back to the beginning"
    assert all(each == rows[0] for each in rows[1:]), "two machines have different states"
    return users


def level(made: Hive) -> bool | None:
    """Whether all have applied the same entries."""
    return len({daemon.status().applied_index for daemon in made}) == 1 or None


@pytest.fixture
def network() -> Iterator[Lan]:
    with lan(MACHINES) as made:
        yield made


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_eight_clients_were_told_holds_through_every_fault(network: Lan, tmp_path: Path) -> None:
    print(f"HIVENODE_TEST_SEED={SEED}")
    begun = time.monotonic()
    made, book, ends = Hive(folder=tmp_path), Book(), threading.Event()
    try:
        for index in range(MACHINES):
            made.add("--executor", "none", host=network[index])
        hive_id = made.wait().status().hive_id
        groups = [[User.new(made[number]) for number in range(ACCOUNTS)] for _ in range(GROUPS)]
        with doors(network.hosts) as sockets:
            clients = [
                Client(number, group, groups[group], sockets, book, ends)
                for group in range(GROUPS)
                for number in range(CLIENTS_PER_GROUP)
            ]
            try:
                go_through_all(Stage(made, network, book), clients, ends)
                assert not book.faults, book.faults
                read_everything(clients)
            finally:
                for client in clients:
                    client.close()
        wait_for("all to be level", lambda: level(made))
    finally:
        made.close()
    check_terms(made, hive_id)
    check_calls(book, check_disks(book, made))
    print(f"{dict(book.outcomes)}, {time.monotonic() - begun:.0f} s in all")


def go_through_all(stage: Stage, clients: list[Client], ends: threading.Event) -> None:
    for client in clients:
        client.start()
    try:
        stage.stands("no fault")
        for fault in FAULTS:
            fault(stage)
            stage.heals()
    finally:
        ends.set()
        for client in clients:
            client.join(DONE_DEADLINE_S + 2 * TRY_S)
    assert not any(client.is_alive() for client in clients), "a call hangs"


def read_everything(clients: list[Client]) -> None:
    """Each account at each machine, when all is over."""
    for client in clients[::CLIENTS_PER_GROUP]:
        for machine in range(MACHINES):
            for account in range(ACCOUNTS):
                client.read(account, machine)


def history(*found: tuple[int, int | None, Step]) -> list[Operation]:
    return [Operation(called_at=called, returned_at=to, step=step, text=f"{called}") for called, to, step in found]


def test_lost_doubled_undone_and_outdated_answers_are_found() -> None:
    start, move = (GRANT_CPT,) * ACCOUNTS, moves(0, 1, 7, GRANT_CPT - 7)
    assert check(history((0, 1, move), (2, 3, has(0, GRANT_CPT - 7)), (2, 3, has(1, GRANT_CPT + 7))), start) is None
    lost = history((0, 1, move), (2, 3, has(1, GRANT_CPT)))
    doubled = history((0, 1, move), (2, 3, has(1, GRANT_CPT + 14)))
    half = history((0, None, moves(0, 1, 7, None)), (2, 3, has(1, GRANT_CPT + 7)), (4, 5, has(0, GRANT_CPT)))
    undone = history((0, None, moves(0, 1, 7, None)), (2, 3, has(1, GRANT_CPT + 7)), (4, 5, has(1, GRANT_CPT)))
    refused = history((0, 1, lacks(0, 7)))
    taken_twice = [history((0, 5, takes), (1, 6, takes)), history((0, 1, same(True)))]
    assert all(check(wrong, start) is not None for wrong in (lost, doubled, half, undone, refused))
    assert all(check(wrong, False) is not None for wrong in taken_twice)
