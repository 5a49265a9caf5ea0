"""How a member that was away learns who came meanwhile: while it hears no leader it asks the members that it knows.

Their word lets it hear the others (`member_gate`), and the log tells the rest. Without it a majority that is there might not
decide: those that this member knows may be gone, and those that lead or want its vote are strangers to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from hivenode.errors import HiveError
from hivenode.runtime.local import LEADERLESS_S, LocalNode
from hivenode.runtime.ports import PeerAddress, PeerNetwork
from hivenode.runtime.replica import Replica

ASK_DEADLINE_S: Final = 1.0
"""A machine on a LAN answers within milliseconds."""
PAUSE_S: Final = 1.0
"""Between two rounds, however often somebody calls whom nobody has named yet."""

_log = structlog.get_logger(__name__)


class MemberSearch:
    """See the module; one for each replica."""

    def __init__(self, *, local: LocalNode, replica: Replica, peers: PeerNetwork) -> None:
        self._local = local
        self._replica = replica
        self._peers = peers
        self._leadership = asyncio.Event()
        self._told_owner = False
        replica.on_leadership(self._leadership.set)

    async def run(self) -> None:
        """Asks whenever no leader is heard for `LEADERLESS_S`, or somebody unknown calls meanwhile; until cancelled."""
        while True:
            while self._replica.leader is not None:
                self._leadership.clear()
                await self._leadership.wait()
            self._local.unknown_called.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEADERLESS_S):
                    await self._local.unknown_called.wait()
            if self._replica.leader is None:
                answers = await asyncio.gather(*(self._ask(peer) for peer in self._local.believed_members()))
                self._tell_owner(any(answers))
                await asyncio.sleep(PAUSE_S)

    async def _ask(self, peer: PeerAddress) -> bool:
        """Whether the member answered."""
        try:
            told = await self._peers.voters(peer, ASK_DEADLINE_S)
        except HiveError as error:
            _log.debug("a member does not say who takes part", node=peer.node_id, reason=error.message)
            return False
        unknown = self._local.vouched(told)
        if unknown:
            _log.info("members came while this node was away", nodes=unknown, told_by=peer.node_id)
        return True

    def _tell_owner(self, answered: bool) -> None:
        """Once: a hive of strangers goes on, and nobody is left who could name them to this node."""
        if self._local.unknown_called.is_set() and not answered and not self._told_owner:
            self._told_owner = True
            _log.warning(
                "machines that this one never met speak for its hive, and no member that it knows answers: if those have left "
                "for good, stop this daemon, move the folder log out of its data directory, and start it as a new member"
            )
