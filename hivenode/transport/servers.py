"""The daemon's two gRPC servers: the documented API for programs of this machine, and the peer port, TLS, for all others.

Both serve the documented API, HiveService, reflection and `grpc.health.v1`; the peer port serves PeerService as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hivenode.config import split_address
from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError, InvariantError
from hivenode.identity import Certificate, Identity
from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.pool.records import UserName, UserRecord
from hivenode.runtime.ports import (
    Accounts,
    BlobStore,
    ClusterControl,
    HiveStatus,
    Leadership,
    MachineOwner,
    PeerHost,
    Registry,
    TaskRunner,
    Tasks,
)
from hivenode.transport.channels import API_STREAMS_MAX, CALLS_MAX, PEER_STREAMS_MAX, SERVER_OPTIONS
from hivenode.transport.connection_shares import ConnectionShares, is_loopback
from hivenode.transport.forwarding import Forwarder
from hivenode.transport.interceptors.calls import Context
from hivenode.transport.interceptors.intake import Intake
from hivenode.transport.limits import LIMITS, ORIGIN_CONNECTIONS_SHARE, Limits
from hivenode.transport.metadata import PEER_TICKET, value_of
from hivenode.transport.node_calls import NodeCalls
from hivenode.transport.peer_service import PeerServer
from hivenode.transport.peers import GrpcPeers
from hivenode.transport.router import Router
from hivenode.transport.routing import ROUTES, Shape
from hivenode.transport.services.cluster import ClusterHandlers
from hivenode.transport.services.nodes import NodeHandlers
from hivenode.transport.services.tasks import TaskHandlers
from hivenode.transport.services.users import UserHandlers
from hivenode.transport.tickets import TicketExpiredError, Tickets
from hivenode.transport.tls import server_credentials

API_SERVICES: Final = tuple(
    service.full_name
    for module in (nodepool_pb2, hive_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    if service.name != "PeerService"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPorts:
    """What the servers call, and what they must know of this node.

    Args:
        user_of: the user of a name in this node's own state; None when it has none.
        admits: whether a proven node of this hive is let into the inner peer calls.
        is_voter: whether such a node has voter right.
        on_lan: whether an IP address is of a network that this machine is in.
        now_ms: wall clock, ms since 1970: for the expiry of node records.
        clock_ms: monotonic: for tickets and rates.
        on_broken: told of a broken invariant, which stops the daemon.
    """

    identity: Identity
    certificate: Certificate
    accounts: Accounts
    machine_owner: MachineOwner
    registry: Registry
    tasks: Tasks
    status: HiveStatus
    cluster: ClusterControl
    leadership: Leadership
    host: PeerHost
    runner: TaskRunner
    blobs: BlobStore
    user_of: Callable[[UserName], UserRecord | None]
    admits: Callable[[NodeId], bool]
    is_voter: Callable[[NodeId], bool]
    on_lan: Callable[[str], bool]
    now_ms: Callable[[], int]
    clock_ms: Callable[[], int]
    on_broken: Callable[[InvariantError], None]


class ApiServer:
    """Both servers of a daemon.

    Args:
        listen: `host:port` of the plain-text API; off loopback only with `insecure`.
        peer_listen: `host:port` of the peer port. Port 0 takes a free one in both.
        limits: what they allow.
    """

    def __init__(
        self,
        *,
        listen: str,
        peer_listen: str,
        insecure: bool,
        ports: ServedPorts,
        peers: GrpcPeers,
        limits: Limits = LIMITS,
    ) -> None:
        self._listen = listen
        self._peer_listen = peer_listen
        self._insecure = insecure
        self._limits = limits
        tickets = self._tickets = Tickets(ports.leadership.hive_id, ports.clock_ms, limits.origin_tickets)
        self._admits = ports.admits
        self._is_voter = ports.is_voter
        self._node_calls = NodeCalls(ports.is_voter)
        share = max(1, limits.connections // ORIGIN_CONNECTIONS_SHARE)
        self._connections = ConnectionShares(share)
        self._plain_connections = ConnectionShares(share, plain=True)
        self._credentials = server_credentials(ports.certificate, self._connections.accepted)
        self._router = Router(
            handlers={
                **UserHandlers(ports.accounts, ports.machine_owner, ports.user_of).table(),
                **NodeHandlers(ports.registry, ports.status).table(),
                **TaskHandlers(ports.tasks).table(),
                **ClusterHandlers(ports.cluster).table(),
            },
            accounts=ports.accounts,
            leadership=ports.leadership,
            forwarder=Forwarder(ports.identity.node_id, ports.leadership, peers.link_to),
            check_peer=self._check_peer,
            on_broken=ports.on_broken,
        )
        self._peer_server = PeerServer(
            identity=ports.identity,
            certificate_sha256=ports.certificate.sha256,
            host=ports.host,
            blobs=ports.blobs,
            runner=ports.runner,
            leadership=ports.leadership,
            tickets=tickets,
            now_ms=ports.now_ms,
            clock_ms=ports.clock_ms,
            admits=ports.admits,
            is_voter=ports.is_voter,
            on_lan=ports.on_lan,
            forward_join=peers.join,
            node_calls=self._node_calls,
            on_broken=ports.on_broken,
        )
        self._intake = Intake(
            large=[name for name, route in ROUTES.items() if route.large],
            bulky=[name for name, route in ROUTES.items() if route.bulky],
            uploads=[name for name, route in ROUTES.items() if route.shape is Shape.UPLOAD],
            downloads={name: route.streams for name, route in ROUTES.items() if route.shape is Shape.DOWNLOAD},
            prove=self._router.prove,
            user_here=self._router.user_here,
            member_of=self._member_of,
            lapsed_member_of=self._lapsed_member_of,
            is_voter=ports.is_voter,
            node_calls=self._node_calls,
            on_broken=ports.on_broken,
            limits=limits,
        )
        self._servers: list[grpc.aio.Server] = []
        self._health: list[Any] = []
        self.api_address = ""
        self.peer_address = ""

    def _member_of(self, context: Context) -> NodeId | None:
        """The proven member that makes a call."""
        ticket = value_of(context.invocation_metadata(), PEER_TICKET)
        if not ticket:
            return None
        try:
            holder = self._tickets.holder(ticket)
        except HiveError:
            return None
        return holder if self._admits(holder) else None

    def _lapsed_member_of(self, context: Context) -> NodeId | None:
        """The member whose ticket, merely expired, a call shows."""
        try:
            self._tickets.holder(value_of(context.invocation_metadata(), PEER_TICKET))
        except TicketExpiredError as error:
            return error.caller if self._admits(error.caller) else None
        except HiveError:
            pass
        return None

    def _check_peer(self, ticket: str, hive_id: str) -> tuple[NodeId, bool]:
        """The member of this hive that forwards a call, and whether it has voter right."""
        caller = self._tickets.check(ticket, hive_id)
        if not self._admits(caller):
            raise HiveError(Code.NOT_A_MEMBER, f"{caller} is not known as a member of this hive: join first")
        return caller, self._is_voter(caller)

    async def start(self) -> None:
        """Binds both ports and serves; `api_address` and `peer_address` say where.

        Raises:
            HiveError: INVALID_ARGUMENT when an address cannot be had, naming it and what to do.
        """
        host, _ = split_address(self._listen)
        if not self._insecure and not is_loopback(host):
            raise HiveError(
                Code.INVALID_ARGUMENT,
                f"--listen {self._listen} would serve the API in plain text to the network: "
                "use the peer port for other machines, or say --insecure",
            )
        try:
            self.api_address = await self._serve(self._listen, "--listen", "127.0.0.1:0", [self._router], None)
            self.peer_address = await self._serve(
                self._peer_listen,
                "--peer-listen",
                "0.0.0.0:0",
                [self._router, self._peer_server.handler()],
                self._credentials,
            )
            self._connections.watch(split_address(self.peer_address)[1])
            if not is_loopback(host):
                self._plain_connections.watch(split_address(self.api_address)[1])
        except HiveError:
            await self.stop(0)
            raise

    async def _serve(
        self,
        address: str,
        flag: str,
        free: str,
        handlers: list[grpc.GenericRpcHandler],
        credentials: grpc.ServerCredentials | None,
    ) -> str:
        streams_max = API_STREAMS_MAX if credentials is None else PEER_STREAMS_MAX
        options = (
            *SERVER_OPTIONS,
            ("grpc.max_concurrent_streams", streams_max),
            ("grpc.max_allowed_incoming_connections", self._limits.connections),
            ("grpc.max_connection_idle_ms", self._limits.idle_ms),
        )
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=CALLS_MAX, interceptors=[self._intake])
        server.add_generic_rpc_handlers(tuple(handlers))
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        reflection.enable_server_reflection((*API_SERVICES, reflection.SERVICE_NAME, health.SERVICE_NAME), server)
        try:
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise HiveError(
                Code.INVALID_ARGUMENT,
                f"{address} cannot be listened on, perhaps since another program has it: "
                f"choose another address, or a free port with `{flag} {free}`",
            ) from error
        await server.start()
        for name in ("", *API_SERVICES):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._servers.append(server)
        self._health.append(servicer)
        return f"{address.rpartition(':')[0]}:{port}"

    def cut_off(self, node: NodeId) -> None:
        """Ends all calls and streams of a node that is not trusted any more, those of its users among them."""
        self._tickets.revoke(node)
        self._node_calls.end(node)

    async def stop(self, deadline_s: float) -> None:
        """Takes no more calls, lets those under way end for `deadline_s`, and closes."""
        self._peer_server.stopping()
        self._connections.stop()
        self._plain_connections.stop()
        for servicer in self._health:
            await servicer.enter_graceful_shutdown()
        await asyncio.gather(*(server.stop(deadline_s) for server in self._servers))
        self._servers.clear()
        self._health.clear()
