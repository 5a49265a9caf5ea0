"""One key at two live addresses: whether a node that asks to be taken in has a living twin, as a cloned disk image makes one.

Rules
1. The one that was admitted stays; the newcomer is refused while the other answers.
2. With another incarnation than the admitted one, any answer of the admitted incarnation says that there are two.
3. With the same incarnation (log and key were copied) two lives of one daemon are told apart by their instance: each start of
   a daemon draws a new one. Only addresses that the newcomer does not name itself are asked.
4. Who answers under an address with another key, or not at all, says nothing: addresses are given to others.
5. Two that meet each other directly need no hive to judge: who is in no hive gives way to who is in one; else the later start.
   An instance begins with the time of the start, so that it sorts by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from hivenode.encoding.node_record import NodeId

INSTANCE_CHARACTERS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who a node says it is, and where; proven by its key. `instance` is empty where it is not known."""

    node_id: NodeId
    incarnation: str
    addresses: tuple[str, ...]
    instance: str = ""


@unique
class TwinVerdict(Enum):
    ALONE = "alone"
    """The newcomer is the one node of its key, or takes the place of one that is gone."""
    TWIN = "twin"
    """The admitted one answers, and is another."""
    UNDECIDED = "undecided"
    """Somebody with the same log answers at the old address, and nobody at the new one: who it is cannot be told now."""


def addresses_to_ask(admitted: Claim, newcomer: Claim) -> tuple[str, ...]:
    """Where a twin would answer; none when the newcomer is plainly the admitted one."""
    if admitted.incarnation != newcomer.incarnation:
        return admitted.addresses
    return tuple(address for address in admitted.addresses if address not in newcomer.addresses)


def judge(admitted: Claim, newcomer: Claim, answers: Sequence[Claim]) -> TwinVerdict:
    """What the answers from `addresses_to_ask` say. `newcomer.instance` is what answers at its own addresses."""
    alive = [a for a in answers if (a.node_id, a.incarnation) == (admitted.node_id, admitted.incarnation)]
    if not alive:
        return TwinVerdict.ALONE
    if admitted.incarnation != newcomer.incarnation:
        return TwinVerdict.TWIN
    if not newcomer.instance:
        return TwinVerdict.UNDECIDED
    return TwinVerdict.ALONE if all(a.instance == newcomer.instance for a in alive) else TwinVerdict.TWIN


def gives_way(*, mine: str, in_hive: bool, others: str, other_in_hive: bool) -> bool:
    """Whether this node, which met a node of its own key, is the newcomer of the two. `mine`, `others`: the instances."""
    if not others or mine == others:
        return False
    if in_hive != other_in_hive:
        return not in_hive
    return mine > others
