"""Names of accounts. A name says whose money it is, and two owners can never share one.

`treasury` | `user:<name as registered>` | `node:<node id>` (an unclaimed machine) | `escrow:<user>/<task id>`. A user name has
neither a colon nor a slash, so an escrow account belongs to exactly one task.
"""

from __future__ import annotations

from typing import Final

TREASURY: Final = "treasury"
ESCROW_PREFIX: Final = "escrow:"


def user_account(username: str) -> str:
    """The account of a user, by the name as it was registered."""
    return f"user:{username}"


def node_account(node_id: str) -> str:
    """The account into which a machine earns that nobody has claimed."""
    return f"node:{node_id}"


def escrow_account(username: str, task_id: str) -> str:
    """The account that holds the greatest cost of one task until the task ends."""
    return f"{ESCROW_PREFIX}{username}/{task_id}"
