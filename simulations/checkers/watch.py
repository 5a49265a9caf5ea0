"""All checkers that watch a run, behind the names by which replicas and workers call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hivenode.consensus import ConfState, Entry, EntryKind, LogView, RaftStatus
from hivenode.pool.commands import Reply
from hivenode.runtime.ports import AttemptKey
from simulations.checkers.agreed import AgreedChecker
from simulations.checkers.consensus import ConsensusChecker
from simulations.engine import Engine
from simulations.marks import Kind
from simulations.views import MemoryView


class Watch:
    """What every simulated host tells of itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.consensus: Final = ConsensusChecker()
        self.agreed: Final = AgreedChecker()

    def leads(self, name: str, status: RaftStatus, log: LogView, tail: Sequence[Entry]) -> None:
        self.consensus.leads(status.member_id, status.term, log, tail)

    def persisted(self, name: str, entries: Sequence[Entry], log: LogView) -> None:
        self.consensus.persisted(name, entries, log)

    def applied(self, name: str, entry: Entry, reply: Reply, repeated: bool, view: MemoryView, conf: ConfState) -> None:
        if self.consensus.applied(name, entry):
            self._engine.mark(Kind.COMMIT, number=entry.index)
            if entry.kind is EntryKind.CONF_CHANGE:
                self._engine.mark(Kind.CONFIGURATION, text=_members(conf), number=entry.index)
            self._engine.note(f"{entry.index} of term {entry.term} is committed: {reply.code} {reply.number}")
        self.agreed.applied(name, entry, reply, repeated, view, conf, self._engine.now_us)

    def ordered(self, name: str, key: AttemptKey) -> None:
        self.agreed.ordered(name, key)


def _members(conf: ConfState) -> str:
    """The voters and, after a bar, the learners; while the configuration is joint the voters are those of both halves."""
    voters = conf.voters | conf.voters_outgoing
    return " ".join(sorted(voters)) + "|" + " ".join(sorted(conf.members() - voters))
