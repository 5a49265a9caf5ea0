"""The daemon's folder: what a crash left in it is never taken for a hive."""

from __future__ import annotations

from pathlib import Path

from hivenode.daemon import DataDirectory
from hivenode.storage.log_store import LogStore


def test_agreed_state_whose_log_is_gone_is_set_aside_and_kept(tmp_path: Path) -> None:
    for name in ("state", "state.1", "blobs"):
        (tmp_path / name).mkdir()
    (tmp_path / "log").mkdir()  # As a crash leaves it that falls between the removal of its files and its own.
    folder = DataDirectory(tmp_path)
    assert folder.lacks_log()
    backup = folder.set_hive_aside()
    assert backup is not None
    assert sorted(path.name for path in backup.iterdir()) == ["blobs", "log", "state", "state.1"]
    assert not folder.lacks_log()


def test_a_log_with_its_state_stays_where_it_is(tmp_path: Path) -> None:
    LogStore(tmp_path / "log").close()
    (tmp_path / "state").mkdir()
    assert not DataDirectory(tmp_path).lacks_log()
