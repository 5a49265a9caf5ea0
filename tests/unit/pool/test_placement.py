"""Which task goes where, and why one waits."""

from __future__ import annotations

from dataclasses import replace

from hivenode.encoding.node_record import NodeId
from hivenode.pool import queries
from hivenode.pool.commands import AssignTask
from hivenode.pool.placement import DATA_WORTH_BYTES, LiveNode, plan, why_impossible, why_pending
from hivenode.pool.records import BlobRef, Needs, Priority
from tests.unit.pool.driver import Hive, node_id, submission


def live(*numbers: int, leader: int = 0) -> dict[NodeId, LiveNode]:
    return {node_id(number): LiveNode(node_id=node_id(number), leads=number == leader) for number in numbers}


def carry_out(hive: Hive, planned: tuple[AssignTask, ...]) -> list[tuple[str, str]]:
    for command in planned:
        hive.do(command)
    return [(command.user, command.task_id) for command in planned]


def hive_with(*names: str) -> Hive:
    hive = Hive()
    for name in names or ("alice",):
        hive.user(name)
    return hive


def give(hive: Hive, task_id: str, user: str = "alice", **spec: object) -> None:
    hive.submit(f"session-of-{user}", task_id, **spec)


def test_nothing_is_planned_without_a_live_node_or_a_task() -> None:
    hive = hive_with()
    hive.node(1)
    assert plan(hive.view, live(1)) == ()
    give(hive, "t")
    assert plan(hive.view, {}) == ()
    assert plan(hive.view, live(2)) == ()


def test_earlier_task_goes_first() -> None:
    hive = hive_with()
    hive.node(1)
    for name in ("b", "a"):
        give(hive, name)
        hive.later(1)
    assert carry_out(hive, plan(hive.view, live(1))) == [("alice", "b"), ("alice", "a")]


def test_urgent_task_passes_what_is_a_little_older_and_nothing_else() -> None:
    hive = hive_with()
    hive.node(1)
    give(hive, "old")
    hive.later(130_000)
    give(hive, "fresh")
    hive.later(1_000)
    give(hive, "high", priority=Priority.HIGH)
    give(hive, "urgent", priority=Priority.URGENT)
    assert [task.task_id for task in queries.pending_tasks(hive.view, limit=9)] == ["old", "urgent", "high", "fresh"]
    assert [command.task_id for command in plan(hive.view, live(1))] == ["old", "urgent", "high", "fresh"]


def test_user_with_fewer_open_attempts_goes_first_within_a_minute() -> None:
    hive = hive_with("alice", "bob")
    hive.node(1, slots=3)
    for number in range(5):
        give(hive, f"a{number}")
    hive.later(10_000)
    give(hive, "b0", "bob")
    assert carry_out(hive, plan(hive.view, live(1))) == [("alice", "a0"), ("bob", "b0"), ("alice", "a1")]


def test_turn_of_others_does_not_reach_beyond_a_minute() -> None:
    hive = hive_with("alice", "bob")
    hive.node(1, slots=2)
    for number in range(2):
        give(hive, f"a{number}")
    hive.later(60_001)
    give(hive, "b0", "bob")
    assert carry_out(hive, plan(hive.view, live(1))) == [("alice", "a0"), ("alice", "a1")]


def test_long_queue_of_one_user_does_not_hide_the_task_of_another() -> None:
    hive = hive_with("alice", "bob")
    hive.node(1, slots=2)
    for number in range(50):
        give(hive, f"a{number}")
    give(hive, "b0", "bob")
    assert ("bob", "b0") in carry_out(hive, plan(hive.view, live(1), limit=2))


def test_task_that_fits_nowhere_does_not_stop_those_behind_it() -> None:
    hive = hive_with()
    hive.node(1)
    give(hive, "huge", needs=Needs(memory_gb=17))
    hive.later(200_000)
    give(hive, "small")
    assert carry_out(hive, plan(hive.view, live(1))) == [("alice", "small")]


def test_plan_counts_what_it_gives_itself_against_slots_and_memory() -> None:
    hive = hive_with()
    hive.node(1, slots=3, memory_gb=16)
    give(hive, "a", needs=Needs(memory_gb=12))
    give(hive, "b", needs=Needs(memory_gb=12))
    give(hive, "c", needs=Needs(memory_gb=4))
    give(hive, "d")
    give(hive, "e")
    assert carry_out(hive, plan(hive.view, live(1))) == [("alice", "a"), ("alice", "c"), ("alice", "d")]
    assert plan(hive.view, live(1)) == ()


def test_plan_keeps_to_its_limit() -> None:
    hive = hive_with()
    hive.node(1)
    for name in "abc":
        give(hive, name)
    assert len(plan(hive.view, live(1), limit=2)) == 2


def test_large_data_draws_its_task_to_where_it_lies_and_small_data_does_not() -> None:
    hive = hive_with()
    for number in (1, 2, 3):
        hive.node(number)
    for name, size_bytes in (("large", DATA_WORTH_BYTES), ("small", DATA_WORTH_BYTES - 1)):
        blob = BlobRef(sha256="ab"[name == "small"] * 64, size_bytes=size_bytes)
        hive.do(replace(submission("session-of-alice", name, data=blob), data_holders=(node_id(3),)))
        hive.later(1)
    large, small = plan(hive.view, live(1, 2, 3))
    assert (large.task_id, large.node_id) == ("large", node_id(3))
    assert small.node_id != node_id(3)


def test_node_is_chosen_by_free_share_then_not_the_leader_then_id() -> None:
    hive = hive_with()
    for number in (1, 2, 3):
        hive.node(number)
    give(hive, "t")
    least, second, _ = sorted((1, 2, 3), key=node_id)
    assert plan(hive.view, live(1, 2, 3, leader=least))[0].node_id == node_id(second)
    assert plan(hive.view, live(1, 2, 3))[0].node_id == min(node_id(1), node_id(2), node_id(3))
    hive.assign("alice", "t", node_id(1))
    give(hive, "u")
    assert plan(hive.view, live(1, 2))[0].node_id == node_id(2)


def test_task_goes_to_another_node_than_the_one_that_lost_it_when_there_is_one() -> None:
    hive = hive_with()
    hive.node(1)
    hive.node(2)
    give(hive, "t")
    lost = plan(hive.view, live(1, 2))[0].node_id
    hive.assign("alice", "t", lost)
    hive.lose("alice", "t", lost)
    (again,) = plan(hive.view, live(1, 2))
    assert (again.attempt, again.node_id != lost) == (2, True)
    only = next(number for number in (1, 2) if node_id(number) == lost)
    assert plan(hive.view, live(only))[0].node_id == lost


def test_gpu_name_and_location_are_met_without_regard_to_case() -> None:
    hive = hive_with()
    hive.node(1, gpu_name="NVIDIA GeForce RTX 3060", gpu_score=500, gpu_memory_gb=12, location="Taipei")
    hive.node(2)
    give(hive, "gpu", needs=Needs(gpu_name="rtx 3060", gpu_memory_gb=8), time_limit_s=60)
    give(hive, "near", needs=Needs(location="TAIPEI"))
    give(hive, "far", needs=Needs(location="Taip"))
    assert {(command.task_id, command.node_id) for command in plan(hive.view, live(1, 2))} == {
        ("gpu", node_id(1)),
        ("near", node_id(1)),
    }


def test_why_pending_names_the_need_that_no_live_node_meets() -> None:
    hive = hive_with()
    hive.node(1)
    give(hive, "t", needs=Needs(memory_gb=64), time_limit_s=60)
    task = hive.task("alice", "t")
    assert why_pending(hive.view, live(1), task) == "no live node has 64 GB of memory; the largest has 16"
    assert why_pending(hive.view, {}, task) == "no live node takes tasks"


def test_why_pending_says_when_only_all_needs_together_are_not_met() -> None:
    hive = hive_with()
    hive.node(1, memory_gb=64)
    hive.node(2, gpu_memory_gb=24)
    give(hive, "t", needs=Needs(memory_gb=32, gpu_memory_gb=8), time_limit_s=60)
    assert "all at once" in why_pending(hive.view, live(1, 2), hive.task("alice", "t"))


def test_why_pending_names_the_dependency() -> None:
    hive = hive_with()
    hive.node(1)
    give(hive, "a")
    give(hive, "b")
    give(hive, "t", dependencies=("a",))
    give(hive, "u", dependencies=("a", "b"))
    assert why_pending(hive.view, live(1), hive.task("alice", "t")) == "waits for task a"
    assert why_pending(hive.view, live(1), hive.task("alice", "u")) == "waits for task a and 1 more"


def test_why_pending_counts_the_taken_slots_and_the_place_in_the_queue() -> None:
    hive = hive_with()
    hive.node(1, slots=2)
    for name in ("a", "b", "c", "d"):
        give(hive, name)
    for name in ("a", "b"):
        hive.assign("alice", name, node_id(1))
    assert why_pending(hive.view, live(1), hive.task("alice", "d")) == (
        "all 2 slots that fit are taken (place 2 in the queue)"
    )


def test_why_pending_says_when_memory_is_taken() -> None:
    hive = hive_with()
    hive.node(1)
    give(hive, "a", needs=Needs(memory_gb=10), time_limit_s=60)
    hive.assign("alice", "a", node_id(1))
    give(hive, "b", needs=Needs(memory_gb=10), time_limit_s=60)
    assert why_pending(hive.view, live(1), hive.task("alice", "b")) == (
        "the memory of the node that could run it is taken (place 1 in the queue)"
    )


def test_what_no_node_of_the_hive_can_run_is_told_without_knowing_who_is_alive() -> None:
    hive = hive_with()
    give(hive, "t", needs=Needs(memory_gb=500), time_limit_s=60)
    give(hive, "small")
    large, small = (queries.task(hive.view, "alice", name) for name in ("t", "small"))
    assert large is not None
    assert small is not None
    assert why_impossible(hive.view, small) == "no node of the hive takes tasks"
    hive.node(1)
    assert why_impossible(hive.view, large).startswith("no node of the hive has 500 GB of memory; the largest has ")
    assert why_impossible(hive.view, small) == ""
