"""`hivenode node`: the machines of the hive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hivenode.cli.output import ago, plain_values, print_json, print_table, say, short
from hivenode.cli.settings import current_settings, shared_options

if TYPE_CHECKING:
    from hivenode.pb import hive_pb2


@click.group()
@shared_options
def node() -> None:
    """The machines of the hive."""


@node.command("ls")
@shared_options
def list_nodes() -> None:
    """List the machines, what they have, and whether they answer."""
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        peer.log_in()
        nodes = peer.call(f"{HIVE}ListNodes", hive_pb2.ListNodesRequest(), hive_pb2.ListNodesResponse).nodes
    if settings.json:
        print_json({"nodes": [plain_values(entry) for entry in nodes]})
        return
    columns = ("NODE", "HOST", "STATE", "SEEN", "CPU", "MEMORY", "GPU", "RUNS TASKS", "FREE", "TRUST", "OWNER", "PLACE")
    print_table(columns, [_row(entry) for entry in nodes])


@node.command()
@shared_options
def claim() -> None:
    """Receive what this machine earns, by owning it. The daemon's data directory must be readable."""
    from hivenode.cli.claims import make_claim
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        name = peer.log_in().username
        request = hive_pb2.ClaimNodeRequest(claim=make_claim(peer, settings, "node", name))
        done = peer.call(f"{HIVE}ClaimNode", request, hive_pb2.ClaimNodeResponse)
    if settings.json:
        print_json({"username": name} | plain_values(done))
    else:
        say(f"{name} receives what {short(done.node_id)} earns, and the {done.cpt_received} CPT that it has earned")


def _row(entry: hive_pb2.Node) -> tuple[str, ...]:
    return (
        short(entry.node_id),
        entry.hostname,
        entry.status or ("alive" if entry.alive else "silent"),
        ago(entry.last_heartbeat_ms),
        f"{entry.cpu_cores} cores, {entry.cpu_score}",
        f"{entry.memory_gb} GB",
        f"{entry.gpu_name}, {entry.gpu_memory_gb} GB" if entry.gpu_name else "",
        entry.executor if entry.slots else entry.executor_note or "no",
        f"{entry.slots_free}/{entry.slots}",
        str(entry.trust_level),
        entry.owner,
        entry.location,
    )
