"""Form or join: how a node that was just started comes to belong to exactly one hive.

Rules
1. A node with a hive on its disk belongs to it. It never forms another.
2. A candidate counts only after it was called back. What a node says of others is never taken for them.
3. A hive that is there is joined; of several the larger, then the older, then the one with the lower id. A hive is never formed
   while another is known.
4. Only a node that may vote forms or founds. The lowest id forms; the others leave it to that node, for a bounded time.
5. A promise to a founder binds for `promise_ms`: until then the promised node forms nothing and promises nothing else.
6. A founder that is refused does not form: the refusing node is bound to somebody, so a hive may be in birth elsewhere.
7. A hive with nothing in it is given up for a better one (order of rule 3): a lone one at any time, one of several members
   within `PAIRING_MS` of its birth, and by its leader alone; never for a hive that takes in only whom an operator names. Every
   other foreign hive is only reported.
8. A node whose owner named a hive joins that one, however long it takes, and neither forms nor founds any.
9. A node whose owner wants no strangers forms a hive by itself, and promises itself to nobody.

Theory of operation
   A fresh node calls every candidate, again and again, and so keeps a picture of who answers, in which phase, and whether
   the other side has confirmed it in turn (*mutual*). It listens until the set of those who answer has been quiet for
   `quiet_ms` and no new address waits for its first answer, at most `listen_ms_max`. Both count from when discovery has
   begun, which a slow machine comes to late, and which is itself waited for `listen_ms_max` at most. Then it decides, and
   decides anew at every answer. *Blockers* keep it from forming: a lower fresh id that may vote (it is that node's turn), a
   fresh voter that does not see this node yet (it could not be a founder, and would form apart), or a node bound to somebody
   else (a hive is in birth). They are waited for in rounds of `wait_ms`. A blocker that has not answered by the end of a
   round, or does not see this node, is passed over; after `WAIT_ROUNDS_MAX` rounds all are. Rule 6 and the phase FOUNDING
   keep two founders that see different halves of the network from both forming; what slips through all the same is mended
   by rule 7, or reported.

States
   state      phase     what it does                        goes to
   LISTENING  FRESH     calls back                          WAITING at the end of listening; PROMISED
   WAITING    FRESH     decides at every answer             JOINING, INVITING, FORMING; PROMISED; itself (next round)
   INVITING   FOUNDING  waits for answers to invitations    FORMING when none refused and no hive is there, else WAITING;
                                                            PROMISED to a lower id
   FORMING    FOUNDING  waits for its own disk              MEMBER
   PROMISED   FOUNDING  waits for the founder's hive        JOINING when it is there; LISTENING when the promise is over
   JOINING    FOUNDING  waits for the hive's answer         MEMBER; WAITING
   MEMBER     MEMBER    notices foreign hives               LEAVING
   LEAVING    MEMBER    waits for its hive to dissolve      JOINING; MEMBER when it does not
   `JoinSucceeded` leads to MEMBER from everywhere: a promised founder may be taken in before it asks, and a node whose disk stood
   still while it was taken in, so that it gave that try up, forms nothing.
   FORMING waits for this machine's own disk and has no deadline: nothing could be done in its stead. LEAVING has none here,
   since what it waits for has one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, unique
from typing import Final, assert_never

from hivenode.encoding.node_record import NodeId
from hivenode.errors import ensure
from hivenode.membership.candidates import BACKOFF_SEEKING_MS_MAX, BACKOFF_SETTLED_MS_MAX, Candidates
from hivenode.membership.events import (
    CallBack,
    CandidateSeen,
    DiscoveryBegan,
    DissolveOwnHive,
    DissolvingFailed,
    Effect,
    Event,
    FormHive,
    HiveAbandoned,
    HiveFormed,
    InvitationAgreed,
    InvitationRefused,
    InvitationUnanswered,
    Invited,
    InviteFounder,
    JoinFailed,
    JoinHive,
    JoinSucceeded,
    PeerConfirmed,
    PeerPhase,
    PeerUnconfirmed,
    PromiseTo,
    RefuseInvitation,
    ReportForeignHive,
    TimePassed,
    VirginityKnown,
)
from hivenode.membership.foreign import ForeignHives, HiveSeen, best_hive, hives_of

PAIRING_MS: Final = 3_600_000
"""After so long nobody is surprised that two hives are two: a hive of several members then never dissolves by itself."""
FOUNDERS_MAX: Final = 14
"""Invited at once: with the founder 15 nodes, more than the voters that any hive has; who is left over joins."""
WAIT_ROUNDS_MAX: Final = 4
"""After so many rounds a node that answers and yet does not move is taken for broken."""
JOIN_ADDRESSES_MAX: Final = 8
"""Members that are asked in turn; with so many of them out of reach the next attempt asks others."""
TIMEOUTS_MAX: Final = 2
"""A peer that was silent so often in a row does not answer; a refused connection counts at once."""


@unique
class FormationState(Enum):
    LISTENING = "listening"
    WAITING = "waiting"
    INVITING = "inviting"
    FORMING = "forming"
    PROMISED = "promised"
    JOINING = "joining"
    MEMBER = "member"
    LEAVING = "leaving"


_FRESH: Final = (FormationState.LISTENING, FormationState.WAITING)
_IN_HIVE: Final = (FormationState.MEMBER, FormationState.LEAVING)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormationConfig:
    """Times of forming and joining; the defaults are for a LAN, where a call back takes some 10 ms.

    Args:
        quiet_ms: nobody new for so long ends the listening; mDNS answers within 120 ms (RFC 6762, section 6), and again at 1 s.
        listen_ms_max: the listening ends then in any case.
        wait_ms: one round of leaving it to another; longer than the other's whole listening.
        promise_ms: how long a promised founder is bound; longer than inviting and forming take together.
        invite_ms_max: an invitation without an answer for so long counts as unanswered.
        join_ms_max: a join without an answer for so long counts as failed.
        call_ms_max: a call back without an answer for so long counts as failed.
        recall_ms: a fresh node calls its peers again after so long (and more rarely the more they are).
        lone_recall_ms: a lone hive looks at what is not of its hive so often; others far more rarely.
        settled_recall_ms: a hive looks at foreign hives so often, and reports each so often.
        refused_join_ms: a hive that said no is asked again after so long.
    """

    quiet_ms: int = 1_000
    listen_ms_max: int = 3_000
    wait_ms: int = 3_000
    promise_ms: int = 5_000
    invite_ms_max: int = 2_000
    join_ms_max: int = 10_000
    call_ms_max: int = 3_000
    recall_ms: int = 500
    lone_recall_ms: int = 2_000
    settled_recall_ms: int = 60_000
    refused_join_ms: int = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Me:
    """This node.

    Args:
        bound_to: the hive that its owner named; empty when it may join any, or form one.
        alone: its owner wants no strangers: it founds a hive by itself, and joins none that its owner did not name.
    """

    node_id: NodeId
    may_vote: bool
    bound_to: str = ""
    alone: bool = False


@dataclass(slots=True, kw_only=True)
class _Peer:
    facts: PeerConfirmed
    answered_ms: int
    timeouts: int = 0
    passed_over: bool = False


class Formation:
    """The machine. Every call to `handle` returns what is to be done; results come back as events.

    Args:
        existing_hive: the hive on this node's disk, or None for a fresh node.
    """

    def __init__(self, config: FormationConfig, me: Me, now_ms: int, existing_hive: str | None) -> None:
        self._config: Final = config
        self._me: Final = me
        self._candidates: Final = Candidates(config.call_ms_max)
        self._peers: Final[dict[NodeId, _Peer]] = {}
        self._foreign: Final = ForeignHives(config.settled_recall_ms)
        self._effects: list[Effect] = []
        self._hive_id = existing_hive or ""
        self._own: VirginityKnown | None = None
        self._founder: NodeId | None = None
        self._target = ""
        self._deadline_ms: int | None = None
        self._listen_end_ms = 0
        self._changed_ms = now_ms
        self._wait_rounds = 0
        self._discovering = False
        self._invited: dict[NodeId, bool | None] = {}
        self._agreed_until: Final[dict[NodeId, int]] = {}
        self._state = FormationState.MEMBER
        if existing_hive is None:
            self._listen(now_ms)

    # --- what others may ask ---------------------------------------------------------------------------------------

    @property
    def state(self) -> FormationState:
        return self._state

    @property
    def phase(self) -> PeerPhase:
        """What this node says of itself when it is called."""
        if self._state in _FRESH:
            return PeerPhase.FRESH
        return PeerPhase.MEMBER if self._state in _IN_HIVE else PeerPhase.FOUNDING

    @property
    def hive_id(self) -> str:
        """The hive of this node; empty while it has none."""
        return self._hive_id

    def confirmed(self) -> tuple[NodeId, ...]:
        """The peers without a hive that answer, for this node's own introduction; by id."""
        return tuple(sorted(i for i, p in self._peers.items() if p.facts.phase is not PeerPhase.MEMBER))

    def next_deadline(self) -> int | None:
        """When `TimePassed` is wanted, in ms; None when nothing is due of itself."""
        deadlines = [self._candidates.next_deadline(), self._deadline_ms]
        if self._state is FormationState.LISTENING:
            deadlines.append(self._listening_ends())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # --- events ----------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now_ms: int) -> tuple[Effect, ...]:
        """Takes one event at `now_ms` (ms, never running back) and returns the effects, in their order."""
        self._effects = []
        match event:
            case DiscoveryBegan():
                self._discovering = True
                if self._state is FormationState.LISTENING:
                    self._listen(now_ms)
            case CandidateSeen():
                self._on_candidate(event, now_ms)
            case PeerConfirmed():
                self._on_confirmed(event, now_ms)
            case PeerUnconfirmed(address=address, refused=refused):
                self._on_unconfirmed(address, refused, now_ms)
            case InvitationAgreed(node_id=node_id):
                self._on_invitation_answered(node_id, True, now_ms)
            case InvitationRefused(node_id=node_id):
                self._on_invitation_answered(node_id, False, now_ms)
            case InvitationUnanswered(node_id=node_id):
                self._invited.pop(node_id, None)
            case Invited():
                self._on_invited(event, now_ms)
            case HiveFormed(hive_id=hive_id):
                ensure(self._state is FormationState.FORMING, "a hive was formed that was not asked for")
                self._enter_hive(hive_id, now_ms)
            case JoinSucceeded(hive_id=hive_id):
                if self._state not in _IN_HIVE:
                    self._enter_hive(hive_id, now_ms)
            case JoinFailed():
                self._on_join_failed(event.hive_id, event.retry, now_ms)
            case VirginityKnown():
                self._on_virginity(event, now_ms)
            case DissolvingFailed():
                if self._state is FormationState.LEAVING:
                    self._foreign.join_failed(self._target, now_ms, None)
                    self._enter(FormationState.MEMBER, None)
            case HiveAbandoned():
                self._on_abandoned(now_ms)
            case TimePassed():
                pass
            case _:
                assert_never(event)
        self._advance(now_ms)
        self._effects += [CallBack(address=address) for address in self._candidates.take_due(now_ms)]
        return tuple(self._effects)

    def _on_candidate(self, event: CandidateSeen, now_ms: int) -> None:
        again_ms = self._config.lone_recall_ms if self._state in _IN_HIVE else self._config.recall_ms
        for node_id in self._candidates.name(event.address, event.source, now_ms, again_ms=again_ms):
            self._forget(node_id, now_ms)

    def _on_confirmed(self, event: PeerConfirmed, now_ms: int) -> None:
        if event.node_id == self._me.node_id:
            self._candidates.confirm(event.address, event.node_id, due_ms=None, other_due_ms=None)
            return
        if not self._candidates.knows(event.address):
            return
        if event.node_id not in self._peers:
            self._changed_ms = now_ms
        before = self._peers.get(event.node_id)
        peer = _Peer(facts=event, answered_ms=now_ms, passed_over=before is not None and before.passed_over)
        self._peers[event.node_id] = peer
        for node_id in self._candidates.moved(event.address, event.node_id):
            self._forget(node_id, now_ms)
        interval_ms = self._recall_interval(peer, now_ms)
        due_ms = None if interval_ms is None else now_ms + interval_ms
        other_due_ms = None if interval_ms is None else now_ms + 4 * interval_ms
        self._candidates.confirm(event.address, event.node_id, due_ms=due_ms, other_due_ms=other_due_ms)
        if self._state in _IN_HIVE:
            self._meet_hives(now_ms)

    def _recall_interval(self, peer: _Peer, now_ms: int) -> int | None:
        facts, config = peer.facts, self._config
        if self._state not in _IN_HIVE:
            mutual = self._me.node_id in facts.confirmed
            return max(config.recall_ms if mutual else config.recall_ms // 2, 20 * len(self._peers))
        if facts.phase is PeerPhase.MEMBER and facts.hive_id == self._hive_id:
            return None
        return config.lone_recall_ms if self._may_dissolve(now_ms) else config.settled_recall_ms

    def _on_unconfirmed(self, address: str, refused: bool, now_ms: int) -> None:
        seeks = self._state not in _IN_HIVE or self._may_dissolve(now_ms)
        backoff_ms_max = BACKOFF_SEEKING_MS_MAX if seeks else BACKOFF_SETTLED_MS_MAX
        row = self._candidates.fail(address, refused, now_ms, backoff_ms_max=backoff_ms_max)
        if row is None or row.node_id is None:
            return
        peer = self._peers.get(row.node_id)
        if peer is None or self._candidates.answers_elsewhere(row.node_id, address):
            return
        peer.timeouts += 1
        if refused or peer.timeouts >= TIMEOUTS_MAX:
            self._forget(row.node_id, now_ms)

    def _forget(self, node_id: NodeId, now_ms: int) -> None:
        if self._peers.pop(node_id, None) is not None:
            self._changed_ms = now_ms

    def _on_invitation_answered(self, node_id: NodeId, agreed: bool, now_ms: int) -> None:
        if node_id not in self._invited:
            return
        self._invited[node_id] = agreed
        if agreed:
            self._agreed_until[node_id] = now_ms + self._config.promise_ms

    def _on_invited(self, event: Invited, now_ms: int) -> None:
        reason = self._refusal(event)
        if reason:
            self._effects.append(RefuseInvitation(by=event.by, reason=reason))
            return
        self._founder = event.by
        self._invited = {}
        self._agreed_until.clear()
        self._enter(FormationState.PROMISED, now_ms + self._config.promise_ms)
        until_ms = now_ms + self._config.promise_ms
        self._effects.append(PromiseTo(founder=event.by, hive_id=event.hive_id, until_ms=until_ms))

    def _refusal(self, event: Invited) -> str:
        if not self._me.may_vote:
            return "this node has no voter right and founds no hive"
        if self._me.bound_to:
            return "this node is about to enter another hive"
        if self._me.alone:
            return "the owner of this node wants no strangers"
        match self._state:
            case FormationState.LISTENING | FormationState.WAITING:
                return ""
            case FormationState.PROMISED:
                return "" if event.by == self._founder else "this node has promised itself to another founder"
            case FormationState.INVITING:
                return "" if event.by < self._me.node_id else "this node is forming a hive and has the lower id"
            case FormationState.FORMING | FormationState.JOINING:
                return "this node is about to enter another hive"
            case FormationState.MEMBER | FormationState.LEAVING:
                return "this node is a member of a hive"
            case _:
                assert_never(self._state)

    def _on_join_failed(self, hive_id: str, retry: bool, now_ms: int) -> None:
        if self._state is FormationState.JOINING and hive_id == self._target:
            self._foreign.join_failed(hive_id, now_ms, None if retry else self._config.refused_join_ms)
            self._wait(now_ms)

    def _on_virginity(self, event: VirginityKnown, now_ms: int) -> None:
        might_dissolve = self._may_dissolve(now_ms)
        self._own = event
        if self._may_dissolve(now_ms) and not might_dissolve:
            self._candidates.hurry(now_ms)
        if self._state is FormationState.LEAVING and not event.virgin:
            self._enter(FormationState.MEMBER, None)
        if self._state is FormationState.MEMBER:
            self._meet_hives(now_ms)

    def _on_abandoned(self, now_ms: int) -> None:
        ensure(self._state in _IN_HIVE, "a hive was abandoned by who is in none")
        self._hive_id, self._own = "", None
        self._candidates.hurry(now_ms)
        self._listen(now_ms)
        hives = {hive.hive_id: hive for hive in self._hives()}
        if self._target in hives:
            self._join(hives[self._target], now_ms)

    # --- what the time and the picture ask for -----------------------------------------------------------------------

    def _advance(self, now_ms: int) -> None:
        for address in self._candidates.expire_calls(now_ms):
            self._on_unconfirmed(address, False, now_ms)
        match self._state:
            case FormationState.LISTENING:
                if now_ms >= self._listening_ends():
                    self._wait(now_ms)
                    self._decide(now_ms)
            case FormationState.WAITING:
                self._decide(now_ms)
            case FormationState.INVITING:
                self._count_founders(now_ms)
            case FormationState.PROMISED:
                self._keep_promise(now_ms)
            case FormationState.JOINING:
                if self._is_over(now_ms):
                    self._on_join_failed(self._target, True, now_ms)
            case FormationState.FORMING | FormationState.MEMBER | FormationState.LEAVING:
                pass
            case _:
                assert_never(self._state)

    def _decide(self, now_ms: int) -> None:
        hives = self._hives()
        open_hives = [hive for hive in hives if self._foreign.may_join(hive.hive_id, now_ms)]
        if open_hives:
            best = best_hive(open_hives)
            for other in hives:
                if other.hive_id != best.hive_id:
                    self._report(other, now_ms)
            self._join(best, now_ms)
            return
        blockers = self._blockers(now_ms)
        if self._is_over(now_ms):
            self._wait_rounds += 1
            self._pass_over(blockers, now_ms)
            blockers = self._blockers(now_ms)
            self._deadline_ms = now_ms + self._config.wait_ms
        if self._me.may_vote and not self._me.bound_to and not hives and not blockers:
            self._invite(now_ms)

    def _blockers(self, now_ms: int) -> list[_Peer]:
        if self._me.alone:
            return []
        return [peer for node_id, peer in self._peers.items() if self._blocks(node_id, peer, now_ms)]

    def _blocks(self, node_id: NodeId, peer: _Peer, now_ms: int) -> bool:
        if peer.passed_over or self._agreed_until.get(node_id, now_ms) > now_ms:
            return False
        match peer.facts.phase:
            case PeerPhase.FOUNDING:
                return True
            case PeerPhase.FRESH:
                one_way = self._me.node_id not in peer.facts.confirmed
                return peer.facts.may_vote and (one_way or node_id < self._me.node_id)
            case PeerPhase.MEMBER:
                return False
            case _:
                assert_never(peer.facts.phase)

    def _pass_over(self, blockers: list[_Peer], now_ms: int) -> None:
        for peer in blockers:
            answers = now_ms - peer.answered_ms < self._config.wait_ms and self._me.node_id in peer.facts.confirmed
            if not answers or self._wait_rounds >= WAIT_ROUNDS_MAX:
                peer.passed_over = True

    def _invite(self, now_ms: int) -> None:
        founders = [
            node_id
            for node_id, peer in sorted(self._peers.items())
            if peer.facts.may_vote
            and not peer.passed_over
            and peer.facts.phase is not PeerPhase.MEMBER
            and self._me.node_id in peer.facts.confirmed
            and not self._me.alone
        ][:FOUNDERS_MAX]
        self._invited = dict.fromkeys(founders)
        for node_id in founders:
            self._effects.append(InviteFounder(node_id=node_id, addresses=self._candidates.addresses_of(node_id)))
        self._enter(FormationState.INVITING, now_ms + self._config.invite_ms_max)
        self._count_founders(now_ms)

    def _count_founders(self, now_ms: int) -> None:
        if self._hives():
            self._invited = {}
            self._wait(now_ms)
            self._decide(now_ms)
            return
        if None in self._invited.values() and not self._is_over(now_ms):
            return
        if False in self._invited.values():
            for node_id in [i for i, agreed in self._invited.items() if agreed is False and i in self._peers]:
                self._candidates.hurry_node(node_id, now_ms)
                self._mark_founding(node_id)
            self._invited = {}
            self._wait(now_ms)
            return
        founders = tuple(sorted(node_id for node_id, agreed in self._invited.items() if agreed))
        self._invited = {}
        self._enter(FormationState.FORMING, None)
        self._effects.append(FormHive(founders=founders))

    def _mark_founding(self, node_id: NodeId) -> None:
        """A peer that refused is bound to somebody, whatever it said before; its next answer says more."""
        self._peers[node_id].passed_over = False
        old = self._peers[node_id].facts
        if old.phase is PeerPhase.FRESH:
            self._peers[node_id].facts = replace(old, phase=PeerPhase.FOUNDING)

    def _keep_promise(self, now_ms: int) -> None:
        peer = None if self._founder is None else self._peers.get(self._founder)
        if peer is not None and peer.facts.phase is PeerPhase.MEMBER:
            hives = {hive.hive_id: hive for hive in self._hives()}
            self._join(hives[peer.facts.hive_id], now_ms)
        elif self._is_over(now_ms):
            self._listen(now_ms)

    # --- moving ------------------------------------------------------------------------------------------------------

    def _enter(self, state: FormationState, deadline_ms: int | None) -> None:
        self._state = state
        self._deadline_ms = deadline_ms

    def _is_over(self, now_ms: int) -> bool:
        return self._deadline_ms is not None and now_ms >= self._deadline_ms

    def _listen(self, now_ms: int) -> None:
        self._founder = None
        for peer in self._peers.values():
            peer.passed_over = False
        self._changed_ms = now_ms
        self._wait_rounds = 0
        self._listen_end_ms = now_ms + self._config.listen_ms_max
        self._enter(FormationState.LISTENING, None)

    def _listening_ends(self) -> int:
        if not self._discovering or self._candidates.any_young():
            return self._listen_end_ms
        return min(self._listen_end_ms, self._changed_ms + self._config.quiet_ms)

    def _wait(self, now_ms: int) -> None:
        self._enter(FormationState.WAITING, now_ms + self._config.wait_ms)

    def _join(self, hive: HiveSeen, now_ms: int) -> None:
        self._target = hive.hive_id
        self._enter(FormationState.JOINING, now_ms + self._config.join_ms_max)
        self._effects.append(JoinHive(hive_id=hive.hive_id, addresses=self._addresses_of(hive)))

    def _addresses_of(self, hive: HiveSeen) -> tuple[str, ...]:
        addresses = [a for node_id in hive.node_ids for a in self._candidates.addresses_of(node_id)]
        return tuple(addresses[:JOIN_ADDRESSES_MAX])

    def _enter_hive(self, hive_id: str, now_ms: int) -> None:
        self._hive_id = hive_id
        self._founder = None
        self._invited = {}
        self._agreed_until.clear()
        self._enter(FormationState.MEMBER, None)
        self._meet_hives(now_ms)

    # --- foreign hives -----------------------------------------------------------------------------------------------

    def _hives(self) -> list[HiveSeen]:
        seen = hives_of([peer.facts for peer in self._peers.values()])
        if self._me.alone and not self._me.bound_to and self._state not in _IN_HIVE:
            return []
        bound_to = self._me.bound_to if self._state not in _IN_HIVE else ""
        return [hive for hive in seen if not bound_to or hive.hive_id == bound_to]

    def _may_dissolve(self, now_ms: int) -> bool:
        own = self._own
        if own is None or not own.virgin:
            return False
        return own.members <= 1 or (own.pairing_until_ms is not None and now_ms < own.pairing_until_ms)

    def _meet_hives(self, now_ms: int) -> None:
        others = [hive for hive in self._hives() if hive.hive_id != self._hive_id]
        for hive in others:
            self._report(hive, now_ms)
        own = self._own
        if not others or own is None or not self._may_dissolve(now_ms) or self._state is not FormationState.MEMBER:
            return
        mine = HiveSeen(
            hive_id=self._hive_id, members=own.members, created_ms=own.hive_created_ms, node_ids=(), address=""
        )
        closed = {peer.facts.hive_id for peer in self._peers.values() if peer.facts.closed}
        best = best_hive([mine, *(hive for hive in others if hive.hive_id not in closed)])
        fresh_ms = 2 * self._config.lone_recall_ms
        if best.hive_id == self._hive_id or not self._foreign.may_join(best.hive_id, now_ms):
            return
        if any(now_ms - self._peers[node_id].answered_ms < fresh_ms for node_id in best.node_ids):
            self._target = best.hive_id
            self._enter(FormationState.LEAVING, None)
            self._effects.append(DissolveOwnHive(target_hive_id=best.hive_id, addresses=self._addresses_of(best)))
        else:
            self._candidates.hurry(now_ms)

    def _report(self, hive: HiveSeen, now_ms: int) -> None:
        if self._foreign.may_report(hive.hive_id, now_ms):
            self._effects.append(ReportForeignHive(hive_id=hive.hive_id, address=hive.address))
