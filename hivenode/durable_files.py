"""Small files that are there whole, the new one or the old, after a crash or a power cut at any moment.

The file is synced before it gets its name, and its folder after; a rename alone may outlive a power cut without the content
(Linux rename(2), fsync(2)). All block for the disk.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hivenode.errors import Code, HiveError


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes) -> None:
    """Writes a 0600 file. Raises OSError, and then the old one or the new one is there."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_document(path: Path, document: Any) -> None:
    """Writes a document as JSON; see `write_file`."""
    write_file(path, json.dumps(document).encode())


def read_document(path: Path) -> Any:
    """The document in a file; None when there is no such file. Raises INVALID_ARGUMENT when it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise HiveError(
            Code.INVALID_ARGUMENT,
            f"{path} is damaged ({error}): restore it from a backup, or remove it and start again",
        ) from error
