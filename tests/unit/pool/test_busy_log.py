"""A long log of a busy hive, the same for the same seed: users, transfers, tasks, faults, repeats, sweeps, joins and leaves."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import encode_record
from hivenode.errors import Code
from hivenode.ledger import chain
from hivenode.ledger.entries import EntryKind
from hivenode.pool import invariants, queries
from hivenode.pool.commands import (
    AdmitNode,
    ChangePassword,
    ClaimNode,
    LoseAttempt,
    OpenSession,
    RemoveNode,
    StartAttempt,
    StopTask,
    Sweep,
    Transfer,
)
from hivenode.pool.placement import LiveNode, plan, why_pending
from hivenode.pool.records import AttemptOutcome, BlobRef, Needs, NodeRights, Priority, TaskRecord, TaskState
from hivenode.pool.state_machine import apply
from simulations.views import MemoryView
from tests.unit.pool.driver import (
    SUPPLY,
    Hive,
    capabilities,
    end_of,
    node_id,
    signed_claim,
    signed_record,
    submission,
    verify,
)

STEPS = 2_000
CHECKED_EVERY = 100
USERS = ("alice", "bob", "carol", "dave")


class BusyHive:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.hive = Hive(grant=20_000)
        self.sessions = {name: self.hive.user(name) for name in USERS}
        self.live: dict[NodeId, LiveNode] = {}
        self.codes: Counter[tuple[str, int]] = Counter()
        self.ended: dict[tuple[str, str, int], TaskState] = {}
        self.number = 0
        for node in (1, 2, 3):
            self.join(node)

    def send(self, command: object, **request: str) -> None:
        applied = self.hive.send(command, **request)  # type: ignore[arg-type]
        self.codes[type(command).__name__, applied.reply.code] += 1

    def join(self, number: int) -> None:
        self.number += 1
        offer = capabilities(slots=self.random.randint(1, 4), memory_gb=self.random.choice((8, 16, 32)))
        record = signed_record(number, sequence=self.number, incarnation=f"i{self.number}", offer=offer)
        self.send(AdmitNode(signed_record=encode_record(record), rights=NodeRights.VOTER))
        self.live[node_id(number)] = LiveNode(node_id=node_id(number))

    def user(self) -> str:
        name = self.random.choice(USERS)
        if queries.session(self.hive.view, self.sessions[name]) is None:
            self.number += 1
            self.sessions[name] = f"session-{self.number}"
            self.send(OpenSession(session_id=self.sessions[name], username=name, lifetime_ms=3_600_000))
        return name

    def submit(self) -> None:
        name = self.user()
        self.number += 1
        others = [task.task_id for task in queries.tasks_of(self.hive.view, name, limit=6)]
        command = submission(
            self.sessions[name],
            self.random.choice((f"task-{self.number}", "again")),
            data=BlobRef(sha256=self.random.choice("abc") * 64, size_bytes=9),
            needs=Needs(memory_gb=self.random.choice((0, 1, 4, 30))),
            priority=self.random.choice(list(Priority)),
            time_limit_s=self.random.choice((60, 300)),
            attempts_max=self.random.randint(1, 3),
            dependencies=tuple(self.random.sample(others, min(len(others), self.random.choice((0, 0, 1, 2))))),
        )
        self.send(command)

    def transfer(self) -> None:
        name = self.user()
        command = Transfer(
            session_id=self.sessions[name], receiver=self.random.choice(USERS), amount=self.random.randint(1, 500)
        )
        self.number += 1
        key = self.random.choice(("", f"k{self.number}"))
        for _ in range(self.random.randint(1, 2)):
            self.send(command, owner=name, key=key)

    def stop(self) -> None:
        name = self.user()
        tasks = queries.tasks_of(self.hive.view, name, limit=3)
        if tasks:
            self.send(StopTask(session_id=self.sessions[name], task_id=self.random.choice(tasks).task_id))

    def place(self) -> None:
        for command in plan(self.hive.view, self.live, limit=4):
            self.send(command)

    def work(self) -> None:
        tasks = queries.open_attempts(self.hive.view)
        if not tasks:
            return
        task = self.random.choice(tasks)
        attempt = max(1, task.attempt - self.random.choice((0, 0, 0, 1)))
        place = {"user": task.user, "task_id": task.task_id, "node_id": task.node_id}
        match self.random.randint(0, 9):
            case 0 | 1 | 2 | 3:
                self.send(StartAttempt(attempt=attempt, **place))
            case 4:
                self.send(LoseAttempt(attempt=attempt, reason="gone", **place))
            case 5 | 6:
                outcome = self.random.choice(list(AttemptOutcome))
                self.send(end_of(task.user, task.task_id, task.node_id, attempt=attempt, outcome=outcome))
            case _:
                self.send(end_of(task.user, task.task_id, task.node_id, attempt=attempt))

    def leave_or_join(self) -> None:
        number = self.random.choice((1, 2, 3))
        if node_id(number) in self.live and self.random.random() < 0.5:
            del self.live[node_id(number)]
            self.send(RemoveNode(node_id=node_id(number), reason="left"))
        else:
            self.join(number)

    def claim(self) -> None:
        """A machine goes to a user, who may be the one whose task it runs; and that user changes the password."""
        name = self.user()
        number = self.random.choice((1, 2, 3))
        self.hive.later(1)
        claim = signed_claim(number, name, expires_ms=self.hive.now_ms + 60_000)
        self.send(ClaimNode(session_id=self.sessions[name], signed_claim=claim))
        user = queries.user(self.hive.view, name)
        assert user is not None
        self.number += 1
        self.send(
            ChangePassword(
                session_id=self.sessions[name],
                checked_hash=user.password_hash,
                password_hash=f"hash-{self.number}",
                new_session_id=f"session-{self.number}",
                lifetime_ms=3_600_000,
            )
        )
        self.sessions[name] = f"session-{self.number}"

    def step(self) -> None:
        self.hive.later(self.random.choice((0, 1, 50, 2_000, 30_000)))
        doing = (
            self.submit,
            self.transfer,
            self.stop,
            self.place,
            self.work,
            self.leave_or_join,
            self.sweep,
            self.claim,
        )
        self.random.choices(doing, weights=(8, 4, 2, 10, 18, 2, 2, 1))[0]()

    def sweep(self) -> None:
        self.send(Sweep(keep_tasks_ms=600_000, rows_max=20))

    def watch_states(self) -> None:
        """A task that has ended never changes its state again; what waits can say why."""
        for name in USERS:
            for task in queries.tasks_of(self.hive.view, name, limit=1_000):
                key = (task.user, task.task_id, task.submitted_ms)
                if task.state.ended:
                    assert self.ended.setdefault(key, task.state) is task.state
                else:
                    assert key not in self.ended
                self.explain(task)

    def explain(self, task: TaskRecord) -> None:
        if task.state is TaskState.PENDING:
            assert why_pending(self.hive.view, self.live, task)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_busy_hive_keeps_its_books_and_replays_to_the_same_bytes(seed: int) -> None:
    busy = BusyHive(seed)
    for step in range(STEPS):
        busy.step()
        if step % CHECKED_EVERY == 0:
            invariants.check(busy.hive.view)
            busy.watch_states()
    invariants.check(busy.hive.view)
    assert queries.total_cpt(busy.hive.view) == SUPPLY
    kinds = Counter(entry.kind for entry in chain.entries(busy.hive.view))
    for kind in EntryKind:
        assert kinds[kind] >= 1, f"this seed never came to {kind}"
    for name in (
        "SubmitTask",
        "AssignTask",
        "StartAttempt",
        "EndAttempt",
        "LoseAttempt",
        "StopTask",
        "Transfer",
        "Sweep",
        "ClaimNode",
        "ChangePassword",
    ):
        assert busy.codes[name, Code.SUCCESS] >= 5, f"this seed did too little of {name}"
    again = MemoryView()
    for index, data in enumerate(busy.hive.log, start=1):
        apply(again, index, data, verify)
    assert again.digest() == busy.hive.view.digest()
