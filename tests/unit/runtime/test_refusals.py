"""Who is refused is named once a minute, and who has many keys fills neither the log nor the memory."""

from __future__ import annotations

from structlog.testing import capture_logs

from hivenode.runtime.refusals import NAMED_MAX, Refusals


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


def test_what_is_remembered_is_bounded() -> None:
    named = Refusals()
    with capture_logs() as logs:
        for number in range(NAMED_MAX + 1):
            named.name(f"n{number}", "join")
        named.name(f"n{NAMED_MAX}", "join")
        named.name("n0", "join")
    assert [log["node"] for log in logs[NAMED_MAX:]] == [f"n{NAMED_MAX}", "n0"]
