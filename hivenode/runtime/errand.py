"""What the owner told this node to do next: join that hive and no other, perhaps by a join token. A file in the data directory,
0600 as the token is a secret, until it is done.

It is written before the old hive is given up. `set_aside` says that what the node had of that hive is out of the way; after a
crash before that the next start does it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hivenode.durable_files import read_document, sync_folder, write_document
from hivenode.encoding.recovery import base_of

ERRAND_FILE: Final = "join.json"


class Errand:
    """See the module; `hive_id` is empty when there is none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ERRAND_FILE
        self.hive_id, self.address, self.token, self.is_set_aside = "", "", "", True
        if (found := read_document(self._path)) is not None:
            self.hive_id, self.address, self.is_set_aside = found["hive_id"], found["address"], found["set_aside"]
            self.token = found.get("token", "")

    def begin(self, hive_id: str, address: str, token: str = "") -> None:
        """Keeps the errand. Blocks for the fsync. Raises OSError, and then there is none but that of before."""
        self._write(hive_id, address, token, is_set_aside=False)
        self.hive_id, self.address, self.token, self.is_set_aside = hive_id, address, token, False

    def set_aside(self) -> None:
        """The old hive's folders are out of the way. Blocks for the fsync."""
        self._write(self.hive_id, self.address, self.token, is_set_aside=True)
        self.is_set_aside = True

    def end(self, hive_id: str) -> None:
        """The node is in that hive, in whatever epoch. What it is told in this life is another errand. Blocks for the fsync.

        Raises OSError when the file stays; it is ended all the same, and again at the next start.
        """
        if not hive_id or base_of(hive_id) != base_of(self.hive_id) or not self.is_set_aside:
            return
        self.hive_id, self.address, self.token = "", "", ""
        self._path.unlink(missing_ok=True)
        sync_folder(self._path.parent)

    def _write(self, hive_id: str, address: str, token: str, *, is_set_aside: bool) -> None:
        document = {"hive_id": hive_id, "address": address, "token": token, "set_aside": is_set_aside}
        write_document(self._path, document)
