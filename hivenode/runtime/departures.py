"""How a node goes out of the hive, as far as the leader decides it: when it may go, by which entries, and when it is out."""

from __future__ import annotations

from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.membership.voters import Place, VoterPolicyInput, departure_refusal
from hivenode.pool.commands import Sweep, TakeOutNode
from hivenode.pool.records import WayOut

CONFIRMS_DEPARTURE: Final = Sweep(keep_tasks_ms=0, rows_max=0)
"""Agreed on after the configuration is without a node, and before its daemon may end. Refused, since it sweeps nothing.

Whoever has this entry on disk has it there too that the change before it is committed. A member that restarts without knowing it
would count the vote of a daemon that has ended."""


_REASONS: Final = {
    WayOut.REMOVED: "The node was taken out of the hive.",
    WayOut.REVOKED: "The node is not trusted any more.",
    WayOut.DENIED: "",
}


def departure(node: NodeId, way: WayOut, decided_at: int) -> TakeOutNode:
    """Takes a node out, unless another one went since `refuse_departure` was asked with `decided_at` as the last entry applied.

    A leader that loses its place in between, or whose caller does, and the next one would else let go two of which the hive can
    do without either alone.
    """
    return TakeOutNode(node_id=node, way=way, reason=_REASONS[way], decided_at=decided_at)


def refuse_departure(given: VoterPolicyInput, node: NodeId, *, is_joint: bool, at_once: bool) -> None:
    """Returns when the hive can decide without a node.

    Args:
        given: what the leader sees.
        is_joint: the configuration is on its way to another one.
        at_once: the node is not heard any more from now on, as one that is revoked.

    Raises:
        HiveError: INSUFFICIENT_RESOURCES when too few voters would be left that answer, OVERLOADED while the voters change.
    """
    changes = is_joint or any(
        member.place is Place.VOTER and (member.left or not member.may_vote) and member.node_id != node
        for member in given.members
    )
    if changes:
        # Who is on its way out counts still, and may be one that is not heard.
        raise HiveError(Code.OVERLOADED, "the voters are being changed: ask again in a moment")
    refusal = departure_refusal(given, node, at_once=at_once)
    if refusal:
        raise HiveError(Code.INSUFFICIENT_RESOURCES, refusal)
