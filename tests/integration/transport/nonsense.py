"""Whoever answers what is no message of the hive's protocol."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from hivenode.encoding.node_record import NodeId, handshake_message, open_record
from hivenode.encoding.records import encode_record
from hivenode.identity import Certificate, verify_signature
from hivenode.pb import hive_pb2
from hivenode.runtime.ports import HivePhase, PeerAddress
from hivenode.transport.peer_link import callee_purpose, read_record
from hivenode.transport.tls import server_credentials
from tests.integration.transport.parts import HIVE, Node
from tests.integration.transport.parts.samples import now_ms

NO_MESSAGE = b"\xff\xff\xff"
_STREAMS = ("Work", "FetchBlob", "FetchSnapshot", "ReadLog")
_UNARY = ("Invite", "Join", "ManageHive", "ListMembers", "CompareDigest")


@contextlib.asynccontextmanager
async def answering(certificate: Certificate, methods: dict[str, Any]) -> AsyncIterator[str]:
    """The address of a server that shows this certificate and has these methods of the peer protocol."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("hive.PeerService", methods),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(certificate, lambda: None))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def always(answer: bytes) -> Any:
    """A method that answers so whatever it is asked."""

    async def unary(request: bytes, context: Any) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(unary)


@contextlib.asynccontextmanager
async def member_that_answers(answer: bytes, node: Node) -> AsyncIterator[PeerAddress]:
    """A peer that proves to be this node, and answers all else so."""

    async def challenge(data: bytes, context: Any) -> bytes:
        request = hive_pb2.ChallengeRequest.FromString(data)
        _, caller = read_record(request.caller_record, now_ms())
        signed = node.ports.record()
        message = handshake_message(
            nonce=request.caller_nonce,
            signer=node.id,
            other=NodeId(caller.node_id),
            hive_id=HIVE,
            certificate_sha256=open_record(signed, verify_signature).certificate_sha256,
            purpose=callee_purpose("", ()),
        )
        said: bytes = hive_pb2.ChallengeResponse(
            callee_record=encode_record(signed),
            callee_nonce=bytes(32),
            hive_id=HIVE,
            signature=node.identity.sign(message),
            phase=HivePhase.MEMBER.value,
        ).SerializeToString()
        return said

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield answer
        yield answer

    methods = {
        "Challenge": grpc.unary_unary_rpc_method_handler(challenge),
        "Prove": always(hive_pb2.ProveResponse(ticket="t").SerializeToString()),
        **dict.fromkeys(_UNARY, always(answer)),
        **dict.fromkeys(_STREAMS, grpc.unary_stream_rpc_method_handler(stream)),
    }
    async with answering(node.certificate, methods) as address:
        yield PeerAddress(node_id=node.id, addresses=(address,))
