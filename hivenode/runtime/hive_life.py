"""The life of a node in its hive: carries out what the pure formation machine asks for, and tells it what came of it.

It calls candidates back, forms or joins, keeps the hive's list of nodes true about this one, and reports foreign hives. All
decisions are `membership.formation`'s; all waiting work runs beside and comes back as an event of the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, assert_never

import structlog

from hivenode.encoding.join_token import join_message, read_token
from hivenode.encoding.node_record import NodeId, SignedNodeRecord
from hivenode.encoding.records import encode_record
from hivenode.encoding.recovery import base_of
from hivenode.errors import Code, HiveError, InvariantError
from hivenode.identity import identity_of
from hivenode.membership.events import (
    CallBack,
    CandidateSeen,
    DiscoveryBegan,
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
    PeerConfirmed,
    PeerPhase,
    PeerUnconfirmed,
    PromiseTo,
    RefuseInvitation,
    ReportForeignHive,
    TimePassed,
    VirginityKnown,
)
from hivenode.membership.formation import PAIRING_MS, Formation, FormationConfig, Me
from hivenode.membership.twins import gives_way
from hivenode.pool import queries
from hivenode.pool.commands import AdmitNode, CreateHive, SetTrust
from hivenode.pool.dissolving import is_virgin
from hivenode.pool.events import Event as PoolEvent
from hivenode.pool.events import NodeRemoved, StateReplaced
from hivenode.pool.joining import trust_mode
from hivenode.pool.records import NodeRights, TrustMode
from hivenode.runtime.admission import ASK_DEADLINE_S, twin_refusal
from hivenode.runtime.errand import Errand
from hivenode.runtime.hive_end import HiveEnd, Tombstones
from hivenode.runtime.local import LEADERLESS_S, LocalNode
from hivenode.runtime.ports import (
    NO_CLAIM,
    HivePhase,
    Introduction,
    JoinClaim,
    JoinOffer,
    PeerAddress,
    PeerNetwork,
    Standing,
)
from hivenode.runtime.replica import Replica
from hivenode.runtime.together import together

CALL_DEADLINE_S: Final = 3.0
"""As long as the machine itself waits for an answer of a candidate."""
INVITE_DEADLINE_S: Final = 1.5
JOIN_DEADLINE_S: Final = 5.0
BIRTH_DEADLINE_S: Final = 10.0
"""A one-voter hive elects itself and commits in milliseconds; only a broken disk takes longer."""
BIRTH_TRIES: Final = 6
"""A disk that stands still for a minute is given up, and its owner told."""
FOUNDERS_DEADLINE_S: Final = 5.0
"""How long a new hive takes no users' writes while its founders come in."""
REFRESH_S: Final = 15.0
"""A node without the log, or one whose place in it was taken, hears of new members, of its removal and of its voter right when it
asks. One that hears a leader, and sees in the log that it is told, asks nobody."""
ANNOUNCE_RETRY_S: Final = 1.0
"""Pause before this node tells the hive again what it could not tell."""
FOREIGN_KEEP_MS: Final = 180_000
"""A hive that is still there is met, and reported, every minute."""
FOREIGN_MAX: Final = 16
"""Foreign hives remembered for `status`."""

_log = structlog.get_logger(__name__)
_PHASES: Final = {
    HivePhase.FRESH: PeerPhase.FRESH,
    HivePhase.FOUNDING: PeerPhase.FOUNDING,
    HivePhase.MEMBER: PeerPhase.MEMBER,
}


class HiveLife:
    """See the module.

    Args:
        announce: tells discovery that hive or phase changed.
        tombstones: of the hives that this node saw dissolve.
        errand: the hive that the owner told this node to join.
        restart: starts the daemon anew, fresh; log and state are emptied, or with True set aside.
        left: called when the hive says that it has taken this node out for good.
        hand_over: has another voter lead, if one is there.
        stop: ends the daemon for a reason that its owner must see to first.
    """

    def __init__(
        self,
        *,
        local: LocalNode,
        peers: PeerNetwork,
        announce: Callable[[], None],
        tombstones: Tombstones,
        errand: Errand,
        restart: Callable[[bool], None],
        left: Callable[[], None],
        hand_over: Callable[[], Awaitable[bool]],
        stop: Callable[[str], None],
    ) -> None:
        config = local.config
        self._local = local
        self._peers = peers
        self._announce = announce
        self._stop = stop
        self._left = left
        self._hand_over = hand_over
        self._refused = ""
        self._belongs = bool(local.hive_id())
        """Set once for this life, before the hive is on disk: an answer to an earlier try to join may come late."""
        self._errand = errand
        self._formation = Formation(
            FormationConfig(quiet_ms=config.founding_quiet_ms, listen_ms_max=config.founding_listen_ms_max),
            Me(
                node_id=local.node_id,
                may_vote=config.role.may_vote,
                bound_to=errand.hive_id,
                alone=config.trust != TrustMode.LAN.value,
            ),
            local.clock_ms(),
            local.hive_id() or None,
        )
        self._wake = asyncio.Event()
        self._record_wanted = asyncio.Event()
        self._invitation_hive = ""
        self._giving_birth = asyncio.Lock()
        self._broken: InvariantError | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._virginity: tuple[bool, int, bool] | None = None
        self._members_expected = 0
        self._foreign: dict[str, tuple[str, int]] = {}
        self._end = HiveEnd(
            local=local,
            peers=peers,
            tombstones=tombstones,
            restart=restart,
            stop=stop,
            changed=announce,
            start=self._start,
        )
        local.on_replica(self._watch_replica)

    # --- what others ask -------------------------------------------------------------------------------------------

    @property
    def phase(self) -> HivePhase:
        return HivePhase.FOUNDING if self._end.leaving else HivePhase(self._formation.phase.value)

    @property
    def former_hives(self) -> tuple[str, ...]:
        """The hives that this node saw dissolve."""
        return self._end.former_hives

    @property
    def bound_for(self) -> str:
        """Where the owner told this node to go: the hive and its address; empty when nowhere."""
        return f"{self._errand.hive_id} at {self._errand.address}" if self._errand.hive_id else ""

    @property
    def refused(self) -> str:
        """Why the hive that this node would join has not taken it in; empty when it has said nothing."""
        return self._refused

    @property
    def confirmed(self) -> tuple[NodeId, ...]:
        return self._formation.confirmed()

    @property
    def foreign(self) -> dict[str, str]:
        """Other hives that were seen lately, and where."""
        oldest_ms = self._local.clock_ms() - FOREIGN_KEEP_MS
        self._foreign = {hive: seen for hive, seen in self._foreign.items() if seen[1] >= oldest_ms}
        return {hive: address for hive, (address, _) in self._foreign.items()}

    def discovery_began(self) -> None:
        """The network was asked who is there."""
        self._step(DiscoveryBegan())

    def candidate(self, address: str, source: str) -> None:
        """Somebody may answer at this address."""
        self._step(CandidateSeen(address=address, source=source))

    def accept_invitation(self, caller: NodeId, hive_id: str) -> SignedNodeRecord:
        """Answers an invitation at once. Raises WRONG_HIVE when this node is bound elsewhere."""
        for effect in self._step(Invited(by=caller, hive_id=hive_id)):
            if isinstance(effect, RefuseInvitation):
                raise HiveError(Code.WRONG_HIVE, effect.reason)
        return self._local.record()[1]

    def record_changed(self) -> None:
        """This node's addresses or capabilities changed: the hive is told."""
        self._record_wanted.set()

    # --- the machine -----------------------------------------------------------------------------------------------

    def _step(self, event: Event) -> tuple[Effect, ...]:
        before = self._formation.phase
        effects = self._formation.handle(event, self._local.clock_ms())
        for effect in effects:
            self._carry_out(effect)
        if self._formation.phase is not before:
            self._announce()
        self._wake.set()
        return effects

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case CallBack(address=address):
                self._start(self._call_back(address))
            case InviteFounder():
                self._invitation_hive = self._invitation_hive or secrets.token_hex(16)
                peer = PeerAddress(node_id=effect.node_id, addresses=effect.addresses)
                self._start(self._invite(peer, self._invitation_hive))
            case FormHive(founders=founders):
                hive_id, self._invitation_hive = self._invitation_hive or secrets.token_hex(16), ""
                self._start(self._form(hive_id, founders))
            case JoinHive():
                self._start(self._join(effect))
            case DissolveOwnHive():
                self._start(self._dissolve(effect))
            case ReportForeignHive():
                self._report_foreign(effect)
            case PromiseTo() | RefuseInvitation():
                pass  # Answered where the invitation came in.
            case _:
                assert_never(effect)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, InvariantError):
            self._broken = self._broken or error
            self._wake.set()
        else:
            _log.error("forming or joining failed", exc_info=error)

    def _raise_broken(self) -> None:
        if self._broken is not None:
            raise self._broken

    async def run(self) -> None:
        """Lives until cancelled. Raises InvariantError when work beside it found one; the daemon must stop."""
        self._announce()
        parts: list[asyncio.Task[None]] = []
        self._end_errand()  # Where the life before ended in the midst of that.
        try:
            # A copy of this disk may be alive, and then a vote of this one would be a second one of the same member.
            if self._local.hive_id() and not await self._has_older_twin():
                await self._resume()
            for address in self._end.last_target if not self._local.hive_id() else ():
                self.candidate(address, "former hive")
            if self._errand.address:
                self.candidate(self._errand.address, "owner")
            parts.append(asyncio.create_task(self._keep_record(), name="record"))
            parts.append(asyncio.create_task(self._end.run(), name="former members"))
            for part in parts:
                part.add_done_callback(lambda _: self._wake.set())
            self._step(TimePassed())
            while True:
                await self._sleep()
                self._raise_broken()
                for part in parts:
                    if part.done():
                        part.result()
                self._step(TimePassed())
                self._wake.clear()
        finally:
            for task in (*parts, *self._work):
                task.cancel()
            await asyncio.gather(*parts, *self._work, return_exceptions=True)

    async def _resume(self) -> None:
        """After a restart: goes on in the hive, or leaves it, when that was under way."""
        await self._local.resume()
        self._record_wanted.set()
        if self._end.is_over:
            self._end.go_on()
        elif self._local.replica is not None:
            self._end.look(self._local.replica)

    async def _sleep(self) -> None:
        deadline = self._formation.next_deadline()
        timeout_s = None if deadline is None else max(0.0, (deadline - self._local.clock_ms()) / 1_000)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return

    # --- effects ---------------------------------------------------------------------------------------------------

    async def _call_back(self, address: str) -> None:
        try:
            intro = await self._peers.introduce(address, CALL_DEADLINE_S)
        except HiveError as error:
            self._step(PeerUnconfirmed(address=address, refused=error.code is Code.NODE_OFFLINE))
            return
        if intro.record.node_id == self._local.node_id:
            self._meet_own_key(address, intro)
        self._end.meet(address, intro)
        if self._end.is_other_epoch(intro.hive_id):
            self._step(PeerUnconfirmed(address=address, refused=False))
            return
        if not intro.hive_id or intro.hive_id == self._local.hive_id() or not self._local.hive_id():
            self._local.note_peer(intro)
        self._step(confirmed_by(address, intro))

    def _meet_own_key(self, address: str, intro: Introduction) -> bool:
        """Whether this daemon has to end, and does. Mostly it met itself; else a machine with a copy of its disk."""
        mine, in_hive = self._local.instance, bool(self._local.hive_id())
        if gives_way(mine=mine, in_hive=in_hive, others=intro.instance, other_in_hive=bool(intro.hive_id)):
            self._stop(twin_refusal(address).message)
            return True
        return False

    async def _has_older_twin(self) -> bool:
        """Calls the addresses that this node's disk has of it and that are not its own: nobody should be there."""
        known = self._local.own_entry()
        others = [it for it in (known.addresses if known is not None else ()) if it not in self._local.addresses]

        async def answer_of(address: str) -> Introduction | None:
            try:
                return await self._peers.introduce(address, ASK_DEADLINE_S)
            except HiveError:
                return None

        answers = zip(others, await together(answer_of(address) for address in others), strict=True)
        return any(
            self._meet_own_key(address, intro)
            for address, intro in answers
            if intro is not None and intro.record.node_id == self._local.node_id
        )

    async def _invite(self, peer: PeerAddress, hive_id: str) -> None:
        try:
            await self._peers.invite(peer, hive_id, INVITE_DEADLINE_S)
        except HiveError as error:
            refused = error.code is Code.WRONG_HIVE
            event = InvitationRefused if refused else InvitationUnanswered
            self._step(event(node_id=peer.node_id))
            return
        self._step(InvitationAgreed(node_id=peer.node_id))

    async def _form(self, hive_id: str, founders: tuple[NodeId, ...]) -> None:
        """Only this node's own disk can fail here, and nothing would ever try again: its owner has to see to it."""
        if self._belongs:
            return  # It is entering a hive, which its disk takes long for.
        _log.info("forming a hive", hive=hive_id, founders=len(founders))
        try:
            await self._be_founder(hive_id, founders)
        except HiveError as error:
            self._stop(f"the hive cannot be formed: {error.message}")

    async def _be_founder(self, hive_id: str, founders: tuple[NodeId, ...]) -> None:
        """A hive of one, then the founders: they join as all do, and are made voters as soon as they have the log."""
        self._belongs = True
        # Founders on their way count already: a hive that they are about to enter must not be given up.
        self._members_expected = 1 + len(founders) if founders else 0
        replica = await self._local.be_born(hive_id)
        await self._be_the_only_voter(replica)
        self._step(HiveFormed(hive_id=hive_id))
        if founders:
            self._start(self._await_founders(replica, len(founders)))
        else:
            # What was applied while the hive was born came too early to be told.
            self._tell_virginity(replica)
            self._local.open_writes()

    async def _be_the_only_voter(self, replica: Replica) -> None:
        """Leads and gives birth, again when a disk that stood still cost this node its leadership: nobody else can lead."""
        for tries_left in reversed(range(BIRTH_TRIES)):
            try:
                await replica.wait_until_leading(BIRTH_DEADLINE_S)
                await self._give_birth(replica)
                return
            except HiveError as error:
                if not tries_left or error.code not in (Code.NO_LEADER, Code.OUTCOME_UNKNOWN):
                    raise
                _log.info("the hive is not born yet", reason=error.message)

    async def _await_founders(self, replica: Replica, founders: int) -> None:
        """Users' writes wait until a majority can survive this machine, or the founders do not come."""
        wanted = 3 if founders >= 2 else 1
        try:
            async with asyncio.timeout(FOUNDERS_DEADLINE_S):
                await replica.until(lambda: len(replica.status().conf.voters) >= wanted)
        except TimeoutError:
            _log.warning("not all founders came in", wanted=wanted)
        self._members_expected = 0
        self._tell_virginity(replica)
        self._local.open_writes()

    async def _give_birth(self, replica: Replica) -> None:
        """The first commands of a hive, as far as they are not done yet."""
        config = self._local.config
        async with self._giving_birth:
            if queries.hive(replica.view()) is None:
                # Refused when an entry before it, not applied yet, did it already.
                await replica.propose(
                    CreateHive(
                        hive_id=self._local.hive_id(),
                        supply=config.supply_cpt,
                        signup_grant=config.signup_grant_cpt,
                        grants_per_day_max=config.signup_grants_per_day_max,
                    ),
                    deadline_s=BIRTH_DEADLINE_S,
                )
        mode = TrustMode(config.trust)
        if mode is not TrustMode.LAN and queries.counts(replica.view()).nodes == 0:
            await self._set_trust(replica, mode)
        await self._admit_self(replica)

    async def _set_trust(self, replica: Replica, mode: TrustMode) -> None:
        """Raises PERMISSION_DENIED when the hive would take in whoever is on its network, which its owner does not want."""
        reply = await replica.propose(SetTrust(mode=mode), deadline_s=BIRTH_DEADLINE_S)
        if not reply.refused:
            return
        kept = trust_mode(replica.view())
        if kept is TrustMode.LAN:  # Earlier versions let users in first.
            raise HiveError(
                Code(reply.code),
                f"the trust mode cannot be {mode.value} any more, since the hive has users: start with --trust lan to go on so",
            )
        _log.error("the hive keeps the trust mode that it has", kept=kept.value, started_with=mode.value)

    async def _admit_self(self, replica: Replica) -> None:
        signed = self._local.record()[1]
        rights = NodeRights.VOTER if self._local.config.role.may_vote else NodeRights.WORKER
        reply = await replica.propose(
            AdmitNode(signed_record=encode_record(signed), rights=rights), deadline_s=BIRTH_DEADLINE_S
        )
        if reply.refused:
            raise HiveError(Code(reply.code), reply.message)

    async def _dissolve(self, effect: DissolveOwnHive) -> None:
        replica = self._local.replica
        if replica is None or not await self._end.decide(replica, effect.target_hive_id, effect.addresses):
            self._step(DissolvingFailed())

    async def _join(self, effect: JoinHive) -> None:
        refused: HiveError | None = None
        for address in effect.addresses:
            try:
                offer = await self._ask_to_join(address, effect.hive_id)
            except HiveError as error:
                _log.info("not joined through this address", address=address, reason=error.message)
                if error.code is Code.NODE_EXISTS:
                    self._stop(error.message)
                    return
                if error.code in (Code.PEER_REJECTED, Code.NODE_REMOVED):
                    refused = error
                    self._refused = error.message
                continue
            if self._belongs:
                return
            self._belongs = True
            try:
                await self._local.enter(offer.hive_id, replica=offer.voter_rights)
            except HiveError as error:
                self._stop(f"the hive cannot be joined: {error.message}")
                return
            _log.info("joined the hive", hive=offer.hive_id, through=address)
            self._refused = ""
            self._step(JoinSucceeded(hive_id=offer.hive_id))
            self._record_wanted.set()
            self._end_errand()
            return
        self._step(JoinFailed(hive_id=effect.hive_id, retry=refused is None))

    def _end_errand(self) -> None:
        """This node is in its hive, and if it was sent there that is done. A disk that keeps the note changes nothing of it."""
        try:
            self._errand.end(self._local.hive_id())
        except OSError as error:
            _log.warning("the note of an errand that is done stays until the next start", error=str(error))

    async def _ask_to_join(self, address: str, hive_id: str) -> JoinOffer:
        intro = await self._peers.introduce(address, JOIN_DEADLINE_S)
        if intro.hive_id != hive_id:
            raise HiveError(Code.WRONG_HIVE, "the machine at this address is of another hive by now")
        claim = self._claim(intro.record.node_id)
        self._local.note_peer(intro)
        peer = PeerAddress(node_id=intro.record.node_id, addresses=(address,))
        offer = await self._ask_to_admit(peer, hive_id, claim)
        if offer.hive_id != hive_id:
            raise HiveError(Code.WRONG_HIVE, "another hive answered than the one asked for")
        self._local.note_address(offer.leader)
        self._local.note_offer(offer)
        return offer

    async def _ask_to_admit(self, peer: PeerAddress, hive_id: str, claim: JoinClaim = NO_CLAIM) -> JoinOffer:
        """Tells the hive this node's record, once more when the hive has one that is later by a clock that ran ahead."""
        for _ in range(2):
            offer = await self._peers.join(peer, hive_id, self._local.record()[1], JOIN_DEADLINE_S, claim)
            if not offer.later_sequence:
                return offer
            self._local.outdo(offer.later_sequence)
        raise HiveError(Code.PEER_REJECTED, "the hive knows a later statement of this node")

    def _claim(self, callee: NodeId) -> JoinClaim:
        """What this node shows besides its record. Raises PEER_REJECTED when a token names others than the callee."""
        if not self._errand.token:
            return NO_CLAIM
        token = read_token(self._errand.token)
        if callee not in {member.node_id for member in token.members}:
            raise HiveError(Code.PEER_REJECTED, f"{callee} is not among the machines that the join token names")
        key = identity_of(token.seed)
        message = join_message(hive_id=base_of(token.hive_id), node_id=self._local.node_id)
        return JoinClaim(token_key=key.public_key, token_signature=key.sign(message))

    def _report_foreign(self, effect: ReportForeignHive) -> None:
        if len(self.foreign) < FOREIGN_MAX or effect.hive_id in self._foreign:
            self._foreign[effect.hive_id] = (effect.address, self._local.clock_ms())
        _log.warning("foreign hive seen", hive=effect.hive_id, address=effect.address)

    # --- as a member -----------------------------------------------------------------------------------------------

    def _watch_replica(self, replica: Replica) -> None:
        self._end.watch(replica)
        replica.on_leadership(lambda: self._leadership_changed(replica))
        replica.subscribe(lambda events: self._applied(replica, events))

    def _applied(self, replica: Replica, events: tuple[PoolEvent, ...]) -> None:
        if any(
            isinstance(event, StateReplaced)
            or (isinstance(event, NodeRemoved) and event.node_id == self._local.node_id)
            for event in events
        ):
            self._record_wanted.set()  # If it was taken out, the leader tells whether the hive can do without its vote.
        self._tell_virginity(replica)

    def _leadership_changed(self, replica: Replica) -> None:
        self._record_wanted.set()
        self._tell_virginity(replica)

    def _tell_virginity(self, replica: Replica) -> None:
        """A hive with nothing in it may be given up for another."""
        view = replica.view()
        hive = queries.hive(view)
        if hive is None or self._formation.phase is not PeerPhase.MEMBER:
            return
        members = max(queries.counts(view).nodes, self._members_expected)
        decides = replica.leads and not self._members_expected
        known = (is_virgin(view), members, decides)
        if known == self._virginity:
            return
        self._virginity = known
        left_ms = hive.created_ms + PAIRING_MS - self._local.wall_ms()
        self._step(
            VirginityKnown(
                virgin=known[0],
                members=members,
                hive_created_ms=hive.created_ms,
                pairing_until_ms=self._local.clock_ms() + left_ms if decides else None,
            )
        )

    async def _keep_record(self) -> None:
        """Keeps the hive's entry of this node true: after a start, a change of address, or a change of capabilities."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._record_wanted.wait()
            self._record_wanted.clear()
            if self._local.hive_id() and not await self._tell_record():
                await asyncio.sleep(ANNOUNCE_RETRY_S)
                self._record_wanted.set()

    async def _tell_record(self) -> bool:
        replica = self._local.replica
        try:
            if replica is not None and replica.leader is not None and self._is_told(replica):
                return True
            if replica is not None and self._local.standing() is Standing.LEADER and self._is_removed(replica):
                # It was taken out, and came to lead before it was out: whoever leads next takes its vote away.
                await self._hand_over()
                return False
            if replica is not None and self._local.standing() is Standing.LEADER:
                # Also when the founder died before it had: whoever leads a hive without its first commands proposes them.
                known = queries.node(replica.view(), self._local.node_id)
                self._local.outdo(known.sequence if known is not None else 0)
                await self._give_birth(replica)
                return True
            # A member that hears no leader may have been taken out while it was away, and then nobody but the leader says so.
            leader = await self._local.leader(LEADERLESS_S + JOIN_DEADLINE_S)
            if self._local.standing() is Standing.LEADER:
                return await self._tell_record()  # It came to lead meanwhile, and asks nobody.
            if replica is not None and replica.leader is not None and self._is_told(replica):
                return True
            offer = await self._ask_to_admit(leader, self._local.hive_id())
            if replica is None or not replica.has_configuration:
                self._local.note_offer(offer)
            if replica is None and offer.voter_rights:
                _log.info("this node was given voter right")
                await self._local.become_replica()
        except HiveError as error:
            if error.code is Code.NODE_REMOVED and self._local.standing() is not Standing.LEADER:
                _log.warning("the hive has taken this node out", reason=error.message)
                self._left()
                return True
            if error.code is Code.NODE_EXISTS:
                self._stop(error.message)
            elif error.code is Code.NO_LEADER:
                await self._has_older_twin()  # The leader may be one, and then this node never hears of a leader.
            _log.info("the hive does not know this node's record yet", reason=error.message)
            return False
        return True

    def _is_removed(self, replica: Replica) -> bool:
        return queries.was_removed(replica.view(), self._local.node_id, self._local.incarnation)

    def _is_told(self, replica: Replica) -> bool:
        entry = queries.node(replica.view(), self._local.node_id)
        record = self._local.record()[0]
        return entry is not None and (entry.addresses, entry.capabilities, entry.incarnation) == (
            record.addresses,
            record.capabilities,
            record.incarnation,
        )


def confirmed_by(address: str, intro: Introduction) -> PeerConfirmed:
    """What an introduction says to the machine."""
    return PeerConfirmed(
        address=address,
        node_id=intro.record.node_id,
        addresses=intro.record.addresses,
        phase=_PHASES[intro.phase],
        may_vote=intro.record.role.may_vote,
        hive_id=intro.hive_id,
        hive_created_ms=intro.hive_created_ms,
        closed=intro.closed,
        members=intro.members,
        confirmed=frozenset(intro.confirmed),
    )
