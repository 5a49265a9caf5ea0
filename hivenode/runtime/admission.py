"""Before a node is admitted under a key that the hive knows: does the one that has it live elsewhere? The leader asks there."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from hivenode.encoding.node_record import NodeId, NodeRecord
from hivenode.errors import Code, HiveError
from hivenode.membership.twins import Claim, TwinVerdict, addresses_to_ask, judge
from hivenode.pool.records import NodeEntry, NodeKind
from hivenode.runtime.ports import PeerNetwork
from hivenode.runtime.refusals import Refusals
from hivenode.runtime.together import together

CHECKS_MAX: Final = 8
"""Machines about which a leader asks at one moment, each at 16 addresses at the most, which joiners name. Others wait for their
turn, as long as their callers do."""
ASK_DEADLINE_S: Final = 2.0
"""A living machine answers within milliseconds, or five round trips when it is far away; the address of one that is gone stays
silent, and the joiner waits for this."""

_log = structlog.get_logger(__name__)


def twin_refusal(address: str) -> HiveError:
    """What a node is told whose key is in use elsewhere."""
    return HiveError(
        Code.NODE_EXISTS,
        f"the key of this machine is in use by a machine that is alive at {address}, as when a disk is cloned: "
        "remove node.key from the data directory of the copy, and it starts as a node of its own",
    )


class TwinChecks:
    """The leader's questions whether a joiner has a living twin: `CHECKS_MAX` at a time, and one of each machine."""

    def __init__(self, peers: PeerNetwork) -> None:
        self._peers = peers
        self._room = asyncio.Semaphore(CHECKS_MAX)
        self._going_on: set[NodeId] = set()
        self._refusals = Refusals()

    async def refuse_twin(self, known: NodeEntry | None, joiner: NodeRecord) -> None:
        """Returns when the joiner may take the place of `known`, what the hive has under its id.

        Raises:
            HiveError: NODE_EXISTS when another machine with this key is alive; NODE_OFFLINE when that cannot be told now;
                OVERLOADED while it is being asked for the same machine.
        """
        if known is None or known.kind is not NodeKind.HIVE:
            return
        admitted = Claim(node_id=known.node_id, incarnation=known.incarnation, addresses=known.addresses)
        newcomer = Claim(node_id=joiner.node_id, incarnation=joiner.incarnation, addresses=joiner.addresses)
        asked = addresses_to_ask(admitted, newcomer)
        if not asked:
            return
        if joiner.node_id in self._going_on:
            raise HiveError(Code.OVERLOADED, f"{joiner.node_id} is being asked for at its old address: ask again")
        self._going_on.add(joiner.node_id)
        try:
            async with self._room:
                await _refuse(self._peers, self._refusals, admitted, newcomer, asked)
        finally:
            self._going_on.discard(joiner.node_id)


async def _refuse(
    peers: PeerNetwork, refusals: Refusals, admitted: Claim, newcomer: Claim, asked: tuple[str, ...]
) -> None:
    """As `TwinChecks.refuse_twin`."""
    told = newcomer.addresses
    answers = await _ask(peers, asked)
    if judge(admitted, newcomer, answers) is not TwinVerdict.ALONE and admitted.incarnation == newcomer.incarnation:
        for itself in await _ask(peers, told):
            if (itself.node_id, itself.incarnation) == (admitted.node_id, admitted.incarnation):
                newcomer = itself
    match judge(admitted, newcomer, answers):
        case TwinVerdict.ALONE:
            if admitted.incarnation != newcomer.incarnation:
                _log.warning("a node without its log takes the place of its former self", node=newcomer.node_id)
        case TwinVerdict.TWIN:
            refusals.name(newcomer.node_id, "a second machine with one key", addresses=told)
            raise twin_refusal(next(a.addresses[0] for a in answers if a.node_id == admitted.node_id))
        case TwinVerdict.UNDECIDED:
            raise HiveError(
                Code.NODE_OFFLINE,
                f"{newcomer.node_id} still answers at its old address and not at {', '.join(told)}: ask again",
            )


async def _ask(peers: PeerNetwork, addresses: tuple[str, ...]) -> list[Claim]:
    """Who answers there; each claim bears the address that was asked."""

    async def one(address: str) -> Claim | None:
        try:
            intro = await peers.introduce(address, ASK_DEADLINE_S)
        except HiveError:
            return None
        record = intro.record
        return Claim(
            node_id=record.node_id, incarnation=record.incarnation, addresses=(address,), instance=intro.instance
        )

    found = await together(one(address) for address in addresses)
    return [claim for claim in found if claim is not None]
