"""What goes round every call of the API: what it carries is read once, and whatever fails is answered in one way.

This is no `grpc.aio.ServerInterceptor`: those run before the call is known and cost a task switch each. The router calls
these functions around every handler, which is the same place with less between.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, NoReturn

import grpc
import structlog

from hivenode.encoding.node_record import NodeId
from hivenode.errors import Code, HiveError, InvariantError, Outcome, ensure
from hivenode.pool.records import SessionRecord
from hivenode.runtime.ports import Caller, Standing
from hivenode.runtime.rate_limit import ORIGINS_KEPT
from hivenode.transport.metadata import (
    AUTHORIZATION,
    HIVE_ID,
    HOPS,
    HOPS_MAX,
    IDEMPOTENCY_KEY,
    IDEMPOTENCY_KEY_CHARACTERS_MAX,
    MADE_KEY_PREFIX,
    ORIGIN,
    PEER_TICKET,
    THROUGH,
    TOKEN_CHARACTERS_MAX,
    value_of,
)
from hivenode.transport.routing import DEADLINE_S_MAX, Access, Route
from hivenode.transport.statuses import (
    DeadlinePassedError,
    MalformedError,
    failure_metadata,
    status_metadata,
    status_of,
)

_log = structlog.get_logger(__name__)

ANSWER_MARGIN_S: Final = 0.1
"""Taken off the caller's deadline (a tenth of it at most), so that the reason of a late answer still arrives."""
_BEARER: Final = "Bearer "
_ORIGIN_CHARACTERS_MAX: Final = 128
_SAID_BY_STATUS: Final = frozenset({Code.INVALID_SESSION, Code.PERMISSION_DENIED, Code.WRONG_HIVE, Code.PEER_REJECTED})
"""Refusals that the gRPC status says even where the response has a field for them."""

Context = grpc.aio.ServicerContext[Any, Any]
PeerCheck = Callable[[str, str], tuple[NodeId, bool]]
"""(ticket, hive id) → the proven node, and whether it has voter right; or PEER_REJECTED."""


@dataclass(slots=True, kw_only=True)
class Call:
    """One call on its way.

    Args:
        token: from the metadata, or from the message where it has a field for it; empty when there is none.
        hops: how many peers have forwarded it.
        deadline: on the loop's clock, in seconds.
        on_machine: the caller is on this machine, and no peer brought the call.
        proven: the standing session, set before a handler runs that needs one.
    """

    route: Route
    caller: Caller
    token: str
    hops: int
    deadline: float
    on_machine: bool
    proven: SessionRecord | None = None

    @property
    def by_owner(self) -> bool:
        """Whether the call counts as one of the owner of this machine, who needs no token for it."""
        access = self.route.access
        return self.on_machine and (access is Access.MACHINE or (access is Access.OPERATOR and not self.token))

    def answered_here(self, standing: Standing) -> bool:
        """Whether this node answers the call itself."""
        return self.by_owner or self.route.answered_here(standing)

    @property
    def session(self) -> SessionRecord:
        """The session that the call was authenticated with."""
        session = self.proven
        if session is None:
            ensure(False, f"{self.route.method} reads the session of a call that has none")
            raise AssertionError  # never reached: it tells the type checker that ensure(False) raises
        return session

    def remaining_s(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - asyncio.get_running_loop().time()


def origin_of(peer: str) -> str:
    """The address part of gRPC's peer name, as `ip:1.2.3.4`; a port would make each connection another origin."""
    family, _, address = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return peer[:_ORIGIN_CHARACTERS_MAX]
    return "ip:" + address.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")


@lru_cache(ORIGINS_KEPT)
def _is_loopback(peer: str) -> bool:
    """Whether a call came from this machine, by gRPC's peer name."""
    try:
        return ip_address(origin_of(peer).removeprefix("ip:")).is_loopback
    except ValueError:
        return False


def open_call(route: Route, context: Context, check_peer: PeerCheck) -> Call:
    """Reads what a call carries. Raises INVALID_ARGUMENT, PEER_REJECTED, and NO_LEADER for a call that goes in circles."""
    carried: dict[str, Any] = dict(context.invocation_metadata() or ())
    key = _text(carried, IDEMPOTENCY_KEY)
    if len(key) > IDEMPOTENCY_KEY_CHARACTERS_MAX:
        raise MalformedError(f"{IDEMPOTENCY_KEY} may have {IDEMPOTENCY_KEY_CHARACTERS_MAX} characters at most")
    ticket = _text(carried, PEER_TICKET)
    on_machine = not ticket and _is_loopback(context.peer())
    if route.access is Access.MACHINE and not on_machine:
        raise HiveError(Code.PERMISSION_DENIED, "only from the machine itself whose daemon is asked: log in there")
    origin, through, hops = "", "", 0
    if ticket:
        # Only a peer that has proven itself is believed about where a call came from.
        peer, is_voter = check_peer(ticket, _text(carried, HIVE_ID))
        through = _text(carried, THROUGH)[:_ORIGIN_CHARACTERS_MAX] if is_voter else peer
        origin = _text(carried, ORIGIN)[:_ORIGIN_CHARACTERS_MAX]
        hops = _hops(_text(carried, HOPS))
    elif key.startswith(MADE_KEY_PREFIX):
        # The hive remembers such keys for minutes only: a caller who may repeat for a day would be done twice.
        raise MalformedError(f"{IDEMPOTENCY_KEY} may not begin with `{MADE_KEY_PREFIX}`: choose another key")
    if not key and route.writes:
        key = MADE_KEY_PREFIX + secrets.token_hex(16)
    wanted = context.time_remaining()
    given = route.timeout_s if wanted is None else min(max(wanted, 0.0), DEADLINE_S_MAX)
    deadline_s = given - min(ANSWER_MARGIN_S, given / 10)
    return Call(
        route=route,
        caller=Caller(
            origin=origin or origin_of(context.peer()),
            through=through,
            idempotency_key=key,
            deadline_s=deadline_s,
        ),
        token=_bearer(_text(carried, AUTHORIZATION)),
        hops=hops,
        deadline=asyncio.get_running_loop().time() + deadline_s,
        on_machine=on_machine,
    )


def token_in(context: Context) -> str:
    """The token in a call's metadata; empty when there is none. Raises INVALID_SESSION for what cannot be one."""
    return _bearer(value_of(context.invocation_metadata(), AUTHORIZATION))


def _text(carried: dict[str, Any], name: str) -> str:
    value = carried.get(name, "")
    return value if isinstance(value, str) else ""


def _bearer(text: str) -> str:
    if not text:
        return ""
    if len(text) > TOKEN_CHARACTERS_MAX or text[: len(_BEARER)].casefold() != _BEARER.casefold():
        raise HiveError(Code.INVALID_SESSION, "the metadata must say `authorization: Bearer <token>`: log in again")
    return text[len(_BEARER) :].strip()


def _hops(text: str) -> int:
    hops = int(text) if text.isascii() and text.isdigit() and len(text) < 3 else HOPS_MAX if text else 0
    if hops > HOPS_MAX:
        raise HiveError(Code.NO_LEADER, "the call was forwarded too often: the hive is choosing a leader, try again")
    return hops


def refusal_in(response: type[Any], error: HiveError) -> Any | None:
    """The documented response that carries this refusal; None when the gRPC status has to say it."""
    carried = error.outcome is Outcome.REFUSED or error.code is Code.TASK_NOT_FINISHED
    if not carried or error.code in _SAID_BY_STATUS or isinstance(error, MalformedError):
        return None
    fields = response.DESCRIPTOR.fields_by_name
    if "success" in fields:
        return response(success=False, message=error.message)
    if "healthy" in fields:
        return response(healthy=False, status="UNKNOWN", message=error.message)
    return None


async def refuse(context: Context, error: HiveError) -> NoReturn:
    """Ends the call with the gRPC status of the error; never returns."""
    await context.abort(status_of(error), error.message, status_metadata(error))
    raise AssertionError  # never reached: abort raises


def trail_refusal(context: Context, error: HiveError) -> None:
    """Trails the code of a refusal that goes as a response."""
    context.set_trailing_metadata(failure_metadata(error))


def deadline_error(route: Route) -> HiveError:
    """What a call is told whose deadline passed while it was being answered here."""
    if route.writes:
        return DeadlinePassedError(
            Code.OUTCOME_UNKNOWN,
            f"the deadline passed before the answer: repeat the call with the same {IDEMPOTENCY_KEY} to learn it",
        )
    return DeadlinePassedError(Code.OVERLOADED, "the deadline passed before the answer: try again")


def incident_error(method: str, error: BaseException) -> HiveError:
    """Logs what nobody expected under a random id and returns what the caller may know of it: that id alone."""
    incident = secrets.token_hex(6)
    _log.error("call_failed", incident=incident, method=method, exc_info=error)
    return HiveError(Code.INTERNAL_ERROR, f"internal error; the daemon's log has it as incident {incident}")


def error_for(method: str, error: Exception, on_broken: Callable[[InvariantError], None]) -> HiveError:
    """Whatever went wrong in a handler as an error for the caller; a broken invariant is told to the daemon as well."""
    if isinstance(error, HiveError):
        return error
    if isinstance(error, InvariantError):
        on_broken(error)
    return incident_error(method, error)
