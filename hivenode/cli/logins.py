"""Logins that are remembered: one token a hive, in a 0600 file of the user's configuration directory.

A token is good at every peer of its hive, so it is kept by hive id and not by address.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hivenode.errors import Code, HiveError

_FILE: Final = "logins.json"
_HIVES_MAX: Final = 64
"""More hives than anyone uses; the one that expires first makes room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who is logged in at one hive. `expires_ms` counts from 1970."""

    username: str
    token: str = field(repr=False)
    expires_ms: int


def config_dir() -> Path:
    """Where the file is: HIVENODE_CONFIG_DIR, else the platform's place for user configuration."""
    told = os.environ.get("HIVENODE_CONFIG_DIR")
    if told:
        return Path(told)
    import platformdirs

    return Path(platformdirs.user_config_dir("hivenode", appauthor=False))


def remember(hive_id: str, login: Login) -> None:
    """Keeps the login of a hive in place of an earlier one."""
    logins = _read()
    logins[hive_id] = login
    while len(logins) > _HIVES_MAX:
        del logins[min(logins, key=lambda hive: logins[hive].expires_ms)]
    _write(logins)


def forget(hive_id: str) -> None:
    logins = _read()
    if logins.pop(hive_id, None) is not None:
        _write(logins)


def find(hive_id: str) -> Login | None:
    """The login of a hive, also when it has expired."""
    return _read().get(hive_id)


def require(hive_id: str, peer: str) -> Login:
    """The standing login of a hive.

    Raises:
        HiveError: INVALID_SESSION when there is none or it has expired.
    """
    login = find(hive_id)
    if login is None:
        raise HiveError(
            Code.INVALID_SESSION, f"you are not logged in at {peer}: log in with `hivenode user login NAME`"
        )
    if login.expires_ms <= time.time() * 1000:
        raise HiveError(
            Code.INVALID_SESSION,
            f"the login of {login.username} has expired: log in again with `hivenode user login {login.username}`",
        )
    return login


def _read() -> dict[str, Login]:
    try:
        document = json.loads((config_dir() / _FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    entries = document.get("hives") if isinstance(document, dict) else None
    return {hive: _login(entry) for hive, entry in entries.items()} if isinstance(entries, dict) else {}


def _login(entry: Any) -> Login:
    if not isinstance(entry, dict):
        return Login(username="", token="", expires_ms=0)
    return Login(
        username=str(entry.get("username", "")),
        token=str(entry.get("token", "")),
        expires_ms=int(entry.get("expires_ms", 0)),
    )


def _write(logins: dict[str, Login]) -> None:
    """Replaces the file in one step; nobody else can read it at any moment."""
    folder = config_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    entries = {
        hive: {"username": login.username, "token": login.token, "expires_ms": login.expires_ms}
        for hive, login in logins.items()
    }
    temporary = folder / f"{_FILE}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump({"hives": entries}, file, indent=1)
    temporary.replace(folder / _FILE)
