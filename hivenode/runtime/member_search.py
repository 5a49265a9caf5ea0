"""How a member that was away learns who came meanwhile: while it hears no leader it asks the members that it knows.

Their word lets it hear the others (`member_gate`), and the log tells the rest. Without it a majority that is there might not
decide: those that this member knows may be gone, and those that lead or want its vote are strangers to it.

A node that holds no log yet hears no leader because nobody speaks to it; it asks when somebody does whom it does not hear.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import chain, islice
from typing import Final

import structlog

from hivenode.errors import HiveError
from hivenode.runtime.local import LEADERLESS_S, LocalNode
from hivenode.runtime.ports import PeerAddress, PeerNetwork
from hivenode.runtime.replica import Replica
from hivenode.runtime.together import together

ASK_DEADLINE_S: Final = 1.0
"""A machine on a LAN answers within milliseconds."""
ASKED_AT_ONCE: Final = 8
"""More than a majority of the voters; the rest is asked in the next rounds."""
PAUSE_S: Final = 1.0
"""Between two rounds, however often somebody calls that is not heard."""
PAUSE_S_MAX: Final = 60.0
"""Each round without a leader after it waits twice as long as the one before: a member whose place was taken never hears one."""

_log = structlog.get_logger(__name__)


class MemberSearch:
    """See the module; one for each replica."""

    def __init__(self, *, local: LocalNode, replica: Replica, peers: PeerNetwork) -> None:
        self._local = local
        self._replica = replica
        self._peers = peers
        self._leadership = asyncio.Event()
        self._told_owner = False
        self._asked = 0
        replica.on_leadership(self._leadership.set)

    async def run(self) -> None:
        """Asks whenever no leader is heard for `LEADERLESS_S`, or somebody calls meanwhile that is not heard; until cancelled."""
        pause_s = LEADERLESS_S
        while True:
            while self._replica.leader is not None:
                pause_s = LEADERLESS_S
                self._leadership.clear()
                await self._leadership.wait()
            self._local.unheard_called.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._local.unheard_called.wait()
            called = self._local.unheard_called.is_set()
            if self._replica.leader is None and (called or self._replica.has_configuration):
                await self._ask_some(called=called)
                await asyncio.sleep(PAUSE_S)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _ask_some(self, *, called: bool) -> None:
        known = self._local.believed_members()
        begin = self._asked % len(known) if known else 0
        asked = tuple(islice(chain(known[begin:], known[:begin]), ASKED_AT_ONCE))
        self._asked += len(asked)
        answers = await together(self._ask(peer) for peer in asked)
        if called and not any(answers) and not self._told_owner:
            self._told_owner = True
            _log.warning(
                "machines that this one never met speak for its hive, and of the members that it knows none answers now: if "
                "those have left for good, stop this daemon, move the folder log out of its data directory, and start it as a "
                "new member"
            )

    async def _ask(self, peer: PeerAddress) -> bool:
        """Whether the member answered."""
        try:
            told = await self._peers.members(peer, ASK_DEADLINE_S)
        except HiveError as error:
            _log.debug("a member does not say who takes part", node=peer.node_id, reason=error.message)
            return False
        unheard = self._local.vouched(told, peer.node_id)
        if unheard:
            _log.info("members came while this node was away", nodes=unheard, told_by=peer.node_id)
        return True
