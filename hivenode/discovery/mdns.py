"""Peers of the LAN by mDNS (RFC 6762) and DNS-SD (RFC 6763): announces this node, and emits who else announces itself.

What the network says is hostile: everything is bounded and checked (`read_record`), and what comes out is a hint that counts
only after a call back. A machine that dies is not reported; whoever wants to know calls it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import structlog
import zeroconf
from zeroconf import DNSQuestionType, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from hivenode.discovery.finder import Candidate, Emit, join_host_port
from hivenode.discovery.interfaces import WATCH_INTERVAL_S, lan_addresses

SOURCE: Final = "mdns"
SERVICE_TYPE: Final = "_hivenode._tcp.local."
RESOLVE_MS_MAX: Final = 3_000
"""A record whose address is not told within this is taken up at its next announcement."""
RESOLVING_MAX: Final = 64
"""Records whose addresses are being asked for; a flood of names beyond it is dropped."""
ADDRESSES_PER_NODE_MAX: Final = 8
FLUSH_S: Final = 1.2
"""A listener drops an old record only when it is older than a second (RFC 6762, section 10.2); phases change faster."""
NAME_CHARACTERS_MAX: Final = 255
"""RFC 1035, section 2.3.4."""
CLOSE_S_MAX: Final = 2.0
"""Goodbyes take 0.4 s; on an interface that is gone they are not worth waiting for."""

_NODE_ID: Final = re.compile(r"[a-z2-7]{26}")
_HIVE_ID: Final = re.compile(r"([0-9a-f]{32}(\+[0-9]{1,4}\.[0-9a-f]{8})?)?")
_WORD: Final = re.compile(r"[A-Za-z0-9.+_-]{1,32}")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What this node tells the LAN; nothing in it is secret. `port` is the peer port; only nodes of one `group` look at each
    other."""

    node_id: str
    hive_id: str
    version: str
    phase: str
    port: int
    group: str = ""


def read_record(
    properties: Mapping[bytes, bytes | None],
    addresses: Sequence[str],
    port: int | None,
    *,
    loopback: bool,
    group: str = "",
) -> tuple[Candidate, ...]:
    """The candidates of a resolved record, none when anything in it is not as this project announces it. Never raises.

    Args:
        loopback: whether an address of this machine itself is taken, as when only loopback is configured.
        group: whose records are taken; all others are of hives that are kept apart on purpose.
    """
    if (properties.get(b"group") or b"") != group.encode():
        return ()
    node_id = _text(properties.get(b"id"), _NODE_ID)
    known = [_text(properties.get(b"hive"), _HIVE_ID), _text(properties.get(b"ver"), _WORD)]
    if (
        node_id is None
        or None in [*known, _text(properties.get(b"phase"), _WORD)]
        or port is None
        or not 0 < port < 65536
    ):
        return ()
    hosts: list[str] = []
    for text in addresses[: 4 * ADDRESSES_PER_NODE_MAX]:
        try:
            address = ip_address(text)
        except ValueError:
            continue
        if _is_callable(address, loopback):
            hosts.append(str(address))
    # IPv4 first: on a LAN it is there, and needs no scope.
    hosts.sort(key=lambda host: ":" in host)
    return tuple(
        Candidate(address=join_host_port(host, port), source=SOURCE, node_id=node_id)
        for host in dict.fromkeys(hosts[:ADDRESSES_PER_NODE_MAX])
    )


def _text(value: bytes | None, pattern: re.Pattern[str]) -> str | None:
    text = (value or b"").decode("ascii", errors="replace")
    return text if pattern.fullmatch(text) else None


def _is_callable(address: IPv4Address | IPv6Address, loopback: bool) -> bool:
    if address.is_multicast or address.is_unspecified or (address.is_loopback and not loopback):
        return False
    return isinstance(address, IPv4Address) or address.is_global


class MdnsFinder:
    """A `Finder` by mDNS. Looks at the machine's interfaces every few seconds and begins anew when they have changed.

    Args:
        interfaces: own addresses to use, as `["127.0.0.1"]` in tests; None for all of the LANs, watched.
        watch_interval_s: how often the interfaces are looked at.
    """

    def __init__(
        self,
        announcement: Announcement,
        *,
        interfaces: Sequence[str] | None = None,
        watch_interval_s: float = WATCH_INTERVAL_S,
    ) -> None:
        self._announcement = announcement
        self._fixed: Final = None if interfaces is None else tuple(interfaces)
        self._watch_interval_s: Final = watch_interval_s
        self._lock: Final = asyncio.Lock()
        self._resolving: Final[dict[str, asyncio.Task[None]]] = {}
        self._announcing: Final[set[asyncio.Future[None]]] = set()
        self._using: tuple[str, ...] = ()
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._emit: Emit | None = None

    async def start(self, emit: Emit) -> None:
        self._emit = emit
        await self._follow_interfaces()
        self._watcher = asyncio.create_task(self._watch(), name="mdns")

    async def update(self, announcement: Announcement) -> None:
        """Announces a new phase or hive; the node and its port stay."""
        async with self._lock:
            if announcement == self._announcement:
                return
            self._announcement = announcement
            # What is no longer true must not be repeated after what is.
            for task in self._announcing:
                task.cancel()
            if self._zeroconf is not None:
                self._announce(self._tell_anew(self._zeroconf, self._info()))

    async def aclose(self) -> None:
        self._emit = None
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        async with self._lock:
            await self._end()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_interval_s)
            await self._follow_interfaces()

    async def _follow_interfaces(self) -> None:
        wanted = self._wanted()
        async with self._lock:
            if wanted == self._using and (self._zeroconf is not None or not wanted):
                return
            await self._end()
            self._using = wanted
            if not wanted:
                return
            try:
                await self._begin()
            except (OSError, zeroconf.Error) as error:
                # An address that went away meanwhile, or the port in use by a responder that does not share: next time.
                _log.warning("mdns_unavailable", interfaces=wanted, error=str(error))
                await self._end()

    def _wanted(self) -> tuple[str, ...]:
        if self._fixed is not None:
            return self._fixed
        try:
            return tuple(address for address in lan_addresses() if ":" not in address)
        except OSError:
            # The machine is out of files or memory: what is in use stays, and the next look is soon.
            return self._using

    async def _begin(self) -> None:
        self._zeroconf = AsyncZeroconf(interfaces=list(self._using), ip_version=IPVersion.V4Only)
        await self._zeroconf.zeroconf.async_wait_for_start()
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change], question_type=DNSQuestionType.QM
        )
        # The name is the node's own id: nobody else has it, so no time is spent on probing for it (RFC 6762, section 8.1).
        self._announce(await self._zeroconf.async_register_service(self._info(), cooperating_responders=True))

    async def _tell_anew(self, instance: AsyncZeroconf, info: AsyncServiceInfo) -> None:
        """Announces a changed record so that listeners drop the old one however young it is."""
        await (await instance.async_update_service(info))
        await asyncio.sleep(FLUSH_S)
        await (await instance.async_update_service(info))

    def _announce(self, sent: Awaitable[None]) -> None:
        """Lets the announcements, which take half a second and more, go out by themselves."""
        task = asyncio.ensure_future(sent)
        self._announcing.add(task)
        task.add_done_callback(self._announcing.discard)

    async def _end(self) -> None:
        pending = [*self._resolving.values(), *self._announcing]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        self._resolving.clear()
        browser, self._browser = self._browser, None
        old, self._zeroconf = self._zeroconf, None
        if old is None:
            return
        goodbye = asyncio.create_task(self._say_goodbye(old, browser), name="mdns-goodbye")
        try:
            # No `asyncio.timeout`: in a part that was told to go, Python before 3.12 ends the part by it.
            if not (await asyncio.wait({goodbye}, timeout=CLOSE_S_MAX))[0]:
                _log.info("mdns_goodbye_unsent", error=f"it took longer than {CLOSE_S_MAX:g} s")
        finally:
            goodbye.cancel()
            await old.async_close()
        if goodbye.done() and not goodbye.cancelled():
            goodbye.result()

    async def _say_goodbye(self, instance: AsyncZeroconf, browser: AsyncServiceBrowser | None) -> None:
        try:
            if browser is not None:
                await browser.async_cancel()
            await instance.async_unregister_all_services()
        except (OSError, zeroconf.Error) as error:
            _log.info("mdns_goodbye_unsent", error=str(error) or type(error).__name__)

    def _info(self) -> AsyncServiceInfo:
        announcement = self._announcement
        return AsyncServiceInfo(
            SERVICE_TYPE,
            f"{announcement.node_id}.{SERVICE_TYPE}",
            port=announcement.port,
            properties={
                "id": announcement.node_id,
                "hive": announcement.hive_id,
                "ver": announcement.version,
                "phase": announcement.phase,
                "group": announcement.group,
            },
            server=f"{announcement.node_id}.local.",
            parsed_addresses=list(self._using),
        )

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        known = name in self._resolving or len(self._resolving) >= RESOLVING_MAX
        if state_change is ServiceStateChange.Removed or known or len(name) > NAME_CHARACTERS_MAX:
            return
        if name.partition(".")[0].lower() == self._announcement.node_id:
            return
        task = asyncio.get_running_loop().create_task(self._resolve(zeroconf, name), name="mdns-resolve")
        self._resolving[name] = task
        task.add_done_callback(lambda done: self._resolved(name, done))

    def _resolved(self, name: str, task: asyncio.Task[None]) -> None:
        if self._resolving.get(name) is task:
            del self._resolving[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("mdns_record_unreadable", error=repr(error))

    async def _resolve(self, instance: Zeroconf, name: str) -> None:
        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            if not await info.async_request(instance, RESOLVE_MS_MAX, question_type=DNSQuestionType.QM):
                return
            addresses = info.parsed_addresses(IPVersion.All)
        except (zeroconf.Error, ValueError, OSError) as error:
            _log.info("mdns_record_refused", error=str(error))
            return
        loopback, group = self._fixed is not None, self._announcement.group
        for candidate in read_record(info.properties, addresses, info.port, loopback=loopback, group=group):
            if self._emit is not None and candidate.node_id != self._announcement.node_id:
                self._emit(candidate)
