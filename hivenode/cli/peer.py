"""The connection to one daemon: calls with a deadline, repeated with one idempotency key while that is safe.

Every call is tried again on an outcome that says *not done, ask again* or *unknown*, until its deadline. That is safe for
writes because all tries carry the same `hive-idempotency-key`, under which the hive remembers the first reply.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

# grpc would print its own lines about refused connections between ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from google.protobuf.message import DecodeError, Message

from hivenode.cli import logins
from hivenode.cli.settings import Settings, find_peer
from hivenode.errors import Code, HiveError, Outcome
from hivenode.pb import hive_pb2

HIVE: Final = "/hive.HiveService/"
USERS: Final = "/nodepool.UserService/"
MASTER: Final = "/nodepool.MasterNodeService/"

CALL_DEADLINE_S: Final = 30.0
"""How long one command asks again; a new leader is there within three seconds."""
LEADER_SOUGHT_S: Final = 8.0
"""A daemon that says after so long that nobody leads has looked for a leader, as it does for 10 s: asking it again is vain."""
CONNECT_DEADLINE_S: Final = 5.0
"""A daemon answers in milliseconds; a machine that is gone never does."""
TRANSFER_DEADLINE_S: Final = 3600.0
"""One upload, download or watched stream; 4 GiB at 10 Mbit/s take as long."""
COPY_DEADLINE_S: Final = 600.0
"""A copy of the agreed state: 4 GiB at 7 MB/s."""
_PAUSE_S_MIN: Final = 0.1
_PAUSE_S_MAX: Final = 1.0
"""Between tries: short enough to catch a new leader at once, long enough to leave a busy one in peace."""
_MESSAGE_BYTES_MAX: Final = 104 * 1024 * 1024
"""The documented 100 MB and the message round it."""
_KEY_BYTES: Final = 16

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    # A daemon is never behind a web proxy that this machine may be told to use.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name it is how long a connection may take to stand.
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_DEADLINE_S * 1_000)),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A watched stream may be silent for long: a ping tells a quiet machine from a dead one.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)

_CODE_OF_STATUS: Final = {
    grpc.StatusCode.UNAVAILABLE: Code.NODE_OFFLINE,
    grpc.StatusCode.UNAUTHENTICATED: Code.INVALID_SESSION,
    grpc.StatusCode.PERMISSION_DENIED: Code.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT: Code.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Code.OVERLOADED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Code.OUTCOME_UNKNOWN,
    grpc.StatusCode.CANCELLED: Code.OUTCOME_UNKNOWN,
    grpc.StatusCode.UNKNOWN: Code.OUTCOME_UNKNOWN,
    grpc.StatusCode.NOT_FOUND: Code.TASK_NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED: Code.INVALID_ARGUMENT,
}
"""For answers that bear no `hive-error-code`, as those of grpc itself."""

Answer = TypeVar("Answer", bound=Message)


class Peer:
    """A daemon that has answered, and the token to show it.

    Args:
        address: where it was dialled.
        status: what it said of itself at first.
    """

    def __init__(self, address: str, channel: grpc.Channel, status: hive_pb2.GetStatusResponse) -> None:
        self.address: Final = address
        self.status: Final = status
        self.token = ""
        self._channel: Final = channel

    @property
    def hive_id(self) -> str:
        """Raises NOT_A_MEMBER while the daemon is still looking for its hive."""
        if not self.status.hive_id:
            raise HiveError(
                Code.NOT_A_MEMBER,
                f"the daemon at {self.address} belongs to no hive yet: `hivenode status` tells how far it is",
            )
        return self.status.hive_id

    def log_in(self) -> logins.Login:
        """Shows the remembered login in all further calls. Raises INVALID_SESSION when there is none."""
        login = logins.require(self.hive_id, self.address)
        self.token = login.token
        return login

    def call(self, method: str, request: Message, answer: type[Answer], *, work_s: float = 0.0) -> Answer:
        """A unary call, repeated under one key until it is done, refused, vain, or `CALL_DEADLINE_S` is over.

        Args:
            work_s: what the daemon's work may take beside that.

        Raises:
            HiveError: with the code that the daemon gave.
        """
        handle: Any = self._channel.unary_unary(method, request_serializer=type(request).SerializeToString)
        metadata = self._metadata(new_key())
        deadline = time.monotonic() + CALL_DEADLINE_S
        tries = Tries()
        for remaining_s in _tries(deadline):
            tries.stir()
            try:
                data, call = handle.with_call(request, timeout=remaining_s + work_s, metadata=metadata)
            except grpc.RpcError as error:
                tries.failed(self.error_of(error), last=deadline - time.monotonic() <= _PAUSE_S_MAX)
                continue
            response = _read(answer, data, self.address)
            _check_success(response, call)
            return response
        raise tries.outcome()

    def stream(self, method: str, request: Message, answer: type[Answer]) -> Iterator[Answer]:
        """One streamed answer. Raises HiveError where it breaks; the caller knows where to go on."""
        handle: Any = self._channel.unary_stream(method, request_serializer=type(request).SerializeToString)
        call = handle(request, timeout=TRANSFER_DEADLINE_S, metadata=self._metadata(""))
        try:
            for data in call:
                yield _read(answer, data, self.address)
        except grpc.RpcError as error:
            raise self.error_of(error) from None
        finally:
            call.cancel()

    def send(
        self, method: str, pieces: Iterable[Message], sent: type[Message], answer: type[Answer], key: str
    ) -> Answer:
        """One streamed request; to be repeated by the caller, with the same key, from its first piece."""
        handle: Any = self._channel.stream_unary(method, request_serializer=sent.SerializeToString)
        try:
            data = handle(iter(pieces), timeout=TRANSFER_DEADLINE_S, metadata=self._metadata(key))
        except grpc.RpcError as error:
            raise self.error_of(error) from None
        return _read(answer, data, self.address)

    def error_of(self, error: grpc.RpcError) -> HiveError:
        """What an RpcError says, by the daemon's own code where it gave one."""
        call: Any = error  # grpc raises objects that are both, which its type stubs cannot say
        if not isinstance(call, grpc.Call):
            return HiveError(Code.OUTCOME_UNKNOWN, f"the call to {self.address} broke: {error}")
        code = _code_in(call)
        details = call.details() or f"{self.address} refused without a reason"
        if code is not None:
            return HiveError(code, details)
        match call.code():
            case grpc.StatusCode.UNAVAILABLE:
                details = f"the daemon at {self.address} does not answer any more"
            case grpc.StatusCode.UNIMPLEMENTED:
                details = f"{self.address} does not know this call: is it a hivenode of the same version?"
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                details = f"{self.address} gave no answer in time"
        return HiveError(_CODE_OF_STATUS.get(call.code(), Code.OUTCOME_UNKNOWN), details)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _metadata(self, key: str) -> tuple[tuple[str, str], ...]:
        token = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        return (*token, ("hive-idempotency-key", key)) if key else token


def connect(settings: Settings) -> Peer:
    """Dials the daemon that the settings name, one of another machine by TLS, and asks how it is.

    Raises:
        HiveError: NODE_OFFLINE at once when nothing answers there; PEER_REJECTED when another node does than should.
    """
    target = find_peer(settings)
    address = target.address
    if target.is_remote:
        # Only here, since it takes as long to import as a whole command on loopback takes.
        from hivenode.cli.remote import open_remote

        channel = open_remote(settings, target, _OPTIONS, CONNECT_DEADLINE_S)
    else:
        channel = grpc.insecure_channel(address, options=_OPTIONS)
    handle: Any = channel.unary_unary(
        f"{HIVE}GetStatus", request_serializer=hive_pb2.GetStatusRequest.SerializeToString
    )
    peer = Peer(address, channel, hive_pb2.GetStatusResponse())
    try:
        data = handle(hive_pb2.GetStatusRequest(), timeout=CONNECT_DEADLINE_S)
        return Peer(address, channel, _read(hive_pb2.GetStatusResponse, data, address))
    except HiveError:
        channel.close()
        raise
    except grpc.RpcError as error:
        failure = peer.error_of(error)
        channel.close()
        if failure.code in (Code.NODE_OFFLINE, Code.OUTCOME_UNKNOWN):
            raise HiveError(
                Code.NODE_OFFLINE, f"no daemon answers at {address}: start one with `hivenode start --role auto`"
            ) from None
        raise failure from None


def new_key() -> str:
    """A fresh idempotency key: one for all tries of one write."""
    return secrets.token_hex(_KEY_BYTES)


def repeatable(error: HiveError) -> bool:
    """Whether the same call, under the same key, may help."""
    if error.code in (Code.INTERNAL_ERROR, Code.TASK_NOT_FINISHED):
        # A fault in the daemon does not mend itself within seconds, and a task ends when it ends.
        return False
    return error.outcome is not Outcome.REFUSED


class Tries:
    """The failed tries of one call, and what may be said of them all."""

    def __init__(self) -> None:
        self._doubt: HiveError | None = None
        self._failure: HiveError = HiveError(Code.OUTCOME_UNKNOWN, "no answer came in time")
        self._stirred = time.monotonic()

    def stir(self) -> None:
        """A try begins, or got on: what it says after this is not said after a long look for a leader."""
        self._stirred = time.monotonic()

    def failed(self, error: HiveError, *, last: bool = False) -> None:
        """Takes a failed try.

        Raises:
            HiveError: it is the answer. When an earlier try may have been done, the doubt of that try is.
        """
        self._failure = error
        sought = error.code is Code.NO_LEADER and time.monotonic() - self._stirred >= LEADER_SOUGHT_S
        if repeatable(error) and not last and not sought:
            if error.outcome is Outcome.UNKNOWN:
                self._doubt = error
            return
        raise self.outcome() from None

    def outcome(self) -> HiveError:
        """What may be said in the end."""
        if self._doubt is not None and self._failure.outcome is Outcome.RETRY:
            return self._doubt
        return self._failure


def pauses(deadline: float) -> Iterator[None]:
    """Yields after each growing pause, until `deadline` (monotonic seconds)."""
    pause_s = _PAUSE_S_MIN
    while (remaining_s := deadline - time.monotonic()) > 0:
        time.sleep(min(pause_s, remaining_s))
        pause_s = min(pause_s * 2, _PAUSE_S_MAX)
        yield


def _tries(deadline: float) -> Iterator[float]:
    """Seconds left for each try, with a pause before every one but the first."""
    yield deadline - time.monotonic()
    for _ in pauses(deadline):
        yield max(deadline - time.monotonic(), _PAUSE_S_MIN)


def _read(kind: type[Answer], data: bytes, address: str) -> Answer:
    """The message in an answer; gRPC itself would say that the call broke. Raises INTERNAL_ERROR, which is not asked again."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise HiveError(
            Code.INTERNAL_ERROR,
            f"{address} answers what is no {kind.DESCRIPTOR.name}: is `hivenode --version` the same on both sides?",
        ) from None


def _check_success(response: Message, call: grpc.Call) -> None:
    """A refusal that the documented response carries itself is an error like any other here."""
    if "success" in response.DESCRIPTOR.fields_by_name and not getattr(response, "success", True):
        message = str(getattr(response, "message", "")) or "refused without a reason"
        raise HiveError(_code_in(call) or Code.INVALID_ARGUMENT, message)


def _code_in(call: grpc.Call) -> Code | None:
    """The hive's error code in the trailing metadata; None when there is none that is known and not success."""
    for name, value in call.trailing_metadata() or ():
        if name == "hive-error-code":
            try:
                return Code(int(value)) or None
            except ValueError:
                return None
    return None
