"""One node with real servers and channels on loopback, and hives of such nodes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import nacl.signing

from hivenode.encoding.node_record import NodeId, handshake_message
from hivenode.errors import InvariantError
from hivenode.identity import Certificate, Identity, make_certificate
from hivenode.pb import hive_pb2
from hivenode.pool.records import UserRecord, UserRole
from hivenode.runtime.ports import PeerAddress, Standing
from hivenode.transport.channels import open_channel
from hivenode.transport.limits import LIMITS, Limits
from hivenode.transport.peer_link import Self
from hivenode.transport.peers import GrpcPeers
from hivenode.transport.servers import ApiServer, ServedPorts
from tests.integration.transport.parts.ports import Ports, World
from tests.integration.transport.parts.samples import HIVE, now_ms


class Node:
    """One node: its ports' filling, its peers, its servers."""

    def __init__(self, world: World, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.identity = Identity(nacl.signing.SigningKey.generate())
        self.certificate = make_certificate()
        self.ports = Ports(world, self.identity, self.certificate)
        self.peers = GrpcPeers(
            Self(identity=self.identity, record=self.ports.record, hive_id=self.ports.hive_id, now_ms=now_ms)
        )
        self.admitted = self.voter = self.on_lan = True
        self.wall_ahead_ms = self.clock_ahead_ms = 0
        self.broken: list[InvariantError] = []
        self.server = self.make_server("127.0.0.1:0")

    def make_server(self, peer_listen: str, *, listen: str = "127.0.0.1:0", insecure: bool = False) -> ApiServer:
        return ApiServer(
            listen=listen,
            peer_listen=peer_listen,
            insecure=insecure,
            peers=self.peers,
            ports=self.server_ports(),
            limits=self.limits,
        )

    def server_ports(self) -> ServedPorts:
        ports = self.ports
        return ServedPorts(
            identity=self.identity,
            certificate=self.certificate,
            accounts=ports,
            machine_owner=ports,
            registry=ports,
            tasks=ports,
            status=ports,
            cluster=ports,
            leadership=ports,
            host=ports,
            runner=ports,
            blobs=ports,
            user_of=lambda name: UserRecord(
                username=name, user_id=f"id-{name}", password_hash="", email="", role=UserRole.USER, created_ms=0
            ),
            admits=lambda node: self.admitted,
            is_voter=lambda node: self.voter,
            on_lan=lambda address: self.on_lan,
            now_ms=lambda: now_ms() + self.wall_ahead_ms,
            clock_ms=lambda: now_ms() + self.clock_ahead_ms,
            on_broken=self.broken.append,
        )

    @property
    def id(self) -> NodeId:
        return self.identity.node_id

    def show_certificate(self, certificate: Certificate) -> None:
        """The next server shows another one."""
        self.certificate = self.ports.certificate = certificate

    def signature_for(self, callee: Node, nonce: bytes, certificate_sha256: bytes) -> hive_pb2.ProveRequest:
        """What this node would say to `Prove` if it took the callee's certificate for the given one."""
        message = handshake_message(
            nonce=nonce,
            signer=self.id,
            other=callee.id,
            hive_id=HIVE,
            certificate_sha256=certificate_sha256,
            purpose="caller",
        )
        return hive_pb2.ProveRequest(
            caller_node_id=self.id, callee_nonce=nonce, hive_id=HIVE, signature=self.identity.sign(message)
        )

    @property
    def peer_channel(self) -> grpc.aio.Channel:
        """A channel of one's own to the peer port."""
        return open_channel(self.server.peer_address, ssl.PEM_cert_to_DER_cert(self.certificate.pem.decode()))

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(node_id=self.id, addresses=(self.server.peer_address,))

    async def start(self) -> None:
        await self.server.start()
        self.ports.addresses = (self.server.peer_address,)
        if self.ports.where is Standing.LEADER:
            self.ports.lead()

    async def stop(self) -> None:
        await self.peers.aclose()
        await self.server.stop(0)


@asynccontextmanager
async def nodes(count: int, world: World | None = None, limits: Limits = LIMITS) -> AsyncIterator[list[Node]]:
    """Started nodes of one hive; the first leads and the others follow it."""
    shared = world or World()
    made = [Node(shared, limits) for _ in range(count)]
    try:
        for node in made:
            await node.start()
        for node in made[1:]:
            node.ports.follow(made[0].address)
        yield made
    finally:
        for node in reversed(made):
            await node.stop()
