# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""What the client raises.

There is a class for each gRPC status code and, below it, one for each reason that calls for another reaction.
A reason that this version does not know is raised as the class of its code.

    CreditLedgerError
    ├── InvalidRequest             INVALID_ARGUMENT; FIELD_INVALID
    │   ├── OperationUnknown
    │   ├── LevelUnknown
    │   ├── PackageUnknown
    │   └── CursorInvalid
    ├── NotFound                   NOT_FOUND
    │   ├── AccountNotFound
    │   ├── ReservationNotFound
    │   ├── GrantNotFound
    │   ├── EntryNotFound
    │   └── CatalogNotFound
    ├── FailedPrecondition         FAILED_PRECONDITION
    │   ├── InsufficientCredits
    │   ├── AccountFrozen
    │   ├── AccountClosed
    │   ├── ReservationCommitted
    │   ├── ReservationReleased
    │   ├── ReservationExpired
    │   └── RefundExceedsCost
    ├── ResourceExhausted          RESOURCE_EXHAUSTED
    │   ├── LimitExceeded
    │   ├── TooManyReservations
    │   ├── ServerOverloaded
    │   └── WatcherTooSlow
    ├── AlreadyExists              ALREADY_EXISTS
    │   ├── RequestIdReused
    │   ├── AccountExists
    │   └── PaymentReferenceReused
    ├── Aborted                    ABORTED
    │   ├── VersionMismatch
    │   └── Contention
    ├── OutOfRange                 OUT_OF_RANGE
    │   ├── CursorAhead
    │   └── CursorExpired
    ├── Unavailable                UNAVAILABLE; STORAGE_UNAVAILABLE, SHUTTING_DOWN, no connection
    ├── DeadlineExceeded           DEADLINE_EXCEEDED; DEADLINE_PASSED
    ├── Cancelled                  CANCELLED
    ├── Unauthenticated            UNAUTHENTICATED; TOKEN_INVALID
    ├── PermissionDenied           PERMISSION_DENIED; NOT_ALLOWED
    ├── Unimplemented              UNIMPLEMENTED; NOT_IMPLEMENTED
    └── InternalError              INTERNAL, UNKNOWN, DATA_LOSS
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import grpc

from creditledger.v1.error_reason_pb2 import ErrorReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from creditledger.v1.credit_ledger_pb2 import BatchDeductResult, DeductResponse
    from creditledger.v1.resources_pb2 import ItemStatus


class FieldViolation(NamedTuple):
    """One field of a request that breaks a documented rule."""

    field: str
    """The path of the field, for example "requests[3].account_id"."""
    description: str
    """The rule that it breaks."""


class CreditLedgerError(Exception):
    """A call did not succeed. The base of all errors of this package.

    The gRPC error, where there is one, is the `__cause__`.
    """

    code: grpc.StatusCode
    """The gRPC status code."""
    reason: str
    """The name in ErrorReason without its prefix, for example "INSUFFICIENT_CREDITS"; "" if the answer had
    none, which is so when it is not the server's own (no connection, a proxy, the client's deadline)."""
    message: str
    """For a developer to read; not stable."""
    metadata: dict[str, str]
    """The changing values of the message under lowerCamelCase keys; ErrorReason documents them."""
    field_violations: tuple[FieldViolation, ...]
    """Every field that breaks a rule; empty but for INVALID_ARGUMENT."""
    retry_delay: timedelta | None
    """How long the server asks to wait before another attempt; None if it does not say."""
    request_ids: tuple[str, ...]
    """The request ids that the call sent, given or drawn, in the order of its items; empty for a read."""
    outcome_unknown: bool
    """Whether the mutation may have happened nevertheless: send it again with the same request id to find
    out, and to make it happen. False for reads, and where the ledger decided that nothing is written."""

    def __init__(
        self,
        message: str = "",
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        retry_delay: timedelta | None = None,
        request_ids: Sequence[str] = (),
        outcome_unknown: bool = False,
    ) -> None:
        # All but the message have defaults, because unpickling calls cls(message) and then restores the rest.
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.retry_delay = retry_delay
        self.request_ids = tuple(request_ids)
        self.outcome_unknown = outcome_unknown

    @property
    def request_id(self) -> str | None:
        """The mutation's request id, given or drawn; None for a read and for a batch of several."""
        return self.request_ids[0] if len(self.request_ids) == 1 else None

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"


class InvalidRequest(CreditLedgerError):
    """The request breaks a documented rule; `field_violations` names every field that does."""


class OperationUnknown(InvalidRequest):
    """The current catalog has no such operation."""


class LevelUnknown(InvalidRequest):
    """The current catalog has no such level."""


class PackageUnknown(InvalidRequest):
    """The current catalog has no such package."""


class CursorInvalid(InvalidRequest):
    """The cursor is of another ledger, was altered, or belongs to other account ids."""


class NotFound(CreditLedgerError):
    """What the request names does not exist, or is not the caller's."""


class AccountNotFound(NotFound):
    """No such account, and the request names no account_level to open it at."""


class ReservationNotFound(NotFound):
    """The account has no such reservation."""


class GrantNotFound(NotFound):
    """The account has no such grant."""


class EntryNotFound(NotFound):
    """The account has no such entry."""


class CatalogNotFound(NotFound):
    """The ledger has no catalog of that version, or none at all yet."""


class FailedPrecondition(CreditLedgerError):
    """The state of the ledger does not allow it; the same call fails until something else changes that."""


class InsufficientCredits(FailedPrecondition):
    """The cost exceeds what is available; HTTP 402 to an end user.

    Nothing was written. After a top-up the same request id may succeed. Amounts are in the ledger's minor
    unit.
    """

    @property
    def required(self) -> int:
        """What the operation costs."""
        return int(self.metadata["required"])

    @property
    def available(self) -> int:
        """What the account can spend."""
        return int(self.metadata["available"])

    @property
    def shortfall(self) -> int:
        """How much is missing: required less available."""
        return int(self.metadata["shortfall"])


class AccountFrozen(FailedPrecondition):
    """The account is frozen: it answers reads and replays and refuses spending."""


class AccountClosed(FailedPrecondition):
    """The account is closed."""


class ReservationCommitted(FailedPrecondition):
    """The reservation was committed before."""


class ReservationReleased(FailedPrecondition):
    """The reservation was released before."""


class ReservationExpired(FailedPrecondition):
    """The reservation has expired, and what is available does not cover a late commit."""


class RefundExceedsCost(FailedPrecondition):
    """The refund asks for more than is left of the entry's cost."""


class ResourceExhausted(CreditLedgerError):
    """A limit was reached: of the account's level, of the server, or of a message's size."""


class LimitExceeded(ResourceExhausted):
    """The level's limit of uses in a period is used up; HTTP 429 to an end user.

    Nothing was written. `retry_delay` tells how long the period lasts; None if it never ends.
    """

    @property
    def operation(self) -> str:
        """The operation that is limited."""
        return self.metadata["operation"]

    @property
    def period(self) -> str:
        """The span over which uses count: "DAY", "WEEK", "MONTH" or "LIFETIME"."""
        return self.metadata["period"]

    @property
    def limit(self) -> int:
        """How many uses the level allows in the period."""
        return int(self.metadata["limit"])

    @property
    def used(self) -> int:
        """How many uses have counted in the current period."""
        return int(self.metadata["used"])

    @property
    def reset_time(self) -> datetime | None:
        """When `used` falls back to 0, with its time zone; None for a limit that never resets."""
        text = self.metadata.get("resetTime")
        return datetime.fromisoformat(text) if text else None


class TooManyReservations(ResourceExhausted):
    """The account has as many active reservations as it may. Commit or release some, or run fewer jobs at once.

    Nothing was written.
    """

    @property
    def active(self) -> int:
        """How many are active."""
        return int(self.metadata["active"])


class ServerOverloaded(ResourceExhausted):
    """More is waiting than the server takes on. Try again after `retry_delay`."""


class WatcherTooSlow(ResourceExhausted):
    """The reader of a stream fell too far behind. `watch_usage` resumes by itself and never raises this."""


class AlreadyExists(CreditLedgerError):
    """What the request would make exists."""


class RequestIdReused(AlreadyExists):
    """The request id was accepted before with other content; nothing was done now.

    A bug in the caller: one request id belongs to one logical call.
    """


class AccountExists(AlreadyExists):
    """The account is open already, under another request id."""


class PaymentReferenceReused(AlreadyExists):
    """The payment was credited before, to another account or as another package; nothing was done now."""


class Aborted(CreditLedgerError):
    """Somebody else was in the way."""


class VersionMismatch(Aborted):
    """The catalog is at another version than the expected one. Read it again, then decide."""

    @property
    def expected(self) -> int:
        """The version that the request expected."""
        return int(self.metadata["expected"])

    @property
    def current(self) -> int:
        """The version that the catalog is at."""
        return int(self.metadata["current"])


class Contention(Aborted):
    """Waiting for the account's lock took too long. Try again with the same request id."""


class OutOfRange(CreditLedgerError):
    """The request asks for history that is not there."""


class CursorAhead(OutOfRange):
    """The cursor is ahead of the ledger: a backup was restored, or history lost. Watch without a cursor."""


class CursorExpired(OutOfRange):
    """The history after the cursor is no longer kept for watching all accounts. Watch without a cursor."""


class Unavailable(CreditLedgerError):
    """No server answered, the server goes away, or its database did not answer; the retries are used up."""


class DeadlineExceeded(CreditLedgerError):
    """The call's timeout passed before there was an answer."""


class Cancelled(CreditLedgerError):
    """The call was ended, for example because the client was closed under it."""


class Unauthenticated(CreditLedgerError):
    """No token, or one that is malformed, expired or revoked."""


class PermissionDenied(CreditLedgerError):
    """The token does not allow this call or this account."""


class Unimplemented(CreditLedgerError):
    """This version of the server does not serve the call or the option."""


class InternalError(CreditLedgerError):
    """A bug in the server, which has logged it under metadata["incidentId"], or in what lies between."""


_BY_CODE: dict[grpc.StatusCode, type[CreditLedgerError]] = {
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: InternalError,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}

_BY_REASON: dict[str, type[CreditLedgerError]] = {
    "FIELD_INVALID": InvalidRequest,
    "OPERATION_UNKNOWN": OperationUnknown,
    "LEVEL_UNKNOWN": LevelUnknown,
    "PACKAGE_UNKNOWN": PackageUnknown,
    "ACCOUNT_NOT_FOUND": AccountNotFound,
    "RESERVATION_NOT_FOUND": ReservationNotFound,
    "GRANT_NOT_FOUND": GrantNotFound,
    "ENTRY_NOT_FOUND": EntryNotFound,
    "CATALOG_NOT_FOUND": CatalogNotFound,
    "INSUFFICIENT_CREDITS": InsufficientCredits,
    "LIMIT_EXCEEDED": LimitExceeded,
    "TOO_MANY_RESERVATIONS": TooManyReservations,
    "ACCOUNT_FROZEN": AccountFrozen,
    "ACCOUNT_CLOSED": AccountClosed,
    "RESERVATION_COMMITTED": ReservationCommitted,
    "RESERVATION_RELEASED": ReservationReleased,
    "RESERVATION_EXPIRED": ReservationExpired,
    "REFUND_EXCEEDS_COST": RefundExceedsCost,
    "REQUEST_ID_REUSED": RequestIdReused,
    "ACCOUNT_EXISTS": AccountExists,
    "PAYMENT_REFERENCE_REUSED": PaymentReferenceReused,
    "VERSION_MISMATCH": VersionMismatch,
    "CONTENTION": Contention,
    "SERVER_OVERLOADED": ServerOverloaded,
    "STORAGE_UNAVAILABLE": Unavailable,
    "SHUTTING_DOWN": Unavailable,
    "DEADLINE_PASSED": DeadlineExceeded,
    "CURSOR_INVALID": CursorInvalid,
    "CURSOR_AHEAD": CursorAhead,
    "CURSOR_EXPIRED": CursorExpired,
    "WATCHER_TOO_SLOW": WatcherTooSlow,
    "TOKEN_INVALID": Unauthenticated,
    "NOT_ALLOWED": PermissionDenied,
    "NOT_IMPLEMENTED": Unimplemented,
    "INTERNAL": InternalError,
}

# Answers that leave open whether a mutation happened. ABORTED and RESOURCE_EXHAUSTED are among them although
# such an attempt wrote nothing: an earlier attempt of the same call may have, behind an UNAVAILABLE that the
# channel retried; and a response too large to receive is RESOURCE_EXHAUSTED too.
_UNDECIDED_CODES = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
# Decided after the request id was looked up: had an earlier attempt been accepted, this would be its replay.
_DECIDED_REASONS = frozenset({"LIMIT_EXCEEDED", "TOO_MANY_RESERVATIONS", "VERSION_MISMATCH"})

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def class_of(code: grpc.StatusCode, reason: str) -> type[CreditLedgerError]:
    """The class of an error: by its reason if this version knows it, else by its code."""
    return _BY_REASON.get(reason) or _BY_CODE.get(code, CreditLedgerError)


def is_undecided(code: grpc.StatusCode, reason: str) -> bool:
    """Whether a mutation that got this answer may have happened."""
    return code in _UNDECIDED_CODES and reason not in _DECIDED_REASONS


def from_item_status(status: ItemStatus, request_id: str | None = None) -> CreditLedgerError:
    """The error that the single call would have raised for one item of a batch.

    Args:
        status: The status of a BatchDeductResult.
        request_id: The item's request id, for the error to carry; a status does not tell it.
    """
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    reason = _reason_name(status.reason)
    return class_of(code, reason)(
        status.message,
        code=code,
        reason=reason,
        metadata=status.metadata,
        field_violations=[FieldViolation(v.field, v.description) for v in status.field_violations],
        retry_delay=status.retry_delay.ToTimedelta() if status.HasField("retry_delay") else None,
        request_ids=() if request_id is None else (request_id,),
        outcome_unknown=is_undecided(code, reason),
    )


def raise_for_status(result: BatchDeductResult, request_id: str | None = None) -> DeductResponse:
    """The response of one item of a batch, as `deduct` would have returned it.

    Args:
        result: One of BatchDeductResponse.results.
        request_id: The item's request id, for an error to carry.

    Raises:
        CreditLedgerError: What `deduct` would have raised.
    """
    if result.HasField("status"):
        raise from_item_status(result.status, request_id)
    return result.response


def _reason_name(reason: ErrorReason.ValueType) -> str:
    # A newer server may send a value that this version has no name for.
    known = reason in ErrorReason.values() and reason != ErrorReason.ERROR_REASON_UNSPECIFIED
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_") if known else ""
