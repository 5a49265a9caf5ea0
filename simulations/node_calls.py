"""One machine's calls: it serves the programs on it, the leader's followers and its peers, and calls the leader and its peers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, assert_never

from hivenode.errors import Code
from simulations.calls import (
    Answer,
    Failure,
    Forward,
    IntroduceAsked,
    InviteAsked,
    JoinAsked,
    MembersAsked,
    OnAnswer,
    PeerCall,
    Read,
    Write,
)
from simulations.engine import MS, SECOND

if TYPE_CHECKING:
    from simulations.node import Node
    from simulations.replica import Replica

LEADER_RETRY_US: Final = 50 * MS
"""How often a node that knows no leader looks again for one on behalf of a call."""


class NodeCalls:
    """What one machine is asked, and what it asked others that have not answered yet."""

    def __init__(self, node: Node) -> None:
        self._node: Final = node
        self._waiting: dict[int, OnAnswer] = {}
        self._count = 0

    def forget(self) -> None:
        """The process is gone, and with it who waits for answers."""
        self._waiting.clear()

    def answered(self, answer: Answer) -> None:
        """An answer came; nobody may wait for it any more."""
        done = self._waiting.pop(answer.call, None)
        if isinstance(answer.result, Failure) and answer.result.code is Code.NO_LEADER:
            self._node.search.leader = None
        if done is not None:
            done(answer.result)

    def serve(self, request: Write | Read, deadline_us: int, done: OnAnswer) -> None:
        """A call of a program on this machine; `done` is called once, unless this process ends first."""
        node = self._node
        replica = node.replica
        if not node.disk.log.hive_id or self._is_elsewhere():
            done(Failure(code=Code.NOT_A_MEMBER, text="this node has not joined the hive yet"))
        elif replica is None or node.light or (isinstance(request, Write) and not replica.leads):
            self._forward(request, deadline_us, done)
        elif isinstance(request, Write) and node.life is not None and not node.life.writes_open:
            done(Failure(code=Code.NO_LEADER, text="the hive is still being formed"))
        elif isinstance(request, Write):
            replica.propose(request, deadline_us, done)
        else:
            self._read(replica, request, deadline_us, done)

    def _read(self, replica: Replica, request: Read, deadline_us: int, done: OnAnswer) -> None:
        def confirmed(failure: Failure | None) -> None:
            if failure is None and self._node.tainted:
                failure = Failure(code=Code.OUTCOME_UNKNOWN, text="this node's state went wrong")
            done(request.query(replica.view) if failure is None else failure)

        replica.read_barrier(deadline_us, confirmed)

    def _forward(self, request: Write | Read, deadline_us: int, done: OnAnswer) -> None:
        node = self._node
        engine = node.world.engine
        leader = node.leader_node()
        if leader is None:
            node.search.seek()
            if engine.now_us + LEADER_RETRY_US >= deadline_us:
                done(Failure(code=Code.NO_LEADER, text="no leader is known"))
            else:
                node.at(engine.now_us + LEADER_RETRY_US, lambda: self.serve(request, deadline_us, done))
            return
        self._count += 1
        call = self._count
        self._waiting[call] = done
        forward = Forward(call=call, request=request, deadline_us=deadline_us)
        node.world.network.send(node.name, leader.name, forward, once=True)
        node.at(deadline_us, lambda: self._give_up(call))

    def _is_elsewhere(self) -> bool:
        """Whether this node is in another hive than the one whose users ask; a hive of its own would take users' writes too."""
        return self._node.world.hive_id not in ("", self._node.disk.log.hive_id)

    def _give_up(self, call: int) -> None:
        done = self._waiting.pop(call, None)
        if done is not None:
            self._node.search.leader = None
            done(Failure(code=Code.OUTCOME_UNKNOWN, text="the leader did not answer in time"))

    def serve_forward(self, source: str, forward: Forward) -> None:
        """A call of a program on another machine, which takes this one for the leader."""
        node = self._node

        def answer(result: Any) -> None:
            node.world.network.send(node.name, source, Answer(call=forward.call, result=result), once=True)

        replica = node.replica
        if replica is None or not replica.leads:
            answer(Failure(code=Code.NO_LEADER, text="this node does not lead"))
        elif not node.hearing.admits(node.world.nodes[source]):
            answer(Failure(code=Code.PERMISSION_DENIED, text="the node that brought this call is not in the hive"))
        else:
            self.serve(forward.request, forward.deadline_us, answer)

    def ask(self, address: str, body: Any, deadline_s: float, done: OnAnswer) -> None:
        """Calls an address; `done` is called once, unless this process ends first. NODE_OFFLINE: the machine refuses."""
        node = self._node
        world = node.world
        self._count += 1
        call = self._count
        self._waiting[call] = done

        def answer(code: Code, text: str) -> None:
            waiting = self._waiting.pop(call, None)
            if waiting is not None:
                waiting(Failure(code=code, text=text))

        target = world.addresses.get(address)
        if target is not None and target.powered and not target.alive and node.reaches(target):
            node.at(world.engine.now_us + MS, lambda: answer(Code.NODE_OFFLINE, "nobody listens there"))
            return
        node.at(
            world.engine.now_us + int(deadline_s * SECOND), lambda: answer(Code.OUTCOME_UNKNOWN, "no answer in time")
        )
        if target is not None:
            world.network.send(node.name, target.name, PeerCall(call=call, address=address, body=body), once=True)

    def serve_peer(self, source: str, call: PeerCall) -> None:
        """A call of another machine's daemon."""
        node = self._node
        life = node.life
        if life is None or call.address != node.address:
            return

        def answer(result: Any) -> None:
            node.world.network.send(node.name, source, Answer(call=call.call, result=result), once=True)

        match call.body:
            case IntroduceAsked():
                answer(life.introduction())
            case InviteAsked():
                life.invited(call.body, answer)
            case JoinAsked(hive_id=hive_id) | MembersAsked(hive_id=hive_id) if hive_id != node.disk.log.hive_id:
                answer(Failure(code=Code.WRONG_HIVE, text="this node is of another hive"))
            case JoinAsked():
                node.admission.asked_to_admit(call.body, answer)
            case MembersAsked():
                life.asked_for_members(call.body, answer)
            case _:
                assert_never(call.body)
