"""Plays the transcripts in `testdata`; see `transcript` for their commands.

With TRANSCRIPTS=rewrite in the environment the files are written anew with what the commands print now; the change is then
read in the diff.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.raft.transcript import Transcript, read_cases, write_cases

FILES = sorted((Path(__file__).parent / "testdata").glob("*.txt"))


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_transcript_prints_what_it_says(path: Path) -> None:
    transcript = Transcript()
    cases = read_cases(path)
    printed = [replace(case, expected=transcript.run(case.command)) for case in cases]
    if os.environ.get("TRANSCRIPTS") == "rewrite":
        write_cases(path, printed)
        return
    for case, now in zip(cases, printed, strict=True):
        assert now.expected == case.expected, f"{path.name}: {case.command}"
