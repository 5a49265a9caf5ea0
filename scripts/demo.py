"""Three machines, a task, and a leader that dies: the whole of hivenode on one screen, by its own command line alone.

The three daemons are processes of this machine with folders of their own. They find each other by mDNS on loopback, take free
ports, and keep nothing: whatever happens, all processes are ended and all files removed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

ROOT: Final = Path(__file__).resolve().parent.parent
PROGRAM: Final = Path(sys.executable).parent / "hivenode"
TASK: Final = ROOT / "examples" / "primes"
TASK_ID: Final = "primes"
USER: Final = "alice"
NAMES: Final = ("A", "B", "C")
ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

HIVE_DEADLINE_S: Final = 30.0
"""Three machines find each other and agree within six seconds; a busy machine may need longer."""
EXECUTOR_DEADLINE_S: Final = 30.0
"""Each machine builds a small root file system at its first start."""
LEADER_DEADLINE_S: Final = 20.0
TASK_DEADLINE_S: Final = 120.0
"""The task takes some eight seconds, twice that when its machine dies, and more on a slow one."""
COMMAND_DEADLINE_S: Final = 60.0
STOP_DEADLINE_S: Final = 12.0
"""A daemon stops in order within ten seconds."""
POLL_S: Final = 0.2
LINES_BEFORE_THE_KILL: Final = 25
TAIL_LINES: Final = 3
DIED_LINES: Final = 15

Value = TypeVar("Value")


class DemoError(Exception):
    """The demo cannot go on; the message is all that a person needs."""


class CommandError(DemoError):
    """A command was refused or found no daemon, which is no end while one waits for it to be answered."""


@dataclass(slots=True, kw_only=True)
class Machine:
    """One daemon: its name on the screen, its folder, its process."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]
    node_id: str = ""

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def log_tail(self) -> str:
        lines = self.folder.with_suffix(".log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-DIED_LINES:])


@dataclass(slots=True, kw_only=True)
class Demo:
    """The machines and the clean environment that commands run in."""

    folder: Path
    executor: str
    machines: list[Machine] = field(default_factory=list)
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    begun_s: float = field(default_factory=time.monotonic)

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HIVENODE_")}
        own = {
            "HIVENODE_MDNS_GROUP": f"demo-{os.getpid()}",
            "HIVENODE_CONFIG_DIR": self.folder / "config",
            "XDG_CACHE_HOME": self.folder / "cache",
        }
        return clean | {name: str(path) for name, path in own.items()}

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.begun_s:5.1f} s  {text}", flush=True)

    def start_machine(self, name: str) -> None:
        folder = self.folder / name
        loopback = ("--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--mdns-interface", "127.0.0.1")
        command = (PROGRAM, "start", "--role", "auto", "--data-dir", folder, "--executor", self.executor, *loopback)
        with folder.with_suffix(".log").open("ab") as log:
            # A session of its own, so that Ctrl-C reaches this script alone, which then stops all in order.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        self.machines.append(Machine(name=name, folder=folder, process=process))

    def command(self, machine: Machine, *arguments: str, stdin: str = "") -> dict[str, Any]:
        """What a command of `hivenode` answers in JSON, asked at one machine."""
        done = subprocess.run(
            (PROGRAM, "--data-dir", machine.folder, "--json", *arguments),
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=COMMAND_DEADLINE_S,
            check=False,
        )
        try:
            document = json.loads(done.stdout)
        except ValueError:
            document = {"error": {"message": done.stderr.strip() or f"no answer, exit code {done.returncode}"}}
        if not isinstance(document, dict) or "error" in document:
            raise CommandError(f"hivenode {' '.join(arguments)}: {document['error']['message']}")
        return document

    def machine_of(self, node_id: str) -> Machine:
        """Raises DemoError for a machine that this demo did not start, as when two demos run at the same time."""
        for machine in self.machines:
            if machine.node_id == node_id:
                return machine
        raise DemoError(
            f"node {node_id} of somebody else's has joined over this computer's loopback: "
            "end other demos and tests of hivenode first"
        )

    def wait_for(self, what: str, deadline_s: float, look: Callable[[], Value | None]) -> Value:
        """Looks again and again, with all machines alive that should be, until there is something to see."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            for machine in self.machines:
                if not machine.alive:
                    raise DemoError(f"machine {machine.name} died. Its log ends:\n{machine.log_tail()}")
            # Until it is up, a machine answers nothing; that is what is waited for.
            with contextlib.suppress(CommandError):
                if (seen := look()) is not None:
                    return seen
            time.sleep(POLL_S)
        tails = "\n".join(f"--- log of {machine.name} ---\n{machine.log_tail()}" for machine in self.machines)
        raise DemoError(f"{what} did not happen within {deadline_s:.0f} s.\n{tails}")

    def balance(self, machine: Machine) -> int:
        return int(self.command(machine, "ledger", "balance")["balance"])

    def close(self) -> None:
        """Ends every process that was started here, in order where it still can."""
        for number in ENDING_SIGNALS:
            # Whoever asks a second time would only leave something behind.
            signal.signal(number, signal.SIG_IGN)
        for child in self.children:
            child.kill()
            child.wait()
        for machine in self.machines:
            if machine.alive:
                machine.process.terminate()
        for machine in self.machines:
            try:
                machine.process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                machine.process.kill()
                machine.process.wait()


def one_hive(demo: Demo) -> tuple[Machine, dict[str, Any]] | None:
    """The leader and its report, once all machines name the same hive, leader and voters."""
    reports = {machine.name: demo.command(machine, "status") for machine in demo.machines}
    for machine in demo.machines:
        machine.node_id = reports[machine.name]["node_id"]
    agreed = {(report["hive_id"], report["leader_node_id"]) for report in reports.values()}
    leader_id = next(iter(agreed))[1]
    if len(agreed) != 1 or not leader_id:
        return None
    for member in reports[demo.machines[0].name]["members"]:
        demo.machine_of(member["node_id"])
    leader = demo.machine_of(leader_id)
    voters = [member for member in reports[leader.name]["members"] if member["voter"] and member["alive"]]
    return (leader, reports[leader.name]) if len(voters) == len(demo.machines) else None


def new_leader(demo: Demo) -> Machine | None:
    report = demo.command(demo.machines[0], "status")
    alive = [machine for machine in demo.machines if machine.node_id == report["leader_node_id"]]
    return alive[0] if alive else None


def usable_executor(demo: Demo) -> str | None:
    """What runs tasks, once every machine has tried it; None while one is still trying."""
    reports = [demo.command(machine, "status") for machine in demo.machines]
    if any("still" in report["executor_note"] and not report["executor"] for report in reports):
        return None
    usable = {report["executor"] for report in reports} - {"", "none"}
    if not usable:
        note = reports[0]["executor_note"] or "no executor is usable"
        raise DemoError(f"no machine can run tasks: {note}\nWith a Docker engine: scripts/demo.py --executor docker")
    return ", ".join(sorted(usable))


def form_hive(demo: Demo) -> tuple[Machine, Machine]:
    """Starts the machines; returns leader and one follower."""
    for name in NAMES:
        demo.start_machine(name)
    demo.say(f"machines {', '.join(NAMES)} start: hivenode start --role auto")
    leader, report = demo.wait_for("one hive with three voters", HIVE_DEADLINE_S, lambda: one_hive(demo))
    follower = next(machine for machine in demo.machines if machine is not leader)
    demo.say(f"one hive {report['hive_id'][:12]}: {len(NAMES)} voters, leader {leader.name} in term {report['term']}")
    executor = demo.wait_for("a trial of what runs tasks", EXECUTOR_DEADLINE_S, lambda: usable_executor(demo))
    demo.say(f"tasks run in: {executor}")
    return leader, follower


def submit(demo: Demo, follower: Machine) -> int:
    """Registers a user and submits the task, all through a follower; returns the user's CPT before it."""
    password = secrets.token_urlsafe(12) + "\n"
    demo.command(follower, "user", "register", USER, stdin=password)
    demo.command(follower, "user", "login", USER, stdin=password)
    before = demo.balance(follower)
    demo.say(f"{USER} registers and logs in through follower {follower.name}: {before} CPT")
    accepted = demo.command(follower, "task", "run", str(TASK), "--id", TASK_ID)
    held, copies = accepted["cpt_held"], accepted["copies"]
    demo.say(f"{follower.name} accepts task {TASK_ID}: {held} CPT held, its data on {copies} machines")
    return before


def kill_leader_while_it_runs(demo: Demo, leader: Machine, follower: Machine) -> tuple[subprocess.Popen[bytes], Path]:
    """Follows the log through `follower` and kills the leader in the middle; returns what goes on following, and its log."""
    path = demo.folder / "followed.txt"
    with path.open("wb") as log:
        command = (PROGRAM, "--data-dir", follower.folder, "task", "logs", "-f", TASK_ID)
        following = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=demo.environment)
    demo.children.append(following)

    def far_enough() -> bool | None:
        if following.poll() is not None:
            raise DemoError(f"the task ended before its time:\n{path.read_text(errors='replace')}")
        return True if path.read_bytes().count(b"\n") >= LINES_BEFORE_THE_KILL else None

    demo.wait_for("the task's first lines", TASK_DEADLINE_S, far_enough)
    detail = demo.command(follower, "task", "status", TASK_ID)
    runner = demo.machine_of(detail["node_id"])
    demo.say(f"{runner.name} runs it: {detail['state']}, {path.read_bytes().count(bytes([10]))} lines so far")
    leader.process.kill()
    leader.process.wait()
    demo.machines.remove(leader)
    killed_s = time.monotonic()
    fate = "the task was on it and starts again elsewhere" if runner is leader else f"{runner.name} works on"
    demo.say(f"leader {leader.name} is killed (SIGKILL): {fate}")
    heir = demo.wait_for("a new leader", LEADER_DEADLINE_S, lambda: new_leader(demo))
    demo.say(f"new leader {heir.name}, seen {time.monotonic() - killed_s:.1f} s after the kill")
    return following, path


def show_end(demo: Demo, follower: Machine, following: subprocess.Popen[bytes], path: Path, before: int) -> bool:
    """Waits for the end; prints the log's tail, the result and the balances; whether all is as it must be."""
    try:
        following.wait(TASK_DEADLINE_S)
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"the task did not end within {TASK_DEADLINE_S:.0f} s") from error
    detail = demo.command(follower, "task", "status", TASK_ID)
    runner = demo.machine_of(detail["node_id"]).name
    demo.say(
        f"task {TASK_ID}: {detail['state']}, exit code {detail['exit_code']}, attempt {detail['attempt']} on {runner}"
    )
    logs = demo.command(follower, "task", "logs", TASK_ID)["logs"].splitlines()
    print(f"\n  log, last {TAIL_LINES} of {len(logs)} lines:")
    for line in logs[-TAIL_LINES:]:
        print(f"    {line}")
    if detail["state"] != "COMPLETED":
        print(f"  {detail['note']}\n  the log as followed ends:")
        print("\n".join(path.read_text(errors="replace").splitlines()[-TAIL_LINES:]))
        return False
    result = demo.folder / "result"
    print("  result:")
    for name in demo.command(follower, "task", "result", TASK_ID, "--output", str(result))["output"]:
        print(f"    {name:22} {(result / name).stat().st_size:9,} bytes")
    return show_balances(demo, follower, detail["cpt_paid"], before)


def show_balances(demo: Demo, follower: Machine, paid: int, before: int) -> bool:
    """Prints the money's way; whether none was lost or made."""
    after = demo.balance(follower)
    right = after + paid == before
    print(f"  {USER}: {before} CPT before, {after} after, {paid} paid to the worker")
    print(f"  the sum is unchanged: {after} + {paid} = {before}\n" if right else "  THE SUM HAS CHANGED\n", flush=True)
    return right


def bring_back(demo: Demo, leader: Machine) -> None:
    """Starts the killed machine again on its own data: it rejoins, and clears away what its sudden end left on this computer."""
    demo.start_machine(leader.name)
    back = demo.machines[-1]

    def rejoined() -> Machine | None:
        report = demo.command(back, "status")
        following = report["leader_node_id"] and report["hive_id"] and report["applied_index"] >= report["commit_index"]
        return back if following and report["executor"] else None

    demo.wait_for(f"the return of {leader.name}", HIVE_DEADLINE_S, rejoined)
    head = demo.command(demo.machines[0], "status")["ledger_height"]
    same = demo.wait_for("the same ledger", HIVE_DEADLINE_S, lambda: height_at(demo, back, head))
    demo.say(f"{leader.name} is started again, and back with all that happened: ledger height {same}")


def height_at(demo: Demo, machine: Machine, height: int) -> int | None:
    """The ledger's height at a machine, once it is not below `height`."""
    here = int(demo.command(machine, "status")["ledger_height"])
    return here if here >= height else None


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder that goes away whatever tasks have made of its modes."""
    folder = Path(tempfile.mkdtemp(prefix="hivenode-demo-"))
    try:
        yield folder
    finally:
        for path, names, _ in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    os.chmod(Path(path) / name, 0o700, follow_symlinks=False)
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            print(f"could not remove all of {folder}", file=sys.stderr)


def run(executor: str) -> int:
    with own_folder() as folder:
        demo = Demo(folder=folder, executor=executor)
        try:
            leader, follower = form_hive(demo)
            before = submit(demo, follower)
            following, path = kill_leader_while_it_runs(demo, leader, follower)
            done = show_end(demo, follower, following, path, before)
            bring_back(demo, leader)
        except DemoError as error:
            print(f"demo: {error}", file=sys.stderr)
            done = False
        finally:
            demo.close()
        orderly = all(machine.process.returncode == 0 for machine in demo.machines)
        rest = ", ".join(f"{machine.name} exit {machine.process.returncode}" for machine in demo.machines)
        demo.say(f"all are stopped (SIGTERM): {rest}; nothing is left behind")
    print("COMPLETED" if done and orderly else "NOT COMPLETED")
    return 0 if done and orderly else 1


def interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    # Not auto: a machine that is killed would leave its container in an engine that is not ours.
    parser.add_argument("--executor", default="sandbox" if sys.platform == "linux" else "auto")
    options = parser.parse_args()
    for number in ENDING_SIGNALS:
        signal.signal(number, interrupt)
    try:
        code = run(options.executor)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
