# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""Turns the status that a call ended with into an error of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from creditledger.errors import CreditLedgerError, FieldViolation, class_of, is_undecided

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import grpc

_DOMAIN = "creditledger"
_DETAILS_KEY = "grpc-status-details-bin"


def error_from_rpc(error: grpc.RpcError, request_ids: Sequence[str] = ()) -> CreditLedgerError:
    """The error to raise for one of gRPC's, sync or async.

    Args:
        error: What the call ended with.
        request_ids: The ids of the mutations that the call sent; none for a read.
    """
    code = error.code()
    info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in _status_of(error).details:
        # Unpack fills the message of the detail's own type and leaves the others alone.
        for message in (info, bad_request, retry):
            detail.Unpack(message)
    # The reason of another domain, a proxy's for example, is none of ours even if it has the same name.
    reason = info.reason if info.domain == _DOMAIN else ""
    return class_of(code, reason)(
        error.details() or "",
        code=code,
        reason=reason,
        metadata=info.metadata,
        field_violations=[FieldViolation(v.field, v.description) for v in bad_request.field_violations],
        retry_delay=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
        request_ids=request_ids,
        outcome_unknown=bool(request_ids) and is_undecided(code, reason),
    )


def _status_of(error: grpc.RpcError) -> Status:
    """The rich status in the trailers; an empty one if there is none, or none that belongs to this error."""
    trailers = cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ())
    try:
        # Not dict(trailers), which goes by keys(): those of grpc.aio are pairs in grpcio 1.76.
        status = Status.FromString(next((value for key, value in trailers if key == _DETAILS_KEY), b""))
    except DecodeError:
        return Status()
    return status if status.code == error.code().value[0] else Status()
