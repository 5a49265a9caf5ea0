"""What a rule of the pool has at hand while one log entry is applied."""

from __future__ import annotations

from hivenode.encoding.node_record import Verify
from hivenode.encoding.records import decode_record
from hivenode.encoding.state_view import ReadView, StateView
from hivenode.errors import Code, HiveError, ensure
from hivenode.pool import keys
from hivenode.pool.commands import Reply
from hivenode.pool.events import Event
from hivenode.pool.records import SessionRecord, UserName

DONE = Reply(code=int(Code.SUCCESS), message="")


class Context:
    """One application of one entry: the view, the agreed clock in ms, and what happens on the way.

    `sender` is the user whose session a command showed, empty until `sender_of` found one.
    """

    __slots__ = ("events", "index", "now_ms", "sender", "verify", "view")

    def __init__(self, view: StateView, index: int, now_ms: int, verify: Verify) -> None:
        self.view = view
        self.index = index
        self.now_ms = now_ms
        self.verify = verify
        self.events: list[Event] = []
        self.sender = ""

    def sender_of(self, session_id: str) -> UserName:
        """The user of a session that stands. Raises INVALID_SESSION."""
        session = standing_session(self.view, session_id, self.now_ms)
        if session is None:
            raise HiveError(Code.INVALID_SESSION, "The session has ended; log in again.")
        self.sender = session.username
        return session.username


def standing_session(view: ReadView, session_id: str, now_ms: int) -> SessionRecord | None:
    """The session with this id, or None when there is none or its time is over."""
    if not keys.sound(session_id):
        return None
    row = view.get(keys.by_text(keys.SESSIONS, session_id))
    if row is None:
        return None
    session = decode_record(SessionRecord, row)
    return session if session.expires_ms > now_ms else None


def count(view: ReadView, key: bytes) -> int:
    """The number in a counter's row; 0 without one."""
    row = view.get(key)
    return 0 if row is None else int.from_bytes(row, "big")


def bump(view: StateView, key: bytes, change: int) -> int:
    """Adds to a counter; its row goes when it comes to 0. Returns the new number."""
    new = count(view, key) + change
    ensure(new >= 0, "a counter of the agreed state would go below 0")
    if new:
        view.put(key, keys.number(new))
    else:
        view.delete(key)
    return new


def done(*, number: int = 0, text: str = "", message: str = "") -> Reply:
    """A success."""
    return Reply(code=int(Code.SUCCESS), message=message, number=number, text=text)
