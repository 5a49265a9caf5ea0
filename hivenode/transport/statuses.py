"""Errors on the wire: `HiveError` to gRPC status with its details and trailing metadata, and back at the calling side.

Every failure carries `hive-error-code` and `hive-outcome` in the trailing metadata, and a `google.rpc.ErrorInfo` in
`grpc-status-details-bin`; a failure without them was not spoken by a daemon but made by the connection.
"""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from hivenode.errors import ERROR_DOMAIN, Code, HiveError
from hivenode.transport.metadata import ERROR_CODE, OUTCOME, STATUS_DETAILS, Metadata, value_of

_S = grpc.StatusCode
GRPC_STATUS: Final[dict[Code, grpc.StatusCode]] = {
    Code.USER_NOT_FOUND: _S.NOT_FOUND,
    Code.INVALID_PASSWORD: _S.UNAUTHENTICATED,
    Code.USER_EXISTS: _S.ALREADY_EXISTS,
    Code.INVALID_SESSION: _S.UNAUTHENTICATED,
    Code.PERMISSION_DENIED: _S.PERMISSION_DENIED,
    Code.INVALID_ARGUMENT: _S.INVALID_ARGUMENT,
    Code.RATE_LIMITED: _S.RESOURCE_EXHAUSTED,
    Code.IDEMPOTENCY_CONFLICT: _S.FAILED_PRECONDITION,
    Code.NODE_NOT_FOUND: _S.NOT_FOUND,
    Code.NODE_OFFLINE: _S.UNAVAILABLE,
    Code.INSUFFICIENT_RESOURCES: _S.FAILED_PRECONDITION,
    Code.NODE_EXISTS: _S.ALREADY_EXISTS,
    Code.NO_LEADER: _S.UNAVAILABLE,
    Code.OUTCOME_UNKNOWN: _S.UNKNOWN,
    Code.WRONG_HIVE: _S.FAILED_PRECONDITION,
    Code.PEER_REJECTED: _S.UNAUTHENTICATED,
    Code.NODE_REMOVED: _S.PERMISSION_DENIED,
    Code.OVERLOADED: _S.RESOURCE_EXHAUSTED,
    Code.NOT_A_MEMBER: _S.UNAVAILABLE,
    Code.SHUTTING_DOWN: _S.UNAVAILABLE,
    Code.TASK_NOT_FOUND: _S.NOT_FOUND,
    Code.TASK_FAILED: _S.FAILED_PRECONDITION,
    Code.TASK_CANCELLED: _S.FAILED_PRECONDITION,
    Code.TASK_EXISTS: _S.ALREADY_EXISTS,
    Code.TASK_NOT_FINISHED: _S.FAILED_PRECONDITION,
    Code.INVALID_TASK: _S.INVALID_ARGUMENT,
    Code.STALE_ATTEMPT: _S.FAILED_PRECONDITION,
    Code.DEPENDENCY_FAILED: _S.FAILED_PRECONDITION,
    Code.INSUFFICIENT_BALANCE: _S.FAILED_PRECONDITION,
    Code.INVALID_AMOUNT: _S.INVALID_ARGUMENT,
    Code.ACCOUNT_NOT_FOUND: _S.NOT_FOUND,
    Code.BLOB_NOT_FOUND: _S.NOT_FOUND,
    Code.BLOB_TOO_LARGE: _S.FAILED_PRECONDITION,
    Code.TOO_FEW_COPIES: _S.UNAVAILABLE,
    Code.DISK_FULL: _S.RESOURCE_EXHAUSTED,
    Code.BLOB_CORRUPT: _S.DATA_LOSS,
    Code.INTERNAL_ERROR: _S.INTERNAL,
}

SUCCESS_METADATA: Final[Metadata] = ((ERROR_CODE, "0"),)


class MalformedError(HiveError):
    """Input out of its bounds: always said by the gRPC status, since no port has seen the call."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INVALID_ARGUMENT, message)


class DeadlinePassedError(HiveError):
    """The call's deadline passed here, which gRPC has a status of its own for."""


def failure_metadata(error: HiveError) -> Metadata:
    """What trails a refusal that the response itself carries."""
    return ((ERROR_CODE, str(int(error.code))), (OUTCOME, error.outcome.value))


def status_of(error: HiveError) -> grpc.StatusCode:
    """The gRPC status that says the error best."""
    return _S.DEADLINE_EXCEEDED if isinstance(error, DeadlinePassedError) else GRPC_STATUS[error.code]


def status_metadata(error: HiveError) -> Metadata:
    """What trails an error that the gRPC status says: the code, the outcome, and the ErrorInfo."""
    info = ErrorInfo(
        reason=error.code.name,
        domain=ERROR_DOMAIN,
        metadata={"outcome": error.outcome.value, "code": str(int(error.code))},
    )
    packed = AnyMessage()
    packed.Pack(info)
    status = Status(code=status_of(error).value[0], message=error.message, details=[packed])
    return (*failure_metadata(error), (STATUS_DETAILS, status.SerializeToString()))


def code_in(metadata: Metadata | None) -> Code | None:
    """The daemon's code in trailing metadata; None when no daemon spoke."""
    text = value_of(metadata, ERROR_CODE)
    if not text:
        return None
    try:
        return Code(int(text))
    except ValueError:
        return Code.INTERNAL_ERROR  # a code of a newer daemon, of which nothing may be concluded


def error_of(error: grpc.aio.AioRpcError, whom: str) -> HiveError:
    """The error of a failed call to a peer, as the peer said it or as the connection shows it."""
    code = code_in(tuple(error.trailing_metadata() or ()))
    details = error.details() or error.code().name
    if code is not None and code is not Code.SUCCESS:
        return HiveError(code, details)
    if error.code() is _S.UNIMPLEMENTED:
        return HiveError(Code.PEER_REJECTED, f"{whom} does not speak the hive's protocol")
    if error.code() is _S.DEADLINE_EXCEEDED:
        return HiveError(Code.NODE_OFFLINE, f"{whom} did not answer in time")
    return HiveError(Code.NODE_OFFLINE, f"{whom} cannot be reached: {details}")
