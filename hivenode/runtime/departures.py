"""How a node goes out of the hive, as far as the leader decides it: when it may go, by which entries, and when it is out."""

from __future__ import annotations

from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.membership.voters import Place, VoterPolicyInput, departure_refusal
from hivenode.pool.commands import RemoveNode, RevokeNode, Sweep

CONFIRMS_DEPARTURE: Final = Sweep(keep_tasks_ms=0, rows_max=0)
"""Agreed on after the configuration is without a node, and before its daemon may end. Refused, since it sweeps nothing.

Whoever has this entry on disk has it there too that the change before it is committed. A member that restarts without knowing it
would count the vote of a daemon that has ended."""


def removal(node: NodeId) -> RemoveNode:
    """Takes a node off the hive's list; its vote counts until the configuration is without it."""
    return RemoveNode(node_id=node, reason="The node was taken out of the hive.")


def revocation(node: NodeId) -> RevokeNode:
    """The same for a node that is not heard any more from then on."""
    return RevokeNode(node_id=node, reason="The node is not trusted any more.")


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
