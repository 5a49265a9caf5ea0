"""How long a request is remembered."""

from __future__ import annotations

import pytest

from hivenode.runtime.ports import Caller
from hivenode.runtime.requests import KEEP_MS, keep_ms
from hivenode.transport.routing import DEADLINE_S_MAX


@pytest.mark.parametrize("deadline_s", [1.0, 30.0, 119.0, 600.0, DEADLINE_S_MAX])
def test_a_key_that_a_peer_made_is_remembered_for_as_long_as_peers_may_repeat_the_call(deadline_s: float) -> None:
    caller = Caller(origin="ip:127.0.0.1", idempotency_key="auto:1", deadline_s=deadline_s)
    assert keep_ms(caller) > deadline_s * 1_000


def test_a_callers_own_key_is_remembered_for_a_day() -> None:
    assert keep_ms(Caller(origin="ip:127.0.0.1", idempotency_key="k", deadline_s=1.0)) == KEEP_MS
