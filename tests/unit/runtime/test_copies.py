"""How many disks an answer may speak of, while the configuration changes."""

from __future__ import annotations

from hivenode.consensus import ConfState, MemberId
from hivenode.runtime.copies import QuorumCopies

A, B, C = MemberId("a.1"), MemberId("b.1"), MemberId("c.1")
ONE = ConfState(voters=frozenset({A}))
JOINT = ConfState(voters=frozenset({A, B, C}), voters_outgoing=frozenset({A}))
THREE = ConfState(voters=frozenset({A, B, C}))


def test_what_one_voter_committed_is_on_one_disk_although_three_vote_by_now() -> None:
    quorums = QuorumCopies()
    assert quorums.copies(9, ONE) == 1
    quorums.changed(ONE, committed=11)
    assert [quorums.copies(index, JOINT) for index in (10, 11, 12)] == [1, 1, 2]


def test_two_changes_in_one_batch_count_by_the_fewest() -> None:
    quorums = QuorumCopies()
    quorums.changed(ONE, committed=11)
    quorums.changed(JOINT, committed=11)
    assert [quorums.copies(index, THREE) for index in (11, 12)] == [1, 2]


def test_a_later_change_forgets_the_earlier_one() -> None:
    quorums = QuorumCopies()
    quorums.changed(ONE, committed=11)
    quorums.changed(JOINT, committed=14)
    assert [quorums.copies(index, THREE) for index in (13, 14, 15)] == [2, 2, 2]
