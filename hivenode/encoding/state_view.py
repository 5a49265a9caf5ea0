"""The port through which pure machines read and write agreed state: an ordered map of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class ReadView(Protocol):
    """Agreed state as of one applied index, for reading."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        ...

    def scan(self, prefix: bytes, *, after: bytes = b"", reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """All pairs whose key starts with `prefix`, in key order.

        Args:
            prefix: the common start of the keys.
            after: only keys greater than this one (when `reverse`, only keys less than it); empty for all.
            reverse: from the greatest key down.
        The caller takes what it needs and drops the iterator; it must not write while it scans.
        """
        ...


class StateView(ReadView, Protocol):
    """Agreed state inside the application of one log entry; all writes of an entry become visible at once."""

    def put(self, key: bytes, value: bytes) -> None:
        """Sets a key."""
        ...

    def delete(self, key: bytes) -> None:
        """Removes a key; a missing one is no error."""
        ...
