"""State digests compared between the members, as `hivenode.runtime.digest_keeper` does it, over the same pure parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hivenode.errors import InvariantError
from hivenode.runtime.digest_keeper import ASK_AGAIN_S, ASK_DEADLINE_S
from hivenode.runtime.digests import DIGEST_VERSION, Comparisons, DigestReport, Verdict, broken_by
from simulations.calls import DigestAsked, DigestJudged
from simulations.engine import MS, SECOND

if TYPE_CHECKING:
    from simulations.node import Node
    from simulations.replica import Replica

_Settle = Callable[[Verdict], None]


class DigestKeeper:
    """One for each life of a replica. It raises `InvariantError` when this member must stop."""

    def __init__(self, node: Node, replica: Replica) -> None:
        self._node = node
        self._engine = node.world.engine
        self._replica = replica
        self._comparisons: Final = Comparisons()
        self._waiting: list[tuple[DigestReport, _Settle]] = []
        self._own: DigestReport | None = None
        self._asking = 0
        self.agreed_index = 0
        replica.digest_listeners.append(self._reached)

    def _reached(self, index: int, digest: bytes) -> None:
        self._own = DigestReport(version=DIGEST_VERSION, member_id=self._node.member_id, index=index, digest=digest)
        self._comparisons.take(self._own, self._now_ms())
        self._look_at_waiting()
        # The comparison is a task of its own beside the replica's.
        self._node.at(self._engine.now_us, self._ask)

    def _now_ms(self) -> int:
        return self._node.clock.monotonic_ms()

    def _ask(self) -> None:
        own = self._own
        if own is None or own.index <= self.agreed_index:
            return
        self._asking += 1
        number = self._asking

        def settled(verdict: Verdict) -> None:
            if number == self._asking:
                self._conclude(own, verdict)

        self._later(ASK_DEADLINE_S, lambda: settled(Verdict.UNDECIDED))
        if self._replica.leads:
            self._settle(own, settled)
        elif self._replica.leader is None:
            settled(Verdict.UNDECIDED)
        else:
            self._node.send_to_member(self._replica.leader, DigestAsked(number=number, report=own))

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._node.at(self._engine.now_us + int(delay_s * SECOND), action)

    def _conclude(self, own: DigestReport, verdict: Verdict) -> None:
        self._asking += 1
        if why := broken_by(own, verdict):
            raise InvariantError(why)
        if verdict is Verdict.AGREES:
            self.agreed_index = own.index
        else:
            number = self._asking
            self._later(ASK_AGAIN_S, lambda: self._ask() if number == self._asking else None)

    def judged(self, answer: DigestJudged) -> None:
        """The leader's answer."""
        own = self._own
        if own is not None and answer.number == self._asking and answer.index == own.index:
            self._conclude(own, answer.verdict)

    # --- at the leader ---------------------------------------------------------------------------------------------

    def compare(self, source: str, asked: DigestAsked) -> None:
        """Takes a member's report, and answers as soon as there is a verdict."""

        def answer(verdict: Verdict) -> None:
            judged = DigestJudged(number=asked.number, index=asked.report.index, verdict=verdict)
            self._node.world.network.send(self._node.name, source, judged, once=True)

        if not self._replica.leads or not self._comparisons.take(asked.report, self._now_ms()):
            answer(Verdict.UNDECIDED)
            return
        self._look_at_waiting()
        self._settle(asked.report, answer)

    def _settle(self, report: DigestReport, settle: _Settle) -> None:
        conf = self._replica.status().conf
        verdict, left_ms = self._comparisons.verdict(report.index, report.member_id, conf, self._now_ms())
        if not left_ms:
            settle(verdict)
            return
        self._waiting.append((report, settle))
        self._node.at(self._engine.now_us + left_ms * MS + MS, self._look_at_waiting)

    def _look_at_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for report, settle in waiting:
            self._settle(report, settle)
