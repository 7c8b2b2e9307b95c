"""Which exception a refused call raises, and what it carries."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import creditledger
import grpc
import pytest
from creditledger import (
    BatchDeductResult,
    Cancelled,
    CreditLedgerError,
    DeadlineExceeded,
    DeductResponse,
    ErrorReason,
    FieldViolation,
    InsufficientCredits,
    InternalError,
    InvalidRequest,
    ItemStatus,
    LimitExceeded,
    ResourceExhausted,
    TooManyReservations,
    Unavailable,
    VersionMismatch,
    errors,
    raise_for_status,
)
from creditledger.errors import from_item_status
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tests.client.conftest import Call, FakeServer

Code = grpc.StatusCode

# The code that error_reason.proto gives each reason, and the class that callers catch.
EXPECTED = {
    "FIELD_INVALID": (Code.INVALID_ARGUMENT, errors.InvalidRequest),
    "OPERATION_UNKNOWN": (Code.INVALID_ARGUMENT, errors.OperationUnknown),
    "LEVEL_UNKNOWN": (Code.INVALID_ARGUMENT, errors.LevelUnknown),
    "PACKAGE_UNKNOWN": (Code.INVALID_ARGUMENT, errors.PackageUnknown),
    "ACCOUNT_NOT_FOUND": (Code.NOT_FOUND, errors.AccountNotFound),
    "RESERVATION_NOT_FOUND": (Code.NOT_FOUND, errors.ReservationNotFound),
    "GRANT_NOT_FOUND": (Code.NOT_FOUND, errors.GrantNotFound),
    "ENTRY_NOT_FOUND": (Code.NOT_FOUND, errors.EntryNotFound),
    "CATALOG_NOT_FOUND": (Code.NOT_FOUND, errors.CatalogNotFound),
    "INSUFFICIENT_CREDITS": (Code.FAILED_PRECONDITION, errors.InsufficientCredits),
    "LIMIT_EXCEEDED": (Code.RESOURCE_EXHAUSTED, errors.LimitExceeded),
    "TOO_MANY_RESERVATIONS": (Code.RESOURCE_EXHAUSTED, errors.TooManyReservations),
    "ACCOUNT_FROZEN": (Code.FAILED_PRECONDITION, errors.AccountFrozen),
    "ACCOUNT_CLOSED": (Code.FAILED_PRECONDITION, errors.AccountClosed),
    "RESERVATION_COMMITTED": (Code.FAILED_PRECONDITION, errors.ReservationCommitted),
    "RESERVATION_RELEASED": (Code.FAILED_PRECONDITION, errors.ReservationReleased),
    "RESERVATION_EXPIRED": (Code.FAILED_PRECONDITION, errors.ReservationExpired),
    "REFUND_EXCEEDS_COST": (Code.FAILED_PRECONDITION, errors.RefundExceedsCost),
    "REQUEST_ID_REUSED": (Code.ALREADY_EXISTS, errors.RequestIdReused),
    "ACCOUNT_EXISTS": (Code.ALREADY_EXISTS, errors.AccountExists),
    "PAYMENT_REFERENCE_REUSED": (Code.ALREADY_EXISTS, errors.PaymentReferenceReused),
    "VERSION_MISMATCH": (Code.ABORTED, errors.VersionMismatch),
    "CONTENTION": (Code.ABORTED, errors.Contention),
    "SERVER_OVERLOADED": (Code.RESOURCE_EXHAUSTED, errors.ServerOverloaded),
    "STORAGE_UNAVAILABLE": (Code.UNAVAILABLE, errors.Unavailable),
    "SHUTTING_DOWN": (Code.UNAVAILABLE, errors.Unavailable),
    "DEADLINE_PASSED": (Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
    "CURSOR_INVALID": (Code.INVALID_ARGUMENT, errors.CursorInvalid),
    "CURSOR_AHEAD": (Code.OUT_OF_RANGE, errors.CursorAhead),
    "CURSOR_EXPIRED": (Code.OUT_OF_RANGE, errors.CursorExpired),
    "WATCHER_TOO_SLOW": (Code.RESOURCE_EXHAUSTED, errors.WatcherTooSlow),
    "TOKEN_INVALID": (Code.UNAUTHENTICATED, errors.Unauthenticated),
    "NOT_ALLOWED": (Code.PERMISSION_DENIED, errors.PermissionDenied),
    "NOT_IMPLEMENTED": (Code.UNIMPLEMENTED, errors.Unimplemented),
    "INTERNAL": (Code.INTERNAL, errors.InternalError),
}
REASONS = [name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()]  # noqa: SIM118 - not a dict
REASONS.remove("UNSPECIFIED")

# These wrote nothing, and neither did an attempt before them: its request id was looked up first.
DECIDED_REASONS = {"LIMIT_EXCEEDED", "TOO_MANY_RESERVATIONS", "VERSION_MISMATCH"}

# The ledger decided about the mutation, or an attempt before it would have been decided alike.
DECIDED_CODES = {
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.FAILED_PRECONDITION,
    Code.ALREADY_EXISTS,
    Code.OUT_OF_RANGE,
    Code.UNAUTHENTICATED,
    Code.PERMISSION_DENIED,
    Code.UNIMPLEMENTED,
}


def refuse(call: Call, server: FakeServer, error: grpc.Status, method: str = "deduct") -> CreditLedgerError:
    """What the client raises when the server answers so."""
    rpc, arguments = {
        "deduct": ("Deduct", ("user-1", "script_generation")),
        "get_account": ("GetAccount", ("user-1",)),
        "batch_deduct": ("BatchDeduct", ([creditledger.DeductRequest(), creditledger.DeductRequest()],)),
    }[method]
    server.answer(rpc, error)
    without_retries = {"options": [("grpc.enable_retries", 0)]}
    with pytest.raises(CreditLedgerError) as caught:
        call(method, *arguments, options=without_retries)
    return caught.value


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_raises_a_class_of_its_code(server: FakeServer, call: Call, reason: str) -> None:
    code, expected = EXPECTED[reason]
    error = refuse(call, server, server.error(code, reason, {"key": "value"}))
    assert type(error) is expected
    assert (error.code, error.reason, error.message) == (code, reason, "for a developer")
    assert error.metadata == {"key": "value"}
    assert str(error) == f"{reason}: for a developer"
    assert isinstance(error.__cause__, grpc.RpcError)


@pytest.mark.parametrize("code", sorted(set(Code) - {Code.OK}, key=str))
def test_every_code_without_a_reason_raises_the_base_of_its_reasons(
    server: FakeServer, call: Call, code: Code
) -> None:
    error = refuse(call, server, server.error(code))
    assert type(error) is not CreditLedgerError
    assert (error.code, error.reason, error.metadata) == (code, "", {})
    for expected_code, expected in EXPECTED.values():
        assert expected_code is not code or issubclass(expected, type(error))


def test_a_reason_of_a_newer_server_raises_the_class_of_its_code(server: FakeServer, call: Call) -> None:
    error = refuse(call, server, server.error(Code.FAILED_PRECONDITION, "ACCOUNT_ASLEEP", {"until": "noon"}))
    assert type(error) is errors.FailedPrecondition
    assert error.reason == "ACCOUNT_ASLEEP"
    assert error.metadata == {"until": "noon"}


def test_a_reason_of_another_domain_is_not_taken_for_ours(server: FakeServer, call: Call) -> None:
    foreign = server.error(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", domain="proxy.example.com")
    error = refuse(call, server, foreign)
    assert type(error) is ResourceExhausted
    assert not error.reason


def test_details_that_do_not_belong_to_the_error_are_ignored(server: FakeServer, call: Call) -> None:
    for trailer in (b"\xff not a message", server.error(Code.ABORTED, "CONTENTION").trailing_metadata[0][1]):
        status = server.error(Code.INTERNAL)
        status.trailing_metadata = (("grpc-status-details-bin", trailer),)
        error = refuse(call, server, status)
        assert type(error) is InternalError
        assert not error.reason


def test_a_shortfall_is_told_in_numbers(server: FakeServer, call: Call) -> None:
    metadata = {"required": "5", "available": "2", "shortfall": "3"}
    error = refuse(call, server, server.error(Code.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS", metadata))
    assert isinstance(error, InsufficientCredits)
    assert (error.required, error.available, error.shortfall) == (5, 2, 3)


def test_a_used_up_limit_is_told_with_its_reset(server: FakeServer, call: Call) -> None:
    metadata = {"operation": "voice_creation", "period": "MONTH", "limit": "1", "used": "1"}
    metadata["resetTime"] = "2026-12-01T00:00:00Z"
    details: list[Message] = [RetryInfo(retry_delay=Duration(seconds=90, nanos=500_000_000))]
    error = refuse(call, server, server.error(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", metadata, *details))
    assert isinstance(error, LimitExceeded)
    assert (error.operation, error.period, error.limit, error.used) == ("voice_creation", "MONTH", 1, 1)
    assert error.reset_time == datetime(2026, 12, 1, tzinfo=UTC)
    assert error.retry_delay == timedelta(seconds=90.5)


def test_a_limit_that_never_resets_has_no_reset_time(server: FakeServer, call: Call) -> None:
    metadata = {"operation": "voice_creation", "period": "LIFETIME", "limit": "1", "used": "1"}
    error = refuse(call, server, server.error(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", metadata))
    assert isinstance(error, LimitExceeded)
    assert error.reset_time is None
    assert error.retry_delay is None


def test_how_many_reservations_are_active_is_told(server: FakeServer, call: Call) -> None:
    status = server.error(Code.RESOURCE_EXHAUSTED, "TOO_MANY_RESERVATIONS", {"active": "1000"})
    error = refuse(call, server, status)
    assert isinstance(error, TooManyReservations)
    assert error.active == 1000


def test_a_version_mismatch_tells_both_versions(server: FakeServer, call: Call) -> None:
    status = server.error(Code.ABORTED, "VERSION_MISMATCH", {"expected": "3", "current": "4"})
    error = refuse(call, server, status)
    assert isinstance(error, VersionMismatch)
    assert (error.expected, error.current) == (3, 4)


def test_every_bad_field_is_named(server: FakeServer, call: Call) -> None:
    violations = [
        FieldViolation("account_id", "must not be empty"),
        FieldViolation("quantity", "must be 1 or more"),
    ]
    detail = BadRequest(field_violations=[BadRequest.FieldViolation(**v._asdict()) for v in violations])
    error = refuse(call, server, server.error(Code.INVALID_ARGUMENT, "FIELD_INVALID", {}, detail))
    assert isinstance(error, InvalidRequest)
    assert error.field_violations == tuple(violations)


@pytest.mark.parametrize("reason", REASONS)
def test_the_outcome_is_known_only_where_the_ledger_decided(
    server: FakeServer, call: Call, reason: str
) -> None:
    code, _ = EXPECTED[reason]
    error = refuse(call, server, server.error(code, reason))
    decided = code in DECIDED_CODES or reason in DECIDED_REASONS
    assert error.outcome_unknown is not decided


def test_a_mutation_tells_the_request_id_it_sent(server: FakeServer, call: Call) -> None:
    error = refuse(call, server, server.error(Code.INTERNAL, "INTERNAL"))
    assert error.request_id == server.requests["Deduct"][0].request_id
    assert error.request_ids == (error.request_id,)


def test_a_batch_tells_the_request_ids_of_its_items(server: FakeServer, call: Call) -> None:
    error = refuse(call, server, server.error(Code.INTERNAL, "INTERNAL"), "batch_deduct")
    sent = tuple(item.request_id for item in server.requests["BatchDeduct"][0].requests)
    assert error.request_ids == sent
    assert error.request_id is None
    assert error.outcome_unknown


def test_a_read_has_no_request_id_and_no_unknown_outcome(server: FakeServer, call: Call) -> None:
    error = refuse(call, server, server.error(Code.INTERNAL, "INTERNAL"), "get_account")
    assert (error.request_id, error.request_ids, error.outcome_unknown) == (None, (), False)


def test_looking_an_entry_up_by_its_request_is_no_mutation(server: FakeServer, call: Call) -> None:
    server.answer("GetEntry", server.error(Code.INTERNAL, "INTERNAL"))
    with pytest.raises(InternalError) as caught:
        call("get_entry", "user-1", request_id="job-7")
    assert caught.value.request_id is None
    assert not caught.value.outcome_unknown


def test_an_error_survives_pickling() -> None:
    error = InsufficientCredits(
        "too little",
        code=Code.FAILED_PRECONDITION,
        reason="INSUFFICIENT_CREDITS",
        metadata={"shortfall": "3"},
        field_violations=[FieldViolation("quantity", "too large")],
        retry_delay=timedelta(seconds=1),
        request_ids=["job-7"],
        outcome_unknown=True,
    )
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is InsufficientCredits
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_an_error_of_a_call_survives_pickling(server: FakeServer, call: Call) -> None:
    error = refuse(call, server, server.error(Code.ABORTED, "CONTENTION"))
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


@pytest.mark.parametrize("reason", REASONS)
def test_an_item_of_a_batch_raises_what_the_single_call_would(reason: str) -> None:
    code, expected = EXPECTED[reason]
    status = ItemStatus(
        code=code.value[0],
        reason=ErrorReason.Value(f"ERROR_REASON_{reason}"),
        message="for a developer",
        metadata={"key": "value"},
        field_violations=[ItemStatus.FieldViolation(field="quantity", description="too large")],
        retry_delay=Duration(seconds=90, nanos=500_000_000),
    )
    error = from_item_status(status, "job-7")
    assert type(error) is expected
    assert (error.code, error.reason, error.message) == (code, reason, "for a developer")
    assert error.metadata == {"key": "value"}
    assert error.field_violations == (FieldViolation("quantity", "too large"),)
    assert error.retry_delay == timedelta(seconds=90.5)
    assert error.request_id == "job-7"


def test_an_item_with_what_this_version_does_not_know_raises_by_its_code() -> None:
    newer = ItemStatus.FromString(b"\x08\x09\x10\xe7\x07")  # code 9, reason 999
    assert type(from_item_status(newer)) is errors.FailedPrecondition
    assert type(from_item_status(ItemStatus(code=99))) is InternalError
    assert not from_item_status(newer).reason
    assert from_item_status(newer).retry_delay is None


def test_a_result_of_a_batch_is_its_response_or_raises() -> None:
    charged = BatchDeductResult(response=DeductResponse(cost=5))
    assert raise_for_status(charged).cost == 5
    refused = BatchDeductResult(status=ItemStatus(code=4))
    with pytest.raises(DeadlineExceeded) as caught:
        raise_for_status(refused, "job-7")
    assert caught.value.request_id == "job-7"
    assert caught.value.outcome_unknown


def test_every_error_is_a_credit_ledger_error_and_in_the_public_surface() -> None:
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert {Cancelled, Unavailable} <= set(classes)
    for cls in classes:
        assert issubclass(cls, CreditLedgerError)
        assert getattr(creditledger, cls.__name__) is cls
        assert cls.__name__ in creditledger.__all__
        assert cls.__name__ in (errors.__doc__ or "")
