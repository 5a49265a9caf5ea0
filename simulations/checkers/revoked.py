"""What an operator was promised of a machine that is not trusted any more.

| promise | looked at |
|---|---|
| a member that has applied the revocation hears no consensus from it, unless those ahead let it in again | at each message |
| the hive neither takes it in nor gives it work nor takes work of it | at every first application |

All that until it is approved again.
"""

from __future__ import annotations

from typing import Any

from hivenode.encoding.node_record import NodeId, SignedNodeRecord, open_record
from hivenode.encoding.records import decode_record
from hivenode.pool.commands import AdmitNode, ApproveNode, AssignTask, EndAttempt, RevokeNode, StartAttempt, TakeOutNode
from hivenode.pool.records import WayOut
from simulations.checkers.violation import demand


class RevokedChecker:
    """Told of every accepted command, and of what members hear."""

    def __init__(self) -> None:
        self._said: dict[NodeId, list[tuple[int, bool]]] = {}
        """By machine: the entries that revoked it, and those that approved it."""
        self._let_in: dict[NodeId, list[int]] = {}
        """By machine that was revoked before: the entries that took it in."""

    @property
    def any(self) -> bool:
        """Whether anybody was ever revoked."""
        return bool(self._said)

    def concerns(self, node_id: NodeId) -> bool:
        """Whether a machine was ever revoked."""
        return node_id in self._said

    def agreed(self, index: int, command: Any) -> None:
        """A command was accepted."""
        match command:
            case RevokeNode(node_id=node_id) | TakeOutNode(node_id=node_id, way=WayOut.REVOKED | WayOut.DENIED):
                self._said.setdefault(NodeId(node_id), []).append((index, True))
            case ApproveNode(node_id=node_id) if node_id in self._said:
                self._said[NodeId(node_id)].append((index, False))
            case AssignTask(node_id=node_id) | StartAttempt(node_id=node_id) | EndAttempt(node_id=node_id):
                demand(
                    not self._is_out(NodeId(node_id), index), f"entry {index} lets a revoked machine work: {command}"
                )
            case AdmitNode(signed_record=signed) if self._said:
                record = open_record(decode_record(SignedNodeRecord, signed), lambda _key, _message, _signature: True)
                demand(not self._is_out(record.node_id, index), f"entry {index} takes in a revoked machine: {record}")
                if record.node_id in self._said:
                    self._let_in.setdefault(record.node_id, []).append(index)
            case _:
                pass

    def heard(self, name: str, source: NodeId, source_name: str, applied_index: int) -> None:
        """A member takes a message of another. One that lags may have it from others that a machine was let in again."""
        let_in = any(at > applied_index for at in self._let_in.get(source, ()))
        demand(
            let_in or not self._is_out(source, applied_index),
            f"{name} has applied {applied_index}, and hears {source_name}, which was revoked before",
        )

    def roll_back(self, last: int) -> None:
        """What came after an entry is lost for ever."""
        for node_id, said in self._said.items():
            self._said[node_id] = [word for word in said if word[0] <= last]
        for node_id, let_in in self._let_in.items():
            self._let_in[node_id] = [at for at in let_in if at <= last]

    def _is_out(self, node_id: NodeId, index: int) -> bool:
        """Whether a machine is kept out by the state as of an entry."""
        return next((out for at, out in reversed(self._said.get(node_id, ())) if at <= index), False)
