"""Forming and joining as dialogue: what one node is told, and what it asks for."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hivenode.encoding.node_record import NodeId
from hivenode.membership.candidates import (
    BACKOFF_SEEKING_MS_MAX,
    BACKOFF_SETTLED_MS_MAX,
    CANDIDATES_MAX,
    IN_FLIGHT_MAX,
    Candidates,
)
from hivenode.membership.events import (
    CallBack,
    CandidateSeen,
    DiscoveryBegan,
    DissolveOwnHive,
    DissolvingFailed,
    Effect,
    Event,
    FormHive,
    HiveAbandoned,
    HiveFormed,
    InvitationAgreed,
    InvitationRefused,
    InvitationUnanswered,
    Invited,
    InviteFounder,
    JoinFailed,
    JoinHive,
    JoinSucceeded,
    PeerConfirmed,
    PeerPhase,
    PeerUnconfirmed,
    PromiseTo,
    RefuseInvitation,
    ReportForeignHive,
    TimePassed,
    VirginityKnown,
)
from hivenode.membership.formation import PAIRING_MS, WAIT_ROUNDS_MAX, Formation, FormationConfig, FormationState, Me

ME = NodeId("m")
CONFIG = FormationConfig()


class Dialogue:
    """One machine and its clock; `say` gives the effects without the call backs."""

    def __init__(
        self,
        *,
        may_vote: bool = True,
        existing_hive: str | None = None,
        bound_to: str = "",
        alone: bool = False,
        discovering: bool = True,
    ) -> None:
        self.now_ms = 0
        me = Me(node_id=ME, may_vote=may_vote, bound_to=bound_to, alone=alone)
        self.it = Formation(CONFIG, me, 0, existing_hive)
        if discovering:
            self.say(DiscoveryBegan())

    def raw(self, event: Event) -> list[Effect]:
        return list(self.it.handle(event, self.now_ms))

    def say(self, event: Event) -> list[Effect]:
        return [effect for effect in self.raw(event) if not isinstance(effect, CallBack)]

    def meet(self, *peers: PeerConfirmed) -> list[Effect]:
        effects: list[Effect] = []
        for peer in peers:
            effects += self.say(CandidateSeen(address=peer.address, source="mdns"))
            effects += self.say(peer)
        return effects

    def wait(self, ms: int, *answering: PeerConfirmed) -> list[Effect]:
        """Lets time pass in the machine's own steps; the given peers answer every call, all others are silent."""
        end_ms = self.now_ms + ms
        effects: list[Effect] = []
        known = {peer.address: peer for peer in answering}
        pending = [TimePassed()]
        while True:
            todo: list[Event] = list(pending)
            pending = []
            while todo:
                for effect in self.raw(todo.pop(0)):
                    if isinstance(effect, CallBack) and effect.address in known:
                        todo.append(known[effect.address])
                    elif not isinstance(effect, CallBack):
                        effects.append(effect)
            deadline_ms = self.it.next_deadline()
            if deadline_ms is None or deadline_ms > end_ms:
                self.now_ms = end_ms
                return effects
            assert deadline_ms > self.now_ms, "the machine asks for a moment that has passed"
            self.now_ms = deadline_ms
            pending = [TimePassed()]


def fresh(name: str, *, may_vote: bool = True, sees_me: bool = True) -> PeerConfirmed:
    return PeerConfirmed(
        address=f"{name}:1",
        node_id=NodeId(name),
        addresses=(f"{name}:1",),
        phase=PeerPhase.FRESH,
        may_vote=may_vote,
        hive_id="",
        hive_created_ms=0,
        members=0,
        confirmed=frozenset({ME} if sees_me else set()),
    )


def founding(name: str) -> PeerConfirmed:
    return replace(fresh(name), phase=PeerPhase.FOUNDING)


def member(name: str, hive_id: str, *, members: int = 1, created_ms: int = 0) -> PeerConfirmed:
    return replace(fresh(name), phase=PeerPhase.MEMBER, hive_id=hive_id, members=members, hive_created_ms=created_ms)


def test_a_node_alone_forms_a_hive_of_one_after_a_quiet_second() -> None:
    d = Dialogue()
    assert d.wait(CONFIG.quiet_ms - 1) == []
    assert d.wait(1) == [FormHive(founders=())]
    assert d.say(HiveFormed(hive_id="h")) == []
    assert (d.it.state, d.it.hive_id) == (FormationState.MEMBER, "h")


def test_silence_counts_only_from_when_discovery_has_begun() -> None:
    d = Dialogue(discovering=False)
    assert d.wait(CONFIG.listen_ms_max - 1) == []
    assert d.say(DiscoveryBegan()) == []
    assert d.wait(CONFIG.quiet_ms - 1) == []
    assert d.wait(1) == [FormHive(founders=())]


def test_discovery_that_cannot_begin_keeps_nobody_from_forming() -> None:
    assert Dialogue(discovering=False).wait(CONFIG.listen_ms_max) == [FormHive(founders=())]


def test_discovery_that_begins_late_does_not_disturb_who_has_a_hive() -> None:
    d = Dialogue(existing_hive="mine", discovering=False)
    assert d.say(DiscoveryBegan()) == []
    assert d.it.state is FormationState.MEMBER


def test_a_node_with_a_hive_on_its_disk_is_member_at_once_and_never_forms() -> None:
    d = Dialogue(existing_hive="mine")
    assert d.it.state is FormationState.MEMBER
    assert d.meet(member("a", "other", members=9)) == [ReportForeignHive(hive_id="other", address="a:1")]
    assert d.wait(120_000) == []


def test_an_unanswered_candidate_keeps_the_listening_open_to_its_end() -> None:
    d = Dialogue()
    assert d.raw(CandidateSeen(address="x:1", source="mdns")) == [CallBack(address="x:1")]
    assert d.wait(CONFIG.listen_ms_max - 1) == []
    assert d.wait(1) == [FormHive(founders=())]


def test_a_refused_candidate_does_not_delay_forming() -> None:
    d = Dialogue()
    d.say(CandidateSeen(address="x:1", source="bootstrap"))
    d.say(PeerUnconfirmed(address="x:1", refused=True))
    assert d.wait(CONFIG.quiet_ms) == [FormHive(founders=())]


def test_a_hive_that_is_there_is_joined_the_larger_first_and_the_other_reported() -> None:
    d = Dialogue()
    small, large = member("a", "small", members=2), member("b", "large", members=3)
    assert d.meet(small, large) == []
    assert d.wait(CONFIG.quiet_ms, small, large) == [
        ReportForeignHive(hive_id="small", address="a:1"),
        JoinHive(hive_id="large", addresses=("b:1",)),
    ]
    assert d.it.phase is PeerPhase.FOUNDING
    d.say(JoinSucceeded(hive_id="large"))
    assert (d.it.state, d.it.hive_id) == (FormationState.MEMBER, "large")


def test_a_node_that_was_taken_in_while_its_disk_stood_still_is_a_member_and_forms_nothing() -> None:
    """It had given the try to join up, heard of that hive no more, and begun to form its own."""
    d = Dialogue()
    d.meet(member("a", "theirs"))
    d.wait(CONFIG.quiet_ms, member("a", "theirs"))
    assert d.it.state is FormationState.JOINING
    d.say(PeerUnconfirmed(address="a:1", refused=True))
    assert FormHive(founders=()) in d.wait(CONFIG.join_ms_max + CONFIG.wait_ms)
    d.say(JoinSucceeded(hive_id="theirs"))
    assert (d.it.state, d.it.hive_id) == (FormationState.MEMBER, "theirs")


def test_of_hives_of_one_size_the_older_then_the_lower_id_is_joined() -> None:
    d = Dialogue()
    peers = (member("a", "h9", created_ms=7), member("b", "h2", created_ms=5), member("c", "h3", created_ms=5))
    d.meet(*peers)
    assert d.wait(CONFIG.quiet_ms, *peers)[-1] == JoinHive(hive_id="h2", addresses=("b:1",))


def test_the_lowest_id_invites_those_that_see_it_and_forms_with_those_that_agree() -> None:
    d = Dialogue()
    peers = (fresh("p"), fresh("q"), fresh("w", may_vote=False))
    d.meet(*peers)
    assert d.wait(CONFIG.quiet_ms, *peers) == [
        InviteFounder(node_id=NodeId("p"), addresses=("p:1",)),
        InviteFounder(node_id=NodeId("q"), addresses=("q:1",)),
    ]
    assert d.say(InvitationAgreed(node_id=NodeId("q"))) == []
    assert d.say(InvitationUnanswered(node_id=NodeId("p"))) == [FormHive(founders=(NodeId("q"),))]


def test_a_silent_invitation_ends_by_its_deadline() -> None:
    d = Dialogue()
    d.meet(fresh("p"))
    d.wait(CONFIG.quiet_ms, fresh("p"))
    assert d.wait(CONFIG.invite_ms_max, fresh("p")) == [FormHive(founders=())]


def test_a_refused_founder_steps_back_and_joins_the_hive_that_was_in_birth() -> None:
    d = Dialogue()
    d.meet(fresh("p"))
    d.wait(CONFIG.quiet_ms, fresh("p"))
    assert d.say(InvitationRefused(node_id=NodeId("p"))) == []
    assert d.it.state is FormationState.WAITING
    assert d.say(founding("p")) == []
    assert d.wait(1_000, founding("p")) == []
    assert d.wait(1_000, member("p", "h", members=2)) == [JoinHive(hive_id="h", addresses=("p:1",))]


def test_a_higher_id_leaves_it_to_the_lower_and_forms_when_that_falls_silent() -> None:
    d = Dialogue()
    d.meet(fresh("a"))
    assert d.wait(CONFIG.quiet_ms + CONFIG.wait_ms, fresh("a")) == []
    assert d.it.state is FormationState.WAITING
    assert d.wait(2 * CONFIG.wait_ms) == [FormHive(founders=())]


def test_a_lower_id_that_answers_and_never_moves_is_passed_over_in_the_end() -> None:
    d = Dialogue()
    d.meet(fresh("a"))
    assert FormHive(founders=()) in d.wait(CONFIG.listen_ms_max + (WAIT_ROUNDS_MAX + 1) * CONFIG.wait_ms, fresh("a"))


def test_a_promise_binds_until_its_lease_ends() -> None:
    d = Dialogue()
    d.meet(fresh("a"))
    until_ms = CONFIG.promise_ms
    yes = PromiseTo(founder=NodeId("a"), hive_id="h", until_ms=until_ms)
    assert d.say(Invited(by=NodeId("a"), hive_id="h")) == [yes]
    (no,) = d.say(Invited(by=NodeId("b"), hive_id="i"))
    assert isinstance(no, RefuseInvitation)
    assert d.wait(until_ms - 1, fresh("a")) == []
    assert d.it.phase is PeerPhase.FOUNDING
    d.wait(1, fresh("a"))
    assert d.it.state is FormationState.LISTENING


def test_a_promised_node_joins_when_its_founder_is_member() -> None:
    d = Dialogue()
    d.meet(fresh("a"))
    d.say(Invited(by=NodeId("a"), hive_id="h"))
    assert d.wait(1_000, member("a", "h")) == [JoinHive(hive_id="h", addresses=("a:1",))]


def test_an_inviting_node_yields_to_a_lower_id_only() -> None:
    d = Dialogue()
    d.meet(fresh("p"))
    d.wait(CONFIG.quiet_ms, fresh("p"))
    (refused,) = d.say(Invited(by=NodeId("z"), hive_id="h"))
    assert isinstance(refused, RefuseInvitation)
    (agreed,) = d.say(Invited(by=NodeId("a"), hive_id="h"))
    assert isinstance(agreed, PromiseTo)
    assert d.say(InvitationAgreed(node_id=NodeId("p"))) == []
    assert d.it.state is FormationState.PROMISED


def test_a_worker_neither_forms_nor_founds() -> None:
    d = Dialogue(may_vote=False)
    (refused,) = d.say(Invited(by=NodeId("a"), hive_id="h"))
    assert isinstance(refused, RefuseInvitation)
    assert d.wait(600_000) == []
    assert d.it.state is FormationState.WAITING


def test_a_join_that_failed_is_tried_again_and_a_refused_one_much_later() -> None:
    d = Dialogue()
    hive = member("a", "h")
    d.meet(hive)
    join = JoinHive(hive_id="h", addresses=("a:1",))
    assert d.wait(CONFIG.quiet_ms, hive) == [join]
    d.say(JoinFailed(hive_id="h", retry=True))
    assert d.wait(1_000, hive) == [join]
    d.say(JoinFailed(hive_id="h", retry=False))
    assert d.wait(CONFIG.refused_join_ms - 1, hive) == []
    assert d.wait(1_000, hive) == [join]


def test_a_lone_virgin_hive_is_left_for_the_older_one_and_not_the_younger() -> None:
    d = Dialogue()
    d.wait(CONFIG.quiet_ms)
    d.say(HiveFormed(hive_id="mine"))
    d.say(VirginityKnown(virgin=True, members=1, hive_created_ms=100))
    younger, older = member("a", "younger", created_ms=200), member("b", "older", created_ms=50)
    assert d.meet(younger) == [ReportForeignHive(hive_id="younger", address="a:1")]
    report = ReportForeignHive(hive_id="older", address="b:1")
    assert d.meet(older) == [report, DissolveOwnHive(target_hive_id="older", addresses=("b:1",))]
    assert d.say(HiveAbandoned()) == [JoinHive(hive_id="older", addresses=("b:1",))]
    assert d.it.hive_id == ""


def leader_of_two(d: Dialogue, *, until_ms: int | None = PAIRING_MS) -> None:
    d.wait(CONFIG.quiet_ms)
    d.say(HiveFormed(hive_id="mine"))
    d.say(VirginityKnown(virgin=True, members=2, hive_created_ms=100, pairing_until_ms=until_ms))


def test_the_leader_of_an_empty_hive_of_two_lets_it_dissolve_into_the_larger_one() -> None:
    d = Dialogue()
    leader_of_two(d)
    assert d.meet(member("a", "younger", members=2, created_ms=200))[1:] == []
    larger = member("b", "larger", members=3, created_ms=200)
    assert d.meet(larger)[1:] == [DissolveOwnHive(target_hive_id="larger", addresses=("b:1",))]
    assert d.say(HiveAbandoned()) == [JoinHive(hive_id="larger", addresses=("b:1",))]


def test_a_follower_decides_nothing_and_leaves_when_its_hive_dissolved() -> None:
    d = Dialogue()
    leader_of_two(d, until_ms=None)
    assert d.meet(member("b", "larger", members=3))[1:] == []
    assert d.say(HiveAbandoned()) == []
    assert d.it.state is FormationState.LISTENING


def test_an_empty_hive_of_two_stays_after_the_pairing_window() -> None:
    d = Dialogue()
    leader_of_two(d)
    d.wait(PAIRING_MS)
    assert d.meet(member("b", "larger", members=3)) == [ReportForeignHive(hive_id="larger", address="b:1")]


def test_nobody_gives_up_a_hive_for_one_that_takes_in_whom_it_names() -> None:
    d = Dialogue()
    leader_of_two(d)
    closed = replace(member("b", "larger", members=3), closed=True)
    assert d.meet(closed) == [ReportForeignHive(hive_id="larger", address="b:1")]
    assert d.it.state is FormationState.MEMBER


def test_a_node_that_wants_no_strangers_forms_alone_and_promises_itself_to_nobody() -> None:
    d = Dialogue(alone=True)
    d.meet(fresh("a"))
    d.meet(member("b", "other"))
    (refusal,) = [e for e in d.say(Invited(by=NodeId("a"), hive_id="h")) if isinstance(e, RefuseInvitation)]
    assert "strangers" in refusal.reason
    assert FormHive(founders=()) in d.wait(CONFIG.listen_ms_max)


def test_a_node_that_wants_no_strangers_joins_the_hive_that_its_owner_named() -> None:
    d = Dialogue(alone=True, bound_to="named")
    d.meet(member("a", "other", members=5))
    d.meet(member("b", "named"))
    assert JoinHive(hive_id="named", addresses=("b:1",)) in d.wait(CONFIG.listen_ms_max)


def test_a_hive_that_could_not_dissolve_tries_again_later() -> None:
    d = Dialogue()
    leader_of_two(d)
    larger = member("b", "larger", members=3)
    asked = d.meet(larger)[-1]
    assert d.say(DissolvingFailed()) == []
    assert d.it.state is FormationState.MEMBER
    assert asked in d.wait(CONFIG.lone_recall_ms * 2, larger)


def test_a_hive_that_is_not_empty_any_more_is_kept() -> None:
    d = Dialogue()
    d.wait(CONFIG.quiet_ms)
    d.say(HiveFormed(hive_id="mine"))
    d.say(VirginityKnown(virgin=True, members=1, hive_created_ms=100))
    d.meet(member("b", "older", created_ms=50))
    assert d.it.state is FormationState.LEAVING
    assert d.say(VirginityKnown(virgin=False, members=1, hive_created_ms=100)) == []
    assert (d.it.state, d.it.hive_id) == (FormationState.MEMBER, "mine")


def test_a_foreign_hive_is_reported_once_a_minute() -> None:
    d = Dialogue(existing_hive="mine")
    other = member("a", "other")
    assert len(d.meet(other)) == 1
    assert d.meet(other) == []
    assert len(d.wait(CONFIG.settled_recall_ms, other)) == 1


def test_what_nobody_was_asked_for_changes_nothing() -> None:
    d = Dialogue()
    assert d.say(fresh("never-called")) == []
    assert d.it.confirmed() == ()


def test_the_table_of_candidates_is_bounded_and_forgets_who_never_answered_first() -> None:
    table = Candidates(call_ms_max=1_000)
    table.name("good:1", "bootstrap", 0, again_ms=0)
    table.confirm("good:1", NodeId("g"), due_ms=None, other_due_ms=None)
    for number in range(2 * CANDIDATES_MAX):
        table.name(f"forged:{number}", "mdns", 1 + number, again_ms=0)
    assert len(table) == CANDIDATES_MAX
    assert table.knows("good:1")
    assert len(table.take_due(10_000)) == IN_FLIGHT_MAX


def waits_for_a_silent_machine(d: Dialogue) -> list[int]:
    """After how many ms each an address is called again at which every connection is refused."""
    d.say(CandidateSeen(address="x:1", source="bootstrap"))
    waits = []
    for _ in range(12):
        d.raw(PeerUnconfirmed(address="x:1", refused=True))
        failed_ms = d.now_ms
        while CallBack(address="x:1") not in d.raw(TimePassed()):
            due_ms = d.it.next_deadline()
            assert due_ms is not None
            d.now_ms = due_ms
        waits.append(d.now_ms - failed_ms)
    return waits


def test_a_failing_address_is_called_ever_more_rarely_by_who_has_a_hive() -> None:
    waits = waits_for_a_silent_machine(Dialogue(existing_hive="mine"))
    assert waits[:4] == [250, 500, 1_000, 2_000]
    assert waits[-1] == BACKOFF_SETTLED_MS_MAX


def test_who_has_no_hive_or_an_empty_one_looks_soon_whether_the_other_machine_is_up() -> None:
    worker = Dialogue(may_vote=False)
    alone = Dialogue()
    alone.wait(CONFIG.quiet_ms)
    alone.say(HiveFormed(hive_id="mine"))
    alone.say(VirginityKnown(virgin=True, members=1, hive_created_ms=100))
    for seeking in (worker, alone):
        waits = waits_for_a_silent_machine(seeking)
        assert waits[:4] == [250, 500, 1_000, 2_000]
        assert max(waits) == BACKOFF_SEEKING_MS_MAX
    alone.say(VirginityKnown(virgin=False, members=1, hive_created_ms=100))
    assert max(waits_for_a_silent_machine(alone)) == BACKOFF_SETTLED_MS_MAX


NAMES = st.sampled_from(["a", "b", "x", "m"])
EVENTS = st.one_of(
    NAMES.map(lambda name: CandidateSeen(address=f"{name}:1", source="mdns")),
    NAMES.map(fresh),
    NAMES.map(founding),
    st.builds(member, NAMES, st.sampled_from(["", "h", "i"]), members=st.integers(0, 3)),
    st.builds(PeerUnconfirmed, address=NAMES.map(lambda name: f"{name}:1"), refused=st.booleans()),
    st.builds(InvitationAgreed, node_id=NAMES.map(NodeId)),
    st.builds(InvitationRefused, node_id=NAMES.map(NodeId)),
    st.builds(Invited, by=NAMES.map(NodeId), hive_id=st.just("h")),
    st.builds(JoinSucceeded, hive_id=st.just("h")),
    st.builds(JoinFailed, hive_id=st.just("h"), retry=st.booleans()),
    st.just(TimePassed()),
    st.just(DiscoveryBegan()),
)


@given(st.lists(st.tuples(st.integers(0, 2_000), EVENTS), max_size=40), st.booleans())
def test_whatever_a_network_says_nothing_breaks_and_no_deadline_lies_in_the_past(
    story: list[tuple[int, Event]], may_vote: bool
) -> None:
    d = Dialogue(may_vote=may_vote)
    for pause_ms, event in story:
        d.now_ms += pause_ms
        effects = d.raw(event)
        assert sum(isinstance(effect, FormHive | JoinHive | DissolveOwnHive) for effect in effects) <= 1
        d.raw(TimePassed())
        deadline_ms = d.it.next_deadline()
        assert deadline_ms is None or deadline_ms > d.now_ms


def test_a_node_whose_owner_named_a_hive_joins_that_one_and_no_better_one() -> None:
    d = Dialogue(bound_to="named")
    large, named = member("a", "large", members=9), member("b", "named", members=1)
    d.meet(large, fresh("z"))
    assert [effect for effect in d.wait(60_000, large) if not isinstance(effect, ReportForeignHive)] == []
    (refusal,) = d.say(Invited(by=NodeId("a0"), hive_id="h"))
    assert isinstance(refusal, RefuseInvitation)
    assert JoinHive(hive_id="named", addresses=("b:1",)) in d.meet(named)
