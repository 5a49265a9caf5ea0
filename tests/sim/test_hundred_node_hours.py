"""The first runs of `make sweep`, on all cores, beside the other tests."""

from __future__ import annotations

import pytest

from tests.support import sweeping

DEADLINE_S = 1_500
"""Many times what it takes on two cores that have nothing else to do."""


@pytest.mark.slow
@pytest.mark.beside
@pytest.mark.timeout(DEADLINE_S + 100)
def test_a_hundred_node_hours_under_all_faults_keep_every_promise() -> None:
    total = sweeping.outcome(DEADLINE_S)
    print(total.summary)
    assert not total.failed, total.summary
    assert total.node_hours >= 100
    # What is kept by hives that nothing happens to is no promise.
    assert total.faults > 20 * total.node_hours
    assert total.elections > 5 * total.node_hours
    assert total.commits > 300 * total.node_hours
    assert total.checked > 100 * total.node_hours
