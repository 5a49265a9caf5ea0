"""NodeManagerService, the node calls of NodePoolService, and what HiveService tells of the hive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from hivenode.encoding.node_record import Capabilities
from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.runtime.ports import HiveStatus, NodeListing, Registry
from hivenode.transport.interceptors.calls import Call
from hivenode.transport.services.handlers import Handler

LIST_BYTES_MAX: Final = (4 << 20) - (64 << 10)
"""Of the documented list of machines: programs of others refuse a message over 4 MiB, and then see none at all."""
_FRAME_BYTES: Final = 8
"""Around each machine in the list, at the most."""


def _worker_info(node: NodeListing) -> Any:
    offer = node.capabilities
    return nodepool_pb2.WorkerNodeInfo(
        node_id=node.node_id,
        hostname=node.hostname,
        cpu_cores=offer.cpu_cores,
        memory_gb=offer.memory_gb,
        cpu_score=offer.cpu_score,
        gpu_score=offer.gpu_score,
        gpu_memory_gb=offer.gpu_memory_gb,
        location=offer.location,
        port=node.port,
        gpu_name=offer.gpu_name,
        trust_level=node.trust_level,
        last_heartbeat=node.last_heartbeat_ms / 1000,
        docker_status=offer.docker_status,
        status=node.status,
    )


def _node(node: NodeListing) -> Any:
    offer = node.capabilities
    return hive_pb2.Node(
        node_id=node.node_id,
        hostname=node.hostname,
        role=node.role,
        owner=node.owner,
        alive=node.alive,
        status=node.status,
        addresses=node.addresses,
        cpu_cores=offer.cpu_cores,
        memory_gb=offer.memory_gb,
        cpu_score=offer.cpu_score,
        gpu_score=offer.gpu_score,
        gpu_memory_gb=offer.gpu_memory_gb,
        gpu_name=offer.gpu_name,
        location=offer.location,
        docker_status=offer.docker_status,
        executor=offer.executor,
        executor_note=offer.executor_note,
        slots=offer.slots,
        slots_free=node.slots_free,
        trust_level=node.trust_level,
        last_heartbeat_ms=node.last_heartbeat_ms,
    )


def cut(nodes: Iterable[Any]) -> Iterator[Any]:
    """Those from the beginning that are no more than `LIST_BYTES_MAX` together."""
    left = LIST_BYTES_MAX
    for node in nodes:
        left -= node.ByteSize() + _FRAME_BYTES
        if left < 0:
            return
        yield node


class NodeHandlers:
    def __init__(self, registry: Registry, status: HiveStatus) -> None:
        self._registry = registry
        self._status = status

    def table(self) -> dict[str, Handler]:
        manager, pool, hive = "/nodepool.NodeManagerService/", "/nodepool.NodePoolService/", "/hive.HiveService/"
        return {
            manager + "RegisterWorkerNode": self.register,
            manager + "RegisterNode": self.register,
            pool + "RegisterNode": self.register,
            pool + "UnregisterNode": self.unregister,
            manager + "HealthCheck": self.health,
            manager + "Heartbeat": self.health,
            manager + "ReportStatus": self.report_status,
            manager + "ReportNodeStatus": self.report_status,
            manager + "GetNodeList": self.node_list,
            hive + "ListNodes": self.nodes,
            hive + "GetStatus": self.status,
        }

    async def register(self, request: Any, call: Call) -> Any:
        # A foreign worker's own word on trust and heartbeat counts for nothing, and it is given no tasks: no slots.
        offer = Capabilities(
            hostname=request.hostname,
            cpu_cores=request.cpu_cores,
            memory_gb=request.memory_gb,
            cpu_score=request.cpu_score,
            gpu_score=request.gpu_score,
            gpu_memory_gb=request.gpu_memory_gb,
            gpu_name=request.gpu_name,
            location=request.location,
            docker_status=request.docker_status,
            executor="",
            executor_note="registered by the documented call: it is listed and given no tasks",
            slots=0,
        )
        node = request.node_id
        await self._registry.register_worker(call.session, node, offer, request.port, call.caller)
        return nodepool_pb2.StatusResponse(success=True, message=f"node {node} registered", status="registered")

    async def unregister(self, request: Any, call: Call) -> Any:
        node = request.node_id
        await self._registry.unregister(call.session, node, call.caller)
        return nodepool_pb2.StatusResponse(success=True, message=f"node {node} unregistered", status="unregistered")

    async def health(self, request: Any, call: Call) -> Any:
        health = await self._registry.health(request.node_id)
        return nodepool_pb2.HealthCheckResponse(
            status=health.status, message=health.message, healthy=health.healthy, timestamp=health.time_ms // 1000
        )

    async def report_status(self, request: Any, call: Call) -> Any:
        node, status = request.node_id, request.status
        await self._registry.report_status(call.session, node, status, call.caller)
        return nodepool_pb2.StatusResponse(success=True, message="status noted", status=status)

    async def node_list(self, request: Any, call: Call) -> Any:
        return nodepool_pb2.GetNodeListResponse(nodes=cut(map(_worker_info, await self._registry.nodes())))

    async def nodes(self, request: Any, call: Call) -> Any:
        return hive_pb2.ListNodesResponse(nodes=[_node(node) for node in await self._registry.nodes()])

    async def status(self, request: Any, call: Call) -> Any:
        report = self._status.report()
        members = [
            hive_pb2.Member(
                member_id=member.member_id,
                node_id=member.node_id,
                voter=member.voter,
                match_index=member.match_index,
                alive=member.alive,
            )
            for member in report.members
        ]
        # The field names of the report are those of the message, so that a new one is added in two places and not three.
        plain = {
            field.name: getattr(report, field.name)
            for field in hive_pb2.GetStatusResponse.DESCRIPTOR.fields
            if field.name != "members"
        }
        return hive_pb2.GetStatusResponse(**plain, members=members)
