"""`hivenode status`: what the hive looks like from one daemon, and what a person should do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hivenode.cli.output import plain_values, print_fields, print_json, printable, short
from hivenode.cli.settings import current_settings, shared_options

if TYPE_CHECKING:
    from hivenode.pb import hive_pb2


@click.command()
@shared_options
def status() -> None:
    """Tell who leads, who is there, and what needs attention."""
    from hivenode.cli.peer import connect

    settings = current_settings()
    with connect(settings) as peer:
        report = peer.status
    if settings.json:
        print_json(plain_values(report))
        return
    print_fields(
        [
            ("node", f"{short(report.node_id)} · hivenode {report.version} · role {report.role} · {report.phase}"),
            ("hive", report.hive_id or "none yet: looking for other machines"),
            *_agreed(report),
            ("executor", " · ".join(filter(None, (report.executor or "none", report.executor_note)))),
            ("api", report.api_address),
            ("peers", ", ".join(report.peer_addresses) or report.peer_address),
        ]
    )
    for warning in report.warnings:
        click.secho(f"! {printable(warning)}", fg="yellow")


def _agreed(report: hive_pb2.GetStatusResponse) -> list[tuple[str, str]]:
    if report.role == "worker":
        # It holds no log: its noughts would read as a hive without a leader, users or tasks.
        return [("leader", "not told by a worker, which holds no log: ask a voter, with --peer")]
    return [
        ("leader", _leader(report)),
        ("members", _members(report)),
        ("copies", _copies(report)),
        ("log", f"committed {report.commit_index} · applied {report.applied_index}"),
        ("tasks", f"{report.tasks_pending} pending · {report.tasks_running} running · {report.tasks_ended} ended"),
        ("users", f"{report.users} · ledger height {report.ledger_height} · {report.supply} CPT in all"),
    ]


def _leader(report: hive_pb2.GetStatusResponse) -> str:
    if not report.leader_node_id:
        return "none: a majority of the voters must be up and reach each other"
    here = " (this node)" if report.leader_node_id == report.node_id else f" at {report.leader_address}"
    return f"{short(report.leader_node_id)}{here} · term {report.term}"


def _members(report: hive_pb2.GetStatusResponse) -> str:
    voters = [member for member in report.members if member.voter]
    silent = [short(member.node_id) for member in report.members if member.HasField("alive") and not member.alive]
    text = f"voters {len(voters)} · learners {len(report.members) - len(voters)} · nodes {report.nodes}"
    return f"{text} · silent: {', '.join(silent)}" if silent else text


def _copies(report: hive_pb2.GetStatusResponse) -> str:
    return f"{report.copies} of what is agreed" if report.copies else ""
