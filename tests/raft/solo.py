"""One real member on a log of the test's making, whose peers the test plays itself."""

from __future__ import annotations

import random
from collections.abc import Iterable

from hivenode.consensus import (
    AppendResponse,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    MemberId,
    MemoryLog,
    Message,
    RaftConfig,
    RawNode,
    Ready,
    Role,
    VoteRequest,
    VoteResponse,
    decode_conf_change,
)

A, B, C, D, E = (MemberId(name) for name in "abcde")


def log_of(terms: Iterable[int]) -> list[Entry]:
    """Entries with these terms, from index 1 on."""
    return [Entry(term=term, index=index, data=b"%d.%d" % (term, index)) for index, term in enumerate(terms, start=1)]


class Solo:
    """A member named `a`, its disk, and what it sent."""

    def __init__(
        self,
        peers: str = "bc",
        *,
        terms: Iterable[int] = (),
        term: int = 0,
        vote: MemberId | None = None,
        commit: int = 0,
        pre_vote: bool = False,
        check_quorum: bool = False,
        conf: ConfState | None = None,
        seed: int = 1,
        config: RaftConfig | None = None,
    ) -> None:
        members = frozenset({A, *(MemberId(name) for name in peers)})
        self.log = MemoryLog(conf if conf is not None else ConfState(voters=members))
        self.log.append(log_of(terms))
        self.log.set_hard_state(HardState(term=term, vote=vote, commit=commit))
        self.config = config or RaftConfig(member_id=A, pre_vote=pre_vote, check_quorum=check_quorum)
        self.seed = seed
        self.now_ms = 0
        self.committed: list[Entry] = []
        self.ready: Ready | None = None
        self.raw = RawNode(self.config, self.log, random.Random(seed), 0, 0)

    def restart(self) -> None:
        """Comes back with nothing but its disk; what was applied is applied again."""
        self.raw = RawNode(self.config, self.log, random.Random(self.seed), self.now_ms, 0)
        self.ready = None

    def persist(self) -> list[Message]:
        """Begins a Ready: writes it, and returns what may be sent at once."""
        self.ready = self.raw.ready()
        if self.ready.snapshot is not None:
            self.log.apply_snapshot(self.ready.snapshot)
        self.log.append(self.ready.entries)
        if self.ready.hard_state is not None:
            self.log.set_hard_state(self.ready.hard_state)
        return list(self.ready.messages)

    def finish(self) -> list[Message]:
        """Ends the Ready; returns what had to wait for the disk."""
        ready = self.ready
        assert ready is not None
        for entry in ready.committed_entries:
            self.committed.append(entry)
            if entry.kind is EntryKind.CONF_CHANGE:
                self.log.set_conf_state(self.raw.apply_conf_change(decode_conf_change(entry.data)))
        self.raw.advance(ready)
        self.ready = None
        self.raw.validate_state()
        return list(ready.messages_after_persist)

    def drain(self) -> list[Message]:
        """Carries out all Readys; returns all that was sent."""
        sent: list[Message] = []
        while self.raw.has_ready():
            sent += self.persist()
            sent += self.finish()
        return sent

    def step(self, *messages: Message) -> list[Message]:
        """Hands messages over and returns the answers."""
        for message in messages:
            self.raw.step(message)
            self.raw.validate_state()
        return self.drain()

    def tick(self, duration_ms: int) -> list[Message]:
        self.now_ms += duration_ms
        self.raw.tick(self.now_ms)
        return self.drain()

    def time_out(self) -> list[Message]:
        """Waits until the election timeout has passed, and returns what was sent then."""
        return self.tick(max(0, self.raw.next_deadline() - self.now_ms))

    def lead(self) -> RawNode:
        """Wins an election with the votes of all, and clears what was sent."""
        self.raw.campaign()
        for message in self.drain():
            if isinstance(message, VoteRequest):
                self.step(grant(message))
        self.drain()
        assert self.role is Role.LEADER
        return self.raw

    @property
    def role(self) -> Role:
        return self.raw.status().role

    @property
    def term(self) -> int:
        return self.raw.status().term

    @property
    def hard_state(self) -> HardState:
        return self.log.initial_state()[0]

    def terms(self) -> list[int]:
        """The terms of the entries on disk."""
        return [entry.term for entry in self.log.entries(self.log.first_index(), self.log.last_index() + 1, 1 << 30)]


def grant(request: VoteRequest, granted: bool = True) -> VoteResponse:
    return VoteResponse(
        to=request.from_, from_=request.to, term=request.term, pre_vote=request.pre_vote, granted=granted
    )


def ack(member: MemberId, term: int, index: int) -> AppendResponse:
    return AppendResponse(to=A, from_=member, term=term, index=index)


def heartbeat(term: int, commit: int = 0, leader: MemberId = B) -> Heartbeat:
    return Heartbeat(to=A, from_=leader, term=term, commit=commit)


def vote_request(
    candidate: MemberId, term: int, last_index: int = 0, last_term: int = 0, *, pre_vote: bool = False
) -> VoteRequest:
    return VoteRequest(to=A, from_=candidate, term=term, pre_vote=pre_vote, last_index=last_index, last_term=last_term)
