"""What daemons say to each other: proof of identity, consensus messages, joining, work, blobs and logs."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from hivenode.consensus import Heartbeat, MemberId
from hivenode.encoding.node_record import NodeId, handshake_message
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError
from hivenode.pb import hive_pb2
from hivenode.pool.records import AttemptOutcome, BlobRef, TaskSpec, TaskState
from hivenode.runtime.digests import DigestReport, Verdict
from hivenode.runtime.ports import (
    AttemptEnded,
    AttemptKey,
    AttemptOrder,
    AttemptStarted,
    CloseOrder,
    HivePhase,
    Introduction,
    PeerAddress,
    TaskEvent,
    WorkerHeartbeat,
    WorkerHello,
)
from hivenode.runtime.stores import SnapshotRef
from hivenode.runtime.streams import closing
from hivenode.transport import peers
from hivenode.transport.limits import Limits
from hivenode.transport.metadata import SAID_ONCE
from hivenode.transport.peer_link import SERVICE, Connection
from hivenode.transport.peer_service import JOINS_PER_MINUTE_MAX
from hivenode.transport.statuses import code_in
from hivenode.transport.tickets import TICKET_LIFETIME_MS
from tests.integration.transport.client import Client
from tests.integration.transport.parts import DEADLINE_S, HIVE, Node, capabilities, nodes
from tests.support.relay import relay

KEY = AttemptKey(user="u", task_id="task-001", attempt=1)


def _heartbeat(commit: int, context: bytes = b"") -> Heartbeat:
    return Heartbeat(to=MemberId("b.1"), from_=MemberId("a.1"), term=1, commit=commit, context=context)


async def _soon(queue: asyncio.Queue[Any]) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        return await queue.get()


async def _failure(awaited: Any) -> HiveError:
    with pytest.raises(HiveError) as caught:
        async with asyncio.timeout(DEADLINE_S):
            await awaited
    return caught.value


async def _raw(node: Node, method: str, request: Any, **carried: str) -> grpc.aio.AioRpcError:
    """The failure of one bare call to the peer port."""
    metadata = [(key.replace("_", "-"), value) for key, value in carried.items()]
    async with node.peer_channel as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/hive.PeerService/{method}")(
                request.SerializeToString(), metadata=metadata, timeout=DEADLINE_S
            )
    return caught.value


def _code(error: grpc.aio.AioRpcError) -> int:
    return int(str(dict(error.trailing_metadata() or ())["hive-error-code"]))


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
        error = await _failure(a.peers.join(b.address, "", a.ports.record(), DEADLINE_S))
        assert error.code is Code.WRONG_HIVE


async def test_nobody_at_the_address_is_node_offline() -> None:
    async with nodes(1) as (a,):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{unused.getsockname()[1]}"
        error = await _failure(a.peers.introduce(address, DEADLINE_S))
        assert error.code is Code.NODE_OFFLINE


async def test_another_node_at_a_known_address_is_rejected() -> None:
    async with nodes(2) as (a, b):
        somebody = PeerAddress(node_id=NodeId("a" * 26), addresses=b.address.addresses)
        error = await _failure(a.peers.invite(somebody, HIVE, DEADLINE_S))
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
        assert _code(await _raw(b, "Prove", request)) == Code.PEER_REJECTED
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
        assert _code(await _raw(b, "Challenge", request)) == Code.PEER_REJECTED


@pytest.mark.parametrize("request_message", [b"", b"\xff" * 8])
async def test_a_malformed_challenge_is_an_invalid_argument(request_message: bytes) -> None:
    async with nodes(1) as (a,), a.peer_channel as channel:
        invoke: Any = channel.unary_unary("/hive.PeerService/Challenge")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await invoke(request_message, timeout=DEADLINE_S)
        assert _code(caught.value) == Code.INVALID_ARGUMENT


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
            error = await _raw(a, method, request_message, **carried)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert _code(error) == Code.PEER_REJECTED


async def test_a_node_that_is_not_let_in_gets_no_blob() -> None:
    async with nodes(2) as (a, b):
        b.admitted = False
        blob = BlobRef(sha256="0" * 64, size_bytes=1)
        error = await _failure(anext(a.peers.fetch_blob(b.address, blob)))
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
        error = await _raw(b, "ReadLog", hive_pb2.ReadLogRequest(), hive_peer_ticket=ticket, hive_id="f" * 32)
        assert _code(error) == Code.WRONG_HIVE


# --- meeting ---------------------------------------------------------------------------------------------------------


async def test_a_fresh_node_takes_an_invitation_and_a_member_does_not() -> None:
    async with nodes(2) as (a, b):
        a.ports.hive = b.ports.hive = ""
        signed = await a.peers.invite(b.address, HIVE, DEADLINE_S)
        assert b.identity.node_id.encode() in signed.record
        b.ports.hive = HIVE
        error = await _failure(a.peers.invite(b.address, HIVE, DEADLINE_S))
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
        error = await _failure(joiner.peers.join(leader.address, HIVE, other.ports.record(), DEADLINE_S))
        assert error.code is Code.PEER_REJECTED
        assert leader.ports.joined == []


async def test_a_stranger_cannot_pose_as_a_follower_that_forwards_a_join() -> None:
    async with nodes(3) as (leader, other, joiner):
        joiner.ports.hive = ""
        leader.admitted = False
        error = await _failure(joiner.peers.join(leader.address, HIVE, other.ports.record(), DEADLINE_S, hops=1))
        assert error.code is Code.PEER_REJECTED


async def test_machines_that_come_in_from_one_address_have_a_rate_and_those_from_elsewhere_do_not_wait_for_it() -> None:
    async with nodes(3) as (callee, joiner, elsewhere):
        callee.admitted = False

        async def come_in_without_end() -> None:
            for _ in range(10 * JOINS_PER_MINUTE_MAX):
                await joiner.peers.join(callee.address, HIVE, joiner.ports.record(), DEADLINE_S)

        assert (await _failure(come_in_without_end())).code is Code.RATE_LIMITED
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
            error = await _failure(joiner.peers.join(callee.address, HIVE, joiner.ports.record(), DEADLINE_S))
            assert error.code is Code.PEER_REJECTED
        callee.ports.refused_joins = Code.SUCCESS
        assert await joiner.peers.join(callee.address, HIVE, joiner.ports.record(), DEADLINE_S)


async def test_a_join_does_not_go_in_circles() -> None:
    async with nodes(3) as (a, b, joiner):
        joiner.ports.hive = ""
        a.ports.follow(b.address)
        b.ports.follow(a.address)
        error = await _failure(joiner.peers.join(a.address, HIVE, joiner.ports.record(), DEADLINE_S))
        assert error.code is Code.NO_LEADER


# --- consensus messages ----------------------------------------------------------------------------------------------


async def test_messages_arrive_in_order_with_the_proven_caller() -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(b.address)
        sent = [_heartbeat(number) for number in range(500)]
        for message in sent:
            a.peers.send(b.id, message)
        assert [await _soon(b.ports.received) for _ in sent] == [(a.id, message) for message in sent]
        assert await _soon(b.ports.connected) == a.id


async def test_a_message_to_an_unknown_address_is_dropped_until_one_is_learned() -> None:
    async with nodes(2) as (a, b):
        a.peers.send(b.id, _heartbeat(1))
        a.peers.learn(b.address)
        async with asyncio.timeout(DEADLINE_S):
            while b.ports.received.empty():
                a.peers.send(b.id, _heartbeat(2))
                await asyncio.sleep(0.01)


async def test_both_sides_learn_of_connection_and_of_an_orderly_stop() -> None:
    async with nodes(2) as (a, b):
        connected: asyncio.Queue[NodeId] = asyncio.Queue()
        lost: asyncio.Queue[tuple[NodeId, bool]] = asyncio.Queue()
        a.peers.on_peer_connected = connected.put_nowait
        a.peers.on_peer_lost = lambda node, reset: lost.put_nowait((node, reset))
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        assert await _soon(connected) == b.id
        await _soon(b.ports.received)
        await b.server.stop(DEADLINE_S)
        assert await _soon(lost) == (b.id, False)
        assert await _soon(b.ports.lost) == (a.id, False)


async def test_a_peer_that_says_goodbye_is_not_lost_by_reset() -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        await _soon(b.ports.received)
        await a.peers.aclose()
        assert await _soon(b.ports.lost) == (a.id, False)


async def test_a_connection_that_is_cut_is_lost_by_reset() -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        await _soon(b.ports.received)
        connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
        await connection.channel.close()
        assert await _soon(b.ports.lost) == (a.id, True)


async def test_a_peer_that_comes_back_at_another_address_is_found_at_once() -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        await _soon(b.ports.received)
        await b.server.stop(0)
        b.server = b.make_server("127.0.0.1:0")
        await b.server.start()
        a.peers.learn(b.address)
        async with asyncio.timeout(DEADLINE_S):
            while b.ports.received.empty():
                a.peers.send(b.id, _heartbeat(2))
                await asyncio.sleep(0.01)


async def test_a_connection_that_breaks_while_it_is_proven_anew_is_dialled_afresh() -> None:
    async with nodes(2) as (a, b):
        link = a.peers.link_to(b.address)
        connection = await link.connect(DEADLINE_S)
        asked, introduction = asyncio.Event(), b.ports.introduction

        def broken_now() -> Introduction:
            b.ports.introduction = introduction  # type: ignore[method-assign]
            link.drop(connection)  # As another call on it does, which finds it broken.
            asked.set()
            return introduction()

        b.ports.introduction = broken_now  # type: ignore[method-assign]
        connection.refused = True
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        async with asyncio.timeout(DEADLINE_S):
            await asked.wait()
            while b.ports.received.empty():
                a.peers.send(b.id, _heartbeat(2))
                await asyncio.sleep(0.01)


async def test_malformed_messages_end_the_stream() -> None:
    async with nodes(2) as (a, b):
        connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
        stream = connection.stream_stream("/hive.PeerService/Messages")(metadata=connection.metadata)
        await stream.write(hive_pb2.RaftFrame(messages=[b"\x80"]).SerializeToString())
        assert await stream.read() == b""  # the acknowledgement of the stream
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert _code(caught.value) == Code.INVALID_ARGUMENT


async def test_a_probe_tells_a_refused_dial_from_a_taken_one() -> None:
    async with nodes(2) as (a, b):
        error = await _failure(a.peers.probe(b.id, 1))
        assert error.code is Code.NODE_OFFLINE
        a.peers.learn(b.address)
        assert await a.peers.probe(b.id, DEADLINE_S) is True
        await b.server.stop(0)
        assert await a.peers.probe(b.id, DEADLINE_S) is False


# --- work ------------------------------------------------------------------------------------------------------------


def _hello() -> WorkerHello:
    return WorkerHello(boot_id="boot", capabilities=capabilities(), open=(KEY,))


async def test_a_worker_and_its_leader_tell_each_other_everything() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await _soon(leader.ports.sessions)
        assert (session.worker, session.hello) == (worker.id, _hello())
        blob = BlobRef(sha256="1" * 64, size_bytes=5)
        ended = AttemptEnded(
            key=KEY,
            outcome=AttemptOutcome.EXITED,
            exit_code=-1,
            reason="",
            result=blob,
            log=None,
            holders=(worker.id,),
        )
        for event in (WorkerHeartbeat(cpu_percent=3, memory_percent=4), AttemptStarted(key=KEY), ended):
            await link.send(event)
            assert await _soon(session.events) == event
        order = AttemptOrder(key=KEY, data=blob, holders=(leader.address,), spec=TaskSpec())
        session.to_tell.put_nowait(order)
        session.to_tell.put_nowait(CloseOrder(key=KEY))
        orders = link.orders()
        assert [await anext(orders), await anext(orders)] == [order, CloseOrder(key=KEY)]
        await link.aclose()
        async with asyncio.timeout(DEADLINE_S):
            assert await session.ended is False


async def test_a_worker_that_breaks_off_is_told_as_reset() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await _soon(leader.ports.sessions)
        await (await worker.peers.link_to(leader.address).connect(DEADLINE_S)).channel.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await session.ended is True


async def test_orders_end_when_the_leader_ends_them_and_raise_when_it_dies() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        (await _soon(leader.ports.sessions)).to_tell.put_nowait(None)
        async with asyncio.timeout(DEADLINE_S):
            assert [order async for order in link.orders()] == []
        again = await worker.peers.open_worker_link(leader.address)
        await again.send(_hello())
        await _soon(leader.ports.sessions)
        # Without the goodbye of an orderly stop, as when its process dies.
        for server in leader.server._servers:
            await server.stop(0)
        error = await _failure(anext(again.orders()))
        assert error.code is Code.NODE_OFFLINE
        await again.aclose()


async def test_orders_end_quietly_when_the_leader_stops_in_order() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        await _soon(leader.ports.sessions)
        await leader.server.stop(DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S):
            assert [order async for order in link.orders()] == []
        await link.aclose()


async def test_a_worker_says_hello_first() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        error = await _failure(link.send(AttemptStarted(key=KEY)))
        assert error.code is Code.INVALID_ARGUMENT


async def test_a_report_without_a_stream_is_refused() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await _soon(leader.ports.sessions)
        session.to_tell.put_nowait(None)
        async with asyncio.timeout(DEADLINE_S):
            assert [order async for order in link.orders()] == []
            await session.ended
        error = await _failure(link.send(AttemptStarted(key=KEY)))
        assert error.code is Code.NODE_OFFLINE
        assert session.events.empty()


async def test_a_session_outlives_its_ticket() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        leader.server._tickets.revoke(worker.id)
        await link.send(_hello())
        session = await _soon(leader.ports.sessions)
        for memory in range(3):
            leader.server._tickets.revoke(worker.id)
            await link.send(WorkerHeartbeat(cpu_percent=3, memory_percent=memory))
        reported = [await _soon(session.events) for _ in range(3)]
        assert [event.memory_percent for event in reported] == [0, 1, 2]
        leader.server._tickets.revoke(worker.id)
        await link.aclose()
        async with asyncio.timeout(DEADLINE_S):
            assert await session.ended is False
        assert session.events.empty()
        assert leader.ports.sessions.empty()


async def test_a_report_on_a_connection_that_another_call_gave_up_is_lost() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        kept = worker.peers.link_to(leader.address)
        kept.drop(await kept.connect(DEADLINE_S))
        await asyncio.sleep(0)  # It closes now.
        assert (await _failure(link.send(AttemptStarted(key=KEY)))).code is Code.NODE_OFFLINE
        await link.aclose()


async def test_a_worker_whose_proof_is_not_taken_is_refused() -> None:
    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await _soon(leader.ports.sessions)
        leader.server._tickets.revoke(worker.id)
        leader.ports.hive = "f" * 32
        error = await _failure(link.send(AttemptStarted(key=KEY)))
        assert error.code is Code.WRONG_HIVE
        assert session.events.empty()


async def test_a_leader_that_does_not_answer_a_hello_or_a_report_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    never = asyncio.Event()

    async def stuck(*_: Any) -> Any:
        await never.wait()

    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await _soon(leader.ports.sessions)
        session.handle = stuck
        monkeypatch.setattr(peers, "REPORT_TIMEOUT_S", 0.2)
        assert (await _failure(link.send(AttemptStarted(key=KEY)))).code is Code.NODE_OFFLINE
        await link.aclose()
        leader.ports.open_worker_session = stuck  # type: ignore[method-assign, assignment]
        monkeypatch.setattr(peers, "HELLO_TIMEOUT_S", 0.2)
        again = await worker.peers.open_worker_link(leader.address)
        assert (await _failure(again.send(_hello()))).code is Code.NODE_OFFLINE
        await again.aclose()


async def test_a_report_to_a_busy_leader_is_not_repeated_when_the_stream_has_ended() -> None:
    def busy(node: NodeId) -> bool:
        raise HiveError(Code.OVERLOADED, "not now")

    async with nodes(2) as (leader, worker):
        link = await worker.peers.open_worker_link(leader.address)
        await link.send(_hello())
        session = await _soon(leader.ports.sessions)
        session.to_tell.put_nowait(None)
        async with asyncio.timeout(DEADLINE_S):
            assert [order async for order in link.orders()] == []
            await session.ended
        leader.server._peer_server._admits = busy
        error = await _failure(link.send(AttemptStarted(key=KEY)))
        assert error.code is Code.NODE_OFFLINE


async def test_messages_of_a_node_without_voter_right_are_refused_before_they_are_read() -> None:
    async with nodes(2) as (a, b):
        b.ports.unheard.add(a.id)
        connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
        stream = connection.stream_stream("/hive.PeerService/Messages")(metadata=connection.metadata)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert _code(caught.value) == Code.PERMISSION_DENIED
        assert b.ports.connected.empty()


async def test_a_peer_that_is_not_heard_yet_keeps_its_connection() -> None:
    async with nodes(2) as (a, b):
        b.ports.unheard.add(a.id)
        connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S):
            while b.ports.refused_messages < 3:
                a.peers.send(b.id, _heartbeat(1))
                await asyncio.sleep(0.01)
            b.ports.unheard.clear()
            while b.ports.received.empty():
                a.peers.send(b.id, _heartbeat(2))
                await asyncio.sleep(0.01)
        assert await a.peers.link_to(b.address).connect(DEADLINE_S) is connection


async def test_a_peer_that_loses_its_voter_right_is_not_heard_any_more() -> None:
    async with nodes(2) as (a, b):
        a.peers.learn(b.address)
        a.peers.send(b.id, _heartbeat(1))
        await _soon(b.ports.received)
        b.ports.unheard.add(a.id)
        a.peers.send(b.id, _heartbeat(2))
        assert (await _soon(b.ports.lost))[0] == a.id
        assert b.ports.received.empty()
        b.ports.unheard.clear()
        async with asyncio.timeout(DEADLINE_S):
            while b.ports.received.empty():
                a.peers.send(b.id, _heartbeat(3))
                await asyncio.sleep(0.01)


# --- blobs and logs --------------------------------------------------------------------------------------------------


async def _pieces(data: bytes, count: int = 3) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield data


def _blob(data: bytes) -> BlobRef:
    return BlobRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


async def test_a_blob_goes_there_and_comes_back_whole() -> None:
    async with nodes(2) as (a, b):
        data = bytes(range(256)) * 9_000
        blob = _blob(data * 3)
        await a.peers.store_blob(b.address, blob, _pieces(data))
        assert b.ports.files[blob.sha256] == data * 3
        fetched = [piece async for piece in a.peers.fetch_blob(b.address, blob)]
        assert b"".join(fetched) == data * 3
        assert max(map(len, fetched)) <= 1 << 20


async def test_a_blob_that_is_not_what_its_name_says_is_refused() -> None:
    async with nodes(2) as (a, b):
        blob = BlobRef(sha256="0" * 64, size_bytes=3)
        error = await _failure(a.peers.store_blob(b.address, blob, _pieces(b"1")))
        assert error.code is Code.BLOB_CORRUPT
        # Refused in the midst of the sending, the answer still says why.
        error = await _failure(a.peers.store_blob(b.address, blob, _pieces(bytes(1 << 20), 64)))
        assert error.code is Code.BLOB_TOO_LARGE


async def test_a_snapshot_comes_from_any_offset_and_its_holder_knows_who_asks() -> None:
    async with nodes(2) as (a, b):
        data = bytes(range(256)) * 9_000
        ref = SnapshotRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        b.ports.snapshots[ref.sha256] = data
        for offset in (0, 1_000_000):
            fetched = [piece async for piece in a.peers.fetch_snapshot(b.address, ref, offset)]
            assert b"".join(fetched) == data[offset:]
        assert b.ports.snapshot_readers == [a.identity.node_id] * 2
        error = await _failure(anext(a.peers.fetch_snapshot(b.address, SnapshotRef(sha256="0" * 64, size_bytes=1), 0)))
        assert error.code is Code.BLOB_NOT_FOUND
        b.admitted = False
        error = await _failure(anext(a.peers.fetch_snapshot(b.address, ref, 0)))
        assert error.code is Code.NOT_A_MEMBER


async def test_a_digest_reaches_the_leader_and_its_verdict_comes_back() -> None:
    async with nodes(2) as (a, b):
        member = MemberId(f"{a.identity.node_id}.1")
        report = DigestReport(version=1, member_id=member, index=1_024, digest=bytes(32))
        assert await a.peers.compare_digest(b.address, report, DEADLINE_S) is Verdict.DIFFERS
        assert b.ports.reports == [(a.identity.node_id, report)]
        short = DigestReport(version=1, member_id=member, index=1_024, digest=b"")
        error = await _failure(a.peers.compare_digest(b.address, short, DEADLINE_S))
        assert error.code is Code.INVALID_ARGUMENT


async def test_a_blob_that_is_not_there_is_not_found() -> None:
    async with nodes(2) as (a, b):
        error = await _failure(anext(a.peers.fetch_blob(b.address, _blob(b"1"))))
        assert error.code is Code.BLOB_NOT_FOUND


async def test_a_log_is_read_and_an_unknown_attempt_is_not_found() -> None:
    async with nodes(2) as (a, b):
        b.ports.log_pieces = (b"one\n", b"two\n")
        assert [piece async for piece in a.peers.read_log(b.address, KEY, 0, True)] == [b"one\n", b"two\n"]
        unknown = AttemptKey(user="u", task_id="x", attempt=1)
        error = await _failure(anext(a.peers.read_log(b.address, unknown, 0, False)))
        assert error.code is Code.TASK_NOT_FOUND


async def test_a_stream_whose_reader_leaves_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(*_: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1 << 20)
                begun.set()  # The first piece has gone, and the next waits for its reader.
        finally:
            ended.set()

    async with nodes(2) as (a, b):
        monkeypatch.setattr(b.ports, "read_log", endless)
        gc.disable()  # What closes it some time later is no matter.
        try:
            reading = a.peers.read_log(b.address, KEY, 0, True)
            await anext(reading)
            async with asyncio.timeout(DEADLINE_S), closing(reading):
                await begun.wait()
            async with asyncio.timeout(DEADLINE_S):
                await ended.wait()
        finally:
            gc.enable()


@pytest.mark.parametrize("by", ["peer", "user"])
async def test_a_reader_that_leaves_is_no_incident(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serving: list[asyncio.Task[Any]] = []
    piece = bytes(1 << 20)  # As much as may be on its way: the write of the next one waits for its reader.

    async def endless(*_: Any) -> AsyncIterator[Any]:
        task = asyncio.current_task()
        assert task is not None
        while True:
            yield (
                piece
                if by == "peer"
                else TaskEvent(state=TaskState.RUNNING, attempt=1, note="", log=piece, final=False)
            )
            if not serving:
                serving.append(task)

    async with nodes(2) as (a, b):
        monkeypatch.setattr(b.ports, "read_log" if by == "peer" else "watch", endless)
        client = Client(b.server.api_address)
        metadata = [("authorization", f"Bearer {await client.log_in()}")]
        with capture_logs() as logs:
            for _ in range(10):  # Some end before the write that is under way fails.
                serving.clear()
                if by == "peer":
                    connection = await a.peers.link_to(b.address).connect(DEADLINE_S)
                    request = hive_pb2.ReadLogRequest(user="u", task_id="task-001", attempt=1, follow=True)
                    read: Any = connection.unary_stream(SERVICE + "ReadLog")
                    stream = read(request.SerializeToString(), metadata=connection.metadata)
                else:
                    stream = client.method("WatchTask")(hive_pb2.WatchTaskRequest(task_id="t"), metadata=metadata)
                async with asyncio.timeout(DEADLINE_S):
                    while not serving:
                        await stream.read()
                    stream.cancel()
                    await asyncio.wait(serving)
        assert [line for line in logs if line["event"] == "call_failed"] == []
        await client.channel.close()


async def test_a_download_fails_when_its_source_dies() -> None:
    async with nodes(2) as (a, b):
        gate = asyncio.Event()

        async def stuck(key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]:
            yield b"one\n"
            await gate.wait()

        b.ports.read_log = stuck  # type: ignore[method-assign]
        pieces = a.peers.read_log(b.address, KEY, 0, True)
        assert await anext(pieces) == b"one\n"
        await b.server.stop(0)
        error = await _failure(anext(pieces))
        assert error.code is Code.NODE_OFFLINE


async def test_a_node_without_a_hive_serves_no_inner_call() -> None:
    async with nodes(2) as (a, b):
        a.ports.hive = b.ports.hive = ""
        error = await _failure(anext(a.peers.fetch_blob(b.address, _blob(b"1"))))
        assert error.code is Code.WRONG_HIVE
