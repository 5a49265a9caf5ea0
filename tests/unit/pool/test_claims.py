"""Claims: by a machine's signed word a user becomes an admin, or receives what the machine earns."""

from __future__ import annotations

import pytest

from hivenode.encoding.claim import ClaimPurpose
from hivenode.encoding.records import encode_record
from hivenode.errors import Code
from hivenode.ledger.accounts import node_account
from hivenode.pool import invariants, queries
from hivenode.pool.commands import AdmitNode, ClaimAdmin, ClaimNode, RemoveNode
from hivenode.pool.events import NodeChanged
from hivenode.pool.records import NodeRights, UserRole
from tests.unit.pool.driver import GRANT, HIVE_ID, START_MS, Hive, node_id, signed_claim, signed_record

ADMIN = ClaimPurpose.ADMIN
NODE = ClaimPurpose.NODE


def admin(session: str, claim: bytes) -> ClaimAdmin:
    return ClaimAdmin(session_id=session, signed_claim=claim)


def owner(session: str, claim: bytes) -> ClaimNode:
    return ClaimNode(session_id=session, signed_claim=claim)


def test_machine_with_voter_right_makes_its_owner_an_admin() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.node(1)
    assert hive.do(admin(alice, signed_claim(1, "ALICE", ADMIN))).text == "alice"
    assert hive.role("alice") is UserRole.ADMIN
    invariants.check(hive.view)


def test_machine_without_voter_right_makes_nobody_an_admin() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.do(AdmitNode(signed_record=encode_record(signed_record(1)), rights=NodeRights.WORKER))
    hive.refused(admin(alice, signed_claim(1, "alice", ADMIN)), Code.PERMISSION_DENIED)
    assert hive.role("alice") is UserRole.USER


def test_claim_is_taken_once_and_older_ones_never() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.node(1)
    newer, older = (signed_claim(1, "alice", NODE, expires_ms=START_MS + ms) for ms in (600_000, 300_000))
    hive.do(owner(alice, newer))
    for used in (newer, older):
        assert "already" in hive.refused(owner(alice, used), Code.PERMISSION_DENIED).message
    hive.do(owner(alice, signed_claim(1, "alice", NODE, expires_ms=START_MS + 600_001)))


@pytest.mark.parametrize(
    ("claim", "code"),
    [
        (signed_claim(1, "bob", ADMIN), Code.PERMISSION_DENIED),
        (signed_claim(1, "alice", NODE), Code.PERMISSION_DENIED),
        (signed_claim(1, "alice", ADMIN, hive_id="cd" * 16), Code.PERMISSION_DENIED),
        (signed_claim(1, "alice", ADMIN, expires_ms=START_MS), Code.PERMISSION_DENIED),
        (signed_claim(1, "alice", ADMIN, expires_ms=START_MS + 3_600_001), Code.PERMISSION_DENIED),
        (signed_claim(1, "alice", ADMIN, signer=2), Code.PERMISSION_DENIED),
        (signed_claim(3, "alice", ADMIN), Code.NODE_NOT_FOUND),
        (b"rubbish", Code.PERMISSION_DENIED),
        (b"\0" * 2_000, Code.INVALID_ARGUMENT),
    ],
)
def test_claim_for_another_user_purpose_hive_time_or_machine_is_refused(claim: bytes, code: Code) -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.node(1)
    hive.node(2)
    hive.refused(admin(alice, claim), code)
    hive.refused(admin("nobody's", claim), Code.INVALID_SESSION)
    assert hive.role("alice") is UserRole.USER


def test_claim_of_a_machine_that_was_removed_is_refused() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.do(RemoveNode(node_id=hive.node(1), reason=""))
    hive.refused(admin(alice, signed_claim(1, "alice", ADMIN)), Code.NODE_NOT_FOUND)


def test_claim_holds_in_every_epoch_of_the_hive() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.node(1)
    hive.do(admin(alice, signed_claim(1, "alice", ADMIN, hive_id=f"{HIVE_ID}+1.0a1b2c3d")))


def test_claimed_machine_earns_for_its_owner_and_hands_over_what_it_had() -> None:
    hive = Hive()
    alice, bob = hive.user("alice"), hive.user("bob")
    node = hive.node(1)

    def work(task_id: str) -> int:
        hive.submit(bob, task_id)
        hive.assign("bob", task_id, node)
        hive.start("bob", task_id, node)
        hive.end("bob", task_id, node)
        task = queries.task(hive.view, "bob", task_id)
        assert task is not None
        assert task.paid > 0
        return task.paid

    earned = work("t1")
    assert queries.account_balance(hive.view, node_account(node)) == earned
    reply = hive.do(owner(alice, signed_claim(1, "alice")))
    assert (reply.text, reply.number) == (node, earned)
    assert hive.event(NodeChanged).node_id == node_id(1)
    assert hive.entry_of(1).owner == "alice"
    assert queries.account_balance(hive.view, node_account(node)) == 0
    assert hive.balance("alice") == GRANT + earned
    more = work("t2")
    assert hive.balance("alice") == GRANT + earned + more
    hive.do(owner(bob, signed_claim(1, "bob", expires_ms=START_MS + 700_000)))
    before = hive.balance("bob")
    work("t3")
    assert hive.balance("bob") == before
    invariants.check(hive.view)


def test_owner_stays_when_the_machine_signs_a_newer_record() -> None:
    hive = Hive()
    alice = hive.user("alice")
    hive.node(1)
    hive.do(owner(alice, signed_claim(1, "alice")))
    hive.do(AdmitNode(signed_record=encode_record(signed_record(1, sequence=2)), rights=NodeRights.VOTER))
    assert hive.entry_of(1).owner == "alice"
