"""`hivenode start`: runs the daemon in the foreground until it is told to stop."""

from __future__ import annotations

import gc
import os
from typing import Any, Final

import click

from hivenode.cli.output import print_json
from hivenode.cli.settings import current_settings, shared_options

_ROLES: Final = ("auto", "pool", "worker", "master")
_TRUST: Final = ("lan", "token", "approve")
_EXECUTORS: Final = ("auto", "docker", "sandbox", "process", "none")
_LEVELS: Final = ("debug", "info", "warning", "error")


@click.command()
@click.option("--role", type=click.Choice(_ROLES), help="What this machine does; auto does all that it can.")
@click.option("--listen", metavar="HOST:PORT", help="The API for programs of this machine; port 0 takes a free one.")
@click.option("--peer-listen", metavar="HOST:PORT", help="Other machines call here; port 0 takes a free one.")
@click.option("--advertise", metavar="HOST:PORT", multiple=True, help="Address to tell others, as behind a forward.")
@click.option("--bootstrap", metavar="HOST:PORT", multiple=True, help="A peer to try besides mDNS; repeatable.")
@click.option("--mdns-interface", metavar="IP", multiple=True, help="Use mDNS on this address only; repeatable.")
@click.option("--no-mdns", is_flag=True, help="Neither announce nor look on the local network.")
@click.option("--trust", type=click.Choice(_TRUST), help="Who may join a hive that this machine forms.")
@click.option("--executor", type=click.Choice(_EXECUTORS), help="What runs tasks; process has no isolation.")
@click.option("--docker-host", metavar="URL", help="The Docker engine, instead of DOCKER_HOST or the usual socket.")
@click.option("--slots", type=int, help="Tasks that run at once; 0 takes two for each core.")
@click.option("--location", help="What the machine says of its place, as Asia/Taipei.")
@click.option("--insecure", is_flag=True, help="Allow the plain-text API on an address that is not loopback.")
@click.option("--log-level", type=click.Choice(_LEVELS), help="Least level that is logged.")
@shared_options
def start(mdns_interface: tuple[str, ...], no_mdns: bool, insecure: bool, **flags: Any) -> None:
    """Run this machine's daemon. All settings but these come from HIVENODE_* or config.toml in the data directory."""
    from hivenode.config import load_config
    from hivenode.errors import HiveError

    settings = current_settings()
    # A flag that was not given must not hide the environment or the file, so empty ones are left out.
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    try:
        config = load_config(
            **given,
            data_dir=settings.data_dir,
            mdns_interfaces=mdns_interface or None,
            mdns=False if no_mdns else None,
            insecure=True if insecure else None,
        )
    except HiveError as error:
        raise click.UsageError(error.message) from error

    # gRPC reads this when it is imported. The daemon starts programs but never forks to go on in the child, and the
    # handlers for that would only print a warning at each task.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # Thousands of objects are made by importing, and none is garbage: looking for some would take a tenth of the start.
    gc.disable()
    from hivenode.daemon import run

    gc.enable()
    code = run(config)
    if settings.json:
        print_json({"exit_code": code})
    click.get_current_context().exit(code)
