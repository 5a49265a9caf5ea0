"""Daemons are killed at random moments under registrations, transfers, tasks and stops; nothing acknowledged may be lost.

`HIVENODE_TEST_KILLS` sets how many kills there are, `HIVENODE_TEST_SEED` repeats a run's choices (not its timing).
"""

from __future__ import annotations

import json
import os
import random
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from hivenode.errors import Code, Outcome
from hivenode.ledger import chain
from hivenode.pb import nodepool_pb2
from hivenode.pool import invariants, queries
from hivenode.storage.state_store import StateStore
from tests.e2e.user import MASTER, PASSWORD, PAUSE_S, USERS, CallError, User
from tests.support.daemons import CHANNEL_OPTIONS, Daemon, Hive, hive, wait_for

KILLS = int(os.environ.get("HIVENODE_TEST_KILLS", "50"))
SEED = int(os.environ.get("HIVENODE_TEST_SEED", str(secrets.randbelow(1 << 32))))
CLIENTS = 4
GRANT_CPT = 1000
BETWEEN_KILLS_S = (0.0, 1.0)
AT_ONCE = 0.2
"""How often a kill does not wait until the hive has done something since the last one: then several may be down."""
PROGRESS_DEADLINE_S = 15.0
DOWN_S = (0.0, 1.0)
TRY_S = 4.0
"""One try of a call; a leader is replaced well within it."""
DONE_DEADLINE_S = 60.0
"""After the last restart everything that was begun must come to its end."""
TASK = "print('done')\n"
LONGER_TASK = "import time\ntime.sleep(1)\nprint('done')\n"
SLEEPER = "import time\ntime.sleep(600)\n"
TASK_COST_CPT = 1
RETRIES = 15
"""A task must outlive as many deaths of its machine as may come."""


class Line:
    """A way to one daemon for one client, dialled anew when the daemon has moved."""

    def __init__(self, daemon: Daemon) -> None:
        self._path = daemon.data_dir / "daemon.json"
        self._address = ""
        self._channel: grpc.Channel | None = None

    @property
    def channel(self) -> grpc.Channel:
        try:
            address = str(json.loads(self._path.read_text())["api_address"])
        except (OSError, ValueError):
            address = self._address or "127.0.0.1:9"  # It is down: a refused connection says so.
        if self._channel is None or address != self._address:
            self.close()
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
            self._address = address
        return self._channel

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


@dataclass
class Book:
    """What was acknowledged, by all clients."""

    balances: Counter[str] = field(default_factory=Counter)
    """Of all accounts that were acknowledged."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Of the clients' own accounts."""
    transfers: int = 0
    tasks: list[tuple[str, str]] = field(default_factory=list)
    """Account and id of those that must complete."""
    stopped: list[tuple[str, str]] = field(default_factory=list)
    """Those whose stop was acknowledged."""
    retried: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def acknowledged(self) -> int:
        return len(self.balances) + self.transfers + len(self.tasks) + len(self.stopped)

    def registered(self, name: str) -> None:
        with self.lock:
            self.balances[name] += GRANT_CPT

    def transferred(self, sender: str, receiver: str, amount: int) -> None:
        with self.lock:
            self.transfers += 1
            self.balances[sender] -= amount
            self.balances[receiver] += amount


class Client(threading.Thread):
    """One program: register, transfer, submit, each write under a key and repeated until it is done or refused."""

    def __init__(self, number: int, made: Hive, book: Book, rng: random.Random, stop: threading.Event) -> None:
        super().__init__(name=f"client{number}")
        self.account = f"client{number}"
        self.lines = [Line(daemon) for daemon in made]
        self.book = book
        self.rng = rng
        self.ends = stop
        self.token = ""
        self.made = 0

    def run(self) -> None:
        try:
            self._register(self.account)
            self._log_in()
            while not self.ends.is_set():
                self._act()
        except Exception as error:
            with self.book.lock:
                self.book.faults.append(f"{self.name}: {error!r}")
        finally:
            for line in self.lines:
                line.close()

    def _act(self) -> None:
        self.made += 1
        match self.rng.choices(("register", "transfer", "stop", "task"), weights=(2, 16, 1, 4))[0]:
            case "register":
                self._register(f"{self.account}x{self.made}")
            case "transfer":
                with self.book.lock:
                    others = sorted(set(self.book.balances) - {self.account})
                if others:
                    self._transfer(self.rng.choice(others), self.rng.randint(1, 5))
            case "stop":
                if self._submit(f"stopped{self.made}", SLEEPER):
                    self._stop_task(f"stopped{self.made}")
            case _:
                if self._submit(f"task{self.made}", self.rng.choice((TASK, LONGER_TASK))):
                    with self.book.lock:
                        self.book.tasks.append((self.account, f"task{self.made}"))

    def _insist(self, what: str, method: str, request: Message, answer: Any) -> Any:
        """Repeats a call under one key, each time through any daemon, until it is done or refused."""
        key = secrets.token_hex(8)
        deadline: float | None = None
        while True:
            through = User(self.account, self.rng.choice(self.lines), self.token)
            try:
                return through.call(method, request, answer, key=key, timeout_s=TRY_S)
            except CallError as error:
                if error.outcome is Outcome.REFUSED:
                    raise
                with self.book.lock:
                    self.book.retried[f"{what}: {error.outcome.value} {error.code}"] += 1
                if self.ends.is_set():
                    deadline = deadline or time.monotonic() + DONE_DEADLINE_S
                    if time.monotonic() > deadline:
                        raise
            time.sleep(PAUSE_S)

    def _register(self, name: str) -> None:
        request = nodepool_pb2.RegisterRequest(username=name, password=PASSWORD)
        self._insist("register", f"{USERS}Register", request, nodepool_pb2.RegisterResponse)
        self.book.registered(name)

    def _log_in(self) -> None:
        request = nodepool_pb2.LoginRequest(username=self.account, password=PASSWORD)
        self.token = self._insist("log in", f"{USERS}Login", request, nodepool_pb2.LoginResponse).token
        with self.book.lock:
            self.book.tokens[self.account] = self.token

    def _transfer(self, receiver: str, amount: int) -> None:
        request = nodepool_pb2.TransferRequest(token=self.token, receiver_username=receiver, amount=amount)
        try:
            self._insist("transfer", f"{USERS}Transfer", request, nodepool_pb2.TransferResponse)
        except CallError as error:
            # Too much may be held for tasks at that moment; then nothing moved.
            if error.code != Code.INSUFFICIENT_BALANCE:
                raise
            return
        self.book.transferred(self.account, receiver, amount)

    def _stop_task(self, task_id: str) -> None:
        request = nodepool_pb2.StopTaskRequest(task_id=task_id, token=self.token)
        self._insist("stop", f"{MASTER}StopTask", request, nodepool_pb2.StopTaskResponse)
        with self.book.lock:
            self.book.stopped.append((self.account, task_id))

    def _submit(self, task_id: str, program: str) -> bool:
        """Whether the task was accepted; it is not when the account has too little."""
        request = nodepool_pb2.UploadTaskRequest(task_id=task_id, task_data=program.encode(), retries=RETRIES)
        try:
            self._insist("submit", f"{MASTER}UploadTask", request, nodepool_pb2.UploadTaskResponse)
        except CallError as error:
            if error.code != Code.INSUFFICIENT_BALANCE:
                raise
            return False
        return True


def _kill_again_and_again(
    made: Hive, book: Book, rng: random.Random, kills: int, clients: list[Client]
) -> Counter[str]:
    """SIGKILL to any daemon at any moment, and a new start on its data; several may be down at once."""
    killed: Counter[str] = Counter()
    back: dict[Daemon, float] = {}
    while sum(killed.values()) < kills:
        done, bound = book.acknowledged, time.monotonic() + PROGRESS_DEADLINE_S
        waits = rng.random() >= AT_ONCE
        moment = time.monotonic() + rng.uniform(*BETWEEN_KILLS_S)
        while (now := time.monotonic()) < moment or (waits and book.acknowledged == done and now < bound):
            for daemon in [each for each, at in back.items() if at <= now]:
                del back[daemon]
                daemon.start()
            time.sleep(PAUSE_S)
        assert any(client.is_alive() for client in clients), "no client is left"
        running = made.running
        assert len(running) + len(back) == len(made.daemons), "a daemon ended by itself"
        if running:
            victim = rng.choice(running)
            victim.kill()
            killed[victim.name] += 1
            back[victim] = time.monotonic() + rng.uniform(*DOWN_S)
    for daemon in back:
        daemon.start()
    return killed


def _all_tasks_ended(book: Book, daemon: Daemon) -> bool | None:
    for account, token in book.tokens.items():
        listed = User(account, daemon, token).call(
            f"{MASTER}GetAllTasks", nodepool_pb2.GetAllTasksRequest(), nodepool_pb2.GetAllTasksResponse
        )
        if any(task.status in ("PENDING", "RUNNING") for task in listed.tasks):
            return None
    return True


def _check_tasks(book: Book, made: Hive) -> None:
    """Every accepted task completed, once, with its whole log and a result, and cost one started minute; stops held."""
    assert len(set(book.tasks)) == len(book.tasks)
    for number, (account, task_id) in enumerate(book.tasks):
        user = User(account, made[number % len(made.daemons)], book.tokens[account])
        detail = user.detail(task_id)
        assert (detail.state, detail.exit_code, detail.cpt_paid, detail.cpt_held) == (
            "COMPLETED",
            0,
            TASK_COST_CPT,
            0,
        ), f"{account}/{task_id}: {detail}"
        assert user.logs(task_id) == "done\n", f"{account}/{task_id}"
        assert user.result(task_id), f"{account}/{task_id}"
        book.balances[account] -= TASK_COST_CPT
    for account, task_id in book.stopped:
        detail = User(account, made[0], book.tokens[account]).detail(task_id)
        # It may have been stopped before its first minute began, or in it.
        assert (detail.state, detail.cpt_held) == ("STOPPED", 0), f"{account}/{task_id}: {detail}"
        assert detail.cpt_paid in (0, TASK_COST_CPT), f"{account}/{task_id}: {detail}"
        book.balances[account] -= detail.cpt_paid


def _check_money(book: Book, made: Hive) -> None:
    """Every balance that can be asked for is what was acknowledged, at every daemon, with the tokens of the beginning."""
    for daemon in made:
        for account, token in book.tokens.items():
            assert User(account, daemon, token).balance() == book.balances[account], account


def _check_disks(book: Book, made: Hive) -> None:
    """What each node has on disk is sound by itself and the same as the others'."""
    heads: list[tuple[int, dict[int, object], dict[bytes, bytes], int]] = []
    for daemon in made:
        store = StateStore(daemon.data_dir / "state")
        try:
            invariants.check(store)
            record = queries.hive(store)
            assert record is not None
            assert queries.total_cpt(store) == record.supply
            height, _ = chain.verify_chain(store)
            entries: dict[int, object] = {entry.height: entry for entry in chain.entries(store)}
            assert len(entries) == height
            for name, balance in book.balances.items():
                assert queries.user(store, name) is not None, f"{name} is lost on {daemon.name}"
                assert queries.balance(store, name) == balance, f"{name} on {daemon.name}"
            assert queries.counts(store).users == len(book.balances)
            heads.append((height, entries, dict(store.scan(b"")), store.applied_index))
        finally:
            store.close()
    common = min(height for height, *_ in heads)
    assert common > book.transfers
    first = heads[0]
    for _, entries, rows, applied_index in heads[1:]:
        assert all(entries[height] == first[1][height] for height in range(1, common + 1))
        assert applied_index != first[3] or rows == first[2]


def _level(made: Hive) -> bool | None:
    """Whether all have applied the same entries."""
    reports = [daemon.status() for daemon in made]
    return True if len({report.applied_index for report in reports}) == 1 else None


@pytest.mark.slow
@pytest.mark.timeout(200 + 4 * KILLS)
def test_nothing_acknowledged_is_lost_or_doubled_by_kills_at_random_moments(tmp_path: Path) -> None:
    print(f"HIVENODE_TEST_SEED={SEED} HIVENODE_TEST_KILLS={KILLS}")
    rng = random.Random(SEED)
    book, ends = Book(), threading.Event()
    with hive(tmp_path, 3, "--executor", "sandbox", "--slots", "2", workers=3) as made:
        clients = [Client(number, made, book, random.Random(rng.random()), ends) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        begun = time.monotonic()
        try:
            killed = _kill_again_and_again(made, book, rng, KILLS, clients)
        finally:
            ends.set()
            for client in clients:
                client.join(DONE_DEADLINE_S + 2 * TRY_S)
        made.wait(workers=3)
        print(f"{sum(killed.values())} kills in {time.monotonic() - begun:.0f} s: {dict(killed)}")
        print(f"acknowledged: {len(book.balances)} users, {book.transfers} transfers")
        print(f"and {len(book.tasks)} tasks that complete, {len(book.stopped)} that were stopped")
        print(f"repeated: {dict(book.retried)}")
        assert not book.faults
        assert not any(client.is_alive() for client in clients)
        assert book.acknowledged > KILLS // 2, "too little was going on"
        wait_for("the end of all tasks", lambda: _all_tasks_ended(book, made.leader()), deadline_s=DONE_DEADLINE_S)
        _check_tasks(book, made)
        _check_money(book, made)
        wait_for("all to be level", lambda: _level(made))
    _check_disks(book, made)
