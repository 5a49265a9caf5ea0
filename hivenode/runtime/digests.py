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

from collections import Counter
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from hivenode.consensus import ConfState, MemberId

DIGEST_VERSION: Final = 1
"""Of how the digest is made; members of different versions cannot be compared."""


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
