"""How many connections are taken with how many files."""

from __future__ import annotations

import pytest

from hivenode.transport.channels import CONNECTIONS_MAX, FILES_RESERVE, connections_max


@pytest.mark.parametrize("files", [16, 64, 256, 1_024, 4_096, 65_536])
def test_both_servers_together_leave_files_for_the_rest(files: int) -> None:
    taken = connections_max(files)
    assert 1 <= taken <= CONNECTIONS_MAX
    assert 3 * taken + min(FILES_RESERVE, files // 2) <= files


def test_with_many_files_the_bound_is_the_documented_one() -> None:
    assert connections_max(65_536) == CONNECTIONS_MAX
