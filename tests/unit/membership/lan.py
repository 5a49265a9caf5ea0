"""A LAN in virtual time: real `Formation` objects, call backs with delay and loss, hives as plain sets of members."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from hivenode.encoding.node_record import NodeId
from hivenode.membership.events import (
    CallBack,
    CandidateSeen,
    DiscoveryBegan,
    DissolveOwnHive,
    Effect,
    Event,
    FormHive,
    HiveAbandoned,
    HiveFormed,
    InvitationAgreed,
    InvitationRefused,
    Invited,
    InviteFounder,
    JoinFailed,
    JoinHive,
    JoinSucceeded,
    PeerConfirmed,
    PeerUnconfirmed,
    PromiseTo,
    RefuseInvitation,
    ReportForeignHive,
    TimePassed,
    VirginityKnown,
)
from hivenode.membership.formation import PAIRING_MS, Formation, FormationConfig, Me

Action = Callable[[], object]

CALL_TIMEOUT_MS = 500
"""Two lost calls and their backoff end well within the listening; who hears nothing for longer is cut off."""


@dataclass
class Hive:
    hive_id: str
    created_ms: int
    members: set[NodeId] = field(default_factory=set)


@dataclass
class Host:
    me: Me
    formation: Formation
    wake_ms: int | None = None


class Lan:
    """`lose(caller, target, nth call)` says whether a call back gets lost; `founders_taken_in` whether the founder's hive
    takes promised founders in by itself, as the daemon does, or they have to ask."""

    def __init__(
        self, rng: random.Random, lose: Callable[[NodeId, NodeId, int], bool], founders_taken_in: bool
    ) -> None:
        self.now_ms = 0
        self.hosts: dict[NodeId, Host] = {}
        self.hives: dict[str, Hive] = {}
        self.formed: list[str] = []
        self._rng = rng
        self._lose = lose
        self._founders_taken_in = founders_taken_in
        self._queue: list[tuple[int, int, Action]] = []
        self._count = 0
        self._calls: dict[tuple[NodeId, NodeId], int] = {}

    def at(self, time_ms: int, action: Action) -> None:
        self._count += 1
        heapq.heappush(self._queue, (time_ms, self._count, action))

    def run(self, until_ms: int) -> None:
        while self._queue and self._queue[0][0] <= until_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            action()
        self.now_ms = until_ms

    def boot(self, me: Me) -> None:
        self.hosts[me.node_id] = Host(
            me=me, formation=Formation(FormationConfig(), me, self.now_ms, existing_hive=None)
        )
        self.tell(me.node_id, DiscoveryBegan())
        for other in self.hosts:
            self._later(partial(self.tell, other, CandidateSeen(address=me.node_id, source="mdns")))
            if other != me.node_id:
                self._later(partial(self.tell, me.node_id, CandidateSeen(address=other, source="mdns")))

    def settled(self) -> bool:
        return len(self.hives) == 1 and all(
            host.formation.hive_id in self.hives and node in self.hives[host.formation.hive_id].members
            for node, host in self.hosts.items()
        )

    def _later(self, action: Action) -> None:
        self.at(self.now_ms + self._rng.randint(1, 300), action)

    def tell(self, node: NodeId, event: Event) -> tuple[Effect, ...]:
        effects = self.hosts[node].formation.handle(event, self.now_ms)
        for effect in effects:
            self._do(node, effect)
        self._arm(node)
        return effects

    def _arm(self, node: NodeId) -> None:
        host = self.hosts[node]
        deadline_ms = host.formation.next_deadline()
        if deadline_ms is None or (host.wake_ms is not None and self.now_ms < host.wake_ms <= deadline_ms):
            return
        wake_ms = host.wake_ms = max(deadline_ms, self.now_ms + 1)

        def wake() -> None:
            if host.wake_ms == wake_ms:
                host.wake_ms = None
                self.tell(node, TimePassed())

        self.at(wake_ms, wake)

    def _do(self, node: NodeId, effect: Effect) -> None:
        match effect:
            case CallBack(address=address):
                self._call(node, NodeId(address))
            case InviteFounder(node_id=founder):
                self._later(lambda: self._invite(node, founder))
            case FormHive(founders=founders):
                self.at(self.now_ms + 20, lambda: self._form(node, founders))
            case JoinHive(hive_id=hive_id, addresses=addresses):
                assert addresses
                self._later(lambda: self._join(node, hive_id))
            case DissolveOwnHive():
                self.at(self.now_ms + 20, lambda: self._abandon(node))
            case PromiseTo() | RefuseInvitation() | ReportForeignHive():
                pass

    def _call(self, caller: NodeId, target: NodeId) -> None:
        nth = self._calls[caller, target] = self._calls.get((caller, target), 0) + 1
        if self._lose(caller, target, nth):
            lost = PeerUnconfirmed(address=target, refused=False)
            self.at(self.now_ms + CALL_TIMEOUT_MS, lambda: self.tell(caller, lost))
            return

        def answer() -> None:
            facts = self._introduction(target)
            self._later(lambda: self.tell(caller, facts))

        self._later(answer)

    def _introduction(self, node: NodeId) -> PeerConfirmed:
        host = self.hosts[node]
        hive = self.hives.get(host.formation.hive_id)
        return PeerConfirmed(
            address=node,
            node_id=node,
            addresses=(node,),
            phase=host.formation.phase,
            may_vote=host.me.may_vote,
            hive_id=host.formation.hive_id,
            hive_created_ms=hive.created_ms if hive else 0,
            members=len(hive.members) if hive else 0,
            confirmed=frozenset(host.formation.confirmed()),
        )

    def _invite(self, founder: NodeId, invited: NodeId) -> None:
        effects = self.tell(invited, Invited(by=founder, hive_id=f"hive-of-{founder}"))
        agreed = any(isinstance(effect, PromiseTo) for effect in effects)
        answer = InvitationAgreed(node_id=invited) if agreed else InvitationRefused(node_id=invited)
        self._later(lambda: self.tell(founder, answer))

    def _form(self, node: NodeId, founders: tuple[NodeId, ...]) -> None:
        if self.hosts[node].formation.hive_id:
            return
        hive = Hive(hive_id=f"hive-{len(self.formed)}", created_ms=self.now_ms, members={node})
        self.hives[hive.hive_id] = hive
        self.formed.append(hive.hive_id)
        self.tell(node, HiveFormed(hive_id=hive.hive_id))
        self._members_changed(hive)
        if self._founders_taken_in:
            for founder in founders:
                self._later(partial(self._take_in, founder, hive))

    def _take_in(self, founder: NodeId, hive: Hive) -> None:
        if self.hosts[founder].formation.state.value == "promised" and hive.hive_id in self.hives:
            self._admit(founder, hive)

    def _join(self, node: NodeId, hive_id: str) -> None:
        hive = self.hives.get(hive_id)
        if hive is None:
            self.tell(node, JoinFailed(hive_id=hive_id, retry=True))
        elif not self.hosts[node].formation.hive_id:
            self._admit(node, hive)

    def _admit(self, node: NodeId, hive: Hive) -> None:
        assert not any(node in other.members for other in self.hives.values()), "a node is in two hives"
        hive.members.add(node)
        self.tell(node, JoinSucceeded(hive_id=hive.hive_id))
        self._members_changed(hive)

    def _members_changed(self, hive: Hive) -> None:
        for member in sorted(hive.members):
            self.tell(
                member,
                VirginityKnown(
                    virgin=True,
                    members=len(hive.members),
                    hive_created_ms=hive.created_ms,
                    pairing_until_ms=hive.created_ms + PAIRING_MS if member == min(hive.members) else None,
                ),
            )

    def _abandon(self, node: NodeId) -> None:
        hive = self.hives.pop(self.hosts[node].formation.hive_id, None)
        for member in sorted(hive.members) if hive else ():
            self._later(partial(self.tell, member, HiveAbandoned()))
