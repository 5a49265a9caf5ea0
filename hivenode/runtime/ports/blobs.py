"""Files named by their SHA-256, on this machine and on others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from hivenode.encoding.node_record import NodeId
from hivenode.pool.records import BlobRef
from hivenode.runtime.ports.agreement import PeerAddress


class BlobStore(Protocol):
    """This node's blobs: files named by the SHA-256 of their content, complete or absent."""

    def has(self, blob: BlobRef) -> bool: ...

    def path(self, blob: BlobRef) -> Path:
        """Raises BLOB_NOT_FOUND."""
        ...

    async def put(
        self, pieces: AsyncIterator[bytes], *, size_bytes_max: int, expected: BlobRef | None = None
    ) -> BlobRef:
        """Stores a stream and returns when file and folder are fsynced. BLOB_TOO_LARGE, BLOB_CORRUPT, DISK_FULL."""
        ...

    async def put_file(self, source: Path) -> BlobRef:
        """Moves a finished file of the same file system into the store."""
        ...

    def read(self, blob: BlobRef, offset: int = 0) -> AsyncIterator[bytes]: ...

    async def delete(self, sha256: str) -> None: ...


class BlobCopies(Protocol):
    """Blobs across nodes."""

    async def replicate(
        self, blob: BlobRef, *, preferred: Sequence[PeerAddress], deadline_s: float
    ) -> tuple[NodeId, ...]:
        """Copies a local blob until it lies on two nodes; all holders, this node first, which is enough where no other node
        has voter right. Raises TOO_FEW_COPIES."""
        ...

    async def fetch(self, blob: BlobRef, holders: Sequence[PeerAddress], deadline_s: float) -> None:
        """Brings a blob to this node, trying the holders in turn. Raises BLOB_NOT_FOUND, NODE_OFFLINE."""
        ...
