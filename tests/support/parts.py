"""What a test needs of its machine: real parts, and the lack of files to open."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

import pytest


def require(condition: bool, what: str) -> None:
    """Skips the test when a part is missing on this machine, and names it; under CI=true every part must be there."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"this machine lacks {what}")
    pytest.skip(f"this machine lacks {what}")


@contextlib.contextmanager
def no_files_left() -> Iterator[None]:
    """This process can open no file while the block runs; what is open stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
