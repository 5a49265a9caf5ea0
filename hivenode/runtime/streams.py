"""Ending streams that may stand in the middle."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from hivenode.errors import HiveError

T = TypeVar("T")


@contextlib.asynccontextmanager
async def closing(pieces: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Closes the iterator at the end of the block when it is a generator; what it still has to say does not matter then."""
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            # A generator that another task still reads says RuntimeError: that task was cancelled, and ends it.
            with contextlib.suppress(HiveError, RuntimeError):
                await pieces.aclose()
