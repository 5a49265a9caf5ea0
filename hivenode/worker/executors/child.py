"""A child process on the event loop, started without a copy of the daemon's memory map.

The event loop's own way forks: that copies the page tables of a daemon of 100 MB, and holds everything up for some 8 ms. The
standard library's `Popen` uses `vfork` where nothing has to run between fork and exec, which takes under 1 ms. Its end is told
by a pidfd, so nobody waits in a thread and no signal is needed. Linux only, as the sandbox is.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence


class Child:
    """A process in a session of its own, with nothing on stdin. Used on the event loop, from its thread.

    The thread matters: what dies with its parent dies with the thread that started it.

    Args:
        output: the descriptor for stdout and stderr.
        keep: a descriptor that stays open in the child, under its number.
    Raises: OSError when it cannot be started.
    """

    def __init__(self, command: Sequence[str], *, output: int, keep: int, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(keep,),
            cwd="/",
            env=environment,
            start_new_session=True,
        )
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        try:
            self._handle = os.pidfd_open(self._process.pid)
        except OSError:
            self._process.kill()
            self._process.wait()
            raise
        self._loop.add_reader(self._handle, self._reap)

    def _reap(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        # The pidfd says that it has ended, so this does not wait.
        code = self._process.wait()
        if not self._ended.done():
            self._ended.set_result(code)

    async def wait(self) -> int:
        """Its exit code, once it has ended; the negative number of the signal that ended it."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """SIGKILL; nothing when it has ended."""
        self._process.kill()
