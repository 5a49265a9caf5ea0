"""What all end-to-end tests share: engines, a network, and the daemons' own words beside a failure."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.support.daemons import logs_of_the_living
from tests.support.docker_engine import docker_host
from tests.support.namespaces import Lan, lan

__all__ = ["docker_host"]


@pytest.fixture
def network() -> Iterator[Lan]:
    """Four hosts, for the tests in `netns`."""
    with lan(4) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the end of every log of a daemon that still runs."""
    report = yield
    if report.failed:
        report.sections.extend((f"log of {name}", tail) for name, tail in logs_of_the_living())
    return report
