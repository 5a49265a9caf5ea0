"""Log commands: the only ways in which agreed state changes.

A log entry is an `Envelope` around one command. Kinds and versions are for ever; a changed meaning is a new version. A command
that carries a `session_id` is refused when that session does not stand at the moment it is applied, whoever proposed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from hivenode.encoding.node_record import Capabilities
from hivenode.encoding.records import Record, RecordFamily
from hivenode.errors import Code
from hivenode.pool.records import AttemptOutcome, BlobRef, NodeRights, TaskSpec, TrustMode, UserRole, WayOut


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope(Record):
    """One log entry.

    Args:
        time_ms: the proposing leader's clock; the agreed clock is the greatest seen so far, so it never runs back.
        request_owner, request_key: what makes a repeated request the same request; an empty key is never remembered.
        keep_ms: how long after the agreed clock the reply is remembered.
        command: the canonical bytes of one command.
    """

    KIND = 100
    time_ms: int
    request_owner: str
    request_key: str
    keep_ms: int
    command: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Record):
    """The answer to a command, the same at every replica. `code` is a wire code; `number` and `text` as the command says."""

    KIND = 101
    code: int
    message: str
    number: int = 0
    text: str = ""

    @property
    def refused(self) -> bool:
        return self.code != Code.SUCCESS


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateHive(Record):
    """The first command of every log: puts the whole supply into the treasury."""

    KIND = 110
    hive_id: str
    supply: int
    signup_grant: int
    grants_per_day_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterUser(Record):
    """A new user, with the signup grant while the day's cap allows. Reply: text = user id, number = grant.

    The same name, password hash and email again is refused with USER_EXISTS (repetition is the request key's business).
    """

    KIND = 111
    username: str
    password_hash: str
    email: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSession(Record):
    KIND = 112
    session_id: str
    username: str
    lifetime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseSession(Record):
    KIND = 113
    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Record):
    """Whole CPT from the session's user to another. Reply: number = the sender's new balance."""

    KIND = 114
    session_id: str
    receiver: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitNode(Record):
    """A node of the hive, new or with a newer record. `signed_record` is a canonical `SignedNodeRecord`.

    The record inside is decoded when applied; an older sequence changes nothing (success). Rights are kept on updates.
    """

    KIND = 115
    signed_record: bytes
    rights: NodeRights


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNode(Record):
    """A node leaves for good; its open attempts are lost as by `LoseAttempt`."""

    KIND = 116
    node_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterForeignWorker(Record):
    """A worker that is no hivenode; it belongs to the session's user. Another user's id is refused with NODE_EXISTS."""

    KIND = 117
    session_id: str
    node_id: str
    capabilities: Capabilities
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnregisterNode(Record):
    """Takes a foreign worker of the session's user off the list."""

    KIND = 118
    session_id: str
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitTask(Record):
    """A new task; holds its greatest cost in escrow. Reply: number = CPT held.

    Same user, task id, data and spec again: the same success. Other content under the same id: TASK_EXISTS.
    """

    KIND = 119
    session_id: str
    task_id: str
    spec: TaskSpec
    data: BlobRef
    data_holders: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignTask(Record):
    """Gives the task's next attempt to a node. Refused with STALE_ATTEMPT unless it is pending and `attempt` is the next."""

    KIND = 120
    user: str
    task_id: str
    attempt: int
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartAttempt(Record):
    """The worker runs the program now: minutes count from here."""

    KIND = 121
    user: str
    task_id: str
    attempt: int
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndAttempt(Record):
    """The worker's end of an attempt. A stale attempt changes nothing: STALE_ATTEMPT. Settles the escrow."""

    KIND = 122
    user: str
    task_id: str
    attempt: int
    node_id: str
    outcome: AttemptOutcome
    exit_code: int | None
    reason: str
    result: BlobRef | None
    log: BlobRef | None
    output_holders: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseAttempt(Record):
    """The worker is gone: the task is pending again, or FAILED at no cost after `attempts_max` attempts."""

    KIND = 123
    user: str
    task_id: str
    attempt: int
    node_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTask(Record):
    """The user stops a task: STOPPED at once and for good. Of an ended task: TASK_FAILED or what it is, as a refusal."""

    KIND = 124
    session_id: str
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Record):
    """Removes what is past its time: sessions, remembered requests, and ended tasks older than `keep_tasks_ms`."""

    KIND = 125
    keep_tasks_ms: int
    rows_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DissolveHive(Record):
    """A hive with nothing in it gives itself up for another one. Reply: text = the hive that the members go to."""

    KIND = 126
    target_hive_id: str
    target_addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteRecovery(Record):
    """The hive goes on after the loss of its quorum; a canonical `SignedRecovery`. Reply: text = the hive's id from now on."""

    KIND = 127
    signed_recovery: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePassword(Record):
    """A new password for the session's user: ends all sessions of the user and opens one in their place.

    `checked_hash` is the hash that the old password was found right against; when it is another by now: INVALID_PASSWORD.
    Reply: text = the new session's id, number = its expiry in ms.
    """

    KIND = 128
    session_id: str
    checked_hash: str
    password_hash: str
    new_session_id: str
    lifetime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUserRole(Record):
    """An admin gives a user a role. Reply: text = the user's name."""

    KIND = 129
    session_id: str
    username: str
    role: UserRole


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimAdmin(Record):
    """The session's user becomes an admin, by the word of a machine with voter right (a canonical `SignedClaim`)."""

    KIND = 130
    session_id: str
    signed_claim: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNode(Record):
    """The session's user receives what a machine has earned and earns, by its own word (a canonical `SignedClaim`).

    Reply: text = the node's id, number = CPT that it had earned unclaimed.
    """

    KIND = 131
    session_id: str
    signed_claim: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogIn(Record):
    """A session for a user whose password was found right against `checked_hash`; INVALID_PASSWORD when that is another by now.

    Reply: text = the session's id, number = its expiry in ms. `OpenSession` is what earlier daemons wrote, without the hash.
    """

    KIND = 132
    session_id: str
    username: str
    checked_hash: str
    lifetime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSession(Record):
    """Ends a session and opens another for its user in one step. Reply: text = the new one's id, number = its expiry in ms."""

    KIND = 133
    session_id: str
    new_session_id: str
    lifetime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTrust(Record):
    """How machines come in: of the founder, once, before there is anything in the hive."""

    KIND = 140
    mode: TrustMode


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateJoinToken(Record):
    """A token that lets machines in. `key_hash`: SHA-256 of its public key, in hex. Reply: number = its expiry in ms."""

    KIND = 141
    key_hash: str
    rights: NodeRights
    lifetime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproveNode(Record):
    """A node may come in, or one that is in may vote. Reply: text = its id."""

    KIND = 142
    node_id: str
    rights: NodeRights


@dataclass(frozen=True, slots=True, kw_only=True)
class DenyNode(Record):
    """A node that is not in is kept out until it is approved. Reply: text = its id."""

    KIND = 143
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeNode(Record):
    """A node goes at once, as by `RemoveNode`, and is kept out until it is approved. Reply: text = its id."""

    KIND = 144
    node_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOutNode(Record):
    """`RemoveNode`, `RevokeNode` or `DenyNode`, unless another node was taken out so since it was decided: OVERLOADED then.

    Whoever decides sees who votes and answers, but not what an earlier leader let go by an entry that is not applied yet.
    Reply: text = its id.

    Args:
        decided_at: index of the last entry that the deciding leader had applied.
    """

    KIND = 145
    node_id: str
    way: WayOut
    reason: str
    decided_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropForeignWorkers(Record):
    """Takes workers that are no hivenodes off the list, whoever they belong to: they are silent, or an operator says so.

    An id that is none of such a worker by now is passed over. Reply: number = how many went.
    """

    KIND = 146
    node_ids: tuple[str, ...]


COMMANDS: Final = RecordFamily(
    CreateHive,
    RegisterUser,
    OpenSession,
    CloseSession,
    Transfer,
    AdmitNode,
    RemoveNode,
    RegisterForeignWorker,
    UnregisterNode,
    SubmitTask,
    AssignTask,
    StartAttempt,
    EndAttempt,
    LoseAttempt,
    StopTask,
    Sweep,
    DissolveHive,
    NoteRecovery,
    ChangePassword,
    SetUserRole,
    ClaimAdmin,
    ClaimNode,
    LogIn,
    RefreshSession,
    SetTrust,
    CreateJoinToken,
    ApproveNode,
    DenyNode,
    RevokeNode,
    TakeOutNode,
    DropForeignWorkers,
)

Command: TypeAlias = (
    CreateHive
    | RegisterUser
    | OpenSession
    | CloseSession
    | Transfer
    | AdmitNode
    | RemoveNode
    | RegisterForeignWorker
    | UnregisterNode
    | SubmitTask
    | AssignTask
    | StartAttempt
    | EndAttempt
    | LoseAttempt
    | StopTask
    | Sweep
    | DissolveHive
    | NoteRecovery
    | ChangePassword
    | SetUserRole
    | ClaimAdmin
    | ClaimNode
    | LogIn
    | RefreshSession
    | SetTrust
    | CreateJoinToken
    | ApproveNode
    | DenyNode
    | RevokeNode
    | TakeOutNode
    | DropForeignWorkers
)
"""What `COMMANDS.decode` returns."""
