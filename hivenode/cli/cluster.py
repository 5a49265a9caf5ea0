"""`hivenode cluster`: who holds the hive's log, and what the owner of this machine does about it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from hivenode.cli.output import plain_values, print_fields, print_json, print_table, printable, say, short
from hivenode.cli.recovery import recover
from hivenode.cli.settings import INT32_MAX, current_settings, shared_options
from hivenode.encoding.join_token import PREFIX

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from hivenode.cli.peer import Answer
    from hivenode.pb import hive_pb2


@click.group()
@shared_options
def cluster() -> None:
    """The members of the hive. All but `members` is for the owner of the machine whose daemon is asked."""


@cluster.command()
@shared_options
def members() -> None:
    """List who holds the log, and how far each one is."""
    from hivenode.cli.peer import connect

    settings = current_settings()
    with connect(settings) as peer:
        report = peer.status
    if settings.json:
        print_json({"members": [plain_values(member) for member in report.members], "copies": report.copies})
        return
    print_table(("MEMBER", "NODE", "IS", "LOG UP TO", "STATE"), [_row(report, member) for member in report.members])


def _row(report: hive_pb2.GetStatusResponse, member: hive_pb2.Member) -> tuple[str, ...]:
    role = "leader" if member.node_id == report.leader_node_id else "voter" if member.voter else "learner"
    known = member.HasField("alive")
    state = ("alive" if member.alive else "silent") if known else "ask the leader"
    return member.member_id[-16:], short(member.node_id), role, str(member.match_index or ""), state


@cluster.command()
@click.argument("node")
@shared_options
def remove(node: str) -> None:
    """Take NODE (its id or the beginning of it) out of the hive for good."""
    from hivenode.pb import hive_pb2

    _tell_managed("RemoveNode", hive_pb2.ManageNodeRequest(node_id=node), "removed")


@cluster.command()
@click.argument("node")
@shared_options
def transfer(node: str) -> None:
    """Let NODE lead the hive."""
    from hivenode.pb import hive_pb2

    _tell_managed("TransferLeadership", hive_pb2.ManageNodeRequest(node_id=node), "leads")


@cluster.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared_options
def leave(yes: bool) -> None:
    """Take this machine's node out of the hive for good, and stop its daemon."""
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        node = peer.status.node_id
        if not yes:
            click.confirm(
                f"{short(node)} leaves the hive {printable(peer.hive_id)} for good. Go on?", abort=True, err=True
            )
        peer.call(HIVE + "LeaveHive", hive_pb2.LeaveHiveRequest(), hive_pb2.LeaveHiveResponse)
    if settings.json:
        print_json({"node_id": node, "left": True})
    else:
        say(f"{node} has left the hive; its daemon stops")


@cluster.command()
@shared_options
def snapshot() -> None:
    """Copy the agreed state as of now into a file of the daemon's data directory."""
    from hivenode.cli.peer import COPY_DEADLINE_S, HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    request, answer = hive_pb2.MakeSnapshotRequest(), hive_pb2.MakeSnapshotResponse
    with connect(settings) as peer:
        made = peer.call(f"{HIVE}MakeSnapshot", request, answer, work_s=COPY_DEADLINE_S)
    if settings.json:
        print_json(plain_values(made))
        return
    print_fields(
        [
            ("file", made.path),
            ("as of", f"entry {made.index} · term {made.term}"),
            ("size", f"{made.size_bytes} bytes"),
            ("sha256", made.sha256),
        ]
    )


@cluster.group()
@shared_options
def token() -> None:
    """Join tokens: whoever has one can bring machines into the hive."""


@token.command()
@click.option(
    "--ttl", metavar="DURATION", default="24h", show_default=True, help="How long it is good, as 90s, 30m, 12h, 7d."
)
@click.option("--rights", type=click.Choice(("worker", "voter")), default="worker", show_default=True)
@shared_options
def create(ttl: str, rights: str) -> None:
    """Make a join token. Nobody can show it again."""
    from hivenode.pb import hive_pb2

    request = hive_pb2.CreateJoinTokenRequest(rights=rights, lifetime_s=_seconds(ttl))
    made = _operate("CreateJoinToken", request, hive_pb2.CreateJoinTokenResponse)
    if current_settings().json:
        print_json(plain_values(made))
        return
    say(made.token)
    say(f"on the other machine: hivenode cluster join - (and paste it); good for {ttl}, as a {rights}", err=True)


@cluster.command()
@shared_options
def pending() -> None:
    """List the machines that wait for a word: to come in, or to vote."""
    from hivenode.pb import hive_pb2

    listed = _operate("ListPending", hive_pb2.ListPendingRequest(), hive_pb2.ListPendingResponse)
    if current_settings().json:
        print_json({"nodes": [plain_values(node) for node in listed.nodes]})
        return
    rows = [
        (
            node.node_id,
            printable(node.hostname),
            "to vote" if node.is_in else f"to come in as {node.wants}",
            printable(", ".join(node.addresses)),
        )
        for node in listed.nodes
    ]
    print_table(("NODE", "HOST", "WAITS", "AT"), rows)


@cluster.command()
@click.argument("node")
@click.option("--rights", type=click.Choice(("worker", "voter")), default="voter", show_default=True)
@shared_options
def approve(node: str, rights: str) -> None:
    """Let NODE come into the hive, or vote; a voter is trusted with everything."""
    from hivenode.pb import hive_pb2

    _tell_managed("ApproveNode", hive_pb2.ApproveNodeRequest(node_id=node, rights=rights), f"approved as {rights}")


@cluster.command()
@click.argument("node")
@shared_options
def deny(node: str) -> None:
    """Keep NODE, which waits, out of the hive until it is approved."""
    from hivenode.pb import hive_pb2

    _tell_managed("DenyNode", hive_pb2.ManageNodeRequest(node_id=node), "denied")


@cluster.command()
@click.argument("node")
@shared_options
def revoke(node: str) -> None:
    """Take NODE out at once and keep it out; what it runs is run elsewhere."""
    from hivenode.pb import hive_pb2

    _tell_managed("RevokeNode", hive_pb2.ManageNodeRequest(node_id=node), "revoked")


def _operate(method: str, request: Message, answer: type[Answer]) -> Answer:
    """A call for an operator, or the owner of this machine."""
    from hivenode.cli.peer import HIVE, connect

    with connect(current_settings()) as peer:
        return peer.call(HIVE + method, request, answer)


def _tell_managed(method: str, request: Message, done: str) -> None:
    from hivenode.pb import hive_pb2

    managed = _operate(method, request, hive_pb2.NodeManaged)
    if current_settings().json:
        print_json(plain_values(managed))
    else:
        say(f"{managed.node_id} {done}")


def _seconds(text: str) -> int:
    """`90s`, `30m`, `12h` or `7d` in seconds."""
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    if not text[:-1].isdigit() or not text.isascii() or text[-1:] not in units:
        raise click.UsageError(f"{text!r} is no duration: write it as 90s, 30m, 12h or 7d")
    return min(int(text[:-1]) * units[text[-1]], INT32_MAX)


@cluster.command()
@click.argument("address", metavar="HOST:PORT|TOKEN|-")
@click.option("--abandon", is_flag=True, help="Give up this machine's copy of its own hive; it is kept beside.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared_options
def join(address: str, abandon: bool, yes: bool) -> None:
    """Take this machine's node to another hive: of the member at HOST:PORT (its peer port), or of a join token (- reads it)."""
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        report = peer.status
        if abandon and report.hive_id and not yes:
            _confirm_abandoning(report)
        word = sys.stdin.readline().strip() if address == "-" else address
        by_token = word.startswith(PREFIX)
        request = hive_pb2.JoinHiveRequest(
            address="" if by_token else word, token=word if by_token else "", abandon=abandon
        )
        joined = peer.call(HIVE + "JoinHive", request, hive_pb2.JoinHiveResponse)
    if settings.json:
        print_json({"node_id": report.node_id, "hive_id": joined.hive_id, "former_hive_id": report.hive_id})
        return
    say(f"{report.node_id} goes to the hive {joined.hive_id}; `hivenode status` says when it is there")
    if report.hive_id:
        say("what it had is kept in its data directory, in a folder hive-before-…")


def _confirm_abandoning(report: hive_pb2.GetStatusResponse) -> None:
    tasks = report.tasks_pending + report.tasks_running + report.tasks_ended
    say(
        f"This machine gives up its copy of the hive {report.hive_id}: {report.users} users, {tasks} tasks, "
        f"and their balances ({report.supply} CPT in all, {report.nodes} machines). It is kept beside, not merged.",
        err=True,
    )
    if click.prompt("Write abandon to go on", default="", show_default=False, err=True) != "abandon":
        raise click.Abort


cluster.add_command(recover)
