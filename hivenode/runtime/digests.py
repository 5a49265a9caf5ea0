"""Digests of the agreed state compared between the voters: whose memory or disk went wrong stops before it spreads.

Rules:
- Every `replica.DIGEST_EVERY` entries each member that holds the log tells the leader its digest as of that entry. Only
  voters count.
- A digest that a majority of the voters has (of both halves while the configuration is joint) is right. Who has another one
  stops, be it the leader itself.
- When no digest can have a majority any more, or a quorum has spoken in vain until time was up, all who spoke stop: nobody
  knows then which state is right, and a person must look.
- A digest remembers every difference for ever, so a comparison that fell out for want of a leader is made up by the next one.

| reports | verdict for one that has the digest of the majority | for another |
|---|---|---|
| a majority has one digest | AGREES | DIFFERS |
| none can have it, or time is up with a quorum heard | NO_MAJORITY | NO_MAJORITY |
| else | UNDECIDED | UNDECIDED |
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Final, assert_never

from hivenode.consensus import ConfState, MemberId

DIGEST_VERSION: Final = 1
"""Of how the digest is made; members of different versions cannot be compared."""
NO_DIGEST: Final = bytes(32)
"""The digest before the first entry."""
JUDGE_MS_MAX: Final = 10_000
"""A voter that lives reports within moments of the others; one that does not may be away for long."""
ROUNDS_MAX: Final = 4
"""Comparisons that a leader has open; older ones are made up by newer ones."""
_ENTRY_HEAD: Final = struct.Struct(">QQ")
_ROW_HEAD: Final = struct.Struct(">Ii")


def digest_after(digest: bytes, index: int, term: int, touched: Mapping[bytes, bytes | None]) -> bytes:
    """The digest when an entry is applied: what it wrote, in key order, as it stands at the entry's end.

    Args:
        digest: 32 bytes, of before the entry.
        touched: the rows that the entry wrote; None was deleted.
    """
    parts = [digest, _ENTRY_HEAD.pack(index, term)]
    for key in sorted(touched):
        value = touched[key]
        parts.append(_ROW_HEAD.pack(len(key), -1 if value is None else len(value)))
        parts.append(key)
        if value is not None:
            parts.append(value)
    return hashlib.sha256(b"".join(parts)).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestReport:
    """One member's digest (32 bytes) of its agreed state as of the entry `index`."""

    version: int
    member_id: MemberId
    index: int
    digest: bytes


@unique
class Verdict(Enum):
    AGREES = "agrees"
    DIFFERS = "differs"
    NO_MAJORITY = "no majority"
    UNDECIDED = "undecided"


def judge(reports: dict[MemberId, bytes], conf: ConfState, member: MemberId, *, time_is_up: bool) -> Verdict:
    """The verdict on one member's report, by those of the voters."""
    halves = [half for half in (conf.voters, conf.voters_outgoing) if half]
    if not halves:
        return Verdict.UNDECIDED
    possible = True
    heard = True
    right: set[bytes] | None = None
    for half in halves:
        quorum = len(half) // 2 + 1
        counts = Counter(reports[voter] for voter in half if voter in reports)
        spoken = counts.total()
        most = max(counts.values(), default=0)
        possible = possible and most + len(half) - spoken >= quorum
        heard = heard and spoken >= quorum
        having = {digest for digest, count in counts.items() if count >= quorum}
        right = having if right is None else right & having
    if right:
        return Verdict.AGREES if reports.get(member) in right else Verdict.DIFFERS
    if not possible or (time_is_up and heard):
        return Verdict.NO_MAJORITY
    return Verdict.UNDECIDED


@dataclass(slots=True)
class _Round:
    """What the members said of one entry."""

    opened_ms: int
    reports: dict[MemberId, bytes] = field(default_factory=dict)


class Comparisons:
    """What members said of the newest entries that states are compared at."""

    def __init__(self) -> None:
        self._rounds: dict[int, _Round] = {}

    def take(self, report: DigestReport, now_ms: int) -> bool:
        """Notes a report; returns whether it can be compared: older ones, and those of another version, cannot."""
        if report.version != DIGEST_VERSION or report.index < min(self._rounds, default=0):
            return False
        found = self._rounds.get(report.index)
        if found is None:
            found = self._rounds[report.index] = _Round(now_ms)
            while len(self._rounds) > ROUNDS_MAX:
                del self._rounds[min(self._rounds)]
        found.reports[report.member_id] = report.digest
        return True

    def verdict(self, index: int, member: MemberId, conf: ConfState, now_ms: int) -> tuple[Verdict, int]:
        """The verdict on a member's report, and how many ms it is worth waiting for one that is UNDECIDED; 0: no longer."""
        found = self._rounds.get(index)
        if found is None:
            return Verdict.UNDECIDED, 0
        left_ms = max(0, found.opened_ms + JUDGE_MS_MAX - now_ms)
        verdict = judge(found.reports, conf, member, time_is_up=not left_ms)
        return verdict, left_ms if verdict is Verdict.UNDECIDED else 0


def broken_by(report: DigestReport, verdict: Verdict) -> str:
    """Why a member with this report must stop, for its owner; empty when it may go on."""
    what = f"the agreed state of this node as of entry {report.index} (digest {report.digest.hex()[:16]})"
    match verdict:
        case Verdict.DIFFERS:
            return (
                f"{what} differs from that of the majority of the voters: its disk or memory went wrong; "
                "it must not run again before its data directory was replaced"
            )
        case Verdict.NO_MAJORITY:
            return f"{what} is one of several, and none has a majority: all voters stop"
        case Verdict.AGREES | Verdict.UNDECIDED:
            return ""
        case _:
            assert_never(verdict)
