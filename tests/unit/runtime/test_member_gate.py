"""Whose word counts in consensus: the table of `runtime.member_gate`, on a real agreed state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import Record, encode_record
from hivenode.pool.commands import AdmitNode, ApproveNode, DenyNode, RegisterForeignWorker, RemoveNode, RevokeNode
from hivenode.pool.events import NodeRemoved, NodeRevoked, StateReplaced
from hivenode.pool.nodes import find_node
from hivenode.pool.records import NodeRights
from hivenode.runtime import member_gate
from hivenode.runtime.member_gate import MemberGate
from tests.unit.pool.driver import Hive, capabilities, node_id, signed_record

HUGE = 2**62
NAMED_MAX, GIVERS_MAX = 20, 5
MYSELF = node_id(9)
ONE, TWO, THREE, FOUR = (node_id(number) for number in range(1, 5))


class Member:
    """A member's gate on a hive of its own, told of all that is applied."""

    def __init__(self, *inside: NodeId) -> None:
        self.hive = Hive()
        self.inside = frozenset(inside)
        self.is_inside = False
        self.gate = self.restarted()

    def restarted(self) -> MemberGate:
        """The gate of a process that knows what is on disk alone."""
        return MemberGate(
            MYSELF,
            "i9",
            view=lambda: self.hive.view,
            members=lambda: self.inside,
            is_member=lambda: self.is_inside,
            applied_index=lambda: self.applied,
        )

    @property
    def applied(self) -> int:
        return len(self.hive.log)

    def do(self, command: Record) -> None:
        self.hive.do(command)
        self.gate.applied(self.hive.events)

    def admit(self, number: int, rights: NodeRights = NodeRights.VOTER) -> None:
        self.do(AdmitNode(signed_record=encode_record(signed_record(number)), rights=rights))

    def hears(self, *nodes: NodeId) -> list[bool]:
        return [self.gate.takes_part(node) for node in nodes]


def test_voter_right_takes_part_and_worker_right_does_not() -> None:
    member = Member()
    assert member.hears(ONE) == [False]
    member.admit(1)
    member.admit(2, NodeRights.WORKER)
    assert member.hears(ONE, TWO) == [True, False]


def test_a_foreign_worker_takes_no_part_under_whatever_name() -> None:
    member = Member()
    session = member.hive.user("alice")
    member.do(RegisterForeignWorker(session_id=session, node_id=ONE, capabilities=capabilities(), port=9000))
    assert member.hears(ONE) == [False]


def test_a_removed_voter_takes_part_until_the_configuration_is_without_it() -> None:
    member = Member(ONE)
    member.admit(1)
    assert member.hears(ONE) == [True]
    member.do(RemoveNode(node_id=ONE, reason="its owner wants it back"))
    assert member.hears(ONE) == [True]
    member.inside = frozenset()
    assert member.hears(ONE) == [False]


def test_a_revoked_voter_takes_no_part_though_the_configuration_has_it() -> None:
    member = Member(ONE, TWO)
    member.admit(1)
    assert member.hears(ONE, TWO) == [True, True]
    member.do(RevokeNode(node_id=ONE, reason="not trusted"))
    member.do(DenyNode(node_id=TWO))
    assert member.hears(ONE, TWO) == [False, False]
    assert not member.gate.may_be_new(TWO)
    member.do(ApproveNode(node_id=TWO, rights=NodeRights.WORKER))
    assert member.hears(TWO) == [True]


@pytest.mark.parametrize("before", ["nothing", "worker", "removed"])
def test_a_word_for_somebody_counts_until_all_is_applied_that_it_rests_on(before: str) -> None:
    member = Member()
    member.admit(1)
    if before != "nothing":
        member.admit(2, NodeRights.WORKER)
    if before == "removed":
        member.do(RemoveNode(node_id=TWO, reason="out"))
    assert member.gate.may_be_new(TWO)
    member.gate.vouch(ONE, member.applied, [TWO])
    assert member.hears(TWO) == [False], "this member has applied as much as the one that says so"
    member.gate.vouch(ONE, member.applied + 2, [TWO])
    assert member.hears(TWO) == [True]
    member.admit(3)
    assert member.hears(TWO) == [True]
    member.admit(4)
    assert member.hears(TWO) == [False]


def test_one_that_was_revoked_is_heard_when_a_member_says_by_a_later_state_that_it_takes_part() -> None:
    member = Member()
    member.admit(1)
    member.do(DenyNode(node_id=TWO))
    member.gate.vouch(ONE, member.applied, [TWO])
    assert member.hears(TWO) == [False], "this member has applied as much as the one that says so"
    member.gate.vouch(ONE, member.applied + 2, [TWO])
    assert member.hears(TWO) == [True]
    member.admit(3)
    member.admit(4)
    assert member.hears(TWO) == [False], "it has applied all that the word rests on, and knows by itself"


def test_a_revocation_ends_a_word_that_was_given_before_whatever_that_claims_to_rest_on() -> None:
    member = Member()
    member.admit(1)
    member.admit(2)
    member.admit(3)
    member.gate.vouch(ONE, 1_000, [TWO, THREE])
    assert member.hears(TWO, THREE) == [True, True]
    member.do(RevokeNode(node_id=TWO, reason="not trusted"))
    assert member.hears(TWO, THREE) == [False, True]
    member.do(RemoveNode(node_id=THREE, reason="its owner wants it back"))
    assert member.hears(THREE) == [True], "a removal may be older than the word"
    member.do(DenyNode(node_id=THREE))
    assert member.hears(THREE) == [False]


def test_with_one_that_is_taken_out_goes_its_word_and_the_word_of_those_it_spoke_for() -> None:
    member = Member()
    member.admit(1)
    member.gate.vouch(ONE, 1_000, [TWO])
    member.gate.vouch(TWO, 1_000, [THREE])
    assert member.hears(TWO, THREE) == [True, True]
    member.do(RevokeNode(node_id=ONE, reason="not trusted"))
    assert member.hears(ONE, TWO, THREE) == [False, False, False]


def test_a_state_that_takes_the_place_of_this_one_ends_all_words_since_nothing_tells_what_lay_between() -> None:
    member = Member()
    member.admit(1)
    member.admit(2)
    assert member.hears(ONE, TWO) == [True, True]
    member.gate.vouch(TWO, 1_000, [FOUR])
    assert member.hears(FOUR) == [True]
    member.hive.do(RemoveNode(node_id=ONE, reason="out"))
    member.gate.applied((StateReplaced(index=member.applied),))
    assert member.hears(ONE, TWO, FOUR) == [False, True, False]


def test_words_are_of_bounded_size_and_none_pushes_out_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_gate, "NAMED_MAX", NAMED_MAX)
    monkeypatch.setattr(member_gate, "GIVERS_MAX", GIVERS_MAX)
    member = Member(ONE)
    member.gate.vouch(ONE, 1_000, [TWO])
    many = [NodeId(f"{number:026d}") for number in range(2 * NAMED_MAX)]
    member.gate.vouch(TWO, 1_000, many)
    assert sum(member.hears(*many)) == NAMED_MAX
    for giver in many[: 2 * GIVERS_MAX]:
        member.gate.vouch(giver, 1_000, [FOUR])
    assert len(member.gate._words) == GIVERS_MAX
    member.gate.vouch(ONE, 1_001, [TWO, THREE])
    assert member.hears(TWO, THREE, FOUR) == [True, True, True]


def test_words_that_count_no_more_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_gate, "GIVERS_MAX", GIVERS_MAX)
    member = Member(ONE)
    member.admit(2)
    givers = [NodeId(f"{number:026d}") for number in range(GIVERS_MAX)]
    member.gate.vouch(TWO, 1_000, givers)
    for giver in givers:
        member.gate.vouch(giver, 1_000, [FOUR])
    member.do(RevokeNode(node_id=TWO, reason="not trusted"))
    member.gate.vouch(ONE, 1_000, [THREE])
    assert member.hears(THREE, FOUR) == [True, False]


def test_nobody_speaks_for_itself_so_those_that_were_revoked_hold_up_none_of_each_other() -> None:
    member = Member()
    member.admit(1)
    member.do(DenyNode(node_id=TWO))
    member.gate.vouch(ONE, HUGE, [ONE, TWO])
    member.gate.vouch(TWO, HUGE, [ONE, TWO, THREE])
    member.gate.vouch(THREE, HUGE, [TWO, THREE])
    assert member.hears(ONE, TWO, THREE) == [True, True, True]
    member.do(RevokeNode(node_id=ONE, reason="it lied"))
    assert member.hears(ONE, TWO, THREE) == [False, False, False]
    member.gate.vouch(TWO, HUGE, [ONE])
    assert member.hears(ONE) == [False], "nor does one that is not heard"


def test_of_two_that_speak_for_a_third_one_goes_and_the_other_ones_word_and_index_stand() -> None:
    member = Member()
    member.admit(1)
    member.admit(2)
    honest = member.applied + 3
    member.gate.vouch(TWO, honest, [THREE])
    member.gate.vouch(ONE, HUGE, [THREE])
    member.do(RevokeNode(node_id=ONE, reason="it lied"))
    assert member.hears(THREE) == [True]
    for number in range(5, 5 + honest - member.applied):
        member.admit(number)
    assert member.hears(THREE) == [False]


def test_when_a_word_has_run_out_so_have_those_of_the_ones_it_named() -> None:
    member = Member()
    member.admit(1)
    member.gate.vouch(ONE, member.applied + 1, [TWO])
    member.gate.vouch(TWO, HUGE, [THREE])
    assert member.hears(TWO, THREE) == [True, True]
    member.admit(4)
    assert member.hears(TWO, THREE) == [False, False]


def test_a_joiner_hears_whom_the_hive_named_until_it_has_applied_as_much_or_is_in_the_configuration() -> None:
    member = Member()
    member.gate.offer(3, [ONE, TWO])
    assert member.hears(ONE, TWO, THREE) == [True, True, False]
    member.gate.vouch(ONE, HUGE, [THREE])
    assert member.hears(THREE) == [True]
    for number in (4, 5, 6):
        member.admit(number)
    assert member.hears(ONE, THREE) == [False, False]
    member.gate.offer(HUGE, [ONE])
    assert member.hears(ONE) == [True]
    member.is_inside = True
    assert member.hears(ONE) == [False], "whoever passed the offer on may have put in what it liked"


def test_what_the_hive_named_counts_against_no_revocation_that_is_newer_than_the_admission() -> None:
    member = Member()
    member.admit(1)
    member.do(AdmitNode(signed_record=encode_record(signed_record(9, incarnation="i9")), rights=NodeRights.VOTER))
    member.admit(2, NodeRights.WORKER)
    member.gate.offer(HUGE, [ONE, TWO, THREE])
    assert member.hears(ONE, TWO, THREE) == [True, True, True]
    member.do(RevokeNode(node_id=TWO, reason="a bad worker, through which this member came"))
    for _ in range(2):
        assert member.hears(ONE, TWO, THREE) == [True, False, True]
        member.gate.vouch(THREE, HUGE, [TWO, FOUR])
        assert member.hears(TWO, FOUR) == [False, True], "nor does the word of another that it put in"
        member.gate = member.restarted()
        member.gate.offer(HUGE, [ONE, TWO, THREE])
    member.do(RemoveNode(node_id=MYSELF, reason="its owner wants it back"))
    assert member.hears(TWO, THREE) == [False, True], "that it was let in is known of one that was taken out, too"
    member.gate.vouch(ONE, HUGE, [TWO])
    assert member.hears(TWO) == [True], "a member says so that this one knows by itself"
    member.gate.offer(HUGE + 1, [THREE])
    assert member.hears(TWO) == [True], "which whoever passes an offer on cannot undo"


def test_a_joiner_follows_one_that_was_revoked_and_let_in_again_through_what_came_before_itself() -> None:
    member = Member()
    member.gate.offer(1_000, [ONE])
    member.do(DenyNode(node_id=ONE))
    assert member.hears(ONE) == [True], "it leads, and this member has yet to apply that it was let in again"
    member.do(AdmitNode(signed_record=encode_record(signed_record(9, incarnation="i8")), rights=NodeRights.VOTER))
    assert member.hears(ONE) == [True], "that was another life of this member"


def test_what_the_hive_says_later_takes_the_place_of_older_words() -> None:
    member = Member()
    member.gate.offer(5, [ONE])
    member.gate.vouch(ONE, 6, [THREE])
    member.gate.vouch(ONE, 5, [TWO])
    member.gate.offer(6, [ONE])
    assert member.hears(ONE, TWO, THREE) == [True, False, False]


def test_of_many_words_that_of_one_that_is_known_finds_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_gate, "GIVERS_MAX", GIVERS_MAX)
    member = Member(ONE, TWO)
    liars = [NodeId(f"{number:026d}") for number in range(GIVERS_MAX)]
    member.gate.vouch(ONE, HUGE, liars)
    for liar in liars:
        member.gate.vouch(liar, HUGE, [THREE])
    member.gate.vouch(TWO, 1_000, [FOUR])
    assert member.hears(FOUR) == [True]
    assert len(member.gate._words) == GIVERS_MAX


@dataclass(frozen=True, slots=True)
class _Said:
    """Somebody's word, and how many entries the member had applied when it came."""

    by: NodeId
    index: int
    named: frozenset[NodeId]
    at: int


class _Model:
    """What the module's table says, from all that ever happened, without keeping anything up to date."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.said: list[_Said] = []
        self.out: list[tuple[int, NodeId, bool]] = []
        """When, who was taken out, and whether it was kept out."""

    def _stands(self, word: _Said, named: NodeId) -> bool:
        """Whether a word is the last one of its giver, has not run out, and nothing that was applied since ended it."""
        since = [(who, kept_out) for at, who, kept_out in self.out if at > word.at]
        return (
            word.index > self.member.applied
            and named in word.named - {word.by}
            and word is next(other for other in reversed(self.said) if other.by == word.by)
            and word.by not in [who for who, _ in since]
            and (named, True) not in since
        )

    def hears(self, node: NodeId, behind: frozenset[NodeId] = frozenset()) -> bool:
        view = self.member.hive.view
        entry = find_node(view, node)
        if entry is not None and entry.rights is NodeRights.VOTER:
            return True
        return any(
            self._stands(word, node) and self.hears(word.by, behind | {node})
            for word in self.said
            if word.by not in behind | {node}
        )


_WHO = st.integers(1, 4)
_ACTS = st.one_of(
    st.tuples(st.just("vouch"), _WHO, st.sampled_from([0, 1, 3, HUGE]), st.frozensets(_WHO, min_size=1)),
    st.tuples(st.sampled_from(["admit", "remove", "revoke", "deny", "approve"]), _WHO),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_ACTS, min_size=4, max_size=20))
def test_whatever_is_said_and_applied_those_are_heard_whom_the_table_names(acts: list[tuple[Any, ...]]) -> None:
    member = Member()
    member.admit(1)
    member.admit(2)
    model = _Model(member)
    for number, act in enumerate(acts):
        kind, who = act[0], node_id(act[1])
        match kind:
            case "vouch":
                index, named = member.applied + act[2], frozenset(map(node_id, act[3]))
                if index > member.applied and model.hears(who):
                    model.said.append(_Said(who, index, named, member.applied))
                member.gate.vouch(who, index, named)
                member.hive.events = ()
            case "admit":
                record = signed_record(act[1], sequence=number + 2, incarnation=f"i{number}")
                member.hive.send(AdmitNode(signed_record=encode_record(record), rights=NodeRights.VOTER))
            case "remove":
                member.hive.send(RemoveNode(node_id=who, reason=""))
            case "revoke":
                member.hive.send(RevokeNode(node_id=who, reason=""))
            case "deny":
                member.hive.send(DenyNode(node_id=who))
            case _:
                member.hive.send(ApproveNode(node_id=who, rights=NodeRights.VOTER))
        member.gate.applied(member.hive.events)
        for event in member.hive.events:
            if isinstance(event, NodeRemoved | NodeRevoked):
                model.out.append((member.applied, NodeId(event.node_id), isinstance(event, NodeRevoked)))
        for node in (ONE, TWO, THREE, FOUR):
            assert member.gate.takes_part(node) == model.hears(node)
