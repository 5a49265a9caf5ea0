"""The life of a simulated node in its hive: carries out what the production formation machine asks for.

It does what `hivenode.runtime.hive_life`, `hive_end` and `peer_host` do, with calls over the simulated network: calls candidates
back, invites, forms, joins, tells the hive its record, gives a hive with nothing in it up for a better one, and reports others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, assert_never

from hivenode.consensus import ConfChange, Entry, EntryKind, HardState, MemberId, encode_conf_change
from hivenode.encoding.node_record import NodeId, open_record
from hivenode.encoding.records import encode_record
from hivenode.encoding.recovery import base_of
from hivenode.errors import Code
from hivenode.membership.events import (
    CallBack,
    CandidateSeen,
    DissolveOwnHive,
    DissolvingFailed,
    Effect,
    Event,
    FormHive,
    HiveFormed,
    InvitationAgreed,
    InvitationRefused,
    InvitationUnanswered,
    Invited,
    InviteFounder,
    JoinFailed,
    JoinHive,
    JoinSucceeded,
    PeerPhase,
    PeerUnconfirmed,
    PromiseTo,
    RefuseInvitation,
    ReportForeignHive,
    TimePassed,
    VirginityKnown,
)
from hivenode.membership.formation import PAIRING_MS, Formation, FormationConfig, Me
from hivenode.pool import queries
from hivenode.pool.commands import AdmitNode, CreateHive, DissolveHive, Reply
from hivenode.pool.dissolving import ADDRESSES_MAX, dissolved, is_virgin
from hivenode.pool.events import Event as PoolEvent
from hivenode.pool.events import HiveDissolved, NodeChanged, NodeRemoved, StateReplaced
from hivenode.pool.records import NodeKind, NodeRights
from hivenode.runtime.hive_end import DECIDE_DEADLINE_S, GRACE_S, SEEK_DEADLINE_S, SEEK_PAUSE_S, SOUGHT_MAX
from hivenode.runtime.hive_life import (
    ANNOUNCE_RETRY_S,
    BIRTH_DEADLINE_S,
    CALL_DEADLINE_S,
    FOUNDERS_DEADLINE_S,
    INVITE_DEADLINE_S,
    JOIN_DEADLINE_S,
    REFRESH_S,
    confirmed_by,
)
from hivenode.runtime.local import LEADERLESS_S
from hivenode.runtime.member_search import ASK_DEADLINE_S as MEMBERS_DEADLINE_S
from hivenode.runtime.member_search import ASKED_AT_ONCE, PAUSE_S, PAUSE_S_MAX
from hivenode.runtime.ports import HivePhase, Introduction, JoinOffer, PeerAddress
from hivenode.runtime.stores import LogWrite
from simulations.calls import (
    Failure,
    IntroduceAsked,
    InviteAsked,
    JoinAsked,
    MembersAsked,
    MembersTold,
    OnAnswer,
    Write,
    Written,
)
from simulations.disk import Bind
from simulations.engine import SECOND
from simulations.own_record import signed_record

if TYPE_CHECKING:
    from simulations.node import Node
    from simulations.replica import Replica

SUPPLY: Final = 1_000_000_000
GRANT: Final = 10_000


GRANTS_PER_DAY: Final = 1_000_000


class HiveLife:
    """One for each life of a process."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._world = node.world
        self._engine = node.world.engine
        self._formation = Formation(
            FormationConfig(),
            Me(node_id=node.node_id, may_vote=node.role.may_vote, bound_to=node.bound_to),
            node.clock.monotonic_ms(),
            node.disk.log.hive_id or None,
        )
        self.writes_open = bool(node.disk.log.hive_id)
        """Whether users' writes are taken: a new hive waits for its founders first."""
        self.leaving = False
        self._invitation_hive = ""
        self._members_expected = 0
        self._virginity: tuple[bool, int, bool] | None = None
        self._timer_us = 0
        self._telling = False
        self._asked, self._asked_us = 0, -int(PAUSE_S * SECOND)
        self._belongs = bool(node.disk.log.hive_id)
        """As `runtime.hive_life` has it."""

    # --- the machine -----------------------------------------------------------------------------------------------

    @property
    def phase(self) -> HivePhase:
        return HivePhase.FOUNDING if self.leaving else HivePhase(self._formation.phase.value)

    def start(self) -> None:
        """The daemon starts: it goes on in its hive, or looks for one."""
        node = self._node
        if node.disk.log.hive_id:
            entitled = node.roster.voter_rights if node.roster is not None else node.role.may_vote
            node.enter(holds_log=entitled or node.disk.log.last_index() > 0)
            self._tell_record_again()
            if node.disk.log.hive_id in node.tombstones:
                self.leaving = True
                self._later(GRACE_S, node.start_afresh)
            elif node.replica is not None:
                self._look(node.replica)
        else:
            for address in node.last_target:
                self.candidate(address, "former hive")
        if node.bound_address:
            self.candidate(node.bound_address, "owner")
        first = next(iter(self._world.nodes.values()))
        if self._world.settings.bootstrap and first is not node:
            self.candidate(first.address, "bootstrap")
        self._later(SEEK_PAUSE_S, self._seek)
        self.step(TimePassed())

    def candidate(self, address: str, source: str) -> None:
        """Somebody may answer at this address."""
        self.step(CandidateSeen(address=address, source=source))

    def step(self, event: Event) -> tuple[Effect, ...]:
        """Tells the machine something and carries out what it asks for."""
        before = self._formation.state
        effects = self._formation.handle(event, self._node.clock.monotonic_ms())
        for effect in effects:
            self._carry_out(effect)
        if self._formation.state is not before:
            if self._engine.detailed:
                self._engine.detail(f"{self._node.name} is {self._formation.state.value}")
            self._world.announce(self._node)
        self._arm()
        return effects

    def _arm(self) -> None:
        deadline_ms = self._formation.next_deadline()
        if deadline_ms is None:
            return
        moment_us = max(self._node.clock.moment_us(deadline_ms), self._engine.now_us + 1)
        if self._engine.now_us < self._timer_us <= moment_us:
            return
        self._timer_us = moment_us

        def due() -> None:
            if self._timer_us == moment_us:
                self._timer_us = 0
                self.step(TimePassed())

        self._node.at(moment_us, due)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._node.at(self._engine.now_us + int(delay_s * SECOND), action)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case CallBack(address=address):
                self._call_back(address)
            case InviteFounder():
                self._invitation_hive = self._invitation_hive or self._world.new_hive_id()
                self._invite(effect, self._invitation_hive)
            case FormHive(founders=founders):
                hive_id, self._invitation_hive = self._invitation_hive or self._world.new_hive_id(), ""
                if not self._belongs:
                    self.form(hive_id, len(founders))
            case JoinHive():
                self._join(effect)
            case DissolveOwnHive():
                self._dissolve(effect)
            case ReportForeignHive():
                self._world.foreign_seen.add((self._node.name, effect.hive_id))
                self._engine.note(f"{self._node.name} sees the foreign hive {effect.hive_id[:8]}")
            case PromiseTo() | RefuseInvitation():
                pass  # Answered where the invitation came in.
            case _:
                assert_never(effect)

    # --- effects ---------------------------------------------------------------------------------------------------

    def _call_back(self, address: str) -> None:
        def answered(result: Any) -> None:
            if isinstance(result, Failure):
                self.step(PeerUnconfirmed(address=address, refused=result.code is Code.NODE_OFFLINE))
                return
            self._meet(address, result)
            if self._is_other_epoch(result.hive_id):
                self.step(PeerUnconfirmed(address=address, refused=False))
                return
            own = self._node.disk.log.hive_id
            if not result.hive_id or result.hive_id == own or not own:
                self._node.address_book.learn(result.record.node_id, result.record.addresses)
            self.step(confirmed_by(address, result))

        self._node.calls.ask(address, IntroduceAsked(), CALL_DEADLINE_S, answered)

    def _invite(self, effect: InviteFounder, hive_id: str) -> None:
        peer = effect.node_id

        def answered(result: Any) -> None:
            if not isinstance(result, Failure):
                self.step(InvitationAgreed(node_id=peer))
            elif result.code is Code.WRONG_HIVE:
                self.step(InvitationRefused(node_id=peer))
            else:
                self.step(InvitationUnanswered(node_id=peer))

        asked = InviteAsked(by=self._node.node_id, hive_id=hive_id)
        self._node.calls.ask(effect.addresses[0], asked, INVITE_DEADLINE_S, answered)

    def form(self, hive_id: str, founders: int) -> None:
        """Forms a hive with this node as its one voter; the first entry says so, as `LocalNode.be_born` has it."""
        node = self._node
        self._belongs = True
        self._engine.note(f"{node.name} forms the hive {hive_id[:8]} with {founders} founders")
        self._members_expected = 1 + founders if founders else 0
        birth = ConfChange(add_voters=(node.member_id,))
        entry = Entry(term=1, index=1, kind=EntryKind.CONF_CHANGE, data=encode_conf_change(birth))
        write = LogWrite(hard_state=HardState(term=1, vote=None, commit=1), entries=(entry,))

        def born() -> None:
            replica = node.start_replica(born=True)
            self._give_birth(replica, lambda: self._formed(replica, hive_id, founders), insist=True)

        node.disk.submit(Bind(hive_id, write), node.bound(born))

    def _formed(self, replica: Replica, hive_id: str, founders: int) -> None:
        self.step(HiveFormed(hive_id=hive_id))
        if founders:
            wanted = 3 if founders >= 2 else 1
            end_us = self._engine.now_us + int(FOUNDERS_DEADLINE_S * SECOND)

            def look() -> None:
                if not self.writes_open and (len(replica.conf.voters) >= wanted or self._engine.now_us >= end_us):
                    self._open(replica)

            replica.leadership_listeners.append(look)
            self._later(FOUNDERS_DEADLINE_S, look)
            look()
        else:
            self._open(replica)

    def _open(self, replica: Replica) -> None:
        self._members_expected = 0
        self._tell_virginity(replica)
        self.writes_open = True

    def _give_birth(self, replica: Replica, done: Callable[[], None], *, insist: bool = False) -> None:
        """The first commands of a hive, as far as they are not done yet; `done` is called when they are.

        Args:
            insist: also when this node, which is the only voter, does not lead for a while.
        """

        def again() -> None:
            if not replica.leads:
                if insist:
                    when_leading()
                return  # Whoever leads sees to it.
            if queries.hive(replica.view) is None:
                self._propose(replica, self._create(), BIRTH_DEADLINE_S, lambda _result: admit())
            else:
                admit()

        def admit() -> None:
            command = AdmitNode(signed_record=encode_record(signed_record(self._node)), rights=NodeRights.VOTER)
            self._propose(replica, command, BIRTH_DEADLINE_S, admitted)

        def admitted(result: Written) -> None:
            if isinstance(result, Reply) and not result.refused:
                done()
            else:
                self._later(ANNOUNCE_RETRY_S, again)

        def when_leading() -> None:
            if replica.leads:
                again()
            else:
                self._later(0.01, when_leading)

        when_leading()

    def _create(self) -> CreateHive:
        return CreateHive(
            hive_id=self._node.disk.log.hive_id,
            supply=SUPPLY,
            signup_grant=GRANT,
            grants_per_day_max=GRANTS_PER_DAY,
        )

    def _propose(self, replica: Replica, command: Any, deadline_s: float, done: Callable[[Written], None]) -> None:
        deadline_us = self._engine.now_us + int(deadline_s * SECOND)
        # Listeners speak from inside the replica's own loop, which takes the proposal when it comes round.
        replica.propose(Write(body=command), deadline_us, done)

    def _join(self, effect: JoinHive) -> None:
        """Asks one member after the other."""
        refused = False
        addresses = list(effect.addresses)

        def try_next() -> None:
            if not addresses:
                self.step(JoinFailed(hive_id=effect.hive_id, retry=not refused))
                return
            self._ask_to_join(addresses.pop(0), effect.hive_id, answered)

        def answered(result: JoinOffer | Failure) -> None:
            nonlocal refused
            if isinstance(result, Failure):
                node = self._node
                if result.code is Code.NODE_REMOVED and node.leaving and not node.defiant:
                    node.leave()  # It was let in and taken out before it heard of either; its owner reads that in its status.
                    return
                refused = refused or result.code in (Code.PEER_REJECTED, Code.NODE_REMOVED)
                try_next()
                return
            if self._belongs:
                return
            self._belongs = True
            self._node.roster = result
            self._node.disk.submit(Bind(result.hive_id, None), self._node.bound(lambda: self._joined(result)))

        try_next()

    def _ask_to_join(self, address: str, hive_id: str, done: Callable[[JoinOffer | Failure], None]) -> None:
        node = self._node

        def introduced(result: Any) -> None:
            if isinstance(result, Failure):
                done(result)
            elif result.hive_id != hive_id:
                done(Failure(code=Code.WRONG_HIVE, text="the machine at this address is of another hive by now"))
            else:
                node.address_book.learn(result.record.node_id, result.record.addresses)
                self._ask_to_admit(address, hive_id, done)

        node.calls.ask(address, IntroduceAsked(), JOIN_DEADLINE_S, introduced)

    def _ask_to_admit(
        self, address: str, hive_id: str, done: Callable[[JoinOffer | Failure], None], tries: int = 2
    ) -> None:
        """Tells the hive this node's record, once more when the hive has a later one."""

        def answered(result: JoinOffer | Failure) -> None:
            if isinstance(result, Failure) or not result.later_sequence:
                done(result)
                return
            self._node.least_sequence = result.later_sequence + 1
            if tries > 1:
                self._ask_to_admit(address, hive_id, done, tries - 1)
            else:
                done(Failure(code=Code.PEER_REJECTED, text="the hive knows a later statement of this node"))

        asked = JoinAsked(hive_id=hive_id, record=signed_record(self._node))
        self._node.calls.ask(address, asked, JOIN_DEADLINE_S, answered)

    def _joined(self, offer: JoinOffer) -> None:
        node = self._node
        self._engine.note(f"{node.member_id} joins {offer.hive_id[:8]}")
        node.bound_to, node.bound_address = "", ""
        node.address_book.learn(offer.leader.node_id, offer.leader.addresses)
        records = [open_record(signed, self._world.verify) for signed in offer.members]
        for record in records:
            node.address_book.learn(record.node_id, record.addresses)
        self.writes_open = True
        names = [self._world.names[record.node_id] for record in records]
        leader = self._world.names[offer.leader.node_id]
        node.search.meet([leader, *names])
        node.search.leader = leader
        node.enter(holds_log=offer.voter_rights)
        self.step(JoinSucceeded(hive_id=offer.hive_id))
        self._tell_record_again()

    # --- what peers ask --------------------------------------------------------------------------------------------

    def introduction(self) -> Introduction:
        """What this node answers to whoever calls it."""
        node, replica = self._node, self._node.replica
        hive = queries.hive(replica.view) if replica is not None else None
        leader = self._world.nodes[replica.leader.partition(".")[0]] if replica and replica.leader else None
        signed = signed_record(node)
        return Introduction(
            record=open_record(signed, self._world.verify),
            signed=signed,
            hive_id=node.disk.log.hive_id,
            phase=self.phase,
            hive_created_ms=hive.created_ms if hive else 0,
            members=queries.counts(replica.view).nodes if replica is not None else 0,
            leader=PeerAddress(node_id=leader.node_id, addresses=(leader.address,)) if leader else None,
            confirmed=self._formation.confirmed(),
            instance=f"{node.boots}",
            former_hives=tuple(node.tombstones),
        )

    def invited(self, asked: InviteAsked, answer: OnAnswer) -> None:
        """A founder asks; answered at once."""
        for effect in self.step(Invited(by=asked.by, hive_id=asked.hive_id)):
            if isinstance(effect, RefuseInvitation):
                answer(Failure(code=Code.WRONG_HIVE, text=effect.reason))
                return
        answer(signed_record(self._node))

    def asked_for_members(self, asked: MembersAsked, answer: OnAnswer) -> None:
        """A member that was away wants to know who came."""
        node, replica = self._node, self._node.replica
        if replica is None or not node.hearing.takes_part(self._world.nodes[self._world.names[asked.by]]):
            answer(Failure(code=Code.PERMISSION_DENIED, text="it takes no part in consensus"))
            return
        inside = sorted(map(self._world.node_of, replica.conf.members()))
        entries = [entry for node_id in inside if (entry := queries.node(replica.view, node_id)) is not None]
        told = tuple((entry.node_id, entry.addresses) for entry in entries)
        answer(MembersTold(by=node.node_id, members=told, index=replica.applied_index))

    # --- as a member -----------------------------------------------------------------------------------------------

    def watch_replica(self, replica: Replica) -> None:
        """The node became a member."""
        replica.listeners.append(lambda events: self._applied(replica, events))
        replica.leadership_listeners.append(lambda: self._leadership_changed(replica))
        if replica.conf.voters:
            self._later(LEADERLESS_S, lambda: self._ask_for_members(replica))

    def _applied(self, replica: Replica, events: tuple[PoolEvent, ...]) -> None:
        nodes_changed = False
        for event in events:
            match event:
                case NodeChanged(node_id=node_id):
                    nodes_changed = True
                    entry = queries.node(replica.view, NodeId(node_id))
                    if entry is not None and entry.kind is NodeKind.HIVE:
                        self._node.address_book.learn(entry.node_id, entry.addresses)
                case StateReplaced():
                    nodes_changed = True
                    for entry in queries.nodes(replica.view):
                        if entry.kind is NodeKind.HIVE:
                            self._node.address_book.learn(entry.node_id, entry.addresses)
                    self._tell_record_again()
                    self._look(replica)
                case NodeRemoved(node_id=node_id):
                    nodes_changed = True
                    if node_id == self._node.node_id:
                        self._tell_record_again()
                case HiveDissolved():
                    self._look(replica)
                case _:
                    pass
        # A hive that has something in it has it for ever, so not every event is a reason to look.
        if nodes_changed or self._virginity is None or self._virginity[0]:
            self._tell_virginity(replica)

    def _leadership_changed(self, replica: Replica) -> None:
        if replica.leader is None and replica.conf.voters:
            self._later(LEADERLESS_S, lambda: self._ask_for_members(replica))
        self._tell_record_again()
        self._tell_virginity(replica)

    def _tell_virginity(self, replica: Replica) -> None:
        view = replica.view
        hive = queries.hive(view)
        if hive is None or self._formation.phase is not PeerPhase.MEMBER:
            return
        members = max(queries.counts(view).nodes, self._members_expected)
        decides = replica.leads and not self._members_expected
        known = (is_virgin(view), members, decides)
        if known == self._virginity:
            return
        self._virginity = known
        clock = self._node.clock
        left_ms = hive.created_ms + PAIRING_MS - clock.wall_ms()
        self.step(
            VirginityKnown(
                virgin=known[0],
                members=members,
                hive_created_ms=hive.created_ms,
                pairing_until_ms=clock.monotonic_ms() + left_ms if decides else None,
            )
        )

    def leader_found(self) -> None:
        """Others said who leads. It is told of this machine before anything else asks it, and may be forgotten as its answer."""
        self._tell_record_again()

    def _tell_record_again(self) -> None:
        """Keeps the hive's entry of this node true: after a start, a change of address, or of the leader."""
        if not self._telling:
            self._telling = True
            self._node.at(self._engine.now_us, self._tell_record)

    def _tell_record(self) -> None:
        self._telling = False
        replica = self._node.replica
        if replica is not None and replica.leader is not None and self._is_told(replica):
            return
        if replica is not None and replica.leads and self._is_removed(replica):
            # It was taken out, and came to lead before it was out: whoever leads next takes its vote away.
            others = sorted(
                replica.conf.voters - {replica.member_id}, key=lambda member: (self._match(replica, member), member)
            )
            if others:
                replica.transfer_leader(others[-1])
            self._later(ANNOUNCE_RETRY_S, self._tell_record_again)
            return
        if replica is not None and replica.leads:
            entry = queries.node(replica.view, self._node.node_id)
            self._node.least_sequence = entry.sequence + 1 if entry is not None else 0
            self._give_birth(replica, lambda: None)
            return
        leader = self._node.leader_node()
        if leader is None:
            self._node.search.seek()
            self._later(ANNOUNCE_RETRY_S, self._tell_record_again)
            return

        def told(result: Any) -> None:
            if isinstance(result, Failure) and result.code is Code.NODE_REMOVED and not self._node.defiant:
                self._node.leave()
                return
            if isinstance(result, JoinOffer) and self._may_come_to_vote(replica):
                self._node.roster = result
                self._node.hearing.note_offer()
                if replica is None and result.voter_rights and self._node.replica is None:
                    self._engine.note(f"{self._node.name} was given voter right")
                    self._node.enter(holds_log=True)
                self._later(REFRESH_S, self._tell_record_again)
                return
            # A replica sees in the log that it is told; a light node has the leader's word.
            if isinstance(result, Failure) or not self._node.light:
                self._later(ANNOUNCE_RETRY_S, self._tell_record_again)

        self._ask_to_admit(self._node.address_book.address_of(leader), self._node.disk.log.hive_id, told)

    def _may_come_to_vote(self, replica: Replica | None) -> bool:
        """Whether it holds no log that grows, and may be given one. Of the rest the daemon asks again as well, to no effect."""
        return self._node.role.may_vote if replica is None else not replica.conf.voters

    def _is_removed(self, replica: Replica) -> bool:
        return queries.was_removed(replica.view, self._node.node_id, self._node.disk.log.incarnation)

    def _match(self, replica: Replica, member: MemberId) -> tuple[bool, int]:
        """How good a successor a voter is: one that is there, with much of the log."""
        status, other = replica.status(), self._world.nodes[member.partition(".")[0]]
        progress = status.progress.get(member)
        return other.alive and self._node.reaches(other), progress.match if progress is not None else 0

    def _is_told(self, replica: Replica) -> bool:
        entry = queries.node(replica.view, self._node.node_id)
        return entry is not None and (entry.addresses, entry.incarnation) == (
            (self._node.address,),
            self._node.disk.log.incarnation,
        )

    def moved(self) -> None:
        """This node's address changed."""
        self._world.announce(self._node)
        self._tell_record_again()

    # --- who came while this member was away -----------------------------------------------------------------------

    def unheard_called(self) -> None:
        """Somebody spoke of consensus that takes no part as far as is known here."""
        replica = self._node.replica
        if replica is not None:
            self._ask_for_members(replica)

    def has_lost_touch(self) -> bool:
        """Whether all the members that it knew are gone, and others speak for its hive: its log tells its owner so.

        By its own state and configuration alone: what it forgets of those that it knew is a fault, and no reason to begin anew.
        """
        node, replica, leader = self._node, self._node.replica, self._world.leader()
        if replica is None or replica.leader is not None or not replica.conf.voters or leader in (None, node):
            return False
        voters = {entry.node_id for entry in queries.nodes(replica.view) if entry.rights is NodeRights.VOTER}
        known = voters | {self._world.node_of(member) for member in replica.conf.members()}
        return not any(other.node_id in known for other in self._world.present() if other is not node)

    def _ask_for_members(self, replica: Replica, pause_s: float = LEADERLESS_S) -> None:
        """As `runtime.member_search`: asks some of the members that it knows, while it hears no leader."""
        if replica.leader is not None or self._engine.now_us < self._asked_us + int(PAUSE_S * SECOND):
            return
        self._asked_us = self._engine.now_us
        if replica.conf.voters:
            longer_s = min(2 * pause_s, PAUSE_S_MAX)
            self._later(longer_s, lambda: self._ask_for_members(replica, longer_s))
        node = self._node
        asked = MembersAsked(hive_id=node.disk.log.hive_id, by=node.node_id)
        known = [other for other in self._world.present() if other is not node and node.hearing.takes_part(other)]
        known.sort(key=lambda other: other.member_id not in replica.conf.members())
        begin = self._asked % len(known) if known else 0
        some = [*known[begin:], *known[:begin]][:ASKED_AT_ONCE]
        self._asked += len(some)
        for other in some:
            node.calls.ask(node.address_book.address_of(other), asked, MEMBERS_DEADLINE_S, self._told_members)

    def _told_members(self, told: Any) -> None:
        if not isinstance(told, Failure):
            self._node.hearing.vouch(told.by, told.index, (node_id for node_id, _ in told.members))
            for node_id, addresses in told.members:
                self._node.address_book.learn(node_id, addresses)

    # --- the end of a hive -----------------------------------------------------------------------------------------

    def _dissolve(self, effect: DissolveOwnHive) -> None:
        replica = self._node.replica
        if replica is None:
            self.step(DissolvingFailed())
            return

        def decided(result: Written) -> None:
            if isinstance(result, Failure) or result.refused:
                self.step(DissolvingFailed())

        command = DissolveHive(target_hive_id=effect.target_hive_id, target_addresses=effect.addresses[:ADDRESSES_MAX])
        # The answer may come at once, and the machine is in the middle of a step.
        self._node.at(self._engine.now_us, lambda: self._propose(replica, command, DECIDE_DEADLINE_S, decided))

    def _look(self, replica: Replica) -> None:
        into = dissolved(replica.view)
        if into is not None:
            self._leave(into.target_hive_id, into.target_addresses)

    def _meet(self, address: str, intro: Introduction) -> None:
        """Follows a member of this hive that says that it is no more."""
        hive_id, replica = self._node.disk.log.hive_id, self._node.replica
        if not hive_id or hive_id not in intro.former_hives or replica is None:
            return
        if queries.node(replica.view, intro.record.node_id) is not None and is_virgin(replica.view):
            self._leave(intro.hive_id, (address,))

    def _is_other_epoch(self, hive_id: str) -> bool:
        own = self._node.disk.log.hive_id
        return "" not in (own, hive_id) and own != hive_id and base_of(own) == base_of(hive_id)

    def _leave(self, target: str, addresses: tuple[str, ...]) -> None:
        if self.leaving:
            return
        self.leaving = True
        self._engine.note(f"{self._node.name} leaves its hive, which has nothing in it, for {target[:8]}")
        self._node.bury(addresses)
        self._world.announce(self._node)
        self._later(GRACE_S, self._node.start_afresh)

    def _seek(self) -> None:
        """While no leader is known, asks the members whether the hive is still there."""
        self._later(SEEK_PAUSE_S, self._seek)
        replica = self._node.replica
        if replica is None or self.leaving or replica.leader is not None:
            return
        entries = [entry for entry in queries.nodes(replica.view) if entry.kind is NodeKind.HIVE]
        for entry in entries[:SOUGHT_MAX]:
            if entry.node_id == self._node.node_id:
                continue
            for address in entry.addresses:
                self._node.calls.ask(address, IntroduceAsked(), SEEK_DEADLINE_S, partial(self._found, address))

    def _found(self, address: str, result: Any) -> None:
        if not isinstance(result, Failure):
            self._meet(address, result)
