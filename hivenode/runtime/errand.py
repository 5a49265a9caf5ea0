"""What the owner told this node to do next: join that hive and no other, perhaps by a join token. A file in the data directory,
0600 as the token is a secret, until it is done.

It is written before the old hive is given up. `set_aside` says that what the node had of that hive is out of the way; after a
crash before that the next start does it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

ERRAND_FILE: Final = "join.json"


class Errand:
    """See the module; `hive_id` is empty when there is none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ERRAND_FILE
        self.hive_id, self.address, self.token, self.is_set_aside = "", "", "", True
        if self._path.exists():
            found = json.loads(self._path.read_text())
            self.hive_id, self.address, self.is_set_aside = found["hive_id"], found["address"], found["set_aside"]
            self.token = found.get("token", "")

    def begin(self, hive_id: str, address: str, token: str = "") -> None:
        """Keeps the errand. Blocks for the fsync."""
        self.hive_id, self.address, self.token, self.is_set_aside = hive_id, address, token, False
        self._write()

    def set_aside(self) -> None:
        """The old hive's folders are out of the way. Blocks for the fsync."""
        self.is_set_aside = True
        self._write()

    def end(self) -> None:
        """The node is in the hive. Whatever it is told later is another errand."""
        self.hive_id, self.address, self.token = "", "", ""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        temporary = self._path.with_suffix(".new")
        document = {
            "hive_id": self.hive_id,
            "address": self.address,
            "token": self.token,
            "set_aside": self.is_set_aside,
        }
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(document))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._path)
