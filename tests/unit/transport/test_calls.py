"""What goes round a call: origins, tickets, routes."""

from __future__ import annotations

import pytest

from hivenode.encoding.node_record import NodeId, node_id_of
from hivenode.errors import Code, HiveError, outcome_of
from hivenode.pb import nodepool_pb2
from hivenode.runtime.ports import Standing
from hivenode.transport.interceptors.calls import origin_of, refusal_in
from hivenode.transport.routing import ROUTES, RouteKind
from hivenode.transport.statuses import GRPC_STATUS, MalformedError
from hivenode.transport.tickets import (
    CHALLENGE_BYTES,
    CHALLENGE_LIFETIME_MS,
    CHALLENGES_SPENT_MAX,
    ORIGIN_TICKETS_MAX,
    STRANGERS_TICKETS_MAX,
    TICKET_LIFETIME_MS,
    TICKETS_MAX,
    TICKETS_PER_NODE_MAX,
    Tickets,
)


@pytest.mark.parametrize(
    ("peer", "origin"),
    [
        ("ipv4:10.0.0.1:5000", "ip:10.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "ip:::1"),
        ("ipv6:[fe80::1]:5000", "ip:fe80::1"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_an_origin_has_no_port(peer: str, origin: str) -> None:
    assert origin_of(peer) == origin


def test_every_code_but_success_has_a_status() -> None:
    assert set(Code) - {Code.SUCCESS} == set(GRPC_STATUS)


def test_a_refusal_goes_into_a_response_that_can_carry_it() -> None:
    answer = refusal_in(nodepool_pb2.LoginResponse, HiveError(Code.USER_EXISTS, "there"))
    assert answer == nodepool_pb2.LoginResponse(success=False, message="there")
    assert refusal_in(nodepool_pb2.GetNodeListResponse, HiveError(Code.USER_EXISTS, "there")) is None
    assert refusal_in(nodepool_pb2.LoginResponse, MalformedError("bad")) is None
    for code in Code:
        if code is not Code.SUCCESS and outcome_of(code).value != "refused" and code is not Code.TASK_NOT_FINISHED:
            assert refusal_in(nodepool_pb2.LoginResponse, HiveError(code, "x")) is None


def test_answers_of_one_kind_are_bounded_alike() -> None:
    bulky = {route.response for route in ROUTES.values() if route.bulky}
    assert bulky.isdisjoint({route.response for route in ROUTES.values() if not route.bulky})


def test_only_reads_and_local_calls_are_answered_by_a_follower() -> None:
    for route in ROUTES.values():
        assert route.answered_here(Standing.LEADER)
        assert route.answered_here(Standing.REPLICA) == (route.kind is not RouteKind.LEADER)
        assert route.answered_here(Standing.LIGHT) == (route.kind is RouteKind.LOCAL)
        assert not (route.writes and route.kind is not RouteKind.LEADER)


ORIGIN = "ip:127.0.0.1"
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
CALLER = node_id_of(KEY)


class _Clock:
    def __init__(self) -> None:
        self.ms = 0

    def now(self) -> int:
        return self.ms


def _rejected(check: object, *arguments: object) -> Code:
    with pytest.raises(HiveError) as caught:
        check(*arguments)  # type: ignore[operator]
    return caught.value.code


def test_a_ticket_lasts_an_hour_and_only_in_its_hive() -> None:
    clock = _Clock()
    tickets = Tickets(lambda: "h", clock.now)
    ticket = tickets.give(NodeId("a"), ORIGIN)
    assert tickets.check(ticket, "h") == "a"
    assert _rejected(tickets.check, ticket, "g") is Code.WRONG_HIVE
    assert _rejected(tickets.check, ticket, "") is Code.WRONG_HIVE
    assert _rejected(tickets.check, ticket + "x", "h") is Code.PEER_REJECTED
    clock.ms = TICKET_LIFETIME_MS
    assert _rejected(tickets.check, ticket, "h") is Code.PEER_REJECTED


def test_a_challenge_counts_once_for_half_a_minute_and_for_its_caller() -> None:
    clock = _Clock()
    tickets = Tickets(lambda: "h", clock.now)
    first, second = (tickets.open_challenge(KEY) for _ in range(2))
    assert _rejected(tickets.challenge_of, first, node_id_of(OTHER_KEY)) is Code.PEER_REJECTED
    challenge = tickets.challenge_of(first, CALLER)
    assert challenge.public_key == KEY
    tickets.spend(challenge)
    assert _rejected(tickets.challenge_of, first, CALLER) is Code.PEER_REJECTED
    clock.ms = CHALLENGE_LIFETIME_MS - 1
    assert tickets.challenge_of(second, CALLER).public_key == KEY
    clock.ms = CHALLENGE_LIFETIME_MS
    assert _rejected(tickets.challenge_of, second, CALLER) is Code.PEER_REJECTED


def test_a_challenge_that_was_made_up_or_is_of_another_process_is_not_known() -> None:
    tickets, others = (Tickets(lambda: "h", _Clock().now) for _ in range(2))
    nonce = tickets.open_challenge(KEY)
    assert len(nonce) == CHALLENGE_BYTES
    for at in range(len(nonce)):
        forged = nonce[:at] + bytes([nonce[at] ^ 1]) + nonce[at + 1 :]
        assert _rejected(tickets.challenge_of, forged, CALLER) is Code.PEER_REJECTED
    assert _rejected(tickets.challenge_of, others.open_challenge(KEY), CALLER) is Code.PEER_REJECTED


def test_a_challenge_does_not_tell_how_long_the_machine_runs() -> None:
    clock = _Clock()
    clock.ms = 40 * 24 * TICKET_LIFETIME_MS
    nonce = Tickets(lambda: "h", clock.now).open_challenge(KEY)
    told = {int.from_bytes(nonce[at : at + 8]) for at in range(len(nonce) - 7)}
    assert not any(abs(number - clock.ms) < TICKET_LIFETIME_MS for number in told)


def test_who_asks_for_challenges_without_end_takes_nobody_elses() -> None:
    tickets = Tickets(lambda: "h", _Clock().now)
    nonce = tickets.open_challenge(KEY)
    for _ in range(2 * CHALLENGES_SPENT_MAX):
        tickets.open_challenge(OTHER_KEY)
    assert tickets.challenge_of(nonce, CALLER).public_key == KEY


def test_a_spent_challenge_stays_spent_when_many_more_are() -> None:
    tickets = Tickets(lambda: "h", _Clock().now)
    nonce = tickets.open_challenge(KEY)
    tickets.spend(tickets.challenge_of(nonce, CALLER))
    for _ in range(CHALLENGES_SPENT_MAX):
        tickets.spend(tickets.challenge_of(tickets.open_challenge(OTHER_KEY), node_id_of(OTHER_KEY)))
    assert _rejected(tickets.challenge_of, nonce, CALLER) is Code.PEER_REJECTED
    assert tickets.challenge_of(tickets.open_challenge(KEY), CALLER).public_key == KEY


def test_a_spent_challenge_stays_spent_when_the_clock_is_set_back() -> None:
    clock = _Clock()
    tickets = Tickets(lambda: "h", clock.now)
    nonce = tickets.open_challenge(KEY)
    tickets.spend(tickets.challenge_of(nonce, CALLER))
    clock.ms = CHALLENGE_LIFETIME_MS
    tickets.spend(tickets.challenge_of(tickets.open_challenge(KEY), CALLER))
    clock.ms = 0
    assert _rejected(tickets.challenge_of, nonce, CALLER) is Code.PEER_REJECTED


def test_tickets_are_bounded() -> None:
    tickets = Tickets(lambda: "h", _Clock().now)
    first = tickets.give(NodeId("a"), ORIGIN)
    for number in range(TICKETS_MAX):
        tickets.give(NodeId(f"b{number}"), f"ip:b{number}")
    assert _rejected(tickets.holder, first) is Code.PEER_REJECTED


def test_one_key_pushes_out_its_own_oldest_tickets_and_nobody_elses() -> None:
    tickets = Tickets(lambda: "h", _Clock().now)
    of_member = tickets.give(NodeId("member"), ORIGIN)
    of_stranger = [tickets.give(NodeId("stranger"), ORIGIN) for _ in range(TICKETS_MAX + TICKETS_PER_NODE_MAX)]
    assert tickets.holder(of_member) == "member"
    assert {tickets.holder(ticket) for ticket in of_stranger[-TICKETS_PER_NODE_MAX:]} == {"stranger"}
    assert _rejected(tickets.holder, of_stranger[-TICKETS_PER_NODE_MAX - 1]) is Code.PEER_REJECTED


def test_strangers_from_everywhere_push_out_no_members_ticket() -> None:
    tickets = Tickets(lambda: "h", _Clock().now)
    of_members = [tickets.give(NodeId(f"member{number}"), "") for number in range(TICKETS_MAX - STRANGERS_TICKETS_MAX)]
    first = tickets.give(NodeId("stranger"), ORIGIN)
    for number in range(TICKETS_MAX):
        tickets.give(NodeId(f"b{number}"), f"ip:b{number}")
    assert {tickets.holder(ticket) for ticket in of_members} == {f"member{number}" for number in range(len(of_members))}
    assert _rejected(tickets.holder, first) is Code.PEER_REJECTED


def test_one_address_pushes_out_its_own_oldest_tickets_and_nobody_elses() -> None:
    tickets = Tickets(lambda: "h", _Clock().now)
    of_member = tickets.give(NodeId("member"), "")
    of_strangers = [tickets.give(NodeId(f"stranger{number}"), "ip:192.0.2.1") for number in range(TICKETS_MAX + 1)]
    assert tickets.holder(of_member) == "member"
    assert tickets.holder(of_strangers[-ORIGIN_TICKETS_MAX]) == f"stranger{TICKETS_MAX + 1 - ORIGIN_TICKETS_MAX}"
    assert _rejected(tickets.holder, of_strangers[-ORIGIN_TICKETS_MAX - 1]) is Code.PEER_REJECTED


def test_a_ticket_that_ended_frees_its_place() -> None:
    clock = _Clock()
    tickets = Tickets(lambda: "h", clock.now)
    for _ in range(TICKETS_PER_NODE_MAX):
        tickets.give(NodeId("a"), ORIGIN)
    tickets.revoke(NodeId("a"))
    old = tickets.give(NodeId("a"), ORIGIN)
    clock.ms = TICKET_LIFETIME_MS
    assert _rejected(tickets.holder, old) is Code.PEER_REJECTED
    fresh = [tickets.give(NodeId("a"), ORIGIN) for _ in range(TICKETS_PER_NODE_MAX)]
    assert {tickets.holder(ticket) for ticket in fresh} == {"a"}
