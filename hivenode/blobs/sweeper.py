"""The sweeper: removes blobs that no task names any more, as the data of refused submissions and copies of swept results.

Most go at once when the hive releases them; what is left behind by crashes, lost answers and copies on other nodes goes here.
A young blob is spared, since the command that will name it may still be on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from hivenode.blobs.store import DiskBlobStore

INTERVAL_S: Final = 600.0
"""What is swept is rare and costs disk alone."""
YOUNG_MS: Final = 3_600_000
"""Far longer than any upload's deadline."""

_log = structlog.get_logger(__name__)


class BlobSweeper:
    """See the module.

    Args:
        references: how many tasks name a blob by the agreed state as of now; None while this node cannot know.
        wall_ms: ms since 1970.
    """

    def __init__(
        self, *, store: DiskBlobStore, references: Callable[[str], int | None], wall_ms: Callable[[], int]
    ) -> None:
        self._store = store
        self._references = references
        self._wall_ms = wall_ms

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.sweep()

    async def sweep(self) -> int:
        """Looks at every blob once; returns how many were removed. What a machine out of files, or its disk, keeps from it waits
        for the next one."""
        oldest_ms = self._wall_ms() - YOUNG_MS
        removed = 0
        try:
            for held in await self._store.held():
                if held.stored_ms < oldest_ms and self._references(held.blob.sha256) == 0:
                    await self._store.delete(held.blob.sha256, spare_younger_s=YOUNG_MS // 1_000)
                    removed += 1
        except OSError as error:
            _log.warning("blobs cannot be swept for now", error=str(error))
        if removed:
            _log.info("blobs that no task names were removed", blobs=removed)
        return removed
