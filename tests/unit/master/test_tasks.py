"""Submitting, viewing, stopping and results over the production state machine and real disks."""

from __future__ import annotations

import asyncio
import io
import os
import random
import sys
import traceback
import zipfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hivenode.errors import Code, HiveError
from hivenode.identity import Identity
from hivenode.pool import invariants, queries
from hivenode.pool.commands import Sweep, Transfer
from hivenode.pool.records import Needs, Priority, SessionRecord, TaskSpec, TaskState
from hivenode.runtime.ports import Submitted, UsageReport
from tests.support.local_agreement import GRANT
from tests.support.master_hive import DAY_MS, LEADER, SCRIPT, WORKER, Hive, call, zipped
from tests.support.replicas import until

LARGE_BYTES = 128 << 20
UPLOADS = 8
SPEC = TaskSpec()
USAGE = UsageReport(cpu=1, memory=1, gpu=0, gpu_memory=0)


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncIterator[Hive]:
    made = Hive(tmp_path)
    yield made
    await made.aclose()
    invariants.check(made.agreement.view())


@pytest.fixture
def ann(hive: Hive) -> SessionRecord:
    return hive.user("ann")


async def code_of(awaitable: object) -> Code:
    with pytest.raises(HiveError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.code


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1_000):
        yield data[start : start + 1_000]


async def blobs_of(hive: Hive) -> int:
    return len(await hive.store(LEADER).held())


async def test_a_submitted_task_is_agreed_on_and_lies_on_two_nodes(hive: Hive, ann: SessionRecord) -> None:
    submitted = await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    task = hive.task()
    assert (submitted.task_id, submitted.held, submitted.copies) == ("t", 5, 2)
    assert task.state is TaskState.PENDING
    assert task.data_holders == (LEADER.node_id, WORKER.node_id)
    assert hive.store(WORKER).path(task.data).read_bytes() == SCRIPT
    assert queries.balance(hive.agreement.view(), "ann") == GRANT - 5


async def test_a_streamed_zip_is_a_task_too(hive: Hive, ann: SessionRecord) -> None:
    data = zipped(main_py=SCRIPT)
    await hive.tasks.submit(ann, "t", stream(data), SPEC, call())
    assert hive.store(LEADER).path(hive.task().data).read_bytes() == data


async def test_a_task_without_id_gets_one_that_a_repetition_gets_again(hive: Hive, ann: SessionRecord) -> None:
    first = await hive.tasks.submit(ann, "", SCRIPT, SPEC, call("k"))
    again = await hive.tasks.submit(ann, "", SCRIPT, SPEC, call("k"))
    other = await hive.tasks.submit(ann, "", SCRIPT, SPEC, call("l"))
    bobs = await hive.tasks.submit(hive.user("bob"), "", SCRIPT, SPEC, call("k"))
    assert first.task_id.startswith("task-")
    assert len(first.task_id) == 21
    assert first == again
    assert len({first.task_id, other.task_id, bobs.task_id}) == 3


async def test_the_same_content_again_is_the_same_success(hive: Hive, ann: SessionRecord) -> None:
    first = await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    proposals = len(hive.agreement.proposals)
    assert await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call()) == first
    assert len(hive.agreement.proposals) == proposals
    assert await hive.tasks.submit(ann, "t", stream(SCRIPT), SPEC, call()) == first
    assert hive.store(LEADER).has(hive.task().data)


async def test_other_content_under_the_same_id_is_refused(hive: Hive, ann: SessionRecord) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    for data, spec in ((b"print(2)", SPEC), (SCRIPT, TaskSpec(priority=Priority.HIGH)), (stream(b"print(2)"), SPEC)):
        assert await code_of(hive.tasks.submit(ann, "t", data, spec, call())) is Code.TASK_EXISTS
    assert await blobs_of(hive) == 1


@pytest.mark.parametrize("data", [b"", b"\0\1\2", zipped(**{"other.txt": b"x"}), zipped(**{"../main.py": b""})])
async def test_what_is_no_task_is_refused_and_not_kept(hive: Hive, ann: SessionRecord, data: bytes) -> None:
    assert await code_of(hive.tasks.submit(ann, "t", data, SPEC, call())) is Code.INVALID_TASK
    assert await blobs_of(hive) == 0
    assert queries.balance(hive.agreement.view(), "ann") == GRANT


def damaged() -> bytes:
    """An archive that unpacks to `LARGE_BYTES` within all bounds, with a wrong check sum at its end."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("main.py", b"")
        archive.writestr("a", random.Random(1).randbytes(LARGE_BYTES // 150) + bytes(LARGE_BYTES))
    data = bytearray(whole.getvalue())
    sum_at = data.rfind(b"PK\x01\x02") + 16
    data = data.replace(data[sum_at : sum_at + 4], bytes(4))
    return bytes(data)


def reads_archives() -> bool:
    """Whether a thread looks at an archive."""
    named = {"inspect_task", "read_task"}
    stacks = [traceback.walk_stack(frame) for frame in sys._current_frames().values()]
    return any(frame.f_code.co_name in named for stack in stacks for frame, _ in stack)


@pytest.fixture
async def uploads(hive: Hive) -> AsyncIterator[list[asyncio.Task[Submitted]]]:
    """Damaged archives that somebody uploads, one of which is being looked at; one thread does what all wait for."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    mallory = hive.user("mallory")
    data = damaged()
    tasks = [asyncio.create_task(hive.tasks.submit(mallory, f"t{n}", data, SPEC, call())) for n in range(UPLOADS)]
    await until(lambda: reads_archives())
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_nobody_waits_for_the_archives_of_others(
    hive: Hive, ann: SessionRecord, uploads: list[asyncio.Task[Submitted]]
) -> None:
    assert (await hive.tasks.submit(ann, "t", zipped(main_py=SCRIPT), SPEC, call())).copies == 2
    await asyncio.to_thread(SCRIPT.strip)
    assert not all(task.done() for task in uploads)


async def test_inspections_end_with_the_daemon(hive: Hive, uploads: list[asyncio.Task[Submitted]]) -> None:
    await hive.tasks.aclose()
    assert {await code_of(task) for task in uploads} >= {Code.SHUTTING_DOWN}
    assert not reads_archives()


async def test_who_cannot_pay_uploads_nothing(hive: Hive, ann: SessionRecord) -> None:
    hive.user("bob")
    hive.agreement.run(Transfer(session_id=ann.session_id, receiver="bob", amount=GRANT - 4))

    read: list[bytes] = []

    async def upload() -> AsyncIterator[bytes]:
        read.append(SCRIPT)
        yield SCRIPT

    with pytest.raises(HiveError) as caught:
        await hive.tasks.submit(ann, "t", upload(), SPEC, call())
    assert read == []
    assert caught.value.code is Code.INSUFFICIENT_BALANCE
    assert "5 CPT; the balance is 4 CPT" in caught.value.message


async def test_an_upload_over_the_bound_is_refused(hive: Hive, ann: SessionRecord) -> None:
    assert await code_of(hive.tasks.submit(ann, "t", stream(bytes(1_100_000)), SPEC, call())) is Code.BLOB_TOO_LARGE
    assert await blobs_of(hive) == 0


@pytest.mark.parametrize(
    ("task_id", "spec"),
    [
        ("x" * 129, SPEC),
        ("a\0b", SPEC),
        ("t", TaskSpec(time_limit_s=0)),
        ("t", TaskSpec(needs=Needs(memory_gb=-1))),
        ("t", TaskSpec(dependencies=("a", "a"))),
    ],
)
async def test_a_wrong_specification_is_refused_before_the_upload(
    hive: Hive, ann: SessionRecord, task_id: str, spec: TaskSpec
) -> None:
    assert await code_of(hive.tasks.submit(ann, task_id, SCRIPT, spec, call())) is Code.INVALID_ARGUMENT
    assert await blobs_of(hive) == 0


async def test_a_refused_commit_deletes_the_data(hive: Hive, ann: SessionRecord) -> None:
    spec = TaskSpec(dependencies=("missing",))
    assert await code_of(hive.tasks.submit(ann, "t", SCRIPT, spec, call())) is Code.TASK_NOT_FOUND
    assert await blobs_of(hive) == 0


async def test_a_refused_commit_keeps_data_that_another_task_names(hive: Hive, ann: SessionRecord) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    spec = TaskSpec(dependencies=("missing",))
    assert await code_of(hive.tasks.submit(ann, "u", SCRIPT, spec, call())) is Code.TASK_NOT_FOUND
    assert hive.store(LEADER).has(hive.task().data)


async def test_a_refused_commit_keeps_data_that_a_submission_on_its_way_needs(hive: Hive, ann: SessionRecord) -> None:
    bad = TaskSpec(dependencies=("missing",))
    calls = [hive.tasks.submit(ann, f"t{n}", SCRIPT, bad if n % 2 else SPEC, call()) for n in range(12)]
    done = await asyncio.gather(*calls, return_exceptions=True)
    kept = queries.tasks_of(hive.agreement.view(), "ann", limit=100)
    assert sum(not isinstance(result, BaseException) for result in done) == len(kept)
    assert kept
    assert hive.store(LEADER).has(kept[0].data)


async def test_data_that_is_being_copied_for_one_submission_is_kept_when_another_is_refused(
    hive: Hive, ann: SessionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying, go_on = asyncio.Event(), asyncio.Event()
    store_blob = hive.network.store_blob

    async def slow_once(*args: Any) -> None:
        if not copying.is_set():
            copying.set()
            await go_on.wait()
        await store_blob(*args)

    monkeypatch.setattr(hive.network, "store_blob", slow_once)
    first = asyncio.create_task(hive.tasks.submit(ann, "t", SCRIPT, SPEC, call()))
    async with asyncio.timeout(10):
        await copying.wait()
        refused = hive.tasks.submit(ann, "u", SCRIPT, TaskSpec(dependencies=("missing",)), call())
        assert await code_of(refused) is Code.TASK_NOT_FOUND
        go_on.set()
        await first
    assert hive.store(LEADER).has(hive.task().data)


async def test_data_of_an_unknown_outcome_is_kept_and_the_repetition_succeeds(hive: Hive, ann: SessionRecord) -> None:
    hive.agreement.fail_next = HiveError(Code.OUTCOME_UNKNOWN, "perhaps")
    assert await code_of(hive.tasks.submit(ann, "t", SCRIPT, SPEC, call("k"))) is Code.OUTCOME_UNKNOWN
    assert hive.store(LEADER).has(hive.task().data)
    assert (await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call("k"))).held == 5


async def test_data_of_a_commit_that_may_still_come_is_kept(hive: Hive, ann: SessionRecord) -> None:
    hive.agreement.unknown_is_done = False
    hive.agreement.fail_next = HiveError(Code.OUTCOME_UNKNOWN, "perhaps")
    assert await code_of(hive.tasks.submit(ann, "t", SCRIPT, SPEC, call("k"))) is Code.OUTCOME_UNKNOWN
    assert await blobs_of(hive) == 1


async def test_without_a_leader_or_a_second_copy_nothing_is_kept(hive: Hive, ann: SessionRecord) -> None:
    hive.agreement.fail_next = HiveError(Code.NO_LEADER, "no leader")
    assert await code_of(hive.tasks.submit(ann, "t", SCRIPT, SPEC, call("k"))) is Code.NO_LEADER
    hive.network.dead.add(WORKER.node_id)
    assert await code_of(hive.tasks.submit(ann, "t", SCRIPT, SPEC, call("k"))) is Code.TOO_FEW_COPIES
    assert await blobs_of(hive) == 0
    hive.network.dead.clear()
    assert (await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call("k"))).copies == 2


async def test_an_upload_that_does_not_end_is_given_up_at_the_deadline(hive: Hive, ann: SessionRecord) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.Event().wait()

    assert await code_of(hive.tasks.submit(ann, "t", stuck(), SPEC, call(deadline_s=0.05))) is Code.OVERLOADED
    assert await blobs_of(hive) == 0


async def test_a_view_says_what_the_task_does_or_waits_for(hive: Hive, ann: SessionRecord) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    assert (await hive.tasks.view(ann, "t", call())).note == "waits for a machine (attempt 1)"
    hive.assign(start=False)
    assert WORKER.node_id in (await hive.tasks.view(ann, "t", call())).note
    hive.lose()
    assert "attempt 1 was given up: It is gone." in (await hive.tasks.view(ann, "t", call())).note
    hive.assign()
    await hive.end(exit_code=3)
    view = await hive.tasks.view(ann, "t", call())
    assert view.record.state is TaskState.FAILED
    assert "3" in view.note


async def test_nobody_sees_or_touches_the_tasks_of_others(hive: Hive, ann: SessionRecord) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    bob = hive.user("bob")
    for awaitable in (
        hive.tasks.view(bob, "t", call()),
        hive.tasks.log(bob, "t", call()),
        hive.tasks.result(bob, "t", call()),
        hive.tasks.stop(bob, "t", call()),
        anext(aiter(hive.tasks.watch(bob, "t", 0, 0))),
        hive.tasks.view(ann, "u" * 1_000, call()),
    ):
        assert await code_of(awaitable) is Code.TASK_NOT_FOUND
    assert await hive.tasks.views(bob) == []


async def test_a_listing_is_newest_first(hive: Hive, ann: SessionRecord) -> None:
    for name in ("a", "b", "c"):
        hive.agreement.clock_ms += 1
        await hive.tasks.submit(ann, name, SCRIPT, SPEC, call())
    assert [view.record.task_id for view in await hive.tasks.views(ann)] == ["c", "b", "a"]


async def test_a_stop_is_told_at_once_and_can_be_repeated(hive: Hive, ann: SessionRecord) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    for _ in range(2):
        assert (await hive.tasks.stop(ann, "t", call())).record.state is TaskState.STOPPED
    assert await code_of(hive.tasks.result(ann, "t", call())) is Code.TASK_CANCELLED
    assert await hive.tasks.log(ann, "t", call()) == b""
    assert queries.balance(hive.agreement.view(), "ann") == GRANT


async def test_an_ended_task_cannot_be_stopped(hive: Hive, ann: SessionRecord) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    hive.assign()
    await hive.end()
    assert await code_of(hive.tasks.stop(ann, "t", call())) is Code.INVALID_ARGUMENT


async def test_a_result_is_brought_here_once_the_task_has_ended(hive: Hive, ann: SessionRecord) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    assert await code_of(hive.tasks.result(ann, "t", call())) is Code.TASK_NOT_FINISHED
    hive.assign()
    assert await code_of(hive.tasks.result(ann, "t", call())) is Code.TASK_NOT_FINISHED
    await hive.end(result=b"the result", exit_code=1)
    for _ in range(2):
        stored = await hive.tasks.result(ann, "t", call())
        assert stored.path.read_bytes() == b"the result"
        assert stored.path.is_relative_to(hive.config.data_dir / LEADER.node_id)
        hive.network.dead.add(WORKER.node_id)  # It lies here now.


async def test_a_result_whose_holder_is_away_can_be_asked_for_again(hive: Hive, ann: SessionRecord) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    hive.assign()
    await hive.end()
    hive.network.dead.add(WORKER.node_id)
    assert await code_of(hive.tasks.result(ann, "t", call())) is Code.NODE_OFFLINE
    hive.network.dead.clear()
    assert (await hive.tasks.result(ann, "t", call())).path.read_bytes() == b"result"


async def test_a_stopped_task_has_its_result_when_the_worker_has_packed_it(hive: Hive, ann: SessionRecord) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    hive.assign()
    await hive.tasks.stop(ann, "t", call())
    assert await code_of(hive.tasks.result(ann, "t", call())) is Code.TASK_NOT_FINISHED
    await hive.end(result=b"partial")
    assert (await hive.tasks.result(ann, "t", call())).path.read_bytes() == b"partial"


@pytest.mark.parametrize("node", [WORKER, LEADER])
async def test_the_log_of_a_running_task_comes_from_its_worker_in_whole_lines(
    hive: Hive, ann: SessionRecord, node: Identity
) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    assert await hive.tasks.log(ann, "t", call()) == b""
    log = hive.assign(node)
    log.write(b"one\ntwo\nthr")
    assert await hive.tasks.log(ann, "t", call()) == b"one\ntwo\n"
    assert (WORKER.node_id in hive.network.calls[1:]) is (node is WORKER)


async def test_the_log_of_an_ended_task_comes_from_its_blob(hive: Hive, ann: SessionRecord) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    hive.assign()
    await hive.end(log=b"one\ntwo without an end")
    assert await hive.tasks.log(ann, "t", call()) == b"one\ntwo without an end"


async def test_a_worker_out_of_reach_is_told_and_the_state_all_the_same(hive: Hive, ann: SessionRecord) -> None:
    await hive.tasks.submit(ann, "t", SCRIPT, SPEC, call())
    hive.assign().forgotten = True
    assert await code_of(hive.tasks.log(ann, "t", call())) is Code.NODE_OFFLINE
    hive.network.silent.add(WORKER.node_id)
    assert await code_of(hive.tasks.log(ann, "t", call(deadline_s=0.05))) is Code.NODE_OFFLINE
    assert (await hive.tasks.view(ann, "t", call())).record.state is TaskState.RUNNING


async def test_only_the_owner_of_the_node_reports_on_its_attempt(hive: Hive, ann: SessionRecord) -> None:
    bob = hive.user("bob")
    await hive.tasks.submit(ann, "t", SCRIPT, TaskSpec(time_limit_s=120), call())
    hive.assign()
    assert await code_of(hive.tasks.report_running(bob, WORKER.node_id, "t", USAGE, call())) is Code.STALE_ATTEMPT
    hive.own(WORKER, "bob")
    assert await hive.tasks.report_running(bob, WORKER.node_id, "t", USAGE, call()) == 1
    hive.agreement.clock_ms += 600_000
    hive.user("carl")
    assert await hive.tasks.report_running(bob, WORKER.node_id, "t", USAGE, call()) == 2
    for session, node_id, task_id in (
        (ann, WORKER.node_id, "t"),
        (bob, LEADER.node_id, "t"),
        (bob, WORKER.node_id, "u"),
    ):
        refused = hive.tasks.report_running(session, node_id, task_id, USAGE, call())
        assert await code_of(refused) is Code.STALE_ATTEMPT
    await hive.end()
    assert await code_of(hive.tasks.report_running(bob, WORKER.node_id, "t", USAGE, call())) is Code.STALE_ATTEMPT


async def test_blobs_of_a_swept_task_are_deleted_unless_they_are_new(hive: Hive, ann: SessionRecord) -> None:
    hive.tasks.start()
    for name, script in (("t", SCRIPT), ("u", b"print(2)")):
        await hive.tasks.submit(ann, name, script, SPEC, call())
        await hive.tasks.stop(ann, name, call())
    old, new = hive.task(task_id="t").data, hive.task(task_id="u").data
    os.utime(hive.store(LEADER).path(old), (1, 1))
    hive.agreement.clock_ms += DAY_MS
    hive.agreement.run(Sweep(keep_tasks_ms=1_000, rows_max=100))
    for _ in range(10):  # Turns of the event loop: the names are gone before anything waits.
        await asyncio.sleep(0)
    assert not hive.store(LEADER).has(old)
    assert hive.store(LEADER).has(new)


async def test_a_disk_that_once_deletes_nothing_keeps_nothing_that_is_released_later(
    hive: Hive, ann: SessionRecord, tmp_path: Path
) -> None:
    hive.tasks.start()
    waiting = tmp_path / LEADER.node_id / "tmp"  # Where what is to be deleted is moved first.
    blobs = []
    for name in ("t", "u"):
        await hive.tasks.submit(ann, name, f"print({name!r})".encode(), SPEC, call())
        await hive.tasks.stop(ann, name, call())
        blobs.append(hive.task(task_id=name).data)
        os.utime(hive.store(LEADER).path(blobs[-1]), (1, 1))
        if name == "t":
            waiting.rmdir()
            waiting.touch()
        hive.agreement.clock_ms += 1_001
        hive.agreement.run(Sweep(keep_tasks_ms=1_000, rows_max=100))
        for _ in range(10):  # Turns of the event loop: the names are gone before anything waits.
            await asyncio.sleep(0)
        if name == "t":
            waiting.unlink()
            waiting.mkdir()
    assert [hive.store(LEADER).has(blob) for blob in blobs] == [True, False]
