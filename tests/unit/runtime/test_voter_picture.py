"""What a leader takes for alive: answers and connections, and nothing of an earlier leadership."""

from __future__ import annotations

from hivenode.consensus import ConfState, MemberId, ProgressState, RaftStatus, Role
from hivenode.consensus.progress import ProgressStatus
from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import encode_record
from hivenode.membership.voters import Member, Place
from hivenode.pool.commands import AdmitNode, RemoveNode
from hivenode.pool.records import NodeRights
from hivenode.runtime.local import member_id_of, node_of
from hivenode.runtime.voter_picture import NEW_LEADER_MS, TOLD_MS, VoterPicture
from tests.unit.pool.driver import Hive, node_id, signed_record

ME, OTHER, THIRD = node_id(1), node_id(2), node_id(3)
INCARNATION = "i1"


def ids(*nodes: NodeId) -> frozenset[MemberId]:
    return frozenset(member_id_of(node, INCARNATION) for node in nodes)


class Leader:
    """Node 1, which leads, sees node 2 as a voter; node 3 is in the hive only."""

    def __init__(self) -> None:
        self.hive = Hive()
        for number in (1, 2, 3):
            self.hive.node(number)
        self.picture = VoterPicture(ME, member_id_of, node_of)
        self.picture.lead(True, 0)
        self.connected: set[NodeId] = set()
        self.heard: set[NodeId] = set()

    def status(self) -> RaftStatus:
        progress = ProgressStatus(match=5, next=6, state=ProgressState.REPLICATE, recent_active=True)
        return RaftStatus(
            member_id=member_id_of(ME, INCARNATION),
            role=Role.LEADER,
            term=2,
            leader=member_id_of(ME, INCARNATION),
            commit=5,
            applied=5,
            last_index=5,
            conf=ConfState(voters=ids(ME, OTHER)),
            transfer_target=None,
            conflicts_refused=0,
            progress=dict.fromkeys(ids(ME, OTHER), progress),
        )

    def look(self, now_ms: int) -> dict[NodeId, Member]:
        given = self.picture.look(
            self.status(), self.hive.view, now_ms, connected=self.connected, hears=self.heard.__contains__
        )
        return {member.node_id: member for member in given.members}


def test_a_member_is_alive_while_it_answers_and_anybody_else_while_connected() -> None:
    leader = Leader()
    leader.connected |= {OTHER, THIRD}
    seen = leader.look(NEW_LEADER_MS)
    assert seen[OTHER].dead_since_ms == NEW_LEADER_MS, "a connection alone may stand to a machine that is gone"
    assert seen[THIRD].alive_since_ms == NEW_LEADER_MS
    assert (seen[OTHER].place, seen[THIRD].place) == (Place.VOTER, Place.OUTSIDE)
    leader.heard.add(OTHER)
    assert leader.look(NEW_LEADER_MS + 1)[OTHER].alive_since_ms == NEW_LEADER_MS + 1
    leader.connected.clear()
    assert leader.look(NEW_LEADER_MS + 2)[OTHER].dead_since_ms == NEW_LEADER_MS + 2


def test_a_new_leader_gives_whoever_is_connected_time_to_answer() -> None:
    leader = Leader()
    leader.connected.add(OTHER)
    assert leader.look(NEW_LEADER_MS - 1)[OTHER].alive_since_ms == NEW_LEADER_MS - 1
    assert leader.look(NEW_LEADER_MS)[OTHER].alive_since_ms is None


def test_who_told_its_record_is_alive_for_a_moment_but_no_member_is() -> None:
    leader = Leader()
    for number in (2, 3):
        record = encode_record(signed_record(number, sequence=2))
        leader.hive.do(AdmitNode(signed_record=record, rights=NodeRights.VOTER))
        leader.picture.applied(leader.hive.events, NEW_LEADER_MS)
    seen = leader.look(NEW_LEADER_MS + TOLD_MS - 1)
    assert seen[OTHER].alive_since_ms is None
    assert seen[THIRD].alive_since_ms == NEW_LEADER_MS + TOLD_MS - 1
    assert leader.look(NEW_LEADER_MS + TOLD_MS)[THIRD].alive_since_ms is None


def test_who_was_lost_between_two_looks_is_not_alive_without_a_break() -> None:
    leader = Leader()
    leader.connected.add(THIRD)
    assert leader.look(10_000)[THIRD].alive_since_ms == 10_000
    assert leader.look(20_000)[THIRD].alive_since_ms == 10_000
    leader.picture.lost(THIRD)
    assert leader.look(30_000)[THIRD].alive_since_ms == 30_000


def test_a_removed_voter_is_looked_at_while_it_is_in_the_configuration() -> None:
    leader = Leader()
    leader.hive.do(RemoveNode(node_id=OTHER, reason="out"))
    leader.connected.add(OTHER)
    leader.heard.add(OTHER)
    seen = leader.look(NEW_LEADER_MS)[OTHER]
    assert (seen.left, seen.may_vote, seen.alive_since_ms) == (True, False, NEW_LEADER_MS)


def test_nothing_of_an_earlier_leadership_is_remembered() -> None:
    leader = Leader()
    assert leader.look(10_000)[OTHER].dead_since_ms == 10_000
    leader.picture.lead(False, 20_000)
    leader.picture.lead(True, 90_000)
    assert leader.look(100_000)[OTHER].dead_since_ms == 100_000
