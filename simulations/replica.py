"""One member's copy of the hive in virtual time: the shell that the daemon's replica is, around the same machines.

It does what `hivenode.runtime.replica` does, in the same order, with the disk's and the network's answers as events:
a Ready's messages, then the write, during which what is committed is applied, then the messages that speak for it, then
`advance`. While a write is under way time goes on and messages are heard, what need not wait for the disk goes out, and the next
write is for all that gathers. A disk that takes nothing for long is told to the core. Agreed state is flushed behind, the log
compacted up to what was synced, and whoever needs what is gone is offered a snapshot.
"""

from __future__ import annotations

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
    Meanwhile,
    MemberId,
    Message,
    RaftConfig,
    RaftStatus,
    RawNode,
    Ready,
    Role,
    Snapshot,
    SnapshotOffer,
    SnapshotStatus,
    SoftState,
    decode_conf_change,
)
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError, InvariantError, ensure
from hivenode.pool.commands import Envelope, Reply
from hivenode.pool.events import Event, StateReplaced
from hivenode.pool.state_machine import apply
from hivenode.runtime.copies import QuorumCopies, SecondCopies, has_one_voter
from hivenode.runtime.reads import READ_RETRY_MS, Reads
from hivenode.runtime.replica import APPLIED_AT_ONCE
from hivenode.runtime.stores import Flush, LogBase, LogWrite, PreparedState
from simulations.calls import Failure, OnWritten, Write, Written
from simulations.disk import Chore, StateView
from simulations.engine import MS
from simulations.marks import Kind
from simulations.snapshots import COPY_US, SnapshotFetcher, offered_snapshot

if TYPE_CHECKING:
    from simulations.node import Node

INBOX_MESSAGES_MAX: Final = 8_192
PROPOSALS_MAX: Final = 4_096
COMMITTED_BYTES_MAX: Final = 128 << 10
COMMIT_DELAY_MS: Final = 10
FLUSH_DELAY_US: Final = 100 * MS
STALLED_TIMEOUTS: Final = 2
"""These six are the daemon's own bounds (`runtime.replica`, `runtime.local`)."""
APPLYING_US: Final = 5 * MS
"""How long the daemon takes for `APPLIED_AT_ONCE` entries, of 0.15 ms each."""
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
    told: Callable[[Failure | None], None] | None
    deadline_us: int

    def done(self) -> bool:
        return self.told is None

    def set_result(self, failure: Failure | None, /) -> None:
        told, self.told = self.told, None
        if told is not None:
            told(failure)


@dataclass(slots=True, eq=False)
class _Fetched:
    offer: SnapshotOffer
    prepared: PreparedState
    dealt_with: Callable[[], None]
    stepped: bool = False


class Replica:
    """See the module; it lives from one start of its node's daemon to the end of that process."""

    def __init__(self, node: Node, *, born: bool) -> None:
        self._node = node
        self._engine = node.world.engine
        self._disk = node.disk
        self._checks = node.world.watch(node.disk.log.hive_id)
        self.member_id: Final = node.member_id
        mark = node.disk.state.mark
        self.view: Final = StateView(node.disk.state.image)
        self.conf = mark.conf
        self.applied_index, self._applied_term = mark.index, mark.term
        node.disk.log.resume(self.conf, self.applied_index)
        low_ms, high_ms = node.world.settings.election_timeout_ms
        config = RaftConfig(
            member_id=self.member_id,
            election_timeout_ms=(low_ms, high_ms),
            heartbeat_interval_ms=node.world.settings.heartbeat_interval_ms,
            max_append_bytes=node.world.settings.max_append_bytes,
            max_committed_bytes_per_ready=COMMITTED_BYTES_MAX,
            commit_delay_ms=COMMIT_DELAY_MS,
        )
        rng = Random(self._engine.rng.getrandbits(64))
        self.raw = RawNode(config, node.disk.log, rng, node.clock.monotonic_ms(), self.applied_index)
        self.leader: MemberId | None = None
        self.role = Role.FOLLOWER
        self._must_campaign = born
        self._messages: deque[Message] = deque()
        self._proposals: deque[_Proposal] = deque()
        self._reads: Final = Reads(f"{self.member_id}:{node.boots}", self.raw.read_index)
        self._lost: list[MemberId] = []
        self._agreeing: dict[int, _Proposal] = {}
        self._running = False
        self._under_way: Ready | None = None
        self._unwritten, self._unapplied = False, False
        """What is left to do of it before the core may go on."""
        self._stalled_ms = STALLED_TIMEOUTS * high_ms
        self._stalls_at_ms = NEVER_MS
        """When the write that is under way has taken too long."""
        self._flushing = False
        self._flush_planned = False
        self._flushed_listeners: list[Callable[[], None]] = []
        self._copying = False
        self._copy_binds_log = False
        """A copy is under way whose index the log must still reach back to."""
        self._fetched: _Fetched | None = None
        self._installing: Ready | None = None
        self._copies = SecondCopies(low_ms)
        self._quorums = QuorumCopies()
        self.fetcher: Final = SnapshotFetcher(node, self._deliver_snapshot, self._snapshot_failed)
        self.digest_listeners: list[Callable[[int, bytes], None]] = []
        self._rounds = 0
        self._timer_us, self._timer_ms = 0, 0
        self.listeners: list[Callable[[tuple[Event, ...]], None]] = []
        self.leadership_listeners: list[Callable[[], None]] = []

    @property
    def leads(self) -> bool:
        return self.role is Role.LEADER

    @property
    def has_settled(self) -> bool:
        """Whether it leads and has applied an entry of its own term."""
        return self.leads and self._applied_term == self.raw.term

    def status(self) -> RaftStatus:
        return self.raw.status()

    # --- what others ask -------------------------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """A peer's message; dropped when too many wait."""
        self._checks.heard(self._node, message.from_, self.applied_index)
        if isinstance(message, SnapshotOffer):
            self.fetcher.offered(message)
        elif len(self._messages) < INBOX_MESSAGES_MAX:
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
        if self._disk.full and self._unwritten:
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
        self._reads.add(call)
        self._look_after(call)

    def _look_after(self, call: _ReadCall) -> None:
        if call.done():
            return
        if self._engine.now_us >= call.deadline_us:
            call.set_result(Failure(code=Code.NO_LEADER, text="no leader answered"))
            return
        again_us = min(self._engine.now_us + READ_RETRY_MS * MS, call.deadline_us)
        self._node.at(again_us, lambda: self._look_after(call))
        self.wake()

    # --- the loop --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Goes on until there is nothing to do, or nothing but to wait for the disk."""
        if self._running:
            return
        self._running = True
        raw = self.raw
        # Time stands still until this is done.
        now_ms = self._node.clock.monotonic_ms()
        while True:
            if self._under_way is None and self._disk.log.snapshot_wanted and not self._copying:
                self._make_snapshot()
            raw.tick(now_ms)
            if self._messages:
                self._take_messages(now_ms)
            self._take_inbox(now_ms)
            if self._under_way is not None:
                self._go_on_meanwhile(self._under_way)
                break
            if self._fetched is not None:
                self._step_fetched(self._fetched)
            if raw.has_ready():
                self._carry_out(raw.ready())
            elif self._must_campaign:
                self._must_campaign = False
                raw.campaign()
            elif self._fetched is not None and self._fetched.stepped:
                self._refuse_fetched()
            else:
                break
        self._running = False
        self._arm()

    def _go_on_meanwhile(self, under_way: Ready) -> None:
        if self._unwritten and (self._disk.full or self._node.clock.monotonic_ms() >= self._stalls_at_ms):
            self.raw.disk_stalled()
        self._show(self.raw.meanwhile(), under_way.entries if self._unwritten else ())

    def _arm(self) -> None:
        """One timer is out at a time; one that comes too early looks again."""
        deadline_ms = self.raw.next_deadline()
        copies_ms = self._copies.deadline_ms
        if copies_ms is not None and copies_ms < deadline_ms:
            deadline_ms = copies_ms
        if self._stalls_at_ms < deadline_ms and self._node.clock.monotonic_ms() < self._stalls_at_ms:
            deadline_ms = self._stalls_at_ms
        # Most messages move no deadline, or a later one; the timer that is out looks again then.
        armed = self._timer_us > self._engine.now_us
        if deadline_ms >= NEVER_MS or (armed and self._timer_ms <= deadline_ms):
            return
        moment_us = max(self._node.clock.moment_us(deadline_ms), self._engine.now_us)
        self._timer_us, self._timer_ms = moment_us, deadline_ms
        self._node.at(moment_us, lambda: self._timer(moment_us))

    def _timer(self, moment_us: int) -> None:
        if self._timer_us == moment_us:
            self._timer_us = 0
            self.wake()

    def _take_messages(self, now_ms: int) -> None:
        heard = self._copies.heard if self.leads else None
        while self._messages:
            message = self._messages.popleft()
            if heard is not None:
                heard(message.from_, now_ms)
            self.raw.step(message)

    def _take_inbox(self, now_ms: int) -> None:
        if self._copies.deadline_ms is not None:
            self._copies.release(self.raw.status(), now_ms)
        if self._lost:
            for member in self._lost:
                if member == self.leader:
                    self.raw.leader_lost()
                self.raw.report_unreachable(member)
            self._lost.clear()
        while self._proposals:
            self._append(self._proposals.popleft())
        self._reads.ask(now_ms)

    def _step_fetched(self, fetched: _Fetched) -> None:
        if not fetched.stepped:
            fetched.stepped = True
            self.raw.step(fetched.offer)

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
        proposal.term = self.raw.term
        self._agreeing[proposal.index] = proposal

    def _carry_out(self, ready: Ready) -> None:
        self._rounds += 1
        if ready.soft_state is None and self._rounds % VALIDATED_EVERY == 0:
            self.raw.validate_state()
        self._show(ready, ready.entries)
        if ready.snapshot is not None:
            self._under_way = self._installing = ready
            self._unwritten, self._unapplied = True, False
            self._install()
            return
        self._under_way = ready
        self._unwritten, self._unapplied = ready.must_sync, True
        if ready.must_sync:
            self._write(ready, LogWrite(hard_state=ready.hard_state, entries=ready.entries), self._written)
        else:
            self._speak(ready)
        self._apply_some(ready, 0)

    def _apply_some(self, ready: Ready, done: int) -> None:
        """Applies what one Ready committed by and by, as the daemon does, which hears others in between."""
        entries = ready.committed_entries
        if done < len(entries):
            self._apply(entries[done : done + APPLIED_AT_ONCE])
            done += APPLIED_AT_ONCE

        def go_on() -> None:
            self._running = True
            self._apply_some(ready, done)
            self._running = False
            self.wake()

        if done < len(entries):
            self._node.at(self._engine.now_us + APPLYING_US, go_on)
        else:
            self._unapplied = False
            self._advance(ready)

    def _write(self, ready: Ready, batch: LogWrite, written: Callable[[Ready], None]) -> None:
        self._stalls_at_ms = self._node.clock.monotonic_ms() + self._stalled_ms
        self._disk.submit(batch, self._node.bound(lambda: written(ready)))

    def _show(self, now: Ready | Meanwhile, tail: tuple[Entry, ...]) -> None:
        """Args: tail: the entries that the disk does not hold yet."""
        if now.soft_state is not None:
            self._take_soft_state(now.soft_state, tail)
        for message in now.messages:
            self._node.send_message(message)
        for state in now.read_states:
            self._reads.confirm(state, self.applied_index)

    def _take_soft_state(self, soft: SoftState, tail: tuple[Entry, ...]) -> None:
        self.raw.validate_state()
        self.leader, self.role = soft.leader, soft.role
        self._engine.mark(Kind.ROLE, self._node.name, soft.role.value, self.raw.status().term)
        if self.leads:
            self._checks.leads(self._node.name, self.raw.status(), self._disk.log, tail)
            self._engine.note(f"{self.member_id} leads term {self.raw.status().term}")
        elif self._engine.detailed:
            self._engine.detail(f"{self.member_id} is {soft.role.value}, its leader {soft.leader}")
        if not self.leads:
            self._fail_proposals()
        self._reads.ask_anew()
        for listener in tuple(self.leadership_listeners):
            listener()

    def _written(self, ready: Ready) -> None:
        self._unwritten = False
        self._stalls_at_ms = NEVER_MS
        self._checks.persisted(self._node.name, ready.entries, self._disk.log)
        self._running = True
        self._speak(ready)
        self._advance(ready)
        self._running = False
        self.wake()

    def _speak(self, ready: Ready) -> None:
        for message in ready.messages_after_persist:
            self._node.send_message(message)

    def _advance(self, ready: Ready) -> None:
        if not self._unwritten and not self._unapplied:
            self._under_way = None
            self.raw.advance(ready)

    def _apply(self, entries: tuple[Entry, ...]) -> None:
        events: list[Event] = []
        conf_changed = False
        digest_every = self._node.world.settings.digest_every
        for entry in entries:
            ensure(entry.index == self.applied_index + 1, f"entry {entry.index} is applied out of order")
            reply = Reply(code=Code.SUCCESS, message="")
            repeated = False
            if entry.kind is EntryKind.CONF_CHANGE:
                before = self.conf
                self.conf = self.raw.apply_conf_change(decode_conf_change(entry.data))
                self._quorums.changed(before, self.raw.status().commit)
                conf_changed = True
            elif entry.data:
                applied = apply(self.view, entry.index, entry.data, self._node.world.verify)
                reply, repeated = applied.reply, applied.repeated
                events.extend(applied.events)
            self.view.finish_entry(entry.index, entry.term)
            self.applied_index, self._applied_term = entry.index, entry.term
            self._checks.applied(self._node, entry, reply, repeated, self.view, self.conf)
            if entry.index % digest_every == 0:
                for told in self.digest_listeners:
                    told(entry.index, self.view.chained_digest)
            self._settle(entry, reply)
        self._want_flush()
        self._reads.applied(self.applied_index)
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
        if proposal.term != entry.term:
            proposal.settle(Failure(code=Code.NO_LEADER, text="another leader took over first"))
            return
        if self._node.tainted:
            # What a machine says whose memory went wrong is worth nothing, and no client may rely on it.
            proposal.settle(Failure(code=Code.OUTCOME_UNKNOWN, text="this node's state went wrong"))
            return

        def acknowledge(copies: int) -> None:
            self._checks.acknowledged(self._node, entry, copies)
            proposal.settle(reply)

        if has_one_voter(self.conf) and not isinstance(proposal.write.body, ConfChange):
            now_ms = self._node.clock.monotonic_ms()
            self._copies.settle(entry.index, self.raw.status(), now_ms, acknowledge)
        else:
            acknowledge(self._quorums.copies(entry.index, self.conf))

    def _fail_proposals(self) -> None:
        failed = [*self._agreeing.values(), *self._proposals]
        self._agreeing.clear()
        self._proposals.clear()
        self._copies.release_all()
        for proposal in failed:
            code = Code.OUTCOME_UNKNOWN if proposal.index else Code.NO_LEADER
            proposal.settle(Failure(code=code, text="this node stopped leading"))

    # --- writing behind --------------------------------------------------------------------------------------------

    def _want_flush(self) -> None:
        if not self._flush_planned:
            self._flush_planned = True
            self._node.at(self._engine.now_us + FLUSH_DELAY_US, self._flush_due)

    def _flush_due(self) -> None:
        self._flush_planned = False
        if self._flushing or self._installing is not None:
            self._want_flush()
        else:
            self._flush()

    def _flush(self) -> None:
        self._flushing = True
        rows, self.view.dirty = self.view.dirty, {}
        flush = Flush(
            rows=rows,
            applied_index=self.applied_index,
            applied_term=self._applied_term,
            digest=self.view.chained_digest,
            conf=self.conf,
        )
        self._disk.submit(flush, self._node.bound(lambda: self._flushed(flush)))

    def _flushed(self, flush: Flush) -> None:
        bounds = self._node.world.settings.compaction
        index = self._disk.log.compactable(bounds, flush.applied_index)
        if not index or self._copy_binds_log:
            self._flush_ended(flush)
            return

        def synced() -> None:
            self._disk.log.begin_compaction(index)
            self._disk.submit(Chore.COMPACT_LOG, self._node.bound(lambda: self._flush_ended(flush)))

        self._disk.submit(Chore.SYNC_STATE, self._node.bound(synced))

    def _flush_ended(self, flush: Flush) -> None:
        self._flushing = False
        if self.applied_index > flush.applied_index:
            self._want_flush()
        self._state_is_free()

    def _state_is_free(self) -> None:
        """Nothing flushes the state and nothing takes its place: who waits for that goes on, in order."""
        waiting, self._flushed_listeners = self._flushed_listeners, []
        for go_on in waiting:
            go_on()

    # --- snapshots -------------------------------------------------------------------------------------------------

    def _make_snapshot(self) -> None:
        """A follower needs one: the agreed state as of now is copied out, and offered when the core asks again."""
        self._copying = True
        self._flush_then_copy()

    def _flush_then_copy(self) -> None:
        if self._flushing or self._installing is not None:
            self._flushed_listeners.append(self._flush_then_copy)
        elif self.view.dirty:
            self._flushed_listeners.append(self._copy)
            self._flush()
        else:
            self._copy()

    def _copy(self) -> None:
        if not self._disk.state.applied_index:
            self._copying = False
            return
        self._copy_binds_log = True
        made = self._node.snapshots.make(self._disk.state.image)

        def copied() -> None:
            self._copying = False
            if self._copy_binds_log:
                self._copy_binds_log = False
                ensure(self._disk.log.term(made.meta.index) == made.meta.term, "the agreed state is not of this log")
                self._disk.log.keep_snapshot(offered_snapshot(made))
            self._engine.note(f"{self._node.name} made a snapshot of {made.meta.index}, {made.ref.size_bytes} bytes")
            self.wake()

        self._node.at(self._engine.now_us + self._engine.between(*COPY_US), copied)

    def _snapshot_failed(self, offer: SnapshotOffer) -> None:
        self._node.send_message(SnapshotStatus(to=offer.from_, from_=self.member_id, term=offer.term, ok=False))

    def _deliver_snapshot(self, offer: SnapshotOffer, prepared: PreparedState, dealt_with: Callable[[], None]) -> None:
        self._fetched = _Fetched(offer, prepared, dealt_with)
        self.wake()

    def _refuse_fetched(self) -> None:
        """What the core did not take, because its log went on, is removed."""
        fetched, self._fetched = self._fetched, None
        if fetched is not None:
            self._node.snapshots.discard(fetched.prepared)
            fetched.dealt_with()

    def _install(self) -> None:
        """Log and state become the snapshot's by one write, when no flush is under way; then memory follows.

        A copy that is being made goes on with the state that it began with, and is of the log before.
        """
        ready = self._installing
        if ready is None:
            return
        if self._flushing:
            self._flushed_listeners.append(self._install)
            return
        snapshot, fetched = ready.snapshot, self._fetched
        if snapshot is None or fetched is None or fetched.prepared.meta != snapshot.meta:
            raise InvariantError("the core installs a snapshot that was not fetched")
        self._fetched, self._copy_binds_log = None, False
        meta, name = snapshot.meta, fetched.prepared.folder.name
        batch = LogWrite(
            hard_state=ready.hard_state,
            entries=ready.entries,
            base=LogBase(index=meta.index, term=meta.term, state_folder=name),
        )
        self._write(ready, batch, lambda written: self._installed(written, snapshot, fetched))

    def _installed(self, ready: Ready, snapshot: Snapshot, fetched: _Fetched) -> None:
        self._unwritten, self._installing = False, None
        self._stalls_at_ms = NEVER_MS
        image = self._disk.state.image
        self.view.adopt(image)
        self.conf, self.applied_index, self._applied_term = image.mark.conf, image.mark.index, image.mark.term
        ensure(self.applied_index == snapshot.meta.index, "the adopted state is of another index than its snapshot")
        self._engine.note(f"{self._node.name} installed the snapshot of {self.applied_index}")
        self._node.tainted = self._node.world.is_tainted(snapshot)
        self._checks.installed(self._node, self.applied_index, self._applied_term, self.view, self.conf)
        self._checks.persisted(self._node.name, ready.entries, self._disk.log)
        self._reads.applied(self.applied_index)
        self._running = True
        for listener in tuple(self.listeners):
            listener((StateReplaced(index=self.applied_index),))
        for changed in tuple(self.leadership_listeners):
            changed()
        fetched.dealt_with()
        self._speak(ready)
        self._advance(ready)
        self._state_is_free()
        self._running = False
        self.wake()
