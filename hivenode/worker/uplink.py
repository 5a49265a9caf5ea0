"""The worker's way to the leader: keeps one stream to whoever leads, and starts over when it breaks or another leads."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from hivenode.errors import Code, HiveError
from hivenode.runtime.ports import Leadership, PeerAddress, PeerNetwork
from hivenode.worker.agent import Agent

LEADER_DEADLINE_S: Final = 10.0
RETRY_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses after failures in a row: the first ones are short, because a task waits for its worker after a failover."""

_log = structlog.get_logger(__name__)


class Uplink:
    """See the module."""

    def __init__(self, *, agent: Agent, leadership: Leadership, peers: PeerNetwork) -> None:
        self._agent = agent
        self._leadership = leadership
        self._peers = peers
        self._moved = asyncio.Event()
        self._serving: PeerAddress | None = None
        self._failures = 0  # In a row: a stream that stood ends the row, however it ended.

    def leader_changed(self, node_id: str) -> None:
        """Another node leads: the stream to the old one is left at once."""
        if self._serving is not None and self._serving.node_id != node_id:
            self._moved.set()

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            try:
                leader = await self._leadership.leader(LEADER_DEADLINE_S)
                await self._serve_leader(leader)
            except HiveError as error:
                self._failures += 1
                # Before there is a hive there is nobody to reach, which is nothing to tell.
                if self._leadership.hive_id():
                    _log.info("no stream to the leader", reason=error.message, failures=self._failures)
            await asyncio.sleep(RETRY_S[min(self._failures, len(RETRY_S) - 1)])

    async def _serve_leader(self, leader: PeerAddress) -> None:
        try:
            await self._serve(leader)
        except HiveError as error:
            if error.code is Code.NO_LEADER:
                self._leadership.forget_leader(leader.node_id)
            raise

    async def _serve(self, leader: PeerAddress) -> None:
        link = await self._peers.open_worker_link(leader)
        self._serving = leader
        self._moved.clear()
        serving = asyncio.create_task(self._agent.serve(link))
        moved = asyncio.create_task(self._moved.wait())
        try:
            await asyncio.wait((serving, moved), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            self._serving = None
            for task in (serving, moved):
                task.cancel()
            await asyncio.gather(serving, moved, return_exceptions=True)
            if link.opened:
                self._failures = 0
            await link.aclose()
