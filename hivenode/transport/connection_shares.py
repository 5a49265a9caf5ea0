"""One address has a share of the connections to a port, and no more: what it opens past that is closed.

gRPC has a bound on all connections together, and tells nobody of one before its first call. But before each handshake, so before
a byte of the connection is read, it asks whether another certificate is to be shown (`tls.server_credentials`). A moment later
the process looks at its own sockets, and shuts down the newest of an address that has too many, which to gRPC is a broken line.
While too few have come for any address to have too many, it does not look.

In plain text gRPC asks nothing, so the API that is served to other machines is looked at every second, and as often as the other
port while there is something to close. There the programs of this machine have no share: they are all from one address, whichever
user they are of, and one user would keep out the others sooner.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import stat
import threading
from collections import Counter
from typing import Final, NamedTuple

import structlog

from hivenode.runtime.rate_limit import origin_key
from hivenode.runtime.refusals import Refusals

LOOK_DELAY_S: Final = 0.05
"""One look serves all connections of this time together. Whoever opens as many as the port takes has them for so long, and then
others find room again."""
UNTOLD_DELAY_S: Final = 1.0
"""Between two looks at connections that nobody tells of, unless the last one closed some: there may be new ones at once."""
_OWN_FILES: Final = "/dev/fd"
_ONE_LOOK: Final = threading.Lock()
"""A look opens sockets a second time for a moment. Another one, for another port, would take these for further connections."""

_log = structlog.get_logger(__name__)


class _Socket(NamedTuple):
    """A descriptor of this process and what it was open for: its number is used again."""

    descriptor: int
    inode: int


class ConnectionShares:
    """See the module.

    Args:
        most: connections of one address, or one /64 of IPv6.
        plain: the port is in plain text, so nobody tells of a connection; and those from this machine do not count.
    """

    def __init__(self, most: int, *, plain: bool = False) -> None:
        self._most = most
        self._plain = plain
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_looking = False
        self._has_closed = False  # At the last look.
        self._unseen = 0
        self._greatest = 0  # Of all shares, at the last look.
        self._seen: dict[_Socket, str] = {}  # Where each comes from, empty for what does not count; the oldest first.
        self._refusals = Refusals()

    def watch(self, port: int) -> None:
        """Watches over the connections to this port of the process, on the running loop."""
        self._port = port
        loop = self._loop = asyncio.get_running_loop()
        self._plan(loop)

    def accepted(self) -> None:
        """A connection came; on any thread."""
        if (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):  # The loop has been closed.
                loop.call_soon_threadsafe(self._note, loop)

    def stop(self) -> None:
        self._loop = None

    def _note(self, loop: asyncio.AbstractEventLoop) -> None:
        self._unseen += 1
        self._plan(loop)

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_looking and (self._plain or self._greatest + self._unseen > self._most):
            self._is_looking = True
            loop.call_later(UNTOLD_DELAY_S if self._plain and not self._has_closed else LOOK_DELAY_S, self._look)

    def _look(self) -> None:
        if (loop := self._loop) is not None:
            self._unseen = 0
            try:
                # A thousand sockets take some 10 ms, for which nobody's call has to wait.
                look = loop.run_in_executor(None, self._close_surplus)
            except RuntimeError as error:
                self._missed(loop, error)  # The machine has no thread left.
            else:
                look.add_done_callback(self._looked)

    def _looked(self, look: asyncio.Future[Counter[str]]) -> None:
        self._is_looking = False
        if (loop := self._loop) is None or look.cancelled():
            return
        if (error := look.exception()) is not None:
            self._missed(loop, error)
            return
        surplus = look.result()
        self._has_closed = bool(surplus)
        for origin, closed in surplus.items():
            self._refusals.name(origin, "a connection", closed=closed, most=self._most)
        self._plan(loop)

    def _missed(self, loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
        """A look that failed is no reason not to look again."""
        _log.error("could not look at the connections; looking again", port=self._port, reason=str(error))
        self._is_looking, self._has_closed, self._unseen = False, False, self._most + 1
        loop.call_later(UNTOLD_DELAY_S, self._plan, loop)

    def _close_surplus(self) -> Counter[str]:
        """Looks at all sockets; returns how many were shut down by where they came from."""
        with _ONE_LOOK:
            return self._look_at_all()

    def _look_at_all(self) -> Counter[str]:
        closed: Counter[str] = Counter()
        try:
            there = _own_sockets()
        except OSError:
            return closed  # There is no file left to look with.
        seen = {known: origin for known, origin in self._seen.items() if known in there}
        counts = Counter(origin for origin in seen.values() if origin)
        for new in there:
            if new in seen:
                continue
            origin = self._origin_of(new)
            if origin and counts[origin] >= self._most:
                _shut(new)
                closed[origin] += 1
                origin = ""
            elif origin:
                counts[origin] += 1
            seen[new] = origin
        self._seen = seen
        self._greatest = max(counts.values(), default=0)
        return closed

    def _origin_of(self, own: _Socket) -> str:
        """Where a connection to the port comes from; empty for every other socket, and for one that has ended."""
        with contextlib.suppress(OSError), _opened(own) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getsockname()[1] == self._port:
                address = connection.getpeername()[0]
                if not (self._plain and is_loopback(address)):
                    return origin_key(f"ip:{address}")
        return ""


def is_loopback(host: str) -> bool:
    """Whether an address, or the name `localhost`, is of this machine alone."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _own_sockets() -> dict[_Socket, None]:
    found: dict[_Socket, None] = {}
    for descriptor in map(int, os.listdir(_OWN_FILES)):
        try:
            about = os.fstat(descriptor)
        except OSError:
            continue  # It has been closed meanwhile.
        if stat.S_ISSOCK(about.st_mode):
            found[_Socket(descriptor, about.st_ino)] = None
    return found


def _opened(own: _Socket) -> socket.socket:
    """The socket under a descriptor of ours, which gRPC can close at any moment. Raises OSError when it is another one by now."""
    descriptor = os.dup(own.descriptor)
    try:
        if os.fstat(descriptor).st_ino != own.inode:
            raise OSError("the descriptor is of something else")
        return socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise


def _shut(own: _Socket) -> None:
    with contextlib.suppress(OSError), _opened(own) as connection:
        connection.shutdown(socket.SHUT_RDWR)
