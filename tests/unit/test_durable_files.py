"""Small files are whole after a crash anywhere: the new one or the old."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hivenode.durable_files import read_document, write_document
from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.runtime.errand import ERRAND_FILE, Errand
from hivenode.runtime.hive_end import TOMBSTONE_FILE, Tombstones
from hivenode.runtime.roster import Roster
from tests.support.parts import no_files_left

OLD, NEW = {"hive": "old"}, {"hive": "new", "more": "x" * 10_000}


class _CutError(OSError):
    """The power went."""


class _Disk:
    """Follows what a write does to the disk, and breaks it off before one of its steps."""

    def __init__(self, patch: pytest.MonkeyPatch, cut_before: int) -> None:
        self.steps: list[str] = []
        self._cut_before = cut_before
        sync, rename = os.fsync, Path.rename

        def fsync(descriptor: int) -> None:
            self._step("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
            sync(descriptor)

        def renamed(path: Path, target: Path) -> Path:
            self._step(f"rename {path.name} to {target.name}")
            return rename(path, target)

        patch.setattr(os, "fsync", fsync)
        patch.setattr(Path, "rename", renamed)

    def _step(self, what: str) -> None:
        if len(self.steps) == self._cut_before:
            raise _CutError
        self.steps.append(what)


def test_the_content_is_on_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _Disk(monkeypatch, cut_before=-1)
    write_document(tmp_path / "some.json", NEW)
    assert disk.steps == ["sync some.json.new", "rename some.json.new to some.json", f"sync {tmp_path.name}"]
    assert read_document(tmp_path / "some.json") == NEW
    assert (tmp_path / "some.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("cut_before", "found"), [(0, OLD), (1, OLD), (2, NEW)])
def test_a_write_that_breaks_off_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_before: int, found: dict[str, Any]
) -> None:
    path = tmp_path / "some.json"
    write_document(path, OLD)
    with monkeypatch.context() as patch:
        _Disk(patch, cut_before)
        with pytest.raises(_CutError):
            write_document(path, NEW)
    assert read_document(path) == found
    assert list(tmp_path.iterdir()) == [path]
    write_document(path, NEW)
    assert read_document(path) == NEW


def test_what_a_process_that_was_killed_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "some.json.new").write_text("half of i")
    write_document(tmp_path / "some.json", NEW)
    assert read_document(tmp_path / "some.json") == NEW


@pytest.mark.parametrize(("name", "reader"), [(TOMBSTONE_FILE, Tombstones), (ERRAND_FILE, Errand)])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, name: str, reader: type[Tombstones | Errand]) -> None:
    (tmp_path / name).touch()
    with pytest.raises(HiveError, match="remove it") as caught:
        reader(tmp_path)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert str(tmp_path / name) in caught.value.message


def test_an_errand_that_cannot_be_kept_is_none(tmp_path: Path) -> None:
    errand = Errand(tmp_path)
    with no_files_left(), pytest.raises(OSError, match="open files"):
        errand.begin("h" * 32, "10.0.0.1:5", "secret")
    assert (errand.hive_id, errand.token) == ("", "")


def test_an_errand_that_was_done_in_a_life_that_broke_off_is_ended_by_the_next(tmp_path: Path) -> None:
    before = Errand(tmp_path)
    before.begin("h" * 32, "10.0.0.1:5", "secret")
    before.set_aside()
    again = Errand(tmp_path)
    again.end("i" * 32)
    assert again.hive_id == "h" * 32
    again.end(f"{'h' * 32}+1.abcd")  # It was recovered meanwhile.
    assert again.hive_id == Errand(tmp_path).hive_id == ""
    assert not (tmp_path / ERRAND_FILE).exists()


def test_hives_that_dissolved_are_known_after_a_restart(tmp_path: Path) -> None:
    Tombstones(tmp_path).add("a" * 32, ("10.0.0.1:50052",))
    Tombstones(tmp_path).add("b" * 32, ("10.0.0.2:50052", "10.0.0.3:50052"))
    again = Tombstones(tmp_path)
    assert again.hive_ids == ("a" * 32, "b" * 32)
    assert again.last_target == ("10.0.0.2:50052", "10.0.0.3:50052")


def test_a_word_about_the_hive_that_could_not_be_kept_is_kept_the_next_time(tmp_path: Path) -> None:
    roster = Roster(tmp_path)
    told: dict[str, Any] = {"nodes": [NodeId("a" * 26)], "voters": [NodeId("a" * 26)], "addresses": {}}
    with no_files_left(), pytest.raises(OSError, match="open files"):
        roster.note("h" * 32, **told, voter_rights=True, index=3)
    assert roster.known
    assert not Roster(tmp_path).known
    roster.note("h" * 32, **told, voter_rights=True, index=4)
    assert Roster(tmp_path).nodes == {NodeId("a" * 26)}
