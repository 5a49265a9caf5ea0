"""`hivenode task`: submit programs, follow them, fetch what they made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hivenode.cli.failures import Exit
from hivenode.cli.output import (
    LogOutput,
    ago,
    plain_values,
    print_fields,
    print_json,
    print_table,
    printable,
    say,
    short,
)
from hivenode.cli.settings import INT32_MAX, Settings, current_settings, shared_options

if TYPE_CHECKING:
    from hivenode.cli.peer import Peer
    from hivenode.pb import hive_pb2

_PRIORITIES: Final = ("normal", "high", "urgent")
_OUTPUT: Final = click.Path(path_type=Path)


@click.group()
@shared_options
def task() -> None:
    """Submit programs, follow them, fetch what they made."""


def _needs(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a task may ask of a machine."""
    for option in (
        click.option("--gpu-name", default="", metavar="NAME", help="The GPU must be called so."),
        click.option("--location", default="", metavar="PLACE", help="The machine must be there."),
        click.option("--gpu-memory-gb", type=click.IntRange(min=0, max=INT32_MAX), default=0, help="Least GPU memory."),
        click.option("--gpu-score", type=click.IntRange(min=0, max=INT32_MAX), default=0, help="Least GPU score."),
        click.option("--cpu-score", type=click.IntRange(min=0, max=INT32_MAX), default=0, help="Least CPU score."),
        click.option("--memory-gb", type=click.IntRange(min=0, max=INT32_MAX), default=0, help="Least memory."),
    ):
        command = option(command)
    return command


@task.command("run")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--wait", is_flag=True, help="Follow the log and end with the task: exit 0 only when COMPLETED.")
@click.option("--id", "task_id", default="", metavar="ID", help="Name of the task; made up when left out.")
@click.option("--priority", type=click.Choice(_PRIORITIES), default="normal", show_default=True)
@_needs
@click.option(
    "--time-limit", type=click.IntRange(min=1, max=INT32_MAX), metavar="SECONDS", help="How long it may run (300)."
)
@click.option("--after", multiple=True, metavar="ID", help="Wait until this task has completed; repeatable.")
@click.option(
    "--retries", type=click.IntRange(min=0, max=INT32_MAX), help="How often it runs again when the hive loses it (3)."
)
@click.option("--output", type=_OUTPUT, help="With --wait: unpack the result here, or save it if it ends in .zip.")
@shared_options
def run_task(
    path: Path, wait: bool, task_id: str, time_limit: int | None, retries: int | None, output: Path | None, **asked: Any
) -> None:
    """Submit PATH: a Python script, a ZIP, or a folder with a main.py."""
    from hivenode.cli.packing import check_script
    from hivenode.cli.peer import connect
    from hivenode.cli.transfers import check_output, upload
    from hivenode.pb import hive_pb2

    if output is not None and not wait:
        raise click.UsageError("--output goes with --wait; `hivenode task result ID --output DIR` fetches it later")
    settings = current_settings()
    check_output(output)
    check_script(path)
    options = hive_pb2.TaskOptions(
        dependencies=asked.pop("after"), time_limit_s=time_limit or 0, retries=retries, **asked
    )
    with connect(settings) as peer:
        peer.log_in()
        accepted = upload(peer, path, task_id, options)
        if wait:
            _tell_accepted(accepted, to_stderr=True)
            _wait(peer, settings, accepted, output)
        elif settings.json:
            print_json(plain_values(accepted))
        else:
            _tell_accepted(accepted, to_stderr=False)
            say(f"follow it with `hivenode task logs -f {accepted.task_id}`")


def _tell_accepted(accepted: hive_pb2.UploadTaskStreamResponse, to_stderr: bool) -> None:
    copies = "1 copy" if accepted.copies == 1 else f"{accepted.copies} copies"
    text = f"{accepted.task_id} accepted · {accepted.cpt_held} CPT held · {copies} of its data"
    say(printable(text), err=to_stderr)


def _wait(peer: Peer, settings: Settings, accepted: hive_pb2.UploadTaskStreamResponse, output: Path | None) -> None:
    """Follows the task to its end; ends the command with 1 unless it completed."""
    from hivenode.cli.transfers import save_result

    task_id = accepted.task_id
    try:
        # stdout is the document's alone in JSON, so the log goes where people look.
        detail = _follow(peer, task_id, to_stderr=settings.json)
    except KeyboardInterrupt:
        say(f"{task_id} goes on: follow it with `hivenode task logs -f {task_id}`", err=True)
        raise
    saved = save_result(peer, task_id, output) if output is not None and detail.result_bytes else []
    if settings.json:
        print_json(plain_values(accepted) | {"task": plain_values(detail), "output": saved})
    else:
        say(_state_line(detail), err=True)
        if output is not None:
            say(f"{len(saved)} files in {output}" if saved else "there is no result", err=True)
    _end_with(detail)


def _follow(peer: Peer, task_id: str, to_stderr: bool) -> hive_pb2.TaskDetail:
    from hivenode.cli.watching import Watch

    log = LogOutput(sys.stderr if to_stderr else sys.stdout)
    try:
        return Watch(peer, task_id, log.write, lambda note: say(printable(note), err=True)).run()
    finally:
        log.end()


def _end_with(detail: hive_pb2.TaskDetail) -> None:
    click.get_current_context().exit(Exit.DONE if detail.state == "COMPLETED" else Exit.FAILED)


def _state_line(detail: hive_pb2.TaskDetail) -> str:
    parts = [f"{detail.task_id} {detail.state}"]
    if detail.HasField("exit_code"):
        parts.append(f"exit code {detail.exit_code}")
    if detail.started_ms and detail.ended_ms:
        parts.append(f"ran {(detail.ended_ms - detail.started_ms) / 1000:.1f} s on {short(detail.node_id)}")
    if detail.ended_ms:
        parts.append(f"{detail.cpt_paid} CPT paid")
    return printable(" · ".join([*parts, detail.note] if detail.note else parts))


@task.command("ls")
@shared_options
def list_tasks() -> None:
    """List your tasks, the newest first."""
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        peer.log_in()
        tasks = peer.call(f"{HIVE}ListTasks", hive_pb2.ListTasksRequest(), hive_pb2.ListTasksResponse).tasks
    if settings.json:
        print_json({"tasks": [plain_values(detail) for detail in tasks]})
        return
    columns = ("TASK", "STATE", "SUBMITTED", "PRIORITY", "NODE", "PAID", "NOTE")
    print_table(columns, [_row(detail) for detail in tasks])


def _row(detail: hive_pb2.TaskDetail) -> tuple[str, ...]:
    return (
        detail.task_id,
        detail.state,
        ago(detail.submitted_ms),
        detail.priority,
        short(detail.node_id),
        f"{detail.cpt_paid} CPT" if detail.ended_ms else f"{detail.cpt_held} CPT held",
        detail.note,
    )


@task.command("status")
@click.argument("task_id")
@shared_options
def task_status(task_id: str) -> None:
    """Tell where a task stands, and why."""
    from hivenode.cli.peer import connect
    from hivenode.cli.watching import task_detail

    settings = current_settings()
    with connect(settings) as peer:
        peer.log_in()
        detail = task_detail(peer, task_id)
    if settings.json:
        print_json(plain_values(detail))
        return
    print_fields(
        [
            ("task", _state_line(detail)),
            ("submitted", ago(detail.submitted_ms)),
            ("started", ago(detail.started_ms)),
            ("ended", ago(detail.ended_ms)),
            ("node", detail.node_id and f"{detail.node_id}, attempt {detail.attempt}"),
            ("after", ", ".join(detail.dependencies)),
            ("cost", f"{detail.cost_per_minute} CPT a minute · {detail.cpt_held} held · {detail.cpt_paid} paid"),
            ("limit", f"{detail.time_limit_s} s · priority {detail.priority}"),
            ("sizes", f"data {detail.data_bytes} · log {detail.log_bytes} · result {detail.result_bytes} bytes"),
        ]
    )


@task.command("logs")
@click.argument("task_id")
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended; exit 0 only when COMPLETED.")
@shared_options
def task_logs(task_id: str, follow: bool) -> None:
    """Print what a task has written to stdout and stderr."""
    from hivenode.cli.peer import MASTER, connect
    from hivenode.pb import nodepool_pb2

    settings = current_settings()
    with connect(settings) as peer:
        peer.log_in()
        detail = _follow(peer, task_id, to_stderr=settings.json) if follow else None
        text = ""
        if settings.json or not follow:
            request = nodepool_pb2.GetTaskLogsRequest(task_id=task_id)
            text = peer.call(f"{MASTER}GetTaskLogs", request, nodepool_pb2.GetTaskLogsResponse).logs
    if settings.json:
        print_json({"task_id": task_id, "logs": text} | ({"task": plain_values(detail)} if detail else {}))
    elif detail is None:
        say(text, nl=bool(text) and not text.endswith("\n"))
    else:
        say(_state_line(detail), err=True)
    if detail is not None:
        _end_with(detail)


@task.command("stop")
@click.argument("task_id")
@shared_options
def stop_task(task_id: str) -> None:
    """Stop a task. The minutes it ran are paid, the rest of what was held comes back."""
    from hivenode.cli.peer import MASTER, connect
    from hivenode.cli.watching import task_detail
    from hivenode.pb import nodepool_pb2

    settings = current_settings()
    with connect(settings) as peer:
        peer.log_in()
        peer.call(f"{MASTER}StopTask", nodepool_pb2.StopTaskRequest(task_id=task_id), nodepool_pb2.StopTaskResponse)
        detail = task_detail(peer, task_id)
    if settings.json:
        print_json(plain_values(detail))
    else:
        say(_state_line(detail))


@task.command("result")
@click.argument("task_id")
@click.option("--output", type=_OUTPUT, help="Folder to unpack into, or a name ending in .zip (default: ID.zip).")
@shared_options
def task_result(task_id: str, output: Path | None) -> None:
    """Fetch what a task made, checked against the hash that the hive agreed on."""
    from hivenode.cli.peer import connect
    from hivenode.cli.transfers import check_output, save_result

    settings = current_settings()
    target = output if output is not None else Path(f"{task_id.replace('/', '_')}.zip")
    check_output(target)
    with connect(settings) as peer:
        peer.log_in()
        files = save_result(peer, task_id, target)
    if settings.json:
        print_json({"task_id": task_id, "output": files})
    elif target.suffix == ".zip":
        say(f"saved {target}")
    else:
        say("\n".join(printable(f"{target}/{name}") for name in files))
