"""What stands beside our figures: a grpc.aio server that does nothing, called by the same client."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc

END_DEADLINE_S = 10.0
NO_OP = "/bench.NoOp/Call"


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


if __name__ == "__main__":
    asyncio.run(_serve())
