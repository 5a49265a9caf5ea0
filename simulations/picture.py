"""A space-time picture of a run, as SVG: machines are lines, time goes to the right, and colours say what each was.

From top to bottom: who led and in which term, the faults that were made, one lane for each machine, the size of the
configuration, and how many entries were committed when. A lane has a band for what the machine was and, below it, a thin
one for whom it could talk to. Each shape says more in its title, which a browser shows under the pointer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from simulations.engine import MS, SECOND
from simulations.marks import Kind, Mark

WIDTH: Final = 1_680
LEFT: Final = 92
RIGHT: Final = 24
LANE: Final = 44
LANE_MANY: Final = 20
"""More machines than `MANY` get narrower lanes, so that the picture stays on a page."""
MANY: Final = 16
BAND: Final = 18
LETTER: Final = 6.2
"""Width of a letter of the small print."""
TICKS_US: Final = tuple(step * unit for unit in (MS, 10 * MS, 100 * MS, SECOND) for step in (1, 2, 5)) + tuple(
    seconds * SECOND for seconds in (10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600)
)
TICK: Final = 84
"""Ticks are at least this far apart."""
BIN: Final = 6
"""Width of one bar of the commits."""


@unique
class Look(Enum):
    """What a machine was; the value is its colour."""

    LEADER = "#0b3d6e"
    CANDIDATE = "#f08a00"
    PRE_CANDIDATE = "#f7cf6b"
    FOLLOWER = "#8fbce0"
    LEARNER = "#c9e2c4"
    LIGHT = "#e3d7ee"
    FRESH = "#e4e4e4"
    DOWN = "#ffffff"


_SAID: Final = {
    Look.LEADER: "leader",
    Look.CANDIDATE: "candidate",
    Look.PRE_CANDIDATE: "pre-candidate",
    Look.FOLLOWER: "follower with a vote",
    Look.LEARNER: "replica without a vote",
    Look.LIGHT: "light node",
    Look.FRESH: "no hive yet",
    Look.DOWN: "down",
}
_ROLES: Final = {
    "leader": Look.LEADER,
    "candidate": Look.CANDIDATE,
    "pre-candidate": Look.PRE_CANDIDATE,
    "follower": Look.FOLLOWER,
}
_HEIGHTS: Final = {
    Look.LEADER: 1.0,
    Look.CANDIDATE: 0.8,
    Look.PRE_CANDIDATE: 0.8,
    Look.FOLLOWER: 0.45,
    Look.LEARNER: 0.45,
    Look.LIGHT: 0.3,
    Look.FRESH: 0.3,
}
_SIDES: Final = ("#9aa5ae", "#d1495b", "#7b4fa6", "#2a9d8f", "#c9a227")
"""Colours of the groups of machines that can talk only among themselves, the largest first."""
_ONE_WAY: Final = "#e79aa5"
_GROUND: Final = "#fbe3e3"
"""Behind all lanes while nobody leads."""


@dataclass(slots=True)
class _Span:
    """What held from `begin_us` to `end_us`."""

    begin_us: int
    end_us: int
    look: Look
    term: int


@dataclass(frozen=True, slots=True)
class _Wires:
    """What holds of the network from a moment on: the ways that are cut, and the machines that run."""

    at_us: int
    cut: frozenset[tuple[str, str]]
    running: tuple[str, ...]


@dataclass(slots=True)
class _Lane:
    """One machine's story, from the marks."""

    name: str
    spans: list[_Span]
    moments: list[Mark]
    pauses: list[tuple[int, int]]
    troubles: list[tuple[int, int, str]]
    left_us: int | None = None


class _Story:
    """The marks of a run, sorted into what is drawn."""

    def __init__(self, marks: Sequence[Mark], end_us: int) -> None:
        self.end_us: Final = end_us
        self.lanes: Final[dict[str, _Lane]] = {}
        self.faults: Final = [mark for mark in marks if mark.kind is Kind.FAULT]
        self.commits_us: Final = [mark.at_us for mark in marks if mark.kind is Kind.COMMIT]
        self.configurations: Final = [mark for mark in marks if mark.kind is Kind.CONFIGURATION]
        self.wires: Final = [_Wires(0, frozenset(), ())]
        self._cut: set[tuple[str, str]] = set()
        self._running: list[str] = []
        self._paused_us: dict[str, int] = {}
        self._ailing: dict[str, tuple[int, str]] = {}
        self._members: dict[str, Look] = {}
        self._role: dict[str, tuple[Look, int]] = {}
        for mark in marks:
            self._take(mark)
        for name in list(self._paused_us):
            self._unpause(name, end_us)
        for name in list(self._ailing):
            self._heal(name, end_us)
        for lane in self.lanes.values():
            lane.spans[-1].end_us = end_us if lane.left_us is None else lane.left_us

    def _take(self, mark: Mark) -> None:
        name = mark.node
        match mark.kind:
            case Kind.ADDED:
                self.lanes[name] = _Lane(name, [], [], [], [])
                self._be(name, mark.at_us, Look.DOWN)
            case Kind.STARTS:
                self._be(name, mark.at_us, Look.FRESH)
                self._running.append(name)
                self._link(mark.at_us)
                self._say(mark)
            case Kind.LIGHT:
                self._be(name, mark.at_us, Look.LIGHT)
            case Kind.MEMBER:
                self._role[name] = (Look.FOLLOWER, 0)
                self._be(name, mark.at_us, self._shown(name))
            case Kind.ROLE:
                self._role[name] = (_ROLES[mark.text], mark.number)
                self._be(name, mark.at_us, self._shown(name), mark.number)
            case Kind.CRASHES | Kind.LOSES_POWER:
                self._unpause(name, mark.at_us)
                self._role.pop(name, None)
                self._be(name, mark.at_us, Look.DOWN)
                self._running.remove(name)
                self._link(mark.at_us)
                self._say(mark)
            case Kind.WIPED:
                self._members.pop(name, None)
                self._say(mark)
            case Kind.CLOCK:
                self._say(mark)
            case Kind.LEFT:
                self.lanes[name].left_us = mark.at_us
                self._say(mark)
            case Kind.PAUSED:
                self._paused_us[name] = mark.at_us
            case Kind.RESUMED:
                self._unpause(name, mark.at_us)
            case Kind.DISK:
                self._heal(name, mark.at_us)
                if mark.text:
                    self._ailing[name] = (mark.at_us, mark.text)
            case Kind.CUT:
                self._cut.add((name, mark.text))
                self._link(mark.at_us)
            case Kind.MENDED:
                self._cut.discard((name, mark.text))
                self._link(mark.at_us)
            case Kind.CONFIGURATION:
                self._reconfigure(mark)
            case Kind.FAULT | Kind.COMMIT:
                pass  # They are no machine's.

    def _say(self, mark: Mark) -> None:
        self.lanes[mark.node].moments.append(mark)

    def _be(self, name: str, at_us: int, look: Look, term: int = 0) -> None:
        spans = self.lanes[name].spans
        if spans:
            newest = spans[-1]
            if newest.look is look and (look is not Look.LEADER or newest.term == term):
                return
            newest.end_us = at_us
        spans.append(_Span(at_us, self.end_us, look, term))

    def _shown(self, name: str) -> Look:
        look = self._role[name][0]
        return self._members.get(name, Look.LEARNER) if look is Look.FOLLOWER else look

    def _reconfigure(self, mark: Mark) -> None:
        voters, _, learners = mark.text.partition("|")
        self._members = {member.partition(".")[0]: Look.LEARNER for member in learners.split()}
        self._members |= {member.partition(".")[0]: Look.FOLLOWER for member in voters.split()}
        for name, (_, term) in self._role.items():
            self._be(name, mark.at_us, self._shown(name), term)

    def _unpause(self, name: str, at_us: int) -> None:
        began_us = self._paused_us.pop(name, None)
        if began_us is not None:
            self.lanes[name].pauses.append((began_us, at_us))

    def _heal(self, name: str, at_us: int) -> None:
        ailing = self._ailing.pop(name, None)
        if ailing is not None:
            self.lanes[name].troubles.append((ailing[0], at_us, ailing[1]))

    def _link(self, at_us: int) -> None:
        if self.wires[-1].at_us == at_us:
            self.wires.pop()
        self.wires.append(_Wires(at_us, frozenset(self._cut), tuple(self._running)))

    def reigns(self) -> list[tuple[int, int, str, int]]:
        """Who led from when to when, and in which term; of two that overlap the later term counts."""
        found = [
            (span.begin_us, span.end_us, lane.name, span.term)
            for lane in self.lanes.values()
            for span in lane.spans
            if span.look is Look.LEADER
        ]
        found.sort(key=lambda reign: (reign[3], reign[0]))
        cut = [(a[0], min(a[1], b[0]), a[2], a[3]) for a, b in pairwise(found)]
        return [reign for reign in [*cut, *found[-1:]] if reign[0] < reign[1]]


def _groups(names: Iterable[str], cut: frozenset[tuple[str, str]]) -> list[list[str]]:
    """The machines that reach each other both ways, directly or through others; the largest group first."""
    left = list(names)
    groups: list[list[str]] = []
    while left:
        group = [left.pop(0)]
        for member in group:
            near = [name for name in left if (member, name) not in cut and (name, member) not in cut]
            group.extend(near)
            left = [name for name in left if name not in near]
        groups.append(group)
    return sorted(groups, key=lambda group: (-len(group), group[0]))


class _Canvas:
    """SVG elements, with time on the x axis."""

    def __init__(self, begin_us: int, end_us: int) -> None:
        self.begin_us: Final = begin_us
        self.end_us: Final = end_us
        self.parts: Final[list[str]] = []
        self._scale = (WIDTH - LEFT - RIGHT) / max(1, end_us - begin_us)

    def x(self, at_us: int) -> float:
        """Where a moment is; what lies outside the picture is at its edge."""
        return LEFT + (min(max(at_us, self.begin_us), self.end_us) - self.begin_us) * self._scale

    def sees(self, begin_us: int, end_us: int) -> bool:
        return end_us >= self.begin_us and begin_us <= self.end_us

    def bar(
        self, span: tuple[int, int], top: float, height: float, fill: str, title: str = "", stroke: str = "none"
    ) -> None:
        """A rectangle over a time; one that is too short to be seen is drawn a pixel wide."""
        if not self.sees(*span):
            return
        left = self.x(span[0])
        width = max(self.x(span[1]) - left, 1.0)
        said = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f"fill={quoteattr(fill)} stroke={quoteattr(stroke)}>{said}</rect>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str, more: str = "") -> None:
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" {more}/>')

    def text(self, x: float, y: float, text: str, more: str = "") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>')

    def sign(self, at_us: int, y: float, shape: str, title: str) -> None:
        """A small shape, drawn round its middle, at a moment."""
        if self.sees(at_us, at_us):
            self.parts.append(
                f'<g transform="translate({self.x(at_us):.1f} {y:.1f})">{shape}<title>{escape(title)}</title></g>'
            )


_SIGNS: Final = {
    Kind.STARTS: '<path d="M-4 4 L4 0 L-4 -4 Z" fill="#2e8b3d"/>',
    Kind.CRASHES: '<path d="M-5 -5 L5 5 M5 -5 L-5 5" stroke="#c00000" stroke-width="2.4"/>',
    Kind.LOSES_POWER: '<path d="M2 -8 L-4 1 L0 1 L-2 8 L5 -2 L1 -2 Z" fill="#c00000"/>',
    Kind.WIPED: '<circle r="6.5" fill="#fff" stroke="#c00000" stroke-width="1.6"/>'
    '<path d="M-4.5 -4.5 L4.5 4.5" stroke="#c00000" stroke-width="1.6"/>',
    Kind.LEFT: '<path d="M-5 -6 H2 V6 H-5 M-2 0 H8 M5 -3 L8 0 L5 3" stroke="#444" fill="none" stroke-width="1.4"/>',
    Kind.CLOCK: '<circle r="5.5" fill="#fff" stroke="#6a3d9a" stroke-width="1.5"/>'
    '<path d="M0 -3.5 V0 H3" stroke="#6a3d9a" fill="none" stroke-width="1.5"/>',
}
_HATCH: Final = (
    '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="2" height="5" fill="#333"/></pattern></defs>'
)


def clock_text(at_us: int, step_us: int = SECOND) -> str:
    """A moment as minutes and seconds, as exact as the step between two of them asks."""
    digits = 0 if step_us % SECOND == 0 else 3 if step_us < 10 * MS else 2 if step_us < 100 * MS else 1
    minutes, rest_us = divmod(at_us, 60 * SECOND)
    seconds = rest_us / SECOND
    return f"{minutes}:{seconds:0{digits + 3 if digits else 2}.{digits}f}"


def draw(marks: Sequence[Mark], title: str, *, end_us: int, window_us: tuple[int, int | None] = (0, None)) -> str:
    """The picture of a run.

    Args:
        marks: in the order in which they were made.
        title: what stands above it, one line or more.
        end_us: when the run was over.
        window_us: the part that is drawn; None is the end of the run.
    """
    begin_us = window_us[0]
    canvas = _Canvas(begin_us, max(begin_us + 1, min(end_us, window_us[1] or end_us)))
    story = _Story(marks, end_us)
    lines = title.splitlines()
    for number, line in enumerate(lines):
        canvas.text(12, 24 + 17 * number, line, 'class="title"' if number == 0 else 'class="said"')
    top = 24 + 17 * len(lines)
    lane = LANE if len(story.lanes) <= MANY else LANE_MANY
    lanes_top = top + (84 if story.faults else 40)
    lanes_bottom = lanes_top + lane * len(story.lanes)
    _draw_time(canvas, top, lanes_bottom + 104)
    _draw_reigns(canvas, story, top + 8, (lanes_top, lanes_bottom))
    _draw_faults(canvas, story, top + 40)
    for number, one in enumerate(story.lanes.values()):
        _draw_lane(canvas, story, one, lanes_top + lane * number, lane)
    _draw_links(canvas, story, lanes_top, lane)
    _draw_configurations(canvas, story, lanes_bottom + 10)
    _draw_commits(canvas, story, lanes_bottom + 38, 60)
    height = _draw_legend(canvas, lanes_bottom + 144)
    style = (
        "text{font:11px sans-serif;fill:#222}.title{font:bold 15px sans-serif}.said{font:12px monospace;fill:#555}"
        ".name{font:bold 13px sans-serif}.light{fill:#fff;font-weight:bold}.faint{fill:#777}.small{font-size:9.5px}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}"><style>{style}</style>{_HATCH}'
        f'<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(canvas.parts) + "\n</svg>\n"
    )


def _ticks(canvas: _Canvas) -> tuple[int, range]:
    span_us = canvas.end_us - canvas.begin_us
    count = (WIDTH - LEFT - RIGHT) // TICK
    step_us = next((step for step in TICKS_US if step * count >= span_us), TICKS_US[-1])
    first_us = -(-canvas.begin_us // step_us) * step_us
    return step_us, range(first_us, canvas.end_us + 1, step_us)


def _draw_time(canvas: _Canvas, top: float, bottom: float) -> None:
    step_us, ticks = _ticks(canvas)
    for at_us in ticks:
        x = canvas.x(at_us)
        canvas.line(x, top, x, bottom, "#e6e6e6")
        canvas.text(x, bottom + 14, clock_text(at_us, step_us), 'text-anchor="middle"')
    canvas.text(12, bottom + 14, "min:s", 'class="faint"')


def _fits(width: float, *texts: str) -> str:
    """The first of these that has room, else nothing."""
    return next((text for text in texts if len(text) * LETTER + 6 <= width), "")


def _draw_reigns(canvas: _Canvas, story: _Story, top: float, lanes: tuple[float, float]) -> None:
    canvas.text(12, top + 14, "leader", 'class="name"')
    reigns = story.reigns()
    gaps = list(pairwise([0, *(moment for reign in reigns for moment in reign[:2]), story.end_us]))[::2]
    for gap in gaps:
        if gap[0] < gap[1]:
            said = f"nobody leads for {(gap[1] - gap[0]) / SECOND:.2f} s"
            canvas.bar(gap, top, BAND, _GROUND, said)
            canvas.bar(gap, lanes[0], lanes[1] - lanes[0], _GROUND, said)
    for begin_us, end_us, name, term in reigns:
        canvas.bar((begin_us, end_us), top, BAND, Look.LEADER.value, f"{name} leads term {term}", "#fff")
        width = canvas.x(end_us) - canvas.x(begin_us)
        if canvas.sees(begin_us, end_us):
            middle = (canvas.x(begin_us) + canvas.x(end_us)) / 2
            text = _fits(width, f"{name}, term {term}", f"{name} t{term}", name)
            canvas.text(middle, top + 13, text, 'class="light" text-anchor="middle"')


def _draw_faults(canvas: _Canvas, story: _Story, top: float) -> None:
    """Names where there is room, in three rows; a stroke everywhere."""
    if not story.faults:
        return
    canvas.text(12, top + 20, "faults", 'class="name"')
    free_from = [0.0, 0.0, 0.0]
    for fault in story.faults:
        if not canvas.sees(fault.at_us, fault.at_us):
            continue
        x = canvas.x(fault.at_us)
        canvas.line(x, top + 34, x, top + 41, "#c00000", 'stroke-width="1.2"')
        row = next((row for row, free in enumerate(free_from) if x >= free), None)
        if row is not None:
            canvas.text(x, top + 9 + 12 * row, fault.text)
            free_from[row] = x + len(fault.text) * LETTER + 6


def _draw_lane(canvas: _Canvas, story: _Story, lane: _Lane, top: float, height: float) -> None:
    band = min(BAND, height - 8)
    middle = top + 4 + band / 2
    canvas.text(12, middle + 5, lane.name, 'class="name"')
    for span in lane.spans:
        if not canvas.sees(span.begin_us, span.end_us):
            continue
        said = _SAID[span.look] + (f" in term {span.term}" if span.term else "")
        title = f"{lane.name}: {said}, {clock_text(span.begin_us, MS)} to {clock_text(span.end_us, MS)}"
        if span.look is Look.DOWN:
            canvas.line(
                canvas.x(span.begin_us), middle, canvas.x(span.end_us), middle, "#999", 'stroke-dasharray="1 4"'
            )
            continue
        tall = band * _HEIGHTS[span.look]
        canvas.bar((span.begin_us, span.end_us), middle - tall / 2, tall, span.look.value, title)
        if span.look is Look.LEADER:
            text = _fits(canvas.x(span.end_us) - canvas.x(span.begin_us), f"term {span.term}", f"t{span.term}")
            canvas.text(canvas.x(max(span.begin_us, canvas.begin_us)) + 4, middle + 4, text, 'class="light"')
    for pause in lane.pauses:
        said = f"{lane.name} stands still for {(pause[1] - pause[0]) / SECOND:.2f} s"
        canvas.bar(pause, middle - band / 2, band, "url(#hatch)", said, "#333")
    for begin_us, end_us, text in lane.troubles:
        canvas.bar((begin_us, end_us), middle - band / 2 - 3, 3, "#8a5a00", f"{lane.name}: disk {text}")
    for mark in lane.moments:
        more = f" by {mark.number / 1_000:+.0f} s" if mark.kind is Kind.CLOCK else ""
        title = f"{mark.node} {mark.kind.value}{more} at {clock_text(mark.at_us, MS)}"
        if mark.kind is Kind.CLOCK and canvas.sees(mark.at_us, mark.at_us):
            canvas.text(canvas.x(mark.at_us) + 9, middle - 6, f"{mark.number / 1_000:+.0f} s", 'class="small"')
        canvas.sign(mark.at_us, middle, _SIGNS[mark.kind], title)


@dataclass(slots=True)
class _Reach:
    """For how long a machine could talk to the same others."""

    begin_us: int
    end_us: int
    group: int | None
    said: str
    short: str


def _reach_of(name: str, wires: _Wires, groups: Sequence[Sequence[str]]) -> tuple[int | None, str, str] | None:
    """In which group a machine is (None when there is only one) and whom it cannot talk to; None when nothing is cut."""
    running = set(wires.running)
    silent_to = {target for source, target in wires.cut if source == name and target in running}
    deaf_to = {source for source, target in wires.cut if target == name and source in running}
    if not silent_to and not deaf_to:
        return None
    both, said = sorted(silent_to & deaf_to), []
    said += [f"cut from {' '.join(both)}"] if both else []
    said += [f"cannot reach {' '.join(sorted(silent_to - deaf_to))}"] if silent_to - deaf_to else []
    said += [f"cannot hear {' '.join(sorted(deaf_to - silent_to))}"] if deaf_to - silent_to else []
    if len(groups) == 1:
        return None, f"{name} {', '.join(said)}", ", ".join(said)
    number = next(number for number, group in enumerate(groups) if name in group)
    others = " ".join(sorted(other for other in groups[number] if other != name))
    return number, f"{name} {', '.join(said)}", f"with {others}" if others else "alone"


def _reaches(story: _Story) -> dict[str, list[_Reach]]:
    """By machine, what the cuts meant to it; while nothing changes for it, one entry."""
    found: dict[str, list[_Reach]] = {name: [] for name in story.lanes}
    ends = [wires.at_us for wires in story.wires[1:]] + [story.end_us]
    for wires, end_us in zip(story.wires, ends, strict=True):
        if not wires.cut or wires.at_us >= end_us:
            continue
        groups = _groups(wires.running, wires.cut)
        for name in wires.running:
            reach = _reach_of(name, wires, groups)
            if reach is None:
                continue
            known = found[name]
            if known and known[-1].end_us == wires.at_us and known[-1].said == reach[1] and known[-1].group == reach[0]:
                known[-1].end_us = end_us
            else:
                known.append(_Reach(wires.at_us, end_us, *reach))
    return found


def _draw_links(canvas: _Canvas, story: _Story, lanes_top: float, height: float) -> None:
    """Under each lane: with whom a machine was while the hive was in parts, or that some of its ways were dead."""
    reaches = _reaches(story)
    for number, name in enumerate(story.lanes):
        bottom = lanes_top + height * (number + 1) - 4
        for reach in reaches[name]:
            if not canvas.sees(reach.begin_us, reach.end_us):
                continue
            colour = _ONE_WAY if reach.group is None else _SIDES[min(reach.group, len(_SIDES) - 1)]
            canvas.bar((reach.begin_us, reach.end_us), bottom - 3, 3, colour, reach.said)
            if height >= LANE:
                left = canvas.x(reach.begin_us)
                text = _fits(canvas.x(reach.end_us) - left, reach.short)
                canvas.text(left, bottom - 6, text, f'class="small" style="fill:{colour}"')


def _draw_configurations(canvas: _Canvas, story: _Story, top: float) -> None:
    canvas.text(12, top + 13, "members", 'class="name"')
    last = Mark(story.end_us, Kind.CONFIGURATION)
    before: frozenset[str] = frozenset()
    for mark, following in pairwise([*story.configurations, last]):
        voters, _, learners = mark.text.partition("|")
        counts = len(voters.split()), len(learners.split())
        members = frozenset([*voters.split(), *learners.split()])
        came = [f"+{member}" for member in sorted(members - before)]
        went = [f"-{member}" for member in sorted(before - members)]
        before = members
        said = f"entry {mark.number}: voters {voters or 'none'}; learners {learners or 'none'}"
        canvas.bar((mark.at_us, following.at_us), top, BAND, "#eef3f8", said, "#7a93ab")
        if canvas.sees(mark.at_us, following.at_us):
            left = canvas.x(mark.at_us)
            long = f"{counts[0]} voters, {counts[1]} learners"
            short = f"{counts[0]}+{counts[1]}"
            change = " ".join([*came, *went])
            text = _fits(
                canvas.x(following.at_us) - left, f"{long} {change}".rstrip(), long, f"{short} {change}", short
            )
            canvas.text(left + 3, top + 13, text)


def _draw_commits(canvas: _Canvas, story: _Story, top: float, height: float) -> None:
    bins = (WIDTH - LEFT - RIGHT) // BIN
    bin_us = max(1, -(-(canvas.end_us - canvas.begin_us) // bins))
    counts = [0] * bins
    for at_us in story.commits_us:
        if canvas.begin_us <= at_us < canvas.end_us:
            counts[(at_us - canvas.begin_us) // bin_us] += 1
    most = max(counts, default=0)
    canvas.text(12, top + 14, "commits", 'class="name"')
    canvas.text(12, top + 29, f"{sum(counts)} in all", 'class="faint"')
    canvas.text(12, top + 42, f"to {most * SECOND / bin_us:.0f} a s", 'class="faint"')
    for number, count in enumerate(counts):
        if count:
            begin_us = canvas.begin_us + number * bin_us
            tall = height * count / most
            said = f"{count} commits from {clock_text(begin_us, MS)} on"
            canvas.bar((begin_us, begin_us + bin_us), top + height - tall, tall, "#3d7f5f", said)
    canvas.line(LEFT, top + height, WIDTH - RIGHT, top + height, "#3d7f5f")


def _draw_legend(canvas: _Canvas, top: float) -> float:
    """Returns where the picture ends."""
    x, y = 12.0, top

    def room(text: str) -> tuple[float, float]:
        nonlocal x, y
        width = 30 + len(text) * LETTER + 14
        if x + width > WIDTH - RIGHT:
            x, y = 12.0, y + 22
        place = (x, y)
        canvas.text(x + 30, y + 4, text)
        x += width
        return place

    swatches = [(look.value, _HEIGHTS[look] * 14, _SAID[look]) for look in Look if look is not Look.DOWN]
    swatches += [
        (_GROUND, 14, "nobody leads"),
        ("url(#hatch)", 14, "stands still"),
        ("#8a5a00", 3, "disk slow or full"),
        (_SIDES[0], 3, "the hive is cut in parts: in the largest"),
        (_SIDES[1], 3, "in the second"),
        (_SIDES[2], 3, "in the third"),
        (_ONE_WAY, 3, "some ways are cut, and no part from all others"),
    ]
    for fill, tall, text in swatches:
        left, middle = room(text)
        canvas.parts.append(
            f'<rect x="{left}" y="{middle - tall / 2:.1f}" width="24" height="{tall:.1f}" fill="{fill}"/>'
        )
    signs = {
        Kind.STARTS: "starts",
        Kind.CRASHES: "crashes",
        Kind.LOSES_POWER: "loses power",
        Kind.WIPED: "loses its disk",
        Kind.LEFT: "leaves",
        Kind.CLOCK: "wall clock set",
    }
    for kind, text in signs.items():
        left, middle = room(text)
        canvas.parts.append(f'<g transform="translate({left + 14} {middle})">{_SIGNS[kind]}</g>')
    left, middle = room(_SAID[Look.DOWN])
    canvas.line(left, middle, left + 24, middle, "#999", 'stroke-dasharray="1 4"')
    return y + 24
