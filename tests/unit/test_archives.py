"""What a task may be, and what a result takes."""

from __future__ import annotations

import os
import random
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hivenode.archives import (
    ArchiveKind,
    ArchiveLimits,
    ResultLimits,
    TaskArchive,
    _walk,
    inspect_task,
    mark_files,
    pack_result,
    read_task,
    unpack_task,
)
from hivenode.errors import Code, HiveError
from tests.support.parts import no_files_left

_INSPECTION_CPU_S = 10
"""Of a child process, its imports and all: some 0.1 s when nothing is compiled, and minutes when the worst is."""
LIMITS = ArchiveLimits()
SMALL = ArchiveLimits(
    members_max=20, unpacked_bytes_max=1 << 20, ratio_floor_bytes=1 << 14, depth_max=4, path_bytes_max=100
)


def write_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def unhurried() -> None:
    """Lets a reading go on."""


def refusal(path: Path, limits: ArchiveLimits = LIMITS) -> str:
    with pytest.raises(HiveError) as caught:
        read_task(path, inspect_task(path, limits), limits, unhurried)
    assert caught.value.code is Code.INVALID_TASK
    return caught.value.message


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def unpacked(path: Path, tmp_path: Path, limits: ArchiveLimits = LIMITS) -> tuple[TaskArchive, Path]:
    target = tmp_path / "unpacked"
    target.mkdir()
    archive = inspect_task(path, limits)
    unpack_task(path, archive, target, limits)
    return archive, target


def test_zip_with_main_at_the_top_is_unpacked_with_plain_modes(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.zip", {"main.py": b"print(1)\n", "data/a.txt": b"a", "requirements.txt": b""})
    os.umask(os.umask(0o077))
    archive, target = unpacked(path, tmp_path)
    assert (archive.kind, archive.entry, archive.top, archive.has_requirements) == (
        ArchiveKind.ZIP,
        "main.py",
        "",
        True,
    )
    assert (archive.files, archive.unpacked_bytes) == (3, 10)
    assert tree(target) == {"main.py": b"print(1)\n", "data/a.txt": b"a", "requirements.txt": b""}
    assert stat.S_IMODE((target / "main.py").stat().st_mode) == 0o644
    assert stat.S_IMODE((target / "data").stat().st_mode) == 0o755


def test_single_top_folder_is_stripped(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.zip", {"job/": b"", "job/app.py": b"1", "job/sub/x": b"2", "__MACOSX/._x": b"junk"})
    archive, target = unpacked(path, tmp_path)
    assert (archive.top, archive.entry) == ("job/", "app.py")
    assert tree(target) == {"app.py": b"1", "sub/x": b"2"}


def test_entry_points_are_taken_in_the_documented_order(tmp_path: Path) -> None:
    names = ["main.py", "app.py", "run.py", "start.py"]
    for index, expected in enumerate(names):
        path = write_zip(tmp_path / f"{index}.zip", dict.fromkeys(reversed(names[index:]), b""))
        assert inspect_task(path, LIMITS).entry == expected


def test_bare_script_is_a_task(tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_bytes(b"\xef\xbb\xbfimport re\nre.compile('\\d')\n")
    archive, target = unpacked(path, tmp_path)
    assert (archive.kind, archive.entry, archive.files) == (ArchiveKind.SCRIPT, "main.py", 1)
    assert tree(target) == {"main.py": path.read_bytes()}


@pytest.mark.parametrize(
    "source",
    [b"", b"  \n", b"\xff\xfe\x00", b"print('a\0b')"],
    ids=["empty", "blank", "binary", "nul"],
)
def test_what_is_no_zip_and_no_script_is_refused(tmp_path: Path, source: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(source)
    assert "no ZIP and no Python script" in refusal(path)


@pytest.mark.parametrize(
    "source",
    [
        ("a" + "\u0301\u0323" * (LIMITS.script_bytes_max // 4 - 8) + "=1").encode(),
        b"def f():0\n" * (LIMITS.script_bytes_max // 10),
        b"-" * 200_000 + b"1",
        b"(" * 5_000,
        b"this is no python",
    ],
    ids=["marks", "functions", "deep", "brackets", "prose"],
)
def test_script_is_never_compiled_where_it_is_inspected(tmp_path: Path, source: bytes) -> None:
    """A compiler may need minutes or gigabytes for foreign text; where the task runs it is bounded."""
    path = tmp_path / "x"
    path.write_bytes(source)
    bounded = f"""if True:
        import resource
        from pathlib import Path
        from hivenode.archives import ArchiveLimits, inspect_task

        resource.setrlimit(resource.RLIMIT_CPU, ({_INSPECTION_CPU_S}, {_INSPECTION_CPU_S}))
        print(inspect_task(Path({str(path)!r}), ArchiveLimits()).entry)
    """
    done = subprocess.run([sys.executable, "-c", bounded], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "main.py\n", "")


def test_script_over_its_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"#" * (LIMITS.script_bytes_max + 1))
    assert str(LIMITS.script_bytes_max) in refusal(path)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("../x", ".."),
        ("a/../../x", ".."),
        ("/etc/passwd", "absolute"),
        ("C:/x", "drive"),
        ("c:x", "drive"),
        ("a\\..\\x", "backslash"),
        ("a//b", "empty part"),
        ("./a", "'.'"),
        ("a\nb", "control character"),
        ("x" * 256, "255"),
        ("/".join("a" * 40), "folders deep"),
    ],
)
def test_member_with_a_hostile_name_is_refused_by_name(tmp_path: Path, name: str, word: str) -> None:
    path = write_zip(tmp_path / "t.zip", {"main.py": b"", name: b"x"})
    message = refusal(path)
    assert word in message
    assert "member" in message


def test_nul_in_a_name_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.zip", {"main.py": b"", "aXb": b"x"})
    path.write_bytes(path.read_bytes().replace(b"aXb", b"a\0b"))
    assert "NUL" in refusal(path)


@pytest.mark.parametrize(
    ("kind", "word"),
    [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "plain"), (stat.S_IFCHR, "plain"), (stat.S_IFSOCK, "plain")],
)
def test_links_and_special_files_are_refused(tmp_path: Path, kind: int, word: str) -> None:
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("main.py", b"")
        member = zipfile.ZipInfo("out")
        member.create_system = 3
        member.external_attr = (kind | 0o777) << 16
        archive.writestr(member, b"/etc/passwd")
    assert word in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("main.py", b"1")
        archive.writestr("main.py", b"2")
    assert "twice" in refusal(path)


def test_file_that_is_a_folder_too_is_refused(tmp_path: Path) -> None:
    assert "folder of other members" in refusal(write_zip(tmp_path / "t.zip", {"main.py": b"", "a": b"", "a/b": b""}))


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.zip", {"main.py": b"1"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refusal(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, method: int) -> None:
    assert "only store and deflate" in refusal(write_zip(tmp_path / "t.zip", {"main.py": b"1"}, method))


def test_bomb_by_size_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.zip", {"main.py": b"", "a": random.Random(1).randbytes((1 << 20) + 1)})
    assert "the bound is 1048576" in refusal(path, SMALL)
    halves = {"main.py": b"", **{f"a{i}": random.Random(i).randbytes(1 << 19) for i in range(3)}}
    assert "The ZIP unpacks to 1572864 bytes" in refusal(write_zip(tmp_path / "u.zip", halves), SMALL)


def test_bomb_by_ratio_is_refused(tmp_path: Path) -> None:
    assert "times its packed size" in refusal(write_zip(tmp_path / "t.zip", {"main.py": b"", "a": bytes(10 << 20)}))


def test_bomb_by_ratio_of_many_small_members_is_refused(tmp_path: Path) -> None:
    members = {"main.py": b"", **{f"d{i}": bytes(1 << 20) for i in range(300)}}
    assert "times its size" in refusal(write_zip(tmp_path / "t.zip", members))


def test_member_that_unpacks_to_much_less_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.zip", {"main.py": b"", "a": b"x" * 200_000}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rfind(b"PK\x01\x02") + 24, 50_000)
    path.write_bytes(data)
    assert "twice as large packed" in refusal(path)


def test_bomb_by_count_is_refused(tmp_path: Path) -> None:
    members = {"main.py": b"", **{f"d{i}": b"" for i in range(SMALL.members_max)}}
    assert "more than 20 members" in refusal(write_zip(tmp_path / "t.zip", members), SMALL)


def test_bomb_by_folders_that_names_imply_is_refused(tmp_path: Path) -> None:
    """Each member needs four folders of its own."""
    members = {"main.py": b"", **{f"{n}/b/c/d/e": b"" for n in range(SMALL.members_max // 4)}}
    read_task(path := write_zip(tmp_path / "t.zip", members), inspect_task(path, SMALL), SMALL, unhurried)
    members |= {"x/b/": b"", "x/f": b""}
    assert "more than 20 folders" in refusal(write_zip(tmp_path / "u.zip", members), SMALL)


def test_directory_that_lies_about_its_count_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.zip", {"main.py": b"", **{f"d{i}": b"" for i in range(40)}})
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH", data, data.rfind(b"PK\x05\x06") + 8, 2, 2)
    path.write_bytes(data)
    assert "more than 20 members" in refusal(path, SMALL)


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    """One compressed block quoted by several directory entries, as in the non-recursive zip bombs."""
    path = write_zip(tmp_path / "t.zip", {"main.py": b"x" * 50, "aaaa.py": b"x" * 50})
    data = bytearray(path.read_bytes())
    second = data.rfind(b"PK\x01\x02")
    struct.pack_into("<I", data, second + 42, 0)
    path.write_bytes(data)
    assert "overlaps" in refusal(path)


def test_member_larger_than_it_says_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.zip", {"main.py": b"", "a": b"y" * 1_000})
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rfind(b"PK\x01\x02") + 24, 10)
    path.write_bytes(data)
    assert "damaged" in refusal(path)
    archive = inspect_task(path, LIMITS)
    target = tmp_path / "u"
    target.mkdir()
    with pytest.raises(HiveError):
        unpack_task(path, archive, target, LIMITS)
    assert all(len(data) <= 10 for data in tree(target).values())


def test_reading_ends_when_it_is_told_to(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.zip", {"main.py": b"", "a": bytes(1 << 20)})
    told = iter([None, None, None])
    with pytest.raises(StopIteration):
        read_task(path, inspect_task(path, LIMITS), LIMITS, lambda: next(told))


def test_damaged_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.zip", {"main.py": random.Random(3).randbytes(5_000)}, zipfile.ZIP_STORED)
    sound = path.read_bytes()
    flipped = bytearray(sound)
    flipped[2_000] ^= 1
    for data in (sound[:3_000], sound[:-5], bytes(flipped), b"PK\x03\x04", sound[:40] + sound):
        path.write_bytes(data)
        assert "damaged" in refusal(path)


@pytest.mark.parametrize("members", [{}, {"readme": b""}, {"a/main.py": b"", "b/x": b""}, {"a/b/main.py": b""}])
def test_zip_without_entry_point_is_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    assert "no entry point" in refusal(write_zip(tmp_path / "t.zip", members))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), at=st.integers(0, 400), cut=st.integers(0, 400), prefix=st.booleans())
def test_no_bytes_raise_anything_but_a_refusal(tmp_path: Path, data: bytes, at: int, cut: int, prefix: bool) -> None:
    path = write_zip(
        tmp_path / "t.zip", {"job/main.py": b"print(1)", "job/x": b"y" * 100, "job/requirements.txt": b"a"}
    )
    sound = path.read_bytes()
    mutated = b"PK\x03\x04" + data if prefix else sound[:at] + data + sound[at + len(data) : len(sound) - cut % 50]
    path.write_bytes(mutated)
    target = tmp_path / "u" / str(zlib.crc32(mutated))
    target.mkdir(parents=True, exist_ok=True)
    code = Code.INVALID_TASK
    try:
        unpack_task(path, inspect_task(path, SMALL), target, SMALL)
    except HiveError as error:
        code = error.code
    assert code is Code.INVALID_TASK


# --- results -------------------------------------------------------------------------------------------------------


def packed(
    tmp_path: Path, before: Mapping[str, bytes], work: Callable[[Path], None], limits: ResultLimits | None = None
) -> tuple[dict[str, bytes], int]:
    folder = tmp_path / "task"
    for name, data in before.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    bounds = limits or ResultLimits()
    marks = mark_files(folder, bounds)
    work(folder)
    log = tmp_path / "log"
    log.write_bytes(b"said\n")
    target = tmp_path / "result.zip"
    result = pack_result(folder, marks, log, target, bounds)
    with zipfile.ZipFile(target) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert result.files == len(content) - 1
    return content, result.left_out


def test_a_machine_that_is_out_of_files_leaves_none_of_a_result_out_in_silence(tmp_path: Path) -> None:
    """It cannot do it, and says so; the task runs again elsewhere."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"made")
    skipped: list[str] = []
    walk = _walk(tmp_path, 1, skipped)
    os.close(next(walk).descriptor)
    with no_files_left(), pytest.raises(OSError, match="Too many open files"):
        next(walk)
    assert skipped == []


@pytest.mark.parametrize("files", [1, 2])
def test_a_machine_that_is_nearly_out_of_files_has_no_fewer_after_looking_at_a_task(tmp_path: Path, files: int) -> None:
    """The last file is the folder itself, or one in it; their listings need another one for a moment."""
    (tmp_path / "a").mkdir()
    before = set(os.listdir("/proc/self/fd"))
    with no_files_left(but=files), pytest.raises(OSError, match="Too many open files"):
        mark_files(tmp_path, ResultLimits())
    assert set(os.listdir("/proc/self/fd")) == before


def test_result_holds_what_the_task_wrote_and_the_log(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        (folder / "new/deep").mkdir(parents=True)
        (folder / "new/deep/a").write_bytes(b"new")
        (folder / "input.csv").write_bytes(b"changed")
        (folder / "log.txt").write_bytes(b"the task's own")

    before = {"main.py": b"1", "input.csv": b"x", "output/kept": b"k"}
    content, left_out = packed(tmp_path, before, work)
    assert content == {
        "log.txt": b"said\n",
        "new/deep/a": b"new",
        "input.csv": b"changed",
        "output/kept": b"k",
        "log.task.txt": b"the task's own",
    }
    assert left_out == 0


def test_links_and_special_files_are_left_out_of_a_result_and_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"private")

    def work(folder: Path) -> None:
        (folder / "link").symlink_to(secret / "key")
        (folder / "folder").symlink_to(secret)
        os.mkfifo(folder / "pipe")
        (folder / "back\\slash").write_bytes(b"")
        (folder / "good").write_bytes(b"g")
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_bytes(b"")

    content, left_out = packed(tmp_path, {"main.py": b""}, work)
    assert content == {"log.txt": b"said\n", "good": b"g"}
    assert left_out == 5


def test_result_is_bounded_by_count_size_and_depth(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        for index in range(5):
            (folder / f"f{index}").write_bytes(b"x" * 10)
        (folder / "huge").write_bytes(b"x" * 1_000)
        (folder / "a/b/c/d").mkdir(parents=True)
        (folder / "a/b/c/d/e").write_bytes(b"deep")

    content, left_out = packed(tmp_path, {"main.py": b""}, work, ResultLimits(files_max=4, bytes_max=100, depth_max=2))
    assert sorted(content) == ["f0", "f1", "f2", "f3", "log.txt"]
    assert left_out == 3


def test_same_outputs_give_the_same_bytes(tmp_path: Path) -> None:
    def write_out(folder: Path) -> None:
        (folder / "out").write_bytes(b"o")

    results = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        packed(tmp_path / name, {"main.py": b""}, write_out)
        results.append((tmp_path / name / "result.zip").read_bytes())
    assert results[0] == results[1]
