"""Rows of agreed state, and of what a log says of itself, on disk: the value, then a checksum that covers the key as well.

A row that nobody writes lies for years, and its flipped bit would be read as a fact, go to others in a snapshot, and be outvoted
by nobody. So each row says whether it is what was written. CRC-32 finds every error of up to three bits in a row under 11 KiB
(Koopman, 32-bit cyclic redundancy codes for internet applications, 2002) and all but one in 2^32 of the others.
"""

from __future__ import annotations

import zlib
from typing import Final

from hivenode.errors import InvariantError

SEAL_BYTES: Final = 4


def seal(key: bytes, value: bytes) -> bytes:
    """The row to be written for a key: value and checksum (4 bytes, big-endian)."""
    return value + zlib.crc32(value, zlib.crc32(key)).to_bytes(SEAL_BYTES, "big")


def unseal(key: bytes, row: bytes, *, of: str = "agreed state") -> bytes:
    """The value of a row of the agreed state, or of something else.

    Raises:
        InvariantError: the row is not what was written under this key; the node must not go on with it.
    """
    value = row[:-SEAL_BYTES]
    if zlib.crc32(value, zlib.crc32(key)).to_bytes(SEAL_BYTES, "big") != row[-SEAL_BYTES:]:
        raise InvariantError(
            f"the row {key[:64]!r} of the {of} is not what was written: this node's disk or memory went wrong; "
            "it must not run again before its data directory was replaced"
        )
    return value
