"""How daemons meet: introductions, proof of identity, the tickets that it earns, invitations and joining."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from hivenode.encoding.node_record import NodeId, handshake_message
from hivenode.encoding.records import encode_record
from hivenode.errors import Code
from hivenode.pb import hive_pb2
from hivenode.pool.records import BlobRef
from hivenode.runtime.ports import HivePhase, PeerAddress
from hivenode.transport.limits import Limits
from hivenode.transport.metadata import SAID_ONCE
from hivenode.transport.peer_link import SERVICE, Connection
from hivenode.transport.peer_service import JOINS_PER_MINUTE_MAX
from hivenode.transport.statuses import code_in
from hivenode.transport.tickets import TICKET_LIFETIME_MS
from tests.integration.transport.parts import DEADLINE_S, HIVE, nodes
from tests.integration.transport.peer_calls import code_of, failure_of, raw_failure
from tests.support.relay import relay

# --- who is there ----------------------------------------------------------------------------------------------------


async def test_an_introduction_tells_who_answers_with_its_record_checked() -> None:
    async with nodes(2) as (a, b):
        introduction = await a.peers.introduce(b.server.peer_address, DEADLINE_S)
        assert introduction.record.node_id == b.id
        assert (introduction.hive_id, introduction.phase) == (HIVE, HivePhase.MEMBER)
        assert introduction.leader == a.address
        assert introduction.confirmed == (NodeId("a"), NodeId("b"))
        assert (introduction.members, introduction.hive_created_ms) == (3, 7)


async def test_an_introduction_crosses_hives_and_a_proof_does_not() -> None:
    async with nodes(2) as (a, b):
        b.ports.hive = "f" * 32
        assert (await a.peers.introduce(b.server.peer_address, DEADLINE_S)).hive_id == "f" * 32
        error = await failure_of(a.peers.join(b.address, "", a.ports.record(), DEADLINE_S))
        assert error.code is Code.WRONG_HIVE


async def test_nobody_at_the_address_is_node_offline() -> None:
    async with nodes(1) as (a,):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{unused.getsockname()[1]}"
        error = await failure_of(a.peers.introduce(address, DEADLINE_S))
        assert error.code is Code.NODE_OFFLINE


async def test_another_node_at_a_known_address_is_rejected() -> None:
    async with nodes(2) as (a, b):
        somebody = PeerAddress(node_id=NodeId("a" * 26), addresses=b.address.addresses)
        error = await failure_of(a.peers.invite(somebody, HIVE, DEADLINE_S))
        assert error.code is Code.PEER_REJECTED


async def test_the_next_address_is_tried_when_one_refuses() -> None:
    async with nodes(2) as (a, b):
        b.ports.hive = ""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            dead = f"127.0.0.1:{unused.getsockname()[1]}"
        peer = PeerAddress(node_id=b.id, addresses=(dead, b.server.peer_address))
        assert b.id.encode() in (await a.peers.invite(peer, HIVE, DEADLINE_S)).record
        assert a.peers.link_to(peer).addresses[0] == b.server.peer_address


@pytest.mark.parametrize("name", sorted(SAID_ONCE))
@pytest.mark.parametrize("method", ["Challenge", "CompareDigest", "Messages", "FetchBlob", "StoreBlob"])
async def test_what_a_call_may_carry_once_is_refused_when_it_is_there_twice(method: str, name: str) -> None:
    """Whoever looked at the first would else see another call than whoever looked at the last."""
    async with nodes(2) as (a, b):
        connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
        carried = dict(connection.metadata)
        metadata = [*connection.metadata, *[(name, "1")] * (1 if name in carried else 2)]
        call: Any = connection.channel.stream_stream(f"{SERVICE}{method}")(metadata=metadata, timeout=DEADLINE_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()  # Nothing is ever sent.
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert name in (caught.value.details() or "")


async def test_a_wrong_signature_proves_nothing() -> None:
    async with nodes(2) as (a, b):
        async with b.peer_channel as channel:
            invoke: Any = channel.unary_unary("/hive.PeerService/Challenge")
            answer = hive_pb2.ChallengeResponse.FromString(
                await invoke(
                    hive_pb2.ChallengeRequest(
                        caller_record=encode_record(a.ports.record()), caller_nonce=bytes(32), hive_id=HIVE
                    ).SerializeToString(),
                    timeout=DEADLINE_S,
                )
            )
        wrong = handshake_message(
            nonce=answer.callee_nonce,
            signer=a.id,
            other=b.id,
            hive_id=HIVE,
            certificate_sha256=b.certificate.sha256,
            purpose="callee",
        )
        request = hive_pb2.ProveRequest(
            caller_node_id=a.id, callee_nonce=answer.callee_nonce, hive_id=HIVE, signature=a.identity.sign(wrong)
        )
        assert code_of(await raw_failure(b, "Prove", request)) == Code.PEER_REJECTED
        # Nobody else's guess uses up the challenge.
        right = handshake_message(
            nonce=answer.callee_nonce,
            signer=a.id,
            other=b.id,
            hive_id=HIVE,
            certificate_sha256=b.certificate.sha256,
            purpose="caller",
        )
        request.signature = a.identity.sign(right)
        async with b.peer_channel as channel:
            prove: Any = channel.unary_unary("/hive.PeerService/Prove", None, hive_pb2.ProveResponse.FromString)
            assert (await prove(request.SerializeToString(), timeout=DEADLINE_S)).ticket


async def test_a_record_that_another_key_signed_is_rejected() -> None:
    async with nodes(2) as (a, b):
        forged = a.ports.record()
        request = hive_pb2.ChallengeRequest(
            caller_record=encode_record(type(forged)(record=forged.record, signature=b.identity.sign(forged.record))),
            caller_nonce=bytes(32),
            hive_id=HIVE,
        )
        assert code_of(await raw_failure(b, "Challenge", request)) == Code.PEER_REJECTED


@pytest.mark.parametrize("request_message", [b"", b"\xff" * 8])
async def test_a_malformed_challenge_is_an_invalid_argument(request_message: bytes) -> None:
    async with nodes(1) as (a,), a.peer_channel as channel:
        invoke: Any = channel.unary_unary("/hive.PeerService/Challenge")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await invoke(request_message, timeout=DEADLINE_S)
        assert code_of(caught.value) == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("method", "request_message"),
    [
        ("Invite", hive_pb2.InviteRequest(hive_id=HIVE)),
        ("Join", hive_pb2.JoinRequest(record=b"x")),
        ("Messages", hive_pb2.RaftFrame()),
        ("Work", hive_pb2.WorkerFrame()),
        ("FetchBlob", hive_pb2.FetchBlobRequest()),
        ("StoreBlob", hive_pb2.StoreBlobPiece()),
        ("ReadLog", hive_pb2.ReadLogRequest()),
    ],
)
async def test_no_inner_call_is_answered_without_a_ticket(method: str, request_message: Any) -> None:
    async with nodes(1) as (a,):
        for carried in ({}, {"hive_peer_ticket": "forged", "hive_id": HIVE}):
            error = await raw_failure(a, method, request_message, **carried)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert code_of(error) == Code.PEER_REJECTED


async def test_a_node_that_is_not_let_in_gets_no_blob() -> None:
    async with nodes(2) as (a, b):
        b.admitted = False
        blob = BlobRef(sha256="0" * 64, size_bytes=1)
        error = await failure_of(anext(a.peers.fetch_blob(b.address, blob)))
        assert error.code is Code.NOT_A_MEMBER


async def _has_a_ticket_that_counts(connection: Connection) -> bool:
    fetch: Any = connection.channel.unary_stream(SERVICE + "FetchBlob")
    call = fetch(
        hive_pb2.FetchBlobRequest(sha256="0" * 64, size_bytes=1).SerializeToString(), metadata=connection.metadata
    )
    async with asyncio.timeout(DEADLINE_S):
        code = code_in(tuple(await call.trailing_metadata() or ()))
    assert code in (Code.BLOB_NOT_FOUND, Code.PEER_REJECTED)
    return code is Code.BLOB_NOT_FOUND


async def test_the_keys_of_strangers_at_one_address_push_out_their_own_tickets_and_nobody_elses() -> None:
    async with nodes(7, limits=Limits(origin_tickets=2)) as (callee, *members, elsewhere, one, two, three):
        of_members = [await member.peers.link_to(callee.address).connect(DEADLINE_S) for member in members]
        callee.admitted = False
        async with relay(callee.server.peer_address, "127.0.0.2") as address:
            there = PeerAddress(node_id=callee.id, addresses=(address,))
            taken = [await elsewhere.peers.link_to(there).connect(DEADLINE_S)]
            taken += [await it.peers.link_to(callee.address).connect(DEADLINE_S) for it in (one, two, three)]
            callee.admitted = True
            assert [await _has_a_ticket_that_counts(it) for it in taken] == [True, False, True, True]
            assert [await _has_a_ticket_that_counts(it) for it in of_members] == [True, True]


async def test_members_at_one_address_push_out_nobodys_ticket() -> None:
    async with nodes(5, limits=Limits(origin_tickets=2)) as (callee, *members):
        connections = [await member.peers.link_to(callee.address).connect(DEADLINE_S) for member in members]
        assert all([await _has_a_ticket_that_counts(it) for it in connections])


@pytest.mark.parametrize("ahead_ms", [TICKET_LIFETIME_MS, -TICKET_LIFETIME_MS])
async def test_a_clock_of_the_wall_that_is_set_neither_ends_a_ticket_nor_lengthens_it(ahead_ms: int) -> None:
    async with nodes(2) as (callee, member):
        connection = await member.peers.link_to(callee.address).connect(DEADLINE_S)
        callee.wall_ahead_ms = ahead_ms
        assert await _has_a_ticket_that_counts(connection)
        callee.clock_ahead_ms = TICKET_LIFETIME_MS
        assert not await _has_a_ticket_that_counts(connection)


async def test_a_ticket_that_has_merely_expired_is_worth_no_warning_and_one_that_nobody_gave_is() -> None:
    async with nodes(2) as (callee, member):
        connection = await member.peers.link_to(callee.address).connect(DEADLINE_S)
        callee.clock_ahead_ms = TICKET_LIFETIME_MS
        with capture_logs() as logs:
            assert [await _has_a_ticket_that_counts(connection) for _ in range(2)] == [False, False]
            assert [line["event"] for line in logs if line["log_level"] == "warning"] == []
            connection.renew("x" * 43, HIVE)
            assert not await _has_a_ticket_that_counts(connection)
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["refused a node"]


async def test_a_bad_hive_id_is_refused_with_a_good_ticket() -> None:
    async with nodes(2) as (a, b):
        connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
        ticket = dict(connection.metadata)["hive-peer-ticket"]
        error = await raw_failure(b, "ReadLog", hive_pb2.ReadLogRequest(), hive_peer_ticket=ticket, hive_id="f" * 32)
        assert code_of(error) == Code.WRONG_HIVE


# --- invitations and joining ------------------------------------------------------------------------------------------


async def test_a_fresh_node_takes_an_invitation_and_a_member_does_not() -> None:
    async with nodes(2) as (a, b):
        a.ports.hive = b.ports.hive = ""
        signed = await a.peers.invite(b.address, HIVE, DEADLINE_S)
        assert b.identity.node_id.encode() in signed.record
        b.ports.hive = HIVE
        error = await failure_of(a.peers.invite(b.address, HIVE, DEADLINE_S))
        assert error.code is Code.WRONG_HIVE


async def test_a_join_at_a_follower_reaches_the_leader_with_the_joiners_id() -> None:
    async with nodes(3) as (leader, follower, joiner):
        joiner.ports.hive = ""
        record = joiner.ports.record()
        offer = await joiner.peers.join(follower.address, HIVE, record, DEADLINE_S)
        assert (offer.hive_id, offer.voter_rights) == (HIVE, True)
        assert offer.leader == leader.address
        assert leader.ports.joined == [(joiner.id, record)]


async def test_nobody_asks_for_another_node_to_join() -> None:
    async with nodes(3) as (leader, other, joiner):
        joiner.ports.hive = ""
        error = await failure_of(joiner.peers.join(leader.address, HIVE, other.ports.record(), DEADLINE_S))
        assert error.code is Code.PEER_REJECTED
        assert leader.ports.joined == []


async def test_a_stranger_cannot_pose_as_a_follower_that_forwards_a_join() -> None:
    async with nodes(3) as (leader, other, joiner):
        joiner.ports.hive = ""
        leader.admitted = False
        error = await failure_of(joiner.peers.join(leader.address, HIVE, other.ports.record(), DEADLINE_S, hops=1))
        assert error.code is Code.PEER_REJECTED


async def test_machines_that_come_in_from_one_address_have_a_rate_and_those_from_elsewhere_do_not_wait_for_it() -> None:
    async with nodes(3) as (callee, joiner, elsewhere):
        callee.admitted = False

        async def come_in_without_end() -> None:
            for _ in range(10 * JOINS_PER_MINUTE_MAX):
                await joiner.peers.join(callee.address, HIVE, joiner.ports.record(), DEADLINE_S)

        assert (await failure_of(come_in_without_end())).code is Code.RATE_LIMITED
        assert len(callee.ports.joined) >= JOINS_PER_MINUTE_MAX
        async with relay(callee.server.peer_address, "127.0.0.2") as address:
            there = PeerAddress(node_id=callee.id, addresses=(address,))
            assert await elsewhere.peers.join(there, HIVE, elsewhere.ports.record(), DEADLINE_S)
        callee.admitted = True
        assert await joiner.peers.join(callee.address, HIVE, joiner.ports.record(), DEADLINE_S)


async def test_machines_that_are_refused_do_not_count_as_coming_in() -> None:
    async with nodes(2) as (callee, joiner):
        callee.admitted = False
        callee.ports.refused_joins = Code.PEER_REJECTED
        for _ in range(2 * JOINS_PER_MINUTE_MAX):
            error = await failure_of(joiner.peers.join(callee.address, HIVE, joiner.ports.record(), DEADLINE_S))
            assert error.code is Code.PEER_REJECTED
        callee.ports.refused_joins = Code.SUCCESS
        assert await joiner.peers.join(callee.address, HIVE, joiner.ports.record(), DEADLINE_S)


async def test_a_join_does_not_go_in_circles() -> None:
    async with nodes(3) as (a, b, joiner):
        joiner.ports.hive = ""
        a.ports.follow(b.address)
        b.ports.follow(a.address)
        error = await failure_of(joiner.peers.join(a.address, HIVE, joiner.ports.record(), DEADLINE_S))
        assert error.code is Code.NO_LEADER
