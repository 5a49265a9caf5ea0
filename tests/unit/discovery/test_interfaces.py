"""The watch over this machine's addresses."""

from __future__ import annotations

import errno

import pytest
import structlog.testing

from hivenode.discovery import interfaces


async def test_a_machine_that_cannot_say_its_addresses_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no file left the kernel is not asked; that ended the daemon once."""
    out_of_files = OSError(errno.EMFILE, "Too many open files")
    answers: list[tuple[str, ...] | OSError] = [("10.0.0.1",), out_of_files, out_of_files, ("10.0.0.1",), ("10.0.0.2",)]

    def look(_exclude: object) -> tuple[str, ...]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(interfaces, "lan_addresses", look)
    watched = interfaces.watch(interval_s=0)
    with structlog.testing.capture_logs() as logs:
        assert [await anext(watched), await anext(watched)] == [("10.0.0.1",), ("10.0.0.2",)]
    assert len(logs) == 1
