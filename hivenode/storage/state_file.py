"""The file of a snapshot: the agreed state in one checked sequence of bytes.

The file is named by its SHA-256 and holds, one after the other: magic; the header (4-byte length, then canonical
[version, hive id, [index, term, digest, configuration]]); the rows in key order, each with an 8-byte head that says the lengths
of key and value; a head that no row can have; the number of rows. All numbers are big-endian.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from hivenode.consensus import ConfState, MemberId, SnapshotMeta
from hivenode.encoding.canonical import DecodeError, decode, encode
from hivenode.errors import Code, HiveError
from hivenode.runtime.stores import SnapshotRef

MAGIC: Final = b"hivenode state\n"
VERSION: Final = 1
PIECE_BYTES: Final = 1 << 20
"""What is read, written or sent at once."""
SNAPSHOT_BYTES_MAX: Final = 64 << 30
"""No state outgrows its map."""
HEADER_BYTES_MAX: Final = 1 << 20
"""A configuration of a thousand members is 64 KiB."""
KEY_BYTES_MAX: Final = 511
"""LMDB's own bound."""
VALUE_BYTES_MAX: Final = 16 << 20
"""More than any command may be."""
_LENGTH: Final = struct.Struct(">I")
_HEAD: Final = struct.Struct(">II")
_COUNT: Final = struct.Struct(">Q")
_END: Final = _HEAD.pack(0xFFFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMark:
    """As of which entry a copy of the agreed state is, and what stands there beside the rows."""

    index: int
    term: int
    digest: bytes
    conf: ConfState

    def to_value(self) -> list[Any]:
        return [self.index, self.term, self.digest, _conf_value(self.conf)]

    @classmethod
    def of_value(cls, value: Any) -> StateMark:
        return cls(index=value[0], term=value[1], digest=value[2], conf=_conf_of(value[3]))


def _conf_value(conf: ConfState) -> list[Any]:
    parts = (conf.voters, conf.voters_outgoing, conf.learners, conf.learners_next)
    return [[sorted(part) for part in parts], conf.auto_leave]


def _conf_of(value: Any) -> ConfState:
    parts = [frozenset(MemberId(member) for member in part) for part in value[0]]
    return ConfState(
        voters=parts[0], voters_outgoing=parts[1], learners=parts[2], learners_next=parts[3], auto_leave=value[1]
    )


def damaged(what: str) -> HiveError:
    return HiveError(Code.BLOB_CORRUPT, f"the snapshot is damaged: {what}")


class HashedFile:
    """A file that is read or written once from its beginning, and its SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)
        self.size_bytes += len(data)

    def read(self, size_bytes: int) -> bytes:
        data = self._file.read(size_bytes)
        if len(data) != size_bytes:
            raise damaged("it ends too early")
        self._hash.update(data)
        self.size_bytes += size_bytes
        return data

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def write_state(file: HashedFile, hive_id: str, mark: StateMark, rows: Iterator[tuple[bytes, bytes]]) -> None:
    header = encode([VERSION, hive_id, mark.to_value()])
    file.write(MAGIC + _LENGTH.pack(len(header)) + header)
    count = waiting_bytes = 0
    waiting: list[bytes] = []
    for key, value in rows:
        waiting += (_HEAD.pack(len(key), len(value)), key, value)
        waiting_bytes += len(key) + len(value)
        count += 1
        if waiting_bytes >= PIECE_BYTES:
            file.write(b"".join(waiting))
            waiting, waiting_bytes = [], 0
    waiting += (_END, _COUNT.pack(count))
    file.write(b"".join(waiting))


def _read_header(file: HashedFile) -> tuple[str, StateMark]:
    if file.read(len(MAGIC)) != MAGIC:
        raise damaged("it is none")
    (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
    if length > HEADER_BYTES_MAX:
        raise damaged("its header is too long")
    try:
        value: Any = decode(file.read(length))
        version, hive_id, mark = value
        if version != VERSION:
            raise HiveError(Code.BLOB_CORRUPT, f"the snapshot is of version {version}: upgrade this node")
        return hive_id, StateMark.of_value(mark)
    except (DecodeError, TypeError, ValueError, IndexError) as error:
        raise damaged("its header cannot be read") from error


def _read_rows(file: HashedFile) -> Iterator[tuple[bytes, bytes]]:
    count, last = 0, None
    while True:
        key_bytes, value_bytes = head = _HEAD.unpack(file.read(_HEAD.size))
        if _HEAD.pack(*head) == _END:
            break
        if not 0 < key_bytes <= KEY_BYTES_MAX or value_bytes > VALUE_BYTES_MAX:
            raise damaged("a row has an impossible length")
        key = file.read(key_bytes)
        if last is not None and key <= last:
            raise damaged("its rows are out of order")
        last = key
        count += 1
        yield key, file.read(value_bytes)
    if _COUNT.unpack(file.read(_COUNT.size)) != (count,):
        raise damaged("rows are missing")


def read_state(
    file: HashedFile, hive_id: str, ref: SnapshotRef, meta: SnapshotMeta
) -> tuple[StateMark, Iterator[tuple[bytes, bytes]]]:
    """The mark and the rows of a received file; the iterator checks the whole file before it ends.

    Raises:
        HiveError: BLOB_CORRUPT when it is damaged, of another hive, or stands for another entry than was said.
    """
    found_id, mark = _read_header(file)
    if found_id != hive_id:
        raise damaged("it is of another hive")
    if (mark.index, mark.term, mark.conf) != (meta.index, meta.term, meta.conf):
        raise damaged("it stands for another entry than was said")
    return mark, _checked_rows(file, ref)


def _checked_rows(file: HashedFile, ref: SnapshotRef) -> Iterator[tuple[bytes, bytes]]:
    yield from _read_rows(file)
    if (file.sha256, file.size_bytes) != (ref.sha256, ref.size_bytes):
        raise damaged("its SHA-256 is another than was said")
