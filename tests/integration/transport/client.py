"""A client of the API that knows every route, and reads what failures say."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from grpc_status import rpc_status

from hivenode.errors import Code
from hivenode.pb import nodepool_pb2
from hivenode.transport.routing import ROUTES, Shape

CALL_S = 10.0


class Client:
    """Calls any route of an address by its method's name."""

    def __init__(self, address: str, channel: grpc.aio.Channel | None = None) -> None:
        self.channel: Any = channel or grpc.aio.insecure_channel(
            address,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    def method(self, name: str) -> Any:
        (route,) = [route for key, route in ROUTES.items() if key.endswith("/" + name)][:1]
        make = {
            Shape.UNARY: self.channel.unary_unary,
            Shape.UPLOAD: self.channel.stream_unary,
            Shape.DOWNLOAD: self.channel.unary_stream,
        }[route.shape]
        return make(route.method, route.request.SerializeToString, route.response.FromString)

    async def call(
        self, name: str, request: Any, token: str = "", *, timeout_s: float = CALL_S, **carried: str
    ) -> tuple[Any, dict[str, Any]]:
        """The response and the trailing metadata."""
        metadata = [(key.replace("_", "-"), value) for key, value in carried.items()]
        if token:
            metadata.append(("authorization", f"Bearer {token}"))
        sent = self.method(name)(request, metadata=metadata, timeout=timeout_s)
        return await sent, dict(await sent.trailing_metadata())

    async def failing(self, name: str, request: Any, token: str = "", **carried: str) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(name, request, token, timeout_s=CALL_S, **carried)
        return caught.value

    async def log_in(self, username: str = "testuser") -> str:
        await self.call("Register", nodepool_pb2.RegisterRequest(username=username, password="password123"))
        answer, _ = await self.call("Login", nodepool_pb2.LoginRequest(username=username, password="password123"))
        return str(answer.token)


def code_of(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, int, str]:
    """The status, the hive's code and the outcome; checks that the ErrorInfo says the same."""
    trailing = dict(error.trailing_metadata() or ())
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "hivenode"
    assert info.metadata["code"] == trailing["hive-error-code"]
    assert info.metadata["outcome"] == trailing["hive-outcome"]
    assert info.reason == Code(int(str(trailing["hive-error-code"]))).name
    return error.code(), int(str(trailing["hive-error-code"])), str(trailing["hive-outcome"])
