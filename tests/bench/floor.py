"""What stands beside our figures: a grpc.aio server that does nothing, and a three-member etcd, called by the same client."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

START_DEADLINE_S = 20.0
END_DEADLINE_S = 10.0
NO_OP = "/bench.NoOp/Call"
PUT = "/etcdserverpb.KV/Put"
MEMBERS = 3


class _Nothing(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def answer(data: bytes, context: object) -> bytes:
            return data

        return grpc.unary_unary_rpc_method_handler(answer)


async def _serve() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Nothing(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


@contextlib.contextmanager
def no_op_server() -> Iterator[str]:
    """The address of a server that gives back what it gets."""
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.floor"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait(END_DEADLINE_S)


def put_request(key: bytes, value: bytes) -> bytes:
    """etcdserverpb.PutRequest: fields 1 and 2, both bytes of under 128."""
    return b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(value)]) + value


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago: etcd takes no port 0, since its members must know each other's before they start."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for taken in sockets:
            taken.bind(("127.0.0.1", 0))
        return [int(taken.getsockname()[1]) for taken in sockets]


@contextlib.contextmanager
def etcd(folder: Path) -> Iterator[list[str]]:
    """The client addresses of three etcd members with fsync on, in this folder; empty when there is no etcd here."""
    program = shutil.which("etcd")
    if program is None:
        yield []
        return
    ports = _free_ports(2 * MEMBERS)
    peers = [f"http://127.0.0.1:{port}" for port in ports[:MEMBERS]]
    clients = [f"127.0.0.1:{port}" for port in ports[MEMBERS:]]
    cluster = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
    members = []
    try:
        for number, (peer, client) in enumerate(zip(peers, clients, strict=True)):
            log = (folder / f"etcd{number}.log").open("wb")
            argv = [program, "--name", f"m{number}", "--data-dir", str(folder / f"etcd{number}")]
            argv += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            argv += ["--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}"]
            argv += ["--initial-cluster", cluster, "--initial-cluster-state", "new"]
            members.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            log.close()
        _wait_for_put(clients[0])
        yield clients
    finally:
        for member in members:
            member.kill()
        for member in members:
            member.wait(END_DEADLINE_S)


def _wait_for_put(client: str) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    with grpc.insecure_channel(client, options=(("grpc.enable_http_proxy", 0),)) as channel:
        put: Any = channel.unary_unary(PUT)
        while True:
            try:
                put(put_request(b"k", b"v"), timeout=1, wait_for_ready=True)
                return
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise


if __name__ == "__main__":
    asyncio.run(_serve())
