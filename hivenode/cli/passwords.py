"""Passwords: asked for without echo, or the next line of what is piped in; never an argument."""

from __future__ import annotations

import sys
from typing import Final

import click

_PASSWORD_CHARACTERS_MAX: Final = 1024
"""The daemon's own bound; more is refused before anything is sent."""


def ask_password(username: str, confirm: bool, question: str = "") -> str:
    """The password of `username`, asked twice with `confirm` when a person types it.

    Args:
        question: asked instead of the usual one.

    Raises:
        click.UsageError: it is empty or too long.
    """
    if sys.stdin.isatty():
        asked = question or f"Password of {username}"
        password = str(click.prompt(asked, hide_input=True, confirmation_prompt=confirm, err=True))
    else:
        password = sys.stdin.readline(_PASSWORD_CHARACTERS_MAX + 2).rstrip("\r\n")
    if not password:
        raise click.UsageError("the password is empty: type one when asked, or pipe it in as the first line")
    if len(password) > _PASSWORD_CHARACTERS_MAX:
        raise click.UsageError(f"the password is longer than {_PASSWORD_CHARACTERS_MAX} characters")
    return password
