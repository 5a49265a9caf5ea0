"""Where one machine's process takes the others to be, by what it last heard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hivenode.encoding.node_record import NodeId

if TYPE_CHECKING:
    from simulations.node import Node


class AddressBook:
    """Who is not in it is taken to be where it is."""

    def __init__(self, node: Node) -> None:
        self._node: Final = node
        self._known: dict[str, str] = {}

    def forget(self) -> None:
        """A new life of the process has heard nothing yet."""
        self._known.clear()

    def learn(self, node_id: NodeId, addresses: tuple[str, ...]) -> None:
        """Somebody is there, by its own word or the hive's."""
        name = self._node.world.names[node_id]
        if addresses and name != self._node.name:
            self._known[name] = addresses[0]

    def address_of(self, other: Node) -> str:
        """Where this process takes another machine to be."""
        return self._known.get(other.name, other.address)

    def knows_way(self, name: str) -> bool:
        """Whether what is sent to a machine goes where it is now."""
        known = self._known.get(name)
        return known is None or known == self._node.world.nodes[name].address
