"""Majorities, simple and joint.

Rules:
- A decision in a joint configuration needs a majority of the incoming and one of the outgoing voters (thesis §4.3).
- An empty half decides nothing by itself: it agrees to whatever the other half says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, unique
from typing import Final

from hivenode.consensus.messages import ConfState, MemberId

UNBOUNDED_INDEX: Final = 1 << 62
"""What an empty set of voters has committed: it never holds the other half back."""


@unique
class VoteResult(Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def _majority_index(voters: frozenset[MemberId], match_of: Callable[[MemberId], int]) -> int:
    if not voters:
        return UNBOUNDED_INDEX
    matches = sorted(map(match_of, voters), reverse=True)
    return matches[len(matches) // 2]


def committed_index(conf: ConfState, match_of: Callable[[MemberId], int]) -> int:
    """The highest index that is durable at a quorum.

    Args:
        conf: the configuration that counts.
        match_of: the index up to which a voter's durable log agrees with the leader's; 0 when it is not known.
    """
    index = _majority_index(conf.voters, match_of)
    if conf.voters_outgoing:
        index = min(index, _majority_index(conf.voters_outgoing, match_of))
    return index


def _majority_result(voters: frozenset[MemberId], votes: Mapping[MemberId, bool]) -> VoteResult:
    if not voters:
        return VoteResult.WON
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    needed = len(voters) // 2 + 1
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.LOST if len(voters) - refused < needed else VoteResult.PENDING


def vote_result(conf: ConfState, votes: Mapping[MemberId, bool]) -> VoteResult:
    """How an election, a round of reads or a check of the quorum stands.

    Args:
        conf: the configuration that counts; answers of members that are not voters in it are left out.
        votes: the answers so far.
    """
    results = {_majority_result(conf.voters, votes), _majority_result(conf.voters_outgoing, votes)}
    if VoteResult.LOST in results:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON
