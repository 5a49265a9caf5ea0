"""`hivenode cluster recover`: goes on with the log of one surviving machine when the hive's quorum is lost for good.

Works on the stopped daemon's data directory. It shows the end of every log at hand and who answers, and refuses what
`runtime.recovery` refuses; only then it asks, and writes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hivenode.cli.output import print_fields, print_json, print_table, short
from hivenode.cli.settings import current_settings, data_folder, shared_options
from hivenode.errors import Code, HiveError

if TYPE_CHECKING:
    from hivenode.encoding.node_record import NodeId
    from hivenode.identity import Identity
    from hivenode.pool.records import NodeEntry
    from hivenode.runtime.recovery import LogTail, RecoveryPlan
    from hivenode.storage.log_store import LogStore

ANSWER_DEADLINE_S: Final = 2.0
RECORD_LIFETIME_MS: Final = 3_600_000
"""The record with which a stopped node asks who is there; it is told to nobody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stopped:
    """An opened data directory whose daemon does not run."""

    log: LogStore
    tail: LogTail
    identity: Identity
    nodes: tuple[NodeEntry, ...]


@click.command()
@click.option("--dead", metavar="NODE", multiple=True, help="A machine that is gone for good; repeatable.")
@click.option(
    "--compare",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="The data directory of another stopped member, or a copy of it; repeatable.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared_options
def recover(dead: tuple[str, ...], compare: tuple[Path, ...], yes: bool) -> None:
    """Go on without a quorum that is lost for good. The daemon of the data directory must be stopped.

    Name every other member: with --dead when it is gone, with --compare when its data directory is at hand. A machine that
    was declared dead must start with an empty log when it comes back.
    """
    from hivenode.runtime.recovery import plan_recovery, recovery_write

    settings = current_settings()
    with _opened(data_folder(settings)) as mine, _all_opened(compare) as others:
        answering = asyncio.run(_answering(mine))
        if not settings.json:
            _show([mine, *others], answering)
        plan = plan_recovery(mine.tail, [other.tail for other in others], _named(mine, dead), answering)
        if not settings.json:
            print_fields(
                [
                    (
                        "goes on with",
                        f"{plan.tail.node_id} · term {plan.tail.last_term} · entry {plan.tail.last_index}",
                    ),
                    ("declared dead", ", ".join(plan.dead) or "none"),
                    ("may be lost", plan.may_be_lost),
                ]
            )
        if not yes:
            click.confirm(
                "The machines declared dead can never come back with what they have. Go on?", abort=True, err=True
            )
        wall_ms = time.time_ns() // 1_000_000
        hive_id, write = recovery_write(plan, mine.identity, tag=secrets.token_hex(4), wall_ms=wall_ms)
        mine.log.begin_epoch(hive_id, write)
        _told(plan, hive_id, settings.json)


def _told(plan: RecoveryPlan, hive_id: str, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "hive_id": hive_id,
                "node_id": plan.tail.node_id,
                "term": plan.tail.last_term,
                "index": plan.tail.last_index,
                "dead": list(plan.dead),
                "may_be_lost": plan.may_be_lost,
            }
        )
        return
    click.echo(f"The hive is {hive_id} from now on. Start this machine's daemon.")
    for node in plan.left_aside:
        click.echo(f"{short(node)} joins again by itself when it is started; what it has now is kept beside.")


def _show(stopped: Sequence[_Stopped], answering: frozenset[NodeId]) -> None:
    from hivenode.runtime.local import node_of

    mine = stopped[0].tail
    tails = {one.tail.member_id: one.tail for one in stopped}
    rows = []
    for member in sorted(mine.conf.members()):
        tail = tails.get(member)
        role = "voter" if mine.conf.is_voter(member) else "learner"
        state = "at hand" if tail else "answers" if node_of(member) in answering else "silent"
        term, index = (str(tail.last_term), str(tail.last_index)) if tail else ("", "")
        rows.append((node_of(member), role, state, term, index))
    print_table(("NODE", "IS", "STATE", "LAST TERM", "LAST ENTRY"), rows)


def _named(mine: _Stopped, dead: tuple[str, ...]) -> frozenset[NodeId]:
    """The whole ids of the machines that were named by theirs, or by a beginning of it."""
    from hivenode.runtime.recovery import members_of

    known = members_of(mine.tail.conf) | {entry.node_id for entry in mine.nodes}
    found = set()
    for name in dead:
        matching = [node for node in known if node.startswith(name)]
        if len(matching) != 1:
            raise HiveError(Code.NODE_NOT_FOUND, f"{name} is the beginning of {len(matching)} nodes' ids, not of one")
        found.add(matching[0])
    return frozenset(found)


@contextmanager
def _opened(folder: Path) -> Iterator[_Stopped]:
    """Opens a data directory as its daemon would. Raises HiveError when that runs, or there is no log."""
    from hivenode.daemon import DataDirectory
    from hivenode.identity import load_identity
    from hivenode.pool import queries
    from hivenode.pool.records import NodeKind
    from hivenode.runtime.recovery import read_tail
    from hivenode.storage.log_store import LogStore
    from hivenode.storage.state_store import StateStore

    if not (folder / "log").exists() or not (folder / "node.key").exists():
        raise HiveError(Code.INVALID_ARGUMENT, f"{folder} is no data directory of a node")
    directory = DataDirectory(folder)
    directory.take()
    try:
        identity = load_identity(folder)
        log = LogStore(folder / "log")
        state = StateStore(folder / log.state_folder)
        try:
            tail = read_tail(
                log,
                hive_id=log.hive_id,
                node_id=identity.node_id,
                incarnation=log.incarnation,
                conf=state.conf,
                applied=state.applied_index,
            )
            nodes = tuple(entry for entry in queries.nodes(state) if entry.kind is NodeKind.HIVE)
            yield _Stopped(log=log, tail=tail, identity=identity, nodes=nodes)
        finally:
            state.close()
            log.close()
    finally:
        directory.release()


@contextmanager
def _all_opened(folders: Sequence[Path]) -> Iterator[list[_Stopped]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield [stack.enter_context(_opened(folder)) for folder in folders]


async def _answering(mine: _Stopped) -> frozenset[NodeId]:
    """The members that answer at an address that the agreed state has of them."""
    from hivenode.encoding.node_record import SignedNodeRecord, open_record
    from hivenode.encoding.records import decode_record
    from hivenode.identity import verify_signature
    from hivenode.transport.peer_link import Self
    from hivenode.transport.peers import GrpcPeers

    own = next((entry for entry in mine.nodes if entry.node_id == mine.identity.node_id), None)
    if own is None:
        return frozenset()
    now_ms = time.time_ns() // 1_000_000
    record = open_record(decode_record(SignedNodeRecord, own.signed_record), verify_signature)
    signed = mine.identity.sign_record(dataclasses.replace(record, expires_ms=now_ms + RECORD_LIFETIME_MS))
    peers = GrpcPeers(
        Self(identity=mine.identity, record=lambda: signed, hive_id=lambda: mine.tail.hive_id, now_ms=lambda: now_ms)
    )

    async def answers(entry: NodeEntry) -> bool:
        for address in entry.addresses:
            try:
                intro = await peers.introduce(address, ANSWER_DEADLINE_S)
            except HiveError:
                continue
            if intro.record.node_id == entry.node_id and intro.hive_id == mine.tail.hive_id:
                return True
        return False

    others = [entry for entry in mine.nodes if entry.node_id != mine.identity.node_id]
    try:
        found = await asyncio.gather(*(answers(entry) for entry in others))
    finally:
        await peers.aclose()
    return frozenset(entry.node_id for entry, answered in zip(others, found, strict=True) if answered)
