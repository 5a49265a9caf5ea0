"""Where a node takes others to be: what the hive agreed on, and what they say themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hivenode.encoding.node_record import NodeId
from hivenode.runtime.local import LocalNode
from hivenode.runtime.ports import PeerAddress
from tests.unit.pool.driver import Hive, node_id

HIVE = "h" * 32
AGREED = ("10.0.0.1:50052",)  # As records of the driver have it.
ELSEWHERE = ("10.0.0.99:50052",)


def local_of(*, replica: bool) -> tuple[Any, dict[NodeId, tuple[str, ...]]]:
    """What of a node keeps addresses, as a member with the log or without it; and what its links were told."""
    links: dict[NodeId, tuple[str, ...]] = {}
    hive = Hive()
    known = hive.node(7)
    local: Any = SimpleNamespace(
        node_id=node_id(1),
        hive_id=lambda: HIVE,
        _known={},
        _replica=SimpleNamespace(view=lambda: hive.view) if replica else None,
        _roster=SimpleNamespace(hive_id=HIVE, addresses={known: AGREED}),
        _peers=SimpleNamespace(learn=lambda peer: links.update({peer.node_id: peer.addresses})),
    )
    local._agreed_addresses = lambda node: LocalNode._agreed_addresses(local, node)
    return local, links


@pytest.mark.parametrize("replica", [True, False], ids=["with log", "light"])
def test_who_says_that_it_is_elsewhere_is_looked_for_there_and_where_the_hive_has_it(replica: bool) -> None:
    local, links = local_of(replica=replica)
    LocalNode.note_address(local, PeerAddress(node_id=node_id(7), addresses=ELSEWHERE))
    assert links[node_id(7)] == local._known[node_id(7)].addresses == (*ELSEWHERE, *AGREED)
    LocalNode.note_address(local, PeerAddress(node_id=node_id(7), addresses=AGREED))
    assert links[node_id(7)] == AGREED


def test_of_many_addresses_the_first_of_each_kind_are_kept() -> None:
    local, links = local_of(replica=True)
    many = tuple(f"10.0.1.{number}:50052" for number in range(5_000))
    LocalNode.note_address(local, PeerAddress(node_id=node_id(7), addresses=many))
    assert links[node_id(7)] == (*many[:16], *AGREED)


def test_a_stranger_is_where_it_says() -> None:
    local, links = local_of(replica=True)
    LocalNode.note_address(local, PeerAddress(node_id=node_id(8), addresses=ELSEWHERE))
    assert links[node_id(8)] == ELSEWHERE


def test_what_another_hive_told_is_no_matter() -> None:
    local, links = local_of(replica=False)
    local._roster.hive_id = "another"
    LocalNode.note_address(local, PeerAddress(node_id=node_id(7), addresses=ELSEWHERE))
    assert links[node_id(7)] == ELSEWHERE
