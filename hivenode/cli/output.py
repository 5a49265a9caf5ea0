"""What commands print: one JSON document, or compact tables. Text from other machines is never trusted to be printable.

All text goes through `say`, logs through `LogOutput`, and JSON through `print_json`.
"""

from __future__ import annotations

import codecs
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from hivenode.terminal import SPECIAL, escaped, harmless

if TYPE_CHECKING:
    from google.protobuf.message import Message

_PIPE_COLUMNS: Final = 200
"""Width of a table that goes into a file or pipe, where nothing need be cut."""
_ID_CHARACTERS: Final = 12
"""As much of a node id as people need to tell machines apart."""
_OBEYED_IN_JSON: Final = re.compile(rf"[{SPECIAL}]")


def print_json(document: object) -> None:
    """One document on a line. What a terminal would obey stands only within its strings, in JSON's own form."""
    text = json.dumps(document, ensure_ascii=False)
    click.echo(_OBEYED_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints text that may be another machine's: at a terminal so that it cannot act there, into a file or pipe as it is.

    Args:
        err: on stderr.
        nl: whether a line end follows.
    """
    stream = sys.stderr if err else sys.stdout
    click.echo(harmless(text) if stream.isatty() else text, err=err, nl=nl)


class LogOutput:
    """A log that is printed as it comes, as `say` does: at a terminal what it would obey is made visible.

    Args:
        stream: stdout or stderr.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: Final = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace") if stream.isatty() else None
        self._held = ""

    def write(self, piece: bytes) -> None:
        """Prints the next piece, which may end within a character."""
        if self._decoder is None:
            self._put(piece)
            return
        text = self._held + self._decoder.decode(piece)
        # Whether it ends a line is known when the next letter is there.
        self._held = "\r" if text.endswith("\r") else ""
        self._show(text.removesuffix("\r"))

    def end(self) -> None:
        """Prints what was held back of the last piece."""
        if self._decoder is not None:
            self._show(self._held + self._decoder.decode(b"", final=True))

    def _show(self, text: str) -> None:
        self._put(harmless(text).encode(self._stream.encoding, "backslashreplace"))

    def _put(self, data: bytes) -> None:
        self._stream.buffer.write(data)
        self._stream.buffer.flush()


def plain_values(message: Message) -> dict[str, Any]:
    """A protobuf message in JSON's types. Unlike protobuf's own form numbers stay numbers, and unset optionals are null."""
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            document[field.name] = [_plain(item) for item in value]
        elif field.has_presence and not message.HasField(field.name):
            document[field.name] = None
        else:
            document[field.name] = _plain(value)
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return plain_values(value) if hasattr(value, "DESCRIPTOR") else value


def printable(text: str) -> str:
    """Text that stays on its line and in its place: all but letters, signs and blanks is made visible, wherever it is printed."""
    return "".join(letter if letter.isprintable() else escaped(letter) for letter in text)


def short(node_id: str) -> str:
    return printable(node_id[:_ID_CHARACTERS])


def ago(moment_ms: int) -> str:
    """How long ago a moment was, as a person says it; empty for 0."""
    if moment_ms <= 0:
        return ""
    seconds = max(0, int(time.time() - moment_ms / 1000))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table without borders; a narrow terminal folds the cells instead of cutting them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=_PIPE_COLUMNS)
    console.print(table)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Lines of `name  value`, the empty ones left out."""
    lines = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        say(f"{name:<{width}}  {printable(value)}")
