"""The end of a hive as one of its members sees it: it dissolved into another one, or was recovered without this member.

A member leaves when the decision is applied here (`pool.dissolving`), a moment later, so that the others hear of the commit as
well. It keeps a *tombstone*: whoever calls it later is told which hives it saw dissolve. A member that missed the decision, and
has no leader any more, asks the members that it knows, and follows those that say so. That is safe: a hive dissolves only while
nothing is in it, so whoever missed it has nothing in its log either, and that is checked here again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import structlog

from hivenode.durable_files import read_document, write_document
from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import NodeId
from hivenode.encoding.recovery import RecoveryRecord, base_of, open_recovery
from hivenode.errors import HiveError
from hivenode.identity import verify_signature
from hivenode.pool import queries
from hivenode.pool.commands import DissolveHive
from hivenode.pool.dissolving import ADDRESSES_MAX, dissolved, is_virgin
from hivenode.pool.events import Event, HiveDissolved, StateReplaced
from hivenode.runtime.local import LocalNode
from hivenode.runtime.ports import Introduction, PeerNetwork
from hivenode.runtime.replica import Replica
from hivenode.runtime.together import together

DECIDE_DEADLINE_S: Final = 5.0
GRACE_S: Final = 1.0
"""Between the decision and the leaving: several heartbeats, by which every member that is there learns of the commit."""
SEEK_PAUSE_S: Final = 10.0
"""A member without a leader asks the others so often whether the hive is still there."""
SEEK_DEADLINE_S: Final = 2.0
"""For one address: five round trips, of a machine that may be far away."""
SOUGHT_MAX: Final = 8
TOMBSTONES_MAX: Final = 16
"""Hives that one machine saw dissolve; it happens once or twice in the life of an installation."""
TOMBSTONE_FILE: Final = "former-hives.json"

_log = structlog.get_logger(__name__)


class Tombstones:
    """The hives that this node saw dissolve: a file in the data directory, the newest last."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / TOMBSTONE_FILE
        self._rows: list[tuple[str, tuple[str, ...]]] = []
        for row in read_document(self._path) or ():
            self._rows.append((row["hive_id"], tuple(row["target_addresses"])))

    @property
    def hive_ids(self) -> tuple[str, ...]:
        return tuple(hive_id for hive_id, _ in self._rows)

    @property
    def last_target(self) -> tuple[str, ...]:
        """Where members of the hive were that the newest one dissolved into."""
        return self._rows[-1][1] if self._rows else ()

    def add(self, hive_id: str, target_addresses: tuple[str, ...]) -> None:
        """Keeps one more. Blocks for the fsync."""
        rows = [row for row in self._rows if row[0] != hive_id]
        self._rows = [*rows, (hive_id, target_addresses)][-TOMBSTONES_MAX:]
        write_document(self._path, [{"hive_id": h, "target_addresses": list(a)} for h, a in self._rows])


class HiveEnd:
    """See the module.

    Args:
        restart: starts the daemon anew, fresh; log and state are emptied, or with True set aside.
        stop: ends the daemon for a reason that its owner must see to first.
        changed: told when this node begins to leave.
        start: runs something beside.
    """

    def __init__(
        self,
        *,
        local: LocalNode,
        peers: PeerNetwork,
        tombstones: Tombstones,
        restart: Callable[[bool], None],
        stop: Callable[[str], None],
        changed: Callable[[], None],
        start: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._local = local
        self._peers = peers
        self._tombstones = tombstones
        self._restart = restart
        self._stop = stop
        self._changed = changed
        self._start = start
        self.leaving = False

    @property
    def former_hives(self) -> tuple[str, ...]:
        """What callers are told: the hives that are no more."""
        return self._tombstones.hive_ids

    @property
    def last_target(self) -> tuple[str, ...]:
        return self._tombstones.last_target

    @property
    def is_over(self) -> bool:
        """Whether the hive on this disk is one that this node was leaving when it stopped."""
        return self._local.hive_id() in self._tombstones.hive_ids

    async def decide(self, replica: Replica, target: str, addresses: tuple[str, ...]) -> bool:
        """Asks the hive to dissolve itself; whether it does. What follows from it follows at every member alike."""
        command = DissolveHive(target_hive_id=target, target_addresses=addresses[:ADDRESSES_MAX])
        try:
            reply = await replica.propose(command, deadline_s=DECIDE_DEADLINE_S)
        except HiveError as error:
            _log.info("the hive does not dissolve now", reason=error.message)
            return False
        if reply.refused:
            _log.info("the hive does not dissolve", reason=reply.message)
        return not reply.refused

    def watch(self, replica: Replica) -> None:
        """Leaves when the decision is applied."""

        def look(events: tuple[Event, ...]) -> None:
            if any(isinstance(event, HiveDissolved | StateReplaced) for event in events):
                self.look(replica)

        replica.subscribe(look)

    def look(self, replica: Replica) -> None:
        """Leaves when the hive has dissolved, also while this node was stopped."""
        into = dissolved(replica.view())
        if into is not None:
            self._leave(into.target_hive_id, into.target_addresses)

    def meet(self, address: str, intro: Introduction) -> None:
        """Follows a member of this hive that says that it is no more, or that it went on without this node."""
        if self.is_other_epoch(intro.hive_id):
            self.meet_recovered(intro)
        hive_id = self._local.hive_id()
        if hive_id and hive_id in intro.former_hives and self._may_follow(intro.record.node_id):
            _log.warning("this hive dissolved while this node was away", told_by=intro.record.node_id)
            self._leave(intro.hive_id, (address,))

    def is_other_epoch(self, hive_id: str) -> bool:
        """Whether this is the id of the own hive before or after a recovery."""
        own = self._local.hive_id()
        return "" not in (own, hive_id) and own != hive_id and base_of(own) == base_of(hive_id)

    def meet_recovered(self, intro: Introduction) -> None:
        """The own hive in another epoch answered. If it went on without this node, what this node has counts no more."""
        for data in intro.recoveries:
            try:
                record = open_recovery(data, verify_signature)
            except DecodeError:
                continue
            if record.former_hive_id == self._local.hive_id() and self._knows_member(record.recovered_by):
                self._follow_recovery(record)
                return

    def _follow_recovery(self, record: RecoveryRecord) -> None:
        if self.leaving:
            return
        self.leaving = True
        if self._local.node_id in record.revoked:
            self._stop(
                f"this machine was declared dead when its hive was recovered as {record.hive_id}: its log may hold what "
                "the hive does not. To come back as a new member, move the folder log out of its data directory "
                "and start again"
            )
            return
        _log.warning("the hive was recovered on another machine; this log is set aside", hive=record.hive_id)
        self._changed()
        self._restart(True)

    def _knows_member(self, node: NodeId) -> bool:
        replica = self._local.replica
        if replica is None:
            return any(peer.node_id == node for peer in self._local.hive_nodes())
        return queries.node(replica.view(), node) is not None

    def _may_follow(self, node: NodeId) -> bool:
        replica = self._local.replica
        return self._knows_member(node) and (replica is None or is_virgin(replica.view()))

    def _leave(self, target: str, addresses: tuple[str, ...]) -> None:
        if self.leaving:
            return
        self.leaving = True
        _log.warning("this hive has nothing in it and dissolves into another one", into=target)
        try:
            self._tombstones.add(self._local.hive_id(), addresses)
        except OSError as error:  # Others tell of it too, and the hive that it dissolved into is found again.
            _log.warning("which hive dissolved is not kept on disk", error=str(error))
        self._changed()
        self._start(self._go())

    def go_on(self) -> None:
        """After a restart in the middle of leaving."""
        self.leaving = True
        self._start(self._go())

    async def _go(self) -> None:
        await asyncio.sleep(GRACE_S)
        self._restart(False)

    async def run(self) -> None:
        """While no leader is known, asks the members whether the hive is still there; until cancelled."""
        while True:
            await asyncio.sleep(SEEK_PAUSE_S)
            if not self._local.hive_id() or self.leaving or self._local.knows_leader():
                continue
            for peer in self._local.hive_nodes()[:SOUGHT_MAX]:
                await together(self._seek(address) for address in peer.addresses)

    async def _seek(self, address: str) -> None:
        with contextlib.suppress(HiveError):
            self.meet(address, await self._peers.introduce(address, SEEK_DEADLINE_S))
