"""Work folders of hostile tasks."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from hivenode.worker.workspace import DEPTH_MAX, clear_folder, measure, remove_tree
from tests.support.parts import no_files_left


def dig(folder: Path, depth: int) -> None:
    """Folders nested deeper than any path can say."""
    back = os.open(".", os.O_RDONLY)
    try:
        os.chdir(folder)
        for _ in range(depth):
            os.mkdir("d" * 50)
            os.chdir("d" * 50)
        Path("bottom").write_bytes(b"x")
    finally:
        os.fchdir(back)
        os.close(back)


def test_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    dig(work, 1_500)
    (work / "link").symlink_to("/etc")
    os.mkfifo(work / "pipe")
    (work / "shut").mkdir(mode=0)
    remove_tree(work)
    assert list(tmp_path.iterdir()) == []
    remove_tree(work)


def test_links_out_of_a_tree_are_not_followed_by_its_removal(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_bytes(b"k")
    work = tmp_path / "work/task"
    work.mkdir(parents=True)
    (work / "out").symlink_to(kept)
    clear_folder(tmp_path / "work")
    assert (kept / "file").read_bytes() == b"k"
    assert list((tmp_path / "work").iterdir()) == []


def test_measure_counts_blocks_and_names_the_broken_bound(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(bytes(100_000))
    measured = measure(tmp_path, 1 << 20)
    assert 100_000 <= measured.size_bytes < 200_000
    assert measured.excess == ""
    assert "the bound is 50000" in measure(tmp_path, 50_000).excess


@pytest.mark.parametrize("files", [1, 2, 3])
def test_a_look_without_the_files_for_it_does_not_take_a_folder_for_empty(tmp_path: Path, files: int) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "much").write_bytes(bytes(2 << 20))
    with no_files_left(but=files), pytest.raises(OSError, match="open files"):
        measure(tmp_path, 1 << 20)
    assert measure(tmp_path, 1 << 20).excess


@pytest.mark.parametrize("files", [1, 2])
def test_a_machine_that_is_nearly_out_of_files_has_no_fewer_after_a_measurement(tmp_path: Path, files: int) -> None:
    """The last file is the folder itself, or one in it; their listings need another one for a moment."""
    (tmp_path / "a").mkdir()
    before = set(os.listdir("/proc/self/fd"))
    with no_files_left(but=files), contextlib.suppress(OSError):
        measure(tmp_path, 1 << 20)
    assert set(os.listdir("/proc/self/fd")) == before


def test_measure_finds_folders_that_hide_in_the_deep(tmp_path: Path) -> None:
    dig(tmp_path, DEPTH_MAX + 5)
    try:
        assert "deep" in measure(tmp_path, 1 << 30).excess
    finally:
        (tmp_path / ("d" * 50)).rename(tmp_path / "gone")
        remove_tree(tmp_path / "gone")
