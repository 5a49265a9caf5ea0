"""`python -m simulations run | replay | sweep | scenario | teeth | scale | list`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from simulations import mutants, picture, scale, scenarios, sweep
from simulations.checkers.violation import Violation
from simulations.engine import HOUR, SECOND
from simulations.marks import Mark, kept
from simulations.run import Plan, Result, run

SWEEP_DEADLINE_S: Final = 7 * 86_400
"""Nobody waits longer than a week for any sweep."""
TERMINATED: Final = 128 + signal.SIGTERM


def _plan(arguments: argparse.Namespace, seed: int) -> Plan:
    return Plan(seed=seed, nodes=arguments.nodes, duration_us=int(arguments.hours * HOUR), faults=arguments.faults)


def _show(result: Result, elapsed_s: float) -> None:
    speed = f"{result.events / elapsed_s:,.0f} events/s, {result.node_hours / elapsed_s * 60:.1f} node-hours/min"
    print(f"{result.summary()}, {speed}", flush=True)
    if result.failure:
        for line in result.last_lines:
            print(f"    {line}")
        print(f"  {result.failure}")
        print(f"  again: {result.plan.command()}", flush=True)


@contextlib.contextmanager
def _pictured(arguments: argparse.Namespace, title: list[str]) -> Iterator[None]:
    """Draws what runs inside the block, if that is wanted, also when it fails; `title` is read at the end."""
    if arguments.picture is None:
        yield
        return
    marks: list[Mark] = []
    try:
        with kept() as marks:
            yield
    finally:
        window_us = (int(arguments.begin * SECOND), None if arguments.end is None else int(arguments.end * SECOND))
        end_us = max((mark.at_us for mark in marks), default=0)
        drawn = picture.draw(marks, "\n".join(title), end_us=end_us, window_us=window_us)
        Path(arguments.picture).write_text(drawn, encoding="utf-8", newline="\n")


def _run(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    plan = _plan(arguments, arguments.seed)
    title = [plan.command()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_pictured(arguments, title))
        trace = None
        if arguments.trace is not None:
            trace = stack.enter_context(Path(arguments.trace).open("w", encoding="utf-8", newline="\n"))
        result = run(plan, trace)
        title += [result.summary(), *result.failure.splitlines()[-1:]]
    _show(result, time.monotonic() - began)
    return 1 if result.failure else 0


def _sweep(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    plans = [_plan(arguments, seed) for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)]
    total = sweep.Total()
    # A sweep that is told to end takes its processes with it.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(TERMINATED))
    for result, processor_s in sweep.results(plans, arguments.jobs, SWEEP_DEADLINE_S):
        _show(result, processor_s)
        total.add(result, processor_s)
    print(total.summary(time.monotonic() - began))
    return 1 if total.failed else 0


def _scenario(arguments: argparse.Namespace) -> int:
    chosen = sorted(scenarios.ALL) if arguments.name == "all" else [arguments.name]
    if arguments.picture is not None and len(chosen) > 1:
        print("a picture is of one scenario", file=sys.stderr)
        return 2
    for name in chosen:
        began = time.monotonic()
        title = [f"python -m simulations scenario {name} --seed {arguments.seed}", _first_line(name)]
        with _pictured(arguments, title):
            try:
                said = scenarios.ALL[name](arguments.seed)
            except Violation as violation:
                title.append(f"FAILED: {violation}")
                raise
            title.append(said)
        print(f"{name}: {said}, {time.monotonic() - began:.1f} s", flush=True)
    return 0


def _first_line(name: str) -> str:
    return (scenarios.ALL[name].__doc__ or "").strip().splitlines()[0]


def _teeth(arguments: argparse.Namespace) -> int:
    names = list(mutants.ALL) if arguments.name == "all" else [arguments.name]
    missed = 0
    print(f"{'bug':32} {'seeds':>5} {'CPU s':>7}  found by")
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for future in as_completed([pool.submit(mutants.bite, name, seeds_max=arguments.seeds) for name in names]):
            found = future.result()
            missed += not found.seeds
            seeds = str(found.seeds) if found.seeds else f">{arguments.seeds}"
            by = f"{found.where}: {found.failure[:120]}" if found.seeds else "nothing"
            print(f"{found.name:32} {seeds:>5} {found.cpu_s:7.1f}  {by}", flush=True)
            if found.broke:
                print(f"{'':47} besides, {found.broke[:120]}", flush=True)
    print(f"{len(names)} bugs, {missed} not found; at most {arguments.seeds} seeds each")
    return 1 if missed else 0


def _scale(arguments: argparse.Namespace) -> int:
    print(scale.HEADING)
    plays: list[scale.Play] = []
    for nodes in arguments.nodes:
        plays.append(scale.Play(nodes, arguments.seed))
        print(scale.report(plays[-1]), flush=True)
    scale.check_growth(plays)
    return 0


def _list(_arguments: argparse.Namespace) -> int:
    for name in sorted(scenarios.ALL):
        print(f"{name:28} {_first_line(name)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulations", description="The hive in virtual time.")
    commands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--nodes", type=int, default=5)
    common.add_argument("--hours", type=float, default=1.0, help="of virtual time, with faults")
    common.add_argument("--faults", default="all", help="all, none, or names with commas between them")
    drawing = argparse.ArgumentParser(add_help=False)
    drawing.add_argument("--picture", help="an SVG file for the picture of what happened")
    drawing.add_argument("--from", dest="begin", type=float, default=0.0, help="seconds at which the picture begins")
    drawing.add_argument("--to", dest="end", type=float, help="seconds at which it ends")
    for name in ("run", "replay"):
        one = commands.add_parser(
            name, parents=[common, drawing], help="one run" if name == "run" else "the same run again"
        )
        one.add_argument("--seed", type=int, required=True)
        one.add_argument("--trace", help="a file for every line, those of each message too")
        one.set_defaults(call=_run)
    many = commands.add_parser("sweep", parents=[common], help="many runs, on all cores")
    many.add_argument("--seeds", type=int, default=10)
    many.add_argument("--first-seed", type=int, default=1)
    many.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    many.set_defaults(call=_sweep)
    scenario = commands.add_parser("scenario", parents=[drawing], help="one scenario, or all")
    scenario.add_argument("name", choices=[*sorted(scenarios.ALL), "all"])
    scenario.add_argument("--seed", type=int, default=1)
    scenario.set_defaults(call=_scenario)
    teeth = commands.add_parser("teeth", help="bugs put in on purpose, and how many seeds it takes to find each")
    teeth.add_argument("name", nargs="?", default="all", choices=[*sorted(mutants.ALL), "all"])
    teeth.add_argument("--seeds", type=int, default=mutants.SEEDS_MAX)
    teeth.add_argument("--jobs", type=int, default=2)
    teeth.set_defaults(call=_teeth)
    large = commands.add_parser("scale", help="hives of many machines, and what a node of them costs")
    large.add_argument("nodes", nargs="*", type=int, default=list(scale.SIZES))
    large.add_argument("--seed", type=int, default=1)
    large.set_defaults(call=_scale)
    commands.add_parser("list", help="the scenarios").set_defaults(call=_list)
    return parser


def main() -> int:
    arguments = _parser().parse_args()
    sweep.spare_garbage()
    status: int = arguments.call(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
