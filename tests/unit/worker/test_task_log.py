"""The log of an attempt, written and followed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hivenode.errors import HiveError, Outcome
from hivenode.worker.task_log import TaskLog
from tests.support.parts import no_files_left


async def read(log: TaskLog, offset: int = 0, *, follow: bool = True) -> bytes:
    return b"".join([piece async for piece in log.read(offset, follow)])


async def test_follower_gets_everything_in_order_and_ends_when_the_log_is_finished(tmp_path: Path) -> None:
    log = TaskLog(tmp_path / "log", 1 << 20)
    following = asyncio.create_task(read(log))
    later = asyncio.create_task(read(log, 3))
    lines = [b"line %d\n" % number for number in range(2_000)]

    def write() -> None:
        for line in lines:
            log.append(line)

    await asyncio.to_thread(write)
    log.finish()
    assert await asyncio.wait_for(following, 5) == b"".join(lines)
    assert await asyncio.wait_for(later, 5) == b"".join(lines)[3:]
    log.close()
    assert await read(log) == b""


async def test_reading_without_following_ends_at_what_is_there(tmp_path: Path) -> None:
    log = TaskLog(tmp_path / "log", 1 << 20)
    log.append(b"abc")
    assert await read(log, 1, follow=False) == b"bc"
    log.close()


async def test_who_reads_a_log_while_the_machine_is_out_of_files_is_told_to_ask_again(tmp_path: Path) -> None:
    """A watcher does so; on a failure that it does not expect it would end."""
    log = TaskLog(tmp_path / "log", 1 << 20)
    log.append(b"abc")
    with no_files_left(), pytest.raises(HiveError) as caught:
        await read(log, follow=False)
    assert caught.value.outcome is Outcome.RETRY
    assert await read(log, follow=False) == b"abc"
    log.close()


async def test_log_that_was_moved_away_is_still_read(tmp_path: Path) -> None:
    log = TaskLog(tmp_path / "log", 1 << 20)
    log.append(b"abc")
    log.finish()
    (tmp_path / "log").rename(tmp_path / "elsewhere")
    assert await read(log) == b"abc"
    log.close()


async def test_output_over_the_bound_is_dropped_and_told(tmp_path: Path) -> None:
    log = TaskLog(tmp_path / "log", 5)
    log.append(b"12345")
    assert not log.halted.is_set()
    log.append(b"6")
    await asyncio.wait_for(log.halted.wait(), 5)
    assert log.exceeded
    assert log.path.read_bytes() == b"12345"
    log.close()
