"""The voter keeper: the leader's hands for `membership.voters`. It asks for the next change of the picture, and proposes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from typing import Final

import structlog

from hivenode.consensus import ConfChange, MemberId
from hivenode.encoding.node_record import NodeId
from hivenode.errors import HiveError
from hivenode.membership.voters import VoterChange, VoterPolicyInput, next_change, wanted_voters
from hivenode.pool import queries
from hivenode.pool.events import Event, NodeChanged, NodeRemoved
from hivenode.pool.records import NodeKind, NodeRights
from hivenode.runtime.departures import refuse_departure
from hivenode.runtime.local import member_id_of, node_of
from hivenode.runtime.replica import Replica
from hivenode.runtime.voter_picture import VoterPicture

CHANGE_DEADLINE_S: Final = 10.0
UNSETTLED_S: Final = 0.1
"""While somebody has yet to catch up there is no event to wait for: the log's progress is looked at this often."""
SETTLED_S: Final = 5.0
"""Times of grace and stability end without an event; they are tens of seconds."""

_log = structlog.get_logger(__name__)


class VoterKeeper:
    """See the module.

    Args:
        connected: the nodes whose message stream to or from this one stands.
        hears: whether a node has said something of consensus lately.
        clock_ms: monotonic time.
    """

    def __init__(
        self,
        *,
        replica: Replica,
        connected: Callable[[], Set[NodeId]],
        hears: Callable[[NodeId], bool],
        clock_ms: Callable[[], int],
    ) -> None:
        self._replica = replica
        self._connected = connected
        self._hears = hears
        self._clock_ms = clock_ms
        self._wake = asyncio.Event()
        self._picture = VoterPicture(node_of(replica.member_id), member_id_of, node_of)
        replica.on_leadership(self._leadership_changed)
        replica.subscribe(self._applied)

    def _leadership_changed(self) -> None:
        self._picture.lead(self._replica.leads, self._clock_ms())
        self._wake.set()

    def lost(self, node: NodeId) -> None:
        """The connection to a node ended: it is not without a break any more."""
        self._picture.lost(node)
        self._wake.set()

    def _applied(self, events: tuple[Event, ...]) -> None:
        self._picture.applied(events, self._clock_ms())
        if any(isinstance(event, NodeChanged | NodeRemoved) for event in events):
            self._wake.set()

    def refuse_departure(self, node: NodeId, *, at_once: bool) -> None:
        """As `departures.refuse_departure`, by what this leader sees."""
        is_joint = self._replica.status().conf.is_joint
        refuse_departure(self._look(), node, is_joint=is_joint, at_once=at_once)

    async def run(self) -> None:
        """Keeps the configuration as it should be until cancelled, while this node leads."""
        while True:
            self._wake.clear()
            settled = True
            if self._replica.leads and queries.hive(self._replica.view()) is not None:
                settled = await self._see_to_voters()
            try:
                async with asyncio.timeout(SETTLED_S if settled else UNSETTLED_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _see_to_voters(self) -> bool:
        """Makes the next change; whether nothing is on its way to one."""
        if self._replica.status().conf.is_joint:
            return False
        change = next_change(self._look())
        if change is not None:
            await self._propose(change)
            return False
        nodes = queries.nodes(self._replica.view())
        entitled = sum(1 for entry in nodes if entry.kind is NodeKind.HIVE and entry.rights is NodeRights.VOTER)
        return len(self._replica.status().conf.voters) >= wanted_voters(entitled)

    def _look(self) -> VoterPolicyInput:
        replica = self._replica
        return self._picture.look(
            replica.status(), replica.view(), self._clock_ms(), connected=self._connected(), hears=self._hears
        )

    async def _propose(self, change: VoterChange) -> None:
        conf_change = ConfChange(
            add_voters=tuple(map(MemberId, change.voters)),
            add_learners=tuple(map(MemberId, change.learners)),
            remove=tuple(map(MemberId, change.remove)),
        )
        try:
            await self._replica.propose_conf_change(conf_change, deadline_s=CHANGE_DEADLINE_S)
            _log.info("members changed", voters=change.voters, learners=change.learners, removed=change.remove)
        except HiveError as error:
            _log.info("members are not changed now", reason=error.message)
