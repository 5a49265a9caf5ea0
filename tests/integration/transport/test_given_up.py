"""A link that is given up for good in the midst of a dial: nobody gets a connection of it, and none stays open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hivenode.errors import Code
from hivenode.runtime.ports import PeerAddress
from tests.integration.transport.parts import DEADLINE_S, nodes
from tests.integration.transport.peer_calls import failure_of
from tests.support.relay import relay


@pytest.mark.parametrize("how", ["cut_off", "aclose"])
@pytest.mark.parametrize("proof", ["first", "renewed"])
@pytest.mark.parametrize("asked", ["introduction", "hive_id"])
async def test_a_link_that_is_given_up_while_it_is_proven_dials_no_more(
    asked: str, proof: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asked` is what the callee is asked for in the midst of a challenge, and of a proof."""
    taken: list[asyncio.Task[None]] = []
    closing: list[asyncio.Future[None]] = []
    async with nodes(2) as (a, b), relay(b.server.peer_address, "127.0.0.1", taken) as address:
        link = a.peers.link_to(PeerAddress(node_id=b.id, addresses=(address,)))
        if proof == "renewed":
            (await link.connect(DEADLINE_S)).refused = True
        answer = getattr(b.ports, asked)

        def given_up() -> Any:
            if how == "cut_off":
                a.peers.cut_off(b.id)
            elif not closing:
                closing.append(asyncio.ensure_future(a.peers.aclose()))
            return answer()

        monkeypatch.setattr(b.ports, asked, given_up)
        assert (await failure_of(link.connect(DEADLINE_S))).code is Code.NODE_OFFLINE
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait([*taken, *closing])
        count = len(taken)
        assert (await failure_of(link.connect(DEADLINE_S))).code is Code.NODE_OFFLINE
        assert len(taken) == count
