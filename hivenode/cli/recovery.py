"""`hivenode cluster recover`: goes on with the log of one surviving machine when the hive's quorum is lost for good.

Works on the stopped daemon's data directory. It shows the end of every log at hand and who answers, and refuses what
`runtime.recovery` refuses; only then it asks, and writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hivenode.cli.output import print_fields, print_json, print_table, say, short
from hivenode.cli.settings import current_settings, data_folder, shared_options
from hivenode.errors import Code, HiveError

if TYPE_CHECKING:
    from hivenode.encoding.node_record import NodeId, SignedNodeRecord
    from hivenode.identity import Identity
    from hivenode.pool.records import NodeEntry
    from hivenode.runtime.recovery import LogTail, RecoveryPlan
    from hivenode.storage.log_store import LogStore

ASKING_S_MAX: Final = 15.0
"""A machine under load, or one whose daemon has just been started, answers within it; then silence counts."""
ANSWER_DEADLINE_S: Final = 5.0
"""Of one question; meanwhile the same machine is asked at its other addresses."""
ASKED_AGAIN_AFTER_S: Final = 0.25
"""A refused connection says so at once; its daemon may be about to start."""
RECORD_LIFETIME_MS: Final = 3_600_000
"""The record with which a stopped node asks who is there; it is told to nobody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stopped:
    """An opened data directory whose daemon does not run."""

    log: LogStore
    tail: LogTail
    identity: Identity
    nodes: tuple[NodeEntry, ...]
    """As of the log's end. What is on disk of the agreed state may be older, and lack where the others are."""


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
    from hivenode.runtime.recovery import members_of, plan_recovery, recovery_write

    settings = current_settings()
    with _opened(data_folder(settings)) as mine, _all_opened(compare) as others:
        named = _named(mine, dead)
        answering = asyncio.run(_answering(mine, members_of(mine.tail.conf) | named))
        if not settings.json:
            _show([mine, *others], answering)
        plan = plan_recovery(mine.tail, [other.tail for other in others], named, answering)
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
    say(f"The hive is {hive_id} from now on. Start this machine's daemon.")
    for node in plan.left_aside:
        say(f"{short(node)} joins again by itself when it is started; what it has now is kept beside.")


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


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[_Stopped]:
    """Opens a data directory as its daemon would. Raises HiveError when that runs, or there is no log."""
    from hivenode.daemon import DataDirectory
    from hivenode.identity import load_identity
    from hivenode.pool import queries
    from hivenode.pool.records import NodeKind
    from hivenode.runtime.recovery import catch_up, tail_of
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
            catch_up(log, state)
            tail = tail_of(
                log,
                hive_id=log.hive_id,
                node_id=identity.node_id,
                incarnation=log.incarnation,
                conf=state.conf,
            )
            nodes = tuple(entry for entry in queries.nodes(state) if entry.kind is NodeKind.HIVE)
            yield _Stopped(log=log, tail=tail, identity=identity, nodes=nodes)
        finally:
            state.close()
            log.close()
    finally:
        directory.release()


@contextlib.contextmanager
def _all_opened(folders: Sequence[Path]) -> Iterator[list[_Stopped]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_opened(folder)) for folder in folders]


async def _answering(mine: _Stopped, wanted: frozenset[NodeId]) -> frozenset[NodeId]:
    """Which of the wanted machines answer for the hive, asked again and again for a bounded time.

    Raises: HiveError when this machine cannot ask: nobody's silence would say anything then.
    """
    from hivenode.transport.peer_link import Self
    from hivenode.transport.peers import GrpcPeers

    now_ms = time.time_ns() // 1_000_000
    signed = _own_record(mine, now_ms)
    peers = GrpcPeers(
        Self(identity=mine.identity, record=lambda: signed, hive_id=lambda: mine.tail.hive_id, now_ms=lambda: now_ms)
    )

    async def answers(node: NodeId, address: str) -> NodeId:
        while True:
            with contextlib.suppress(HiveError):
                intro = await peers.introduce(address, ANSWER_DEADLINE_S)
                if intro.record.node_id == node and intro.hive_id == mine.tail.hive_id:
                    return node
            await asyncio.sleep(ASKED_AGAIN_AFTER_S)

    others = {entry.node_id: entry.addresses for entry in mine.nodes if entry.node_id in wanted - {mine.tail.node_id}}
    asking = [asyncio.create_task(answers(node, address)) for node, found in others.items() for address in found]
    if asking:
        names = ", ".join(short(node) for node in others)
        say(f"waiting for an answer of {names} (at most {ASKING_S_MAX:g} s)", err=True)
    answering: set[NodeId] = set()
    try:
        async with asyncio.timeout(ASKING_S_MAX):
            for answer in asyncio.as_completed(asking):
                answering.add(await answer)
                if answering == set(others):
                    break
    except TimeoutError:
        pass  # Who has not answered by now is silent.
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await peers.aclose()
    return frozenset(answering)


def _own_record(mine: _Stopped, now_ms: int) -> SignedNodeRecord:
    """The record with which this machine asks; signed anew, since the one that the hive has may have expired."""
    from hivenode.encoding.node_record import SignedNodeRecord, open_record
    from hivenode.encoding.records import decode_record
    from hivenode.identity import verify_signature

    own = next((entry for entry in mine.nodes if entry.node_id == mine.identity.node_id), None)
    if own is None:
        raise HiveError(
            Code.INVALID_ARGUMENT,
            "the log of this data directory does not reach to this machine's own record, so the others cannot be asked "
            "whether they run: start the daemon, or recover on another machine",
        )
    record = open_record(decode_record(SignedNodeRecord, own.signed_record), verify_signature)
    return mine.identity.sign_record(dataclasses.replace(record, expires_ms=now_ms + RECORD_LIFETIME_MS))
