"""Real parts that a test cannot do without."""

from __future__ import annotations

import os

import pytest


def require(condition: bool, what: str) -> None:
    """Skips the test when a part is missing on this machine, and names it; under CI=true every part must be there."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"this machine lacks {what}")
    pytest.skip(f"this machine lacks {what}")
