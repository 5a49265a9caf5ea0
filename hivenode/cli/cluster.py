"""`hivenode cluster`: who holds the hive's log, and what the owner of this machine does about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hivenode.cli.output import plain_values, print_fields, print_json, print_table, short
from hivenode.cli.recovery import recover
from hivenode.cli.settings import current_settings, shared_options

if TYPE_CHECKING:
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
    click.echo(_managed("RemoveNode", node, "removed"))


@cluster.command()
@click.argument("node")
@shared_options
def transfer(node: str) -> None:
    """Let NODE lead the hive."""
    click.echo(_managed("TransferLeadership", node, "leads"))


def _managed(method: str, node: str, done: str) -> str:
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        managed = peer.call(HIVE + method, hive_pb2.ManageNodeRequest(node_id=node), hive_pb2.NodeManaged)
    if settings.json:
        import json

        return json.dumps(plain_values(managed))
    return f"{managed.node_id} {done}"


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
            click.confirm(f"{short(node)} leaves the hive {peer.hive_id} for good. Go on?", abort=True, err=True)
        peer.call(HIVE + "LeaveHive", hive_pb2.LeaveHiveRequest(), hive_pb2.LeaveHiveResponse)
    if settings.json:
        print_json({"node_id": node, "left": True})
    else:
        click.echo(f"{node} has left the hive; its daemon stops")


@cluster.command()
@shared_options
def snapshot() -> None:
    """Copy the agreed state as of now into a file of the daemon's data directory."""
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        made = peer.call(HIVE + "MakeSnapshot", hive_pb2.MakeSnapshotRequest(), hive_pb2.MakeSnapshotResponse)
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


@cluster.command()
@click.argument("address", metavar="HOST:PORT")
@click.option("--abandon", is_flag=True, help="Give up this machine's copy of its own hive; it is kept beside.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared_options
def join(address: str, abandon: bool, yes: bool) -> None:
    """Take this machine's node to the hive that has a member at HOST:PORT (its peer port)."""
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        report = peer.status
        if abandon and report.hive_id and not yes:
            _confirm_abandoning(report)
        request = hive_pb2.JoinHiveRequest(address=address, abandon=abandon)
        joined = peer.call(HIVE + "JoinHive", request, hive_pb2.JoinHiveResponse)
    if settings.json:
        print_json({"node_id": report.node_id, "hive_id": joined.hive_id, "former_hive_id": report.hive_id})
        return
    click.echo(f"{report.node_id} goes to the hive {joined.hive_id}; `hivenode status` says when it is there")
    if report.hive_id:
        click.echo("what it had is kept in its data directory, in a folder hive-before-…")


def _confirm_abandoning(report: hive_pb2.GetStatusResponse) -> None:
    tasks = report.tasks_pending + report.tasks_running + report.tasks_ended
    click.echo(
        f"This machine gives up its copy of the hive {report.hive_id}: {report.users} users, {tasks} tasks, "
        f"and their balances ({report.supply} CPT in all, {report.nodes} machines). It is kept beside, not merged.",
        err=True,
    )
    if click.prompt("Write abandon to go on", default="", show_default=False, err=True) != "abandon":
        raise click.Abort


cluster.add_command(recover)
