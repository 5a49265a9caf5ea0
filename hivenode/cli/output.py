"""What commands print: one JSON document, or compact tables. Text from other machines is never trusted to be printable."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message

_PIPE_COLUMNS: Final = 200
"""Width of a table that goes into a file or pipe, where nothing need be cut."""
_ID_CHARACTERS: Final = 12
"""As much of a node id as people need to tell machines apart."""


def print_json(document: object) -> None:
    click.echo(json.dumps(document, ensure_ascii=False))


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
    """Text without control characters, which could rewrite a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


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
        click.echo(f"{name:<{width}}  {printable(value)}")
