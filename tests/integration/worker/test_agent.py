"""The agent with a real sandbox and real blobs: orders in, reports out, until they are closed."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from hivenode.blobs.store import DiskBlobStore
from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.pool.records import AttemptOutcome, BlobRef, TaskSpec
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    AttemptOrder,
    AttemptStarted,
    CloseOrder,
    PeerAddress,
    StopOrder,
    WorkerEvent,
    WorkerHeartbeat,
    WorkerHello,
    WorkerOrder,
)
from hivenode.worker.agent import OPEN_PER_SLOT, Agent
from hivenode.worker.executors.choice import ChosenExecutor, ExecutorChoice, ExecutorSettings, choose_executor
from hivenode.worker.resources import measure_capabilities
from hivenode.worker.settings import WorkerSettings
from tests.support.parts import no_files_left, require

DEADLINE_S = 30.0
ME = NodeId("a" * 26)
OTHER = NodeId("b" * 26)
SLEEPER = "print('up')\nimport time\ntime.sleep(4242)\n"


class Link:
    """A stream to a leader, as the agent sees it: two queues."""

    opened = True

    def __init__(self) -> None:
        self.events: asyncio.Queue[WorkerEvent] = asyncio.Queue()
        self.to_worker: asyncio.Queue[WorkerOrder | None] = asyncio.Queue()

    async def send(self, event: WorkerEvent) -> None:
        self.events.put_nowait(event)

    async def orders(self) -> AsyncIterator[WorkerOrder]:
        while (order := await self.to_worker.get()) is not None:
            yield order

    async def aclose(self) -> None:
        self.to_worker.put_nowait(None)

    async def next(self) -> WorkerEvent:
        """The next word of the worker that is no heartbeat."""
        async with asyncio.timeout(DEADLINE_S):
            while isinstance(event := await self.events.get(), WorkerHeartbeat):
                pass
        return event

    async def ended(self) -> AttemptEnded:
        while not isinstance(event := await self.next(), AttemptEnded):
            pass
        return event


class TwoNodes:
    """Copies in a hive whose other node takes them at once, or after some refusals."""

    def __init__(self, blobs: DiskBlobStore) -> None:
        self.blobs = blobs
        self.refusals = 0
        self.refusal: Exception = HiveError(Code.TOO_FEW_COPIES, "nobody is there")
        self.replicated: list[BlobRef] = []

    async def replicate(
        self, blob: BlobRef, *, preferred: Sequence[PeerAddress], deadline_s: float
    ) -> tuple[NodeId, ...]:
        if self.refusals:
            self.refusals -= 1
            raise self.refusal
        assert self.blobs.has(blob)
        self.replicated.append(blob)
        return (ME, OTHER)

    async def fetch(self, blob: BlobRef, holders: Sequence[PeerAddress], deadline_s: float) -> None:
        raise HiveError(Code.BLOB_NOT_FOUND, "no holder has it")


class Hive:
    """An agent with all that it needs, and a link to it."""

    def __init__(self, folder: Path, chosen: ChosenExecutor, slots: int = 2) -> None:
        self.folder = folder
        self.blobs = DiskBlobStore(folder / "blobs", 0)
        self.copies = TwoNodes(self.blobs)
        self.agent = Agent(
            settings=WorkerSettings(heartbeat_s=0.2),
            chosen=chosen,
            measured=measure_capabilities(location="", slots=slots),
            blobs=self.blobs,
            copies=self.copies,
            data_dir=folder,
        )
        self.serving: list[asyncio.Task[None]] = []
        self.orders = 0

    async def connect(self) -> tuple[Link, WorkerHello]:
        link = Link()
        self.serving.append(asyncio.create_task(self.agent.serve(link)))
        hello = await link.next()
        assert isinstance(hello, WorkerHello)
        return link, hello

    async def disconnect(self, link: Link) -> None:
        await link.aclose()
        await asyncio.wait_for(self.serving.pop(), DEADLINE_S)

    async def order(self, program: str | dict[str, str], *, time_limit_s: int = 60) -> AttemptOrder:
        members = {"main.py": program} if isinstance(program, str) else program
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)

        async def pieces() -> AsyncIterator[bytes]:
            yield buffer.getvalue()

        blob = await self.blobs.put(pieces(), size_bytes_max=1 << 20)
        self.orders += 1
        key = AttemptKey(user="ada", task_id=f"t{self.orders}", attempt=1)
        return AttemptOrder(key=key, data=blob, holders=(), spec=TaskSpec(time_limit_s=time_limit_s))

    async def content(self, blob: BlobRef | None) -> bytes:
        assert blob is not None
        return b"".join([piece async for piece in self.blobs.read(blob)])

    async def close(self) -> None:
        for task in self.serving:
            task.cancel()
        await asyncio.gather(*self.serving, return_exceptions=True)
        await self.agent.aclose()
        await self.blobs.aclose()


@pytest.fixture
async def make_hive(cache: Path, tmp_path: Path) -> AsyncIterator[Callable[..., Hive]]:
    settings = ExecutorSettings(choice=ExecutorChoice.SANDBOX, cache=cache, name=f"agent-{tmp_path.name[-20:]}")
    chosen = await choose_executor(settings)
    require(chosen.executor is not None, f"a working sandbox ({chosen.note})")
    made: list[Hive] = []

    def make(**options: int) -> Hive:
        made.append(Hive(tmp_path, chosen, **options))
        return made[-1]

    yield make
    for hive in made:
        await hive.close()


@pytest.fixture
async def hive(make_hive: Callable[..., Hive]) -> Hive:
    made = make_hive()
    await made.agent.start()
    return made


async def test_task_runs_from_order_to_close(hive: Hive) -> None:
    link, hello = await hive.connect()
    assert (hello.boot_id, hello.open, hello.capabilities.executor) == (hive.agent.boot_id, (), "sandbox")
    program = "import os\nos.mkdir('output')\nopen('output/a', 'w').write('result')\nprint('said')\n"
    order = await hive.order(program)
    await link.to_worker.put(order)
    assert await link.next() == AttemptStarted(key=order.key)
    ended = await link.ended()
    assert (ended.key, ended.outcome, ended.exit_code, ended.reason) == (order.key, AttemptOutcome.EXITED, 0, "")
    assert ended.holders == (ME, OTHER)
    assert await hive.content(ended.log) == b"said\n"
    with zipfile.ZipFile(io.BytesIO(await hive.content(ended.result))) as result:
        assert {name: result.read(name) for name in result.namelist()} == {"log.txt": b"said\n", "output/a": b"result"}
    assert set(hive.copies.replicated) == {ended.log, ended.result}
    assert hive.agent.hello().open == (order.key,)
    await link.to_worker.put(CloseOrder(key=order.key))
    await hive.disconnect(link)
    assert hive.agent.hello().open == ()
    assert list((hive.folder / "work").iterdir()) == []


async def test_a_machine_with_no_file_left_to_open_is_heard_all_the_same(tmp_path: Path) -> None:
    hive = Hive(tmp_path, ChosenExecutor(executor=None, docker_status="", note="none is wanted"))
    await hive.agent.start()
    link, _ = await hive.connect()
    with no_files_left():
        while not link.events.empty():
            link.events.get_nowait()
        heard = asyncio.ensure_future(link.events.get())
        await asyncio.wait({heard, *hive.serving}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
    assert heard.done()
    assert isinstance(heard.result(), WorkerHeartbeat)
    await hive.disconnect(link)
    await hive.close()


async def test_failed_exit_code_is_told(hive: Hive) -> None:
    link, _ = await hive.connect()
    await link.to_worker.put(await hive.order("import sys\nsys.exit(3)"))
    ended = await link.ended()
    assert (ended.outcome, ended.exit_code) == (AttemptOutcome.EXITED, 3)
    assert ended.result is not None


async def test_hostile_archive_is_the_tasks_own_fault(hive: Hive) -> None:
    link, _ = await hive.connect()
    await link.to_worker.put(await hive.order({"main.py": "", "../x": "out"}))
    ended = await link.ended()
    assert (ended.outcome, ended.result) == (AttemptOutcome.INVALID, None)
    assert "'../x'" in ended.reason


async def test_bad_requirements_are_the_tasks_own_fault(hive: Hive) -> None:
    link, _ = await hive.connect()
    await link.to_worker.put(await hive.order({"main.py": "", "requirements.txt": "--index-url http://x/"}))
    ended = await link.ended()
    assert ended.outcome is AttemptOutcome.INVALID
    assert "line 1" in ended.reason


async def test_data_that_no_holder_has_is_the_machines_fault(hive: Hive) -> None:
    link, _ = await hive.connect()
    order = await hive.order("")
    await hive.blobs.delete(order.data.sha256)
    await link.to_worker.put(order)
    ended = await link.ended()
    assert ended.outcome is AttemptOutcome.WORKER_FAULT
    assert "no holder has it" in ended.reason


async def test_running_task_is_stopped_and_its_log_kept(hive: Hive) -> None:
    link, _ = await hive.connect()
    order = await hive.order(SLEEPER)
    await link.to_worker.put(order)
    assert isinstance(await link.next(), AttemptStarted)
    async with asyncio.timeout(DEADLINE_S):
        async for piece in hive.agent.read_log(order.key, 0, True):
            if b"up" in piece:
                break
    await link.to_worker.put(StopOrder(key=order.key, discard=False))
    ended = await asyncio.wait_for(link.ended(), 2)
    assert ended.outcome is AttemptOutcome.STOPPED
    assert (await hive.content(ended.log)).startswith(b"up")


async def test_waiting_task_is_stopped_before_it_runs(hive: Hive) -> None:
    link, _ = await hive.connect()
    orders = [await hive.order(SLEEPER) for _ in range(3)]
    for order in orders:
        await link.to_worker.put(order)
    started = {(await link.next()).key, (await link.next()).key}  # type: ignore[union-attr]
    waiting = next(order for order in orders if order.key not in started)
    await link.to_worker.put(StopOrder(key=waiting.key, discard=False))
    ended = await link.ended()
    assert (ended.key, ended.outcome, ended.log) == (waiting.key, AttemptOutcome.STOPPED, None)


async def test_reports_are_said_again_on_a_new_link_until_they_are_closed(hive: Hive) -> None:
    link, _ = await hive.connect()
    short, long = await hive.order("print(1)"), await hive.order(SLEEPER)
    await link.to_worker.put(long)
    assert await link.next() == AttemptStarted(key=long.key)
    await hive.disconnect(link)
    await hive.agent.handle(short)
    async with asyncio.timeout(DEADLINE_S):
        assert b"".join([piece async for piece in hive.agent.read_log(short.key, 0, True)]) == b"1\n"
    link, hello = await hive.connect()
    assert set(hello.open) == {short.key, long.key}
    assert await link.next() == AttemptStarted(key=long.key)
    ended = await link.ended()
    assert ended.key == short.key
    await hive.disconnect(link)
    link, _ = await hive.connect()
    # Nobody has agreed on its start, which was said on no link.
    said = [await link.next() for _ in range(3)]
    assert said == [AttemptStarted(key=long.key), AttemptStarted(key=short.key), ended]
    await link.to_worker.put(CloseOrder(key=short.key))
    await hive.disconnect(link)
    link, hello = await hive.connect()
    assert hello.open == (long.key,)


async def test_end_of_a_task_that_never_ran_is_said_again_without_a_start(hive: Hive) -> None:
    link, _ = await hive.connect()
    order = await hive.order({"other.py": "print(1)"})
    await link.to_worker.put(order)
    ended = await link.ended()
    assert ended.outcome is AttemptOutcome.INVALID
    await hive.disconnect(link)
    link, _ = await hive.connect()
    assert await link.next() == ended


async def test_order_that_comes_twice_begins_once(hive: Hive) -> None:
    link, _ = await hive.connect()
    order = await hive.order("print(1)")
    await link.to_worker.put(order)
    ended = await link.ended()
    await link.to_worker.put(order)
    assert [await link.next(), await link.next()] == [AttemptStarted(key=order.key), ended]


async def test_discarded_attempt_is_killed_and_forgotten(hive: Hive) -> None:
    link, _ = await hive.connect()
    order, other = await hive.order(SLEEPER), await hive.order("print(2)")
    await link.to_worker.put(order)
    assert isinstance(await link.next(), AttemptStarted)
    following = asyncio.create_task(_all(hive.agent.read_log(order.key, 0, True)))
    await link.to_worker.put(StopOrder(key=order.key, discard=True))
    await asyncio.wait_for(following, DEADLINE_S)
    await link.to_worker.put(other)
    assert (await link.ended()).key == other.key
    assert hive.agent.hello().open == (other.key,)


async def test_stop_of_an_unknown_attempt_is_answered(hive: Hive) -> None:
    link, _ = await hive.connect()
    key = AttemptKey(user="ada", task_id="gone", attempt=1)
    await link.to_worker.put(StopOrder(key=key, discard=False))
    ended = await link.ended()
    assert (ended.key, ended.outcome) == (key, AttemptOutcome.STOPPED)
    with pytest.raises(HiveError) as caught:
        await _all(hive.agent.read_log(key, 0, True))
    assert caught.value.code is Code.TASK_NOT_FOUND


async def test_orders_over_the_bound_are_refused_as_busy(make_hive: Callable[..., Hive]) -> None:
    hive = make_hive(slots=1)
    await hive.agent.start()
    link, _ = await hive.connect()
    for _ in range(OPEN_PER_SLOT + 1):
        await link.to_worker.put(await hive.order(SLEEPER))
    ended = await link.ended()
    assert (ended.key.task_id, ended.outcome) == (f"t{OPEN_PER_SLOT + 1}", AttemptOutcome.WORKER_FAULT)
    assert "busy" in ended.reason


async def test_copies_are_tried_again_until_there_are_two(hive: Hive) -> None:
    hive.copies.refusals = 2
    link, _ = await hive.connect()
    await link.to_worker.put(await hive.order("print(1)"))
    assert (await link.ended()).holders == (ME, OTHER)


async def test_a_machine_out_of_files_when_a_result_is_to_be_copied_tries_again(tmp_path: Path) -> None:
    settings = ExecutorSettings(choice=ExecutorChoice.PROCESS, cache=tmp_path / "cache", name="process")
    hive = Hive(tmp_path, await choose_executor(settings))
    hive.copies.refusals = 2
    hive.copies.refusal = OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # As the blob's file is opened.
    await hive.agent.start()
    link, _ = await hive.connect()
    await link.to_worker.put(await hive.order("print(1)"))
    ending = asyncio.ensure_future(link.ended())
    await asyncio.wait({ending, *hive.serving}, return_when=asyncio.FIRST_COMPLETED)
    assert not hive.serving[0].done()  # It would end the daemon.
    assert (await ending).holders == (ME, OTHER)
    await hive.close()


async def test_leftovers_of_an_earlier_life_are_removed(make_hive: Callable[..., Hive], tmp_path: Path) -> None:
    (tmp_path / "work/abc/task").mkdir(parents=True)
    (tmp_path / "work/abc/task/link").symlink_to("/etc")
    hive = make_hive()
    await hive.agent.start()
    assert list((tmp_path / "work").iterdir()) == []
    _, hello = await hive.connect()
    assert hello.open == ()


async def test_machine_without_executor_says_why_it_takes_no_tasks(tmp_path: Path) -> None:
    settings = ExecutorSettings(choice=ExecutorChoice.NONE, cache=tmp_path / "cache", name="none")
    hive = Hive(tmp_path, await choose_executor(settings))
    await hive.agent.start()
    link, hello = await hive.connect()
    assert (hello.capabilities.slots, hello.capabilities.executor) == (0, "")
    assert "takes no tasks" in hello.capabilities.executor_note
    await link.to_worker.put(await hive.order("print(1)"))
    assert (await link.ended()).outcome is AttemptOutcome.WORKER_FAULT
    await hive.close()


async def test_heartbeats_come_while_the_link_stands(hive: Hive) -> None:
    link, _ = await hive.connect()
    async with asyncio.timeout(DEADLINE_S):
        assert isinstance(await link.events.get(), WorkerHeartbeat)
        assert isinstance(await link.events.get(), WorkerHeartbeat)


async def test_closing_the_agent_kills_what_runs(hive: Hive) -> None:
    link, _ = await hive.connect()
    order = await hive.order(SLEEPER)
    await link.to_worker.put(order)
    assert isinstance(await link.next(), AttemptStarted)
    await asyncio.wait_for(hive.agent.aclose(), 8)
    assert list((hive.folder / "work").iterdir()) == []


async def test_automatic_choice_takes_docker_where_an_engine_answers(
    cache: Path, docker_host: str, tmp_path: Path
) -> None:
    auto = ExecutorSettings(choice=ExecutorChoice.AUTO, cache=cache, name="choice", docker_host=docker_host)
    chosen = await choose_executor(auto)
    assert chosen.executor is not None
    assert (chosen.executor.name, chosen.docker_status) == ("docker", "enabled")
    await chosen.executor.aclose()


async def test_automatic_choice_takes_the_sandbox_where_no_engine_answers(cache: Path, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/no.sock"
    auto = ExecutorSettings(choice=ExecutorChoice.AUTO, cache=cache, name="choice", docker_host=nowhere)
    chosen = await choose_executor(auto)
    require(chosen.executor is not None, "a working sandbox")
    assert chosen.executor is not None
    assert (chosen.executor.name, chosen.docker_status) == ("sandbox", "disabled")
    await chosen.executor.aclose()


async def test_tasks_run_without_isolation_only_by_explicit_word(tmp_path: Path) -> None:
    settings = ExecutorSettings(choice=ExecutorChoice.PROCESS, cache=tmp_path / "cache", name="process")
    hive = Hive(tmp_path, await choose_executor(settings))
    await hive.agent.start()
    link, hello = await hive.connect()
    assert (hello.capabilities.executor, hello.capabilities.slots) == ("process", 2)
    await link.to_worker.put(await hive.order("import sys\nprint('here')\nsys.exit(5)"))
    ended = await link.ended()
    assert (ended.exit_code, await hive.content(ended.log)) == (5, b"here\n")
    await hive.close()


async def _all(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])
