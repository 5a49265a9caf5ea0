"""The agreed state machine in one process: the production `apply` over a sorted dict, behind the ports of the runtime.

`LocalAgreement` leads a hive of its own; a `LocalReplica` applies the same log, when it is told to or at a read barrier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hivenode.encoding.node_record import Capabilities, NodeId, NodeRecord, Role
from hivenode.encoding.records import Record, encode_record
from hivenode.errors import Code, HiveError
from hivenode.identity import Identity, verify_signature
from hivenode.pool import state_machine
from hivenode.pool.commands import AdmitNode, CreateHive, Envelope, Reply
from hivenode.pool.events import Event
from hivenode.pool.records import NodeRights
from hivenode.runtime.ports import PeerAddress, Standing
from simulations.views import MemoryView

HIVE_ID = "11" * 16
SUPPLY = 1_000_000
GRANT = 1_000
Listener = Callable[[tuple[Event, ...]], None]


def capabilities(hostname: str = "test", slots: int = 4) -> Capabilities:
    """A machine that runs any task without special needs."""
    return Capabilities(
        hostname=hostname,
        cpu_cores=2,
        memory_gb=8,
        cpu_score=1_000,
        gpu_score=0,
        gpu_memory_gb=0,
        gpu_name="",
        location="",
        docker_status="",
        executor="sandbox",
        executor_note="",
        slots=slots,
    )


def node_record(identity: Identity, *, sequence: int = 1, role: Role = Role.AUTO) -> NodeRecord:
    """What a node says of itself; the address is one that nobody answers at."""
    return NodeRecord(
        node_id=identity.node_id,
        public_key=identity.public_key,
        incarnation="i",
        role=role,
        addresses=("127.0.0.1:1",),
        capabilities=capabilities(),
        sequence=sequence,
        expires_ms=253_402_300_799_999,
        version="0.1.0",
        certificate_sha256=bytes(32),
    )


class LocalReplica:
    """Agreed state as a follower has it: a log that others write, applied as far as this node has got.

    `clock_ms` stands still unless a test moves it.
    """

    def __init__(self, log: list[bytes]) -> None:
        self.log = log
        self.clock_ms = 1_700_000_000_000
        self.applied = 0
        self.barriers = 0
        self.state = MemoryView()
        self._listeners: list[Listener] = []

    def catch_up(self) -> Reply:
        """Applies what the log has; the reply of the last entry."""
        reply = Reply(code=Code.SUCCESS, message="")
        while self.applied < len(self.log):
            data = self.log[self.applied]
            self.applied += 1
            done = state_machine.apply(self.state, self.applied, data, verify_signature)
            reply = done.reply
            if done.events:
                for listener in tuple(self._listeners):
                    listener(done.events)
        return reply

    async def propose(
        self, command: Record, *, deadline_s: float, owner: str = "", key: str = "", keep_ms: int = 0
    ) -> Reply:
        raise HiveError(Code.NO_LEADER, "this node does not lead")

    def view(self) -> MemoryView:
        return self.state

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def has_listeners(self) -> bool:
        return bool(self._listeners)

    def now_ms(self) -> int:
        return self.clock_ms

    def standing(self) -> Standing:
        return Standing.REPLICA

    async def leader(self, deadline_s: float) -> PeerAddress:
        raise HiveError(Code.NO_LEADER, "no leader in this test")

    def forget_leader(self, node: NodeId) -> None:
        """There is no leader to forget."""

    async def read_barrier(self, deadline_s: float) -> None:
        self.barriers += 1
        self.catch_up()

    def hive_id(self) -> str:
        return HIVE_ID


class LocalAgreement(LocalReplica):
    """A hive of one node that leads it."""

    def __init__(self, identity: Identity) -> None:
        super().__init__([])
        self.identity = identity
        self.fail_next: HiveError | None = None
        self.unknown_is_done = True
        self.proposals: list[Record] = []
        self.run(CreateHive(hive_id=HIVE_ID, supply=SUPPLY, signup_grant=GRANT, grants_per_day_max=100))
        self.admit(identity)

    def admit(
        self, identity: Identity, rights: NodeRights = NodeRights.VOTER, record: NodeRecord | None = None
    ) -> None:
        """Takes a node in."""
        signed = identity.sign_record(record if record is not None else node_record(identity))
        self.run(AdmitNode(signed_record=encode_record(signed), rights=rights))

    def run(self, command: Record) -> Reply:
        """Applies a command that must be accepted."""
        reply = self._append(Envelope(time_ms=0, request_owner="", request_key="", keep_ms=0, command=b""), command)
        if reply.refused:
            raise HiveError(Code(reply.code), reply.message)
        return reply

    async def propose(
        self, command: Record, *, deadline_s: float, owner: str = "", key: str = "", keep_ms: int = 0
    ) -> Reply:
        """Applies a command at once, or raises `fail_next`; that may say OUTCOME_UNKNOWN of what `unknown_is_done`."""
        failure, self.fail_next = self.fail_next, None
        if failure is not None and not (failure.code is Code.OUTCOME_UNKNOWN and self.unknown_is_done):
            raise failure
        self.proposals.append(command)
        reply = self._append(
            Envelope(time_ms=0, request_owner=owner, request_key=key, keep_ms=keep_ms, command=b""), command
        )
        if failure is not None:
            raise failure
        return reply

    def standing(self) -> Standing:
        return Standing.LEADER

    async def leader(self, deadline_s: float) -> PeerAddress:
        return PeerAddress(node_id=NodeId(self.identity.node_id), addresses=("127.0.0.1:1",))

    def _append(self, envelope: Envelope, command: Record) -> Reply:
        whole = replace(envelope, time_ms=self.clock_ms, command=encode_record(command))
        self.log.append(encode_record(whole))
        return self.catch_up()
