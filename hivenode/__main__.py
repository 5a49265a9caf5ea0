"""Entry of `hivenode` and `python -m hivenode`."""

from __future__ import annotations

from hivenode.cli.app import cli


def main() -> None:
    """Runs the command line; ends the process with the exit code of `hivenode.cli.failures`."""
    cli.main(prog_name="hivenode")


if __name__ == "__main__":
    main()
