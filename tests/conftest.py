"""For all tests. hivenode comes before grpc here as in the daemon: gRPC reads once, when imported, what TLS may negotiate."""

from __future__ import annotations

import pytest

import hivenode
from tests.support import sweeping

TLS12_SUITES = hivenode.TLS12_SUITES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is worked on beside the other tests is looked at last."""
    items.sort(key=lambda item: item.get_closest_marker("beside") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begins that work, when its test is among those that will run."""
    if not session.config.option.collectonly and any(item.get_closest_marker("beside") for item in session.items):
        sweeping.begin()


def pytest_unconfigure() -> None:
    sweeping.end()
