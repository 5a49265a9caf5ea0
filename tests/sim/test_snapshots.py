"""Snapshots of simulated members."""

from __future__ import annotations

import pytest

from simulations import replica as replica_module
from simulations.engine import SECOND
from simulations.node import Node
from simulations.scenarios.stage import WELL_US, Stage


def test_a_copy_that_is_being_made_holds_up_no_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the daemon: the copy goes on with the state that it began with, and the log does not keep it."""
    stage = Stage(1, nodes=5, clients=12)
    away = stage.voters()[0]
    stage.cut([away], stage.others(away))
    stage.until(lambda: _is_beyond(stage, away), "the others have compacted what it lacks", 10 * WELL_US)
    monkeypatch.setattr(replica_module, "COPY_US", (600 * SECOND, 600 * SECOND))
    away.disk.log.snapshot_wanted = True
    stage.replica(away).wake()
    monkeypatch.undo()
    installed = stage.world.checks.installs
    stage.mend()
    stage.until(lambda: stage.world.checks.installs > installed, "it installs", WELL_US)
    assert "trace" in stage.finish()


def _is_beyond(stage: Stage, away: Node) -> bool:
    last = away.disk.log.last_index()
    return all(node is away or node.disk.log.first_index() > last + 1 for node in stage.world.present())
