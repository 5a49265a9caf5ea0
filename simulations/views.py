"""Agreed state in memory: an ordered map of bytes behind the `StateView` port, for the simulator and for tests."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Final

from sortedcontainers import SortedDict

_LENGTHS: Final = struct.Struct(">QQ")


def _prefix_end(prefix: bytes) -> bytes | None:
    """The least key that is greater than all keys with this prefix; None when there is no such key."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


class MemoryView:
    """A `StateView` over a sorted dict; it refuses a scan that goes on after a write, as the port forbids it."""

    def __init__(self, rows: dict[bytes, bytes] | None = None) -> None:
        self._rows: SortedDict[bytes, bytes] = SortedDict(rows or {})
        self._writes = 0

    @property
    def is_rotten(self) -> bool:
        """Whether some row cannot be read, since a bit of it flipped."""
        return False

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._writes += 1
        self._rows[key] = value

    def delete(self, key: bytes) -> None:
        self._writes += 1
        self._rows.pop(key, None)

    def scan(self, prefix: bytes, *, after: bytes = b"", reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        low, high = prefix, _prefix_end(prefix)
        low_included = True
        if after and reverse:
            high = after if high is None else min(high, after)
        elif after and after >= low:
            low, low_included = after, False
        if high is not None and high <= low:
            return
        writes = self._writes
        for key in self._rows.irange(low, high, (low_included, False), reverse):
            if self._writes != writes:
                raise RuntimeError("the state was written while it was scanned")
            yield key, self._rows[key]

    def overwrite(self, key: bytes, value: bytes) -> None:
        """Changes a value behind everybody's back, as a flipped bit does."""
        self._writes += 1
        self._rows[key] = value

    def replace(self, rows: dict[bytes, bytes]) -> None:
        """Other pairs instead of these."""
        self._writes += 1
        self._rows = SortedDict(rows)

    def rows(self) -> dict[bytes, bytes]:
        """A copy of all pairs, in key order."""
        return dict(self._rows)

    def copy(self) -> MemoryView:
        """An independent view with the same pairs."""
        return MemoryView(self.rows())

    def digest(self) -> bytes:
        """SHA-256 over all pairs, each with its lengths, so that two equal states and no others have the same."""
        parts: list[bytes] = []
        for key, value in self._rows.items():
            parts += (_LENGTHS.pack(len(key), len(value)), key, value)
        return hashlib.sha256(b"".join(parts)).digest()
