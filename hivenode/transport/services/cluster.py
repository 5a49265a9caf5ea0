"""The calls of HiveService by which the owner of this machine manages the hive; the routes let nobody else in."""

from __future__ import annotations

from typing import Any

from hivenode.pb import hive_pb2
from hivenode.pool.records import NodeRights
from hivenode.runtime.ports import ClusterAction, ClusterControl, ClusterOrder, PendingNode
from hivenode.transport.interceptors.calls import Call
from hivenode.transport.services.handlers import Handler


def pending_node(node: PendingNode) -> Any:
    """As the message says it."""
    return hive_pb2.PendingNode(
        node_id=node.node_id,
        hostname=node.hostname,
        addresses=node.addresses,
        wants=node.wants.value,
        is_in=node.is_in,
    )


class ClusterHandlers:
    def __init__(self, control: ClusterControl) -> None:
        self._control = control

    def table(self) -> dict[str, Handler]:
        hive = "/hive.HiveService/"
        return {
            hive + "RemoveNode": self.remove,
            hive + "TransferLeadership": self.transfer,
            hive + "CreateJoinToken": self.create_token,
            hive + "ListPending": self.pending,
            hive + "ApproveNode": self.approve,
            hive + "DenyNode": self.deny,
            hive + "RevokeNode": self.revoke,
            hive + "LeaveHive": self.leave,
            hive + "JoinHive": self.join,
            hive + "MakeSnapshot": self.snapshot,
        }

    async def remove(self, request: Any, call: Call) -> Any:
        node = await self._control.remove(request.node_id, max(call.remaining_s(), 0))
        return hive_pb2.NodeManaged(node_id=node)

    async def transfer(self, request: Any, call: Call) -> Any:
        node = await self._control.hand_leadership(request.node_id, max(call.remaining_s(), 0))
        return hive_pb2.NodeManaged(node_id=node)

    async def create_token(self, request: Any, call: Call) -> Any:
        rights = NodeRights(request.rights.lower())
        lifetime_ms = request.lifetime_s * 1_000
        token, expires_ms = await self._control.create_token(rights, lifetime_ms, max(call.remaining_s(), 0))
        return hive_pb2.CreateJoinTokenResponse(token=token, expires_ms=expires_ms)

    async def pending(self, request: Any, call: Call) -> Any:
        order = ClusterOrder(action=ClusterAction.PENDING)
        answer = await self._control.manage(order, max(call.remaining_s(), 0))
        return hive_pb2.ListPendingResponse(nodes=[pending_node(node) for node in answer.pending])

    async def approve(self, request: Any, call: Call) -> Any:
        return await self._managed(ClusterAction.APPROVE, request, call, NodeRights(request.rights.lower()))

    async def deny(self, request: Any, call: Call) -> Any:
        return await self._managed(ClusterAction.DENY, request, call)

    async def revoke(self, request: Any, call: Call) -> Any:
        return await self._managed(ClusterAction.REVOKE, request, call)

    async def _managed(
        self, action: ClusterAction, request: Any, call: Call, rights: NodeRights = NodeRights.WORKER
    ) -> Any:
        order = ClusterOrder(action=action, node=request.node_id, rights=rights)
        answer = await self._control.manage(order, max(call.remaining_s(), 0))
        return hive_pb2.NodeManaged(node_id=answer.node)

    async def leave(self, request: Any, call: Call) -> Any:
        await self._control.leave(max(call.remaining_s(), 0))
        return hive_pb2.LeaveHiveResponse()

    async def join(self, request: Any, call: Call) -> Any:
        remaining_s = max(call.remaining_s(), 0)
        if request.token:
            hive_id = await self._control.join_by_token(request.token, request.abandon, remaining_s)
        else:
            hive_id = await self._control.move(request.address, request.abandon, remaining_s)
        return hive_pb2.JoinHiveResponse(hive_id=hive_id)

    async def snapshot(self, request: Any, call: Call) -> Any:
        made = await self._control.snapshot()
        return hive_pb2.MakeSnapshotResponse(
            path=str(made.path), index=made.index, term=made.term, size_bytes=made.size_bytes, sha256=made.sha256
        )
