"""Peers that the owner names: `host:port`, resolved and emitted at once, and again until it is enough.

For LANs that carry no multicast, and for hives over more than one LAN. Names are resolved anew every time, because a
machine may come back at another address.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

import structlog

from hivenode.discovery.finder import Candidate, Emit, join_host_port
from hivenode.errors import Code, HiveError

SOURCE: Final = "bootstrap"
PEERS_MAX: Final = 64
"""Named peers; one that answers is enough, so more only cost time."""
ADDRESSES_PER_NAME_MAX: Final = 8
HOST_CHARACTERS_MAX: Final = 253
"""RFC 1035, section 2.3.4, as written."""
RESOLVE_S_MAX: Final = 5.0
"""A resolver that takes longer is asked again in the next round."""
ROUND_S_MIN: Final = 5.0
ROUND_S_MAX: Final = 60.0
"""Rounds grow from 5 s to a minute: soon enough after a power cut, and nothing in a network that stays away."""

_log = structlog.get_logger(__name__)


def parse_host_port(text: str, default_port: int) -> tuple[str, int]:
    """`host`, `host:port`, `[ipv6]` or `[ipv6]:port` as host and port.

    Raises:
        HiveError: INVALID_ARGUMENT.
    """
    stripped = text.strip()
    if stripped.startswith("["):
        host, closed, rest = stripped[1:].partition("]")
        port_text = rest.removeprefix(":")
        well_formed = bool(closed) and (rest == "" or rest.startswith(":"))
    else:
        host, _, port_text = stripped.partition(":")
        well_formed = ":" not in port_text
    port = default_port if port_text == "" else int(port_text) if port_text.isascii() and port_text.isdigit() else 0
    if not well_formed or not 0 < len(host) <= HOST_CHARACTERS_MAX or not host.isprintable() or not 0 < port <= 65535:
        raise HiveError(
            Code.INVALID_ARGUMENT, f"{text!r} is no peer address: write host:port, as in 192.168.1.5:50052."
        )
    return host, port


class BootstrapFinder:
    """A `Finder` over a list of names.

    Args:
        peers: each as `parse_host_port` takes it; at most 64.
        default_port: the peer port where none is written.

    Raises:
        HiveError: INVALID_ARGUMENT.
    """

    def __init__(self, peers: Sequence[str], default_port: int) -> None:
        if len(peers) > PEERS_MAX:
            raise HiveError(Code.INVALID_ARGUMENT, f"At most {PEERS_MAX} bootstrap peers can be named.")
        self._peers: Final = tuple(parse_host_port(peer, default_port) for peer in peers)
        self._wanted: Final = asyncio.Event()
        self._wanted.set()
        self._enough: Final = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, emit: Emit) -> None:
        if self._peers and self._task is None:
            self._task = asyncio.create_task(self._run(emit), name="bootstrap")

    def enough(self, enough: bool) -> None:
        """Told True the finder rests; told False it begins anew at once, as when all peers were lost."""
        if enough:
            self._wanted.clear()
            self._enough.set()
        else:
            self._enough.clear()
            self._wanted.set()

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self, emit: Emit) -> None:
        while True:
            await self._wanted.wait()
            round_s = ROUND_S_MIN
            while not self._enough.is_set():
                await asyncio.gather(*(self._emit_one(host, port, emit) for host, port in self._peers))
                try:
                    async with asyncio.timeout(round_s):
                        await self._enough.wait()
                except TimeoutError:
                    round_s = min(ROUND_S_MAX, 2 * round_s)

    async def _emit_one(self, host: str, port: int, emit: Emit) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_S_MAX):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # A timeout is an OSError; a name that IDNA refuses is a UnicodeError.
            _log.warning("bootstrap_name_unresolved", host=host, error=str(error) or type(error).__name__)
            return
        addresses = dict.fromkeys(join_host_port(str(sockaddr[0]), port) for *_, sockaddr in found)
        for address in list(addresses)[:ADDRESSES_PER_NAME_MAX]:
            emit(Candidate(address=address, source=SOURCE, node_id=""))
