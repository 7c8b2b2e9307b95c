"""Refusals as statuses: codes, reasons, metadata and details, and that clients can take them."""

from __future__ import annotations

import re
from math import ceil
from pathlib import Path

import pytest
from creditledger.v1 import resources_pb2 as pb
from creditledger.v1.error_reason_pb2 import ErrorReason
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.rpc.status import CODES, item_status, metadata, reason_number, rich_status
from creditledger_server.rpc.validate import Fields
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2
from grpc import StatusCode

PROTO = Path(__file__).parents[2] / "protos/creditledger/v1/error_reason.proto"
# Each value's comment begins with its code.
DOCUMENTED = {
    reason: code
    for code, reason in re.findall(
        r"\n\n  // ([A-Z_]+)[.;][^\n]*\n(?:  //[^\n]*\n)*  ERROR_REASON_([A-Z_]+) = ",
        PROTO.read_text("utf-8"),
    )
}
MESSAGES: dict[str, type[Message]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        details_pb2.ErrorInfo,
        details_pb2.BadRequest,
        details_pb2.ResourceInfo,
        details_pb2.PreconditionFailure,
        details_pb2.QuotaFailure,
        details_pb2.RetryInfo,
    )
}


def details(status: status_pb2.Status) -> dict[str, Message]:
    """The details of a status by the last part of their names, each of which must be there once."""
    told: dict[str, Message] = {}
    for packed in status.details:
        kind = MESSAGES[packed.TypeName()]
        message = kind()
        assert packed.Unpack(message)
        assert kind.__name__ not in told
        told[kind.__name__] = message
    return told


def size_of_trailers(refused: Refused) -> int:
    """What the trailers of a refusal take: base64 of the details, and the message percent-encoded."""
    details = len(rich_status(refused).SerializeToString())
    message = rich_status(refused).message.encode()
    return ceil(details / 3) * 4 + sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in message)


# ── Codes and reasons ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_the_code_that_the_proto_documents(reason: Reason) -> None:
    assert CODES[reason].name == DOCUMENTED[reason.value]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_a_public_one_of_the_same_name(reason: Reason) -> None:
    assert reason.name == reason.value
    assert ErrorReason.Name(reason_number(reason)) == f"ERROR_REASON_{reason.value}"
    assert reason_number(reason) != ErrorReason.ERROR_REASON_UNSPECIFIED


@pytest.mark.parametrize("reason", Reason)
def test_every_refusal_has_one_error_info(reason: Reason) -> None:
    refused = Refused(reason, "what happened", operation="voice", someValue=7)
    status = rich_status(refused)
    assert (status.code, status.message) == (CODES[reason].value[0], "what happened")
    assert details(status)["ErrorInfo"] == details_pb2.ErrorInfo(
        reason=reason.value, domain="creditledger", metadata={"operation": "voice", "someValue": "7"}
    )


@pytest.mark.parametrize("retry_after", [None, 0, 1_500_000])
@pytest.mark.parametrize("reason", Reason)
def test_an_item_of_a_batch_tells_what_the_status_would(reason: Reason, retry_after: int | None) -> None:
    violations = (("account_id", "must be"),) if CODES[reason] is StatusCode.INVALID_ARGUMENT else ()
    refused = Refused(reason, "no", violations=violations, retry_after=retry_after, operation="voice")
    status = rich_status(refused.decided_at(3, 0))
    told = details(status)
    info, bad = details_pb2.ErrorInfo(), details_pb2.BadRequest()
    info.MergeFrom(told["ErrorInfo"])
    bad.MergeFrom(told.get("BadRequest", details_pb2.BadRequest()))
    expected = pb.ItemStatus(
        code=status.code,
        reason=ErrorReason.Value(f"ERROR_REASON_{info.reason}"),
        message=status.message,
        metadata=info.metadata,
        field_violations=[
            pb.ItemStatus.FieldViolation(field=violation.field, description=violation.description)
            for violation in bad.field_violations
        ],
    )
    if retry := told.get("RetryInfo"):
        assert isinstance(retry, details_pb2.RetryInfo)
        expected.retry_delay.CopyFrom(retry.retry_delay)
    assert item_status(refused) == expected
    assert ("RetryInfo" in told) == (retry_after is not None)


# ── Metadata ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_metadata_is_text_and_tells_the_shortfall_and_when_it_was_decided() -> None:
    refused = Refused(Reason.INSUFFICIENT_CREDITS, "no", shortfall=3, required=5, available=2)
    assert metadata(refused) == {"required": "5", "available": "2", "shortfall": "3"}
    assert metadata(refused.decided_at(7, 1_793_491_200_000_001)) == {
        "required": "5",
        "available": "2",
        "shortfall": "3",
        "revision": "7",
        "decideTime": "2026-11-01T00:00:00.000001Z",
    }


def test_a_refusal_of_an_unopened_account_is_decided_at_revision_zero() -> None:
    assert metadata(Refused(Reason.ACCOUNT_NOT_FOUND, "no").decided_at(0, 0))["revision"] == "0"


def test_to_tell_metadata_changes_no_refusal() -> None:
    refused = Refused(Reason.INTERNAL, "no").decided_at(1, 1)
    metadata(refused)["revision"] = "2"
    assert refused.metadata == {}


# ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "reason",
    [Reason.FIELD_INVALID, Reason.OPERATION_UNKNOWN, Reason.LEVEL_UNKNOWN, Reason.CURSOR_INVALID],
)
def test_bad_fields_are_a_bad_request(reason: Reason) -> None:
    told = details(rich_status(Refused(reason, "no", violations=(("a", "must be b"), ("c", "is required")))))
    violation = details_pb2.BadRequest.FieldViolation
    assert set(told) == {"ErrorInfo", "BadRequest"}
    assert told["BadRequest"] == details_pb2.BadRequest(
        field_violations=[
            violation(field="a", description="must be b"),
            violation(field="c", description="is required"),
        ]
    )


@pytest.mark.parametrize(
    ("refused", "resource_type", "resource_name"),
    [
        (Refused(Reason.ACCOUNT_NOT_FOUND, "none", accountId="ann"), "account", "ann"),
        (Refused(Reason.ENTRY_NOT_FOUND, "none", accountId="ann", revision=7), "entry", "ann"),
        (Refused(Reason.CATALOG_NOT_FOUND, "none", version=3), "catalog", "3"),
    ],
)
def test_what_is_not_found_is_a_resource(refused: Refused, resource_type: str, resource_name: str) -> None:
    told = details(rich_status(refused))
    assert set(told) == {"ErrorInfo", "ResourceInfo"}
    assert told["ResourceInfo"] == details_pb2.ResourceInfo(
        resource_type=resource_type, resource_name=resource_name, description="none"
    )


def test_missing_credits_are_a_failed_precondition() -> None:
    told = details(rich_status(Refused(Reason.INSUFFICIENT_CREDITS, "too few", shortfall=1)))
    violation = details_pb2.PreconditionFailure.Violation(
        type="INSUFFICIENT_CREDITS", subject="balance.available", description="too few"
    )
    assert set(told) == {"ErrorInfo", "PreconditionFailure"}
    assert told["PreconditionFailure"] == details_pb2.PreconditionFailure(violations=[violation])


@pytest.mark.parametrize("retry_after", [None, 60_000_000])
def test_a_used_up_limit_is_a_quota_and_tells_when_to_come_back(retry_after: int | None) -> None:
    told = details(
        rich_status(Refused(Reason.LIMIT_EXCEEDED, "used up", retry_after=retry_after, operation="voice"))
    )
    violation = details_pb2.QuotaFailure.Violation(subject="voice", description="used up")
    assert told["QuotaFailure"] == details_pb2.QuotaFailure(violations=[violation])
    assert ("RetryInfo" in told) == (retry_after is not None)


@pytest.mark.parametrize(
    ("retry_after", "seconds", "nanos"),
    [(0, 0, 0), (200_000, 0, 200_000_000), (1_000_000, 1, 0), (86_400_500_000, 86_400, 500_000_000)],
)
def test_where_waiting_helps_the_time_to_wait_is_told(retry_after: int, seconds: int, nanos: int) -> None:
    told = details(rich_status(Refused(Reason.CONTENTION, "busy", retry_after=retry_after)))
    retry = told["RetryInfo"]
    assert isinstance(retry, details_pb2.RetryInfo)
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (seconds, nanos)


def test_the_time_to_wait_for_a_limit_is_exact() -> None:
    for micros in (1, 57, 1_001, 86_399_999_999, 2_505_599_999_997):
        for exact in range(micros, micros + 50):
            refused = Refused(Reason.LIMIT_EXCEEDED, "no", retry_after=exact, operation="voice")
            retry = details(rich_status(refused))["RetryInfo"]
            assert isinstance(retry, details_pb2.RetryInfo)
            assert retry.retry_delay.ToMicroseconds() == exact


@pytest.mark.parametrize(
    "reason",
    [
        Reason.ACCOUNT_FROZEN,
        Reason.ACCOUNT_CLOSED,
        Reason.REQUEST_ID_REUSED,
        Reason.ACCOUNT_EXISTS,
        Reason.VERSION_MISMATCH,
        Reason.CURSOR_AHEAD,
        Reason.NOT_IMPLEMENTED,
        Reason.DEADLINE_PASSED,
        Reason.INTERNAL,
    ],
)
def test_other_refusals_have_no_further_detail(reason: Reason) -> None:
    assert set(details(rich_status(Refused(reason, "no")))) == {"ErrorInfo"}


# ── What clients accept ───────────────────────────────────────────────────────────────────────────────────────────


def test_only_so_many_violations_are_told_and_how_many_more_there_are() -> None:
    told = [(f"f{number}", "is wrong") for number in range(25)]
    refused = Refused(Reason.FIELD_INVALID, "no", violations=tuple(told))
    bad = details(rich_status(refused))["BadRequest"]
    assert isinstance(bad, details_pb2.BadRequest)
    pairs = [(violation.field, violation.description) for violation in bad.field_violations]
    assert pairs == [*told[:20], ("", "and 5 more")]
    assert [(v.field, v.description) for v in item_status(refused).field_violations] == pairs


def test_as_many_violations_as_fit_are_told_whole() -> None:
    violations = tuple((f"f{number}", "is wrong") for number in range(20))
    assert len(item_status(Refused(Reason.FIELD_INVALID, "no", violations=violations)).field_violations) == 20


def test_long_paths_and_rules_are_cut() -> None:
    refused = Refused(Reason.FIELD_INVALID, "no", violations=(("f" * 1_000, "r" * 1_000),))
    [violation] = item_status(refused).field_violations
    assert (len(violation.field), len(violation.description)) == (100, 100)


def refusal_of_metrics(character: str) -> Refused:
    """The refusal of a usage with as many bad names of metrics as it may have, all of this character."""
    fields = Fields()
    fields.usage(pb.Usage(metrics={character * 60 + f"{number:02}": -1 for number in range(32)}))
    with pytest.raises(Refused) as caught:
        fields.check()
    return caught.value


@pytest.mark.parametrize(
    "character",
    [
        "Z",
        "é",
        "😀",
        "\x01",
        "\U000e0001",
    ],
    ids=ascii,
)
def test_the_trailers_of_a_refusal_stay_below_8_kib(character: str) -> None:
    assert size_of_trailers(refusal_of_metrics(character)) < 8_192
