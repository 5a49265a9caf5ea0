"""Before a node is admitted under a key that the hive knows: does the one that has it live elsewhere? The leader asks there."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from hivenode.encoding.node_record import NodeRecord
from hivenode.errors import Code, HiveError
from hivenode.membership.twins import Claim, TwinVerdict, addresses_to_ask, judge
from hivenode.pool.records import NodeEntry, NodeKind
from hivenode.runtime.ports import PeerNetwork

ASK_DEADLINE_S: Final = 1.0
"""A living machine answers within milliseconds; the address of one that is gone stays silent, and the joiner waits for this."""

_log = structlog.get_logger(__name__)


def twin_refusal(address: str) -> HiveError:
    """What a node is told whose key is in use elsewhere."""
    return HiveError(
        Code.NODE_EXISTS,
        f"the key of this machine is in use by a machine that is alive at {address}, as when a disk is cloned: "
        "remove node.key from the data directory of the copy, and it starts as a node of its own",
    )


async def refuse_twin(peers: PeerNetwork, known: NodeEntry | None, joiner: NodeRecord) -> None:
    """Returns when the joiner may take the place of `known`, what the hive has under its id.

    Raises:
        HiveError: NODE_EXISTS when another machine with this key is alive; NODE_OFFLINE when that cannot be told now.
    """
    if known is None or known.kind is not NodeKind.HIVE:
        return
    admitted = Claim(node_id=known.node_id, incarnation=known.incarnation, addresses=known.addresses)
    newcomer = Claim(node_id=joiner.node_id, incarnation=joiner.incarnation, addresses=joiner.addresses)
    asked = addresses_to_ask(admitted, newcomer)
    if not asked:
        return
    answers = await _ask(peers, asked)
    if judge(admitted, newcomer, answers) is not TwinVerdict.ALONE and known.incarnation == joiner.incarnation:
        for itself in await _ask(peers, joiner.addresses):
            if (itself.node_id, itself.incarnation) == (joiner.node_id, joiner.incarnation):
                newcomer = itself
    match judge(admitted, newcomer, answers):
        case TwinVerdict.ALONE:
            if known.incarnation != joiner.incarnation:
                _log.warning("a node without its log takes the place of its former self", node=joiner.node_id)
        case TwinVerdict.TWIN:
            _log.warning("refused a second machine with one key", node=joiner.node_id, addresses=joiner.addresses)
            raise twin_refusal(next(a.addresses[0] for a in answers if a.node_id == known.node_id))
        case TwinVerdict.UNDECIDED:
            raise HiveError(
                Code.NODE_OFFLINE,
                f"{joiner.node_id} still answers at its old address and not at {', '.join(joiner.addresses)}: ask again",
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

    found = await asyncio.gather(*(one(address) for address in addresses))
    return [claim for claim in found if claim is not None]
