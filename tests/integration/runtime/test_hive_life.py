"""What becomes of a node whose forming or joining fails in a way that no other hive can mend."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError, InvariantError
from hivenode.membership.events import JoinHive, JoinSucceeded
from hivenode.pool.commands import SetTrust
from hivenode.pool.joining import trust_mode
from hivenode.pool.records import TrustMode
from hivenode.runtime import hive_life
from hivenode.runtime.errand import Errand
from hivenode.runtime.hive_life import BIRTH_TRIES, HiveLife
from hivenode.runtime.local import LocalNode
from hivenode.runtime.ports import JoinOffer, PeerAddress, Standing
from hivenode.runtime.roster import Roster
from tests.support.parts import no_files_left
from tests.support.replicas import Member, leader_of, propose, register, three


async def test_a_founder_whose_disk_is_full_stops_and_says_why() -> None:
    async def be_born(hive_id: str) -> None:
        raise HiveError(Code.DISK_FULL, "the log cannot be written; free some disk space")

    said: list[str] = []
    # Only the way from the disk's refusal to the owner is looked at.
    local = SimpleNamespace(be_born=be_born)
    life: Any = SimpleNamespace(_local=local, _stop=said.append, _members_expected=0, _belongs=False)
    life._be_founder = lambda *given: HiveLife._be_founder(life, *given)
    await HiveLife._form(life, "h" * 32, ())
    assert said == ["the hive cannot be formed: the log cannot be written; free some disk space"]


async def test_a_founder_that_lost_its_leadership_to_its_disk_gives_birth_when_it_leads_again() -> None:
    lost, left = [Code.OUTCOME_UNKNOWN, Code.NO_LEADER], list[str]()

    async def give_birth(_replica: Any) -> None:
        left.append("tried")
        if lost:
            raise HiveError(lost.pop(), "this node stopped leading")

    async def wait_until_leading(_deadline_s: float) -> None:
        left.append("leads")

    life: Any = SimpleNamespace(_give_birth=give_birth)
    replica: Any = SimpleNamespace(wait_until_leading=wait_until_leading)
    await HiveLife._be_the_only_voter(life, replica)
    assert left == ["leads", "tried"] * 3
    lost.extend([Code.NO_LEADER] * BIRTH_TRIES)
    with pytest.raises(HiveError):
        await HiveLife._be_the_only_voter(life, replica)


async def test_a_broken_invariant_while_forming_ends_the_life() -> None:
    async def broken() -> None:
        raise InvariantError("the log ends before what was committed")

    work = asyncio.create_task(broken())
    await asyncio.wait({work})
    life: Any = SimpleNamespace(_work={work}, _broken=None, _wake=asyncio.Event())
    HiveLife._ended(life, work)
    assert life._wake.is_set()
    with pytest.raises(InvariantError):
        HiveLife._raise_broken(life)


async def test_a_late_answer_to_an_earlier_try_to_join_is_passed_over() -> None:
    """Formation gives a try up after a while and begins another, and both answers may come: two replicas on one log."""
    answered, entered = asyncio.Event(), list[str]()

    async def ask(address: str, hive_id: str) -> Any:
        await answered.wait()
        return SimpleNamespace(hive_id=hive_id, voter_rights=True)

    async def enter(hive_id: str, *, replica: bool) -> None:
        entered.append(hive_id)
        await asyncio.sleep(0)

    # Only what the two answers lead to is looked at.
    life: Any = SimpleNamespace(
        _belongs=False,
        _refused="",
        _ask_to_join=ask,
        _local=SimpleNamespace(enter=enter),
        _end_errand=lambda: None,
        _step=lambda event: None,
        _record_wanted=asyncio.Event(),
    )
    effect = JoinHive(hive_id="h" * 32, addresses=("127.0.0.1:1",))
    tries = [asyncio.create_task(HiveLife._join(life, effect)) for _ in range(2)]
    answered.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*tries)
    assert entered == ["h" * 32]


async def test_a_node_that_is_entering_a_hive_forms_none_meanwhile() -> None:
    """Its disk stands still for so long that Formation gave the try up, and then it would bind its log to a second hive."""
    entering, on_disk, told = asyncio.Event(), asyncio.Event(), list[Any]()

    async def ask(address: str, hive_id: str) -> Any:
        return SimpleNamespace(hive_id=hive_id, voter_rights=True)

    async def enter(hive_id: str, *, replica: bool) -> None:
        entering.set()
        await on_disk.wait()

    async def be_born(hive_id: str) -> Any:
        raise InvariantError("a log belongs to one hive for ever")

    life: Any = SimpleNamespace(
        _belongs=False,
        _refused="",
        _ask_to_join=ask,
        _local=SimpleNamespace(enter=enter, be_born=be_born),
        _end_errand=lambda: None,
        _step=told.append,
        _record_wanted=asyncio.Event(),
    )
    life._be_founder = lambda *given: HiveLife._be_founder(life, *given)
    joining = asyncio.create_task(HiveLife._join(life, JoinHive(hive_id="h" * 32, addresses=("127.0.0.1:1",))))
    async with asyncio.timeout(5):
        await entering.wait()
        await HiveLife._form(life, "i" * 32, ())
        on_disk.set()
        await joining
    assert told == [JoinSucceeded(hive_id="h" * 32)]


async def test_a_node_whose_disk_keeps_the_note_of_its_errand_is_in_its_hive_all_the_same() -> None:
    told = list[Any]()

    async def ask(address: str, hive_id: str) -> Any:
        return SimpleNamespace(hive_id=hive_id, voter_rights=True)

    async def enter(hive_id: str, *, replica: bool) -> None:
        pass

    def end(hive_id: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    life: Any = SimpleNamespace(
        _belongs=False,
        _refused="",
        _ask_to_join=ask,
        _local=SimpleNamespace(enter=enter, hive_id=lambda: "h" * 32),
        _errand=SimpleNamespace(end=end),
        _step=told.append,
        _record_wanted=asyncio.Event(),
    )
    life._end_errand = lambda: HiveLife._end_errand(life)
    await HiveLife._join(life, JoinHive(hive_id="h" * 32, addresses=("127.0.0.1:1",)))
    assert told == [JoinSucceeded(hive_id="h" * 32)]  # Else it would ask to join for ever, and never be a member.
    assert life._record_wanted.is_set()


@pytest.mark.parametrize("told", ["", "1" * 32, "2" * 32])
async def test_a_node_that_is_told_of_another_hive_while_it_is_taken_into_one_goes_to_that(
    told: str, tmp_path: Path
) -> None:
    """The end of its first errand took the second one along."""
    errand = Errand(tmp_path)
    errand.begin("1" * 32, "10.0.0.1:5")
    errand.set_aside()

    async def ask(address: str, hive_id: str) -> Any:
        return SimpleNamespace(hive_id=hive_id, voter_rights=True)

    async def enter(hive_id: str, *, replica: bool) -> None:
        if told:
            errand.begin(told, "10.0.0.2:5")

    life: Any = SimpleNamespace(
        _belongs=False,
        _refused="",
        _ask_to_join=ask,
        _local=SimpleNamespace(enter=enter, hive_id=lambda: "1" * 32),
        _errand=errand,
        _step=lambda event: None,
        _record_wanted=asyncio.Event(),
    )
    life._end_errand = lambda: HiveLife._end_errand(life)
    await HiveLife._join(life, JoinHive(hive_id="1" * 32, addresses=("127.0.0.1:1",)))
    assert errand.hive_id == Errand(tmp_path).hive_id == told


async def test_a_life_that_is_ended_while_it_looks_for_a_copy_of_its_disk_leaves_nothing_running() -> None:
    looking = asyncio.Event()

    async def has_older_twin() -> bool:
        looking.set()
        await asyncio.Event().wait()
        return False

    # A call back to somebody whom discovery found meanwhile.
    beside = asyncio.create_task(asyncio.Event().wait())
    life: Any = SimpleNamespace(
        _announce=lambda: None,
        _local=SimpleNamespace(hive_id=lambda: "h" * 32),
        _has_older_twin=has_older_twin,
        _end_errand=lambda: None,
        _work={beside},
    )
    living = asyncio.create_task(HiveLife.run(life))
    async with asyncio.timeout(5):
        await looking.wait()
        living.cancel()
        await asyncio.wait({living})
    assert living.cancelled()
    assert beside.cancelled()


async def test_a_clock_that_was_set_back_keeps_nobody_out() -> None:
    """The hive has a statement of this node with a sequence of an hour from now; it tells so, and takes the next one."""
    hive_has, now, asked = 3_600_000, 1_000, list[int]()

    async def join(_peer: Any, hive_id: str, record: Any, _deadline_s: float, _claim: Any) -> JoinOffer:
        asked.append(record)
        later = hive_has if record <= hive_has else 0
        leader = PeerAddress(node_id=NodeId("l"), addresses=())
        return JoinOffer(hive_id=hive_id, members=(), leader=leader, voter_rights=not later, later_sequence=later)

    # The node's own statement is its sequence alone here; what follows on what is the production rule.
    local: Any = SimpleNamespace(_sequence=now)
    local.outdo = lambda sequence: LocalNode.outdo(local, sequence)
    local.record = lambda: (None, local._sequence)
    life: Any = SimpleNamespace(_local=local, _peers=SimpleNamespace(join=join))
    peer = PeerAddress(node_id=NodeId("p"), addresses=())
    assert (await HiveLife._ask_to_admit(life, peer, "h" * 32)).voter_rights
    assert asked == [now, hive_has + 1]
    hive_has = (1 << 63) - 1  # No clock, so a lie: what this node says of itself stays within what a record can hold.
    with pytest.raises(HiveError, match="later statement"):
        await HiveLife._ask_to_admit(life, peer, "h" * 32)
    assert local._sequence == 3_600_001


def test_a_machine_that_is_out_of_files_takes_the_hives_word_and_is_told_that_it_is_not_kept(tmp_path: Path) -> None:
    roster, leader = Roster(tmp_path), PeerAddress(node_id=NodeId("l"), addresses=("127.0.0.1:1",))
    offer = JoinOffer(hive_id="h" * 32, members=(), leader=leader, voter_rights=False, nodes=(NodeId("n"),))
    # Only what becomes of the word is looked at.
    local: Any = SimpleNamespace(_roster=roster, _note_offered=lambda: None, on_node_gone=lambda node: None)
    with no_files_left(), pytest.raises(HiveError) as told:
        LocalNode.note_offer(local, offer)  # Another error would end the daemon.
    assert told.value.code is Code.DISK_FULL
    assert not Roster(
        tmp_path
    ).known  # So who joins with it tries again, or its next life would know nobody to believe.
    LocalNode.note_offer(local, offer)
    assert Roster(tmp_path).nodes == {"l", "n"}
    assert roster.nodes == {"l", "n"}


async def test_a_member_whose_place_was_taken_asks_the_leader_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears no leader in its log, and knows one by the word of others; nobody but that one tells it that it is out."""
    monkeypatch.setattr(hive_life, "REFRESH_S", 0.01)
    asked = asyncio.Semaphore(0)

    async def leader(_deadline_s: float) -> PeerAddress:
        return PeerAddress(node_id=NodeId("leader"), addresses=())

    async def ask_to_admit(*_given: Any) -> Any:
        asked.release()
        return SimpleNamespace(voter_rights=True)

    local = SimpleNamespace(
        replica=SimpleNamespace(has_configuration=True, leader=None),
        hive_id=lambda: "h" * 32,
        standing=lambda: Standing.LIGHT,
        leader=leader,
    )
    # Only how often it tells its record is looked at.
    life: Any = SimpleNamespace(_local=local, _ask_to_admit=ask_to_admit, _record_wanted=asyncio.Event())
    life._tell_record = lambda: HiveLife._tell_record(life)
    life._record_wanted.set()
    keeping = asyncio.create_task(HiveLife._keep_record(life))
    try:
        async with asyncio.timeout(5):
            for _ in range(3):
                await asked.acquire()
    finally:
        keeping.cancel()


async def test_the_end_of_a_part_of_the_life_is_seen_at_once() -> None:
    async def broken() -> None:
        raise InvariantError("the agreed state contradicts itself")

    async def nothing() -> bool:
        return False

    # A member that has nobody to look for: no deadline of its own would wake it.
    wake = asyncio.Event()
    life: Any = SimpleNamespace(
        _announce=lambda: None,
        _end_errand=lambda: None,
        _local=SimpleNamespace(hive_id=lambda: "h" * 32, clock_ms=lambda: 0),
        _has_older_twin=nothing,
        _resume=nothing,
        _errand=SimpleNamespace(address=""),
        _end=SimpleNamespace(last_target=(), run=asyncio.Event().wait),
        _keep_record=broken,
        _formation=SimpleNamespace(next_deadline=lambda: None),
        _wake=wake,
        _step=lambda _event: wake.set(),
        _raise_broken=lambda: None,
        _work=set(),
    )
    life._sleep = lambda: HiveLife._sleep(life)
    with pytest.raises(InvariantError):
        async with asyncio.timeout(5):
            await HiveLife.run(life)


async def _set_trust(leader: Member, mode: TrustMode) -> None:
    await HiveLife._set_trust(SimpleNamespace(), leader.replica, mode)  # type: ignore[arg-type]


async def test_a_hive_that_users_came_into_first_is_not_opened_to_its_network_against_its_owners_word(
    tmp_path: Path,
) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        await register(leader, "alice")
        with pytest.raises(HiveError, match="start with --trust lan") as caught:
            await _set_trust(leader, TrustMode.TOKEN)
        assert caught.value.code is Code.PERMISSION_DENIED


async def test_a_hive_whose_founder_comes_back_with_another_closed_trust_mode_keeps_its_own(tmp_path: Path) -> None:
    async with three(tmp_path) as members:
        leader = await leader_of(members)
        assert not (await propose(leader, SetTrust(mode=TrustMode.APPROVE))).refused
        await _set_trust(leader, TrustMode.TOKEN)
        assert trust_mode(leader.replica.view()) is TrustMode.APPROVE
