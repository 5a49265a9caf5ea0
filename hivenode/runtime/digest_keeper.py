"""The digest keeper: tells the leader this member's digests, judges those of all at the leader, and stops who is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from hivenode.consensus import MemberId
from hivenode.errors import HiveError, InvariantError
from hivenode.runtime.digests import DIGEST_VERSION, DigestReport, Verdict, judge
from hivenode.runtime.replica import Replica

JUDGE_DEADLINE_S: Final = 10.0
"""A voter that lives reports within moments of the others; one that does not may be away for long."""
ASK_DEADLINE_S: Final = JUDGE_DEADLINE_S + 5.0
ASK_AGAIN_S: Final = 5.0
"""After a comparison that could not be made; a newer one takes its place."""
ROUNDS_MAX: Final = 4
"""Comparisons that a leader has open; older ones are made up by newer ones."""

_log = structlog.get_logger(__name__)


class _Round:
    """What the members said of one entry."""

    def __init__(self) -> None:
        self.reports: dict[MemberId, bytes] = {}
        self.changed = asyncio.Event()
        self.opened_s = asyncio.get_running_loop().time()

    def add(self, report: DigestReport) -> None:
        self.reports[report.member_id] = report.digest
        self.changed.set()
        self.changed = asyncio.Event()


class DigestKeeper:
    """One member's part in the comparison.

    Args:
        ask: brings a report to the leader and returns its verdict.
    """

    def __init__(self, *, replica: Replica, ask: Callable[[MemberId, DigestReport], Awaitable[Verdict]]) -> None:
        self._replica = replica
        self._ask = ask
        self._rounds: dict[int, _Round] = {}
        self._own: DigestReport | None = None
        self._wake = asyncio.Event()
        self.agreed_index = 0
        """The last entry for which this member's state was found right."""
        replica.on_digest(self._reached)
        replica.on_leadership(self._wake.set)

    def _reached(self, index: int, digest: bytes) -> None:
        self._own = DigestReport(version=DIGEST_VERSION, member_id=self._replica.member_id, index=index, digest=digest)
        self._round(index).add(self._own)
        self._wake.set()

    def _round(self, index: int) -> _Round:
        found = self._rounds.get(index)
        if found is None:
            found = self._rounds[index] = _Round()
            while len(self._rounds) > ROUNDS_MAX:
                del self._rounds[min(self._rounds)]
        return found

    async def compare(self, report: DigestReport) -> Verdict:
        """At the leader: takes a member's report and returns the verdict as soon as there is one."""
        if report.version != DIGEST_VERSION or not self._replica.leads:
            return Verdict.UNDECIDED
        if report.index < min(self._rounds, default=0):
            return Verdict.UNDECIDED
        self._round(report.index).add(report)
        return await self._verdict(report)

    async def _verdict(self, report: DigestReport) -> Verdict:
        while (about := self._rounds.get(report.index)) is not None:
            left_s = about.opened_s + JUDGE_DEADLINE_S - asyncio.get_running_loop().time()
            conf = self._replica.status().conf
            verdict = judge(about.reports, conf, report.member_id, time_is_up=left_s <= 0)
            if verdict is not Verdict.UNDECIDED or left_s <= 0:
                return verdict
            changed = about.changed
            try:
                async with asyncio.timeout(left_s):
                    await changed.wait()
            except TimeoutError:
                continue
        return Verdict.UNDECIDED

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
        what = f"the agreed state of this node as of entry {own.index} (digest {own.digest.hex()[:16]})"
        match verdict:
            case Verdict.AGREES:
                self.agreed_index = own.index
                _log.debug("state compared", index=own.index, digest=own.digest.hex())
                return True
            case Verdict.DIFFERS:
                raise InvariantError(
                    f"{what} differs from that of the majority of the voters: its disk or memory went wrong; "
                    "it must not run again before its data directory was replaced"
                )
            case Verdict.NO_MAJORITY:
                raise InvariantError(f"{what} is one of several, and none has a majority: all voters stop")
            case Verdict.UNDECIDED:
                return False
