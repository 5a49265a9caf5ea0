"""The digest keeper: tells the leader this member's digests, judges those of all at the leader, and stops who is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from hivenode.consensus import MemberId
from hivenode.errors import HiveError, InvariantError
from hivenode.runtime.digests import (
    DIGEST_VERSION,
    JUDGE_MS_MAX,
    Comparisons,
    DigestReport,
    Verdict,
    broken_by,
)
from hivenode.runtime.replica import Replica

ASK_DEADLINE_S: Final = JUDGE_MS_MAX / 1_000 + 5.0
ASK_AGAIN_S: Final = 5.0
"""After a comparison that could not be made; a newer one takes its place."""

_log = structlog.get_logger(__name__)


class DigestKeeper:
    """One member's part in the comparison.

    Args:
        ask: brings a report to the leader and returns its verdict.
    """

    def __init__(self, *, replica: Replica, ask: Callable[[MemberId, DigestReport], Awaitable[Verdict]]) -> None:
        self._replica = replica
        self._ask = ask
        self._comparisons = Comparisons()
        self._reported = asyncio.Event()
        self._own: DigestReport | None = None
        self._wake = asyncio.Event()
        self.agreed_index = 0
        """The last entry for which this member's state was found right."""
        replica.on_digest(self._reached)
        replica.on_leadership(self._wake.set)

    def _reached(self, index: int, digest: bytes) -> None:
        self._own = DigestReport(version=DIGEST_VERSION, member_id=self._replica.member_id, index=index, digest=digest)
        self._take(self._own)
        self._wake.set()

    def _take(self, report: DigestReport) -> bool:
        comparable = self._comparisons.take(report, _now_ms())
        self._reported.set()
        self._reported = asyncio.Event()
        return comparable

    async def compare(self, report: DigestReport) -> Verdict:
        """At the leader: takes a member's report and returns the verdict as soon as there is one."""
        if not self._replica.leads or not self._take(report):
            return Verdict.UNDECIDED
        return await self._verdict(report)

    async def _verdict(self, report: DigestReport) -> Verdict:
        while True:
            conf = self._replica.status().conf
            verdict, left_ms = self._comparisons.verdict(report.index, report.member_id, conf, _now_ms())
            if not left_ms:
                return verdict
            reported = self._reported
            try:
                async with asyncio.timeout(left_ms / 1_000):
                    await reported.wait()
            except TimeoutError:
                continue

    async def run(self) -> None:
        """Compares until cancelled.

        Raises:
            InvariantError: this member's state is not the majority's, or there is no majority.
        """
        while True:
            self._wake.clear()
            own = self._own
            again_s: float | None = None
            if own is not None and own.index > self.agreed_index:
                again_s = None if self._conclude(own, await self._settle(own)) else ASK_AGAIN_S
            try:
                async with asyncio.timeout(again_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _settle(self, own: DigestReport) -> Verdict:
        if self._replica.leads:
            return await self._verdict(own)
        leader = self._replica.leader
        if leader is None:
            return Verdict.UNDECIDED
        try:
            async with asyncio.timeout(ASK_DEADLINE_S):
                return await self._ask(leader, own)
        except (HiveError, TimeoutError) as error:
            _log.info("the state's digest is not compared now", index=own.index, reason=str(error))
            return Verdict.UNDECIDED

    def _conclude(self, own: DigestReport, verdict: Verdict) -> bool:
        """Whether the comparison is settled."""
        if why := broken_by(own, verdict):
            raise InvariantError(why)
        if verdict is Verdict.AGREES:
            self.agreed_index = own.index
            _log.debug("state compared", index=own.index, digest=own.digest.hex())
        return verdict is Verdict.AGREES


def _now_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1_000)
