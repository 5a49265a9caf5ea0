"""The calls and streams of other nodes that are under way here: bounded, and ended with a node's membership."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError

WORKER_CALLS_MAX: Final = 256
"""Of a node without voter right: a stream of orders, reports, blobs and logs, and what its own users ask by it."""
VOTER_CALLS_MAX: Final = 1_024
"""Of a node with it, which forwards the calls of many users: as many as one connection carries."""


class NodeCalls:
    """Counts them. Args: is_voter: whether a node has voter right."""

    def __init__(self, is_voter: Callable[[NodeId], bool]) -> None:
        self._is_voter = is_voter
        self._under_way: dict[NodeId, set[asyncio.Task[Any]]] = {}
        self._ended: WeakSet[asyncio.Task[Any]] = WeakSet()

    def note(self, node: NodeId) -> None:
        """The task that asks serves a call of this node. A second time for one call counts nothing. Raises OVERLOADED."""
        task = asyncio.current_task()
        calls = self._under_way.setdefault(node, set())
        if task is None or task in calls:
            return
        most = VOTER_CALLS_MAX if self._is_voter(node) else WORKER_CALLS_MAX
        if len(calls) >= most:
            raise HiveError(Code.OVERLOADED, f"{most} calls of {node} are under way: wait for some to end")
        calls.add(task)

        def ended(done: asyncio.Task[Any]) -> None:
            calls.discard(done)
            if not calls and self._under_way.get(node) is calls:
                del self._under_way[node]

        task.add_done_callback(ended)

    def end(self, node: NodeId) -> None:
        """Ends all calls of a node that is not trusted any more."""
        for task in tuple(self._under_way.get(node, ())):
            self._ended.add(task)
            task.cancel()

    def refusal(self, error: BaseException) -> HiveError | None:
        """What the caller is told whose call `end` broke off by this error: gRPC tells it nothing. None for all else."""
        task = asyncio.current_task()
        if task is None or not isinstance(error, asyncio.CancelledError) or task not in self._ended:
            return None
        task.uncancel()
        return HiveError(Code.NODE_REMOVED, "the node that brought this call is not in the hive any more")
