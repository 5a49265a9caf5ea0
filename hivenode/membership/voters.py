"""Who votes: the leader's rule for the next change of the hive's configuration.

Rules
1. Wanted voters, of nodes with voter right: 1 while there are one or two, 3 from three, 5 from seven. The others are
   learners, up to `LEARNERS_MAX`, and stand in for voters. A dead node still counts: a restart is not a leave.
2. A member is learner first. It is *ready* to vote when it has caught up and has been alive for `STABLE_MS`; in the first
   `YOUNG_HIVE_MS` of the hive's life catching up is enough.
3. Voters grow and shrink from odd number to odd number: two voters are lost with either of them, one only with itself. That
   a voter died may not be known yet when another one goes, so no living voter goes if two would remain: a stand-in that is
   on its way is waited for, and without one the leader alone votes.
4. Add before remove: where a learner is ready, a voter goes in the same joint change in which that learner comes. A voter
   goes only while a quorum of those that remain is alive. The leader never removes itself.
5. A voter is replaced for being dead only after `GRACE_MS`; it stays on as learner, for the case that it comes back.
6. A node that came back without its log is another member: the old one is dead from then on, and goes when the new one comes.
7. One change at a time, and the same input gives the same change: ties go to the lower member id.

Theory of operation
   `next_change` has no memory. The leader calls it whenever its picture changes and no change is in flight, proposes what
   it returns, and calls it again when that is applied. Cases stand in the order of what endangers the quorum most.

State table (a member's place; first line that fits wins)
   place     when                                                        becomes
   any       another incarnation of its node is current and alive        gone, the current one LEARNER in the same change
   VOTER     its node left the hive or lost its voter right              gone, a ready learner VOTER if there is one (rule 3)
   LEARNER   its node left the hive or lost its voter right              gone
   VOTER     dead for `GRACE_MS`, a ready learner is there               LEARNER (gone when the learners are full)
   OUTSIDE   alive with voter right, learners below the bound            LEARNER
   LEARNER   ready, and enough are to reach the next odd number wanted   VOTER
   VOTERs    more than wanted, not the leader; dead ones first           LEARNERs, all at once
   LEARNER   dead for `GRACE_MS`, another waits outside for its place    gone
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from hivenode.encoding.node_record import NodeId

LEARNERS_MAX: Final = 15
"""Learners cost the leader a stream each; with five voters they make twenty copies, more than any failure needs."""
STABLE_MS: Final = 10_000
"""A machine that flaps must not change the quorum each time; one that stands for 10 s is through its start."""
YOUNG_HIVE_MS: Final = 60_000
"""In its first minute a hive has little to lose by a bad voter, and much by having one copy only."""
GRACE_MS: Final = 60_000
"""Longer than a machine takes to boot, short against the chance of a second failure meanwhile."""
LAG_ENTRIES_MAX: Final = 1_024
"""A learner so close is level with the leader within a second, so that its vote does not hold up commits."""


@unique
class Place(Enum):
    OUTSIDE = "outside"
    LEARNER = "learner"
    VOTER = "voter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One Raft member, as the leader sees it.

    Args:
        may_vote: the node has voter right.
        current: its incarnation is the one in the node's newest record.
        left: the node was removed from the hive.
        alive_since_ms: since when it answers without a break; None while it does not.
        dead_since_ms: since when it does not answer; None while it does.
        match_lag: entries that it lacks of the leader's log; None when not known.
    """

    member_id: str
    node_id: NodeId
    place: Place
    may_vote: bool
    current: bool
    left: bool
    alive_since_ms: int | None
    dead_since_ms: int | None
    match_lag: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoterPolicyInput:
    """Everything in and around the configuration; `grace_ms` after which a dead voter is replaced."""

    now_ms: int
    hive_created_ms: int
    leader: str
    members: tuple[Member, ...]
    grace_ms: int = GRACE_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class VoterChange:
    """Member ids, in the sense of a Raft configuration change: who comes in `learners` as a voter is demoted."""

    voters: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


def wanted_voters(nodes: int) -> int:
    """How many of so many nodes with voter right should vote."""
    if nodes < 3:
        return min(1, nodes)
    return 3 if nodes < 7 else 5


def next_change(given: VoterPolicyInput) -> VoterChange | None:
    """The next change to propose, None when all is as it should be or nothing can be done now."""
    picture = _Picture(given)
    rules: tuple[Callable[[_Picture], VoterChange | None], ...] = (
        _replace_old_incarnation,
        _remove_without_right,
        _replace_dead_voter,
        _add_learners,
        _promote,
        _demote,
        _remove_dead_learner,
    )
    return next((change for rule in rules if (change := rule(picture)) is not None), None)


def departure_refusal(given: VoterPolicyInput, node: NodeId, *, at_once: bool) -> str:
    """Why a node must not be taken out of the hive now; empty when it may.

    A voter that is taken out counts until the configuration is without it, and that is for a majority to decide. It helps to
    decide it, unless it is not heard any more from now on.

    Args:
        at_once: it is not heard any more from now on.
    """
    picture = _Picture(given)
    going = next((voter for voter in picture.voters if voter.node_id == node), None)
    if going is None or picture.voters == [going]:
        return ""  # Before the only voter goes another is made one.
    answering = sum(picture.answers(voter) for voter in picture.voters if voter is not going)
    if at_once and answering <= len(picture.voters) // 2:
        return (
            f"its vote counts until a majority of the {len(picture.voters)} voters has taken it away, and without it only "
            f"{answering} answer: bring the other voters back first"
        )
    if _remove_voter(picture, going) is None and not picture.waits_for_stand_in(going):
        return (
            f"of the other {len(picture.voters) - 1} voters {answering} answer, which is no majority of them: "
            "bring the others back first"
        )
    return ""


class _Picture:
    """The input, sorted and grouped once."""

    def __init__(self, given: VoterPolicyInput) -> None:
        self.given: Final = given
        members = sorted(given.members, key=lambda member: member.member_id)
        self.voters: Final = [member for member in members if member.place is Place.VOTER]
        self.learners: Final = [member for member in members if member.place is Place.LEARNER]
        entitled = [m for m in members if m.may_vote and m.current and not m.left]
        self.current: Final = {member.node_id: member for member in entitled}
        self.outside: Final = [m for m in entitled if m.place is Place.OUTSIDE and m.alive_since_ms is not None]
        self.wanted: Final = wanted_voters(len(self.current))
        ready = [m for m in self.learners if m in entitled and self._is_ready(m)]
        # Who has been alive for longest is the best bet to stay so.
        self.ready: Final = sorted(ready, key=lambda member: (member.alive_since_ms or 0, member.member_id))

    def _is_ready(self, member: Member) -> bool:
        if member.alive_since_ms is None or member.match_lag is None or member.match_lag > LAG_ENTRIES_MAX:
            return False
        young = self.given.now_ms - self.given.hive_created_ms < YOUNG_HIVE_MS
        return young or self.given.now_ms - member.alive_since_ms >= STABLE_MS

    def is_dead(self, member: Member) -> bool:
        return member.dead_since_ms is not None and self.given.now_ms - member.dead_since_ms >= self.given.grace_ms

    def quorum_remains(self, without: Sequence[Member], plus: Sequence[Member] = ()) -> bool:
        """Whether the voters could go on deciding without some of them, and with some more."""
        after = [*(voter for voter in self.voters if voter not in without), *plus]
        return sum(map(self.answers, after)) > len(after) // 2

    def answers(self, member: Member) -> bool:
        """Whether the member is alive: its node is, and has the member's log still."""
        newest = self.current.get(member.node_id, member)
        return member.alive_since_ms is not None and newest.member_id == member.member_id

    def stand_in_comes(self) -> bool:
        """Whether a node that could vote is on its way to it."""
        return any(member.place is not Place.VOTER and self.answers(member) for member in self.current.values())

    def stand_ins(self) -> list[Member]:
        """Who takes the place of a voter that goes, if it is to be taken."""
        return self.ready[:1] if len(self.voters) <= self.wanted else []

    def waits_for_stand_in(self, going: Member) -> bool:
        """Whether a voter goes only later: two voters would remain, and a node that could vote is on its way to it."""
        left = len(self.voters) - 1 + len(self.stand_ins())
        return left == 2 and self.answers(going) and self.stand_in_comes()

    def others_by_merit(self, members: Iterable[Member]) -> list[Member]:
        """Those but the leader, who is missed least first: dead ones, then those that were alive for the shortest time."""
        others = [member for member in members if member.member_id != self.given.leader]
        others.sort(key=lambda m: (self.answers(m), -(m.alive_since_ms or 0), m.member_id))
        return others

    def learners_are_full(self, coming: int = 1) -> bool:
        return len(self.learners) + coming > LEARNERS_MAX


def _replace_old_incarnation(picture: _Picture) -> VoterChange | None:
    for old in [*picture.voters, *picture.learners]:
        new = picture.current.get(old.node_id)
        if new is None or new.member_id == old.member_id or old.member_id == picture.given.leader:
            continue
        if new.alive_since_ms is None or (old.place is Place.VOTER and not picture.quorum_remains([old])):
            continue
        learners = (new.member_id,) if new.place is Place.OUTSIDE else ()
        return VoterChange(learners=learners, remove=(old.member_id,))
    return None


def _remove_without_right(picture: _Picture) -> VoterChange | None:
    for member in [*picture.voters, *picture.learners]:
        if (member.may_vote and not member.left) or member.member_id == picture.given.leader:
            continue
        if member.place is Place.LEARNER:
            return VoterChange(remove=(member.member_id,))
        change = _remove_voter(picture, member)
        if change is not None:
            return change
    return None


def _remove_voter(picture: _Picture, going: Member) -> VoterChange | None:
    if picture.waits_for_stand_in(going):
        return None
    stand_in = picture.stand_ins()
    demoted: list[Member] = []
    if len(picture.voters) - 1 + len(stand_in) == 2 and picture.answers(going):
        demoted = picture.others_by_merit(voter for voter in picture.voters if voter is not going)[:1]
    if not picture.quorum_remains([going, *demoted], stand_in):
        return None
    return VoterChange(
        voters=tuple(member.member_id for member in stand_in),
        learners=tuple(member.member_id for member in demoted),
        remove=(going.member_id,),
    )


def _replace_dead_voter(picture: _Picture) -> VoterChange | None:
    if not picture.ready or len(picture.voters) > picture.wanted:
        return None
    new = picture.ready[0]
    for old in picture.voters:
        if not picture.is_dead(old) or not picture.quorum_remains([old], [new]):
            continue
        # Its place among the learners is the one that the new voter leaves; only an overfull table has none for it.
        if picture.learners_are_full(0):
            return VoterChange(voters=(new.member_id,), remove=(old.member_id,))
        return VoterChange(voters=(new.member_id,), learners=(old.member_id,))
    return None


def _add_learners(picture: _Picture) -> VoterChange | None:
    room = LEARNERS_MAX - len(picture.learners)
    coming = tuple(member.member_id for member in picture.outside[: max(0, room)])
    return VoterChange(learners=coming) if coming else None


def _promote(picture: _Picture) -> VoterChange | None:
    reachable = min(picture.wanted, len(picture.voters) + len(picture.ready))
    target = reachable if reachable % 2 else reachable - 1
    missing = target - len(picture.voters)
    if missing <= 0:
        return None
    return VoterChange(voters=tuple(member.member_id for member in picture.ready[:missing]))


def _demote(picture: _Picture) -> VoterChange | None:
    excess = len(picture.voters) - max(1, picture.wanted)
    going = picture.others_by_merit(picture.voters)[: max(0, excess)]
    if not going or not picture.quorum_remains(going):
        return None
    names = tuple(member.member_id for member in going)
    return VoterChange(remove=names) if picture.learners_are_full(len(going)) else VoterChange(learners=names)


def _remove_dead_learner(picture: _Picture) -> VoterChange | None:
    if not picture.outside or not picture.learners_are_full():
        return None
    dead = [learner for learner in picture.learners if picture.is_dead(learner)]
    dead.sort(key=lambda member: (member.dead_since_ms or 0, member.member_id))
    return VoterChange(remove=(dead[0].member_id,)) if dead else None
