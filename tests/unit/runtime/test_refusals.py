"""Who is refused is named once a minute, and who has many keys fills neither the log nor the memory."""

from __future__ import annotations

from structlog.testing import capture_logs

from hivenode.runtime.refusals import ITEMS_MAX, NAMED_MAX, TEXT_CHARACTERS_MAX, Refusals


def test_the_same_of_the_same_node_is_said_once_a_minute() -> None:
    now_s = 1_000.0
    named = Refusals(lambda: now_s)
    with capture_logs() as logs:
        for _ in range(3):
            named.name("n1", "join")
        named.name("n1", "read_log")
        named.name("n2", "join", reason="no")
        now_s += 60.0
        named.name("n1", "join")
    assert [(log["node"], log["what"]) for log in logs] == [
        ("n1", "join"),
        ("n1", "read_log"),
        ("n2", "join"),
        ("n1", "join"),
    ]
    assert logs[2]["reason"] == "no"


def test_who_has_many_keys_is_named_for_some_of_them() -> None:
    now_s = 1_000.0
    named = Refusals(lambda: now_s)
    with capture_logs() as logs:
        for number in range(3 * NAMED_MAX):
            named.name(f"n{number}", "join")
        now_s += 60.0
        named.name(f"n{2 * NAMED_MAX}", "join")
    assert [log.get("node", "more") for log in logs] == [
        *(f"n{number}" for number in range(NAMED_MAX)),
        "more",
        f"n{2 * NAMED_MAX}",
    ]


def test_what_others_say_is_cut() -> None:
    long = "x" * (TEXT_CHARACTERS_MAX + 1)
    with capture_logs() as logs:
        Refusals().name("n1", "join", reason=long, addresses=(long,) * (ITEMS_MAX + 1), number=7, some=("a",))
    (line,) = logs
    assert line["reason"] == long[:-1] + "…"
    assert line["addresses"] == (*(long[:-1] + "…",) * ITEMS_MAX, "…")
    assert (line["number"], line["some"]) == (7, ("a",))
