"""Sending a stream of requests whose answer may come early, without losing what it says.

When a callee ends a call in the midst of an upload, gRPC's write under way fails, and grpc.aio then writes "Internal error from
Core" over the status that the callee sent, or the callee's status over that, whichever comes last. So the callee's own status
is kept from the moment it arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, TypeVar

import grpc

from hivenode.transport.metadata import Metadata

STATUS_WAIT_S: Final = 1.0
"""The status is under way when a write fails, unless the connection broke; then this is all that is lost."""
_CORE_FAILURE: Final = "Internal error from Core"

T = TypeVar("T")


def _now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that does not wait, as those of a finished call."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise asyncio.InvalidStateError("the call has not finished")


def _is_from_core(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == _CORE_FAILURE


class Upload:
    """One call that sends a stream and receives one answer.

    Args:
        call: as returned by a stream-unary method called without an iterator.
        stall_s: seconds that one piece may take; None for the call's own deadline.
    """

    def __init__(self, call: Any, stall_s: float | None) -> None:
        self._call = call
        self._stall_s = stall_s
        self._ended = asyncio.Event()
        self._said: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        """Keeps the callee's status; called for every status that is set on the call."""
        code = _now(call.code())
        error = grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), _now(call.trailing_metadata()) or grpc.aio.Metadata(), _now(call.details())
        )
        if not _is_from_core(error):
            self._said = error if code is not grpc.StatusCode.OK else None
            self._ended.set()

    async def send(self, pieces: AsyncIterator[bytes]) -> tuple[bytes, Metadata]:
        """Sends all pieces; the answer and its trailing metadata.

        Raises:
            grpc.aio.AioRpcError: what the callee said. TimeoutError: the callee takes nothing for `stall_s`.
        """
        try:
            await self._write_all(pieces)
            async with asyncio.timeout(self._stall_s):
                response: bytes = await self._call
            return response, tuple(await self._call.trailing_metadata() or ())
        except grpc.aio.AioRpcError as error:
            if not _is_from_core(error):
                raise
            try:
                async with asyncio.timeout(STATUS_WAIT_S):
                    await self._ended.wait()
            except TimeoutError:
                raise error from None
            raise self._said or error from None

    async def _write_all(self, pieces: AsyncIterator[bytes]) -> None:
        try:
            async for piece in pieces:
                async with asyncio.timeout(self._stall_s):
                    await self._call.write(piece)
            await self._call.done_writing()
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            pass  # the callee ended the call early: its answer says why
