"""The replica: drives the consensus core and the agreed state of one member of the hive.

Rules:
- One asyncio task owns the core. Everybody else puts something into its bounded inbox and wakes it.
- The order of effects is the one that `Ready` states: a leader's messages, then the fsync, then the messages that speak for
  it. What is committed is applied meanwhile. What is proposed while earlier proposals are being agreed on, or many come,
  gathers for a moment, and shares one append and one fsync (group commit).
- A disk that takes its time deposes nobody: while it writes, time goes on, messages are heard, and what speaks for nothing
  that is being written goes out (heartbeats, their answers, rounds of reads). A leader whose disk is full, or takes nothing for
  `STALLED_TIMEOUTS` election timeouts, hands over, since it can answer for nothing. So does one that can apply nothing, because
  memory holds as much agreed state as it may and the disk has no room for it.
- Nothing here decides what a command means: that is `pool.state_machine.apply`.
- The log is compacted up to what the agreed state has synced, but for a tail. A member that needs more gets a snapshot: it is
  made when the core asks for one, fetched and unpacked beside, and takes the place of log and state in one write. A copy of
  the state that is being made then, which may take minutes, holds nothing back: it goes on with the state that it began with.
- What a thread does with the disk goes on when nobody waits for it any more. So flushes and copies (`state_writing`) are tasks of
  the replica, which no caller can break off, and `run` ends after the last of them. Copies, and the unpacking of what was
  fetched, are told to end then, since each may take minutes.

| this member | propose | read_barrier |
|---|---|---|
| leads | appended and waited for | a quorum confirms the leadership, then the index is applied |
| follows | NO_LEADER | the leader is asked for an index, which is then applied here |
| knows no leader | NO_LEADER | waits for one, up to the deadline |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from random import Random
from typing import Final, assert_never

import structlog

from hivenode.consensus import (
    ConfChange,
    Entry,
    EntryKind,
    HeartbeatResponse,
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
    decode_conf_change,
)
from hivenode.encoding.node_record import Verify
from hivenode.encoding.records import Record
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError, InvariantError, ensure
from hivenode.pool.commands import Reply
from hivenode.pool.events import Event, StateReplaced
from hivenode.pool.state_machine import apply
from hivenode.runtime.copies import SecondCopies, has_one_voter, quorum_size
from hivenode.runtime.inbox import Fetched, Inbox, LeaderLost, Proposal, Transfer
from hivenode.runtime.log_writing import LogWriting
from hivenode.runtime.own_work import OwnWork
from hivenode.runtime.proposals import Proposals
from hivenode.runtime.reads import READ_RETRY_MS, Reads
from hivenode.runtime.snapshots import FetchSnapshot, SnapshotFetcher
from hivenode.runtime.state_writing import StateWriting
from hivenode.runtime.stores import (
    CompactionBounds,
    LogBase,
    LogStorage,
    LogWrite,
    MadeSnapshot,
    PreparedState,
    SnapshotStorage,
    StateStorage,
)

INBOX_MESSAGES_MAX: Final = 8_192
"""Raft messages that wait; more are dropped, as a network would."""
STALLED_TIMEOUTS: Final = 2
"""A disk that takes nothing for so many times the longest election timeout is given up: an SSD's garbage collection and most
hiccups of a network disk are over by then, and callers do not wait much longer than for an election."""
APPLIED_AT_ONCE: Final = 32
"""Entries applied before the loop goes round: some 2 ms, so that an acknowledgement never waits long behind them."""
DIGEST_EVERY: Final = 1_024
"""Entries between two comparisons of the members' states; the same at all members."""

_log = structlog.get_logger(__name__)


class Replica:
    """One member's copy of the hive; fills the `Agreement` port.

    Args:
        config: the core's bounds and times.
        log, state, snapshots: its disk.
        writer: the one thread on which both are written.
        send: hands a message to the network; must not block.
        fetch: brings the bytes of a snapshot that another member has.
        verify: checks signatures for the pure rooms.
        digest_every: entries between two comparisons of states.
        clock_ms, wall_ms: monotonic time for the core, and ms since 1970 for the log.
        rng: the core's randomness.
    """

    def __init__(
        self,
        *,
        config: RaftConfig,
        log: LogStorage,
        state: StateStorage,
        snapshots: SnapshotStorage,
        writer: Executor,
        send: Callable[[Message], None],
        fetch: FetchSnapshot,
        verify: Verify,
        clock_ms: Callable[[], int],
        wall_ms: Callable[[], int],
        rng: Random,
        compaction: CompactionBounds | None = None,
        digest_every: int = DIGEST_EVERY,
    ) -> None:
        self.member_id: Final = config.member_id
        self._log = log
        self._state = state
        self._snapshots = snapshots
        self._digest_every = digest_every
        self._send = send
        self._verify = verify
        self._clock_ms = clock_ms
        self._wall_ms = wall_ms
        log.resume(state.conf, state.applied_index)
        self._raw = RawNode(config, log, rng, clock_ms(), state.applied_index)
        self._inbox = Inbox()
        self._wake = asyncio.Event()
        self._work = OwnWork(self._wake.set)
        self.writing: Final = LogWriting(
            log,
            writer,
            wake=self._wake.set,
            stalled_ms=STALLED_TIMEOUTS * config.election_timeout_ms[1],
            clock_ms=clock_ms,
        )
        self.state_writing: Final = StateWriting(
            log=log,
            state=state,
            snapshots=snapshots,
            writer=writer,
            compaction=compaction or CompactionBounds(),
            work=self._work,
        )
        self._stopping = False
        self._leader: MemberId | None = None
        self._role = Role.FOLLOWER
        self._leader_changed = asyncio.Event()
        self._reads = Reads(f"{config.member_id}:{rng.getrandbits(64):x}", self._raw.read_index)
        self._listeners: list[Callable[[tuple[Event, ...]], None]] = []
        self._conf_listeners: list[Callable[[], None]] = []
        self._digest_listeners: list[Callable[[int, bytes], None]] = []
        self._copies = SecondCopies(config.election_timeout_ms[0])
        self._proposals = Proposals(
            raw=self._raw,
            state=state,
            inbox=self._inbox,
            wake=self._wake.set,
            second_copies=self._copies,
            clock_ms=clock_ms,
            wall_ms=wall_ms,
        )
        self._fetcher = SnapshotFetcher(
            storage=snapshots, fetch=fetch, deliver=self._deliver_snapshot, failed=self._snapshot_failed
        )

    # --- what others call ------------------------------------------------------------------------------------------

    def view(self) -> ReadView:
        return self._state

    def now_ms(self) -> int:
        return self._wall_ms()

    def subscribe(self, listener: Callable[[tuple[Event, ...]], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def on_leadership(self, listener: Callable[[], None]) -> None:
        """Calls `listener` whenever the leader, this member's role or the configuration changed."""
        self._conf_listeners.append(listener)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns as soon as something holds that the leader, this member's role or the configuration decides."""
        changed = asyncio.Event()
        self._conf_listeners.append(changed.set)
        try:
            while not holds():
                changed.clear()
                await changed.wait()
        finally:
            self._conf_listeners.remove(changed.set)

    def on_digest(self, listener: Callable[[int, bytes], None]) -> None:
        """Calls `listener` with index and digest of the agreed state at the entries that members compare themselves at."""
        self._digest_listeners.append(listener)

    @property
    def leads(self) -> bool:
        return self._role is Role.LEADER

    @property
    def has_settled(self) -> bool:
        """Whether this member leads and has applied all that earlier leaders may have agreed on: an entry of its own term."""
        return self.leads and self._state.applied_term == self._raw.term

    @property
    def leader(self) -> MemberId | None:
        return self._leader

    @property
    def has_configuration(self) -> bool:
        """Whether this member has heard who votes; a joiner has not, until the log reaches it."""
        return bool(self._state.conf.voters)

    @property
    def applied_index(self) -> int:
        return self._state.applied_index

    @property
    def copies(self) -> int:
        """On how many disks what is acknowledged now lies, as far as this member knows."""
        conf = self._state.conf
        if not has_one_voter(conf):
            return quorum_size(conf)
        if not self.leads:
            return 2 if self._leader is not None and self.member_id in conf.learners else 1
        return self._copies.copies(self._raw.status(), self._clock_ms())

    def status(self) -> RaftStatus:
        return self._raw.status()

    def receive(self, message: Message) -> None:
        """A peer's message; dropped when the inbox is full."""
        if isinstance(message, SnapshotOffer):
            self._fetcher.offered(message)
        elif len(self._inbox.messages) < INBOX_MESSAGES_MAX:
            self._inbox.messages.append(message)
            # An answer to a plain heartbeat is heard with the next one at the latest: an idle leader wakes a third as often.
            if not isinstance(message, HeartbeatResponse) or message.context:
                self._wake.set()

    def leader_lost(self, member: MemberId) -> None:
        """The connection to `member` broke and its machine refuses another."""
        self._inbox.signals.append(LeaderLost(member))
        self._wake.set()

    def transfer_leader(self, to: MemberId) -> None:
        self._inbox.signals.append(Transfer(to))
        self._wake.set()

    async def propose(
        self, command: Record, *, deadline_s: float, owner: str = "", key: str = "", keep_ms: int = 0
    ) -> Reply:
        return await self._propose(command, owner, key, keep_ms, deadline_s)

    async def propose_conf_change(self, change: ConfChange, *, deadline_s: float) -> None:
        """Commits a change of the configuration; returns when it is applied here."""
        await self._propose(change, "", "", 0, deadline_s)

    async def _propose(self, body: Record | ConfChange, owner: str, key: str, keep_ms: int, deadline_s: float) -> Reply:
        if self._stopping:
            raise HiveError(Code.SHUTTING_DOWN, "this node is shutting down; ask another one")
        if self.writing.disk_full:
            raise HiveError(Code.DISK_FULL, "the leader's disk is full; nothing was done")
        if not self.leads:
            raise HiveError(Code.NO_LEADER, "this node does not lead; nothing was done, ask again")
        if (self.writing.stalled or self.state_writing.is_stuck) and has_one_voter(self._state.conf):
            # It leads on, for nobody can take over, and what it took now it would do long after its callers gave up.
            raise HiveError(Code.DISK_FULL, "the leader's disk takes nothing; nothing was done, ask again")
        proposal = Proposal(body, owner, key, keep_ms, asyncio.get_running_loop().create_future())
        return await self._proposals.agree(proposal, deadline_s)

    async def read_barrier(self, deadline_s: float) -> None:
        """Returns when this node has applied all that was acknowledged anywhere before the call (thesis §6.4).

        Raises:
            HiveError: NO_LEADER when no leader answered in time.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        read: asyncio.Future[None] = loop.create_future()
        self._reads.add(read)
        try:
            while not read.done():
                left = end - loop.time()
                if left <= 0 or self._stopping:
                    raise HiveError(
                        Code.NO_LEADER, "no leader answered: a majority of the voters cannot be reached; ask again"
                    )
                self._wake.set()
                await asyncio.wait({read}, timeout=min(READ_RETRY_MS / 1_000, left))
        finally:
            read.cancel()

    async def make_snapshot(self) -> MadeSnapshot:
        """Copies the agreed state as of now, or a little later, into a file.

        One copy at a time: all who call while one is made share the next. It is made to its end whoever still waits for it.

        Raises:
            HiveError: DISK_FULL; NOT_A_MEMBER while there is no state; SHUTTING_DOWN.
        """
        return await self.state_writing.make_snapshot()

    async def wait_for_leader(self, deadline_s: float) -> MemberId:
        """The leader, waiting for one. Raises NO_LEADER at the deadline."""
        try:
            async with asyncio.timeout(deadline_s):
                while self._leader is None:
                    self._leader_changed.clear()
                    await self._leader_changed.wait()
                return self._leader
        except TimeoutError:
            raise HiveError(
                Code.NO_LEADER, "the hive has no leader: a majority of its voters cannot be reached; ask again"
            ) from None

    async def wait_until_leading(self, deadline_s: float) -> None:
        """For the node that forms a hive. Raises NO_LEADER at the deadline."""
        await self.wait_for_leader(deadline_s)
        if not self.leads:
            raise HiveError(Code.NO_LEADER, "another node leads")

    # --- the one task ----------------------------------------------------------------------------------------------

    async def run(self, *, born: bool = False) -> None:
        """Drives the member until `stop`. `born`: it is the only voter of a hive that starts now.

        Raises:
            InvariantError: agreed state is broken; the daemon must stop.
        """
        self.state_writing.start()
        must_campaign = born
        try:
            while not self._stopping:
                if (broken := self._work.broken or self._fetcher.error) is not None:
                    raise broken
                self.state_writing.see_to_snapshot()
                self._hear()
                self._step_fetched()
                if self._raw.has_ready():
                    await self._carry_out(self._raw.ready())
                    self._refuse_fetched()
                elif must_campaign:
                    must_campaign = False
                    self._raw.campaign()
                else:
                    self._refuse_fetched()
                    await self._sleep()
        finally:
            self._stopping = True
            self.state_writing.end()
            await self._fetcher.aclose()
            await self._work.wait()
            self._proposals.fail("this node is shutting down")

    async def stop(self) -> None:
        """Asks `run` to end; everything acknowledged is in the log already."""
        self._stopping = True
        self.state_writing.stop()
        self._wake.set()

    async def _sleep(self) -> None:
        deadline_ms = self._raw.next_deadline()
        for other_ms in (self._copies.deadline_ms, self.writing.deadline_ms, self._inbox.deadline_ms):
            if other_ms is not None:
                deadline_ms = min(deadline_ms, other_ms)
        delay_s = (deadline_ms - self._clock_ms()) / 1_000
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        timer = asyncio.get_running_loop().call_later(delay_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _hear(self) -> None:
        """Time goes on, and everything that waits comes to the core."""
        self._wake.clear()
        inbox, now_ms = self._inbox, self._clock_ms()
        self._raw.tick(now_ms)
        while inbox.messages:
            message = inbox.messages.popleft()
            self._copies.heard(message.from_, now_ms)
            self._raw.step(message)
        if self._copies.deadline_ms is not None:
            self._copies.release(self._raw.status(), now_ms)
        while inbox.signals:
            signal = inbox.signals.popleft()
            match signal:
                case LeaderLost(node):
                    if node == self._leader:
                        self._raw.leader_lost()
                    self._raw.report_unreachable(node)
                case Transfer(to):
                    self._transfer(to)
                case _:
                    assert_never(signal)
        self._proposals.append_gathered(now_ms)
        self._reads.ask(now_ms)

    def _step_fetched(self) -> None:
        """Between two Readys, so that it is known by the next one whether the core took it."""
        if self._inbox.fetched is not None:
            self._inbox.fetched.stepped = True
            self._raw.step(self._inbox.fetched.offer)

    def _transfer(self, to: MemberId) -> None:
        try:
            self._raw.transfer_leader(to)
        except HiveError as error:
            _log.info("leadership is not transferred", reason=error.message)

    async def _carry_out(self, ready: Ready) -> None:
        """Does what a Ready says, in its order; breaks off where waiting for the disk is vain, and then `run` ends."""
        self._show(ready)
        if ready.snapshot is not None:
            if not await self._install(ready, ready.snapshot):
                return
        elif ready.must_sync:
            self.writing.begin(LogWrite(hard_state=ready.hard_state, entries=ready.entries))
        entries, done, spoken = ready.committed_entries, 0, False
        while done < len(entries) or not spoken:
            if not spoken and self.writing.done():
                spoken = True
                for message in ready.messages_after_persist:
                    self._send(message)
            if done < len(entries) and not self._state.overfull:
                self._apply(entries[done : done + APPLIED_AT_ONCE])
                done += APPLIED_AT_ONCE
                if done < len(entries):
                    # A Ready may hold seconds of work; no voter is mute for so long.
                    self._go_on_meanwhile()
                    await asyncio.sleep(0)
            elif done < len(entries) or not spoken:
                if self._is_vain(written=spoken):
                    return
                await self._sleep()
                if not self.writing.done() or self._state.overfull:
                    self._go_on_meanwhile()
        self._raw.advance(ready)

    def _is_vain(self, *, written: bool) -> bool:
        """Whether nobody waits for the disk any more. What may be under way in the log is waited for, unless all is broken."""
        return self._work.broken is not None or (self._stopping and (written or self.writing.waits_for_room))

    def _show(self, now: Ready | Meanwhile) -> None:
        """Does what may be done at any time: who leads, messages that speak for nothing that is being written, reads."""
        soft = now.soft_state
        if soft is not None:
            led = self.leads
            self._leader, self._role = soft.leader, soft.role
            if self.leads and not led:
                # Before anything is said as a leader: the logs of all members are the witness of who led in which term.
                _log.info("this member leads", hive=self._log.hive_id, member=self.member_id, term=self._raw.term)
            if not self.leads:
                self._proposals.fail("this node stopped leading")
            self._reads.ask_anew()
            self._leader_changed.set()
            self._tell_leadership()
        for message in now.messages:
            self._send(message)
        for state in now.read_states:
            self._reads.confirm(state, self._state.applied_index)

    def _go_on_meanwhile(self) -> None:
        """While the disk writes, or much is applied: time goes on, and what need not wait for it goes out."""
        self._hear()
        if self.writing.stalled or self.state_writing.is_stuck:
            self._raw.disk_stalled()
        self._show(self._raw.meanwhile())

    async def _persist(self, batch: LogWrite) -> bool:
        """A write that is waited for before anything else of its Ready; returns whether it was done."""
        self.writing.begin(batch)
        while not self.writing.done():
            if self._is_vain(written=False):
                return False
            self._go_on_meanwhile()
            await self._sleep()
        return True

    def _apply(self, entries: tuple[Entry, ...]) -> None:
        events: list[Event] = []
        conf_changed = False
        for entry in entries:
            ensure(entry.index == self._state.applied_index + 1, f"entry {entry.index} is applied out of order")
            reply = Reply(code=Code.SUCCESS, message="")
            if entry.kind is EntryKind.CONF_CHANGE:
                before = self._state.conf
                self._state.conf = self._raw.apply_conf_change(decode_conf_change(entry.data))
                self._proposals.quorums.changed(before, self._raw.status().commit)
                conf_changed = True
            elif entry.data:
                applied = apply(self._state, entry.index, entry.data, self._verify)
                reply = applied.reply
                events.extend(applied.events)
            self._state.finish_entry(entry.index, entry.term)
            if entry.index % self._digest_every == 0:
                for told in self._digest_listeners:
                    told(entry.index, self._state.digest)
            self._proposals.settle(entry, reply)
        self.state_writing.want_flush()
        self._tell_applied(tuple(events))
        if conf_changed:
            self._tell_leadership()

    def _tell_applied(self, events: tuple[Event, ...]) -> None:
        self._reads.applied(self._state.applied_index)
        if events:
            for listener in tuple(self._listeners):
                listener(events)

    def _tell_leadership(self) -> None:
        for listener in tuple(self._conf_listeners):
            listener()

    # --- snapshots -------------------------------------------------------------------------------------------------

    def _snapshot_failed(self, offer: SnapshotOffer) -> None:
        self._send(SnapshotStatus(to=offer.from_, from_=self.member_id, term=offer.term, ok=False))

    async def _deliver_snapshot(self, offer: SnapshotOffer, prepared: PreparedState) -> None:
        fetched = self._inbox.fetched = Fetched(offer, prepared, asyncio.Event())
        self._wake.set()
        await fetched.dealt_with.wait()

    def _refuse_fetched(self) -> None:
        """After the round that the offer was stepped in: what the core did not take, because its log went on, is removed."""
        fetched = self._inbox.fetched
        if fetched is not None and fetched.stepped:
            self._inbox.fetched = None
            self._work.begin(self._clear_away(fetched, self._snapshots.discard, fetched.prepared), "refused snapshot")

    async def _clear_away(self, fetched: Fetched, remove: Callable[..., None], *arguments: PreparedState) -> None:
        """Beside the core: large files take a while to go. The fetcher prepares nothing before it is done."""
        await asyncio.to_thread(remove, *arguments)
        fetched.dealt_with.set()

    async def _install(self, ready: Ready, snapshot: Snapshot) -> bool:
        """Log and state become the snapshot's by one write; then memory follows. Returns whether it was done."""
        fetched, self._inbox.fetched = self._inbox.fetched, None
        if fetched is None or fetched.prepared.meta != snapshot.meta:
            raise InvariantError("the core installs a snapshot that was not fetched")
        folder = fetched.prepared.folder
        base = LogBase(index=snapshot.meta.index, term=snapshot.meta.term, state_folder=folder.name)
        taking = self._work.begin(self.state_writing.hold(), "installation waits for a flush")
        try:
            while not taking.done():
                if self._is_vain(written=True):
                    return False
                self._go_on_meanwhile()
                await self._sleep()
            self.state_writing.replaced()
            if not await self._persist(LogWrite(hard_state=ready.hard_state, entries=ready.entries, base=base)):
                return False
            self._state.adopt(folder)
        finally:
            if not taking.cancel():
                self.state_writing.let_go()
        ensure(self._state.applied_index == base.index, "the adopted state is of another index than its snapshot")
        _log.info("snapshot installed", index=base.index)
        self._tell_applied((StateReplaced(index=base.index),))
        self._tell_leadership()
        self._work.begin(self._clear_away(fetched, self._snapshots.retire), "replaced state")
        return True
