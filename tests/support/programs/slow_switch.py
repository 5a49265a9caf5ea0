"""`python -m tests.support.programs.slow_switch WAY_S NAMESPACE=ADDRESS...`: gives each network namespace a TUN device `eth0`,
and carries packets between them, each of which is on its way for so long.

Prints a line when all devices are there; runs until its input ends, as when whoever began it dies, which removes them. Root only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import ipaddress
import os
import struct
import sys
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKET_BYTES = 1 << 16
_AT_ONCE = 64
"""Packets of one host before the others have their turn."""
_setns = ctypes.CDLL(None, use_errno=True).setns


def _enter(descriptor: int) -> None:
    if _setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")


def _device_in(namespace: str) -> int:
    """An open TUN device `eth0` of the namespace."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
    try:
        _enter(there)
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _IFF_TUN | _IFF_NO_PI))
        _enter(home)
    finally:
        os.close(there)
        os.close(home)
    return device


async def main(way_s: float, devices: dict[bytes, int]) -> None:
    loop = asyncio.get_running_loop()

    def deliver(device: int, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # It is down: the packet is lost, as on a wire.
            os.write(device, packet)

    def take(source: bytes, device: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet = os.read(device, _PACKET_BYTES)
            except OSError:
                return
            target = packet[16:20]
            if packet[0] >> 4 != 4:
                continue
            if target in devices:
                loop.call_later(way_s, deliver, devices[target], packet)
            elif ipaddress.IPv4Address(target).is_multicast:
                for address, other in devices.items():
                    if address != source:
                        loop.call_later(way_s, deliver, other, packet)

    for address, device in devices.items():
        loop.add_reader(device, take, address, device)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    print("up", flush=True)
    await ended.wait()


if __name__ == "__main__":
    hosts = [named.split("=") for named in sys.argv[2:]]
    asyncio.run(
        main(
            float(sys.argv[1]),
            {ipaddress.IPv4Address(address).packed: _device_in(namespace) for namespace, address in hosts},
        )
    )
