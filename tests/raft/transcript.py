"""Transcripts: a file of commands to a network and what they print, in the style of etcd's datadriven tests.

A case is a command line, `----`, and the lines that it prints up to an empty line. Lines that begin with `#` are comments.
Every message that is sent during a command is printed, and `->` becomes `-x` where it was lost at a cut. Then comes what
the command itself has to say.

| command | what it does |
|---|---|
| `cluster voters=a,b [learners=c] [others=d] [pre-vote=off]` | starts members; others know no configuration |
| `preset a terms=1,1,2 term=2` | gives a member this log and term, and restarts it |
| `campaign a`, `lost a`, `transfer a b`, `read a name`, `propose a x y` | what `RawNode` calls so |
| `conf a [voters=..] [learners=..] [remove=..]` | proposes a change of the configuration |
| `ready a` | carries out one Ready and prints it |
| `deliver a` | hands over the messages that wait for a member |
| `settle` | delivers and carries out until nothing is left to do |
| `run 500 [quiet]` | lets so many ms pass; quiet prints no heartbeats |
| `lose snapshot` | from now on messages that print so are lost, until `heal` |
| `isolate a b`, `heal`, `crash a`, `start a`, `compact a [keep=2]` | what happens to wires, machines and logs |
| `log a`, `status [a b]` | prints a member's log, or its state |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from hivenode.consensus import (
    AppendRequest,
    AppendResponse,
    ConfChange,
    ConfState,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    MemberId,
    Message,
    ProposalDropped,
    RaftConfig,
    ReadDropped,
    ReadIndexRequest,
    ReadIndexResponse,
    Ready,
    SnapshotOffer,
    SnapshotStatus,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    decode_conf_change,
)
from tests.raft.network import Network, ids, preset


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One command and what it printed."""

    comments: tuple[str, ...]
    command: str
    expected: tuple[str, ...]


def read_cases(path: Path) -> list[Case]:
    """Reads a transcript file."""
    cases: list[Case] = []
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    comments: list[str] = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            comments.append(line)
            continue
        separator = next(lines, "")
        assert separator == "----", f"{path.name}: `{line}` is not followed by ----"
        expected = tuple(_until_empty(lines))
        cases.append(Case(comments=tuple(comments), command=line, expected=expected))
        comments = []
    return cases


def _until_empty(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line.strip():
            return
        yield line


def write_cases(path: Path, cases: list[Case]) -> None:
    """Writes a transcript file anew."""
    out: list[str] = []
    for case in cases:
        out += [*case.comments, case.command, "----", *case.expected, ""]
    path.write_text("\n".join(out).rstrip("\n") + "\n", encoding="utf-8")


def show_entry(entry: Entry) -> str:
    data = show_change(decode_conf_change(entry.data)) if entry.kind is EntryKind.CONF_CHANGE else entry.data.decode()
    return f"{entry.index}/{entry.term}" + (f":{data}" if data else "")


def show_change(change: ConfChange) -> str:
    if change.leaves_joint:
        return "leave-joint"
    signs = [("+", change.add_voters), ("~", change.add_learners), ("-", change.remove)]
    return "".join(sign + name for sign, names in signs for name in names)


def show_conf(conf: ConfState) -> str:
    text = ",".join(sorted(conf.voters))
    if conf.is_joint:
        text += "&" + ",".join(sorted(conf.voters_outgoing))
    for label, names in (("learners", conf.learners), ("next", conf.learners_next)):
        if names:
            text += f" {label}=" + ",".join(sorted(names))
    return f"({text})"


def show(message: Message) -> str:
    """A message without its addresses, on one line."""
    term = f"term={message.term}"
    match message:
        case VoteRequest():
            name = "pre-vote?" if message.pre_vote else "vote?"
            transfer = " transfer" if message.transfer else ""
            return f"{name} {term} last={message.last_index}/{message.last_term}{transfer}"
        case VoteResponse():
            name = "pre-vote" if message.pre_vote else "vote"
            return f"{name}-{'granted' if message.granted else 'refused'} {term}"
        case AppendRequest():
            entries = " ".join(show_entry(entry) for entry in message.entries)
            text = f"append {term} prev={message.prev_index}/{message.prev_term} commit={message.commit}"
            return f"{text} [{entries}]" if entries else text
        case AppendResponse() if message.reject:
            return f"append-rejected {term} index={message.index} hint={message.hint_index}/{message.hint_term}"
        case AppendResponse():
            return f"append-accepted {term} index={message.index}"
        case Heartbeat():
            return f"heartbeat {term} commit={message.commit}" + (
                f" round={message.context[-1]}" if message.context else ""
            )
        case HeartbeatResponse():
            return f"heartbeat-ok {term}" + (f" round={message.context[-1]}" if message.context else "")
        case SnapshotOffer():
            meta = message.snapshot.meta
            return f"snapshot {term} at={meta.index}/{meta.term} conf={show_conf(meta.conf)}"
        case SnapshotStatus():
            return f"snapshot-{'ok' if message.ok else 'failed'} {term}"
        case TimeoutNow():
            return f"timeout-now {term}"
        case ReadIndexRequest():
            return f"read? {term} name={message.context.decode()}"
        case ReadIndexResponse():
            return f"read {term} name={message.context.decode()} index={message.index}"
        case _:
            assert_never(message)


class Transcript:
    """Carries out commands and tells what they print."""

    def __init__(self) -> None:
        self.net = Network(ConfState())
        self.quiet = False
        self.out: list[str] = []

    def run(self, command: str) -> tuple[str, ...]:
        """Carries out one command line."""
        words = command.split()
        options = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        names = [word for word in words[1:] if "=" not in word]
        handler: Callable[[list[str], dict[str, str]], None] = getattr(self, "do_" + words[0].replace("-", "_"))
        self.out, self.quiet = [], "quiet" in names
        try:
            handler(names, options)
        except (ProposalDropped, ReadDropped) as refusal:
            self.out.append(f"refused: {refusal.reason.value}")
        return tuple(self.out)

    def _watch(self, message: Message) -> None:
        if not (self.quiet and isinstance(message, Heartbeat | HeartbeatResponse)):
            lost = (message.from_, message.to) in self.net.cut or self.net.drop(message)
            arrow = "-x" if lost else "->"
            self.out.append(f"{message.from_} {arrow} {message.to} {show(message)}")

    def do_cluster(self, names: list[str], options: dict[str, str]) -> None:
        members = {key: ids(*value.split(",")) for key, value in options.items() if key != "pre-vote"}
        pre_vote = options.get("pre-vote") != "off"

        def configure(config: RaftConfig) -> RaftConfig:
            return replace(config, pre_vote=pre_vote)

        conf = ConfState(voters=frozenset(members["voters"]), learners=frozenset(members.get("learners", ())))
        self.net = Network(conf, others=members.get("others", ()), configure=configure)
        self.net.watch = self._watch

    def do_preset(self, names: list[str], options: dict[str, str]) -> None:
        terms = [int(term) for term in options["terms"].split(",") if term]
        preset(
            self.net.nodes[MemberId(names[0])], terms, term=int(options["term"]), commit=int(options.get("commit", "0"))
        )
        self.net.start(names[0])

    def do_campaign(self, names: list[str], options: dict[str, str]) -> None:
        self.net.raw(names[0]).campaign()

    def do_lost(self, names: list[str], options: dict[str, str]) -> None:
        self.net.raw(names[0]).leader_lost()

    def do_transfer(self, names: list[str], options: dict[str, str]) -> None:
        self.net.raw(names[0]).transfer_leader(MemberId(names[1]))

    def do_read(self, names: list[str], options: dict[str, str]) -> None:
        self.net.raw(names[0]).read_index(names[1].encode())

    def do_propose(self, names: list[str], options: dict[str, str]) -> None:
        for data in names[1:]:
            self.out.append(f"index {self.net.raw(names[0]).propose(data.encode())}")

    def do_conf(self, names: list[str], options: dict[str, str]) -> None:
        picked = {key: ids(*value.split(",")) for key, value in options.items()}
        change = ConfChange(
            add_voters=picked.get("voters", ()),
            add_learners=picked.get("learners", ()),
            remove=picked.get("remove", ()),
        )
        self.out.append(f"index {self.net.raw(names[0]).propose_conf_change(change)}")

    def do_ready(self, names: list[str], options: dict[str, str]) -> None:
        name = MemberId(names[0])
        if not self.net.raw(name).has_ready():
            self.out.append("no ready")
            return
        ready = self.net.persist(name)
        self.out += self._show_ready(ready)
        self.net.finish(name, ready)

    def _show_ready(self, ready: Ready) -> list[str]:
        lines = []
        if ready.soft_state is not None:
            lines.append(f"role: {ready.soft_state.role.value}, leader {ready.soft_state.leader}")
        if ready.snapshot is not None:
            lines.append(f"install snapshot {ready.snapshot.meta.index}/{ready.snapshot.meta.term}")
        if ready.entries:
            lines.append("write " + " ".join(show_entry(entry) for entry in ready.entries))
        if ready.hard_state is not None:
            hard = ready.hard_state
            lines.append(f"write term={hard.term} vote={hard.vote} commit={hard.commit}")
        if ready.must_sync:
            lines.append("sync")
        if ready.committed_entries:
            lines.append("apply " + " ".join(show_entry(entry) for entry in ready.committed_entries))
        lines += [f"read {read.context.decode()} at {read.index}" for read in ready.read_states]
        return lines

    def do_deliver(self, names: list[str], options: dict[str, str]) -> None:
        mine = [message for message in self.net.wire if message.to in names]
        self.net.wire = [message for message in self.net.wire if message.to not in names]
        for message in mine:
            self.net.deliver(message)
        self.out.append(f"{len(mine)} delivered")

    def do_settle(self, names: list[str], options: dict[str, str]) -> None:
        self.net.settle()
        self._show_reads()

    def do_run(self, names: list[str], options: dict[str, str]) -> None:
        self.net.run(int(names[0]))
        self._show_reads()

    def _show_reads(self) -> None:
        for node in self.net.nodes.values():
            self.out += [f"{node.name} may read {read.context.decode()} at {read.index}" for read in node.read_states]
            node.read_states.clear()

    def do_isolate(self, names: list[str], options: dict[str, str]) -> None:
        self.net.isolate(*names)

    def do_lose(self, names: list[str], options: dict[str, str]) -> None:
        self.net.drop = lambda message: show(message).startswith(names[0])

    def do_heal(self, names: list[str], options: dict[str, str]) -> None:
        self.net.heal()

    def do_crash(self, names: list[str], options: dict[str, str]) -> None:
        self.net.crash(names[0])

    def do_start(self, names: list[str], options: dict[str, str]) -> None:
        self.net.start(names[0])

    def do_compact(self, names: list[str], options: dict[str, str]) -> None:
        node = self.net.nodes[MemberId(names[0])]
        node.disk.compact(keep=int(options.get("keep", "0")))
        self.out.append(f"snapshot at {node.disk.log.snapshot().meta.index}, log from {node.disk.log.first_index()}")

    def do_log(self, names: list[str], options: dict[str, str]) -> None:
        for name in names:
            self.out.append(f"{name}: " + " ".join(show_entry(entry) for entry in self.net.entries(name)))

    def do_status(self, names: list[str], options: dict[str, str]) -> None:
        for name in names or sorted(self.net.nodes):
            status = self.net.raw(name).status()
            self.out.append(
                f"{name}: {status.role.value} term={status.term} leader={status.leader} "
                f"commit={status.commit} last={status.last_index} conf={show_conf(status.conf)}"
            )
            for member, progress in sorted(status.progress.items()):
                if member != name:
                    self.out.append(f"  {member}: {progress.state.value} match={progress.match} next={progress.next}")
