"""Passwords: Argon2id (RFC 9106) in two threads, with a bounded line before them. No password is kept, logged or shown."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import nacl.exceptions
from nacl.pwhash import argon2id

from hivenode.errors import Code, HiveError

PASSWORD_BYTES_MAX: Final = 1_024
"""Longer than any pass phrase; hashing cost does not grow with it."""
_OPERATIONS: Final = 2
_MEMORY_BYTES: Final = 32 << 20
"""With two passes some 40 ms on one core of 2024: a login is not felt, and a guess costs as much. RFC 9106 §4 names 64 MiB
with three passes; a small board that leads a hive has neither that memory to spare nor the seconds."""
_THREADS: Final = 2
"""At most 64 MiB and two cores are taken, however many log in."""
_WAITING_MAX: Final = 64
"""Some 1.5 s of work: who comes later would wait longer than people do, and is told at once."""

T = TypeVar("T")


class PasswordHashing:
    """Makes and checks password hashes off the event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="passwords")
        self._waiting = 0
        self._nobody = _hash(secrets.token_bytes(16))

    async def hash(self, password: str, deadline_s: float) -> str:
        """The Argon2id string of a new password. Raises INVALID_ARGUMENT, OVERLOADED."""
        data = _checked(password)
        return await self._run(lambda: _hash(data), deadline_s)

    async def matches(self, password: str, password_hash: str | None, deadline_s: float) -> bool:
        """Whether the password is the one of the hash; without a hash it is not, after the same time.

        Raises:
            HiveError: OVERLOADED; INVALID_ARGUMENT for what cannot be a password.
        """
        data = _checked(password)
        known = self._nobody if password_hash is None else password_hash
        matched = await self._run(lambda: _verify(known, data), deadline_s)
        return matched and password_hash is not None

    async def aclose(self) -> None:
        """Ends the threads, after the hash that each has begun."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def _run(self, work: Callable[[], T], deadline_s: float) -> T:
        if self._waiting >= _WAITING_MAX:
            raise _overloaded()
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        self._waiting += 1
        future.add_done_callback(self._one_less)
        try:
            async with asyncio.timeout(deadline_s):
                return await future
        except TimeoutError:
            raise _overloaded() from None

    def _one_less(self, _future: object) -> None:
        self._waiting -= 1


def _overloaded() -> HiveError:
    return HiveError(Code.OVERLOADED, "too many people register or log in at this moment: try again in a few seconds")


def _checked(password: str) -> bytes:
    """The bytes of a password that can be one; the refusal does not repeat it."""
    try:
        data = password.encode("utf-8")
    except UnicodeEncodeError:
        raise HiveError(Code.INVALID_ARGUMENT, "the password is not valid Unicode") from None
    if not 1 <= len(data) <= PASSWORD_BYTES_MAX:
        raise HiveError(Code.INVALID_ARGUMENT, f"the password must have 1 to {PASSWORD_BYTES_MAX} bytes")
    return data


def _hash(password: bytes) -> str:
    return argon2id.str(password, opslimit=_OPERATIONS, memlimit=_MEMORY_BYTES).decode("ascii")


def _verify(password_hash: str, password: bytes) -> bool:
    try:
        return argon2id.verify(password_hash.encode("utf-8"), password)
    except (nacl.exceptions.InvalidkeyError, nacl.exceptions.ValueError):
        return False
