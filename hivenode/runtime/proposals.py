"""The proposals of one member: from the call to the entry, and from the entry's application back to the caller.

A proposal ends in exactly one of: the reply of its application; *not done* (NO_LEADER, OVERLOADED: it was never appended, or
another entry took its place); *unknown* (OUTCOME_UNKNOWN: appended, and this node stopped leading or the deadline came).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from hivenode.consensus import ConfChange, Entry, RawNode
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError
from hivenode.pool.commands import Envelope, Reply
from hivenode.runtime.copies import QuorumCopies, SecondCopies, acknowledged_copies, has_one_voter
from hivenode.runtime.inbox import Inbox, Proposal
from hivenode.runtime.stores import StateStorage

PROPOSALS_MAX: Final = 4_096
"""Proposals that wait or are being agreed on; one more is refused with OVERLOADED."""


class Proposals:
    """See the module.

    Args:
        inbox: where they wait until they are appended.
        wake: called when the core shall look at the inbox.
        second_copies: knows which learner has what, for the two-node rule.
        clock_ms, wall_ms: monotonic time, and ms since 1970 for the log.
    """

    def __init__(
        self,
        *,
        raw: RawNode,
        state: StateStorage,
        inbox: Inbox,
        wake: Callable[[], None],
        second_copies: SecondCopies,
        clock_ms: Callable[[], int],
        wall_ms: Callable[[], int],
    ) -> None:
        self._raw = raw
        self._state = state
        self._inbox = inbox
        self._wake = wake
        self._second_copies = second_copies
        self._clock_ms = clock_ms
        self._wall_ms = wall_ms
        self._agreeing: dict[int, Proposal] = {}
        self.quorums: Final = QuorumCopies()

    async def agree(self, proposal: Proposal, deadline_s: float) -> Reply:
        """Returns the reply of its application here. Raises HiveError as the module says."""
        if len(self._inbox.proposals) + len(self._agreeing) >= PROPOSALS_MAX:
            raise HiveError(Code.OVERLOADED, "too many writes are waiting; nothing was done, ask again in a moment")
        if self._inbox.propose(proposal, self._clock_ms()):
            self._wake()
        try:
            async with asyncio.timeout(deadline_s):
                reply = await proposal.future
            acknowledged_copies.set(proposal.copies)
            return reply
        except TimeoutError:
            if proposal.reply is not None:
                acknowledged_copies.set(1)
                return proposal.reply
            if proposal.index == 0:
                raise HiveError(Code.NO_LEADER, "no time was left to agree on it; nothing was done") from None
            raise HiveError(
                Code.OUTCOME_UNKNOWN, "no majority answered in time; it may still happen: look before asking again"
            ) from None
        finally:
            if proposal.index and self._agreeing.get(proposal.index) is proposal:
                del self._agreeing[proposal.index]

    def append_gathered(self, now_ms: int) -> None:
        """Gives those to the core that have gathered for a common append."""
        for _ in range(self._inbox.gathered(now_ms, idle=not self._agreeing)):
            self._append(self._inbox.proposals.popleft())

    def _append(self, proposal: Proposal) -> None:
        if proposal.future.done():
            return
        try:
            if isinstance(proposal.body, ConfChange):
                proposal.index = self._raw.propose_conf_change(proposal.body)
            else:
                envelope = Envelope(
                    time_ms=self._wall_ms(),
                    request_owner=proposal.owner,
                    request_key=proposal.key,
                    keep_ms=proposal.keep_ms,
                    command=encode_record(proposal.body),
                )
                proposal.index = self._raw.propose(encode_record(envelope))
        except HiveError as error:
            proposal.future.set_exception(error)
            return
        proposal.term = self._raw.term
        self._agreeing[proposal.index] = proposal

    def settle(self, entry: Entry, reply: Reply) -> None:
        """An entry was applied: whoever proposed it, or one that it replaced, is answered."""
        proposal = self._agreeing.pop(entry.index, None)
        if proposal is None or proposal.future.done():
            return
        if proposal.term != entry.term:
            proposal.future.set_exception(
                HiveError(Code.NO_LEADER, "another leader took over first; nothing was done, ask again")
            )
            return
        proposal.reply = reply

        def acknowledge(copies: int) -> None:
            proposal.copies = copies
            if not proposal.future.done():
                proposal.future.set_result(reply)

        conf = self._state.conf
        if has_one_voter(conf) and not isinstance(proposal.body, ConfChange):
            self._second_copies.settle(entry.index, self._raw.status(), self._clock_ms(), acknowledge)
        else:
            acknowledge(self.quorums.copies(entry.index, conf))

    def fail(self, why: str) -> None:
        """This node does not lead any more, or stops: what is appended may still happen, and what waits will not."""
        for proposal in [*self._agreeing.values(), *self._inbox.proposals]:
            if not proposal.future.done():
                code = Code.OUTCOME_UNKNOWN if proposal.index else Code.NO_LEADER
                proposal.future.set_exception(HiveError(code, f"{why}; look whether it happened before asking again"))
        self._agreeing.clear()
        self._inbox.proposals.clear()
        self._second_copies.release_all()
