"""Prints `unicast` or `multicast` for each mDNS question about hivenode on loopback: how the answer shall come."""

from __future__ import annotations

import socket

from zeroconf._protocol.incoming import DNSIncoming

from hivenode.discovery.mdns import SERVICE_TYPE

GROUP = "224.0.0.251"
PORT = 5353


def main() -> None:
    hears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    hears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    hears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    hears.bind(("", PORT))
    hears.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
    )
    print("ready", flush=True)
    while True:
        for question in DNSIncoming(hears.recv(9_000)).questions:
            if question.name.endswith(SERVICE_TYPE):
                print("unicast" if question.unique else "multicast", flush=True)


if __name__ == "__main__":
    main()
