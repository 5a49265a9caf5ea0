"""The picture of a run: it says what the run did, whole SVG, and the run does not know of it."""

from __future__ import annotations

from xml.etree import ElementTree

from simulations.engine import SECOND
from simulations.marks import Kind, Mark, kept
from simulations.picture import clock_text, draw
from simulations.run import Plan, run
from simulations.scenarios import ALL

PLAN = Plan(seed=11, nodes=5, duration_us=20 * SECOND, faults="all")


def titles(svg: str) -> list[str]:
    """What the shapes say under the pointer."""
    return [title.text or "" for title in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")]


def test_a_run_is_the_same_with_and_without_its_picture() -> None:
    with kept() as marks:
        pictured = run(PLAN)
    assert marks
    assert pictured == run(PLAN)


def test_each_commit_and_each_crash_of_a_run_is_in_its_marks() -> None:
    with kept() as marks:
        result = run(PLAN)
    kinds = [mark.kind for mark in marks]
    assert kinds.count(Kind.COMMIT) == result.commits
    assert kinds.count(Kind.FAULT) == result.faults + 1
    assert sum(mark.kind is Kind.ROLE and mark.text == "leader" for mark in marks) >= result.elections


def test_the_picture_of_a_scenario_names_its_machines_leaders_and_cuts() -> None:
    with kept() as marks:
        ALL["tied_elections"](1)
    said = titles(draw(marks, "tied elections", end_us=marks[-1].at_us))
    for name in (f"n{number}" for number in range(1, 8)):
        assert any(title.startswith(f"{name}: ") for title in said)
    assert any("nobody leads for" in title for title in said)
    assert sum(" leads term " in title for title in said) >= 7
    assert any("cut from n" in title for title in said)


def test_one_way_cuts_are_told_from_parts() -> None:
    marks = [Mark(0, Kind.ADDED, name) for name in "abc"] + [Mark(0, Kind.STARTS, name) for name in "abc"]
    marks += [Mark(SECOND, Kind.CUT, "a", "b"), Mark(2 * SECOND, Kind.MENDED, "a", "b")]
    for one, other in (("a", "c"), ("b", "c")):
        marks += [Mark(3 * SECOND, Kind.CUT, one, other), Mark(3 * SECOND, Kind.CUT, other, one)]
    said = titles(draw(marks, "", end_us=4 * SECOND))
    assert "a cannot reach b" in said
    assert "b cannot hear a" in said
    assert "c cut from a b" in said


def test_a_window_shows_its_part_of_the_time_alone() -> None:
    marks = [Mark(0, Kind.ADDED, "a"), Mark(0, Kind.STARTS, "a")]
    marks += [Mark(second * SECOND, Kind.CLOCK, "a", number=1_000 * second) for second in (1, 5, 9)]
    said = titles(draw(marks, "", end_us=10 * SECOND, window_us=(4 * SECOND, 6 * SECOND)))
    assert [title for title in said if "clock" in title] == ["a clock by +5 s at 0:05.000"]


def test_moments_are_as_exact_as_the_ticks() -> None:
    assert clock_text(65 * SECOND) == "1:05"
    assert clock_text(65_250_000, 10_000) == "1:05.25"
    assert clock_text(1_500, 1_000) == "0:00.002"
