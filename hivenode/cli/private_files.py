"""Small JSON files in the user's configuration directory that nobody else may read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def config_dir() -> Path:
    """Where the files are: HIVENODE_CONFIG_DIR, else the platform's place for user configuration."""
    told = os.environ.get("HIVENODE_CONFIG_DIR")
    if told:
        return Path(told)
    import platformdirs

    return Path(platformdirs.user_config_dir("hivenode", appauthor=False))


def read(name: str, field: str) -> dict[str, Any]:
    """The entries under `field` of a file; none when there is no such file, or it is damaged."""
    try:
        document = json.loads((config_dir() / name).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    entries = document.get(field) if isinstance(document, dict) else None
    return entries if isinstance(entries, dict) else {}


def write(name: str, field: str, entries: dict[str, Any]) -> None:
    """Replaces a file in one step; nobody else can read it at any moment."""
    folder = config_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / f"{name}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump({field: entries}, file, indent=1)
    temporary.replace(folder / name)
