"""The calls of HiveService by which the owner of this machine manages the hive; the routes let nobody else in."""

from __future__ import annotations

from typing import Any

from hivenode.pb import hive_pb2
from hivenode.runtime.ports import ClusterControl
from hivenode.transport.interceptors.calls import Call
from hivenode.transport.services.handlers import Handler


class ClusterHandlers:
    def __init__(self, control: ClusterControl) -> None:
        self._control = control

    def table(self) -> dict[str, Handler]:
        hive = "/hive.HiveService/"
        return {
            hive + "RemoveNode": self.remove,
            hive + "TransferLeadership": self.transfer,
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

    async def leave(self, request: Any, call: Call) -> Any:
        await self._control.leave(max(call.remaining_s(), 0))
        return hive_pb2.LeaveHiveResponse()

    async def join(self, request: Any, call: Call) -> Any:
        hive_id = await self._control.move(request.address, request.abandon, max(call.remaining_s(), 0))
        return hive_pb2.JoinHiveResponse(hive_id=hive_id)

    async def snapshot(self, request: Any, call: Call) -> Any:
        made = await self._control.snapshot()
        return hive_pb2.MakeSnapshotResponse(
            path=str(made.path), index=made.index, term=made.term, size_bytes=made.size_bytes, sha256=made.sha256
        )
