"""Hives of many machines form, elect, lose a third and heal, and a node of them costs no more than one of a few."""

from __future__ import annotations

import pytest

from simulations.checkers.violation import Violation
from simulations.scale import Play, check_growth


def test_large_hives_lose_a_third_and_heal_and_a_node_of_them_costs_no_more_than_one_of_a_small_hive() -> None:
    plays = [Play(nodes, 1) for nodes in (20, 100, 300)]
    check_growth(plays)
    with pytest.raises(Violation):
        check_growth(plays[::-1])
    for play in plays:
        world = play.stage.world
        leader = play.stage.replica(play.stage.leader())
        conf = leader.status().conf
        assert (len(conf.voters), len(conf.learners)) == (5, 15)
        assert len(play.lost) == {20: 7, 100: 33, 300: 100}[play.nodes]
        assert all(node.worker is not None and node.worker.connected for node in world.nodes.values())
        assert sum(node.light for node in world.nodes.values()) == play.nodes - 20
        assert play.stage.elections >= 2
