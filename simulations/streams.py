"""The streams between one machine's process and others: workers' to the leader, and at the leader those of its workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from simulations.network import Stream

if TYPE_CHECKING:
    from simulations.node import Node


class Streams:
    """The open ends that one machine's process has, and how they end with it."""

    def __init__(self, node: Node) -> None:
        self._node: Final = node
        self._open: dict[int, tuple[Stream, int]] = {}
        """With the side of the stream that is here."""
        self._count = 0

    def process_ended(self, *, silently: bool) -> None:
        """The other sides hear of it by and by, or `silently` nothing, as when the machine lost its power."""
        ended, self._open = list(self._open.values()), {}
        for stream, side in ended:
            if silently:
                stream.fall_silent(side)
            else:
                stream.close(side)

    def open(self, target: Node, receive: Callable[[Any], None], closed: Callable[[bool], None]) -> Stream:
        """Opens a worker's stream to the node that is taken for the leader."""
        node = self._node
        holder: list[Stream] = []
        own_key, its_key = self._next_key(), target.streams._next_key()
        boot = target.boots

        def accept() -> tuple[Callable[[Any], None], Callable[[bool], None]]:
            coordinator = target.coordinator
            if coordinator is None:
                return (lambda _event: holder[0].close(1)), (lambda _reset: None)
            return coordinator.accept(node, holder[0])

        handlers: list[tuple[Callable[[Any], None], Callable[[bool], None]]] = []

        def receive_there(event: Any) -> None:
            if target.alive and target.boots == boot:
                target.run(lambda: handlers[0][0](event))

        def closed_there(reset: bool) -> None:
            target.streams._open.pop(its_key, None)
            if target.alive and target.boots == boot:
                target.run(lambda: handlers[0][1](reset))

        my_boot = node.boots

        def receive_here(order: Any) -> None:
            if node.alive and node.boots == my_boot:
                node.run(lambda: receive(order))

        def closed_here(reset: bool) -> None:
            self._open.pop(own_key, None)
            if node.alive and node.boots == my_boot:
                node.run(lambda: closed(reset))

        stream = Stream(
            node.world.engine,
            node.world.network,
            (node.name, target.name),
            (receive_here, receive_there),
            (closed_here, closed_there),
        )
        holder.append(stream)
        handlers.append(accept())
        self._open[own_key] = (stream, 0)
        target.streams._open[its_key] = (stream, 1)
        return stream

    def _next_key(self) -> int:
        self._count += 1
        return self._count
