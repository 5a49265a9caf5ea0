"""Who leads, asked of other machines: those that know first, some at once, and nobody for longer than the deadline."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import nacl.signing
import pytest

from hivenode.consensus import MemberId
from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.identity import Identity
from hivenode.runtime.leader_search import ASKED_AT_ONCE, LeaderSearch
from hivenode.runtime.local import LocalNode
from hivenode.runtime.ports import HivePhase, Introduction, PeerAddress, Standing
from hivenode.worker.uplink import Uplink
from tests.support.local_agreement import HIVE_ID, node_record

DEADLINE_S = 20.0


def peer(number: int) -> PeerAddress:
    identity = Identity(nacl.signing.SigningKey(number.to_bytes(32, "big")))
    return PeerAddress(node_id=identity.node_id, addresses=(f"10.0.0.{number}:50052",))


def introduction(number: int, leader: PeerAddress | None, hive_id: str = HIVE_ID) -> Introduction:
    identity = Identity(nacl.signing.SigningKey(number.to_bytes(32, "big")))
    record = replace(node_record(identity), addresses=peer(number).addresses)
    return Introduction(
        record=record,
        signed=identity.sign_record(record),
        hive_id=hive_id,
        phase=HivePhase.MEMBER,
        hive_created_ms=0,
        members=0,
        leader=leader,
        confirmed=(),
        instance="i",
    )


class Lan:
    """Machines by address: what each answers; those without an answer are silent."""

    def __init__(self, answers: dict[int, Introduction]) -> None:
        self._answers = {peer(number).addresses[0]: answer for number, answer in answers.items()}
        self.asked: list[str] = []
        self.silent = 0
        self.most_silent = 0

    async def introduce(self, address: str, deadline_s: float) -> Introduction:
        self.asked.append(address)
        answer = self._answers.get(address)
        if answer is not None:
            return answer
        self.silent += 1
        self.most_silent = max(self.silent, self.most_silent)
        try:
            # A machine without power: nothing comes, until the caller gives up.
            async with asyncio.timeout(deadline_s / 1_000):
                await asyncio.Event().wait()
        except TimeoutError:
            raise HiveError(Code.NODE_OFFLINE, "silent") from None
        finally:
            self.silent -= 1
        raise AssertionError


async def test_many_silent_machines_are_asked_at_once() -> None:
    lan = Lan({100: introduction(100, peer(100))})
    peers = [peer(number) for number in range(1, 101)]
    found = await LeaderSearch(lan.introduce).find(peers, HIVE_ID, DEADLINE_S)
    assert found is not None
    assert found.leader == peer(100)
    assert 1 < lan.most_silent <= ASKED_AT_ONCE


async def test_who_knew_the_leader_before_is_asked_first() -> None:
    lan = Lan({number: introduction(number, None) for number in range(1, 100)})
    search = LeaderSearch(lan.introduce)
    search.note(introduction(70, peer(71)))
    assert await search.find([peer(number) for number in range(1, 100)], HIVE_ID, DEADLINE_S) is None
    assert set(lan.asked[:2]) == {peer(70).addresses[0], peer(71).addresses[0]}
    # Now neither knows, and neither is asked before the others any more.
    lan.asked.clear()
    await search.find([peer(number) for number in range(1, 100)], HIVE_ID, DEADLINE_S)
    assert lan.asked == [one.addresses[0] for one in sorted(map(peer, range(1, 100)), key=lambda one: one.node_id)]


async def test_another_hives_leader_is_nobody() -> None:
    lan = Lan({1: introduction(1, peer(1), hive_id="f" * 32)})
    assert await LeaderSearch(lan.introduce).find([peer(1)], HIVE_ID, DEADLINE_S) is None


async def test_a_search_ends_with_its_deadline() -> None:
    async def never(address: str, deadline_s: float) -> Introduction:
        await asyncio.Event().wait()
        raise AssertionError

    assert await LeaderSearch(never).find([peer(1)], HIVE_ID, 0.01) is None


# --- whose place in the log went to another -----------------------------------------------------------------------------


def replica_without_leader() -> Any:
    """A replica that was a member once and hears nobody."""

    async def wait_for_leader(deadline_s: float) -> None:
        raise HiveError(Code.NO_LEADER, "the hive has no leader")

    return SimpleNamespace(has_configuration=True, leader=None, leads=False, wait_for_leader=wait_for_leader)


def local_node(lan: Lan, replica: Any) -> Any:
    """Of the local node what finds the leader, around a real search."""
    node: Any = SimpleNamespace(
        _replica=replica,
        _light_leader=None,
        _heard_leader=None,
        _searching=None,
        _search=LeaderSearch(lan.introduce),
        _known={peer(number).node_id: peer(number) for number in (1, 2)},
        node_id=NodeId("0" * 64),
        hive_id=lambda: HIVE_ID,
        address_of=lambda found: PeerAddress(node_id=found, addresses=()),
        note_address=lambda _peer: None,
        note_peer=lambda _intro: None,
        may_hold_state=lambda _node: True,
    )
    for name in (
        "standing",
        "_leader_of_the_log",
        "_ask_for_leader",
        "_search_leader",
        "leader",
        "forget_leader",
        "_leader_heard",
    ):
        setattr(node, name, getattr(LocalNode, name).__get__(node))
    return node


async def test_a_replica_that_hears_no_leader_while_others_do_is_a_light_node_until_it_hears_one_again() -> None:
    replica = replica_without_leader()
    node = local_node(Lan({1: introduction(1, peer(9))}), replica)
    assert node.standing() is Standing.REPLICA
    assert await node.leader(DEADLINE_S) == peer(9)
    assert node.standing() is Standing.LIGHT
    replica.leader = "somebody"
    node._leader_heard(replica)
    assert node.standing() is Standing.REPLICA
    replica.leader = None
    assert node.standing() is Standing.REPLICA


async def test_what_others_said_of_a_leader_that_the_log_heard_meanwhile_is_not_kept() -> None:
    """It would be asked when it is lost, and be waited for until the caller gave up."""
    replica = replica_without_leader()
    node = local_node(Lan({1: introduction(1, peer(9))}), replica)
    replica.leader = "somebody"
    assert await node._ask_for_leader(DEADLINE_S) == peer(9)
    node._leader_heard(replica)
    assert await node._ask_for_leader(DEADLINE_S) == peer(9)
    replica.leader = None
    node._leader_heard(replica)
    assert node.standing() is Standing.REPLICA


async def test_a_node_that_comes_to_hold_the_log_while_it_asks_for_a_leader_follows_its_own() -> None:
    """As a machine that forms a hive alone, whose worker waited for a leader that nobody else knows."""
    node = local_node(Lan({1: introduction(1, None), 2: introduction(2, None)}), None)
    replica = replica_without_leader()

    async def wait_for_leader(deadline_s: float) -> MemberId:
        return MemberId(f"{peer(7).node_id}.0123456789abcdef")

    replica.wait_for_leader = wait_for_leader
    asking = asyncio.create_task(node.leader(DEADLINE_S))
    await node._search_leader()
    node._replica = replica
    assert (await asking).node_id == peer(7).node_id


async def test_a_replica_says_that_nobody_leads_when_nobody_else_knows_either() -> None:
    node = local_node(Lan({1: introduction(1, None), 2: introduction(2, None)}), replica_without_leader())
    with pytest.raises(HiveError, match="the hive has no leader"):
        await node.leader(DEADLINE_S)


async def test_a_leader_that_says_it_does_not_lead_is_forgotten() -> None:
    node = local_node(Lan({1: introduction(1, peer(9))}), None)
    uplink: Any = SimpleNamespace(_leadership=node)

    async def refused(leader: PeerAddress) -> None:
        raise HiveError(Code.NO_LEADER, "this node does not lead")

    uplink._serve = refused
    leader = await node.leader(DEADLINE_S)
    assert node._light_leader == peer(9)
    with pytest.raises(HiveError):
        await Uplink._serve_leader(uplink, leader)
    assert node._light_leader is None


async def test_who_is_told_to_go_in_the_moment_when_the_leader_is_found_goes() -> None:
    """Else a worker whose daemon ends then goes on, and its tasks are not ended in order."""
    for steps in count():
        node = local_node(Lan({1: introduction(1, peer(9))}), None)
        asking = asyncio.create_task(node.leader(DEADLINE_S))
        for _ in range(steps):
            await asyncio.sleep(0)
        if not asking.cancel():
            assert await asking == peer(9)
            break
        await asyncio.wait({asking}, timeout=DEADLINE_S)
        assert asking.cancelled(), f"after {steps} turns of the loop"
    assert steps > 1  # Else it was never told between the question and the answer.


async def test_a_machine_with_silent_addresses_is_found_at_the_one_that_answers() -> None:
    lan = Lan({3: introduction(3, peer(2))})
    silent = tuple(address for number in range(100, 105) for address in peer(number).addresses)
    moved = replace(peer(3), addresses=(*silent, *peer(3).addresses))
    found = await LeaderSearch(lan.introduce).find([moved], HIVE_ID, DEADLINE_S)
    assert found is not None
    assert found.leader == peer(2)
    assert (lan.most_silent, lan.silent) == (len(silent), 0), (
        "all are asked at once, and nobody waits for them any more"
    )


async def test_another_machine_at_a_former_address_of_one_is_not_taken_for_it() -> None:
    lan = Lan({3: introduction(3, peer(2)), 4: introduction(4, peer(4))})
    moved = replace(peer(3), addresses=(*peer(4).addresses, *peer(3).addresses))
    found = await LeaderSearch(lan.introduce).find([moved], HIVE_ID, DEADLINE_S)
    assert found is not None
    assert found.record.node_id == peer(3).node_id
