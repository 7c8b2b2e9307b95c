"""From refusals to statuses: the table of contract §7, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from creditledger.v1 import resources_pb2
from creditledger.v1.error_reason_pb2 import ErrorReason
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2
from grpc import StatusCode

from ..domain.refusal import Reason, Refused
from ..domain.times import iso_time
from .convert import duration

DOMAIN = "creditledger"

# Clients drop an answer whose trailers exceed 8 KiB.
MAX_MESSAGE = 300
MAX_VIOLATIONS = 20
MAX_PATH = 100
MAX_RULE = 100

CODES: dict[Reason, StatusCode] = {
    Reason.FIELD_INVALID: StatusCode.INVALID_ARGUMENT,
    Reason.OPERATION_UNKNOWN: StatusCode.INVALID_ARGUMENT,
    Reason.LEVEL_UNKNOWN: StatusCode.INVALID_ARGUMENT,
    Reason.ACCOUNT_NOT_FOUND: StatusCode.NOT_FOUND,
    Reason.ENTRY_NOT_FOUND: StatusCode.NOT_FOUND,
    Reason.CATALOG_NOT_FOUND: StatusCode.NOT_FOUND,
    Reason.INSUFFICIENT_CREDITS: StatusCode.FAILED_PRECONDITION,
    Reason.LIMIT_EXCEEDED: StatusCode.RESOURCE_EXHAUSTED,
    Reason.ACCOUNT_FROZEN: StatusCode.FAILED_PRECONDITION,
    Reason.ACCOUNT_CLOSED: StatusCode.FAILED_PRECONDITION,
    Reason.REQUEST_ID_REUSED: StatusCode.ALREADY_EXISTS,
    Reason.ACCOUNT_EXISTS: StatusCode.ALREADY_EXISTS,
    Reason.VERSION_MISMATCH: StatusCode.ABORTED,
    Reason.CONTENTION: StatusCode.ABORTED,
    Reason.SERVER_OVERLOADED: StatusCode.RESOURCE_EXHAUSTED,
    Reason.STORAGE_UNAVAILABLE: StatusCode.UNAVAILABLE,
    Reason.SHUTTING_DOWN: StatusCode.UNAVAILABLE,
    Reason.DEADLINE_PASSED: StatusCode.DEADLINE_EXCEEDED,
    Reason.CURSOR_INVALID: StatusCode.INVALID_ARGUMENT,
    Reason.CURSOR_AHEAD: StatusCode.OUT_OF_RANGE,
    Reason.CURSOR_EXPIRED: StatusCode.OUT_OF_RANGE,
    Reason.WATCHER_TOO_SLOW: StatusCode.RESOURCE_EXHAUSTED,
    Reason.PACKAGE_UNKNOWN: StatusCode.INVALID_ARGUMENT,
    Reason.RESERVATION_NOT_FOUND: StatusCode.NOT_FOUND,
    Reason.GRANT_NOT_FOUND: StatusCode.NOT_FOUND,
    Reason.RESERVATION_COMMITTED: StatusCode.FAILED_PRECONDITION,
    Reason.RESERVATION_RELEASED: StatusCode.FAILED_PRECONDITION,
    Reason.RESERVATION_EXPIRED: StatusCode.FAILED_PRECONDITION,
    Reason.REFUND_EXCEEDS_COST: StatusCode.FAILED_PRECONDITION,
    Reason.PAYMENT_REFERENCE_REUSED: StatusCode.ALREADY_EXISTS,
    Reason.TOO_MANY_RESERVATIONS: StatusCode.RESOURCE_EXHAUSTED,
    Reason.NOT_IMPLEMENTED: StatusCode.UNIMPLEMENTED,
    Reason.INTERNAL: StatusCode.INTERNAL,
}

# What names that which was not found, the most particular first.
_NAMES = ("reservationId", "grantId", "accountId", "version")


def cut(text: str, most: int) -> str:
    """The text, cut to so many bytes of UTF-8."""
    return text.encode()[:most].decode(errors="ignore")


def reason_number(reason: Reason) -> ErrorReason.ValueType:
    """The public enum's value of a reason."""
    return ErrorReason.Value(f"ERROR_REASON_{reason.value}")


def metadata(refusal: Refused) -> dict[str, str]:
    """What ErrorInfo tells: the refusal's own values, and at which revision and time it was decided."""
    told = dict(refusal.metadata)
    if refusal.revision is not None and refusal.decide_time is not None:
        told.setdefault(
            "revision", str(refusal.revision)
        )  # of an entry that was not found, it is the one asked for
        told["decideTime"] = iso_time(refusal.decide_time)
    return told


def rich_status(refusal: Refused) -> status_pb2.Status:
    """The status with its details, as ``grpc-status-details-bin`` carries it."""
    messages: list[Message] = [
        details_pb2.ErrorInfo(reason=refusal.reason.value, domain=DOMAIN, metadata=metadata(refusal))
    ]
    if detail := _detail(refusal):
        messages.append(detail)
    if delay := _retry_delay(refusal):
        messages.append(details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(
        code=CODES[refusal.reason].value[0],
        message=cut(refusal.message, MAX_MESSAGE),
        details=[_packed(m) for m in messages],
    )


def _violations(refusal: Refused) -> Sequence[tuple[str, str]]:
    told = [
        (cut(field, MAX_PATH), cut(rule, MAX_RULE)) for field, rule in refusal.violations[:MAX_VIOLATIONS]
    ]
    if more := len(refusal.violations) - len(told):
        told.append(("", f"and {more} more"))
    return told


def item_status(refusal: Refused) -> resources_pb2.ItemStatus:
    """The same for one item of a batch."""
    return resources_pb2.ItemStatus(
        code=CODES[refusal.reason].value[0],
        reason=reason_number(refusal.reason),
        message=cut(refusal.message, MAX_MESSAGE),
        metadata=metadata(refusal),
        field_violations=[
            resources_pb2.ItemStatus.FieldViolation(field=field, description=rule)
            for field, rule in _violations(refusal)
        ],
        retry_delay=_retry_delay(refusal),
    )


def _retry_delay(refusal: Refused) -> Duration | None:
    return None if refusal.retry_after is None else duration(refusal.retry_after)


def _detail(refusal: Refused) -> Any:
    """The detail that fits besides ErrorInfo and RetryInfo."""
    told = refusal.metadata
    if refusal.violations:
        return details_pb2.BadRequest(
            field_violations=[
                details_pb2.BadRequest.FieldViolation(field=field, description=rule)
                for field, rule in _violations(refusal)
            ]
        )
    if CODES[refusal.reason] is StatusCode.NOT_FOUND:
        kind = refusal.reason.value.removesuffix("_NOT_FOUND").lower()
        name = next((told[key] for key in _NAMES if key in told), "")
        return details_pb2.ResourceInfo(resource_type=kind, resource_name=name, description=refusal.message)
    if refusal.reason is Reason.INSUFFICIENT_CREDITS:
        violation = details_pb2.PreconditionFailure.Violation(
            type=refusal.reason.value, subject="balance.available", description=refusal.message
        )
        return details_pb2.PreconditionFailure(violations=[violation])
    if refusal.reason is Reason.LIMIT_EXCEEDED:
        quota = details_pb2.QuotaFailure.Violation(subject=told["operation"], description=refusal.message)
        return details_pb2.QuotaFailure(violations=[quota])
    return None


def _packed(message: Message) -> PackedAny:
    packed = PackedAny()
    packed.Pack(message)
    return packed
