"""How many files this process may have open: a connection is one of them, and who has none left can neither read nor listen."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

FILES_MAX: Final = 65_536
"""More than a daemon ever has open; "unlimited" is no number that others can be derived from."""


def raise_limit() -> None:
    """Takes as many files as the system gives unasked: the usual soft limit of 1,024 is kept low for programs that `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _bounded(hard)
    if _bounded(soft) < wanted:
        # A system that gives less than it says leaves what there was.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def files_granted() -> int:
    """How many files may be open, `FILES_MAX` at the most."""
    return _bounded(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _bounded(limit: int) -> int:
    return FILES_MAX if limit == resource.RLIM_INFINITY else min(limit, FILES_MAX)
