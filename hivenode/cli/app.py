"""The root of the command line, where every failure becomes an exit code."""

from __future__ import annotations

import errno
import json
import sys
from typing import Any

import click

from hivenode.cli.cluster import cluster
from hivenode.cli.failures import Exit, exit_of, tell
from hivenode.cli.identity import identity
from hivenode.cli.ledger import ledger
from hivenode.cli.node import node
from hivenode.cli.settings import shared_options
from hivenode.cli.start import start
from hivenode.cli.status import status
from hivenode.cli.task import task
from hivenode.cli.user import user
from hivenode.errors import Code, HiveError


class CommandLine(click.Group):
    """A group that ends the process with the exit codes of `failures.Exit`, in plain text or JSON."""

    def main(self, *args: Any, **extra: Any) -> Any:
        given = args[0] if args else extra.get("args")
        arguments = list(sys.argv[1:] if given is None else given)
        # Looked for by hand, since a line that cannot be parsed must be answered in JSON too.
        as_json = "--json" in arguments
        sys.exit(self._run(extra | {"args": arguments, "standalone_mode": False}, as_json))

    def _run(self, options: dict[str, Any], as_json: bool) -> int:
        try:
            result = super().main(**options)
        except click.UsageError as error:
            if as_json:
                tell(HiveError(Code.INVALID_ARGUMENT, error.format_message()), as_json)
            else:
                error.show()
            return Exit.USAGE
        except HiveError as error:
            tell(error, as_json)
            return exit_of(error)
        except click.Abort:
            click.echo("hivenode: interrupted", err=True)
            return Exit.FAILED
        except OSError as error:
            return _tell_os_error(error, as_json)
        return result if isinstance(result, int) else Exit.DONE


def _tell_os_error(error: OSError, as_json: bool) -> int:
    """A file of this machine that cannot be read or written; not the hive's doing."""
    code = Code.DISK_FULL if error.errno == errno.ENOSPC else Code.INVALID_ARGUMENT
    where = f"{error.filename}: " if error.filename else ""
    tell(HiveError(code, f"{where}{error.strerror or error}"), as_json)
    return Exit.FAILED


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from importlib.metadata import version

    number = version("hivenode")
    click.echo(json.dumps({"version": number}) if "--json" in sys.argv else f"hivenode {number}")
    context.exit()


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show it.")
@shared_options
def cli() -> None:
    """One daemon, the same on every machine, that turns a set of machines into a compute hive."""


for command in (start, status, node, user, task, ledger, cluster, identity):
    cli.add_command(command)
