"""All checkers that watch a run, behind the names by which replicas and workers call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hivenode.consensus import ConfState, Entry, EntryKind, LogView, MemberId, RaftStatus
from hivenode.pool.commands import Reply
from hivenode.runtime.ports import AttemptKey
from simulations.checkers.agreed import AgreedChecker
from simulations.checkers.consensus import ConsensusChecker
from simulations.checkers.copies import CopiesChecker
from simulations.engine import Engine
from simulations.marks import Kind

if TYPE_CHECKING:
    from simulations.disk import StateView
    from simulations.node import Node


class Watch:
    """What every simulated host tells of itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.consensus: Final = ConsensusChecker()
        self.agreed: Final = AgreedChecker()
        self.copies: Final = CopiesChecker()
        self.installs = 0

    def leads(self, name: str, status: RaftStatus, log: LogView, tail: Sequence[Entry]) -> None:
        self.consensus.leads(status.member_id, status.term, log, tail)

    def persisted(self, name: str, entries: Sequence[Entry], log: LogView) -> None:
        self.consensus.persisted(name, entries, log)

    def applied(self, node: Node, entry: Entry, reply: Reply, repeated: bool, view: StateView, conf: ConfState) -> None:
        if self.consensus.applied(node.name, entry):
            self._engine.mark(Kind.COMMIT, number=entry.index)
            if entry.kind is EntryKind.CONF_CHANGE:
                self._engine.mark(Kind.CONFIGURATION, text=_members(conf), number=entry.index)
            self._engine.note(f"{entry.index} of term {entry.term} is committed: {reply.code} {reply.number}")
        self.agreed.applied(
            node.name,
            entry,
            reply,
            repeated,
            view,
            conf,
            self._engine.now_us,
            digest=view.chained_digest,
            tainted=node.tainted,
        )

    def installed(self, node: Node, index: int, term: int, view: StateView, conf: ConfState) -> None:
        self.installs += 1
        self.consensus.installed(node.name, index, term)
        self.agreed.installed(node.name, index, view, conf, digest=view.chained_digest, tainted=node.tainted)

    def heard(self, node: Node, member: MemberId, applied_index: int) -> None:
        """A replica takes a message of the core; what a member whose memory went wrong does shows nothing."""
        revoked = self.agreed.revoked
        if revoked.any:
            source = node.world.node_of(member)
            if revoked.concerns(source) and not (node.tainted or node.damage.is_rotten):
                revoked.heard(node.name, source, node.world.names[source], applied_index)

    def acknowledged(self, node: Node, entry: Entry, copies: int) -> None:
        self.copies.acknowledged(node, entry, copies)

    def ordered(self, name: str, key: AttemptKey) -> None:
        self.agreed.ordered(name, key)


def _members(conf: ConfState) -> str:
    """The voters and, after a bar, the learners; while the configuration is joint the voters are those of both halves."""
    voters = conf.voters | conf.voters_outgoing
    return " ".join(sorted(voters)) + "|" + " ".join(sorted(conf.members() - voters))
