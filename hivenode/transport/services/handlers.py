"""What the services hand to the router: a function for each method.

A unary handler takes (request message, call) and returns the response message. An upload's request is an iterator of
messages; a download returns one. A handler only translates: it bounds the fields, calls one port and builds the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from hivenode.transport.interceptors.calls import Call

Handler: TypeAlias = Callable[[Any, Call], Any]
