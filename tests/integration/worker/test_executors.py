"""What every executor that isolates must keep, tried with real programs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from hivenode.pool.records import AttemptOutcome
from tests.integration.worker.conftest import Bench

OUTCOME = AttemptOutcome


async def test_exit_code_of_the_program_is_told(bench: Bench) -> None:
    ended = await bench.run("import sys; sys.exit(3)")
    assert (ended.outcome, ended.exit_code) == (OUTCOME.EXITED, 3)
    ended = await bench.run("print('fine')")
    assert (ended.outcome, ended.exit_code, ended.reason, bench.output) == (OUTCOME.EXITED, 0, "", b"fine\n")


async def test_program_that_dies_of_a_signal_has_the_shells_exit_code(bench: Bench) -> None:
    ended = await bench.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert (ended.outcome, ended.exit_code) == (OUTCOME.EXITED, 137)


async def test_stdout_and_stderr_arrive_in_the_order_written(bench: Bench) -> None:
    await bench.run("import sys\nfor n in range(500):\n    print('out', n)\n    print('err', n, file=sys.stderr)\n")
    expected = "".join(f"out {n}\nerr {n}\n" for n in range(500))
    assert bench.output == expected.encode()


async def test_ten_thousand_lines_arrive_complete(bench: Bench) -> None:
    await bench.run("for n in range(10_000):\n    print('line', n)\n")
    assert bench.output == "".join(f"line {n}\n" for n in range(10_000)).encode()


async def test_last_words_without_a_newline_and_of_a_child_are_not_lost(bench: Bench) -> None:
    program = "import os, subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(1)'])\nos.write(2, b'end')\nos._exit(1)"
    ended = await bench.run(program)
    assert (ended.exit_code, bench.output) == (1, b"1\nend")


async def test_lines_can_be_read_while_the_program_runs(bench: Bench) -> None:
    running = asyncio.create_task(bench.run("print('here')\nimport time\ntime.sleep(60)\n"))
    await bench.said(b"here\n")
    assert not running.done()
    bench.stop.set()
    assert (await running).outcome is OUTCOME.STOPPED


async def test_silent_sleeper_is_stopped_within_two_seconds(bench: Bench) -> None:
    program = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up')\ntime.sleep(100)"
    running = asyncio.create_task(bench.run(program))
    await bench.said(b"up")
    bench.stop.set()
    ended = await asyncio.wait_for(running, 2)
    assert ended.outcome is OUTCOME.STOPPED


async def test_program_that_is_stopped_may_write_its_last_file(bench: Bench) -> None:
    program = (
        "import signal, sys, time\n"
        "def end(*_):\n    open('last', 'w').write('words')\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nprint('up')\ntime.sleep(100)\n"
    )
    running = asyncio.create_task(bench.run(program))
    await bench.said(b"up")
    bench.stop.set()
    assert (await running).outcome is OUTCOME.STOPPED
    assert (bench.task / "last").read_text() == "words"


async def test_nothing_of_a_task_outlives_it(bench: Bench) -> None:
    program = (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(4242)\n    os._exit(0)\n"
        "print('done')\n"
    )
    ended = await bench.run(program)
    assert (ended.outcome, bench.output) == (OUTCOME.EXITED, b"done\n")
    assert _processes_in(bench.task) == []


async def test_cancelled_run_leaves_nothing_running(bench: Bench) -> None:
    running = asyncio.create_task(bench.run("print('up')\nimport time\ntime.sleep(4242)"))
    await bench.said(b"up")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert _processes_in(bench.task) == []


async def test_task_has_no_network(bench: Bench) -> None:
    program = (
        "import socket\n"
        "print(sorted(name for _, name in socket.if_nameindex()))\n"
        "try:\n    socket.create_connection(('1.1.1.1', 53), 1)\nexcept OSError as error:\n    print('no way')\n"
    )
    await bench.run(program)
    lines = bench.output.decode().splitlines()
    assert lines[1] == "no way"
    assert "eth0" not in lines[0]


async def test_task_sees_nothing_of_the_machine(bench: Bench, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("private")
    program = (
        "import os\n"
        f"for path in ('/etc/shadow', '/root', '/home', {str(secret)!r}, {str(tmp_path)!r}, '/proc/1/root/etc/shadow'):\n"
        "    try:\n        os.listdir(path) if os.path.isdir(path) else open(path).close()\n        print('saw', path)\n"
        "    except OSError:\n        pass\n"
        "print(os.getuid(), os.getgid(), os.getgroups() in ([], [65534]), sorted(os.listdir('/task')))\n"
        "print(any('hive' in value.lower() for value in os.environ.values()))\n"
    )
    await bench.run(program)
    assert bench.output.decode().splitlines() == ["65534 65534 True ['main.py']", "False"]


async def test_only_the_task_folder_and_tmp_can_be_written(bench: Bench) -> None:
    program = (
        "import os\n"
        "for path in ('/x', '/etc/x', '/usr/local/lib/x', '/bin/x', '/dev/x', '/packages/x', '/proc/sys/kernel/hostname'):\n"
        "    try:\n        open(path, 'w').write('x')\n        print('wrote', path)\n    except OSError:\n        pass\n"
        "open('/tmp/x', 'w').write('x')\nopen('/task/x', 'w').write('x')\nprint('end')\n"
    )
    await bench.run(program)
    assert bench.output == b"end\n"


async def test_task_has_no_rights_to_gain(bench: Bench) -> None:
    program = (
        "import ctypes, os\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(int(status['CapEff'], 16), int(status['CapBnd'], 16), status['NoNewPrivs'].strip())\n"
        "print(ctypes.CDLL(None).unshare(0x10000000))\n"
    )
    await bench.run(program)
    assert bench.output.decode().split("\n")[:2] == ["0 0 1", "-1"]


async def test_memory_over_the_bound_ends_the_task(bench: Bench) -> None:
    ended = await bench.run("x = []\nwhile True:\n    x.append(bytearray(1 << 20))\n", memory_mib=64)
    if getattr(bench.executor, "holds", {"memory"}) >= {"memory"}:
        assert ended.outcome is OUTCOME.OUT_OF_MEMORY
    else:
        assert (ended.outcome, ended.exit_code) == (OUTCOME.EXITED, 1)
        assert b"MemoryError" in bench.output


async def test_child_killed_for_memory_is_told_though_the_program_exits_zero(bench: Bench) -> None:
    if not getattr(bench.executor, "holds", {"memory"}) >= {"memory"}:
        pytest.skip("this machine lacks memory control groups")
    program = (
        "import os\nif os.fork() == 0:\n    x = []\n    while True:\n        x.append(bytearray(1 << 20))\nos.wait()\n"
    )
    ended = await bench.run(program, memory_mib=64)
    assert (ended.outcome, ended.exit_code) == (OUTCOME.OUT_OF_MEMORY, 0)


async def test_fork_bomb_is_bounded(bench: Bench) -> None:
    program = (
        "import os, time\nmade = 0\n"
        "try:\n    while made < 1_000:\n        if os.fork() == 0:\n            time.sleep(60)\n            os._exit(0)\n"
        "        made += 1\nexcept OSError:\n    print(made)\n"
    )
    ended = await bench.run(program, pids_max=20)
    assert ended.exit_code == 0
    assert 10 <= int(bench.output) <= 22
    assert _processes_in(bench.task) == []


async def test_full_folder_ends_the_task(bench: Bench) -> None:
    one = await bench.run("f = open('x', 'wb')\nwhile True:\n    f.write(bytes(1 << 20))\n", disk_mib=5)
    assert one.outcome is OUTCOME.DISK_EXCEEDED
    program = "import time\nfor n in range(20):\n    open(f'x{n}', 'wb').write(bytes(1 << 20))\ntime.sleep(60)\n"
    many = await bench.run(program, disk_mib=5)
    assert many.outcome is OUTCOME.DISK_EXCEEDED


async def test_tmp_is_bounded_and_private(bench: Bench) -> None:
    program = "try:\n    open('/tmp/x', 'wb').write(bytes(8 << 20))\nexcept OSError as error:\n    print(error.errno)\n"
    await bench.run(program)
    assert bench.output == b"28\n"
    await bench.run("import os\nprint(os.listdir('/tmp'))")
    assert bench.output == b"[]\n"


async def test_time_limit_ends_the_task(bench: Bench) -> None:
    ended = await bench.run("while True:\n    pass\n", time_limit_s=1.0)
    assert ended.outcome is OUTCOME.TIMED_OUT
    assert "1 s" in ended.reason


async def test_output_over_the_bound_ends_the_task(bench: Bench) -> None:
    ended = await bench.run("while True:\n    print('x' * 1_000)\n", output_bytes=100_000)
    assert ended.outcome is OUTCOME.OUTPUT_EXCEEDED
    assert len(bench.output) == 100_000


async def test_packages_are_importable_and_read_only(bench: Bench, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    packages.chmod(0o755)
    (packages / "gift.py").write_text("WORD = 'hello'\n")
    program = (
        "import gift\nprint(gift.WORD)\ntry:\n    open('/packages/x', 'w')\nexcept OSError:\n    print('read-only')\n"
    )
    await bench.run(program, packages=packages)
    assert bench.output == b"hello\nread-only\n"


async def test_several_tasks_run_side_by_side(bench: Bench) -> None:
    others = [Bench(bench.executor, bench.folder) for _ in range(4)]
    ended = await asyncio.gather(*(each.run(f"print({n} * 111)") for n, each in enumerate(others)))
    assert [result.exit_code for result in ended] == [0] * 4
    assert [each.output for each in others] == [b"%d\n" % (n * 111) for n in range(4)]


async def test_task_can_use_the_standard_library_and_a_shell(bench: Bench) -> None:
    program = (
        "import ctypes, hashlib, json, lzma, multiprocessing, sqlite3, ssl, subprocess, zlib\n"
        "print(sqlite3.connect('x.db').execute('select 6*7').fetchone()[0])\n"
        "print(subprocess.run('echo hi', shell=True, capture_output=True, text=True).stdout.strip())\n"
        "with multiprocessing.Pool(2) as pool:\n    print(sum(pool.map(abs, [-1, -2])))\n"
    )
    ended = await bench.run(program)
    assert (bench.output, ended.exit_code) == (b"42\nhi\n3\n", 0)


def _processes_in(task: Path) -> list[int]:
    """Processes that have a task's folder as theirs."""
    found = []
    for process in psutil.process_iter():
        try:
            mounts = Path(f"/proc/{process.pid}/mountinfo").read_text()
        except OSError:
            continue
        if f"{task} /task " in mounts:
            found.append(process.pid)
    return found
