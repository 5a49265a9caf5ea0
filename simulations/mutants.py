"""Deliberate bugs: each is put into the production machines for one run, and a sweep has to find it.

A mutant replaces one function or method while its `with` block lasts. Nothing of the product knows of it. A mutant that no
seed finds says that the faults are too tame or a checker is blind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from hivenode.consensus import ConfState, Ready, election, following, replication
from hivenode.consensus import raft as raft_module
from hivenode.consensus.log import RaftLog
from hivenode.consensus.messages import AppendRequest, VoteRequest
from hivenode.consensus.progress import Progress
from hivenode.consensus.quorum import committed_index
from hivenode.consensus.state import RaftState
from hivenode.encoding.node_record import NodeId, NodeRecord, SignedNodeRecord, Verify, open_record
from hivenode.encoding.state_view import ReadView
from hivenode.errors import InvariantError
from hivenode.ledger import chain
from hivenode.ledger.accounts import TREASURY, user_account
from hivenode.ledger.entries import EntryKind
from hivenode.membership.suspicion import Suspicion
from hivenode.membership.voters import VoterPolicyInput
from hivenode.pool import attempts, keys, nodes, queries, requests, tasks, users
from hivenode.pool.commands import ChangePassword, EndAttempt, LoseAttempt, RefreshSession, Reply, StartAttempt
from hivenode.pool.context import Context
from hivenode.pool.records import NodeRights, TaskRecord, TaskState
from hivenode.runtime.assignments import Assignments
from hivenode.runtime.departures import refuse_departure
from hivenode.runtime.member_gate import MemberGate
from hivenode.runtime.reads import Reads
from hivenode.runtime.stores import LogWrite, MadeSnapshot
from hivenode.storage.sealed_row import SEAL_BYTES
from simulations import admission, digests, disk, hive_life, scenarios, steward
from simulations.checkers.linearizable import UndecidedError
from simulations.checkers.violation import Violation
from simulations.disk import LogDisk, StateDisk, StateImage
from simulations.engine import HOUR
from simulations.replica import Replica
from simulations.run import Plan, run
from simulations.snapshots import SnapshotDisk

SEEDS_MAX: Final = 40
"""So many seeds are tried for one mutant."""
HOURS: Final = 0.1

Mutant = Callable[[], Any]


@contextmanager
def _replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    old = owner.__dict__[name]
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


def vote_not_persisted() -> Any:
    """The vote is not written, so that a member votes twice in a term after a crash."""
    write = LogDisk.write

    def forgetful(self: LogDisk, batch: LogWrite) -> None:
        hard = batch.hard_state
        write(self, replace(batch, hard_state=replace(hard, vote=None)) if hard is not None else batch)

    return _replaced(LogDisk, "write", forgetful)


def term_not_persisted() -> Any:
    """Term and vote are written only together with entries."""
    write = LogDisk.write

    def forgetful(self: LogDisk, batch: LogWrite) -> None:
        write(self, batch if batch.entries else replace(batch, hard_state=None))

    return _replaced(LogDisk, "write", forgetful)


def votes_twice() -> Any:
    """A member gives its vote to whoever asks last."""
    handle = election.handle_vote_request

    def generous(state: RaftState, message: VoteRequest) -> None:
        if not message.pre_vote:
            state.vote, state.leader = None, None
        handle(state, message)

    return _replaced(election, "handle_vote_request", generous)


def votes_for_short_logs() -> Any:
    """A candidate's log is not looked at (paper §5.4.1)."""
    return _replaced(RaftLog, "is_up_to_date", lambda self, last_index, last_term: True)


def pre_vote_skipped() -> Any:
    """A member stands for election without asking whether it could win one (thesis §9.6)."""

    def hasty(state: RaftState, *, transfer: bool = False) -> None:
        if state.is_leader:
            return
        if not state.can_campaign or state.log.has_unapplied_conf_change():
            state.reset_election_timer()
            return
        election._stand(state, transfer=transfer)

    return _replaced(election, "campaign", hasty)


def commits_older_terms() -> Any:
    """A leader commits entries of earlier terms by counting (paper §5.4.2, figure 8)."""

    def careless(state: RaftState) -> bool:
        index = committed_index(state.conf, lambda member: state.progress[member].match)
        if index <= state.log.committed:
            return False
        state.log.commit_to(index)
        state.send_due = True
        return True

    return _replaced(replication, "maybe_commit", careless)


def acknowledges_before_fsync() -> Any:
    """Acknowledgements and votes go out while the disk still writes what they speak for."""
    carry_out = Replica._carry_out

    def hasty(self: Replica, ready: Ready) -> None:
        for message in ready.messages_after_persist:
            self._node.send_message(message)
        carry_out(self, ready)

    return _replaced(Replica, "_carry_out", hasty)


def leader_counts_unwritten() -> Any:
    """A leader counts itself for entries that its disk does not hold."""
    return _replaced(RaftLog, "durable_index", lambda self: self.last_index())


def reads_without_quorum() -> Any:
    """A leader answers reads without asking whether it still leads (thesis §6.4)."""
    start = replication.start_reads

    def trusting(state: RaftState) -> None:
        start(state)
        in_flight = state.reads.in_flight
        if in_flight is not None:
            for member in state.conf.voters | state.conf.voters_outgoing:
                in_flight.confirmed[member] = True
            replication._finish_reads(state)

    return _replaced(replication, "start_reads", trusting)


def reads_without_waiting() -> Any:
    """A confirmed read is answered before its index is applied."""

    confirm = Reads.confirm

    def hasty(self: Reads, state: Any, applied_index: int) -> None:
        confirm(self, state, max(applied_index, state.index))

    return _replaced(Reads, "confirm", hasty)


def conflict_not_truncated() -> Any:
    """A follower keeps its own entries where the leader's differ."""

    def stubborn(self: RaftLog, entries: Any) -> int:
        last = self.last_index()
        return next((entry.index for entry in entries if entry.index > last), 0)

    return _replaced(RaftLog, "conflict_index", stubborn)


def commit_beyond_match() -> Any:
    """A follower commits whatever index the leader names, also beyond what it was sent."""
    handle = following.handle_append

    def trusting(state: RaftState, message: AppendRequest) -> None:
        handle(state, message)
        state.log.commit_to(min(message.commit, state.log.last_index()))

    return _replaced(following, "handle_append", trusting)


def one_half_of_joint() -> Any:
    """While the configuration is joint, only the new half decides (thesis §4.3)."""

    def careless(conf: ConfState, match_of: Any) -> int:
        return committed_index(replace(conf, voters_outgoing=frozenset()), match_of)

    return _replaced(replication, "committed_index", careless)


def conf_change_lost() -> Any:
    """The configuration is not stored with the applied index."""
    commit = StateDisk.commit

    def forgetful(self: StateDisk, flush: Any) -> None:
        commit(self, replace(flush, conf=self.conf))

    return _replaced(StateDisk, "commit", forgetful)


def conf_change_twice() -> Any:
    """After a restart the applied index is one too low, so that an entry is applied again."""
    commit = StateDisk.commit

    def behind(self: StateDisk, flush: Any) -> None:
        commit(self, replace(flush, applied_index=max(0, flush.applied_index - 1)))

    return _replaced(StateDisk, "commit", behind)


def snapshot_without_configuration() -> Any:
    """A snapshot holds the agreed state and not who was a member."""
    make = SnapshotDisk.make

    def bare(self: SnapshotDisk, image: StateImage) -> MadeSnapshot:
        return make(self, StateImage(image.rows, replace(image.mark, conf=ConfState())))

    return _replaced(SnapshotDisk, "make", bare)


def digest_not_checked() -> Any:
    """A member whose state differs from the others' goes on."""
    return _replaced(digests, "broken_by", lambda report, verdict: "")


def row_checksum_not_checked() -> Any:
    """A flipped bit of agreed state is read as a fact."""
    return _replaced(disk, "unseal", lambda _key, row: row[:-SEAL_BYTES])


def unsigned_record_accepted() -> Any:
    """Whoever shows a node's record is admitted as that node, whether it signed it or not."""

    def trusting(signed: SignedNodeRecord, verify: Verify) -> NodeRecord:
        return open_record(signed, lambda _key, _message, _signature: True)

    stack = ExitStack()
    stack.enter_context(_replaced(nodes, "open_record", trusting))
    stack.enter_context(_replaced(hive_life, "open_record", trusting))
    return stack


def attempt_number_reused() -> Any:
    """A task that was lost with its worker gets the same attempt number again."""
    give_up = tasks.give_up_attempt

    def forgetful(ctx: Context, task: TaskRecord, reason: str, *, revoke: bool) -> None:
        give_up(ctx, task, reason, revoke=revoke)
        after = tasks.find_task(ctx.view, task.user, task.task_id)
        if after is not None and after.state is TaskState.PENDING:
            tasks.save(ctx, after, replace(after, attempt=after.attempt - 1))

    return _replaced(attempts, "give_up_attempt", forgetful)


def request_done_again() -> Any:
    """A repeated request is not recognised."""
    return _replaced(requests, "recall", lambda view, envelope, command, now_ms: None)


def rewarded_twice() -> Any:
    """A worker that reports the end of a paid task once more is paid once more."""
    opened = attempts._open_attempt

    def generous(ctx: Context, command: StartAttempt | EndAttempt | LoseAttempt) -> TaskRecord:
        task = tasks.find_task(ctx.view, command.user, command.task_id)
        if isinstance(command, EndAttempt) and task is not None and task.paid:
            chain.post(
                ctx.view,
                time_ms=ctx.now_ms,
                kind=EntryKind.POST,
                postings=((TREASURY, -task.paid), (user_account(task.user), task.paid)),
                reference=f"{task.user}/{task.task_id}",
                origin="hive",
            )
        return opened(ctx, command)

    return _replaced(attempts, "_open_attempt", generous)


def old_sessions_live_on() -> Any:
    """A changed password ends the session that changed it alone."""

    def lenient(ctx: Context, command: ChangePassword) -> Reply:
        return users.refresh_session(
            ctx,
            RefreshSession(
                session_id=command.session_id, new_session_id=command.new_session_id, lifetime_ms=command.lifetime_ms
            ),
        )

    return _replaced(users, "change_password", lenient)


def stale_attempt_taken() -> Any:
    """A worker's late report counts for the newest attempt."""
    opened = attempts._open_attempt

    def blind(ctx: Context, command: StartAttempt | EndAttempt | LoseAttempt) -> TaskRecord:
        task = tasks.find_task(ctx.view, command.user, command.task_id)
        if isinstance(command, EndAttempt) and task is not None and task.attempt_open:
            return task
        return opened(ctx, command)

    return _replaced(attempts, "_open_attempt", blind)


def state_depends_on_node() -> Any:
    """One replica derives another state than the rest from the same entry."""
    grant = users._grant
    count = [0]

    def moody(ctx: Context, hive: Any, username: str) -> int:
        count[0] += 1
        return grant(ctx, replace(hive, signup_grant=hive.signup_grant + (count[0] % 7 == 0)), username)

    return _replaced(users, "_grant", moody)


def clock_runs_back() -> Any:
    """The agreed clock follows each leader's own."""

    def naive(view: Any, time_ms: int) -> int:
        view.put(keys.CLOCK, keys.number(time_ms))
        return time_ms

    return _replaced(users, "advance_clock", naive)


def deaf_suspicion() -> Any:
    """The leader never takes a silent worker for lost."""
    return _replaced(Suspicion, "judge", lambda self, now_ms: ())


def running_attempts_disowned() -> Any:
    """The leader passes over what a worker says that it runs, and takes it for lost."""
    opened = Assignments.opened

    def deaf(self: Any, view: ReadView, node: NodeId, stream: Any, _has: Any, now_ms: int) -> None:
        opened(self, view, node, stream, (), now_ms)

    return _replaced(Assignments, "opened", deaf)


def ends_never_acknowledged() -> Any:
    """Workers do not hear that an end is agreed on, and keep the attempt."""
    return _replaced(Assignments, "_close", lambda self, node, key: None)


def losses_asked_for_once() -> Any:
    """A loss that could not be agreed on is never asked for again."""
    return _replaced(Assignments, "loss_ended", lambda self, loss: None)


def probe_never_sent_again() -> Any:
    """A lost append to a member that is being probed is never repeated."""
    handle = replication.handle_heartbeat_response

    def forgetful(state: RaftState, message: Any, progress: Progress) -> None:
        sent = progress.probe_sent
        handle(state, message, progress)
        progress.probe_sent, progress.probe_due = sent, False

    return _replaced(replication, "handle_heartbeat_response", forgetful)


def removed_voter_unheard() -> Any:
    """Members hear those alone whom the agreed state gives voter right, not whose vote the configuration counts."""

    def hard_of_hearing(self: MemberGate, node: Any) -> bool:
        entry = nodes.find_node(self._view(), node)
        return (entry is not None and entry.rights is NodeRights.VOTER) or node in self.vouched()

    return _replaced(MemberGate, "takes_part", hard_of_hearing)


def revoked_voter_heard() -> Any:
    """Members hear a revoked machine for as long as the configuration has it, as one that its owner takes away."""
    takes_part = MemberGate.takes_part

    def lenient(self: MemberGate, node: Any) -> bool:
        return node in self._members() or takes_part(self, node)

    return _replaced(MemberGate, "takes_part", lenient)


def revoked_at_any_time() -> Any:
    """A voter is revoked as one is removed: the leader counts on its vote for taking its vote away."""

    def rash(given: VoterPolicyInput, node: Any, *, is_joint: bool, at_once: bool) -> None:
        refuse_departure(given, node, is_joint=is_joint, at_once=False)

    return _replaced(steward, "refuse_departure", rash)


def revoked_machine_let_in() -> Any:
    """Nobody looks whether a machine that asks to be let in is kept out."""
    stack = ExitStack()
    stack.enter_context(_replaced(nodes, "refuse_denied", lambda view, node_id: None))
    stack.enter_context(_replaced(admission, "is_denied", lambda view, node_id: False))
    return stack


def newcomers_unheard() -> Any:
    """A member that was away asks nobody who came meanwhile."""
    return _replaced(hive_life.HiveLife, "_ask_for_members", lambda self, replica: None)


def old_state_outweighs_a_word() -> Any:
    """What a member's state has of a node counts against another's word for it, though the word may be newer."""
    vouch = MemberGate.vouch

    def stubborn(self: MemberGate, by: Any, index: int, named: Any) -> None:
        view = self._view()
        strangers = [
            node
            for node in named
            if nodes.find_node(view, node) is None and nodes.removed_incarnation(view, node) is None
        ]
        vouch(self, by, index, strangers)

    return _replaced(MemberGate, "vouch", stubborn)


def revocation_outweighs_a_word() -> Any:
    """What a member's state has of a revocation counts against another's word, though the word may be newer."""
    takes_part = MemberGate.takes_part

    def unforgiving(self: MemberGate, node: Any) -> bool:
        return not nodes.is_denied(self._view(), node) and takes_part(self, node)

    return _replaced(MemberGate, "takes_part", unforgiving)


def removed_voter_ends_at_once() -> Any:
    """The daemon of a voter that was taken out ends when it hears so, while its vote counts."""
    return _replaced(hive_life.HiveLife, "_applied", _ends(lambda node, replica: True))


def removed_voter_trusts_itself() -> Any:
    """The daemon of a voter ends when it has applied that it is out, though others may restart without knowing it."""
    return _replaced(
        hive_life.HiveLife,
        "_leadership_changed",
        _ends(lambda node, replica: node.member_id not in replica.conf.members()),
    )


def _ends(when: Callable[[Any, Replica], bool]) -> Any:
    """The method that a mutant has in place of one that is told the replica first."""

    def hasty(self: hive_life.HiveLife, replica: Replica, *rest: Any) -> None:
        node = self._node
        if queries.was_removed(replica.view, node.node_id, node.disk.log.incarnation) and when(node, replica):
            node.at(node.world.engine.now_us, node.leave)
        elif rest:
            applied(self, replica, *rest)
        else:
            leadership_changed(self, replica)

    applied, leadership_changed = hive_life.HiveLife._applied, hive_life.HiveLife._leadership_changed
    return hasty


def joint_never_left() -> Any:
    """The leader does not leave the joint configuration."""
    return _replaced(raft_module.Raft, "leave_joint_if_due", lambda self: None)


ALL: Final[dict[str, Mutant]] = {
    mutant.__name__: mutant
    for mutant in (
        vote_not_persisted,
        term_not_persisted,
        votes_twice,
        votes_for_short_logs,
        pre_vote_skipped,
        commits_older_terms,
        acknowledges_before_fsync,
        leader_counts_unwritten,
        reads_without_quorum,
        reads_without_waiting,
        conflict_not_truncated,
        commit_beyond_match,
        one_half_of_joint,
        conf_change_lost,
        conf_change_twice,
        snapshot_without_configuration,
        digest_not_checked,
        row_checksum_not_checked,
        unsigned_record_accepted,
        attempt_number_reused,
        request_done_again,
        rewarded_twice,
        old_sessions_live_on,
        stale_attempt_taken,
        state_depends_on_node,
        clock_runs_back,
        deaf_suspicion,
        running_attempts_disowned,
        ends_never_acknowledged,
        losses_asked_for_once,
        probe_never_sent_again,
        joint_never_left,
        removed_voter_unheard,
        revoked_voter_heard,
        revoked_at_any_time,
        revoked_machine_let_in,
        newcomers_unheard,
        old_state_outweighs_a_word,
        revocation_outweighs_a_word,
        removed_voter_ends_at_once,
        removed_voter_trusts_itself,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bite:
    """How soon a mutant was found: after so many seeds, where and by what; `seeds` is 0 when none found it.

    Args:
        broke: what else than a checker or an invariant ended a run or a scenario, or failed without the bug as well; that
            finds nothing, it is a fault of the mutant or of the simulator.
    """

    name: str
    seeds: int
    where: str
    failure: str
    cpu_s: float
    broke: str = ""


def bite(name: str, *, first_seed: int = 1, seeds_max: int = SEEDS_MAX, hours: float = HOURS, nodes: int = 5) -> Bite:
    """Runs seeds with one bug, each as a random run and in all scenarios, until something fails that does not without it."""
    began_s, broke = time.process_time(), ""
    for number in range(seeds_max):
        for play in _plays(first_seed + number, hours, nodes):
            with ALL[name]():
                failure, found = play.fails()
            if not found:
                broke = broke or (f"{play.name}: {failure}" if failure else "")
            elif play.fails()[0]:
                broke = broke or f"{play.name} fails without the bug too, with seed {first_seed + number}"
            else:
                cpu_s = time.process_time() - began_s
                return Bite(name=name, seeds=number + 1, where=play.name, failure=failure, cpu_s=cpu_s, broke=broke)
    return Bite(name=name, seeds=0, where="", failure="", cpu_s=time.process_time() - began_s, broke=broke)


@dataclass(frozen=True, slots=True)
class _Play:
    """A random run or a scenario with its seed; what it does returns the last line of its failure, if any."""

    name: str
    act: Callable[[], tuple[str, bool]]

    def fails(self) -> tuple[str, bool]:
        """By what, and whether a checker or an invariant says so; empty when it does not."""
        try:
            return self.act()
        except (Violation, InvariantError, UndecidedError) as error:
            return _last_line(str(error)), True
        except Exception as error:
            return _last_line(f"{type(error).__name__}: {error}"), False


def _plays(seed: int, hours: float, nodes: int) -> Iterator[_Play]:
    """What is done with a seed."""

    def random_run() -> tuple[str, bool]:
        result = run(Plan(seed=seed, nodes=nodes, duration_us=int(hours * HOUR), faults="all"))
        return (_last_line(result.failure), not result.broke) if result.failure else ("", False)

    def of(scenario: Callable[[int], str]) -> Callable[[], tuple[str, bool]]:
        def act() -> tuple[str, bool]:
            scenario(seed)
            return "", False

        return act

    yield _Play("run", random_run)
    for scenario in scenarios.ALL.values():
        yield _Play(scenario.__name__, of(scenario))


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


__all__ = ["ALL", "Bite", "bite"]
