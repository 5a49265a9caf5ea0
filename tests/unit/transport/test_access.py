"""Who may make which call: the document says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hivenode.pool.records import UserRole
from hivenode.transport.routing import ROUTES, Access

DOCUMENT = Path(__file__).parents[3] / "docs" / "security-users.md"


def documented() -> dict[str, set[str]]:
    """The calls of each access, as `Service/Method`, from the table of the document."""
    found: dict[str, set[str]] = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0] in {access.value for access in Access} and "`:" in cells[2]:
            for service, methods in re.findall(r"`(\w+)`: ([\w, ]+)", cells[2]):
                found.setdefault(cells[0], set()).update(f"{service}/{name}" for name in methods.split(", "))
    return found


@pytest.mark.parametrize("access", list(Access))
def test_document_and_code_say_the_same_of_who_may_call(access: Access) -> None:
    calls = {name.rpartition(".")[2] for name, route in ROUTES.items() if route.access is access}
    assert documented()[access.value] == calls


def test_every_role_is_in_the_document() -> None:
    text = DOCUMENT.read_text()
    for role in UserRole:
        assert re.search(rf"^\| {role.value} \| .+ \| .+ \|$", text, re.MULTILINE), role
