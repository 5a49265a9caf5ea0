"""Promises of the agreed state: the same everywhere, money kept, nothing done twice.

| promise | looked at |
|---|---|
| the same reply and configuration at the same index, on every replica and in every replay | at every entry |
| the same digest of the state at the same index | every `DIGEST_EVERY` entries, and in the end |
| CPT sum to the supply, escrows and indices are right, the chain holds (`pool.invariants`) | every `INVARIANTS_EVERY` entries |
| a request key moves money or makes a task at most once | at every first application |
| one accepted end a task that was not given up | at every first application |
| a worker's attempt is ordered only if it was agreed | when a worker takes it |
| a node is admitted by a record that its own key signed | at every first application |
"""

from __future__ import annotations

from typing import Any, Final

from hivenode.consensus import ConfState, Entry, EntryKind
from hivenode.encoding.node_record import RECORD_DOMAIN, SignedNodeRecord, open_record
from hivenode.encoding.records import decode_record
from hivenode.encoding.state_view import StateView
from hivenode.errors import InvariantError
from hivenode.pool import invariants, queries
from hivenode.pool.commands import COMMANDS, AdmitNode, AssignTask, EndAttempt, Envelope, Reply
from hivenode.pool.records import TaskState
from hivenode.runtime.ports import AttemptKey
from simulations.checkers.revoked import RevokedChecker
from simulations.checkers.violation import Violation, demand
from simulations.signatures import signature_of
from simulations.views import MemoryView

DIGEST_EVERY: Final = 1_024
"""As often as voters compare digests."""
INVARIANTS_EVERY: Final = 4_096
"""They read all of the state, so they are looked at now and then, and in the end."""


class AgreedChecker:
    """Told of every application on every replica."""

    def __init__(self) -> None:
        self.revoked: Final = RevokedChecker()
        self.requests: dict[tuple[str, str], tuple[int, Reply]] = {}
        """By owner and key of a request: the index that first did it, and its reply."""
        self.first_applied_us: dict[int, int] = {}
        self.refusals = 0
        self.differs_since: dict[str, int] = {}
        """The replicas whose state is another because bits were flipped, and since which entry."""
        self._outcomes: list[tuple[Reply, bool, ConfState, bytes]] = []
        self._digests: dict[int, bytes] = {}
        self._ended: dict[tuple[str, str, int], tuple[int, int]] = {}
        """By task: the accepted attempt, and the entry that ended it."""
        self._assigned: dict[AttemptKey, int] = {}
        """By attempt: the entry that gave it away."""

    def applied(
        self,
        name: str,
        entry: Entry,
        reply: Reply,
        repeated: bool,
        view: MemoryView,
        conf: ConfState,
        now_us: int,
        *,
        digest: bytes = b"",
        tainted: bool = False,
    ) -> None:
        """A replica applied an entry.

        Args:
            digest: of all that entries ever wrote, as members compare it.
            tainted: bits of this replica's state were flipped, so that it may differ, and is to be found out.
        """
        place = entry.index - 1
        if tainted:
            if place < len(self._outcomes) and self._outcomes[place][3] != digest:
                self.differs_since.setdefault(name, entry.index)
            return
        if place == len(self._outcomes):
            self._outcomes.append((reply, repeated, conf, digest))
            self._first(entry, reply, repeated, view, now_us)
        else:
            known = self._outcomes[place]
            # Five times an entry, so the text is made only for one that differs.
            if known != (reply, repeated, conf, digest):
                raise Violation(
                    f"{name} came to another reply or state at entry {entry.index}: {reply}, not {known[0]}"
                )
        if entry.index % DIGEST_EVERY == 0:
            self.compare(name, entry.index, view)

    def installed(
        self, name: str, index: int, view: MemoryView, conf: ConfState, *, digest: bytes, tainted: bool
    ) -> None:
        """A snapshot took the place of a replica's state."""
        self.differs_since.pop(name, None)
        if tainted:
            return
        known = self._outcomes[index - 1]
        demand(known[2:] == (conf, digest), f"{name} installed another state of {index} than was agreed on")
        self.compare(name, index, view)

    def roll_back(self, last: int) -> dict[tuple[str, str], int]:
        """What came after an entry is lost for ever. Returns the requests that are, with their entries."""
        del self._outcomes[last:]
        lost = {key: index for key, (index, _) in self.requests.items() if index > last}
        for key in lost:
            del self.requests[key]
        self.first_applied_us = {index: at_us for index, at_us in self.first_applied_us.items() if index <= last}
        self._digests = {index: digest for index, digest in self._digests.items() if index <= last}
        self._ended = {task: ended for task, ended in self._ended.items() if ended[1] <= last}
        self._assigned = {key: index for key, index in self._assigned.items() if index <= last}
        self.revoked.roll_back(last)
        return lost

    def compare(self, name: str, index: int, view: MemoryView) -> None:
        """Compares a replica's whole state with the others' at the same index."""
        digest = view.digest()
        demand(self._digests.setdefault(index, digest) == digest, f"{name} has another state at index {index}")

    def _first(self, entry: Entry, reply: Reply, repeated: bool, view: MemoryView, now_us: int) -> None:
        if entry.index % INVARIANTS_EVERY == 0:
            self.invariants(view)
        if entry.kind is not EntryKind.NORMAL or not entry.data:
            return
        envelope = decode_record(Envelope, entry.data)
        if reply.refused:
            self.refusals += 1
        if envelope.request_key:
            self._request(envelope, entry.index, reply, repeated, now_us)
        if not reply.refused and not repeated:
            command = COMMANDS.decode(envelope.command)
            self._attempt(command, view, entry.index)
            self.revoked.agreed(entry.index, command)

    def _request(self, envelope: Envelope, index: int, reply: Reply, repeated: bool, now_us: int) -> None:
        key = (envelope.request_owner, envelope.request_key)
        known = self.requests.get(key)
        if known is None:
            demand(not repeated, f"the request {key} is answered as a repeated one, and never came before")
            self.requests[key] = (index, reply)
            self.first_applied_us[index] = now_us
        else:
            demand(
                repeated and reply == known[1],
                f"the request {key} of entry {known[0]} was done again at {index}: {reply}, first {known[1]}",
            )

    def _attempt(self, command: Any, view: StateView, index: int) -> None:
        if isinstance(command, AssignTask):
            key = AttemptKey(user=command.user, task_id=command.task_id, attempt=command.attempt)
            demand(key not in self._assigned, f"the attempt {key} was given away twice")
            self._assigned[key] = index
        elif isinstance(command, EndAttempt):
            task = queries.task(view, command.user, command.task_id)
            if task is None or task.state not in (TaskState.COMPLETED, TaskState.FAILED):
                return
            demand(task.attempt == command.attempt, f"an end of attempt {command.attempt} ended {task}")
            ended, _ = self._ended.setdefault(
                (command.user, command.task_id, task.submitted_ms), (command.attempt, index)
            )
            demand(ended == command.attempt, f"the task {command.user}/{command.task_id} has two accepted results")
        elif isinstance(command, AdmitNode):
            signed = decode_record(SignedNodeRecord, command.signed_record)
            # The signature is looked at here, not where the record is opened: that may be what is wrong.
            record = open_record(signed, lambda _key, _message, _signature: True)
            demand(
                signed.signature == signature_of(record.public_key, RECORD_DOMAIN + signed.record),
                f"{record.node_id} was admitted by a record that its key did not sign",
            )

    def ordered(self, name: str, key: AttemptKey) -> None:
        """A worker was told to run an attempt."""
        demand(key in self._assigned, f"{name} runs the attempt {key}, which was never agreed on")

    def invariants(self, view: MemoryView) -> None:
        """The state does not contradict itself. It reads all rows, which nobody of the hive does, and so finds none that rots."""
        if view.is_rotten:
            return
        try:
            invariants.check(view)
        except InvariantError as error:
            raise Violation(f"the agreed state contradicts itself: {error}") from error
