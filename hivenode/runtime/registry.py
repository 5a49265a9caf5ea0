"""The list of machines, agreed entries joined with what the leader hears; fills the `Registry` port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence, Set
from typing import Final

import structlog

from hivenode.encoding.node_record import Capabilities, NodeId
from hivenode.errors import Code, HiveError
from hivenode.membership.suspicion import Standing
from hivenode.pool import queries, trust
from hivenode.pool.commands import DropForeignWorkers, RegisterForeignWorker, UnregisterNode
from hivenode.pool.records import NodeEntry, NodeKind, SessionRecord
from hivenode.runtime.coordinator import PROPOSE_DEADLINE_S, SWEEP_INTERVAL_S, Coordinator
from hivenode.runtime.foreign_workers import ForeignWorkers
from hivenode.runtime.local import LocalNode
from hivenode.runtime.ports import Caller, NodeHealth, NodeListing
from hivenode.runtime.requests import accepted, keep_ms

FOREIGN_ALIVE_MS: Final = 90_000
"""Documented workers report every 30 s; three missed reports in a row mean offline."""
LISTING_AGE_MS_MAX: Final = 200
"""The list may be this old; it is made anew for nobody within that time."""

_log = structlog.get_logger(__name__)


class NodeRegistry:
    """See the module. `connected` are the nodes whose message stream to this one stands."""

    def __init__(
        self,
        *,
        local: LocalNode,
        coordinator: Callable[[], Coordinator | None],
        connected: Callable[[], Set[NodeId]],
    ) -> None:
        self._local = local
        self._coordinator = coordinator
        self._connected = connected
        self._foreign = ForeignWorkers(local.clock_ms, local.wall_ms)
        self._listing: tuple[int, tuple[NodeListing, ...]] = (-LISTING_AGE_MS_MAX, ())
        local.subscribe(self._foreign.applied)

    async def register_worker(
        self, session: SessionRecord, node_id: str, capabilities: Capabilities, port: int, caller: Caller
    ) -> None:
        command = RegisterForeignWorker(
            session_id=session.session_id, node_id=node_id, capabilities=capabilities, port=port
        )
        with self._foreign.place(self._local.view(), session.username, node_id):
            await self._decide(command, session, caller)
        self._foreign.heard(node_id, "registered")

    async def unregister(self, session: SessionRecord, node_id: str, caller: Caller) -> None:
        await self._decide(UnregisterNode(session_id=session.session_id, node_id=node_id), session, caller)

    async def _decide(
        self, command: RegisterForeignWorker | UnregisterNode, session: SessionRecord, caller: Caller
    ) -> None:
        reply = await self._local.propose(
            command,
            deadline_s=caller.deadline_s,
            owner=session.username,
            key=caller.idempotency_key,
            keep_ms=keep_ms(caller),
        )
        accepted(reply)
        self._listing = (self._listing[0] - LISTING_AGE_MS_MAX, ())

    async def report_status(self, session: SessionRecord, node_id: str, status: str, caller: Caller) -> None:
        entry = queries.node(self._local.view(), node_id)
        if entry is None:
            raise HiveError(Code.NODE_NOT_FOUND, f"no node {node_id} is registered; register it first")
        if entry.kind is not NodeKind.FOREIGN or entry.owner != session.username:
            raise HiveError(Code.PERMISSION_DENIED, f"node {node_id} is not yours to report for")
        self._foreign.heard(node_id, status)

    async def run(self) -> None:
        """Takes workers off the list that are silent for long, while this node leads; until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            await self.sweep()

    async def sweep(self) -> None:
        """Once."""
        coordinator = self._coordinator()
        if coordinator is None:
            return
        silent = self._foreign.silent(self._local.view(), coordinator.leads)
        if not silent:
            return
        try:
            reply = await self._local.propose(DropForeignWorkers(node_ids=silent), deadline_s=PROPOSE_DEADLINE_S)
        except HiveError as error:
            _log.info("silent workers stay on the list for now", reason=error.message)
        else:
            _log.info("workers that were silent for long are off the list", number=reply.number)

    async def health(self, node_id: str) -> NodeHealth:
        now = self._local.wall_ms()
        if not node_id:
            return NodeHealth(healthy=True, status="HEALTHY", message="this daemon answers", time_ms=now)
        entry = queries.node(self._local.view(), node_id)
        if entry is None:
            raise HiveError(Code.NODE_NOT_FOUND, f"no node {node_id} is registered")
        listing = self._list(entry)
        if listing.alive:
            return NodeHealth(healthy=True, status="HEALTHY", message=f"node {node_id} is alive", time_ms=now)
        return NodeHealth(healthy=False, status="OFFLINE", message=f"node {node_id} does not answer", time_ms=now)

    async def nodes(self) -> Sequence[NodeListing]:
        now = self._local.clock_ms()
        made_ms, listing = self._listing
        if now - made_ms >= LISTING_AGE_MS_MAX or not listing:
            entries = queries.nodes(self._local.view())
            # The hive's own machines first: what is too long for one answer is cut at its end.
            entries.sort(key=lambda entry: entry.kind is NodeKind.FOREIGN)
            listing = tuple(map(self._list, entries))
            self._listing = (now, listing)
        return listing

    def _list(self, entry: NodeEntry) -> NodeListing:
        alive, heard_ms, status = self._liveness(entry)
        is_given_tasks = entry.kind is NodeKind.HIVE
        used = len(queries.open_attempts_of(self._local.view(), entry.node_id)) if is_given_tasks else 0
        return NodeListing(
            node_id=entry.node_id,
            hostname=entry.capabilities.hostname,
            capabilities=entry.capabilities,
            port=entry.port,
            trust_level=trust.trust_level(entry),
            last_heartbeat_ms=heard_ms,
            alive=alive,
            status=status,
            owner=entry.owner,
            role="foreign worker" if entry.kind is NodeKind.FOREIGN else entry.rights.value,
            addresses=entry.addresses,
            slots_free=max(0, entry.capabilities.slots - used) if alive else 0,
        )

    def _liveness(self, entry: NodeEntry) -> tuple[bool, int, str]:
        """(alive, last word in ms since 1970 or 0, a word for it)."""
        now = self._local.wall_ms()
        if entry.kind is NodeKind.FOREIGN:
            report = self._foreign.report(entry.node_id)
            if report is None:
                return False, 0, "offline"
            alive = now - report.wall_ms <= FOREIGN_ALIVE_MS
            return alive, report.wall_ms, report.status or "unknown" if alive else "offline"
        if entry.node_id == self._local.node_id or entry.node_id in self._connected():
            return True, now, "online"
        coordinator = self._coordinator()
        if coordinator is None:
            return False, 0, "offline"
        standing = coordinator.standing(entry.node_id)
        session = coordinator.session(entry.node_id)
        if session is not None and standing is Standing.ALIVE:
            return True, now, "online"
        return False, 0, "unknown" if standing is Standing.SUSPECT else "offline"
