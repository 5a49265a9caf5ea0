"""Calls that reach a node which may not answer them, and leaders that go away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError
from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.pool.records import TaskState
from hivenode.runtime.ports import PeerAddress, Standing, TaskEvent
from hivenode.transport import forwarding, peer_link
from hivenode.transport.uploads import Upload
from tests.integration.transport.client import Client, code_of
from tests.integration.transport.parts import DEADLINE_S, World, nodes
from tests.integration.transport.silent import silent

SOON_S = 5.0
"""Half of what the client waits: a call that ends by then was not cut off by its deadline."""
TRANSFER = nodepool_pb2.TransferRequest(receiver_username="other", amount=10)


async def _logged_in(address: str, world: World) -> tuple[Client, str]:
    client = Client(address)
    token = await client.log_in()
    world.balances["other"] = 0
    return client, token


async def test_a_follower_forwards_a_write_with_token_key_and_origin() -> None:
    world = World()
    async with nodes(2, world) as (_, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        answer, trailing = await client.call("Transfer", TRANSFER, token, hive_idempotency_key="key-1")
        assert trailing["hive-copies"] == "2"
        assert (answer.success, answer.new_balance) == (True, 990)
        assert trailing["hive-error-code"] == "0"
        assert (world.callers[-1].idempotency_key, world.callers[-1].origin) == ("key-1", "ip:127.0.0.1")
        assert world.callers[-1].deadline_s < 10
        await client.channel.close()


async def test_who_says_where_a_call_came_from_is_told_unless_it_is_a_voter() -> None:
    world = World()
    async with nodes(2, world) as (leader, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        for is_voter, through in ((True, ""), (False, follower.identity.node_id)):
            leader.voter = is_voter
            await client.call("Transfer", TRANSFER, token)
            assert (world.callers[-1].origin, world.callers[-1].through) == ("ip:127.0.0.1", through)
        await client.channel.close()


async def test_the_word_of_a_worker_stays_its_own_on_the_way_through_a_voter() -> None:
    world = World()
    async with nodes(2, world) as (leader, follower):
        _, token = await _logged_in(follower.server.api_address, world)
        follower.voter = False  # To it, who calls now is a worker.
        connection = await leader.peers.link_to(follower.address).connect(5)
        carried = (*connection.metadata, ("authorization", f"Bearer {token}"))
        made_up = (("hive-origin", "ip:10.9.9.9"), ("hive-through", "another"))
        invoke = connection.unary("/nodepool.UserService/Transfer")
        await invoke(TRANSFER.SerializeToString(), timeout=10, metadata=(*carried, *made_up))
        assert (world.callers[-1].origin, world.callers[-1].through) == ("ip:10.9.9.9", leader.identity.node_id)


async def test_a_key_that_a_peer_made_is_believed_when_the_peer_forwards_it() -> None:
    world = World()
    async with nodes(2, world) as (_, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        answer, _ = await client.call("Transfer", TRANSFER, token)
        assert answer.success
        assert world.callers[-1].idempotency_key.startswith("auto:")
        await client.channel.close()


async def test_a_follower_answers_reads_itself_and_a_light_node_does_not() -> None:
    world = World()
    async with nodes(2, world) as (leader, other):
        client, token = await _logged_in(other.server.api_address, world)
        other.ports.follow(None)
        balance, _ = await client.call("GetBalance", nodepool_pb2.GetBalanceRequest(token=token))
        assert balance.balance == 1_000
        other.ports.follow(leader.address, Standing.LIGHT)
        # The light node's own state is not asked: the leader fails in its place.
        world.failure = HiveError(Code.OVERLOADED, "the leader's word")
        error = await client.failing("GetBalance", nodepool_pb2.GetBalanceRequest(token=token))
        assert code_of(error) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 2009, "retry")
        assert error.details() == "the leader's word"
        await client.channel.close()


def _unsent(client: Client, token: str, method: str = "nodepool.MasterNodeService/UploadTask") -> Any:
    """A call with a large request of which nothing is ever sent: only who looks before it reads can answer."""
    return client.channel.stream_unary(f"/{method}")(metadata=[("authorization", f"Bearer {token}")], timeout=SOON_S)


@pytest.mark.parametrize("method", ["nodepool.MasterNodeService/UploadTask", "hive.HiveService/UploadTaskStream"])
async def test_a_light_node_asks_the_leader_who_calls_before_it_reads_a_large_request(method: str) -> None:
    async with nodes(2, World()) as (leader, light):
        light.ports.follow(leader.address, Standing.LIGHT)
        client = Client(light.server.api_address)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _unsent(client, "made up", method)
        assert code_of(caught.value) == (grpc.StatusCode.UNAUTHENTICATED, 1004, "refused")
        token = await client.log_in()
        request = nodepool_pb2.UploadTaskRequest(task_id="large", task_data=b"x" * (20 << 20))
        answer, _ = await client.call("UploadTask", request, token)
        assert answer.success
        await client.channel.close()


@pytest.mark.parametrize("standing", [Standing.LIGHT, Standing.REPLICA])
async def test_without_a_leader_no_large_request_is_read(standing: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "LEADER_WAIT_S", 0.2)
    world = World()
    async with nodes(2, world) as (_, node):
        client, _ = await _logged_in(node.server.api_address, world)
        node.ports.follow(None, standing)
        node.ports.no_leader = True
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _unsent(client, "not known here")
        assert code_of(caught.value) == (grpc.StatusCode.UNAVAILABLE, 2005, "retry")
        await client.channel.close()


async def test_a_large_request_waits_unread_for_a_leader() -> None:
    request = nodepool_pb2.UploadTaskRequest(task_id="large", task_data=b"x" * (20 << 20))
    async with nodes(2, world := World()) as (leader, light):
        client, token = await _logged_in(light.server.api_address, world)
        light.ports.follow(None, Standing.LIGHT)
        sent = asyncio.ensure_future(client.call("UploadTask", request, token))
        assert not (await asyncio.wait({sent}, timeout=0.2))[0]
        light.ports.follow(leader.address, Standing.LIGHT)
        assert (await sent)[0].success
        await client.channel.close()


async def test_a_refusal_of_the_leader_is_relayed_as_it_is() -> None:
    world = World()
    async with nodes(2, world) as (_, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        request = nodepool_pb2.TransferRequest(receiver_username="nobody", amount=1)
        answer, trailing = await client.call("Transfer", request, token)
        assert not answer.success
        assert (trailing["hive-error-code"], trailing["hive-outcome"]) == ("4003", "refused")
        error = await client.failing("Transfer", TRANSFER, "bad-token")
        assert code_of(error) == (grpc.StatusCode.UNAUTHENTICATED, 1004, "refused")
        await client.channel.close()


async def test_a_write_in_flight_survives_the_leaders_death_and_is_done_once() -> None:
    world = World()
    async with nodes(3, world) as (leader, follower, successor):
        client, token = await _logged_in(follower.server.api_address, world)
        async with world.holding() as gate:
            sent = asyncio.ensure_future(client.call("Transfer", TRANSFER, token, hive_idempotency_key="k"))
        # The leader does the transfer but dies before its answer leaves.
        world.done[("testuser", "k")] = 990
        await leader.server.stop(0)
        gate.set()
        successor.ports.lead()
        follower.ports.follow(successor.address)
        async with asyncio.timeout(DEADLINE_S):
            answer, _ = await sent
        assert (answer.success, answer.new_balance) == (True, 990)
        assert {caller.idempotency_key for caller in world.callers[2:]} == {"k"}
        await client.channel.close()


async def test_a_write_waits_for_a_leader_and_is_then_done() -> None:
    world = World()
    async with nodes(2, world) as (leader, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        follower.ports.follow(None)
        sent = asyncio.ensure_future(client.call("Transfer", TRANSFER, token))
        assert not (await asyncio.wait({sent}, timeout=0.2))[0]
        follower.ports.follow(leader.address)
        async with asyncio.timeout(DEADLINE_S):
            assert (await sent)[0].success
        await client.channel.close()


async def test_a_follower_that_is_elected_meanwhile_answers_itself() -> None:
    world = World()
    async with nodes(2, world) as (leader, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        async with world.holding():
            sent = asyncio.ensure_future(client.call("Transfer", TRANSFER, token, hive_idempotency_key="k"))
        # The old leader does not answer and resets nothing, as when its machine lost its power.
        follower.ports.lead()
        world.gate = None
        async with asyncio.timeout(DEADLINE_S):
            assert (await sent)[0].success
        assert leader.ports.world.balances["testuser"] == 990
        await client.channel.close()


async def test_a_dial_to_a_leader_that_is_silent_is_not_waited_for_when_another_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwarding, "CONNECT_TIMEOUT_S", 2 * DEADLINE_S)
    monkeypatch.setattr(peer_link, "DIAL_TIMEOUT_S", 2 * DEADLINE_S)
    world = World()
    async with nodes(2, world) as (successor, follower), silent(1) as (there, mute):
        client, token = await _logged_in(follower.server.api_address, world)
        follower.ports.follow(PeerAddress(node_id=NodeId("a" * 26), addresses=mute))
        sent = asyncio.ensure_future(client.call("Transfer", TRANSFER, token))
        async with asyncio.timeout(SOON_S):
            await there.one_came.wait()
            follower.ports.follow(successor.address)
            assert (await sent)[0].success
        await client.channel.close()


@pytest.mark.usefixtures("hasty")
async def test_a_leader_that_is_dialled_in_vain_is_given_up_as_one_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        forwarding, "CONNECT_TIMEOUT_S", 2 * forwarding.LOOK_S
    )  # It is looked whether another leads meanwhile.
    world = World()
    async with nodes(2, world) as (_, follower), silent(1) as (_, mute):
        client, token = await _logged_in(follower.server.api_address, world)
        follower.ports.follow(PeerAddress(node_id=NodeId("a" * 26), addresses=mute))
        async with asyncio.timeout(SOON_S):
            assert code_of(await client.failing("Transfer", TRANSFER, token))[1:] == (2005, "retry")
        await client.channel.close()


async def test_no_leader_is_said_as_not_done_at_the_deadline() -> None:
    world = World()
    async with nodes(2, world) as (leader, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        await leader.server.stop(0)
        # The first try may find the connection broken after the call was on it; the answer to it is checked above.
        follower.ports.follow(PeerAddress(node_id=NodeId("a" * 26), addresses=(leader.server.peer_address,)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.method("Transfer")(TRANSFER, metadata=[("authorization", f"Bearer {token}")], timeout=1)
        assert code_of(caught.value) == (grpc.StatusCode.UNAVAILABLE, 2005, "retry")
        await client.channel.close()


async def test_a_write_that_may_have_arrived_is_unknown_at_the_deadline() -> None:
    world = World()
    async with nodes(2, world) as (leader, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        async with world.holding():
            sent = asyncio.ensure_future(
                client.method("Transfer")(TRANSFER, metadata=[("authorization", f"Bearer {token}")], timeout=1.5)
            )
        await leader.server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await sent
        assert code_of(caught.value) == (grpc.StatusCode.DEADLINE_EXCEEDED, 2006, "unknown")
        await client.channel.close()


@pytest.mark.parametrize("code", [Code.OVERLOADED, Code.DISK_FULL])
async def test_a_write_that_may_have_arrived_is_unknown_also_when_the_next_leader_did_nothing(code: Code) -> None:
    world = World()
    async with nodes(3, world) as (leader, follower, successor):
        client, token = await _logged_in(follower.server.api_address, world)
        async with world.holding() as gate:
            sent = asyncio.ensure_future(client.failing("Transfer", TRANSFER, token, hive_idempotency_key="k"))
        await leader.server.stop(0)
        world.failure = HiveError(code, "nothing was done")
        gate.set()
        successor.ports.lead()
        follower.ports.follow(successor.address)
        async with asyncio.timeout(DEADLINE_S):
            assert code_of(await sent)[1:] == (2006, "unknown")
        await client.channel.close()


async def test_a_write_that_may_have_arrived_is_unknown_also_when_no_leader_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwarding, "LEADER_WAIT_S", 0.3)
    world = World()
    async with nodes(2, world) as (leader, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        async with world.holding():
            sent = asyncio.ensure_future(client.failing("Transfer", TRANSFER, token, hive_idempotency_key="k"))
        follower.ports.follow(None)
        await leader.server.stop(0)
        async with asyncio.timeout(DEADLINE_S):
            assert code_of(await sent)[1:] == (2006, "unknown")
        await client.channel.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forwarder that waits less than a person's patience for a leader, so that tests need not."""
    monkeypatch.setattr(forwarding, "LEADERLESS_S", 0.2)
    monkeypatch.setattr(forwarding, "LEADER_WAIT_S", 0.6)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("method", "request_message", "said"),
    [
        ("ReportStatus", nodepool_pb2.ReportStatusRequest(node_id="n", status="up"), (2005, "retry")),
        ("Transfer", TRANSFER, (2006, "unknown")),
    ],
)
async def test_a_call_in_flight_to_a_silent_leader_ends_soon_when_nobody_leads(
    method: str, request_message: Any, said: tuple[int, str]
) -> None:
    world = World()
    async with nodes(2, world) as (_, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        async with world.holding():
            sent = asyncio.ensure_future(client.failing(method, request_message, token))
        follower.ports.follow(None)
        async with asyncio.timeout(SOON_S):
            assert code_of(await sent)[1:] == said
        await client.channel.close()


@pytest.mark.usefixtures("hasty")
async def test_a_read_that_no_leader_confirms_is_given_up_before_its_deadline() -> None:
    world = World()
    async with nodes(2, world) as (_, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        follower.ports.follow(None)
        world.failure = HiveError(Code.NO_LEADER, "a majority cannot be reached")
        async with asyncio.timeout(SOON_S):
            error = await client.failing("GetBalance", nodepool_pb2.GetBalanceRequest(token=token))
        assert code_of(error) == (grpc.StatusCode.UNAVAILABLE, 2005, "retry")
        assert error.details() == "a majority cannot be reached"
        await client.channel.close()


@pytest.mark.usefixtures("hasty")
async def test_a_write_that_never_found_a_leader_is_told_as_not_done() -> None:
    world = World()
    async with nodes(2, world) as (_, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        follower.ports.follow(None)
        async with asyncio.timeout(SOON_S):
            assert code_of(await client.failing("Transfer", TRANSFER, token))[1:] == (2005, "retry")
        await client.channel.close()


@pytest.mark.usefixtures("hasty")
async def test_an_upload_to_a_silent_leader_ends_soon_when_nobody_leads() -> None:
    world = World()
    async with nodes(2, world) as (_, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        async with world.holding():
            raw = client.method("UploadTaskStream")
            piece = hive_pb2.UploadTaskPiece(header=hive_pb2.UploadTaskHeader(task_id="big"))
            sent = raw(iter([piece]), metadata=[("authorization", f"Bearer {token}")], timeout=DEADLINE_S)
        follower.ports.follow(None)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(SOON_S):
                await sent
        assert code_of(caught.value)[1:] == (2006, "unknown")
        await client.channel.close()


async def test_a_light_node_is_told_that_its_leader_cannot_be_reached_and_finds_the_next() -> None:
    world = World()
    async with nodes(3, world) as (leader, light, successor):
        client, token = await _logged_in(light.server.api_address, world)
        light.ports.follow(leader.address, Standing.LIGHT)
        successor.ports.lead()

        def ask_anew(lost: NodeId) -> None:
            if lost == leader.id:
                light.ports.know(successor.address)

        light.peers.on_peer_unreached = ask_anew
        await leader.server.stop(0)
        answer, _ = await client.call("Transfer", TRANSFER, token)
        assert answer.success
        await client.channel.close()


async def test_a_call_does_not_go_in_circles() -> None:
    world = World()
    async with nodes(3, world) as (first, second, third):
        client, token = await _logged_in(first.server.api_address, world)
        for node, target in ((first, second), (second, third), (third, first)):
            node.ports.follow(target.address)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.method("Transfer")(TRANSFER, metadata=[("authorization", f"Bearer {token}")], timeout=1)
        # At the very deadline a try may end without an answer, and then nobody can say that nothing was done.
        assert code_of(caught.value)[1:] in ((2005, "retry"), (2006, "unknown"))
        assert len(world.callers) == 2  # registration and login
        await client.channel.close()


async def test_a_leader_that_restarted_is_proven_to_again() -> None:
    world = World()
    async with nodes(2, world) as (leader, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        await leader.server.stop(0)
        leader.server = leader.make_server(leader.server.peer_address)
        await leader.server.start()
        answer, _ = await client.call("Transfer", TRANSFER, token)
        assert answer.success
        await client.channel.close()


async def test_a_ticket_that_expired_is_renewed_unseen() -> None:
    world = World()
    async with nodes(2, world) as (leader, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        leader.server._tickets._tickets.clear()
        answer, _ = await client.call("Transfer", TRANSFER, token)
        assert answer.success
        await client.channel.close()


async def test_a_forwarder_that_is_not_let_in_is_refused() -> None:
    world = World()
    async with nodes(2, world) as (leader, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        leader.admitted = False
        error = await client.failing("Transfer", TRANSFER, token)
        assert code_of(error) == (grpc.StatusCode.UNAVAILABLE, 2010, "retry")
        await client.channel.close()


async def test_a_streamed_upload_is_forwarded() -> None:
    world = World()
    async with nodes(2, world) as (_, follower):
        client, token = await _logged_in(follower.server.api_address, world)

        async def pieces() -> AsyncIterator[Any]:
            yield hive_pb2.UploadTaskPiece(header=hive_pb2.UploadTaskHeader(task_id="big"))
            for _ in range(8):
                yield hive_pb2.UploadTaskPiece(data=bytes(1 << 20))

        answer = await client.method("UploadTaskStream")(
            pieces(), metadata=[("authorization", f"Bearer {token}")], timeout=DEADLINE_S
        )
        assert answer.task_id == "big"
        assert world.tasks["big"].data.size_bytes == 8 << 20
        await client.channel.close()


@pytest.mark.parametrize("at_follower", [True, False])
async def test_an_upload_that_is_refused_in_its_midst_says_why(at_follower: bool) -> None:
    world = World()
    async with nodes(2, world) as (leader, follower):
        address = follower.server.api_address if at_follower else leader.server.api_address
        client, token = await _logged_in(address, world)
        world.refuse_uploads = True

        async def pieces() -> AsyncIterator[bytes]:
            yield hive_pb2.UploadTaskPiece(header=hive_pb2.UploadTaskHeader(task_id="big")).SerializeToString()
            for _ in range(64):
                yield hive_pb2.UploadTaskPiece(data=bytes(1 << 20)).SerializeToString()

        raw = client.channel.stream_unary("/hive.HiveService/UploadTaskStream")
        sent: Any = raw(metadata=[("authorization", f"Bearer {token}")], timeout=DEADLINE_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Upload(sent, DEADLINE_S).send(pieces())
        assert code_of(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, 3006, "refused")
        await client.channel.close()


async def test_a_member_that_is_taken_out_while_its_upload_is_forwarded_is_told_so() -> None:
    world = World()
    async with nodes(3, world) as (leader, follower, member):
        client, token = await _logged_in(leader.server.api_address, world)
        connection = await member.peers.link_to(follower.address).connect(DEADLINE_S)
        metadata = (*connection.metadata, ("authorization", f"Bearer {token}"))
        async with world.holding():
            sent: Any = connection.stream_unary("/hive.HiveService/UploadTaskStream")(metadata=metadata)
            piece = hive_pb2.UploadTaskPiece(header=hive_pb2.UploadTaskHeader(task_id="big"))
            await sent.write(piece.SerializeToString())
        follower.server.cut_off(member.id)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(DEADLINE_S):
                await sent
        assert code_of(caught.value)[1] == Code.NODE_REMOVED
        await client.channel.close()


async def test_a_light_node_forwards_a_watch_and_says_when_its_source_went_away() -> None:
    world = World()
    async with nodes(2, world) as (leader, light):
        client, token = await _logged_in(light.server.api_address, world)
        light.ports.follow(leader.address, Standing.LIGHT)
        metadata = [("authorization", f"Bearer {token}")]
        request = hive_pb2.WatchTaskRequest(task_id="t")
        stream = client.method("WatchTask")(request, metadata=metadata, timeout=DEADLINE_S)
        assert [update.log async for update in stream] == [b"one\n", b"two\n"]
        world.gate = asyncio.Event()
        stream = client.method("WatchTask")(request, metadata=metadata, timeout=DEADLINE_S)
        assert (await stream.read()).log == b"one\n"
        await leader.server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert code_of(caught.value) == (grpc.StatusCode.UNAVAILABLE, 2002, "retry")
        await client.channel.close()


async def test_a_light_node_says_when_the_connection_to_its_source_was_given_up_under_a_watch() -> None:
    world = World()
    async with nodes(2, world) as (leader, light):
        client, token = await _logged_in(light.server.api_address, world)
        light.ports.follow(leader.address, Standing.LIGHT)
        world.gate = asyncio.Event()
        stream = client.method("WatchTask")(
            hive_pb2.WatchTaskRequest(task_id="t"), metadata=[("authorization", f"Bearer {token}")], timeout=DEADLINE_S
        )
        assert (await stream.read()).log == b"one\n"
        link = light.peers.link_to(leader.address)
        link.drop(await link.connect(DEADLINE_S))  # As another call on it does, which finds it broken.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert code_of(caught.value) == (grpc.StatusCode.UNAVAILABLE, 2002, "retry")
        await client.channel.close()


async def test_a_light_node_asks_again_when_the_connection_was_given_up_before_the_first_piece() -> None:
    async with nodes(2, World()) as (leader, light):
        link, reached, watch = light.peers.link_to(leader.address), asyncio.Event(), leader.ports.watch

        async def silent(*_: Any) -> AsyncIterator[TaskEvent]:
            leader.ports.watch = watch  # type: ignore[method-assign]
            reached.set()
            await asyncio.Event().wait()
            yield TaskEvent(state=TaskState.PENDING, attempt=0, note="", log=b"never", final=True)

        client = Client(light.server.api_address)
        token = await client.log_in()
        light.ports.follow(leader.address, Standing.LIGHT)
        leader.ports.watch = silent  # type: ignore[method-assign, assignment]
        stream = client.method("WatchTask")(
            hive_pb2.WatchTaskRequest(task_id="t"), metadata=[("authorization", f"Bearer {token}")], timeout=DEADLINE_S
        )
        async with asyncio.timeout(DEADLINE_S):
            await reached.wait()
        link.drop(await link.connect(DEADLINE_S))
        assert [update.log async for update in stream] == [b"one\n", b"two\n"]
        await client.channel.close()


async def test_a_refused_stream_is_relayed_by_a_light_node() -> None:
    world = World()
    async with nodes(2, world) as (leader, light):
        client, token = await _logged_in(light.server.api_address, world)
        light.ports.follow(leader.address, Standing.LIGHT)
        stream = client.method("DownloadResult")(
            hive_pb2.DownloadResultRequest(task_id="t"),
            metadata=[("authorization", f"Bearer {token}")],
            timeout=DEADLINE_S,
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert code_of(caught.value) == (grpc.StatusCode.FAILED_PRECONDITION, 3005, "retry")
        await client.channel.close()


async def test_a_client_that_goes_away_ends_its_forwarded_call() -> None:
    world = World()
    async with nodes(2, world) as (_, follower):
        client, token = await _logged_in(follower.server.api_address, world)
        async with world.holding() as gate:
            sent = asyncio.ensure_future(client.call("Transfer", TRANSFER, token))
        sent.cancel()
        await asyncio.wait({sent})
        gate.set()
        assert (await client.call("GetBalance", nodepool_pb2.GetBalanceRequest(token=token)))[0].success
        await client.channel.close()
