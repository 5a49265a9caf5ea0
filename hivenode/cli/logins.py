"""Logins that are remembered: one token a hive, in a 0600 file of the user's configuration directory.

A token is good at every peer of its hive, so it is kept by hive id and not by address.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from hivenode.cli import private_files
from hivenode.errors import Code, HiveError

_FILE: Final = "logins.json"
_FIELD: Final = "hives"
_HIVES_MAX: Final = 64
"""More hives than anyone uses; the one that expires first makes room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who is logged in at one hive. `expires_ms` counts from 1970."""

    username: str
    token: str = field(repr=False)
    expires_ms: int


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
    return {hive: _login(entry) for hive, entry in private_files.read(_FILE, _FIELD).items()}


def _login(entry: Any) -> Login:
    if not isinstance(entry, dict):
        return Login(username="", token="", expires_ms=0)
    return Login(
        username=str(entry.get("username", "")),
        token=str(entry.get("token", "")),
        expires_ms=int(entry.get("expires_ms", 0)),
    )


def _write(logins: dict[str, Login]) -> None:
    entries = {
        hive: {"username": login.username, "token": login.token, "expires_ms": login.expires_ms}
        for hive, login in logins.items()
    }
    private_files.write(_FILE, _FIELD, entries)
