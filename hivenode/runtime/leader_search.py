"""Who leads, asked of other machines: the way of a node that holds no log, or whose place in the log went to another.

Rules:
- Machines that knew it before are asked first: only those that hold the log know it, and of a large hive few do.
- Some are asked at once, each at all its addresses: one that moved, or has a VPN, has silent ones. A machine without power
  answers nothing, and a third of a hive may have none: one after the other they would take minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.errors import HiveError
from hivenode.runtime.ports import Introduction, PeerAddress

INTRODUCE_DEADLINE_S: Final = 2.0
ASKED_AT_ONCE: Final = 16
"""With two seconds for each, a hundred silent machines are passed over in the time that a call waits for a leader."""

Introduce = Callable[[str, float], Awaitable[Introduction]]


class LeaderSearch:
    """See the module. `introduce` asks an address who answers there, within so many seconds."""

    def __init__(self, introduce: Introduce) -> None:
        self._introduce = introduce
        self._informed: set[NodeId] = set()

    def note(self, intro: Introduction) -> None:
        """Somebody answered, be it asked by this search or otherwise."""
        if intro.leader is not None:
            self._informed |= {intro.record.node_id, intro.leader.node_id}
        else:
            self._informed.discard(intro.record.node_id)

    async def find(self, peers: Iterable[PeerAddress], hive_id: str, deadline_s: float) -> Introduction | None:
        """The first answer of a machine of this hive that knows who leads; None when there is none in time."""
        order = iter(sorted(peers, key=lambda peer: (peer.node_id not in self._informed, peer.node_id)))
        askers = {asyncio.ensure_future(self._ask(order, hive_id)) for _ in range(ASKED_AT_ONCE)}
        try:
            async with asyncio.timeout(deadline_s):
                waiting = askers
                while waiting:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for asker in done:
                        if (intro := asker.result()) is not None:
                            return intro
        except TimeoutError:
            return None
        finally:
            for asker in askers:
                asker.cancel()
            await asyncio.gather(*askers, return_exceptions=True)
        return None

    async def _ask(self, order: Iterator[PeerAddress], hive_id: str) -> Introduction | None:
        """Takes peers from the common order until one knows."""
        for peer in order:
            asking = [asyncio.ensure_future(self._introduced(address)) for address in peer.addresses]
            try:
                for answer in asyncio.as_completed(asking):
                    intro = await answer
                    # Another machine may have an address that this one had before.
                    if (
                        intro is not None
                        and intro.record.node_id == peer.node_id
                        and intro.hive_id == hive_id
                        and intro.leader
                    ):
                        return intro
            finally:
                for asked in asking:
                    asked.cancel()
        return None

    async def _introduced(self, address: str) -> Introduction | None:
        try:
            intro = await self._introduce(address, INTRODUCE_DEADLINE_S)
        except HiveError:
            return None
        self.note(intro)
        return intro
