"""What a requirements.txt may say, and which of the installed sets go when there are too many."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivenode.errors import Code, HiveError
from hivenode.worker.requirements import (
    CACHED_MAX,
    REQUIREMENTS_MAX,
    TEXT_BYTES_MAX,
    PackageCache,
    parse_requirements,
)


def test_plain_lines_and_comments_are_read_into_one_form() -> None:
    text = b"# tools\n\nzlib-ng >= 1.0  # fast\nattrs[tests]==23.*; python_version >= '3.8'\nzlib-ng>=1.0\n"
    assert parse_requirements(text) == ('attrs[tests]==23.*; python_version >= "3.8"', "zlib-ng>=1.0")


@pytest.mark.parametrize(
    "line",
    [
        "-r other.txt",
        "--index-url http://x/",
        "-e .",
        "git+https://x/y",
        "x @ http://x/y.whl",
        "x @ file:///etc/passwd",
        "./x.whl",
        "/x.whl",
        "x --hash=sha256:00",
        "x; import os",
        "x \\",
        "--",
        "a b",
    ],
)
def test_options_addresses_and_paths_are_refused_with_their_line(line: str) -> None:
    with pytest.raises(HiveError) as caught:
        parse_requirements(f"good\n{line}\n".encode())
    assert caught.value.code is Code.INVALID_TASK
    assert "line 2" in caught.value.message


def test_too_many_and_too_much_are_refused() -> None:
    with pytest.raises(HiveError, match=str(REQUIREMENTS_MAX)):
        parse_requirements("\n".join(f"p{n}" for n in range(REQUIREMENTS_MAX + 1)).encode())
    with pytest.raises(HiveError, match=str(TEXT_BYTES_MAX)):
        parse_requirements(b"#" * (TEXT_BYTES_MAX + 1))
    with pytest.raises(HiveError, match="UTF-8"):
        parse_requirements(b"\xff")


@given(st.text(max_size=200))
def test_no_text_gives_an_option_to_pip(text: str) -> None:
    lines: tuple[str, ...] = ()
    try:
        lines = parse_requirements(text.encode("utf-8", "surrogatepass"))
    except HiveError as error:
        assert_refused(error)
    assert not any(line.startswith("-") or "://" in line for line in lines)


def assert_refused(error: HiveError) -> None:
    assert error.code is Code.INVALID_TASK


class _UsedJustNow(PackageCache):
    """Another daemon uses the oldest set just after this one has looked which that is."""

    def _by_use(self) -> list[tuple[float, Path]]:
        found = super()._by_use()
        os.utime(found[0][1])
        return found


@pytest.mark.parametrize(("cache", "kept"), [(PackageCache, False), (_UsedJustNow, True)])
def test_the_set_goes_that_was_not_used_for_longest(tmp_path: Path, cache: type[PackageCache], kept: bool) -> None:
    places = [tmp_path / f"set{number}" for number in range(CACHED_MAX)]
    for age_s, place in enumerate(places):
        place.mkdir()
        os.utime(place, (age_s, age_s))
    (tmp_path / "no set").touch()
    os.utime(tmp_path / "no set", (0, 0))
    asyncio.run(cache(tmp_path)._evict())
    assert {path.name for path in tmp_path.iterdir()} == {
        "no set",
        *(place.name for place in (places if kept else places[1:])),
    }
