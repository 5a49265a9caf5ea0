"""What clients did and learned, held against the log and against what one object at a time could have been.

Rules:
- What was acknowledged stands in the log with that very answer.
- Accounts that only transfers touch, user names, and the sessions of wanderers are linearizable objects; a session that has
  ended stands for nobody any more.
- A write whose caller learned nothing is looked up in the log: what is not there never happened, and what is there had
  happened by the time at which a replica applied it first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code
from hivenode.pool import queries
from hivenode.pool.commands import Reply
from simulations.calls import Failure
from simulations.checkers.agreed import AgreedChecker
from simulations.checkers.linearizable import Operation, State, Step, check
from simulations.checkers.violation import demand
from simulations.hive_life import GRANT
from simulations.workload import Done

_ACCOUNT_WRITES: Final = ("transfer", "register")


@dataclass(frozen=True, slots=True)
class _Effect:
    """A write that happened: its answer, by when, and where it stands in the log."""

    reply: Reply
    returned_us: int
    index: int


def check_history(history: Iterable[Done], agreed: AgreedChecker, view: ReadView) -> int:
    """Looks at all that the clients did. Returns how many operations were held against an object.

    Raises:
        Violation: something acknowledged is not there, or no order explains what was answered.
    """
    everything = list(history)
    for done in everything:
        _check_acknowledged(done, agreed, view)
    looked_at = 0
    for user in sorted({done.user for done in everything if done.kind in ("transfer", "balance")}):
        looked_at += _check_object(f"the account of {user}", account_history(user, everything, agreed), -1)
    for name in sorted({done.user for done in everything if done.kind == "taken"}):
        looked_at += _check_object(f"the name {name}", name_history(name, everything, agreed), False)
    sessions = {name for done in everything for name in (done.session, done.opened) if name}
    for session in sorted(sessions):
        looked_at += _check_object(f"the session {session}", session_history(session, everything, agreed), "new")
    return looked_at


def _check_acknowledged(done: Done, agreed: AgreedChecker, view: ReadView) -> None:
    if not isinstance(done.result, Reply):
        return
    known = agreed.requests.get((done.owner, done.key))
    demand(known is not None, f"{done.kind} {done.owner}/{done.key} was acknowledged and is not in the log")
    if known is not None:
        demand(
            known[1] == done.result,
            f"{done.kind} {done.owner}/{done.key} was answered {done.result}, the log says {known[1]}",
        )
    if done.accepted and done.kind == "register":
        demand(queries.user(view, done.user) is not None, f"the user {done.user} was acknowledged and is gone")


def _check_object(what: str, operations: list[Operation], start: State) -> int:
    unexplained = check(operations, start)
    if unexplained is not None:
        operation = unexplained.operation
        demand(
            False,
            f"{what} is not linearizable: {operation.text}, called at {operation.called_at}, returned at "
            f"{operation.returned_at}; before it: {', '.join(map(str, unexplained.states[:8]))}",
        )
    return len(operations)


def _effect_of(done: Done, agreed: AgreedChecker) -> _Effect | None:
    known = agreed.requests.get((done.owner, done.key))
    if known is None:
        return None
    index, reply = known
    if isinstance(done.result, Reply):
        return _Effect(done.result, done.returned_us, index)
    return _Effect(reply, max(done.called_us, agreed.first_applied_us[index]), index)


def account_history(user: str, history: Iterable[Done], agreed: AgreedChecker) -> list[Operation]:
    """The operations on one account; its state is the balance, -1 before there is a user."""
    found: list[Operation] = []
    for done in history:
        if done.kind == "balance" and done.user == user and not isinstance(done.result, Failure):
            found.append(_operation(done, done.returned_us, _sees(done.result), f"balance of {user} = {done.result}"))
        elif done.kind in _ACCOUNT_WRITES and user in (done.user, done.receiver):
            effect = _effect_of(done, agreed)
            step = _account_step(user, done, effect.reply) if effect is not None else None
            if effect is not None and step is not None:
                text = f"{done.kind} {done.key} {done.user} -> {done.receiver} {done.amount}: {effect.reply}"
                found.append(_operation(done, effect.returned_us, step, text, effect.index))
    return found


def name_history(name: str, history: Iterable[Done], agreed: AgreedChecker) -> list[Operation]:
    """The operations on one user name; its state says whether it is taken."""
    found: list[Operation] = []
    for done in history:
        if done.user != name:
            continue
        if done.kind == "taken" and not isinstance(done.result, Failure):
            found.append(_operation(done, done.returned_us, _same(done.result), f"{name} taken: {done.result}"))
        elif done.kind == "register":
            effect = _effect_of(done, agreed)
            if effect is None:
                continue
            step = _same(True) if effect.reply.code == Code.USER_EXISTS else _takes
            text = f"register {name}: {effect.reply}"
            found.append(_operation(done, effect.returned_us, step, text, effect.index))
    return found


def session_history(session: str, history: Iterable[Done], agreed: AgreedChecker) -> list[Operation]:
    """The operations on one session; its state is new, open, or over for good."""
    everything = list(history)
    user = next(done.user for done in everything if session in (done.session, done.opened))
    found: list[Operation] = []
    for done in everything:
        if done.user != user:
            continue
        if done.kind == "stands" and done.session == session and not isinstance(done.result, Failure):
            step = _same("open") if done.result else _ends
            found.append(_operation(done, done.returned_us, step, f"{session} stands: {done.result}"))
        elif done.kind in ("login", "logout", "refresh", "password", "claim"):
            effect = _effect_of(done, agreed)
            change = _session_step(session, done, effect.reply) if effect is not None else None
            if effect is not None and change is not None:
                text = f"{done.kind} {done.key} by {done.session} opens {done.opened}: {effect.reply}"
                found.append(_operation(done, effect.returned_us, change, text, effect.index))
    return found


def _session_step(session: str, done: Done, reply: Reply) -> Step | None:
    if reply.code == Code.INVALID_SESSION:
        # Its time may have been over, or too many newer ones.
        return _ends if done.session == session else None
    if reply.code != Code.SUCCESS:
        return None
    if done.opened == session:
        return lambda state: "open" if state == "new" else None
    if done.kind == "password" and done.session != session:
        return _ends
    if done.session != session:
        return None
    if done.kind == "claim":
        return _same("open")
    return lambda state: "over" if state == "open" else None


def _ends(state: State) -> State:
    """It stands no more, if it ever did."""
    return "over" if state == "open" else state


def _operation(done: Done, returned_us: int, step: Step, text: str, place: int | None = None) -> Operation:
    return Operation(called_at=done.called_us, returned_at=returned_us, step=step, text=text, place=place)


def _takes(state: State) -> State | None:
    return True if state is False else None


def _same(value: object) -> Step:
    return lambda state: state if state == value else None


def _sees(balance: int) -> Step:
    """A balance that was read; somebody who is not a user yet has none."""
    return lambda state: state if state == balance or (state == -1 and balance == 0) else None


def _account_step(user: str, done: Done, reply: Reply) -> Step | None:
    if done.kind == "register":
        if reply.code == Code.SUCCESS:
            return lambda state: GRANT if state == -1 else None
        return lambda state: None if state == -1 else state
    if reply.code == Code.INSUFFICIENT_BALANCE:
        return (lambda state: state if _number(state) < done.amount else None) if done.user == user else None
    if reply.code == Code.USER_NOT_FOUND:
        return (lambda state: state if state == -1 else None) if done.receiver == user else None
    if reply.code != Code.SUCCESS:
        return None
    if done.user == user:
        return lambda state: reply.number if _number(state) - done.amount == reply.number >= 0 else None
    return lambda state: _number(state) + done.amount if state != -1 else None


def _number(state: State) -> int:
    return state if isinstance(state, int) else -1
