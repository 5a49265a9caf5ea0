"""What a part of the daemon keeps of each node in the list: read once from all rows, and then from those that changed.

There may be thousands of rows, which take tens of ms of the event loop, and whoever asks may be a stranger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from hivenode.encoding.state_view import ReadView
from hivenode.pool import queries
from hivenode.pool.events import Event, NodeChanged, NodeRemoved, StateReplaced
from hivenode.pool.records import NodeEntry

CHANGED_MAX: Final = 8_192
"""Changes that wait to be read; past it all rows are read again."""
T = TypeVar("T")


class NodeWatch(Generic[T]):
    """See the module; `read` says what is kept of a node, None for nothing."""

    def __init__(self, read: Callable[[NodeEntry], T | None]) -> None:
        self._read = read
        self._kept: dict[str, T] | None = None  # None until all are read.
        self._changed: set[str] = set()  # Since they were.

    def applied(self, events: tuple[Event, ...]) -> None:
        """To be told of all that happens in the hive."""
        if self._kept is None:
            return
        for event in events:
            if isinstance(event, NodeChanged | NodeRemoved):
                self._changed.add(event.node_id)
            elif isinstance(event, StateReplaced):
                self._forget()
                return
        if len(self._changed) > CHANGED_MAX:
            self._forget()

    def _forget(self) -> None:
        self._changed.clear()
        self._kept = None

    def kept(self, view: ReadView) -> Mapping[str, T]:
        """What is kept of each node, by its id."""
        if self._kept is None:
            read = ((entry.node_id, self._read(entry)) for entry in queries.nodes(view))
            self._kept = {node: kept for node, kept in read if kept is not None}
        for node in self._changed:
            entry = queries.node(view, node)
            kept = None if entry is None else self._read(entry)
            if kept is None:
                self._kept.pop(node, None)
            else:
                self._kept[node] = kept
        self._changed.clear()
        return self._kept
