from __future__ import annotations

import pytest

from hivenode.encoding.node_record import NodeId
from hivenode.membership.twins import Claim, TwinVerdict, addresses_to_ask, gives_way, judge


def claim(*addresses: str, log: str = "log1", instance: str = "", node: str = "ann") -> Claim:
    return Claim(node_id=NodeId(node), incarnation=log, addresses=addresses, instance=instance)


def test_a_node_that_tells_the_same_again_is_not_looked_for() -> None:
    assert addresses_to_ask(claim("a:1"), claim("a:1", "b:1")) == ()


def test_a_node_that_moved_is_looked_for_where_it_was() -> None:
    assert addresses_to_ask(claim("a:1", "b:1"), claim("b:1", "c:1")) == ("a:1",)


def test_a_node_without_its_log_is_looked_for_everywhere_also_where_it_is_now() -> None:
    assert addresses_to_ask(claim("a:1", "b:1"), claim("b:1", log="log2")) == ("a:1", "b:1")


def test_a_node_whose_former_self_is_silent_takes_its_place() -> None:
    assert judge(claim("a:1"), claim("b:1", log="log2"), []) is TwinVerdict.ALONE


def test_a_newcomer_is_a_twin_while_the_admitted_incarnation_answers() -> None:
    assert judge(claim("a:1"), claim("b:1", log="log2"), [claim("a:1", instance="x")]) is TwinVerdict.TWIN


def test_a_newcomer_that_itself_answers_at_the_old_address_is_no_twin() -> None:
    newcomer = claim("a:1", log="log2")
    assert judge(claim("a:1"), newcomer, [claim("a:1", log="log2", instance="x")]) is TwinVerdict.ALONE


def test_another_node_at_the_old_address_says_nothing() -> None:
    assert judge(claim("a:1"), claim("b:1"), [claim("a:1", node="bob", instance="x")]) is TwinVerdict.ALONE


def test_two_machines_with_one_log_differ_by_their_instance() -> None:
    old = [claim("a:1", instance="1")]
    assert judge(claim("a:1"), claim("b:1", instance="2"), old) is TwinVerdict.TWIN
    assert judge(claim("a:1"), claim("b:1", instance="1"), old) is TwinVerdict.ALONE
    assert judge(claim("a:1"), claim("b:1"), old) is TwinVerdict.UNDECIDED


@pytest.mark.parametrize(
    ("mine", "in_hive", "others", "other_in_hive", "way"),
    [
        ("2", False, "2", False, False),
        ("2", False, "1", False, True),
        ("1", False, "2", False, False),
        ("1", False, "2", True, True),
        ("2", True, "1", False, False),
        ("2", True, "1", True, True),
        ("2", False, "", True, False),
    ],
)
def test_of_two_that_meet_the_one_without_a_hive_then_the_later_gives_way(
    mine: str, in_hive: bool, others: str, other_in_hive: bool, way: bool
) -> None:
    assert gives_way(mine=mine, in_hive=in_hive, others=others, other_in_hive=other_in_hive) is way
    if others and mine != others:
        assert gives_way(mine=others, in_hive=other_in_hive, others=mine, other_in_hive=in_hive) is not way
