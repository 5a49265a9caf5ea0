"""What a client that floods at full speed costs another one: the other's calls with and without it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from typing import Any

import grpc

from tests.bench.load import run_load
from tests.bench.setting import NO_LIMIT, Setting, balance_callers, funded_users
from tests.e2e.user import USERS
from tests.support.daemons import hive

FLOOD = "/hive.HiveService/GetStatus"
AT_ONCE = 512
"""On one connection, twice what it may have under way."""
SECONDS = 8.0
"""Of each run: while the flood lasts a call takes long, and a shorter run would see none."""
END_DEADLINE_S = 10.0


def flood(setting: Setting) -> None:
    """GetBalance of one user at one daemon, while nobody else calls and while another client floods it."""
    with hive(setting.place("flood"), 1, "--executor", "none", settings=NO_LIMIT) as made:
        callers = balance_callers(funded_users(made[0], 1))

        def p99s() -> list[float]:
            loads = [
                run_load([made[0].api], f"{USERS}GetBalance", callers, seconds=SECONDS) for _ in range(setting.runs)
            ]
            return [load.ms(0.99) for load in loads]

        setting.report.compare("GetBalance of one user, p99, undisturbed", "ms", p99s())
        attacker = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.flood", made[0].api], stdout=subprocess.PIPE, text=True
        )
        try:
            assert attacker.stdout is not None
            attacker.stdout.readline()
            setting.report.compare("  while another client floods", "ms", p99s(), f"{AT_ONCE} calls at once")
        finally:
            attacker.kill()
            attacker.wait(END_DEADLINE_S)


async def _attack(target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        call: Any = channel.unary_unary(FLOOD)

        async def loop() -> None:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await call(b"")

        print("under way", flush=True)
        await asyncio.gather(*(loop() for _ in range(AT_ONCE)))


if __name__ == "__main__":
    asyncio.run(_attack(sys.argv[1]))
