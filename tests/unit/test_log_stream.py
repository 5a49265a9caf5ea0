"""The daemon's log on a disk that has no room for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hivenode.log_stream import log_stream
from tests.support.small_disks import fill, small_disk

SMALL_KIB = 256


def test_a_line_that_finds_no_room_is_lost_and_nobody_hears_of_it() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        os.write(descriptor, b"x")
    stream = log_stream(descriptor)
    stream.write("lost\n")
    stream.close()
    os.close(descriptor)


def test_after_half_a_line_the_next_one_begins_anew(tmp_path: Path) -> None:
    page = os.sysconf("SC_PAGESIZE")
    with small_disk(tmp_path / "disk", SMALL_KIB) as disk:
        descriptor = os.open(disk / "log", os.O_WRONLY | os.O_CREAT, 0o600)
        ballast = fill(disk, leave_bytes=page)
        stream = log_stream(descriptor)
        stream.write("x" * 2 * page + "\n")
        ballast.unlink()
        stream.write("whole\n")
        stream.close()
        os.close(descriptor)
        assert (disk / "log").read_text().splitlines() == ["x" * page, "whole"]


def test_lines_are_there_when_they_are_written_and_the_descriptor_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    stream = log_stream(descriptor)
    stream.write("one \udc80\n")
    assert path.read_text() == "one \\udc80\n"
    stream.write("two\n")
    stream.close()
    os.write(descriptor, b"three\n")
    os.close(descriptor)
    assert path.read_text().splitlines()[1:] == ["two", "three"]


def test_what_else_goes_wrong_is_told() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    stream = log_stream(descriptor)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        stream.write("no\n")
    os.close(descriptor)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        stream.close()
