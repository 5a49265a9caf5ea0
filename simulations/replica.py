"""One member's copy of the hive in virtual time: the shell that the daemon's replica is, around the same machines.

It does what `hivenode.runtime.replica` does, in the same order, with the disk's and the network's answers as events:
a Ready's messages, then the write, then the messages that speak for it, then the application, then `advance`. While a
write is under way messages and proposals gather, and the next write is for all of them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from hivenode.consensus import (
    NEVER_MS,
    ConfChange,
    Entry,
    EntryKind,
    MemberId,
    Message,
    RaftConfig,
    RaftStatus,
    RawNode,
    ReadState,
    Ready,
    Role,
    decode_conf_change,
)
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError, ensure
from hivenode.pool.commands import Envelope, Reply
from hivenode.pool.events import Event
from hivenode.pool.state_machine import apply
from hivenode.runtime.stores import Flush, LogWrite
from simulations.calls import Failure, OnWritten, Write, Written
from simulations.disk import StateView
from simulations.engine import MS
from simulations.marks import Kind

if TYPE_CHECKING:
    from simulations.node import Node

INBOX_MESSAGES_MAX: Final = 8_192
PROPOSALS_MAX: Final = 4_096
COMMITTED_BYTES_MAX: Final = 128 << 10
FLUSH_DELAY_US: Final = 100 * MS
READ_RETRY_US: Final = 300 * MS
"""These five are the daemon's own bounds (`runtime.replica`, `runtime.local`)."""
VALIDATED_EVERY: Final = 16
"""The core checks itself after every so many rounds, and after each that it leads or changes its role in."""


@dataclass(slots=True, eq=False)
class _Proposal:
    write: Write
    done: OnWritten | None
    index: int = 0
    term: int = 0

    def settle(self, result: Written) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(result)


@dataclass(slots=True, eq=False)
class _ReadCall:
    done: Callable[[Failure | None], None] | None
    deadline_us: int

    def settle(self, failure: Failure | None) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(failure)


class Replica:
    """See the module; it lives from one start of its node's daemon to the end of that process."""

    def __init__(self, node: Node, *, born: bool) -> None:
        self._node = node
        self._engine = node.world.engine
        self._disk = node.disk
        self._checks = node.world.checks
        self.member_id: Final = node.member_id
        state = node.disk.state
        self.view: Final = StateView(state.rows)
        self.conf = state.conf
        self.applied_index = state.applied_index
        node.disk.log.resume(self.conf, self.applied_index)
        low_ms, high_ms = node.world.settings.election_timeout_ms
        config = RaftConfig(
            member_id=self.member_id,
            election_timeout_ms=(low_ms, high_ms),
            heartbeat_interval_ms=node.world.settings.heartbeat_interval_ms,
            max_append_bytes=node.world.settings.max_append_bytes,
            max_committed_bytes_per_ready=COMMITTED_BYTES_MAX,
        )
        rng = Random(self._engine.rng.getrandbits(64))
        self.raw = RawNode(config, node.disk.log, rng, node.clock.monotonic_ms(), self.applied_index)
        self.leader: MemberId | None = None
        self.role = Role.FOLLOWER
        self._must_campaign = born
        self._messages: deque[Message] = deque()
        self._proposals: deque[_Proposal] = deque()
        self._reads: list[_ReadCall] = []
        self._lost: list[MemberId] = []
        self._agreeing: dict[int, _Proposal] = {}
        self._asked: dict[bytes, list[_ReadCall]] = {}
        self._applying: list[tuple[int, int, list[_ReadCall]]] = []
        self._sequence = 0
        self._running = False
        self._writing = False
        self._flushing = False
        self._rounds = 0
        self._timer_us = 0
        self.listeners: list[Callable[[tuple[Event, ...]], None]] = []
        self.leadership_listeners: list[Callable[[], None]] = []

    @property
    def leads(self) -> bool:
        return self.role is Role.LEADER

    def status(self) -> RaftStatus:
        return self.raw.status()

    # --- what others ask -------------------------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """A peer's message; dropped when too many wait."""
        if len(self._messages) < INBOX_MESSAGES_MAX:
            self._messages.append(message)
            self.wake()

    def leader_lost(self, member: MemberId) -> None:
        """The leader's connection broke and its machine refuses another."""
        self._lost.append(member)
        self.wake()

    def transfer_leader(self, to: MemberId) -> None:
        if self.leads:
            try:
                self.raw.transfer_leader(to)
            except HiveError:
                return
            self.wake()

    def propose(self, write: Write, deadline_us: int, done: OnWritten) -> None:
        """Ends in the reply, in a failure that says "not done", or in OUTCOME_UNKNOWN."""
        if self._disk.full:
            done(Failure(code=Code.DISK_FULL, text="the leader's disk is full"))
            return
        if not self.leads:
            done(Failure(code=Code.NO_LEADER, text="this node does not lead"))
            return
        if len(self._proposals) + len(self._agreeing) >= PROPOSALS_MAX:
            done(Failure(code=Code.OVERLOADED, text="too many writes are waiting"))
            return
        proposal = _Proposal(write, done)
        self._proposals.append(proposal)
        self._node.at(deadline_us, lambda: self._expire(proposal))
        self.wake()

    def _expire(self, proposal: _Proposal) -> None:
        if proposal.done is None:
            return
        if self._agreeing.get(proposal.index) is proposal:
            del self._agreeing[proposal.index]
        code = Code.OUTCOME_UNKNOWN if proposal.index else Code.NO_LEADER
        proposal.settle(Failure(code=code, text="no majority answered in time"))

    def read_barrier(self, deadline_us: int, done: Callable[[Failure | None], None]) -> None:
        """Calls `done(None)` when all that was acknowledged before the call is applied here."""
        call = _ReadCall(done, deadline_us)
        self._ask(call)

    def _ask(self, call: _ReadCall) -> None:
        if call.done is None:
            return
        if self._engine.now_us >= call.deadline_us:
            call.settle(Failure(code=Code.NO_LEADER, text="no leader answered"))
            return
        self._reads.append(call)
        self._node.at(min(self._engine.now_us + READ_RETRY_US, call.deadline_us), lambda: self._ask(call))
        self.wake()

    # --- the loop --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Goes on until there is nothing to do or a write is under way."""
        if self._running or self._writing:
            return
        self._running = True
        raw, clock = self.raw, self._node.clock
        while not self._writing:
            raw.tick(clock.monotonic_ms())
            self._take_inbox()
            if raw.has_ready():
                self._carry_out(raw.ready())
            elif self._must_campaign:
                self._must_campaign = False
                raw.campaign()
            else:
                break
        self._running = False
        if not self._writing:
            self._arm()

    def _arm(self) -> None:
        """One timer is out at a time; one that comes too early looks again."""
        deadline_ms = self.raw.next_deadline()
        if deadline_ms >= NEVER_MS:
            return
        moment_us = max(self._node.clock.moment_us(deadline_ms), self._engine.now_us)
        if self._timer_us > self._engine.now_us and self._timer_us <= moment_us:
            return
        self._timer_us = moment_us
        self._node.at(moment_us, lambda: self._timer(moment_us))

    def _timer(self, moment_us: int) -> None:
        if self._timer_us == moment_us:
            self._timer_us = 0
            self.wake()

    def _take_inbox(self) -> None:
        while self._messages:
            self.raw.step(self._messages.popleft())
        for member in self._lost:
            if member == self.leader:
                self.raw.leader_lost()
            self.raw.report_unreachable(member)
        self._lost.clear()
        while self._proposals:
            self._append(self._proposals.popleft())
        if self._reads:
            reads = [read for read in self._reads if read.done is not None]
            self._reads = []
            self._ask_core(reads)

    def _append(self, proposal: _Proposal) -> None:
        if proposal.done is None:
            return
        write = proposal.write
        try:
            if isinstance(write.body, ConfChange):
                proposal.index = self.raw.propose_conf_change(write.body)
            else:
                envelope = Envelope(
                    time_ms=self._node.clock.wall_ms(),
                    request_owner=write.owner,
                    request_key=write.key,
                    keep_ms=write.keep_ms,
                    command=encode_record(write.body),
                )
                proposal.index = self.raw.propose(encode_record(envelope))
        except HiveError as error:
            proposal.settle(Failure(code=error.code, text=error.message))
            return
        proposal.term = self.raw.status().term
        self._agreeing[proposal.index] = proposal

    def _ask_core(self, reads: list[_ReadCall]) -> None:
        if not reads:
            return
        self._sequence += 1
        context = f"{self.member_id}:{self._node.boots}:{self._sequence}".encode()
        try:
            self.raw.read_index(context)
        except HiveError:
            return
        self._asked[context] = reads

    def _carry_out(self, ready: Ready) -> None:
        self._rounds += 1
        if ready.soft_state is not None:
            self._take_soft_state(ready)
        elif self._rounds % VALIDATED_EVERY == 0:
            self.raw.validate_state()
        for message in ready.messages:
            self._node.send_message(message)
        ensure(ready.snapshot is None, "a snapshot arrived although every log is kept whole")
        if not ready.must_sync:
            self._finish(ready)
            return
        self._writing = True
        self._disk.submit(
            LogWrite(hard_state=ready.hard_state, entries=ready.entries), self._node.bound(lambda: self._written(ready))
        )

    def _take_soft_state(self, ready: Ready) -> None:
        soft = ready.soft_state
        if soft is None:
            return
        self.raw.validate_state()
        self.leader, self.role = soft.leader, soft.role
        self._engine.mark(Kind.ROLE, self._node.name, soft.role.value, self.raw.status().term)
        if self.leads:
            self._checks.leads(self._node.name, self.raw.status(), self._disk.log, ready.entries)
        if self.leads:
            self._engine.note(f"{self.member_id} leads term {self.raw.status().term}")
        elif self._engine.detailed:
            self._engine.detail(f"{self.member_id} is {soft.role.value}, its leader {soft.leader}")
        if not self.leads:
            self._fail_proposals()
        for listener in tuple(self.leadership_listeners):
            listener()

    def _written(self, ready: Ready) -> None:
        self._writing = False
        self._checks.persisted(self._node.name, ready.entries, self._disk.log)
        self._running = True
        self._finish(ready)
        self._running = False
        self.wake()

    def _finish(self, ready: Ready) -> None:
        for message in ready.messages_after_persist:
            self._node.send_message(message)
        for state in ready.read_states:
            self._read_confirmed(state)
        if ready.committed_entries:
            self._apply(ready.committed_entries)
        self.raw.advance(ready)

    def _apply(self, entries: tuple[Entry, ...]) -> None:
        events: list[Event] = []
        conf_changed = False
        for entry in entries:
            ensure(entry.index == self.applied_index + 1, f"entry {entry.index} is applied out of order")
            reply = Reply(code=Code.SUCCESS, message="")
            repeated = False
            if entry.kind is EntryKind.CONF_CHANGE:
                self.conf = self.raw.apply_conf_change(decode_conf_change(entry.data))
                conf_changed = True
            elif entry.data:
                applied = apply(self.view, entry.index, entry.data, self._node.world.verify)
                reply, repeated = applied.reply, applied.repeated
                events.extend(applied.events)
            self.applied_index = entry.index
            self._checks.applied(self._node.name, entry, reply, repeated, self.view, self.conf)
            self._settle(entry, reply)
        self._want_flush()
        while self._applying and self._applying[0][0] <= self.applied_index:
            for read in heapq.heappop(self._applying)[2]:
                read.settle(None)
        if events:
            batch = tuple(events)
            for listener in tuple(self.listeners):
                listener(batch)
        if conf_changed:
            for changed in tuple(self.leadership_listeners):
                changed()

    def _settle(self, entry: Entry, reply: Reply) -> None:
        proposal = self._agreeing.pop(entry.index, None)
        if proposal is None:
            return
        if proposal.term == entry.term:
            proposal.settle(reply)
        else:
            proposal.settle(Failure(code=Code.NO_LEADER, text="another leader took over first"))

    def _read_confirmed(self, state: ReadState) -> None:
        reads = self._asked.pop(state.context, None)
        if reads is None:
            return
        if state.index <= self.applied_index:
            for read in reads:
                read.settle(None)
        else:
            self._sequence += 1
            heapq.heappush(self._applying, (state.index, self._sequence, reads))

    def _fail_proposals(self) -> None:
        failed = [*self._agreeing.values(), *self._proposals]
        self._agreeing.clear()
        self._proposals.clear()
        self._asked.clear()
        for proposal in failed:
            code = Code.OUTCOME_UNKNOWN if proposal.index else Code.NO_LEADER
            proposal.settle(Failure(code=code, text="this node stopped leading"))

    # --- writing behind --------------------------------------------------------------------------------------------

    def _want_flush(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._node.at(self._engine.now_us + FLUSH_DELAY_US, self._flush)

    def _flush(self) -> None:
        rows, self.view.dirty = self.view.dirty, {}
        flush = Flush(rows=rows, applied_index=self.applied_index, conf=self.conf)
        self._disk.submit(flush, self._node.bound(lambda: self._flushed(flush)))

    def _flushed(self, flush: Flush) -> None:
        self._flushing = False
        if self.applied_index > flush.applied_index:
            self._want_flush()
