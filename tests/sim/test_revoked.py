"""The checker of what an operator was promised of a revoked machine."""

from __future__ import annotations

import pytest

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import encode_record
from hivenode.pool.commands import AdmitNode, ApproveNode, RevokeNode, StartAttempt
from hivenode.pool.records import NodeRights
from simulations.checkers.revoked import RevokedChecker
from simulations.checkers.violation import Violation
from tests.unit.pool.driver import node_id, signed_record

GOING = node_id(1)
ADMISSION = AdmitNode(signed_record=encode_record(signed_record(1)), rights=NodeRights.VOTER)


def _checker() -> RevokedChecker:
    """One that knows a machine that was revoked at 10, approved again at 20 and taken in at 25."""
    checker = RevokedChecker()
    checker.agreed(10, RevokeNode(node_id=GOING, reason=""))
    checker.agreed(20, ApproveNode(node_id=GOING, rights=NodeRights.VOTER))
    checker.agreed(25, ADMISSION)
    return checker


@pytest.mark.parametrize("applied_index", [1, 9, 20, 21])
def test_a_machine_is_heard_by_members_whose_state_does_not_keep_it_out(applied_index: int) -> None:
    _checker().heard("n1", GOING, "n2", applied_index)
    _checker().heard("n1", NodeId("another"), "n3", 15)


def test_a_member_that_lags_may_hear_a_machine_that_was_let_in_again() -> None:
    _checker().heard("n1", GOING, "n2", 19)


@pytest.mark.parametrize("applied_index", [30, 31])
def test_a_member_that_has_applied_a_revocation_must_not_hear_the_machine(applied_index: int) -> None:
    checker = _checker()
    checker.agreed(30, RevokeNode(node_id=GOING, reason=""))
    checker.heard("n1", GOING, "n2", 29)
    with pytest.raises(Violation, match=f"n1 has applied {applied_index}, and hears n2, which was revoked before"):
        checker.heard("n1", GOING, "n2", applied_index)


def test_a_revoked_machine_gets_no_work() -> None:
    checker, start = RevokedChecker(), StartAttempt(user="u", task_id="t", attempt=1, node_id=GOING)
    checker.agreed(9, start)
    checker.agreed(10, RevokeNode(node_id=GOING, reason=""))
    with pytest.raises(Violation, match="entry 11 lets a revoked machine work"):
        checker.agreed(11, start)


def test_a_revocation_that_is_lost_for_ever_counts_no_more() -> None:
    checker = _checker()
    checker.roll_back(9)
    checker.heard("n1", GOING, "n2", 15)


@pytest.mark.parametrize("last", [19, 24])
def test_a_machine_that_was_not_taken_in_for_good_counts_as_out(last: int) -> None:
    checker = _checker()
    checker.heard("n1", GOING, "n2", 15)
    checker.roll_back(last)
    with pytest.raises(Violation, match="n1 has applied 15, and hears n2"):
        checker.heard("n1", GOING, "n2", 15)
