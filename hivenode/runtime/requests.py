"""Requests as this node proposes them: how long they are remembered, by which key, and what a refused reply becomes."""

from __future__ import annotations

import hashlib
from typing import Final

from hivenode.errors import Code, HiveError
from hivenode.pool.commands import Reply
from hivenode.runtime.ports import Caller

AUTOMATIC_KEY: Final = "auto:"
"""How the key begins that the first peer gave to a call that had none."""
KEEP_MS: Final = 24 * 3_600_000
"""The promise to clients that send a key of their own: they may repeat a call for a day."""
KEEP_AUTOMATIC_MS: Final = 120_000
"""A key that only peers know is repeated by peers alone, until the call's deadline, which is mostly much sooner."""
AFTER_DEADLINE_MS: Final = 60_000
"""A try may be on its way when the deadline passes, and clocks of leaders differ."""
_DIGEST_DIGITS: Final = 40


def keep_ms(caller: Caller) -> int:
    """How long the reply to this call is remembered."""
    if not caller.idempotency_key.startswith(AUTOMATIC_KEY):
        return KEEP_MS
    return max(KEEP_AUTOMATIC_MS, int(caller.deadline_s * 1_000) + AFTER_DEADLINE_MS)


def derived(operation: str, *parts: str) -> str:
    """A key of bounded length for an operation on some texts: `login:` and 40 digits; other parts give another key."""
    digest = hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass"))
    return f"{operation}:{digest.hexdigest()[:_DIGEST_DIGITS]}"


def accepted(reply: Reply) -> Reply:
    """The reply of an accepted command; a refused one is raised as the `HiveError` that it records."""
    if reply.refused:
        raise HiveError(Code(reply.code), reply.message)
    return reply
