"""Whatever log is applied: the books balance, the indices agree with the records, and a replay gives the same bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hivenode.encoding.claim import ClaimPurpose
from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import Record, encode_record
from hivenode.pool import invariants, queries
from hivenode.pool.commands import (
    AdmitNode,
    ApproveNode,
    AssignTask,
    ChangePassword,
    ClaimAdmin,
    ClaimNode,
    CloseSession,
    CreateHive,
    CreateJoinToken,
    DenyNode,
    DropForeignWorkers,
    EndAttempt,
    LoseAttempt,
    OpenSession,
    RegisterForeignWorker,
    RegisterUser,
    RemoveNode,
    RevokeNode,
    SetTrust,
    SetUserRole,
    StartAttempt,
    StopTask,
    SubmitTask,
    Sweep,
    TakeOutNode,
    Transfer,
    UnregisterNode,
)
from hivenode.pool.placement import LiveNode, plan
from hivenode.pool.records import (
    AttemptOutcome,
    BlobRef,
    Needs,
    NodeRights,
    Priority,
    TaskSpec,
    TrustMode,
    UserRole,
    WayOut,
)
from hivenode.pool.state_machine import Applied, apply
from simulations.views import MemoryView
from tests.unit.pool.driver import (
    START_MS,
    SUPPLY,
    Hive,
    capabilities,
    node_id,
    signed_claim,
    signed_record,
    verify,
)

USERS = ("alice", "bob", "Carol")
users = st.sampled_from((*USERS, "ALICE", "nobody", "no\0body", ""))
sessions = st.sampled_from(("s1", "s2", "s3", "s4", "s5"))
task_ids = st.sampled_from(("t1", "t2", "t3", "t4", "t/5"))
NODES = (node_id(1), node_id(2))
node_ids = st.sampled_from((*NODES, "foreign-1", "foreign-2", "x" * 200))
attempts = st.integers(0, 3)
blobs = st.builds(
    BlobRef, sha256=st.sampled_from(("a" * 64, "b" * 64, "c" * 64, "Z" * 64)), size_bytes=st.integers(-1, 5)
)
good_blobs = st.builds(BlobRef, sha256=st.sampled_from(("a" * 64, "b" * 64, "c" * 64)), size_bytes=st.just(7))
amounts = st.one_of(st.integers(1, 400), st.integers(-(1 << 64), (1 << 64) - 1))
specs = st.builds(
    TaskSpec,
    needs=st.builds(Needs, memory_gb=st.sampled_from((0, 1, 8, 64))),
    priority=st.sampled_from(Priority),
    time_limit_s=st.sampled_from((1, 60, 61, 300)),
    attempts_max=st.integers(1, 3),
    dependencies=st.lists(task_ids, max_size=3, unique=True).map(tuple),
)
offers = st.builds(lambda slots: capabilities(slots=slots), st.integers(0, 3))
outcomes = st.sampled_from(AttemptOutcome)


def _admission(number: int, sequence: int, slots: int) -> AdmitNode:
    record = signed_record(number, sequence=sequence, offer=capabilities(slots=slots))
    return AdmitNode(signed_record=encode_record(record), rights=NodeRights.WORKER)


claims = st.one_of(
    st.builds(
        signed_claim,
        st.integers(1, 2),
        users,
        st.sampled_from(ClaimPurpose),
        expires_ms=st.sampled_from((START_MS + 1, START_MS + 600_000, START_MS + 1_200_000)),
        hive_id=st.sampled_from(("h", "h+1.aa", "other")),
    ),
    st.binary(max_size=20),
)
any_command: st.SearchStrategy[Record] = st.one_of(
    st.builds(CreateHive, hive_id=st.just("h"), supply=amounts, signup_grant=amounts, grants_per_day_max=amounts),
    st.builds(RegisterUser, username=users, password_hash=st.sampled_from(("x", "")), email=st.sampled_from(("", "a"))),
    st.builds(OpenSession, session_id=sessions, username=users, lifetime_ms=st.sampled_from((0, 1_000, 86_400_000))),
    st.builds(CloseSession, session_id=sessions),
    st.builds(Transfer, session_id=sessions, receiver=users, amount=amounts),
    st.builds(_admission, st.integers(1, 2), st.integers(1, 9), st.integers(0, 3)),
    st.builds(AdmitNode, signed_record=st.binary(max_size=20), rights=st.sampled_from(NodeRights)),
    st.builds(RemoveNode, node_id=node_ids, reason=st.text(max_size=3)),
    st.builds(RegisterForeignWorker, session_id=sessions, node_id=node_ids, capabilities=offers, port=st.just(1)),
    st.builds(UnregisterNode, session_id=sessions, node_id=node_ids),
    st.builds(DropForeignWorkers, node_ids=st.lists(node_ids, max_size=3).map(tuple)),
    st.builds(SubmitTask, session_id=sessions, task_id=task_ids, spec=specs, data=blobs, data_holders=st.just(("n1",))),
    st.builds(AssignTask, user=users, task_id=task_ids, attempt=attempts, node_id=node_ids),
    st.builds(StartAttempt, user=users, task_id=task_ids, attempt=attempts, node_id=node_ids),
    st.builds(
        EndAttempt,
        user=users,
        task_id=task_ids,
        attempt=attempts,
        node_id=node_ids,
        outcome=outcomes,
        exit_code=st.sampled_from((None, 0, 1)),
        reason=st.just(""),
        result=st.none() | blobs,
        log=st.none() | blobs,
        output_holders=st.just(()),
    ),
    st.builds(
        LoseAttempt, user=users, task_id=task_ids, attempt=attempts, node_id=node_ids, reason=st.text(max_size=3)
    ),
    st.builds(StopTask, session_id=sessions, task_id=task_ids),
    st.builds(
        ChangePassword,
        session_id=sessions,
        checked_hash=st.sampled_from(("x", "y")),
        password_hash=st.sampled_from(("x", "y", "")),
        new_session_id=sessions,
        lifetime_ms=st.sampled_from((0, 1_000, 86_400_000)),
    ),
    st.builds(SetUserRole, session_id=sessions, username=users, role=st.sampled_from(UserRole)),
    st.builds(ClaimAdmin, session_id=sessions, signed_claim=claims),
    st.builds(ClaimNode, session_id=sessions, signed_claim=claims),
    st.builds(SetTrust, mode=st.sampled_from(TrustMode)),
    st.builds(
        CreateJoinToken,
        key_hash=st.sampled_from(("0" * 64, "1" * 64, "x")),
        rights=st.sampled_from(NodeRights),
        lifetime_ms=st.sampled_from((-1, 1_000, 3_600_000)),
    ),
    st.builds(ApproveNode, node_id=node_ids, rights=st.sampled_from(NodeRights)),
    st.builds(DenyNode, node_id=node_ids),
    st.builds(RevokeNode, node_id=node_ids, reason=st.text(max_size=3)),
    st.builds(
        TakeOutNode,
        node_id=node_ids,
        way=st.sampled_from(WayOut),
        reason=st.text(max_size=3),
        decided_at=st.sampled_from((-1, 0, 5, 1_000)),
    ),
    st.builds(Sweep, keep_tasks_ms=st.sampled_from((-1, 0, 1_000)), rows_max=st.sampled_from((0, 1, 100))),
)


class AnyLog(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.hive = Hive(created=False)
        self.applied: list[Applied] = []

    @initialize()
    def a_hive_with_users_and_nodes(self) -> None:
        self.send(CreateHive(hive_id="h", supply=SUPPLY, signup_grant=1_000, grants_per_day_max=2))
        for number, name in enumerate(USERS, start=1):
            self.send(RegisterUser(username=name, password_hash="x", email=""))
            self.send(OpenSession(session_id=f"s{number}", username=name, lifetime_ms=86_400_000))
        for number in (1, 2):
            self.send(_admission(number, 1, 2))

    def send(self, command: Record, **request: Any) -> None:
        before = self.hive.view.rows()
        applied = self.hive.send(command, **request)
        self.applied.append(applied)
        if applied.reply.refused or applied.repeated:
            after = self.hive.view.rows()
            changed = {key[:1] for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
            assert changed <= {b"c", b"r", b"R", b"q", b"o"}
            assert applied.events == ()

    @rule(ms=st.sampled_from((1, 1_000, 59_000, 60_000, 61_000, 86_400_000, -5_000)))
    def time_goes(self, ms: int) -> None:
        self.hive.now_ms += ms

    @rule(command=any_command)
    def any_command_comes(self, command: Record) -> None:
        self.send(command)

    @rule(
        command=any_command,
        owner=users,
        key=st.sampled_from(("k1", "k2", "k\0")),
        keep_ms=st.sampled_from((-1, 0, 1_000)),
    )
    def any_request_comes(self, command: Record, owner: str, key: str, keep_ms: int) -> None:
        self.send(command, owner=owner, key=key, keep_ms=keep_ms)

    @rule(data=st.binary(max_size=40))
    def rubbish_comes(self, data: bytes) -> None:
        self.applied.append(self.hive.entry(data))

    @rule(data=st.data())
    def a_damaged_entry_comes_again(self, data: st.DataObject) -> None:
        entry = bytearray(data.draw(st.sampled_from(self.hive.log)))
        if entry:
            # The envelope's time is left alone: a bit of it ends every session at once.
            entry[data.draw(st.integers(min(12, len(entry) - 1), len(entry) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        self.applied.append(self.hive.entry(bytes(entry)))

    @rule(session=st.sampled_from(("s1", "s2")), task_id=task_ids, spec=specs, blob=good_blobs)
    def a_task_is_submitted(self, session: str, task_id: str, spec: TaskSpec, blob: BlobRef) -> None:
        known = queries.session(self.hive.view, session)
        there = known and {t.task_id for t in queries.tasks_of(self.hive.view, known.username, limit=9)}
        dependencies = tuple(name for name in spec.dependencies if there and name in there and name != task_id)
        kept = TaskSpec(
            needs=spec.needs,
            priority=spec.priority,
            time_limit_s=spec.time_limit_s,
            attempts_max=spec.attempts_max,
            dependencies=dependencies,
        )
        self.send(SubmitTask(session_id=session, task_id=task_id, spec=kept, data=blob, data_holders=()))

    @rule(number=st.integers(1, 3))
    def a_user_logs_in_again(self, number: int) -> None:
        if queries.session(self.hive.view, f"s{number}") is None:
            self.send(Sweep(keep_tasks_ms=86_400_000, rows_max=100))
            self.send(OpenSession(session_id=f"s{number}", username=USERS[number - 1], lifetime_ms=86_400_000))

    @rule(session=sessions, receiver=users, amount=st.integers(1, 400))
    def a_transfer_is_made(self, session: str, receiver: str, amount: int) -> None:
        self.send(Transfer(session_id=session, receiver=receiver, amount=amount))

    @rule(session=st.sampled_from(("s1", "s2")), task_id=task_ids)
    def a_task_is_stopped(self, session: str, task_id: str) -> None:
        self.send(StopTask(session_id=session, task_id=task_id))

    @rule(number=st.integers(1, 2), name=st.sampled_from(USERS), purpose=st.sampled_from(ClaimPurpose))
    def a_machine_is_claimed(self, number: int, name: str, purpose: ClaimPurpose) -> None:
        claim = signed_claim(number, name, purpose, hive_id="h", expires_ms=self.hive.now_ms + 60_000)
        kind = ClaimNode if purpose is ClaimPurpose.NODE else ClaimAdmin
        self.send(kind(session_id=f"s{USERS.index(name) + 1}", signed_claim=claim))

    @rule(keep_ms=st.sampled_from((0, 1_000)))
    def what_is_over_is_swept(self, keep_ms: int) -> None:
        self.send(Sweep(keep_tasks_ms=keep_ms, rows_max=3))

    @rule()
    def the_plan_is_carried_out(self) -> None:
        live = {NodeId(name): LiveNode(node_id=NodeId(name)) for name in NODES}
        for command in plan(self.hive.view, live):
            self.send(command)
            assert not self.applied[-1].reply.refused

    @rule(data=st.data(), outcome=outcomes, exit_code=st.sampled_from((0, 1)), step=st.integers(0, 5))
    def an_attempt_goes_on(self, data: st.DataObject, outcome: AttemptOutcome, exit_code: int, step: int) -> None:
        open_tasks = queries.open_attempts(self.hive.view)
        if not open_tasks:
            return
        task = data.draw(st.sampled_from(open_tasks))
        place: dict[str, Any] = {
            "user": task.user,
            "task_id": task.task_id,
            "attempt": task.attempt,
            "node_id": task.node_id,
        }
        if step < 2:
            self.send(StartAttempt(**place))
        elif step == 2:
            self.send(LoseAttempt(reason="gone", **place))
        else:
            blob = data.draw(good_blobs)
            if step == 3:
                outcome, exit_code = AttemptOutcome.EXITED, 0
            self.send(
                EndAttempt(
                    outcome=outcome, exit_code=exit_code, reason="", result=blob, log=None, output_holders=(), **place
                )
            )

    @invariant()
    def all_that_must_hold_holds(self) -> None:
        invariants.check(self.hive.view)

    def teardown(self) -> None:
        again = MemoryView()
        replies = [apply(again, index, data, verify) for index, data in enumerate(self.hive.log, start=1)]
        assert replies == self.applied
        assert again.rows() == self.hive.view.rows()


TestAnyLog = AnyLog.TestCase
TestAnyLog.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
