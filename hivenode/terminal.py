"""Text that may be another machine's, made harmless for a terminal.

A terminal obeys what it is shown: a task's log or a machine's name could set its title, fill the clipboard, or go back over what
was printed and show something else.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any, Final

SPECIAL: Final = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""The controls of ASCII and of Latin-1, what turns the direction of writing, other line ends, and halves of characters; without
tab, line end and carriage return, nor what scripts are written with."""
_OBEYED: Final = re.compile(rf"\r(?!\n)|[{SPECIAL}]")


def harmless(text: str) -> str:
    """All that a terminal would obey is made visible, as `\\x1b`; lines still end, with or without a carriage return."""
    return _OBEYED.sub(lambda found: escaped(found[0]), text)


def escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def harmless_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A line of the daemon's own log, before it is laid out for a terminal; JSON escapes by itself."""
    return {name: harmless(value) if isinstance(value, str) else value for name, value in event.items()}
