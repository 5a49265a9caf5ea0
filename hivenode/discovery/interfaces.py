"""This machine's addresses on its LANs, and when they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

import ifaddr
import structlog

EXCLUDED_PREFIXES: Final = ("docker", "br-", "veth", "virbr", "cni", "wg")
"""Bridges of containers and virtual machines, and tunnels: what is announced there never reaches another machine's LAN, or
would make the hive's own tunnel carry its discovery."""
ADDRESSES_MAX: Final = 16
"""Addresses of one machine that are told to others, and on which mDNS listens."""
WATCH_INTERVAL_S: Final = 5.0
"""A cable or a Wi-Fi that comes is noticed within this; asking the kernel takes less than a millisecond."""

_log = structlog.get_logger(__name__)


def lan_addresses(exclude: Sequence[str] = EXCLUDED_PREFIXES) -> tuple[str, ...]:
    """The machine's own addresses, in the kernel's order of interfaces: IPv4 first, IPv6 only where it is global.

    Args:
        exclude: beginnings of names of interfaces to leave out; loopback always is.
    """
    ipv4: list[str] = []
    ipv4_link_local: list[str] = []
    ipv6: list[str] = []
    for adapter in ifaddr.get_adapters():
        if adapter.name.startswith(tuple(exclude)):
            continue
        for entry in adapter.ips:
            address = ip_address(entry.ip if isinstance(entry.ip, str) else entry.ip[0].partition("%")[0])
            match address:
                case IPv4Address() if address.is_link_local:
                    ipv4_link_local.append(str(address))
                case IPv4Address() if not address.is_loopback:
                    ipv4.append(str(address))
                case IPv6Address() if address.is_global:
                    ipv6.append(str(address))
                case _:
                    pass
    # A self-assigned address (RFC 3927) is the only one on a cable without a DHCP server, and no use beside a real one.
    return tuple(dict.fromkeys([*(ipv4 or ipv4_link_local), *ipv6]))[:ADDRESSES_MAX]


def is_on_lan(address: str, exclude: Sequence[str] = EXCLUDED_PREFIXES) -> bool:
    """Whether an IP address is of this machine, or of a network that one of its interfaces is directly in."""
    try:
        wanted = ip_address(address)
    except ValueError:
        return False
    if isinstance(wanted, IPv6Address) and wanted.ipv4_mapped is not None:
        wanted = wanted.ipv4_mapped
    if wanted.is_loopback:
        return True
    for adapter in ifaddr.get_adapters():
        if adapter.name.startswith(tuple(exclude)):
            continue
        for entry in adapter.ips:
            own = entry.ip if isinstance(entry.ip, str) else entry.ip[0].partition("%")[0]
            if wanted in ip_network(f"{own}/{entry.network_prefix}", strict=False):
                return True
    return False


async def watch(
    exclude: Sequence[str] = EXCLUDED_PREFIXES, *, interval_s: float = WATCH_INTERVAL_S
) -> AsyncIterator[tuple[str, ...]]:
    """The addresses now, and again whenever they have changed; ends when its consumer does.

    A machine that cannot say them, since it is out of files or memory, is asked again later: they hardly changed meanwhile.
    """
    before: tuple[str, ...] | None = None
    told = False
    while True:
        try:
            addresses = lan_addresses(exclude)
        except OSError as error:
            if not told:
                told = True
                _log.warning("the machine's addresses cannot be read for now", error=str(error))
        else:
            told = False
            if addresses != before:
                before = addresses
                yield addresses
        await asyncio.sleep(interval_s)
