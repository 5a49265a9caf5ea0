"""Drives the state machine as a leader's log would: one command an entry, the reply handed back."""

from __future__ import annotations

from typing import TypeVar

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from hivenode.encoding.claim import CLAIM_DOMAIN, Claim, ClaimPurpose, SignedClaim
from hivenode.encoding.node_record import (
    Capabilities,
    NodeId,
    NodeRecord,
    Role,
    SignedNodeRecord,
    node_id_of,
    sign_record,
)
from hivenode.encoding.records import Record, encode_record
from hivenode.errors import Code
from hivenode.pool import queries
from hivenode.pool.commands import (
    AdmitNode,
    AssignTask,
    ClaimAdmin,
    CreateHive,
    EndAttempt,
    Envelope,
    LoseAttempt,
    OpenSession,
    RegisterUser,
    Reply,
    StartAttempt,
    SubmitTask,
)
from hivenode.pool.events import Event
from hivenode.pool.records import AttemptOutcome, BlobRef, NodeEntry, NodeRights, TaskRecord, TaskSpec, UserRole
from hivenode.pool.state_machine import Applied, apply
from simulations.views import MemoryView

START_MS = 1_800_000_000_000
HIVE_ID = "ab" * 16
SUPPLY = 1_000_000
GRANT = 1_000
DATA = BlobRef(sha256="d" * 64, size_bytes=100)
RESULT = BlobRef(sha256="e" * 64, size_bytes=200)
LOG = BlobRef(sha256="f" * 64, size_bytes=300)
E = TypeVar("E", bound=Event)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def capabilities(**changes: object) -> Capabilities:
    fields: dict[str, object] = {
        "hostname": "box",
        "cpu_cores": 4,
        "memory_gb": 16,
        "cpu_score": 1000,
        "gpu_score": 0,
        "gpu_memory_gb": 0,
        "gpu_name": "",
        "location": "",
        "docker_status": "running",
        "executor": "docker",
        "executor_note": "",
        "slots": 4,
    }
    return Capabilities(**{**fields, **changes})  # type: ignore[arg-type]


def signed_record(
    number: int, *, sequence: int = 1, offer: Capabilities | None = None, incarnation: str = "i1"
) -> SignedNodeRecord:
    key = SigningKey(bytes([number]) * 32)
    public = bytes(key.verify_key)
    record = NodeRecord(
        node_id=node_id_of(public),
        public_key=public,
        incarnation=incarnation,
        role=Role.AUTO,
        addresses=("10.0.0.1:50052",),
        capabilities=offer or capabilities(),
        sequence=sequence,
        expires_ms=START_MS * 2,
        version="0.1.0",
        certificate_sha256=bytes(32),
    )
    return sign_record(record, lambda message: key.sign(message).signature)


def signed_claim(
    number: int,
    username: str,
    purpose: ClaimPurpose = ClaimPurpose.NODE,
    *,
    expires_ms: int = START_MS + 600_000,
    hive_id: str = HIVE_ID,
    signer: int = 0,
) -> bytes:
    """What the node of this number says of a user; `signer` is another node that signs in its place."""
    key = SigningKey(bytes([signer or number]) * 32)
    claim = Claim(purpose=purpose, hive_id=hive_id, node_id=node_id(number), username=username, expires_ms=expires_ms)
    data = encode_record(claim)
    return encode_record(SignedClaim(claim=data, signature=key.sign(CLAIM_DOMAIN + data).signature))


def node_id(number: int) -> NodeId:
    return node_id_of(bytes(SigningKey(bytes([number]) * 32).verify_key))


class Hive:
    """A hive of one view, with the log that made it."""

    def __init__(self, *, grant: int = GRANT, grants_per_day: int = 100, created: bool = True) -> None:
        self.view = MemoryView()
        self.log: list[bytes] = []
        self.now_ms = START_MS
        self.events: tuple[Event, ...] = ()
        if created:
            self.do(CreateHive(hive_id=HIVE_ID, supply=SUPPLY, signup_grant=grant, grants_per_day_max=grants_per_day))

    def entry(self, data: bytes) -> Applied:
        self.log.append(data)
        applied = apply(self.view, len(self.log), data, verify)
        self.events = applied.events
        return applied

    def send(self, command: Record, *, owner: str = "", key: str = "", keep_ms: int = 86_400_000) -> Applied:
        envelope = Envelope(
            time_ms=self.now_ms,
            request_owner=owner,
            request_key=key,
            keep_ms=keep_ms,
            command=encode_record(command),
        )
        return self.entry(encode_record(envelope))

    def do(self, command: Record) -> Reply:
        """Applies a command that must succeed."""
        reply = self.send(command).reply
        assert reply.code == Code.SUCCESS, reply.message
        return reply

    def refused(self, command: Record, code: Code) -> Reply:
        """Applies a command that must be refused, and checks that it changed nothing but the clock."""
        before = self.view.rows()
        applied = self.send(command)
        assert applied.reply.code == code, applied.reply
        assert applied.events == ()
        changed = {key for key in before.keys() | self.view.rows().keys() if before.get(key) != self.view.get(key)}
        assert changed <= {b"c"}
        return applied.reply

    def event(self, kind: type[E]) -> E:
        """The one event of a kind that the last entry made."""
        (found,) = [event for event in self.events if isinstance(event, kind)]
        return found

    def later(self, ms: int) -> None:
        self.now_ms += ms

    def user(self, name: str) -> str:
        """Registers a user and returns the id of a session of theirs."""
        self.do(RegisterUser(username=name, password_hash="$argon2id$x", email=""))
        return self.login(name, f"session-of-{name}")

    def login(self, name: str, session_id: str, *, lifetime_ms: int = 86_400_000) -> str:
        return self.do(OpenSession(session_id=session_id, username=name, lifetime_ms=lifetime_ms)).text

    def make_admin(self, name: str, session: str, number: int = 9) -> None:
        """By the word of a machine with voter right, which joins for it."""
        self.node(number)
        claim = signed_claim(number, name, ClaimPurpose.ADMIN, expires_ms=self.now_ms + 60_000)
        self.do(ClaimAdmin(session_id=session, signed_claim=claim))

    def role(self, name: str) -> UserRole:
        user = queries.user(self.view, name)
        assert user is not None
        return user.role

    def node(self, number: int, **changes: object) -> NodeId:
        record = signed_record(number, offer=capabilities(**changes))
        return NodeId(self.do(AdmitNode(signed_record=encode_record(record), rights=NodeRights.VOTER)).text)

    def entry_of(self, number: int) -> NodeEntry:
        entry = queries.node(self.view, node_id(number))
        assert entry is not None
        return entry

    def submit(self, session: str, task_id: str, **spec: object) -> Reply:
        return self.do(submission(session, task_id, **spec))  # type: ignore[arg-type]

    def assign(self, user: str, task_id: str, node: str, *, attempt: int = 1) -> None:
        self.do(AssignTask(user=user, task_id=task_id, attempt=attempt, node_id=node))

    def start(self, user: str, task_id: str, node: str, *, attempt: int = 1) -> None:
        self.do(StartAttempt(user=user, task_id=task_id, attempt=attempt, node_id=node))

    def end(
        self,
        user: str,
        task_id: str,
        node: str,
        *,
        attempt: int = 1,
        outcome: AttemptOutcome = AttemptOutcome.EXITED,
        exit_code: int | None = 0,
    ) -> Reply:
        return self.do(end_of(user, task_id, node, attempt=attempt, outcome=outcome, exit_code=exit_code))

    def lose(self, user: str, task_id: str, node: str, *, attempt: int = 1) -> Reply:
        return self.do(LoseAttempt(user=user, task_id=task_id, attempt=attempt, node_id=node, reason="It fell silent."))

    def task(self, user: str, task_id: str) -> TaskRecord:
        task = queries.task(self.view, user, task_id)
        assert task is not None
        return task

    def balance(self, user: str) -> int:
        return queries.balance(self.view, user)


def submission(session: str, task_id: str, *, data: BlobRef = DATA, **spec: object) -> SubmitTask:
    return SubmitTask(
        session_id=session,
        task_id=task_id,
        spec=TaskSpec(**spec),  # type: ignore[arg-type]
        data=data,
        data_holders=(),
    )


def end_of(
    user: str,
    task_id: str,
    node: str,
    *,
    attempt: int = 1,
    outcome: AttemptOutcome = AttemptOutcome.EXITED,
    exit_code: int | None = 0,
) -> EndAttempt:
    return EndAttempt(
        user=user,
        task_id=task_id,
        attempt=attempt,
        node_id=node,
        outcome=outcome,
        exit_code=exit_code,
        reason="",
        result=RESULT,
        log=LOG,
        output_holders=(node,),
    )
