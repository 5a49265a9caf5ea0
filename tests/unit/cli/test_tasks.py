from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import grpc
import pytest

from hivenode.cli import peer
from hivenode.errors import Code
from hivenode.transport.pace import STALL_S
from tests.unit.cli.conftest import Invoke
from tests.unit.cli.small_hive import LOG, SmallHive, result_zip

SLOW_LINE_BITS_PER_S = 20_000


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "hello.py"
    path.write_text("print('hello')\n")
    return path


def test_script_goes_as_it_is_with_all_that_was_asked_for(hive: SmallHive, at_hive: Invoke, script: Path) -> None:
    result = at_hive(
        *("task", "run", str(script), "--id", "t1", "--priority", "high", "--memory-gb", "2", "--cpu-score", "3"),
        *("--gpu-score", "4", "--gpu-memory-gb", "5", "--gpu-name", "X", "--location", "Y", "--time-limit", "60"),
        *("--after", "a", "--after", "b", "--retries", "0", "--json"),
    )
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"task_id": "t1", "cpt_held": 5, "copies": 2}
    assert hive.uploads["t1"] == script.read_bytes()
    options = hive.options["t1"]
    assert (options.memory_gb, options.cpu_score, options.gpu_score, options.gpu_memory_gb) == (2, 3, 4, 5)
    assert (options.gpu_name, options.location, options.priority, options.time_limit_s) == ("X", "Y", "high", 60)
    assert list(options.dependencies) == ["a", "b"]
    assert options.HasField("retries")
    assert options.retries == 0


def test_script_with_a_wrong_line_is_refused_before_it_is_sent(hive: SmallHive, at_hive: Invoke, script: Path) -> None:
    script.write_text("print('hello')\nprint('hello'\n")
    result = at_hive("task", "run", str(script), "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["name"]) == (4, "INVALID_TASK")
    assert "line 2" in result.stdout
    assert not hive.uploads


@pytest.mark.parametrize("source", [b"\0", b"\xff", b"-" * 200_000 + b"1"], ids=["nul", "no text", "deep"])
def test_script_that_cannot_be_checked_here_is_sent(
    hive: SmallHive, at_hive: Invoke, script: Path, source: bytes
) -> None:
    script.write_bytes(source)
    assert at_hive("task", "run", str(script), "--id", "t").exit_code == 0
    assert hive.uploads["t"] == source


def test_folder_is_zipped_the_same_way_each_time(hive: SmallHive, at_hive: Invoke, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    (folder / "sub").mkdir(parents=True)
    (folder / "__pycache__").mkdir()
    (folder / "main.py").write_text("print(1)")
    (folder / "sub" / "data.txt").write_text("x")
    (folder / "__pycache__" / "main.pyc").write_text("x")
    for task_id in ("one", "two"):
        assert at_hive("task", "run", str(folder), "--id", task_id).exit_code == 0
    assert hive.uploads["one"] == hive.uploads["two"]
    with zipfile.ZipFile(io.BytesIO(hive.uploads["one"])) as archive:
        assert archive.namelist() == ["main.py", "sub/data.txt"]


def test_folder_with_a_symbolic_link_is_a_usage_error(hive: SmallHive, at_hive: Invoke, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "main.py").symlink_to("/etc/hostname")
    assert at_hive("task", "run", str(folder)).exit_code == 2
    assert not hive.uploads


def test_a_slow_line_brings_a_piece_before_the_hive_gives_the_upload_up(
    hive: SmallHive, at_hive: Invoke, tmp_path: Path
) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "main.py").write_text("print(1)")
    (folder / "data.bin").write_bytes(os.urandom(3 << 20))
    assert at_hive("task", "run", str(folder), "--id", "t1").exit_code == 0
    assert hive.piece_bytes_max * 8 / STALL_S <= SLOW_LINE_BITS_PER_S


def test_large_upload_arrives_whole_in_pieces(hive: SmallHive, at_hive: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    path.write_bytes(bytes(range(256)) * 14_000)
    assert at_hive("task", "run", str(path), "--id", "large").exit_code == 0
    assert hive.uploads["large"] == path.read_bytes()


def test_upload_that_broke_begins_again_under_the_same_key(hive: SmallHive, at_hive: Invoke, script: Path) -> None:
    hive.failures["after UploadTaskStream"] = [(grpc.StatusCode.UNAVAILABLE, None)]
    hive.keys.clear()
    assert at_hive("task", "run", str(script)).exit_code == 0
    assert len([key for key in hive.keys if key]) == 2
    assert len({key for key in hive.keys if key}) == 1


@pytest.mark.parametrize(("before", "exit_code"), [([], 3), ([(grpc.StatusCode.UNKNOWN, Code.OUTCOME_UNKNOWN)], 1)])
def test_upload_to_a_hive_without_leader_is_told_after_one_long_look_for_it(
    hive: SmallHive,
    at_hive: Invoke,
    script: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: list[tuple[grpc.StatusCode, Code | None]],
    exit_code: int,
) -> None:
    monkeypatch.setattr(peer, "LEADER_SOUGHT_S", 0.0)
    hive.failures["UploadTaskStream"] = [*before, (grpc.StatusCode.UNAVAILABLE, Code.NO_LEADER)]
    assert at_hive("task", "run", str(script)).exit_code == exit_code
    assert hive.uploads == {}


def test_waited_task_streams_its_log_and_unpacks_its_result(
    hive: SmallHive, at_hive: Invoke, script: Path, tmp_path: Path
) -> None:
    result = at_hive("task", "run", str(script), "--wait", "--output", "made/here")
    assert result.exit_code == 0
    assert result.stdout_bytes == LOG
    assert "task-1 COMPLETED · exit code 0 · ran 1.5 s" in result.stderr
    assert (tmp_path / "made/here/output/answer.txt").read_text() == "42"
    assert sorted(path.name for path in (tmp_path / "made/here").iterdir()) == ["log.txt", "output"]


def test_broken_watch_goes_on_from_the_byte_it_had(hive: SmallHive, at_hive: Invoke, script: Path) -> None:
    hive.breaks_at = [300, 500]
    result = at_hive("task", "run", str(script), "--wait")
    assert result.exit_code == 0
    assert result.stdout_bytes == LOG
    assert hive.offsets == [0, 300, 500]


@pytest.mark.parametrize("state", ["FAILED", "STOPPED"])
def test_waited_task_that_did_not_complete_ends_with_one(
    hive: SmallHive, at_hive: Invoke, script: Path, state: str
) -> None:
    hive.end_state = state
    result = at_hive("task", "run", str(script), "--wait", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["task"]["state"] == state
    assert document["task"]["exit_code"] == 3
    assert result.stderr.endswith("line 99\n")


def test_status_list_and_logs_of_a_task(hive: SmallHive, at_hive: Invoke, script: Path) -> None:
    at_hive("task", "run", str(script), "--id", "t1")
    assert "COMPLETED" in at_hive("task", "status", "t1").stdout
    assert json.loads(at_hive("task", "status", "t1", "--json").stdout)["attempt"] == 1
    assert "t1" in at_hive("task", "ls").stdout
    assert [task["task_id"] for task in json.loads(at_hive("task", "ls", "--json").stdout)["tasks"]] == ["t1"]
    assert at_hive("task", "logs", "t1").stdout_bytes == LOG
    assert at_hive("task", "logs", "-f", "t1").stdout_bytes == LOG
    assert json.loads(at_hive("task", "logs", "t1", "--json").stdout)["logs"] == LOG.decode()


def test_stopped_task_is_told_as_stopped(hive: SmallHive, at_hive: Invoke, script: Path) -> None:
    at_hive("task", "run", str(script), "--id", "t1")
    assert json.loads(at_hive("task", "stop", "t1", "--json").stdout)["state"] == "STOPPED"


def test_unknown_task_is_refused(at_hive: Invoke) -> None:
    result = at_hive("task", "status", "nothing")
    assert result.exit_code == 4
    assert "you have no task nothing: `hivenode task ls` lists your tasks" in result.stderr


def test_result_is_saved_whole_although_the_first_download_broke(
    hive: SmallHive, at_hive: Invoke, script: Path, tmp_path: Path
) -> None:
    at_hive("task", "run", str(script), "--id", "t1")
    hive.failures["within DownloadResult"] = [(grpc.StatusCode.UNAVAILABLE, Code.NODE_OFFLINE)]
    assert at_hive("task", "result", "t1").exit_code == 0
    assert (tmp_path / "t1.zip").read_bytes() == hive.result


def test_result_never_overwrites_what_is_there(at_hive: Invoke, script: Path, tmp_path: Path) -> None:
    at_hive("task", "run", str(script), "--id", "t1")
    (tmp_path / "t1.zip").write_text("precious")
    assert at_hive("task", "result", "t1").exit_code == 2
    assert at_hive("task", "result", "t1", "--output", str(tmp_path)).exit_code == 2
    assert (tmp_path / "t1.zip").read_text() == "precious"


def test_result_that_breaks_off_in_the_midst_leaves_no_half_file(
    at_hive: Invoke, hive: SmallHive, script: Path, tmp_path: Path
) -> None:
    whole = result_zip({"a.txt": b"the first", "b.txt": bytes(range(256)) * 4_096})
    hive.result = whole.replace(bytes(range(256)), bytes(256), 1)  # As it comes from a worker with a broken disk.
    at_hive("task", "run", str(script), "--id", "t1")
    assert at_hive("task", "result", "t1", "--output", "out").exit_code == 4
    assert list((tmp_path / "out").iterdir()) == []
    hive.result = whole
    assert at_hive("task", "result", "t1", "--output", "out").exit_code == 0
    assert (tmp_path / "out/a.txt").read_bytes() == b"the first"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:\\evil"])
def test_result_that_would_leave_its_folder_is_refused(
    hive: SmallHive, at_hive: Invoke, script: Path, tmp_path: Path, name: str
) -> None:
    hive.result = result_zip({name: b"x"})
    at_hive("task", "run", str(script), "--id", "t1")
    result = at_hive("task", "result", "t1", "--output", "out/deep/er", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["error"]["name"] == "BLOB_CORRUPT"
    assert not list(tmp_path.rglob("evil"))


def test_output_without_wait_is_a_usage_error(at_hive: Invoke, script: Path) -> None:
    assert at_hive("task", "run", str(script), "--output", "x").exit_code == 2
