"""Bad input to reservations, refunds, grants, purchases and summaries; the others are in test_rpc_malformed.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bad_input import (
    BAD_DURATIONS,
    BAD_IDS,
    BAD_LABELS,
    BAD_NAMES,
    BAD_QUANTITIES,
    BAD_SIZES,
    BAD_TEXTS,
    BAD_TIMES,
    BAD_TOKENS,
    MAX,
    MIN,
    NOT_POSITIVE,
    UNKNOWN_NUMBERS,
    Row,
    Table,
    changed_by,
    check_named,
)
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import KNOWN, Ledger, unique

RESERVATION = "r4"
"""What the fixture ``held`` reserves on the account."""

NO_STATE: Any = 0

FUTURE = 4_102_444_800
"""The year 2100, in seconds."""

BAD_NUMBERED = {
    **{name: value for name, value in BAD_IDS.items() if name != "combining"},
    "no number": "{}",
    "zero": "{}0",
    "leading zero": "{}04",
    "plus": "{}+4",
    "minus": "{}-4",
    "point": "{}4.0",
    "capital": "R4",
    "number only": "4",
    "of another kind": "e4",
    "2^63": "{}9223372036854775808",
    "20 digits": "{}10000000000000000000",
    "Arabic digit": "{}\u0664",
    "superscript": "{}\u00b2",
    "newline": "{}4\n",
    "underscore": "{}1_0",
}
BAD_TTLS = {
    **BAD_DURATIONS,
    "0": Duration(),
    "999 ms": Duration(nanos=999_000_000),
    "a nanosecond too short": Duration(nanos=999_999_999),
    "a nanosecond beyond 24 h": Duration(seconds=86_400, nanos=1),
    "24 h and a second": Duration(seconds=86_401),
    "negative nanos in range": Duration(seconds=60, nanos=-1),
    "a whole second of nanos in range": Duration(seconds=60, nanos=10**9),
}


def valid() -> dict[str, Any]:
    """A valid request of every method, about the account and its reservation."""
    fields: dict[str, Any] = {"request_id": unique(), "account_id": KNOWN}
    reservation: dict[str, Any] = {**fields, "reservation_id": RESERVATION}
    minute = Duration(seconds=60)
    return {
        "Reserve": pb.ReserveRequest(operation="chat_refinement", **fields),
        "CommitReservation": pb.CommitReservationRequest(**reservation),
        "ReleaseReservation": pb.ReleaseReservationRequest(**reservation),
        "ExtendReservation": pb.ExtendReservationRequest(ttl=minute, **reservation),
        "GetReservation": pb.GetReservationRequest(account_id=KNOWN, reservation_id=RESERVATION),
        "ListReservations": pb.ListReservationsRequest(account_id=KNOWN),
        "Refund": pb.RefundRequest(revision=3, **fields),
        "SummarizeUsage": pb.SummarizeUsageRequest(account_id=KNOWN),
        "GetBalance": pb.GetBalanceRequest(account_id=KNOWN),
        "UpdateAccount": admin_pb.UpdateAccountRequest(
            level="free", update_mask=FieldMask(paths=["level"]), **fields
        ),
        "GrantCredits": admin_pb.GrantCreditsRequest(amount=1, **fields),
        "VoidGrant": admin_pb.VoidGrantRequest(grant_id="g2", **fields),
        "ListGrants": admin_pb.ListGrantsRequest(account_id=KNOWN),
        "AdjustBalance": admin_pb.AdjustBalanceRequest(amount=1, reason="why", **fields),
        "ListPackages": admin_pb.ListPackagesRequest(),
        "PurchasePackage": admin_pb.PurchasePackageRequest(
            package_id="starter", payment_reference=unique("payment"), **fields
        ),
    }


TABLE = Table(valid)


def numbered(method: str, field: str, letter: str) -> Iterator[Row]:
    """Rows of a name that the ledger gives: a letter and a number."""
    yield from TABLE.setting(
        method, field, {name: text.replace("{}", letter) for name, text in BAD_NUMBERED.items()}
    )


def reservation_rows() -> Iterator[Row]:
    yield from TABLE.setting("Reserve", "operation", BAD_NAMES)
    yield from TABLE.setting(
        "Reserve", "account_level", {name: text for name, text in BAD_NAMES.items() if text}
    )
    for method in ("Reserve", "CommitReservation"):
        yield from TABLE.setting(method, "quantity", BAD_QUANTITIES)
    for method in ("Reserve", "ExtendReservation"):
        yield from TABLE.setting(method, "ttl", BAD_TTLS)
    yield TABLE.row("ExtendReservation", "missing", "ttl", lambda request: request.ClearField("ttl"))
    for method in ("CommitReservation", "ReleaseReservation", "ExtendReservation", "GetReservation"):
        yield from numbered(method, "reservation_id", "r")
    yield from TABLE.setting("ReleaseReservation", "reason", BAD_TEXTS)
    yield from TABLE.metrics("Reserve")
    yield from TABLE.usage("CommitReservation")


def grant_rows() -> Iterator[Row]:
    for field in ("effective_time", "expire_time"):
        yield from TABLE.setting("GrantCredits", field, BAD_TIMES)
    past = {
        "1970": Timestamp(),
        "year 1": Timestamp(seconds=-62_135_596_800),
        "2020": Timestamp(seconds=1_577_836_800),
    }
    yield from TABLE.setting("GrantCredits", "expire_time", past)
    for name, seconds in {"the instant at which it begins": FUTURE, "before it begins": FUTURE - 1}.items():

        def change(request: admin_pb.GrantCreditsRequest, seconds: int = seconds) -> None:
            request.effective_time.seconds = FUTURE
            request.expire_time.seconds = seconds

        yield TABLE.row("GrantCredits", name, "expire_time", change)
    yield from numbered("VoidGrant", "grant_id", "g")
    yield from TABLE.setting("VoidGrant", "reason", BAD_TEXTS)


def correction_rows() -> Iterator[Row]:
    yield from TABLE.setting("Refund", "revision", NOT_POSITIVE)
    yield TABLE.row("Refund", "missing", "revision", lambda request: request.ClearField("revision"))
    yield from TABLE.setting(
        "Refund", "revision", {"of an opening": 1, "of a grant": 2, "of a reservation": 4}
    )
    yield from TABLE.setting(
        "Refund", "amount", {"-1": -1, "-2^63": MIN, "10^15+1": 10**15 + 1, "2^63-1": MAX}
    )
    yield from TABLE.setting("Refund", "reason", BAD_TEXTS)
    too_much = {"0": 0, "10^15+1": 10**15 + 1, "-10^15-1": -(10**15) - 1, "2^63-1": MAX, "-2^63": MIN}
    yield from TABLE.setting("AdjustBalance", "amount", too_much)
    yield from TABLE.setting("AdjustBalance", "reason", {"missing": "", **BAD_TEXTS})
    yield from TABLE.setting("PurchasePackage", "package_id", BAD_NAMES)
    yield from TABLE.setting("PurchasePackage", "payment_reference", BAD_IDS)
    for name, (labels, field) in BAD_LABELS.items():

        def change(request: admin_pb.UpdateAccountRequest, labels: dict[str, str] = labels) -> None:
            request.update_mask.paths[:] = ["labels"]
            request.labels.update(labels)

        yield TABLE.row("UpdateAccount", name, field, change)


def read_rows() -> Iterator[Row]:
    yield from TABLE.setting("GetBalance", "at_revision", NOT_POSITIVE)
    future = {"2100": Timestamp(seconds=FUTURE), "the last second": Timestamp(seconds=253_402_300_799)}
    yield from TABLE.setting("GetBalance", "at_time", {**BAD_TIMES, **future})
    for number in (0, 5, *UNKNOWN_NUMBERS.values()):
        yield TABLE.row(
            "ListReservations", str(number), "states[1]", changed_by("states", "extend", [1, number])
        )
    yield TABLE.row("ListReservations", "101", "states", changed_by("states", "extend", [1] * 101))
    for method in ("ListReservations", "ListGrants", "ListPackages"):
        yield from TABLE.setting(method, "page_size", BAD_SIZES)
        yield from TABLE.setting(method, "page_token", BAD_TOKENS)
    for field in ("start_time", "end_time"):
        yield from TABLE.setting("SummarizeUsage", field, BAD_TIMES)
    yield from TABLE.setting("SummarizeUsage", "bucket", {"5": 5, **UNKNOWN_NUMBERS})
    yield from TABLE.setting(
        "SummarizeUsage", "time_zone", {name: text for name, text in BAD_IDS.items() if text}
    )
    for name, operation in BAD_NAMES.items():
        operations = ["voice_creation", operation]
        yield TABLE.row(
            "SummarizeUsage", name, "operations[1]", changed_by("operations", "extend", operations)
        )


ROWS = [*TABLE.ids(), *reservation_rows(), *grant_rows(), *correction_rows(), *read_rows()]


@pytest.fixture(scope="module", autouse=True)
def held(ledger: Ledger, known: None) -> None:
    """A reservation, which makes every row of the table valid but for the one field."""
    request = pb.ReserveRequest(
        request_id="hold", account_id=KNOWN, operation="chat_refinement", ttl=Duration(seconds=86_400)
    )
    assert ledger.call(request).reservation.reservation_id == RESERVATION


@pytest.mark.parametrize("case", ROWS, ids=[ascii(each.name) for each in ROWS])
@pytest.mark.usefixtures("untouched")
def test_a_bad_field_is_named_and_nothing_is_written(ledger: Ledger, case: Row) -> None:
    check_named(ledger, case)


@pytest.mark.parametrize("method", valid())
def test_every_row_of_the_table_is_valid_but_for_its_field(ledger: Ledger, method: str) -> None:
    account = ledger.open(credits_=10)
    ledger.deduct(account)
    ledger.call(pb.ReserveRequest(request_id=unique(), account_id=account, operation="chat_refinement"))
    request = valid()[method]
    if "account_id" in request.DESCRIPTOR.fields_by_name:
        request.account_id = account

    assert ledger.call(request)


NOWHERE: dict[str, tuple[str, str]] = {
    "CommitReservation": ("reservation_id", "RESERVATION_NOT_FOUND"),
    "ReleaseReservation": ("reservation_id", "RESERVATION_NOT_FOUND"),
    "ExtendReservation": ("reservation_id", "RESERVATION_NOT_FOUND"),
    "GetReservation": ("reservation_id", "RESERVATION_NOT_FOUND"),
    "VoidGrant": ("grant_id", "GRANT_NOT_FOUND"),
    "Refund": ("revision", "ENTRY_NOT_FOUND"),
    "GetBalance": ("at_revision", "ENTRY_NOT_FOUND"),
}


@pytest.mark.parametrize("number", [5, 10**18, MAX])
@pytest.mark.parametrize("method", NOWHERE)
@pytest.mark.usefixtures("untouched")
def test_what_the_account_does_not_have_is_not_found(ledger: Ledger, method: str, number: int) -> None:
    field, reason = NOWHERE[method]
    request = valid()[method]
    setattr(
        request, field, number if reason == "ENTRY_NOT_FOUND" else f"{getattr(request, field)[0]}{number}"
    )

    failure = ledger.refusal(request)

    assert failure.word == f"NOT_FOUND / {reason}"
    assert failure.kinds == {"ResourceInfo"}


@pytest.mark.parametrize("method", NOWHERE)
def test_what_another_account_has_is_not_found(ledger: Ledger, method: str) -> None:
    field, reason = NOWHERE[method]
    request = valid()[method]
    request.account_id = account = ledger.open()
    if field == "at_revision":
        request.at_revision = 2

    assert ledger.refusal(request).word == f"NOT_FOUND / {reason}"
    assert ledger.revision(account) == 1


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.usefixtures("untouched")
def test_an_entry_of_another_kind_is_no_reservation(ledger: Ledger, number: int) -> None:
    for method in ("CommitReservation", "ReleaseReservation", "ExtendReservation", "GetReservation"):
        request = valid()[method]
        request.reservation_id = f"r{number}"

        assert ledger.refusal(request).word == "NOT_FOUND / RESERVATION_NOT_FOUND"


@pytest.mark.parametrize("method", [method for method in valid() if method != "ListPackages"])
@pytest.mark.usefixtures("untouched")
def test_an_account_that_nobody_opened_is_not_found(ledger: Ledger, method: str, nobody: str) -> None:
    request = valid()[method]
    request.account_id = nobody

    assert ledger.refusal(request).word == "NOT_FOUND / ACCOUNT_NOT_FOUND"


UNKNOWN: dict[str, tuple[str, str, Message]] = {
    "operation": (
        "OPERATION_UNKNOWN", "operation",
        pb.ReserveRequest(request_id="u", account_id=KNOWN, operation="no_such_operation"),
    ),
    "level": (
        "LEVEL_UNKNOWN", "account_level",
        pb.ReserveRequest(request_id="u", account_id=KNOWN, operation="chat_refinement", account_level="gold"),
    ),
    "package": (
        "PACKAGE_UNKNOWN", "package_id",
        admin_pb.PurchasePackageRequest(
            request_id="u", account_id=KNOWN, package_id="no_such_package", payment_reference="p"
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN)
@pytest.mark.usefixtures("untouched")
def test_what_the_catalog_does_not_name_is_told_with_its_field(ledger: Ledger, case: str) -> None:
    reason, field, request = UNKNOWN[case]

    failure = ledger.refusal(request)

    assert failure.word == f"INVALID_ARGUMENT / {reason}"
    assert list(failure.fields) == [field]


ALL_AT_ONCE: dict[str, tuple[Message, set[str]]] = {
    "Reserve": (
        pb.ReserveRequest(quantity=0, metrics={"M": -1}, ttl=Duration()),
        {"request_id", "account_id", "operation", "quantity", "metrics['M']", "ttl"},
    ),
    "CommitReservation": (
        pb.CommitReservationRequest(quantity=-1), {"request_id", "account_id", "reservation_id", "quantity"},
    ),
    "ExtendReservation": (
        pb.ExtendReservationRequest(), {"request_id", "account_id", "reservation_id", "ttl"},
    ),
    "Refund": (
        pb.RefundRequest(amount=-1, reason="\0"), {"request_id", "account_id", "revision", "amount", "reason"},
    ),
    "GrantCredits": (
        admin_pb.GrantCreditsRequest(
            priority=5_000, effective_time=Timestamp(nanos=-1), expire_time=Timestamp(nanos=-1), reason="\0",
        ),
        {"request_id", "account_id", "amount", "priority", "effective_time", "expire_time", "reason"},
    ),
    "VoidGrant": (admin_pb.VoidGrantRequest(), {"request_id", "account_id", "grant_id"}),
    "AdjustBalance": (admin_pb.AdjustBalanceRequest(), {"request_id", "account_id", "amount", "reason"}),
    "PurchasePackage": (
        admin_pb.PurchasePackageRequest(), {"request_id", "account_id", "package_id", "payment_reference"},
    ),
    "ListReservations": (
        pb.ListReservationsRequest(page_size=-1, page_token="x", states=[NO_STATE]),
        {"account_id", "page_size", "page_token", "states[0]"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", ALL_AT_ONCE)
@pytest.mark.usefixtures("untouched")
def test_all_bad_fields_are_named_at_once(ledger: Ledger, method: str) -> None:
    request, fields = ALL_AT_ONCE[method]

    assert set(ledger.refusal(request).fields) == fields


BORDERS: dict[str, Message] = {
    "shortest ttl": pb.ReserveRequest(operation="chat_refinement", ttl=Duration(seconds=1)),
    "longest ttl": pb.ReserveRequest(operation="chat_refinement", ttl=Duration(seconds=86_400)),
    "largest metric": pb.ReserveRequest(operation="chat_refinement", metrics={"m" * 64: 10**15}),
    "expiry in 9999": admin_pb.GrantCreditsRequest(amount=1, expire_time=Timestamp(seconds=253_402_300_799)),
    "beginning in the past": admin_pb.GrantCreditsRequest(amount=1, effective_time=Timestamp()),
    "lowest priority": admin_pb.GrantCreditsRequest(amount=1, priority=1_000),
    "largest correction": admin_pb.AdjustBalanceRequest(amount=10**15, reason="x" * 1_024),
    "longest payment": admin_pb.PurchasePackageRequest(package_id="starter", payment_reference="x" * 128),
    "longest reason": pb.RefundRequest(revision=3, reason="é" * 512),
    "tab and newline": admin_pb.VoidGrantRequest(grant_id="g2", reason="a\tb\nc"),
}


@pytest.mark.parametrize("name", BORDERS)
def test_what_just_keeps_the_rules_is_accepted(ledger: Ledger, name: str) -> None:
    request: Any = type(BORDERS[name])()
    request.CopyFrom(BORDERS[name])
    request.request_id, request.account_id = unique(), ledger.open(credits_=10)
    ledger.deduct(request.account_id)

    assert not ledger.call(request).replayed


def test_the_ledger_still_verifies(ledger: Ledger) -> None:
    assert ledger.call(admin_pb.VerifyAccountRequest(account_id=KNOWN)).valid
