"""What a test needs of its machine: real parts, and the lack of files to open."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import psutil
import pytest

from hivenode.transport.connection_shares import is_loopback


def require(condition: bool, what: str) -> None:
    """Skips the test when a part is missing on this machine, and names it; under CI=true every part must be there."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"this machine lacks {what}")
    pytest.skip(f"this machine lacks {what}")


def own_address() -> str:
    """An address of this machine that is not loopback; who comes from it is another machine to a daemon."""
    told = [one.address for of_one in psutil.net_if_addrs().values() for one in of_one if one.family == socket.AF_INET]
    found = [address for address in told if not is_loopback(address)]
    require(bool(found), "an IPv4 address that is not loopback")
    return found[0]


@contextlib.contextmanager
def no_files_left(but: int = 0) -> Iterator[None]:
    """This process can open no file, or no more than `but`, while the block runs; what is open stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(but)]  # The lowest numbers that there are.
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free, default=-1) + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
