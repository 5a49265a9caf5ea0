"""The options that every command takes, and the rule that finds the daemon to talk to."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from hivenode.encoding.node_record import NODE_ID_CHARACTERS
from hivenode.errors import Code, HiveError

DEFAULT_PEER: Final = "127.0.0.1:50051"
INT32_MAX: Final = (1 << 31) - 1
INT64_MAX: Final = (1 << 63) - 1
"""What the fields of a message hold; the hive's own bounds are narrower, and its refusals say them."""
DAEMON_FILE: Final = "daemon.json"
"""Written by a running daemon into its data directory: pid, api_address, peer_address, node_id."""
_DAEMON_FILE_BYTES_MAX: Final = 64 * 1024
"""The file has four short fields; anything larger is not ours."""
_ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""A daemon that listens everywhere is dialled on loopback."""

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings:
    """What was said before or after the command's name; the later word counts."""

    peer: str | None = None
    json: bool = False
    data_dir: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A daemon to dial: `host:port`, and the id of the node that must answer there, empty when it was not said."""

    address: str
    node_id: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether the way goes over the peer port, in TLS: loopback without an id means the plain-text API."""
        host = self.address.rpartition(":")[0].strip("[]")
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        return bool(self.node_id) or not loopback


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    settings = context.ensure_object(Settings)
    if value and parameter.name is not None:
        setattr(settings, parameter.name, value)


def shared_options(command: Command) -> Command:
    """Adds --peer, --data-dir and --json, which are kept in `Settings` instead of being handed to the function."""
    for option in (
        click.option(
            "--json",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_remember,
            help="Print one JSON document.",
        ),
        click.option(
            "--data-dir",
            type=click.Path(file_okay=False, path_type=Path),
            expose_value=False,
            callback=_remember,
            help="Data directory of the daemon of this machine.",
        ),
        click.option(
            "--peer",
            metavar="[ID@]HOST:PORT",
            expose_value=False,
            callback=_remember,
            help=f"Daemon to talk to instead of this machine's own ({DEFAULT_PEER}); ID is the node that must answer.",
        ),
    ):
        command = option(command)
    return command


def current_settings() -> Settings:
    return click.get_current_context().ensure_object(Settings)


def data_folder(settings: Settings) -> Path:
    """The data directory that is meant: --data-dir, HIVENODE_DATA_DIR, else the usual one."""
    return settings.data_dir or _environment_folder() or _default_folder()


def find_peer(settings: Settings) -> Target:
    """The daemon to dial: --peer, HIVENODE_PEER, the daemon of the data directory, else the default.

    A data directory that was named means its daemon and no other, so nothing else is tried then.

    Raises:
        HiveError: NODE_OFFLINE when the named data directory has no daemon.
        click.UsageError: a malformed address.
    """
    named = settings.peer or os.environ.get("HIVENODE_PEER")
    if named:
        return _checked(named)
    folder = settings.data_dir or _environment_folder()
    if folder is not None:
        address = _daemon_address(folder)
        if address is None:
            raise HiveError(
                Code.NODE_OFFLINE,
                f"no daemon runs on {folder}: start one with `hivenode start --role auto --data-dir {folder}`",
            )
        return _checked(address)
    return _checked(_daemon_address(_default_folder()) or DEFAULT_PEER)


def _environment_folder() -> Path | None:
    folder = os.environ.get("HIVENODE_DATA_DIR")
    return Path(folder) if folder else None


def _default_folder() -> Path:
    # The same folder as config.default_data_dir, without the cost of importing pydantic for it.
    import platformdirs

    return Path(platformdirs.user_data_dir("hivenode", appauthor=False))


def _daemon_address(folder: Path) -> str | None:
    try:
        with (folder / DAEMON_FILE).open("rb") as file:
            document = json.loads(file.read(_DAEMON_FILE_BYTES_MAX))
    except (OSError, ValueError):
        return None
    address = document.get("api_address") if isinstance(document, dict) else None
    return address if isinstance(address, str) and address else None


def own_daemon(settings: Settings) -> str | None:
    """The plain-text API of this machine's own daemon; None when none runs."""
    address = _daemon_address(data_folder(settings))
    return _checked(address).address if address is not None else None


def _checked(text: str) -> Target:
    node_id, _, address = text.rpartition("@")
    if node_id and (len(node_id) != NODE_ID_CHARACTERS or not node_id.isalnum() or not node_id.isascii()):
        raise click.UsageError(f"{node_id!r} is no node id: `hivenode identity show` on that machine tells it")
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.UsageError(f"{address!r} is no address: write host:port, as 192.168.1.20:50052")
    return Target(address=f"{_ANY_HOST.get(host, host)}:{port}", node_id=node_id)
