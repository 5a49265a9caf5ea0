"""What a way to find peers looks like. A new one fills this protocol and is named in the daemon; it decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Somebody may answer here; it counts only after it was called back.

    Args:
        address: `ip:port`, an IPv6 address in brackets.
        source: which finder says so.
        node_id: who it is said to be; a hint without an author, empty when nothing is said.
    """

    address: str
    source: str
    node_id: str


Emit: TypeAlias = Callable[[Candidate], None]
"""Called in the event loop, at once and again for what is found again; must not block or raise."""


class Finder(Protocol):
    async def start(self, emit: Emit) -> None:
        """Begins to look, and returns; what cannot be done now is tried again by itself."""
        ...

    async def aclose(self) -> None:
        """Stops; nothing is emitted after it returns."""
        ...


def join_host_port(host: str, port: int) -> str:
    """`host:port`, with brackets round an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
